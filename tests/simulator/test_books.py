"""The bank's books say what its API serves, and its log what was served."""

import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from syncworker.simulator.books import Books, BooksError
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import BY_NAME, Resource, ResourceName, Shape
from syncworker.store.tables import RECORD_TABLES, typed_columns
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.flow


async def served(tpp: TPP, resource: Resource, account_id: str, token: str) -> list[dict[str, Any]]:
    """Every item of a resource as the API serves it, numbers exact."""
    items: list[dict[str, Any]] = []
    following: str | None = resource.path.format(AccountId=account_id)
    while following:
        answer = await tpp.get(following, token)
        if answer.status_code == 404:
            return []
        body = json.loads(answer.content, parse_float=Decimal)
        found = body["Data"][resource.items]
        items += [found] if resource.shape is Shape.ONE else found
        following = body["Links"].get("Next")
    return items


@pytest.mark.parametrize("name", list(BY_NAME))
async def test_the_books_hold_exactly_the_items_served(
    tpp: TPP, sandbox: Sandbox, books: Books, tokens: Tokens, name: ResourceName
) -> None:
    """Item for item, in order, and keyed as the standard keys them."""
    resource = BY_NAME[name]
    accounts = [one.account_id for one in sandbox.bank.ledger.customer(sandbox.users[0]).accounts]
    walked = [
        (account_id if resource.per_account else "", item)
        for account_id in (accounts if resource.per_account else accounts[:1])
        for item in await served(tpp, resource, account_id, tokens.access)
    ]
    [consent] = await books.books(tokens.consent_id, repeats=True)
    rows = consent["resources"][name]
    assert [(row["account_id"], row["item"]) for row in rows] == walked
    keys = [[reach(item, part) for part in resource.key] or ["1"] for _, item in walked]  # one product at most
    assert [row["key"] for row in rows] == keys


def reach(item: dict[str, Any], path: str) -> Any:
    for part in path.split("."):
        item = item[part]
    return item


async def test_columns_are_the_banks_own_facts(tpp: TPP, sandbox: Sandbox, books: Books, tokens: Tokens) -> None:
    """From the ledger, not from the item: sign, UTC instant and UAE date of a line booked near midnight."""
    account = sandbox.bank.account_of(sandbox.users[0]).account_id
    await books.do(
        "insert_transaction",
        account_id=account,
        transaction_id="MIDNIGHT",
        amount="12.5",
        booked_at="2026-11-20T22:30:00.250+00:00",
        happened_at="2026-11-20T22:30:00.250+00:00",
        style="uae",
        counterparty={"name": "Neighbour", "iban": "AE000000000000000000000", "bic": "SANDAEAD"},
        narration="Coffee",
    )
    [consent] = await books.books(tokens.consent_id)
    [row] = [one for one in consent["resources"]["transactions"] if one["key"] == ["MIDNIGHT"]]
    assert row["item"]["BookingDateTime"] == "2026-11-21T02:30:00.250+04:00"
    assert {name: value for name, value in row["columns"].items() if value is not None} == {
        "status": "Booked",
        "credit_debit_indicator": "Debit",
        "amount": "12.5",
        "signed_amount": "-12.5",
        "currency": "AED",
        "booking_date_time": "2026-11-20T22:30:00.250000+00:00",
        "booking_date": "2026-11-21",
        "transaction_date_time": "2026-11-20T22:30:00.250000+00:00",
        "transaction_type": "POS",
        "sub_transaction_type": "Purchase",
        "transaction_information": "Coffee",
        "counterparty_name": "Neighbour",
        "counterparty_scheme": "IBAN",
        "counterparty_identification": "AE000000000000000000000",
        "counterparty_agent_scheme": "BICFI",
        "counterparty_agent_identification": "SANDAEAD",
        "mutability": "Immutable",
        "local_time_zone": "UTC+04:00",
        "bank_transaction_domain": "PMNT",
    }


async def test_instants_in_columns_are_those_in_the_items(tpp: TPP, books: Books, tokens: Tokens) -> None:
    """Whatever style the bank wrote them in; an instant without offset is UAE time."""
    [consent] = await books.books(tokens.consent_id)
    rows = consent["resources"]["transactions"]
    written = [datetime.fromisoformat(row["item"]["BookingDateTime"]) for row in rows]
    meant = [datetime.fromisoformat(row["columns"]["booking_date_time"]) for row in rows]
    unmarked = [one.tzinfo is None for one in written]
    assert [one for one, bare in zip(written, unmarked, strict=True) if not bare] == [
        one for one, bare in zip(meant, unmarked, strict=True) if not bare
    ]
    assert unmarked.count(True) == 1


async def test_the_books_show_a_consent_no_more_than_it_may_see(tpp: TPP, sandbox: Sandbox, books: Books) -> None:
    """Permissions, ticked accounts and the window count here as at the API."""
    chosen = sandbox.bank.account_of(sandbox.users[0]).account_id
    tokens = await tpp.consent(
        (Permission.ReadAccountsBasic, Permission.ReadTransactionsBasic),
        accounts=[chosen],
        from_date=date(2026, 10, 1),
        to_date=date(2026, 10, 31),
    )
    [consent] = await books.books(tokens.consent_id)
    shown = consent["resources"]
    assert shown.keys() == {"accounts", "transactions"}
    assert [row["key"] for row in shown["accounts"]] == [[chosen]]
    assert {row["columns"]["booking_date"][:7] for row in shown["transactions"]} == {"2026-10"}


