"""Whether an LFI honours the dates of a window, by what its answers hold."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

import pytest

from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import Slug
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.records import Record
from syncworker.sync.decode import TYPED, decode
from syncworker.sync.filters import REMEMBERED, Evidence, Filters, misses
from syncworker.sync.plan import ConsentLimits, PlanSettings, Window, next_slice, plan

pytestmark = pytest.mark.unit

N = ResourceName
NAME = N.TRANSACTIONS
NOW = datetime(2026, 10, 20, 8, tzinfo=UTC)
SETTINGS = PlanSettings(cadence=dict.fromkeys(N, timedelta(hours=12)))
SLICE = Window(date(2026, 4, 1), date(2026, 6, 30))
BEFORE_IT = Window(date(2026, 1, 1), date(2026, 4, 2))


def records(*days: str, undated: int = 0) -> dict[str, Record]:
    """A transaction for each day, named by it, and some without a date."""
    dated = "".join(f'{{"TransactionId":"{day}","BookingDateTime":"{day}T09:00:00Z"}},' for day in days)
    others = "".join(f'{{"TransactionId":"undated-{number}"}},' for number in range(undated))
    data = f'{{"AccountId":"a","Transaction":[{(dated + others).rstrip(",")}]}}'.encode()
    return {one.key: one for one in decode(BY_NAME[NAME], "a", data, place=1, known={}).records}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param((), False, id="nothing"),
        pytest.param(("2026-05-01",), False, id="in the window"),
        pytest.param(("2026-05-01", "2026-10-01"), False, id="in it, and elsewhere"),
        pytest.param(("2026-03-31", "2026-07-01"), False, id="as much wider as a bank may read it"),
        pytest.param(("2026-10-01",), True, id="newer"),
        pytest.param(("2025-10-01",), True, id="older"),
    ],
)
def test_an_answer_misses_its_window_with_all_its_records(shown: tuple[str, ...], expected: bool) -> None:
    """One inside is enough."""
    assert misses(SLICE, NAME, records(*shown)) is expected


def test_records_without_a_date_lie_nowhere() -> None:
    """They say nothing, neither way."""
    assert misses(SLICE, NAME, records(undated=2)) is False
    assert misses(SLICE, NAME, records("2026-10-01", undated=2)) is True


def judged(newest: Iterable[str], *slices: tuple[Window, Iterable[str]]) -> Evidence:
    """What a walk of the newest part and slices behind it say."""
    evidence = Evidence()
    evidence.newest(Window(date(2026, 6, 29)), NAME, records(*newest))
    for window, days in slices:
        evidence.slice(window, NAME, records(*days))
    return evidence


LATELY = ("2026-10-01", "2026-07-15")
LONG_AGO = ("2026-05-10", "2026-02-01")


@pytest.mark.parametrize(
    ("slices", "enough", "older"),
    [
        pytest.param([], False, False, id="none"),
        pytest.param([(SLICE, LATELY)], False, False, id="one that misses"),
        pytest.param([(SLICE, LATELY), (BEFORE_IT, LATELY)], True, False, id="two that miss"),
        pytest.param([(SLICE, LATELY), (BEFORE_IT, ())], False, False, id="one that misses, one that is empty"),
        pytest.param(
            [(SLICE, LATELY), (BEFORE_IT, ("2026-02-01",))], False, False, id="one that misses, one that hits"
        ),
        pytest.param([(SLICE, LATELY + LONG_AGO), (BEFORE_IT, LATELY + LONG_AGO)], True, True, id="everything, twice"),
        pytest.param([(SLICE, ("2026-05-10",)), (BEFORE_IT, ("2026-02-01",))], False, False, id="each its own"),
    ],
)
def test_two_slices_in_a_row_are_enough(
    slices: list[tuple[Window, tuple[str, ...]]], enough: bool, older: bool
) -> None:
    """They bring nothing of their windows, or all that the walk before brought."""
    evidence = judged(LATELY, *slices)
    assert (evidence.enough, evidence.older) == (enough, older)


def test_records_in_the_days_two_windows_share_are_no_evidence() -> None:
    """Each window is asked for a little wider than it counts."""
    edge = ("2026-06-30",)
    assert not judged(edge, (SLICE, edge), (BEFORE_IT, ())).enough
    assert not judged(edge, (SLICE, (*edge, "2026-04-01")), (BEFORE_IT, ("2026-04-01", "2026-02-01"))).enough


def test_a_walk_that_lacked_a_row_ends_the_judging() -> None:
    """The slices go on."""
    evidence = judged(LATELY, (SLICE, LATELY), (BEFORE_IT, LATELY))
    evidence.refute()
    assert not evidence.enough


def test_what_was_seen_is_remembered_for_a_month() -> None:
    """Of one LFI and one operation."""
    filters = Filters()
    filters.learn(Slug("noor"), NAME, NOW)
    assert filters.ignored(Slug("noor"), NAME, now=NOW + REMEMBERED - timedelta(seconds=1))
    assert not filters.ignored(Slug("noor"), NAME, now=NOW + REMEMBERED)
    assert not filters.ignored(Slug("noor"), N.STATEMENTS, now=NOW)
    assert not filters.ignored(Slug("other"), NAME, now=NOW)
    filters.forget(Slug("noor"), NAME)
    assert not filters.ignored(Slug("noor"), NAME, now=NOW)


@pytest.mark.parametrize("from_date", [None, date(2025, 1, 1)])
def test_a_listing_whose_window_is_ignored_is_walked_whole(from_date: date | None) -> None:
    """From where history is wanted, at first or in place of slices; once it was read, as any other."""
    resource, limits = BY_NAME[NAME], ConsentLimits(from_date=from_date)
    floor = from_date or NOW.date() - SETTINGS.backfill_max
    held = Cursor(listing=Listing("a", NAME), due_at=NOW, gen=1, checked_at=NOW, high_water=NOW)
    (first,) = plan(
        [resource], ["a"], {}, limits=limits, now=NOW, everything=True, settings=SETTINGS,
        unfiltered=frozenset({NAME}),
    )  # fmt: skip
    (later,) = plan(
        [resource], ["a"], {held.listing: held}, limits=limits, now=NOW, everything=True, settings=SETTINGS,
        unfiltered=frozenset({NAME}),
    )  # fmt: skip
    covered = Cursor(listing=held.listing, due_at=NOW, gen=1, checked_at=NOW, covered_from=date(2026, 8, 1))
    behind = next_slice(resource, covered, limits=limits, now=NOW, settings=SETTINGS, unfiltered=True)
    assert behind is not None
    for step in (first, behind):
        assert step.window is not None
        assert (step.whole, step.window.covers_from, step.window.to_date) == (True, floor, None)
    assert (first.backfill, behind.backfill, later.whole) == (False, True, False)


def test_only_what_is_read_in_slices_is_ever_walked_whole() -> None:
    """Statements are asked for all at once as it is."""
    (step,) = plan(
        [BY_NAME[N.STATEMENTS]], ["a"], {}, limits=ConsentLimits(), now=NOW, everything=True, settings=SETTINGS,
        unfiltered=frozenset({N.STATEMENTS}),
    )  # fmt: skip
    assert (step.whole, TYPED[N.STATEMENTS].instant) == (False, "opening_date")
