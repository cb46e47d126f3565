"""Which listings are read now, and how far back."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from syncworker.standard.resources import BY_NAME, RESOURCES, ResourceName
from syncworker.store.cursors import BEGINNING, Covered, Cursor, Listing, extended
from syncworker.sync.plan import (
    EMPTY_SLICES,
    ConsentLimits,
    PlanSettings,
    Step,
    Window,
    backfilled_to,
    next_slice,
    plan,
)

pytestmark = pytest.mark.unit

N = ResourceName
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
EVERY = dict.fromkeys(N, timedelta(hours=6))
SETTINGS = PlanSettings(cadence=EVERY)
OPEN = ConsentLimits()


def cursor(account_id: str, resource: ResourceName, **facts: object) -> Cursor:
    known: dict[str, object] = {"due_at": NOW, "gen": 1, "checked_at": NOW - timedelta(hours=6), **facts}
    return Cursor(listing=Listing(account_id, resource), **known)  # type: ignore[arg-type]


def planned(accounts: tuple[str, ...], *cursors: Cursor, everything: bool = False) -> list[tuple[str, ResourceName]]:
    by_listing = {one.listing: one for one in cursors}
    steps = plan(RESOURCES, accounts, by_listing, limits=OPEN, now=NOW, everything=everything, settings=SETTINGS)
    return [(step.account_id, step.resource.name) for step in steps]


def test_a_connection_never_read_begins_with_its_own_listings() -> None:
    """Accounts come first, the user's party with them; nothing of an account before it is known."""
    assert planned(("",)) == [("", N.ACCOUNTS), ("", N.PARTIES)]


def test_each_account_is_read_in_the_catalogues_order() -> None:
    """Every permitted listing of each account, account by account."""
    below = [resource.name for resource in RESOURCES if resource.per_account]
    assert planned(("a", "b")) == [("a", name) for name in below] + [("b", name) for name in below]


def blocked(*, minutes: int) -> dict[str, object]:
    """The cursor of an account that the LFI blocked so long ago, for six hours."""
    at = NOW - timedelta(minutes=minutes)
    error = "refused_403:Consent.AccountTemporarilyBlocked"
    return {"attempted_at": at, "refused_until": at + timedelta(hours=6), "error": error}


@pytest.mark.parametrize(
    ("facts", "everything", "expected"),
    [
        pytest.param({"due_at": NOW}, False, True, id="due now"),
        pytest.param({"due_at": NOW + timedelta(minutes=9)}, False, True, id="due so soon that it goes along"),
        pytest.param({"due_at": NOW + timedelta(hours=1)}, False, False, id="due later"),
        pytest.param({"due_at": NOW + timedelta(hours=1)}, True, True, id="due later, but asked for now"),
        pytest.param({"refused_until": NOW + timedelta(days=1)}, False, False, id="refused lately"),
        pytest.param({"refused_until": NOW + timedelta(days=1)}, True, True, id="refused lately, but asked for now"),
        pytest.param(blocked(minutes=59), True, False, id="blocked within the hour, even when asked"),
        pytest.param(blocked(minutes=60), True, True, id="blocked an hour ago, asked for now"),
        pytest.param(blocked(minutes=60), False, False, id="blocked an hour ago"),
        pytest.param({"refused_until": NOW}, False, True, id="a refusal is forgotten in time"),
    ],
)
def test_a_listing_is_read_when_due(facts: dict[str, object], everything: bool, expected: bool) -> None:
    """Due, asked for, or never read; a refusal is remembered for its time, and asked anew when a person asks."""
    others = [cursor("a", name, due_at=NOW + timedelta(days=9)) for name in (N.TRANSACTIONS, N.ACCOUNT_PARTIES)]
    steps = planned(("a",), cursor("a", N.BALANCES, **facts), *others, everything=everything)
    assert (("a", N.BALANCES) in steps) is expected


