"""What rows keep of items: typed columns on both databases, identifiers of accounts, and what is sealed or left out."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.errors import SealError
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.store.bulk import COPY_FROM
from syncworker.store.erasure import DataClass
from syncworker.store.tables import PERSONAL, RECORD_TABLES, metadata, typed_columns
from syncworker.sync.decode import columns_of, decode, whole_columns
from tests.sync.books import ACCOUNT, CONSENT, Desk, page, transaction, walk

pytestmark = pytest.mark.store

N = ResourceName
IBAN = {"SchemeName": "IBAN", "Identification": "AE070331234567890123456", "Name": "Sara Bhat"}
NUMBER = {"SchemeName": "AccountNumber", "Identification": "1001"}
CREDITOR = {"CreditorAgent": {"Identification": "SANDAEAD"}, "CreditorAccount": [IBAN]}
FULL = transaction(
    "t-1",
    CreditorAccount=[IBAN],
    TransactionInformation="TRF TO SARA BHAT",
    Balance={"CreditDebitIndicator": "Debit", "Type": "InterimBooked", "Amount": {"Amount": "1.50", "Currency": "AED"}},
    CurrencyExchange={"ExchangeRate": 3.67251234567},
    Flags=["Payroll", "\u0634"],
    CardInstrument={"CardSchemeName": "VISA", "Name": "SARA BHAT", "Identification": "************1234"},
    IsPrimaryInstrument=False,
)
ITEMS: Mapping[ResourceName, dict[str, Any]] = {
    N.TRANSACTIONS: FULL,
    N.BALANCES: {
        "Type": "InterimBooked",
        "CreditDebitIndicator": "Credit",
        "Amount": {"Amount": "5", "Currency": "AED"},
        "CreditLine": [{"Included": True, "Type": "Credit", "Amount": {"Amount": "9.99", "Currency": "AED"}}],
    },
    N.ACCOUNT_PARTIES: {"PartyId": "p-1", "VerifiedClaims": [{"Claims": {"FullName": "Sara Bhat"}}]},
    N.BENEFICIARIES: {"BeneficiaryId": "b-1", "Reference": "Rent", "AccountHolderName": "Sara Bhat"} | CREDITOR,
    N.DIRECT_DEBITS: {"DirectDebitId": "d-1", "Name": "Water", "MandateIdentification": "m-1", "Frequency": "Monthly"},
    N.STANDING_ORDERS: {"StandingOrderId": "s-1", "Purpose": "Rent", "Frequency": "Annual"} | CREDITOR,
    N.SCHEDULED_PAYMENTS: {"ScheduledPaymentId": "s-1", "DebtorReference": "Rent", "ScheduledType": "Arrival"}
    | CREDITOR,
    N.STATEMENTS: {
        "StatementId": "s-1",
        "OpeningDate": "2026-10-01",
        "Summary": [{"SubTransactionType": "Fee", "Amount": {"Amount": "1.00", "Currency": "AED"}, "Count": 2}],
    },
    N.PRODUCT: {
        "FinanceRates": {"Rate": 4.25},
        "IsSecured": True,
        "AssetBacked": [{"Type": "Collateral", "Description": "a home"}],
    },
}


def account(*identifiers: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    return {"AccountId": ACCOUNT, "AccountHolderName": "Sara Bhat", "AccountIdentifiers": list(identifiers)} | facts


def named(resource: ResourceName, values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(typed_columns(RECORD_TABLES[resource]), values, strict=True))


async def raw_rows(desk: Desk, table: str) -> list[dict[str, Any]]:
    """Rows as they lie in the database, nothing opened."""
    async with desk.store.reading() as unit:
        rows = await unit.connection.execute(sa.select(metadata.tables[table]))
        return [dict(row) for row in rows.mappings()]


@pytest.mark.parametrize("resource", ITEMS)
async def test_a_row_has_the_columns_that_were_read(desk: Desk, resource: ResourceName) -> None:
    """As they went in: decimals, dates, texts, JSON and NULL; and those are read from the item held, too."""
    data = page(resource, ITEMS[resource])
    (record,) = decode(BY_NAME[resource], ACCOUNT, data).records
    await desk.apply(walk(resource, data))
    (row,) = (await desk.rows(resource)).values()
    assert row.columns == named(resource, record.columns)
    assert columns_of(resource, row.item) == record.columns
    assert any(value is not None for value in row.columns.values())


async def test_many_rows_have_the_columns_of_few(desk: Desk) -> None:
    """Rows that go by COPY."""
    items = [FULL | {"TransactionId": f"t-{number}"} for number in range(COPY_FROM + 1)]
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *items)))
    rows = (await desk.rows(N.TRANSACTIONS)).values()
    expected = columns_of(N.TRANSACTIONS, json.dumps(FULL).encode())
    assert expected is not None
    assert len(rows) == COPY_FROM + 1
    assert all(row.columns == named(N.TRANSACTIONS, expected) for row in rows)


async def test_a_column_that_an_item_no_longer_fills_is_emptied(desk: Desk) -> None:
    """An item that changed replaces all its columns."""
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, FULL)))
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, transaction("t-1"))))
    row = (await desk.rows(N.TRANSACTIONS))["t-1"]
    assert [row.columns[name] for name in ("flags", "card_scheme", "running_balance")] == [None] * 3


async def test_identifiers_of_an_account_are_rows(desk: Desk) -> None:
    """In the bank's order; an account that changed has those it shows now, and one that is gone keeps its own."""
    other = account(NUMBER) | {"AccountId": "acc-2"}
    told = []
    for items in (
        [account(IBAN, NUMBER), other],
        [account(IBAN, NUMBER), other],
        [account(NUMBER), other],
        [other],
        [account(IBAN, NUMBER), other],
        [account(), other],
    ):
        await desk.apply(walk(N.ACCOUNTS, page(N.ACCOUNTS, *items)))
        async with desk.store.reading() as unit:
            found = await unit.records.identifiers(CONSENT)
        assert [one.identification for one in found["acc-2"]] == ["1001"]
        told.append([one.scheme for one in found.get(ACCOUNT, [])])
    both = ["IBAN", "AccountNumber"]
    assert told == [both, both, ["AccountNumber"], ["AccountNumber"], both, []]


