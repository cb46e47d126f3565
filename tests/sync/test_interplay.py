"""Faults that meet: two in one listing, one listing beside another, a fault and what the next runs make of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from syncworker.schedule.due import retry_delay
from syncworker.store.cursors import Listing
from syncworker.sync.reports import RunOutcome, StepOutcome
from tests.ground.house import HTML, LFI, House, N, body, error_body, http
from tests.lfi.raw_bank import Identities

pytestmark = pytest.mark.flow

Opener = Callable[..., Awaitable[House]]
ACCOUNTS = [{"AccountId": "acc-1", "Currency": "AED"}, {"AccountId": "acc-2", "Currency": "AED"}]
BALANCES = [f"/accounts/acc-{number}/balances" for number in (1, 2)]
ORDERS = "/accounts/acc-1/standing-orders"
PAYMENTS = "/accounts/acc-1/transactions"
ORDER = {"StandingOrderId": "so-1", "Frequency": "EveryDay", "StandingOrderStatusCode": "Active"}
BALANCE = {
    "Type": "InterimBooked", "DateTime": "2026-10-20T00:00:00Z", "CreditDebitIndicator": "Credit",
    "Amount": {"Amount": "5.00", "Currency": "AED"},
}  # fmt: skip
NAMELESS = {"CreditorAccount": [{"SchemeName": "IBAN"}]}


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


@pytest.fixture
async def open_house(identities: Identities, database_url: str, tmp_path: Path) -> AsyncIterator[Opener]:
    """`await open_house(permissions, …)`: a house of one account, on each database."""
    opened: list[House] = []

    async def one(permissions: list[str], *, backfill_days: float = 89, **options: Any) -> House:
        house = House(tmp_path)
        house.backfill_days = backfill_days
        await house.open(permissions, url=database_url, identities=identities, **options)
        opened.append(house)
        house.shows("/accounts", ACCOUNTS[0])
        return house

    yield one
    for house in opened:
        await house.close()


def transaction(key: str, day: str) -> dict[str, Any]:
    at = f"{day}T09:00:00Z"
    return {
        "TransactionId": key, "Status": "Booked", "TransactionDateTime": at, "BookingDateTime": at,
        "TransactionType": "POS", "SubTransactionType": "Purchase", "CreditDebitIndicator": "Debit",
        "Amount": {"Amount": "10.00", "Currency": "AED"},
    }  # fmt: skip


def payments(*items: Any, **meta: Any) -> bytes:
    return http(body=body({"AccountId": "acc-1", "Transaction": list(items)}, **meta))


def is_slice(query: dict[str, str]) -> bool:
    return "toBookingDateTime" in query


async def test_a_short_list_of_accounts_drops_none_of_those_known(open_house: Opener) -> None:
    """`/accounts` ends early: the accounts of its missing pages are read as before."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])
    house.shows("/accounts", *ACCOUNTS)
    await house.sync()
    house.shows("/accounts", ACCOUNTS[0], TotalPages=2)
    report = await house.sync(hours=7)

    assert [house.asked(path) for path in BALANCES] == [2, 2]
    assert {one.account_id for one in report.steps} == {"", "acc-1", "acc-2"}