def test_a_short_cadence_is_not_rounded_up_by_reading_along() -> None:
    """With a cadence of seconds a listing due in a minute is not due now."""
    settings = PlanSettings(cadence=dict.fromkeys(N, timedelta(seconds=20)))
    held = {Listing("", N.ACCOUNTS): cursor("", N.ACCOUNTS, due_at=NOW + timedelta(seconds=5))}
    resources = (BY_NAME[N.ACCOUNTS],)
    assert plan(resources, ("",), held, limits=OPEN, now=NOW, everything=False, settings=settings) == ()


def test_a_needed_resource_is_read_though_it_is_not_due() -> None:
    """Without a grant of this consent `/accounts` must be read before anything of an account."""
    held = {Listing("", N.ACCOUNTS): cursor("", N.ACCOUNTS, due_at=NOW + timedelta(hours=5))}
    steps = plan(
        (BY_NAME[N.ACCOUNTS],), ("",), held, limits=OPEN, now=NOW, everything=False, settings=SETTINGS,
        needed=frozenset({N.ACCOUNTS}),
    )  # fmt: skip
    assert steps == (Step(BY_NAME[N.ACCOUNTS]),)


READ = {"high_water": datetime(2026, 11, 20, 22, tzinfo=UTC), "covered_from": BEGINNING, "deep_at": NOW}


@pytest.mark.parametrize(
    ("held", "limits", "expected"),
    [
        pytest.param(None, OPEN, Window(date(2026, 8, 22)), id="first walk: the newest ninety days"),
        pytest.param(
            None, ConsentLimits(from_date=date(2026, 10, 1)), Window(date(2026, 9, 30)), id="first: not before FromDate"
        ),
        pytest.param(
            None,
            ConsentLimits(to_date=date(2026, 6, 30)),
            Window(date(2026, 3, 31), date(2026, 7, 1)),
            id="first: the newest ninety days before ToDate",
        ),
        pytest.param(READ, OPEN, Window(date(2026, 11, 12)), id="later: seven days of overlap and one of zone"),
        pytest.param(
            READ | {"open_since": datetime(2026, 11, 2, 8, tzinfo=UTC)},
            OPEN,
            Window(date(2026, 11, 1)),
            id="an undecided row holds the window open",
        ),
        pytest.param(
            READ | {"open_since": datetime(2025, 1, 2, tzinfo=UTC)},
            OPEN,
            Window(date(2026, 9, 21)),
            id="but not for ever",
        ),
        pytest.param(
            READ | {"high_water": datetime(2026, 12, 24, tzinfo=UTC)},
            OPEN,
            Window(date(2026, 11, 13)),
            id="a booking in the future does not move the window beyond now",
        ),
        pytest.param(
            READ | {"high_water": None}, OPEN, Window(date(2026, 8, 22)), id="nothing booked yet: as the first walk"
        ),
        pytest.param(
            READ, ConsentLimits(from_date=date(2026, 11, 18)), Window(date(2026, 11, 17)), id="never before FromDate"
        ),
        pytest.param(
            READ | {"covered_from": date(2026, 5, 1)},
            OPEN,
            Window(date(2026, 11, 12)),
            id="what the consent opens beyond is the backfill's part",
        ),
        pytest.param(
            READ | {"deep_at": NOW - timedelta(days=7)}, OPEN, Window(date(2026, 10, 21)), id="once a week: thirty days"
        ),
        pytest.param(
            READ | {"deep_at": None, "high_water": datetime(2026, 8, 1, tzinfo=UTC)},
            OPEN,
            Window(date(2026, 7, 24)),
            id="which may be less than the overlap reaches",
        ),
    ],
)
def test_how_far_back_a_walk_begins(held: dict[str, object] | None, limits: ConsentLimits, expected: Window) -> None:
    """The window of transactions, as dates sent, one day wider at both ends."""
    before = None if held is None else cursor("a", N.TRANSACTIONS, **held)
    assert window(before, N.TRANSACTIONS, limits) == expected


MONTH = timedelta(days=31)
STATEMENTS = {"high_water": datetime(2026, 11, 1, tzinfo=UTC), "covered_from": BEGINNING, "deep_at": NOW}


