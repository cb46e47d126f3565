"""What may happen at the bank: to any listing, between two pages, and many things at once."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from syncworker.simulator.arrangements import KINDS, MAY_LACK
from syncworker.simulator.bank import VERBS, Bank
from syncworker.simulator.books import Books, BooksError
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.resources import BY_NAME, ResourceName, Shape
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.flow

N = ResourceName
FACTS: dict[ResourceName, dict[str, Any]] = {
    N.BENEFICIARIES: {"reference": "Changed", "payee": {"name": "New", "identification": "AE070331234567890123456"}},
    N.DIRECT_DEBITS: {"status": "Inactive", "previous": {"amount": "7.50", "currency": "AED"}},
    N.STANDING_ORDERS: {"status": "Inactive", "next_at": "2027-01-01T06:00:00+04:00"},
    N.SCHEDULED_PAYMENTS: {"instructed": {"amount": "1.234", "currency": "KWD"}},
    N.STATEMENTS: {"closing_balance": "-12.50", "issued_on": "2026-11-02"},
    N.PRODUCT: {"finance_rates": None, "is_secured": True},
}
LISTED = [row for row in BY_NAME.values() if row.per_account and row.shape is Shape.LIST]


@pytest.fixture
def bank(sandbox: Sandbox) -> Bank:
    return sandbox.bank


@pytest.fixture
def account(sandbox: Sandbox) -> str:
    return sandbox.bank.account_of(sandbox.users[0]).account_id


@pytest.fixture
def listed(tpp: TPP, tokens: Tokens, account: str) -> Callable[[ResourceName], Any]:
    """The items of a listing, or the status of a refusal."""

    async def read(name: ResourceName, account_id: str = account) -> Any:
        items: list[Any] = []
        following: str | None = BY_NAME[name].path.format(AccountId=account_id)
        while following:
            answer = await tpp.get(following, tokens.access)
            if answer.status_code != 200:
                return answer.status_code
            items += answer.json()["Data"][BY_NAME[name].items]
            following = answer.json()["Links"].get("Next")
        return items

    return read


def key_of(name: ResourceName, items: list[dict[str, Any]], item: dict[str, Any]) -> str:
    parts = BY_NAME[name].key
    if not parts:
        return str(items.index(item) + 1)
    values = []
    for part in parts:
        value: Any = item
        for step in part.split("."):
            value = value[step]
        values.append(value)
    return "|".join(values)


# -- any listing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(KINDS))
async def test_an_item_comes_changes_and_goes(
    books: Books, listed: Callable[[ResourceName], Any], account: str, name: ResourceName
) -> None:
    """Through the door, facts as JSON; the API shows each step, and only that."""
    before = await listed(name)
    made = await books.do("insert_item", resource=name, account_id=account)
    with_it = await listed(name)
    key = key_of(name, with_it, made)
    changed = await books.do("change_item", resource=name, account_id=account, key=key, **FACTS[name])
    changed_listing = await listed(name)
    await books.do("drop_item", resource=name, account_id=account, key=key)
    assert [one for one in with_it if one not in before] == [made]
    assert [one for one in changed_listing if one not in before] == [changed]
    assert changed != made
    assert await listed(name) == before


@pytest.mark.parametrize(
    ("resource", "added", "changed"),
    [
        pytest.param("transactions", {"amount": "3.00"}, {"narration": "Else"}, id="transactions"),
        pytest.param("balances", {"type": "Expected", "amount": "1.00"}, {"amount": "-2.00"}, id="balances"),
        pytest.param("account_parties", {"user": "omar-2"}, {"role": "LegalGuardian"}, id="account_parties"),
    ],
)
async def test_the_older_listings_take_the_same_verbs(
    books: Books,
    listed: Callable[[ResourceName], Any],
    account: str,
    resource: str,
    added: dict[str, Any],
    changed: dict[str, Any],
) -> None:
    """One way to speak of every listing."""
    name = ResourceName(resource)
    before = await listed(name)
    made = await books.do("insert_item", resource=resource, account_id=account, **added)
    key = key_of(name, [made], made)
    other = await books.do("change_item", resource=resource, account_id=account, key=key, **changed)
    assert [one for one in await listed(name) if one not in before] == [other]
    await books.do("drop_item", resource=resource, account_id=account, key=key)
    assert await listed(name) == before


async def test_a_listing_that_does_not_apply_begins_with_an_item(
    bank: Bank, sandbox: Sandbox, listed: Callable[..., Any]
) -> None:
    """404, then one item, then none, then 404 again."""
    savings = bank.account_of(sandbox.users[0], 1).account_id
    lacking = await listed(N.DIRECT_DEBITS, savings)
    made = bank.insert_item("direct_debits", savings)
    one = await listed(N.DIRECT_DEBITS, savings)
    bank.drop_item("direct_debits", savings, made["DirectDebitId"])
    none = await listed(N.DIRECT_DEBITS, savings)
    bank.withhold("direct_debits", savings)
    assert (lacking, one, none, await listed(N.DIRECT_DEBITS, savings)) == (404, [made], [], 404)


@pytest.mark.parametrize(
    "bent",
    [
        pytest.param({"resource": "beneficiaries", "colour": "red"}, id="no member"),
        pytest.param({"resource": "beneficiaries", "payee": {"name": "without an account"}}, id="half a payee"),
        pytest.param({"resource": "standing_orders", "first_at": "yesterday"}, id="no instant"),
    ],
)
async def test_facts_that_do_not_fit_are_refused(books: Books, account: str, bent: dict[str, Any]) -> None:
    """400, and nothing is inserted."""
    with pytest.raises(BooksError, match="400"):
        await books.do("insert_item", account_id=account, **bent)


async def test_an_unknown_listing_or_item_is_refused(books: Books, account: str) -> None:
    """404 for both."""
    for resource, key in (("stamps", "1"), ("beneficiaries", "nobody")):
        with pytest.raises(BooksError, match="404"):
            await books.do("drop_item", resource=resource, account_id=account, key=key)


async def test_a_customer_changes_wherever_they_have_a_part(
    tpp: TPP, books: Books, tokens: Tokens, sandbox: Sandbox, listed: Callable[[ResourceName], Any]
) -> None:
    """`/parties` and the account's parties say the same."""
    await books.do("change_person", user=sandbox.users[0], mobile="+971500000001")
    party = (await tpp.get("/parties", tokens.access)).json()["Data"]["Party"]
    [role] = await listed(N.ACCOUNT_PARTIES)
    mobiles = {one["VerifiedClaims"][0]["Claims"]["MobileNumber"] for one in (party, role)}
    assert mobiles == {"+971500000001"}


