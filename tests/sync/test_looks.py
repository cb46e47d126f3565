"""Items of old history that could not be read are looked at again where they lie.

Random faults found it: a slice of history that held an item without its id was read, counted as read, and never asked
for again.  The bank mended the item the next day; the transaction was missing in the tables for good, while every
later run said `unchanged`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncworker.standard.resources import BY_NAME
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.unreadable import Remembered, StoredUnreadable
from syncworker.sync.plan import ConsentLimits, PlanSettings, is_to_look, looks
from syncworker.sync.reports import RunOutcome
from syncworker.sync.unreadable import look_again_in
from tests.ground.house import CADENCE, CONSENT, House, N, body, http
from tests.lfi.raw_bank import Identities

NOW = datetime(2026, 10, 20, 8, tzinfo=UTC)
ACCOUNT = {"AccountId": "acc-1", "Currency": "AED"}
PAYMENTS, STATEMENTS = "/accounts/acc-1/transactions", "/accounts/acc-1/statements"
PERMISSIONS = {N.TRANSACTIONS: "ReadTransactionsDetail", N.STATEMENTS: "ReadStatements"}
BESIDE = "2025-12-14"
Opener = Callable[..., Awaitable[House]]


def transaction(key: str | None, day: str | None, **facts: Any) -> dict[str, Any]:
    """A booked transaction of a day; without an id, or without a date."""
    return {
        **({} if key is None else {"TransactionId": key}),
        **({} if day is None else {"BookingDateTime": f"{day}T12:00:00Z"}),
        "Status": "Booked",
        "CreditDebitIndicator": "Debit",
        "Amount": {"Amount": "12.34", "Currency": "AED"},
        **facts,
    }


def statement(key: str | None, day: str) -> dict[str, Any]:
    opens = date.fromisoformat(day)
    return {
        **({} if key is None else {"StatementId": key}),
        "OpeningDate": day,
        "ClosingDate": (opens + timedelta(days=30)).isoformat(),
        "Type": "RegularPeriodic",
    }


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


class Books:
    """What the bank holds of an account, and shows by date.

    Attributes:
        items: (day it lies at, item).
        fails: answers 500 to walks with an upper end.
    """

    def __init__(self, house: House, resource: N) -> None:
        self.house, self.resource, self.fails = house, resource, False
        self.items: list[tuple[str, dict[str, Any]]] = []
        self.path = PAYMENTS if resource is N.TRANSACTIONS else STATEMENTS
        house.answers[self.path] = self.say

    def say(self, query: dict[str, str]) -> bytes:
        names = BY_NAME[self.resource].window
        assert names is not None
        since, until = query.get(names.from_param, "")[:10], query.get(names.to_param, "")[:10]
        if self.fails and until:
            return http(500)
        shown = [item for day, item in self.items if since <= day and (not until or day < until)]
        return http(body=body({"AccountId": "acc-1", BY_NAME[self.resource].items: shown}))

    async def held(self) -> set[str]:
        return set(await self.house.rows(self.resource))

    async def unreadable(self) -> list[StoredUnreadable]:
        async with self.house.store.reading() as unit:
            return await unit.unreadable.list(CONSENT, limit=10)

    def asked(self) -> int:
        return self.house.asked(self.path)


@pytest.fixture
async def open_books(identities: Identities, database_url: str, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """`await open_books(resource)`: a house of one account with one listing beside, on each database."""
    opened: list[House] = []

    async def one(resource: N = N.TRANSACTIONS) -> Books:
        house = House(tmp_path)
        house.backfill_days = 500
        await house.open(["ReadAccountsDetail", PERMISSIONS[resource]], url=database_url, identities=identities)
        opened.append(house)
        house.shows("/accounts", ACCOUNT)
        return Books(house, resource)

    yield one
    for house in opened:
        await house.close()


@pytest.mark.flow
@pytest.mark.parametrize("dated", [True, False], ids=["dated", "undated"])
async def test_an_item_of_old_history_is_read_once_the_bank_has_mended_it(open_books: Any, dated: bool) -> None:
    """A day later, at the price of one call; then nothing is owed, nothing is looked at, and the finding is cleared."""
    books: Books = await open_books()
    books.items = [
        (BESIDE, transaction("t-1", BESIDE)),
        ("2025-12-15", transaction(None, "2025-12-15" if dated else None)),
        ("2026-10-19", transaction("t-3", "2026-10-19")),
    ]
    first = await books.house.sync()
    kept, findings = await books.unreadable(), await books.house.findings()
    books.items[1] = ("2025-12-15", transaction("t-2", "2025-12-15"))
    calls = books.asked()
    await books.house.sync(hours=13, asked=False)
    between = (await books.held(), books.asked() - calls, await books.house.findings())
    again = await books.house.sync(hours=13, asked=False)
    after = books.asked()
    later = await books.house.sync(hours=49, asked=False)

    assert (first.complete, first.person, len(kept)) == (False, True, 1)
    assert [one.code for one in findings] == ["item.no_usable_key"]
    assert between == ({"t-1", "t-3"}, 1, findings)
    assert (again.outcome, await books.held()) == (RunOutcome.OK, {"t-1", "t-2", "t-3"})
    assert (after - calls, await books.unreadable(), await books.house.findings()) == (3, [], [])
    assert (later.outcome, books.asked() - after) == (RunOutcome.UNCHANGED, 1)


@pytest.mark.flow
async def test_statements_are_looked_at_again_too(open_books: Any) -> None:
    """Later walks of theirs begin at the newest one: an old one that had lost its id was never seen again either."""
    books: Books = await open_books(N.STATEMENTS)
    books.items = [(day, statement(key, day)) for key, day in (("s-1", "2026-08-01"), (None, "2025-03-01"))]
    first = await books.house.sync()
    books.items[1] = ("2025-03-01", statement("s-2", "2025-03-01"))
    again = await books.house.sync(days=8, asked=False)

    assert (first.complete, again.complete) == (False, True)
    assert (await books.held(), await books.unreadable()) == ({"s-1", "s-2"}, [])


@pytest.mark.flow
async def test_an_item_that_stays_as_it_is_is_looked_at_more_and_more_seldom(open_books: Any) -> None:
    """After 1, 2, 4 … days; each look says that it is owed, and its finding stays open between them."""
    books: Books = await open_books()
    books.items = [("2025-12-15", transaction(None, "2025-12-15")), ("2026-10-19", transaction("t", "2026-10-19"))]
    await books.house.sync()
    looked: list[int] = []
    for day in range(1, 16):
        calls = books.asked()
        report = await books.house.sync(days=1, asked=False)
        if books.asked() - calls > 1:
            looked.append(day)
            assert not report.complete
            assert report.person
        assert [one.code for one in await books.house.findings()] == ["item.no_usable_key"]
    assert looked == [1, 3, 7, 15]


@pytest.mark.flow
async def test_an_item_that_the_bank_dropped_is_looked_for_once(open_books: Any) -> None:
    """A walk of the place where it was does not show it: it is forgotten."""
    books: Books = await open_books()
    books.items = [("2025-12-15", transaction(None, "2025-12-15")), ("2026-10-19", transaction("t", "2026-10-19"))]
    await books.house.sync()
    del books.items[0]
    again = await books.house.sync(days=2, asked=False)
    calls = books.asked()
    await books.house.sync(days=5, asked=False)

    assert (again.complete, await books.unreadable()) == (True, [])
    assert books.asked() - calls == 1


@pytest.mark.flow
async def test_a_look_that_fails_is_taken_again_by_the_listings_ladder(open_books: Any) -> None:
    """The newest part is none the worse for it, but the run owes something and says so."""
    books: Books = await open_books()
    books.items = [("2025-12-15", transaction(None, "2025-12-15")), ("2026-10-19", transaction("t", "2026-10-19"))]
    await books.house.sync()
    books.items[0] = ("2025-12-15", transaction("t-2", "2025-12-15"))
    books.fails = True
    failed = await books.house.sync(days=2, asked=False)
    books.fails = False
    mended = await books.house.sync(hours=13, asked=False)

    assert (failed.complete, failed.retry) == (False, True)
    assert (mended.complete, await books.held()) == (True, {"t", "t-2"})


# -- the rule, by tables ----------------------------------------------------------------------------------------------


def lying(not_before: str | None, not_after: str | None = None, times: int = 1) -> Remembered:
    """An unreadable item that lies somewhere between two instants, or exactly at the first."""
    ends = [None if one is None else datetime.fromisoformat(f"{one}T12:00:00+00:00") for one in (not_before, not_after)]
    return Remembered(digest=b"", not_before=ends[0], not_after=ends[1] or ends[0], times=times)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("times", "days"), [([1], 1), ([2], 2), ([5], 16), ([6], 30), ([900], 30), ([0], 1), ([9, 2], 2), ([], None)]
)
def test_how_long_unreadable_items_are_left_alone(times: list[int], days: int | None) -> None:
    """By the one that was met least often: a new one is not kept waiting by old ones."""
    wait = look_again_in([lying("2026-01-01", times=one) for one in times])
    assert wait == (None if days is None else timedelta(days=days))


@pytest.mark.unit
@pytest.mark.parametrize(
    ("items", "limits", "expected"),
    [
        pytest.param([], {}, [], id="none"),
        pytest.param([lying("2025-03-10")], {}, [("2025-03-09", "2025-03-12")], id="dated: its day, and a day beside"),
        pytest.param(
            [lying("2025-03-10"), lying("2025-03-10"), lying("2025-05-01")], {}, [("2025-03-09", "2025-05-03")],
            id="close together: one window",
        ),
        pytest.param(
            [lying("2025-09-01"), lying("2025-03-10")], {},
            [("2025-03-09", "2025-03-12"), ("2025-08-31", "2025-09-03")], id="far apart: two, oldest first",
        ),
        pytest.param([lying("2024-01-01", "2025-01-01")], {}, [("2023-12-31", "2025-01-03")], id="somewhere in a year"),
        pytest.param([lying(None)], {}, [(None, None)], id="anywhere"),
        pytest.param([lying("2025-03-10")], {"from_date": date(2025, 6, 1)}, [], id="before the consent's dates"),
        pytest.param([lying("2025-03-10")], {"to_date": date(2025, 1, 1)}, [], id="behind the consent's dates"),
        pytest.param(
            [lying("2025-03-10", "2025-08-10")], {"from_date": date(2025, 6, 1), "to_date": date(2025, 7, 1)},
            [("2025-05-31", "2025-07-02")], id="no further than the consent's dates",
        ),
    ],
)  # fmt: skip
def test_the_windows_in_which_unreadable_items_lie(
    items: list[Remembered], limits: dict[str, date], expected: list[tuple[str | None, str | None]]
) -> None:
    """As narrow as is known; what a slice of history can hold is one request."""
    steps = looks(
        BY_NAME[N.TRANSACTIONS],
        "acc-1",
        items,
        limits=ConsentLimits(**limits),
        now=NOW,
        settings=PlanSettings(cadence=CADENCE),
    )
    windows = [step.window for step in steps]
    assert [
        tuple(None if day is None else day.isoformat() for day in (one.from_date, one.to_date))
        for one in windows
        if one
    ] == expected
    assert all(step.look and step.backfill and not step.whole for step in steps)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, True),
        ({"look_again_at": None}, False),
        ({"look_again_at": NOW + timedelta(minutes=1)}, False),
        ({"refused_until": NOW + timedelta(days=1)}, False),
        ({"backfilled_to": None}, False),
    ],
)
def test_when_it_is_time_to_look(facts: dict[str, Any], expected: bool) -> None:
    """Once the history is whole: until then slices come first, and one of them may show the item."""
    held = {"look_again_at": NOW, "backfilled_to": date(1, 1, 1), **facts}
    cursor = Cursor(listing=Listing("acc-1", N.TRANSACTIONS), due_at=NOW, gen=1, **held)
    assert is_to_look(BY_NAME[N.TRANSACTIONS], cursor, floor=date(2016, 1, 1), now=NOW) is expected
    assert not is_to_look(BY_NAME[N.BENEFICIARIES], cursor, floor=date(2016, 1, 1), now=NOW)