async def test_an_account_that_cannot_be_read_drops_none_of_those_known(open_house: Opener) -> None:
    """The nameless item may be the account that is not shown."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])
    house.shows("/accounts", *ACCOUNTS)
    await house.sync()
    house.shows("/accounts", ACCOUNTS[0], {"Currency": "AED"})
    await house.sync(hours=7)

    assert [house.asked(path) for path in BALANCES] == [2, 2]


async def test_a_listing_that_broke_off_gets_no_slice_in_that_run(open_house: Opener) -> None:
    """A refusal of the newest part is no reason to buy the history behind it in the same minute."""
    house = await open_house(["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=800)
    house.answers[PAYMENTS] = lambda query: http(500) if is_slice(query) else payments(transaction("t", "2026-10-01"))
    await house.sync()
    before = house.asked(PAYMENTS)
    house.answers[PAYMENTS] = lambda _: http(403, error_body("AccessToken.InvalidScope"))
    await house.sync(hours=13)

    assert house.asked(PAYMENTS) - before == 1


async def test_a_slice_that_broke_off_hides_nothing_of_the_newest_part(open_house: Opener) -> None:
    """A nameless item in the newest part and a 500 of a slice: both are told of."""
    house = await open_house(["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=800)
    nameless = transaction("t", "2026-10-01") | {"TransactionId": ""}
    house.answers[PAYMENTS] = lambda query: http(500) if is_slice(query) else payments(nameless)
    report = await house.sync()

    assert (report.complete, report.retry, report.person) == (False, True, True)
    assert "item.no_usable_key" in [one.code for one in await house.findings()]


async def test_an_unreadable_page_of_a_slice_has_its_note(open_house: Opener) -> None:
    """As an unreadable page of the newest part has."""
    house = await open_house(["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=800)
    house.answers[PAYMENTS] = lambda query: (
        http(200, HTML, content_type="text/html") if is_slice(query) else payments(transaction("t", "2026-10-01"))
    )
    report = await house.sync()
    step = house.step(report, N.TRANSACTIONS)

    assert (step.outcome, step.error, step.notes.get("page.unreadable")) == (
        StepOutcome.FAILED, "standard_violation", 1,
    )  # fmt: skip


@pytest.mark.parametrize("newest", ["t", ""], ids=["newest part in order", "newest part with a nameless item"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (http(500), "lfi_unavailable"),
        (http(401), "refused_401"),
        (http(body=body({"AccountId": "acc-1", "Transaction": []}, TotalPages=2)), "listing.ends_early"),
    ],
    ids=["500", "401", "an early end"],
)
async def test_a_slice_that_fails_for_days_rests_as_a_finding(
    open_house: Opener, fault: bytes, code: str, newest: str
) -> None:
    """Its attempts count on while the newest part is read, and no 401 of it forces a refresh: the token is good."""
    house = await open_house(
        ["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=150, retry_after=retry_delay
    )
    shown = payments(transaction(newest, "2026-10-01"))
    house.answers[PAYMENTS] = lambda query: fault if is_slice(query) else shown
    await house.sync()
    end = house.clock.now() + timedelta(hours=40)
    while (due := (await house.work()).due_at) < end:
        house.clock.set(due)
        await house.sync(asked=False)
    slices = [query for path, query in house.log if path == PAYMENTS and is_slice(query)]
    found = {one.code for one in await house.findings()}
    house.answers[PAYMENTS] = lambda query: payments() if is_slice(query) else payments(transaction("t", "2026-10-01"))
    house.clock.set(due)
    await house.sync(asked=False)
    await house.sync(asked=False, hours=12)
    cursor = (await house.cursors())[Listing("acc-1", N.TRANSACTIONS)]

    assert found == {code} | (set() if newest else {"item.no_usable_key"})
    assert len(slices) <= 14 * (3 if code == "lfi_unavailable" else 1)
    assert house.refreshed == 0
    assert (await house.findings(), cursor.attempts, cursor.failing_since) == ([], 0, None)


async def test_a_finding_of_a_slice_is_resolved_by_the_slice(open_house: Opener) -> None:
    """Not by the newest part, which never failed."""
    house = await open_house(["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=150)
    newest = payments(transaction("t", "2026-10-01"))
    house.answers[PAYMENTS] = lambda query: (
        http(403, error_body("AccessToken.InvalidScope")) if is_slice(query) else newest
    )
    await house.sync()
    house.answers[PAYMENTS] = lambda query: payments() if is_slice(query) else newest
    await house.sync(hours=13, asked=False)
    open_still = len(await house.findings())
    report = await house.sync(hours=12, asked=False)

    assert (open_still, report.complete, await house.findings()) == (1, True, [])


async def test_a_finding_stays_while_another_account_is_refused(open_house: Opener) -> None:
    """One account is read without trouble again; the other is refused, and is not asked for until tomorrow."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])
    house.shows("/accounts", *ACCOUNTS)
    house.shows(BALANCES[0], BALANCE | {"Type": ""})
    house.answers[BALANCES[1]] = http(403, error_body("AccessToken.InvalidScope"))
    await house.sync()
    house.shows(BALANCES[0], BALANCE)
    report = await house.sync(hours=7, asked=False)
    refused = {one.code for one in await house.findings()}
    house.shows(BALANCES[1], BALANCE)
    await house.sync(hours=24, asked=False)

    assert (report.complete, "refused_403:AccessToken.InvalidScope" in refused) == (True, True)
    assert await house.findings() == []