async def test_an_account_is_hidden_from_a_consent_and_shown_again(
    tpp: TPP, bank: Bank, tokens: Tokens, account: str
) -> None:
    """403 below it meanwhile; other consents never notice."""
    other = await tpp.consent()
    bank.hide_account(tokens.consent_id, account)
    hidden = [(await tpp.get(f"/accounts/{account}/balances", one.access)).status_code for one in (tokens, other)]
    bank.show_account(tokens.consent_id, account)
    shown = (await tpp.get(f"/accounts/{account}/balances", tokens.access)).status_code
    assert (hidden, shown) == ([403, 200], 200)


# -- transactions -----------------------------------------------------------------------------------------------------


async def test_a_late_row_is_booked_weeks_ago(bank: Bank, listed: Callable[[ResourceName], Any], account: str) -> None:
    """It stands among the rows of its day."""
    item = bank.insert_late(account, days=40)
    booked = [row["BookingDateTime"] for row in await listed(N.TRANSACTIONS)]
    rows = bank.ledger.account(account).transactions
    (late,) = [row for row in rows if row.transaction_id == item["TransactionId"]]
    assert bank.clock.now() - late.booked_at >= timedelta(days=40)
    assert 0 < booked.index(item["BookingDateTime"]) < len(booked) - 1


async def test_another_id_takes_the_place_of_a_pending_one(
    bank: Bank, listed: Callable[[ResourceName], Any], account: str
) -> None:
    """The pending id is gone, the booked one is new, the amount is the same."""
    pending = next(row for row in bank.ledger.account(account).transactions if row.status == "Pending")
    item = bank.re_id(account, pending.transaction_id, new_id="BOOKED-1")
    rows = {row["TransactionId"]: row for row in await listed(N.TRANSACTIONS)}
    assert pending.transaction_id not in rows
    assert rows["BOOKED-1"] == item
    assert (item["Status"], item["Amount"]["Amount"]) == ("Booked", format(pending.amount, ".2f"))


async def test_a_booking_moves_back(bank: Bank, account: str) -> None:
    """The id stays, the date does not."""
    row = next(row for row in bank.ledger.account(account).transactions if row.status == "Booked")
    bank.back_date(account, row.transaction_id, days=10)
    (moved,) = [one for one in bank.ledger.account(account).transactions if one.transaction_id == row.transaction_id]
    assert row.booked_at - moved.booked_at == timedelta(days=10)


