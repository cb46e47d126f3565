"""What an LFI says about where its history begins is believed as far as its own records bear it out.

Random faults found it: one page that said `Meta.FirstAvailableDateTime` 9999-12-31, as some LFIs write where they have
nothing to say, ended the history of a listing for good.  Later pages said the right instant; the transactions behind
the first walk were missing, while every run said `unchanged`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from syncworker.standard.resources import BY_NAME
from syncworker.store.cursors import Listing
from syncworker.sync.apply import history_begins, proof_of, show
from syncworker.sync.diff import Proof
from syncworker.sync.fetch import Walk
from syncworker.sync.pages import NOTHING
from syncworker.sync.plan import Step, Window
from tests.ground.house import House, N, body, http
from tests.lfi.raw_bank import Identities
from tests.sync.books import page, transaction

NOW = datetime(2026, 10, 20, 8, tzinfo=UTC)
PAYMENTS = "/accounts/acc-1/transactions"
LISTING = Listing("acc-1", N.TRANSACTIONS)
WHOLE = {f"t-{number}" for number in range(4)}
DAYS = ("2025-08-01", "2025-12-01", "2026-04-01", "2026-10-19")
Opener = Callable[..., Awaitable[House]]


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


@pytest.fixture
async def open_house(identities: Identities, database_url: str, tmp_path: Path) -> AsyncIterator[Opener]:
    """A house of one account whose bank says where its history begins, on each database."""
    opened: list[House] = []

    async def one(first: str | None) -> House:
        house = House(tmp_path)
        house.backfill_days = 500
        await house.open(["ReadAccountsDetail", "ReadTransactionsDetail"], url=database_url, identities=identities)
        opened.append(house)
        house.shows("/accounts", {"AccountId": "acc-1", "Currency": "AED"})
        says(house, first)
        return house

    yield one
    for house in opened:
        await house.close()


def says(house: House, first: str | None) -> None:
    """From now on the bank says that its history begins there."""

    def answer(query: dict[str, str]) -> bytes:
        since, until = query.get("fromBookingDateTime", "")[:10], query.get("toBookingDateTime", "")[:10]
        items = [
            transaction(f"t-{number}", BookingDateTime=f"{day}T12:00:00Z")
            for number, day in enumerate(DAYS)
            if since <= day and (not until or day < until)
        ]
        meta: dict[str, Any] = {} if first is None else {"FirstAvailableDateTime": first}
        return http(body=body({"AccountId": "acc-1", "Transaction": items}, **meta))

    house.answers[PAYMENTS] = answer


@pytest.mark.flow
@pytest.mark.parametrize("said", ["9999-12-31T23:59:59Z", "2027-01-01T00:00:00Z", "2026-10-20T20:00:00Z"])
async def test_a_beginning_that_the_records_belie_ends_no_history(open_house: Opener, said: str) -> None:
    """It lies in the future, or behind a record on the same page: the history is read as if nothing had been said."""
    house = await open_house(said)
    report = await house.sync()
    assert (report.complete, set(await house.rows(N.TRANSACTIONS))) == (True, WHOLE)


@pytest.mark.flow
@pytest.mark.parametrize("said", ["2026-08-01T00:00:00Z", "2026-10-01T00:00:00Z"])
async def test_a_beginning_said_too_late_is_corrected_by_a_later_walk(open_house: Opener, said: str) -> None:
    """No record belies it, so it is believed; once the bank says an earlier one, what lies between is read."""
    house = await open_house(said)
    await house.sync()
    before = set(await house.rows(N.TRANSACTIONS))
    says(house, "2025-08-01T00:00:00Z")
    await house.sync(hours=13, asked=False)
    corrected = await house.sync(hours=13, asked=False)
    after = set(await house.rows(N.TRANSACTIONS))
    calls = house.asked(PAYMENTS)
    later = await house.sync(hours=13, asked=False)

    assert (before, after, corrected.complete) == ({"t-3"}, WHOLE, True)
    assert (later.complete, house.asked(PAYMENTS) - calls) == (True, 1)


@pytest.mark.flow
async def test_an_unknown_beginning_said_later_opens_no_history_twice(open_house: Opener) -> None:
    """The first year of the calendar lies before all that is wanted: down to there once, and no further call."""
    house = await open_house(None)
    await house.sync()
    says(house, "0001-01-01T00:00:00Z")
    await house.sync(hours=13, asked=False)
    calls = house.asked(PAYMENTS)
    await house.sync(hours=13, asked=False)
    assert house.asked(PAYMENTS) - calls == 1


def walked(said: datetime | None, *days: int) -> Walk:
    items = [transaction(f"t-{day}", day) for day in days]
    step = Step(BY_NAME[N.TRANSACTIONS], "acc-1", window=Window(from_date=date(2026, 9, 1)))
    return Walk(step=step, pages=(page(N.TRANSACTIONS, *items),), first_available=said)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("walk", "believed"),
    [
        pytest.param(walked(None, 5), False, id="nothing said"),
        pytest.param(walked(datetime(2026, 10, 1, tzinfo=UTC), 5), True, id="before all records"),
        pytest.param(walked(datetime(2026, 10, 1, tzinfo=UTC)), True, id="no record"),
        pytest.param(walked(datetime(2026, 10, 6, tzinfo=UTC), 5), True, id="the same day, by another offset"),
        pytest.param(walked(datetime(2026, 10, 9, tzinfo=UTC), 5), False, id="behind a record"),
        pytest.param(walked(datetime(9999, 12, 31, tzinfo=UTC)), False, id="the end of the calendar"),
        pytest.param(walked(datetime(2026, 10, 20, 12, tzinfo=UTC)), True, id="now, by a clock that is ahead"),
        pytest.param(walked(datetime(1, 1, 1, tzinfo=UTC), 5), True, id="the year 1: before everything"),
    ],
)
def test_which_beginnings_are_believed(walk: Walk, believed: bool) -> None:
    """What is not believed limits no proof of an absence either."""
    shown = show(walk, NOTHING)
    assert (history_begins(shown, now=NOW) is not None) is believed
    proof = proof_of(shown, now=NOW)
    if not believed:
        assert proof == Proof(True, True, since=datetime(2026, 9, 2, tzinfo=UTC), reaches_back=False)