async def test_an_account_read_once_more_writes_no_identifiers(desk: Desk) -> None:
    """The endpoint of one account repeats the list."""
    shown = walk(N.ACCOUNT, json.dumps({"AccountId": ACCOUNT, "Account": account(IBAN)}).encode())
    await desk.apply(shown)
    (row,) = (await desk.rows(N.ACCOUNT)).values()
    assert (row.columns["holder_name"], await raw_rows(desk, "account_identifier")) == ("Sara Bhat", [])


@pytest.mark.parametrize("resource", ITEMS)
async def test_where_raw_items_are_sealed_no_column_says_who_people_are(desk: Desk, resource: ResourceName) -> None:
    """Personal columns are NULL, or sealed where they always are; the others are filled as ever."""
    desk.seal_raw = True
    data = page(resource, ITEMS[resource])
    (record,) = decode(BY_NAME[resource], ACCOUNT, data).records
    await desk.apply(walk(resource, data))
    (row,) = await raw_rows(desk, RECORD_TABLES[resource].name)
    personal = PERSONAL.get(RECORD_TABLES[resource].name, frozenset())
    if resource is N.ACCOUNT_PARTIES:
        assert b"Sara" not in bytes(row["name"])
    else:
        assert {row[name] for name in personal} <= {None}
    (opened,) = (await desk.rows(resource)).values()
    expected = named(resource, record.columns)
    hidden = personal - {"name"} if resource is N.ACCOUNT_PARTIES else personal
    assert opened.columns == expected | dict.fromkeys(hidden)
    assert not personal or any(expected[name] is not None for name in personal), "the item fills some of them"
    assert whole_columns(opened) == expected, "the opened item has them all"


async def test_where_raw_items_are_sealed_identifiers_name_their_scheme_alone(desk: Desk) -> None:
    """And the account no holder."""
    desk.seal_raw = True
    await desk.apply(walk(N.ACCOUNTS, page(N.ACCOUNTS, account(IBAN, NUMBER, Currency="AED"))))
    async with desk.store.reading() as unit:
        found = await unit.records.identifiers(CONSENT)
    assert [tuple(one) for one in found[ACCOUNT]] == [("IBAN", None, None), ("AccountNumber", None, None)]
    row = (await desk.rows(N.ACCOUNTS))[ACCOUNT]
    assert (row.columns["holder_name"], row.columns["currency"]) == (None, "AED")


@pytest.mark.parametrize("seal_raw", [False, True])
async def test_a_partys_name_is_always_sealed_for_its_row(desk: Desk, seal_raw: bool) -> None:
    """Moved to another row it does not open."""
    desk.seal_raw = seal_raw
    people = [ITEMS[N.ACCOUNT_PARTIES], ITEMS[N.ACCOUNT_PARTIES] | {"PartyId": "p-2", "VerifiedClaims": []}]
    await desk.apply(walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, *people)))
    rows = await desk.rows(N.ACCOUNT_PARTIES)
    assert {key: row.columns["name"] for key, row in rows.items()} == {"p-1": "Sara Bhat", "p-2": None}
    async with desk.store.writing() as unit:
        swap = "UPDATE party SET name = (SELECT name FROM party AS other WHERE other.key = 'p-1') WHERE key = 'p-2'"
        await unit.connection.exec_driver_sql(swap)
        await unit.commit()
    with pytest.raises(SealError):
        await desk.rows(N.ACCOUNT_PARTIES)


async def test_identifiers_are_erased_with_the_data(desk: Desk) -> None:
    """They are counted, and none is left."""
    await desk.apply(walk(N.ACCOUNTS, page(N.ACCOUNTS, account(IBAN, NUMBER))))
    async with desk.store.writing() as unit:
        counted = await unit.erasure.count(CONSENT)
        of_people = await unit.erasure.count(CONSENT, of=DataClass.PERSONAL)
        erased = await unit.erasure.erase(CONSENT, of=DataClass.DATA)
        await unit.commit()
    assert counted["account_identifier"] == erased["account_identifier"] == 2
    assert "account_identifier" not in of_people
    assert await raw_rows(desk, "account_identifier") == []