@pytest.mark.parametrize(
    ("held", "limits", "expected"),
    [
        pytest.param(None, OPEN, Window(wider=MONTH), id="first walk: all there is"),
        pytest.param(
            None,
            ConsentLimits(from_date=date(2026, 1, 1), to_date=date(2026, 6, 30)),
            Window(date(2025, 12, 1), date(2026, 7, 31), MONTH),
            id="first: the consent's dates, a period wider",
        ),
        pytest.param(
            STATEMENTS, OPEN, Window(date(2026, 9, 24), wider=MONTH), id="later: a week of overlap and a period"
        ),
        pytest.param(STATEMENTS | {"high_water": None}, OPEN, Window(wider=MONTH), id="none yet: all there is"),
        pytest.param(
            STATEMENTS | {"covered_from": date(2026, 5, 1)},
            OPEN,
            Window(wider=MONTH),
            id="a consent that opens more is walked whole",
        ),
        pytest.param(
            STATEMENTS | {"covered_from": date(2026, 5, 1)},
            ConsentLimits(from_date=date(2026, 5, 1)),
            Window(date(2026, 9, 24), wider=MONTH),
            id="one that opens as much is not",
        ),
    ],
)
def test_statements_are_read_by_period(held: dict[str, object] | None, limits: ConsentLimits, expected: Window) -> None:
    """So few that the first walk takes them whole."""
    before = None if held is None else cursor("a", N.STATEMENTS, **held)
    assert window(before, N.STATEMENTS, limits) == expected


def window(before: Cursor | None, name: ResourceName, limits: ConsentLimits) -> Window | None:
    resource = BY_NAME[name]
    held = {} if before is None else {before.listing: replace(before, due_at=NOW)}
    (step,) = plan((resource,), ("a",), held, limits=limits, now=NOW, everything=True, settings=SETTINGS)
    return step.window


@pytest.mark.parametrize(
    ("facts", "limits", "expected"),
    [
        pytest.param(
            {"covered_from": date(2026, 8, 23)}, OPEN, Window(date(2026, 5, 24), date(2026, 8, 23)), id="next"
        ),
        pytest.param(
            {"covered_from": date(2026, 8, 23)},
            ConsentLimits(from_date=date(2026, 8, 1)),
            Window(date(2026, 7, 31), date(2026, 8, 23)),
            id="the last, down to FromDate",
        ),
        pytest.param(
            {"covered_from": date(2026, 8, 1)}, ConsentLimits(from_date=date(2026, 8, 1)), None, id="down to FromDate"
        ),
        pytest.param({"covered_from": date(2025, 9, 1), "backfilled_to": BEGINNING}, OPEN, None, id="complete"),
        pytest.param(
            {"covered_from": date(2026, 8, 1), "backfilled_to": date(2026, 8, 1)},
            OPEN,
            Window(date(2026, 5, 2), date(2026, 8, 1)),
            id="complete for a consent that opened less",
        ),
        pytest.param({"covered_from": date(2016, 11, 23)}, OPEN, None, id="as far back as history is wanted"),
        pytest.param({"covered_from": None}, OPEN, None, id="never read"),
        pytest.param(
            {"covered_from": date(2026, 8, 23), "refused_until": NOW + timedelta(hours=1)}, OPEN, None, id="refused"
        ),
    ],
)
def test_which_slice_of_history_comes_next(
    facts: dict[str, object], limits: ConsentLimits, expected: Window | None
) -> None:
    """Ninety days behind what is covered, one day wider at both ends."""
    held = cursor("a", N.TRANSACTIONS, **facts)
    step = next_slice(BY_NAME[N.TRANSACTIONS], held, limits=limits, now=NOW, settings=SETTINGS)
    assert (None if step is None else step.window) == expected


@pytest.mark.parametrize(
    ("floor", "first_available", "empty_slices", "expected"),
    [
        pytest.param(BEGINNING, None, 0, None, id="there may be more"),
        pytest.param(date(2026, 1, 2), None, 0, date(2026, 1, 2), id="the floor"),
        pytest.param(BEGINNING, datetime(2026, 1, 5, tzinfo=UTC), 0, BEGINNING, id="the LFI's own beginning"),
        pytest.param(BEGINNING, datetime(2025, 12, 5, tzinfo=UTC), 9, None, id="the LFI says that there is more"),
        pytest.param(BEGINNING, None, EMPTY_SLICES, BEGINNING, id="nothing for a year"),
    ],
)
def test_where_a_history_ends(
    floor: date, first_available: datetime | None, empty_slices: int, expected: date | None
) -> None:
    """At the consent's FromDate, where the LFI says, or where nothing came for long."""
    slice_ = Window(date(2026, 1, 1), date(2026, 4, 1))
    end = backfilled_to(slice_, floor=floor, first_available=first_available, empty_slices=empty_slices)
    assert end == expected