# -- pages ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", LISTED, ids=lambda row: row.name.value)
async def test_every_listing_can_be_cut_into_pages_and_be_whole_again(
    tpp: TPP, bank: Bank, tokens: Tokens, account: str, resource: Any
) -> None:
    """The items are the same, in the same order; a whole listing has no links to pages."""
    bank.paginate("*", None)
    path = resource.path.format(AccountId=account)
    (whole,) = await tpp.walk(path, tokens.access)
    bank.paginate(resource.name, 1)
    pages = await tpp.walk(path, tokens.access)
    items = whole["Data"][resource.items]
    assert items
    assert whole["Links"].keys() == {"Self"}
    assert [one for page in pages for one in page["Data"][resource.items]] == items
    assert {page["Meta"]["TotalPages"] for page in pages} == {len(items)}


async def test_something_happens_between_two_pages(tpp: TPP, bank: Bank, tokens: Tokens, account: str) -> None:
    """A row at the top pushes the last of page one onto page two: it is seen twice, the new one not at all."""
    bank.configure(page_size=20)
    held = [row.transaction_id for row in bank.ledger.account(account).transactions]
    order = bank.drift("insert_transaction", {"amount": "1.00", "booked_at": "2099-01-01T00:00:00Z"}, after_page=1)
    pages = await tpp.walk(f"/accounts/{account}/transactions", tokens.access)
    seen = [row["TransactionId"] for page in pages for row in page["Data"]["Transaction"]]
    assert seen == [*held[:20], held[19], *held[20:]]
    assert (order.happened, order.faults) == (1, [])


async def test_a_row_that_is_dropped_between_two_pages_hides_another(
    tpp: TPP, books: Books, bank: Bank, tokens: Tokens, account: str
) -> None:
    """The first row of page two slips onto page one, which has been read."""
    bank.configure(page_size=20)
    held = [row.transaction_id for row in bank.ledger.account(account).transactions]
    await books.do("drift", verb="drop_transaction", arguments={"transaction_id": held[0]}, after_page=1)
    pages = await tpp.walk(f"/accounts/{account}/transactions", tokens.access)
    seen = [row["TransactionId"] for page in pages for row in page["Data"]["Transaction"]]
    assert seen == [*held[:20], *held[21:]]


async def test_a_drift_that_cannot_happen_leaves_the_walk_alone(
    tpp: TPP, books: Books, bank: Bank, tokens: Tokens, account: str
) -> None:
    """What it complained about can be read."""
    bank.drift("drop_transaction", {"transaction_id": "nobody"}, after_page=None, times=None)
    pages = await tpp.walk(f"/accounts/{account}/transactions", tokens.access)
    ((order,),) = [(await books.faults())["drifts"]]
    assert (order["happened"], set(order["faults"])) == (len(pages), {"KeyError: 'nobody'"})


# -- storms -----------------------------------------------------------------------------------------------------------


async def test_a_storm_is_the_same_for_the_same_seed(bank_dir: Path, books: Books) -> None:
    """On two banks of one seed and anchor, at one time."""
    moment = datetime.fromisoformat((await books.clock())["now"])
    told = []
    for _ in range(2):
        async with Sandbox(bank_dir, customers=3, now=lambda: moment) as bank:
            accounts = [one["accounts"] for one in bank.bank.customers()]
            storm = bank.bank.storm(7, 60, account_ids=[one for each in accounts for one in each])
            told.append((storm, bank.bank.account_of("aisha-1")))
    assert told[0] == told[1]


async def test_a_storm_touches_everything(bank: Bank, tpp: TPP, tokens: Tokens) -> None:
    """Within 300 drops each kind of thing happens."""
    await tpp.consent(user="fatima-3")
    happened = Counter(one["verb"] for one in bank.storm(1, 300))
    assert happened.keys() == {
        "insert_transaction", "insert_late", "book", "re_id", "drop_transaction", "back_date", "amend_transaction",
        "change_balance", "rename_account", "add_party", "remove_party", "insert_item", "change_item", "drop_item",
        "paginate",
    }  # fmt: skip
    assert happened.keys() <= VERBS.keys()


async def test_after_a_storm_books_and_api_agree(tpp: TPP, books: Books, bank: Bank, tokens: Tokens) -> None:
    """Every listing of every account, item for item."""
    await books.do("storm", seed=3, n=200)
    [consent] = await books.books(tokens.consent_id)
    for resource in LISTED:
        if resource.name not in consent["resources"]:
            continue
        served = []
        for account_id in consent["account_ids"]:
            path = resource.path.format(AccountId=account_id)
            if resource.name in MAY_LACK and (await tpp.get(path, tokens.access)).status_code == 404:
                continue
            for page in await tpp.walk(path, tokens.access):
                served += page["Data"][resource.items]
        assert served == json.loads(
            json.dumps([row["item"] for row in consent["resources"][resource.name]], default=float)
        )


async def test_a_storm_without_a_consent_has_nowhere_to_blow(books: Books) -> None:
    """Said, not ignored."""
    with pytest.raises(BooksError, match="400"):
        await books.do("storm", seed=1)
