"""Which listings are read now, and how far back."""

from datetime import UTC, date, datetime, timedelta

import pytest

from syncworker.standard.resources import BY_NAME, RESOURCES, ResourceName
from syncworker.store.cursors import BEGINNING, Covered, Cursor, Listing, extended
from syncworker.sync.plan import ConsentLimits, PlanSettings, Step, Window, plan, window_of

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
    below = [N.BALANCES, N.TRANSACTIONS, N.ACCOUNT_PARTIES]
    assert planned(("a", "b")) == [("a", name) for name in below] + [("b", name) for name in below]


@pytest.mark.parametrize(
    ("facts", "everything", "expected"),
    [
        pytest.param({"due_at": NOW}, False, True, id="due now"),
        pytest.param({"due_at": NOW + timedelta(minutes=9)}, False, True, id="due so soon that it goes along"),
        pytest.param({"due_at": NOW + timedelta(hours=1)}, False, False, id="due later"),
        pytest.param({"due_at": NOW + timedelta(hours=1)}, True, True, id="due later, but asked for now"),
        pytest.param({"refused_until": NOW + timedelta(days=1)}, False, False, id="refused lately"),
        pytest.param({"refused_until": NOW + timedelta(days=1)}, True, False, id="refused lately, even when asked"),
        pytest.param({"refused_until": NOW}, False, True, id="a refusal is forgotten in time"),
    ],
)
def test_a_listing_is_read_when_due(facts: dict[str, object], everything: bool, expected: bool) -> None:
    """Due, asked for, or never read; a refusal is remembered for its time."""
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


READ = {"high_water": datetime(2026, 11, 20, 22, tzinfo=UTC), "covered_from": BEGINNING}


@pytest.mark.parametrize(
    ("held", "limits", "expected"),
    [
        pytest.param(None, OPEN, Window(), id="first walk: all there is"),
        pytest.param(None, ConsentLimits(from_date=date(2026, 1, 1)), Window(date(2025, 12, 31)), id="first: FromDate"),
        pytest.param(
            None, ConsentLimits(to_date=date(2026, 6, 30)), Window(None, date(2026, 7, 1)), id="first: up to ToDate"
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
        pytest.param(READ | {"high_water": None}, OPEN, Window(), id="nothing booked yet: all there is"),
        pytest.param(
            READ, ConsentLimits(from_date=date(2026, 11, 18)), Window(date(2026, 11, 17)), id="never before FromDate"
        ),
        pytest.param(
            READ | {"covered_from": date(2026, 5, 1)}, OPEN, Window(), id="a consent that opens more is walked whole"
        ),
        pytest.param(
            READ | {"covered_from": date(2026, 5, 1)},
            ConsentLimits(from_date=date(2026, 5, 1)),
            Window(date(2026, 11, 12)),
            id="one that opens as much is not",
        ),
        pytest.param(READ | {"covered_from": None}, OPEN, Window(), id="no coverage is known: all there is"),
    ],
)
def test_how_far_back_a_walk_begins(held: dict[str, object] | None, limits: ConsentLimits, expected: Window) -> None:
    """The window of transactions, as dates sent, one day wider at both ends."""
    before = None if held is None else cursor("a", N.TRANSACTIONS, **held)
    assert window_of(before, limits=limits, now=NOW, settings=SETTINGS) == expected


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