def test_periods_are_sent_as_dates() -> None:
    """`fromStatementDate` is a date; nothing is said of a time."""
    resource = BY_NAME[N.STATEMENTS]
    assert resource.window is not None
    assert Window(date(2026, 1, 1)).params(resource.window) == {"fromStatementDate": "2026-01-01"}


def test_dates_are_sent_as_midnight_in_utc() -> None:
    """LFIs ignore the offset of a filter: `Z` alone says the same to all of them."""
    resource = BY_NAME[N.TRANSACTIONS]
    assert resource.window is not None
    assert Window(date(2026, 1, 1), date(2026, 2, 1)).params(resource.window) == {
        "fromBookingDateTime": "2026-01-01T00:00:00Z",
        "toBookingDateTime": "2026-02-01T00:00:00Z",
    }


def test_a_window_vouches_for_a_day_less_at_each_end_than_it_asks() -> None:
    """The days added for the time zone prove nothing."""
    window = Window(date(2026, 1, 1), date(2026, 2, 1))
    assert (window.since, window.until) == (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))


def covered(from_date: date, to_date: date) -> Covered:
    return Covered(from_date=from_date, to_date=to_date, walked_at=NOW, pages=1, items=1)


@pytest.mark.parametrize(
    ("held", "walked", "expected"),
    [
        pytest.param((), (date(2026, 1, 1), date(2026, 1, 9)), (date(2026, 1, 1), date(2026, 1, 9)), id="the first"),
        pytest.param(
            ((BEGINNING, date(2026, 1, 9)),), (date(2026, 1, 5), date(2026, 1, 12)), (BEGINNING, date(2026, 1, 12)),
            id="overlapping: the older one grows",
        ),
        pytest.param(
            ((BEGINNING, date(2026, 1, 9)),), (date(2026, 1, 10), date(2026, 1, 12)), (BEGINNING, date(2026, 1, 12)),
            id="touching: the older one grows",
        ),
        pytest.param(
            ((date(2026, 1, 9), date(2026, 2, 9)),), (date(2025, 12, 1), date(2026, 1, 8)),
            (date(2025, 12, 1), date(2026, 2, 9)),
            id="a slice behind: it grows backwards",
        ),
        pytest.param(
            ((BEGINNING, date(2026, 1, 9)),), (date(2026, 1, 11), date(2026, 1, 12)),
            (date(2026, 1, 11), date(2026, 1, 12)),
            id="a gap: it stands alone",
        ),
    ],
)  # fmt: skip
def test_coverage_grows_without_gaps(
    held: tuple[tuple[date, date], ...], walked: tuple[date, date], expected: tuple[date, date]
) -> None:
    """Windows that touch become one; a gap stays visible."""
    window = extended([covered(*one) for one in held], covered(*walked))
    assert (window.from_date, window.to_date) == expected


def test_a_deep_walk_reaches_as_far_back_in_an_account_without_a_booked_row_in_its_newest_part() -> None:
    """Its high-water mark is none, whatever its history holds: rows filed late are looked for there too."""
    settings = replace(SETTINGS, first_sync=timedelta(days=10), rewalk=timedelta(days=40))
    for deep_at, days in ((None, 40), (NOW, 10)):
        known = cursor("a", N.TRANSACTIONS, deep_at=deep_at, high_water=None, covered_from=date(2026, 1, 1))
        (step,) = plan(
            [BY_NAME[N.TRANSACTIONS]], ["a"], {known.listing: known}, limits=OPEN, now=NOW, everything=True,
            settings=settings,
        )  # fmt: skip
        assert step.window is not None
        assert step.window.covers_from == date(2026, 11, 21) - timedelta(days=days)