async def test_a_consent_nobody_agreed_to_shows_nothing(tpp: TPP, books: Books) -> None:
    """It is known, and empty."""
    await tpp.push(tpp.draft())
    [consent] = await books.books()
    assert (consent["status"], consent["user"], consent["resources"]) == ("AwaitingAuthorization", None, {})


async def test_verbs_change_what_the_api_serves(tpp: TPP, sandbox: Sandbox, books: Books, tokens: Tokens) -> None:
    """One of each: insert, book, drop, balance, party."""
    account = sandbox.bank.account_of(sandbox.users[0]).account_id
    pending = next(row for row in sandbox.bank.account_of(sandbox.users[0]).transactions if row.status == "Pending")
    inserted = await books.do("insert_transaction", account_id=account, amount="1.00")
    booked = await books.do("book", account_id=account, transaction_id=pending.transaction_id)
    balance = await books.do("change_balance", account_id=account, amount="-3.50")
    party = await books.do("add_party", account_id=account, user=sandbox.users[1])
    dropped = sandbox.bank.account_of(sandbox.users[0]).transactions[-1].transaction_id
    await books.do("drop_transaction", account_id=account, transaction_id=dropped)
    rows = {
        row["TransactionId"]: row
        for row in await served(tpp, BY_NAME[ResourceName.TRANSACTIONS], account, tokens.access)
    }
    balances = await served(tpp, BY_NAME[ResourceName.BALANCES], account, tokens.access)
    parties = await served(tpp, BY_NAME[ResourceName.ACCOUNT_PARTIES], account, tokens.access)
    assert rows[inserted["TransactionId"]] == inserted
    assert rows[pending.transaction_id]["Status"] == booked["Status"] == "Booked"
    assert dropped not in rows
    assert (balance in balances, balance["CreditDebitIndicator"], balance["Amount"]["Amount"]) == (
        True,
        "Debit",
        "3.50",
    )
    assert party in [one["PartyId"] for one in parties]


async def test_the_log_tells_what_was_asked_and_no_secret(tpp: TPP, books: Books, tokens: Tokens) -> None:
    """Operation, consent, account, status, page, interaction id; no token in it anywhere."""
    since = (await books.log())["next"]
    answer = await tpp.get("/accounts", tokens.access)
    log = await books.log(since)
    [entry] = log["entries"]
    assert entry | {"host": "rs", "operation": "accounts", "status": 200, "consent_id": tokens.consent_id} == entry
    assert entry["interaction_id"] == answer.headers["x-fapi-interaction-id"]
    assert entry["bytes_out"] == len(answer.content)
    everything = json.dumps([await books.log(), await books.tokens(), await books.consents()])
    assert not [secret for secret in (tokens.access, tokens.refresh) if secret in everything]


async def test_pages_are_counted_in_the_log(tpp: TPP, sandbox: Sandbox, books: Books, tokens: Tokens) -> None:
    """From one."""
    path = f"/accounts/{sandbox.bank.account_of(sandbox.users[0]).account_id}/transactions"
    pages = await tpp.walk(path, tokens.access)
    entries = (await books.log())["entries"]
    assert [one["page"] for one in entries if one["operation"] == "transactions"] == list(range(1, len(pages) + 1))


async def test_the_door_needs_its_key(sandbox: Sandbox) -> None:
    """401 without it."""
    async with httpx.AsyncClient(base_url=sandbox.books_url, trust_env=False) as stranger:
        assert [(await stranger.get(path)).status_code for path in ("/books", "/log", "/nothing")] == [401] * 3


async def test_an_unknown_consent_has_no_books(books: Books) -> None:
    """404, as a named error."""
    with pytest.raises(BooksError, match="404"):
        await books.books("x")


@pytest.mark.parametrize("name", list(BY_NAME))
async def test_columns_of_the_books_are_those_of_our_tables(books: Books, tokens: Tokens, name: ResourceName) -> None:
    """All of them, and no other: else an audit would compare less than there is."""
    [consent] = await books.books(tokens.consent_id, repeats=True)
    rows = consent["resources"][name]
    assert rows
    assert {frozenset(row["columns"]) for row in rows} == {frozenset(typed_columns(RECORD_TABLES[name]))}


async def test_what_only_repeats_is_in_the_books_when_asked_for(books: Books, tokens: Tokens) -> None:
    """An account's own endpoint shows what `/accounts` has shown."""
    [plain], [whole] = [await books.books(tokens.consent_id, repeats=asked) for asked in (False, True)]
    assert whole["resources"].keys() - plain["resources"].keys() == {"account"}


async def test_rates_are_locked_open_or_unseen(tpp: TPP, sandbox: Sandbox, books: Books) -> None:
    """As far as the consent may know."""
    told: list[Any] = []
    for user, permissions in (
        (sandbox.users[0], None),
        (sandbox.users[1], None),
        (sandbox.users[0], (Permission.ReadAccountsBasic, Permission.ReadProduct)),
    ):
        tokens = await tpp.consent(permissions, user=user)
        [consent] = await books.books(tokens.consent_id)
        told.append(consent["resources"]["product"][0]["columns"]["finance_rates"])
    assert told == ["locked", "open", None]