async def test_rows_beside_a_fault_of_its_own_listing_are_told_apart(open_house: Opener) -> None:
    """A nameless item on page 1 needs a person; the 500 of page 2 needs none."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    first = body({"AccountId": "acc-1", "StandingOrder": [NAMELESS]}, next_url=house.url(f"{ORDERS}?page=2"))
    house.answers[ORDERS] = lambda query: http(500) if "page" in query else http(body=first)
    await house.sync()

    assert [one.code for one in await house.findings()] == ["item.no_usable_key"]


async def test_a_refused_listing_asked_by_hand_and_read_resolves_its_finding(open_house: Opener) -> None:
    """A sync that is asked for reads it before its refusal is forgotten."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    house.answers[ORDERS] = http(403, error_body("AccessToken.InvalidScope"))
    await house.sync()
    before = len(await house.findings())
    house.shows(ORDERS, ORDER)
    report = await house.sync(hours=1)

    assert (before, report.complete, await house.findings()) == (1, True, [])


async def test_two_faults_of_one_page_are_noted_as_they_are(open_house: Opener) -> None:
    """A listing of two pages, its second unreadable, after a complete walk: it did not end early, it broke off."""
    house = await open_house(["ReadAccountsDetail", "ReadStandingOrdersDetail"])
    house.shows(ORDERS, ORDER)
    await house.sync()
    first = body(
        {"AccountId": "acc-1", "StandingOrder": [ORDER, ORDER]}, next_url=house.url(f"{ORDERS}?page=2"), TotalPages=2
    )
    second = body({"AccountId": "acc-1"}, TotalPages=2)  # without its items
    house.answers[ORDERS] = lambda query: http(body=second if "page" in query else first)
    report = await house.sync(hours=1)
    step = house.step(report, N.STANDING_ORDERS)

    assert (step.outcome, dict(step.notes)) == (StepOutcome.FAILED, {"item.shown_twice": 1, "page.unreadable": 1})


async def test_an_ignored_filter_is_remembered_although_an_item_cannot_be_read(open_house: Opener) -> None:
    """Every row that is held was shown: an item beside them that cannot be read takes nothing from that."""
    house = await open_house(["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=800)
    items = [transaction(f"t-{month}", f"2026-{month:02}-03") for month in range(1, 10)]
    house.answers[PAYMENTS] = lambda _: payments(*items, transaction("", "2026-10-02"))
    await house.sync()
    async with house.store.reading() as unit:
        _, ignored = await unit.lfis.habits()

    assert (LFI, N.TRANSACTIONS) in ignored


async def test_another_window_with_an_item_that_cannot_be_read_is_no_whole_history(open_house: Opener) -> None:
    """A bank answers long windows with the newest rows: one item that cannot be read is not all rows it lacks."""
    house = await open_house(["ReadAccountsDetail", "ReadTransactionsDetail"], backfill_days=400)
    items = [transaction(f"t-{month}", f"2026-{month:02}-03") for month in range(1, 11)]
    nameless = transaction("", "2026-10-02")

    def say(query: dict[str, str]) -> bytes:
        if is_slice(query) or query["fromBookingDateTime"] < "2026-01-01":
            return payments(items[-1], nameless)
        return payments(*[one for one in items if one["BookingDateTime"] >= query["fromBookingDateTime"]], nameless)

    house.answers[PAYMENTS] = say
    await house.sync()
    asked = [is_slice(query) for path, query in house.log if path == PAYMENTS]

    assert (asked[:4], all(asked[4:]), len(asked) > 4) == ([False, True, True, False], True, True)


async def test_accounts_that_fail_at_first_and_are_empty_then(open_house: Opener) -> None:
    """Nothing is owed any more, and the next look at `/accounts` is at its cadence."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])
    house.answers["/accounts"] = http(500)
    first = await house.sync()
    house.shows("/accounts")
    second = await house.sync(minutes=2, asked=False)

    assert (first.outcome, second.outcome, await house.findings()) == (RunOutcome.FAILED, RunOutcome.UNCHANGED, [])
    assert second.due_at == second.started_at + timedelta(hours=24)


async def test_an_account_that_fails_for_a_day_leaves_the_cadence_of_the_other(open_house: Opener) -> None:
    """Six hours: five reads in 25 hours.  The lasting fault is a finding by then."""
    house = await open_house(["ReadAccountsDetail", "ReadBalances"])
    house.shows("/accounts", *ACCOUNTS)
    house.answers[BALANCES[0]] = http(500)
    end = house.clock.now() + timedelta(hours=25)
    while house.clock.now() < end:
        report = await house.sync(asked=False)
        house.clock.set(report.due_at)

    assert house.asked(BALANCES[1]) == 5
    assert [one.code for one in await house.findings()] == ["lfi_unavailable"]
