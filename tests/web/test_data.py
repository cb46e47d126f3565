"""`/v1` for data: what a product reads, what it may see of it, and how it goes on where it stopped."""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.standard.values import Slug
from syncworker.store import tables
from syncworker.store.api_keys import Scope
from syncworker.store.unit_of_work import Store
from syncworker.views.questions import LISTINGS, members, personal_members
from syncworker.web.data import page_model
from tests.sync.house import EVERYTHING
from tests.web.house import WEB, Opener, WebHouse
from tests.web.test_connections import synced

pytestmark = pytest.mark.flow

PATHS = {
    "accounts": "accounts", "balances": "balances", "balance_history": "balances/history",
    "transactions": "transactions", "beneficiaries": "beneficiaries", "direct_debits": "direct-debits",
    "standing_orders": "standing-orders", "scheduled_payments": "scheduled-payments", "statements": "statements",
    "products": "products", "parties": "parties",
}  # fmt: skip
LATER = timedelta(days=1)


@dataclass
class Stocked:
    """A web process whose customer-1 has a connection with data."""

    web: WebHouse
    connection_id: str

    async def get(self, path: str, *, key: Any = None, expected: Any = 200, **asked: Any) -> dict[str, Any]:
        """The answer to a request for data."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        answer = await self.web.product.get(f"/v1/{path}", params=asked, headers=headers)
        assert answer.status_code == expected, answer.text[:500]
        found: dict[str, Any] = answer.json()
        return found

    async def account_id(self) -> str:
        """An account with transactions."""
        found: str = (await self.get("transactions", limit=1))["transactions"][0]["account_id"]
        return found

    async def pages(self, name: str, **asked: Any) -> AsyncIterator[list[dict[str, Any]]]:
        """Page after page of a list, to its end."""
        cursor: str | None = ""
        while cursor is not None:
            found = await self.get(PATHS[name], **asked | ({"cursor": cursor} if cursor else {}))
            cursor = found["next_cursor"]
            yield found[name]

    async def all(self, name: str, **asked: Any) -> list[dict[str, Any]]:
        """The whole list."""
        return [row async for page in self.pages(name, **asked) for row in page]

    async def change(self, table: sa.Table, **values: Any) -> None:
        """Set columns of every row of a table."""
        async with self.web.store.writing() as unit:
            await unit.connection.execute(sa.update(table).values(**values))
            await unit.commit()


async def stock(web: WebHouse) -> Stocked:
    permissions = [one.value for one in EVERYTHING]
    return Stocked(web, await synced(web, permissions=permissions))


@pytest.fixture
async def stocked(web: WebHouse) -> Stocked:
    """On each database."""
    return await stock(web)


@pytest.fixture
async def small(small_web: WebHouse) -> Stocked:
    """Where one database is enough."""
    return await stock(small_web)


def items(web: WebHouse, resource: str) -> list[dict[str, Any]]:
    """What the bank has of the customer."""
    return [
        row["item"] for consent in web.bank.bank.books()["consents"] for row in consent["resources"].get(resource, ())
    ]


def texts(value: Any, *, under: str = "") -> Iterator[tuple[str, str]]:
    """Every text within an item, with the path it lies under."""
    match value:
        case dict():
            for name, one in value.items():
                yield from texts(one, under=f"{under}.{name}")
        case list():
            for one in value:
                yield from texts(one, under=under)
        case str():
            yield under, value


SECRET = re.compile(
    r"HolderName|HolderShortName|Nickname|(Creditor|Debtor|Beneficiar).*(\.Name|\.Identification)$|"
    r"AccountIdentifiers.*(\.Name|\.Identification)$|FullName|LegalName|FullLegalName|MandateIdentification|"
    r"TransactionInformation|CreditorReference|DebtorReference|EmiratesId|Phone|Email"
)


def secrets(web: WebHouse) -> set[str]:
    """Names, account numbers and counterparties that the bank shows of the customer."""
    found = {
        text
        for name in (one.resource for one in LISTINGS.values() if one.resource is not None)
        for item in items(web, name.value)
        for path, text in texts(item)
        if SECRET.search(path)
        and "Agent" not in path
        and len(text) > 4
        and "*" not in text
        and text not in "Savings"  # masked by the bank; a nickname that is a kind of account too
    }
    merchants = {text for item in items(web, "transactions") for path, text in texts(item) if "MerchantName" in path}
    found -= merchants  # a bank repeats it in the information; shops are no persons
    assert any(one.startswith("AE") for one in found)
    return found


# -- every list ------------------------------------------------------------------------------------------------------


async def test_every_list_is_as_the_views_have_it(stocked: Stocked) -> None:
    """Each under its own name, rows with every member, instants with Z, amounts as text, and how fresh it is."""
    for name, path in PATHS.items():
        whose: dict[str, Any] = {"user_ref": "customer-1"} if name == "balances" else {}
        found = await stocked.get(path, **whose)
        page_model(name).model_validate(found)
        rows, extra = found[name], {"identifiers"} if name == "accounts" else set()
        assert rows, name
        assert set(found) == {name, "left_out", "freshness"} | ({"totals"} if name == "balances" else {"next_cursor"})
        for row in rows:
            assert set(row) == set(members(LISTINGS[name].view)) | extra
            assert not {"tenant", "key", "amount_e5"} & set(row)
            assert row["user_ref"] == "customer-1"
            assert row["id"].startswith(str(row["account_id"] or row["connection_id"]))
            for member, kind in members(LISTINGS[name].view).items():
                value = row[member]
                if value is not None and kind.value == "amount":
                    assert re.fullmatch(r"-?\d+\.\d{2,5}", value), (name, member)
                if value is not None and kind.value == "instant":
                    assert value.endswith("Z"), (name, member)
        known = [one for of in found["freshness"].values() for one in of.values()]
        assert known
        assert {one["stale_reason"] for one in known if one["stale"]} <= {"refused"}, name
        assert any(one["checked_at"] and not one["stale"] for one in known), name


async def test_a_users_balances_and_their_sums(stocked: Stocked) -> None:
    """Added up by type and currency, as the bank's books are."""
    found = await stocked.get("balances", user_ref="customer-1")
    sums: dict[tuple[str, str], Decimal] = {}
    for row in found["balances"]:
        kind = (row["type"], row["currency"])
        sums[kind] = sums.get(kind, Decimal(0)) + Decimal(row["amount"])

    assert {(one["type"], one["currency"]): Decimal(one["amount"]) for one in found["totals"]} == sums
    assert {one["stale"] for one in found["totals"]} == {0}
    ours = {row["account_id"] for row in (await stocked.get("accounts"))["accounts"]}
    assert set(found["freshness"]) == ours


async def test_balances_of_one_account(small: Stocked) -> None:
    """Rows, sums and freshness are of that account alone; an account without such a balance is counted as missing."""
    account_id = await small.account_id()
    found = await small.get("balances", account_id=account_id)
    whole = await small.get("balances", user_ref="customer-1")

    assert {row["account_id"] for row in found["balances"]} == set(found["freshness"]) == {account_id}
    assert {one["accounts"] for one in found["totals"]} == {1}
    accounts = len((await small.get("accounts"))["accounts"])
    assert all(one["missing"] + one["accounts"] <= accounts and one["missing"] >= 0 for one in whole["totals"])


async def test_a_customer_with_nothing_read_yet_is_told_why(small_web: WebHouse) -> None:
    """A connection whose first sync is still to come: no balance, and the reason."""
    consent = await small_web.connect()
    found = await Stocked(small_web, consent.connection_id).get("balances", user_ref="customer-1")

    assert (found["balances"], found["totals"]) == ([], [])
    assert found["freshness"][consent.connection_id]["accounts"]["stale_reason"] == "never_synced"


@pytest.mark.parametrize(
    ("path", "asked", "field"),
    [
        ("balances", {}, "user_ref"),
        ("accounts", {"as_of": "2026-01-01T00:00:00Z"}, "user_ref"),
        ("accounts", {"limit": 201}, "limit"),
        ("accounts", {"limit": 0}, "limit"),
        ("accounts", {"order": "newest"}, "order"),
        ("accounts", {"cursor": "x"}, "cursor"),
        ("accounts", {"include": "all"}, "include"),
        ("accounts", {"colour": "red"}, "colour"),
        ("accounts", {"user_ref": "a\x00b"}, "user_ref"),
        ("beneficiaries", {"order": "newest"}, "order"),
        ("transactions", {"limit": 501}, "limit"),
        ("transactions", {"from_date": "2026-13-01"}, "from_date"),
        ("transactions", {"to_date": "9999-12-31"}, "to_date"),
        ("transactions", {"amount_min": "1e999999"}, "amount_min"),
        ("transactions", {"amount_max": "0.000001"}, "amount_max"),
        ("transactions", {"amount_max": "NaN"}, "amount_max"),
        ("transactions", {"direction": "Sideways"}, "direction"),
        ("transactions", {"currency": "dirham"}, "currency"),
        ("transactions", {"text": ""}, "text"),
        ("transactions", {"user_ref": "customer-1", "as_of": "2999-01-01T00:00:00Z"}, "as_of"),
        ("transactions", {"user_ref": "customer-1", "as_of": "0001-01-01T00:00:00Z"}, "as_of"),
        ("transactions", {"user_ref": "customer-1", "as_of": "2026-01-01T00:00:00"}, "as_of"),
        ("runs", {"cursor": "x"}, "cursor"),
    ],
)
async def test_what_is_asked_wrongly_is_told_by_its_field(
    small_web: WebHouse, path: str, asked: Mapping[str, Any], field: str
) -> None:
    """422, before a row is read."""
    answer = await small_web.product.get(f"/v1/{path}", params=asked)
    assert (answer.status_code, {one["field"] for one in answer.json()["errors"]}) == (422, {field}), answer.text


async def test_a_filter_that_is_given_twice_is_refused(small_web: WebHouse) -> None:
    """It would be half ignored."""
    answer = await small_web.product.get("/v1/transactions?user_ref=a&user_ref=b")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "user_ref")


# -- transactions ----------------------------------------------------------------------------------------------------


async def test_transactions_are_filtered(stocked: Stocked) -> None:
    """Each filter gives the rows that a look at all of them gives."""
    every = await stocked.all("transactions", limit=500)
    some = next(row for row in every if row["merchant_name"] and row["counterparty_name"] is None)
    paid = next((row for row in every if row["counterparty_name"]), some)
    day = sorted(row["booking_date"] for row in every if row["booking_date"])[len(every) // 2]
    part = some["merchant_name"][1:6].swapcase()
    filters: dict[tuple[tuple[str, str], ...], Callable[[dict[str, Any]], bool]] = {
        (("account_id", some["account_id"]),): lambda row: row["account_id"] == some["account_id"],
        (("connection_id", stocked.connection_id),): lambda row: True,
        (("user_ref", "customer-1"), ("lfi", "sandbox")): lambda row: True,
        (("user_ref", "customer-2"),): lambda row: False,
        (("lfi", "elsewhere"),): lambda row: False,
        (("from_date", day),): lambda row: row["booking_date"] >= day,
        (("to_date", day),): lambda row: row["booking_date"] <= day,
        (("from_date", day), ("to_date", day)): lambda row: row["booking_date"] == day,
        (("status", "Booked"),): lambda row: row["status"] == "Booked",
        (("direction", "Credit"),): lambda row: row["credit_debit_indicator"] == "Credit",
        (("currency", "AED"),): lambda row: row["currency"] == "AED",
        (("currency", "USD"),): lambda row: row["currency"] == "USD",
        (("amount_min", some["amount"]),): lambda row: Decimal(row["amount"]) >= Decimal(some["amount"]),
        (("amount_max", some["amount"]),): lambda row: Decimal(row["amount"]) <= Decimal(some["amount"]),
        (("amount_min", "-50"), ("amount_max", "-10.5")): lambda row: (
            Decimal(-50) <= Decimal(row["amount"]) <= Decimal("-10.5")
        ),
        (("text", part),): lambda row: part.lower() in _said(row),
        (("text", "%"),): lambda row: "%" in _said(row),
        (("text", "_"),): lambda row: "_" in _said(row),
    }  # fmt: skip
    if paid["counterparty_name"]:
        name = paid["counterparty_name"]
        filters[(("text", name),)] = lambda row: name.lower() in _said(row)
    for asked, holds in filters.items():
        found = await stocked.all("transactions", limit=500, **dict(asked))
        assert [row["id"] for row in found] == [row["id"] for row in every if holds(row)], asked
    assert len(every) > 20


def _said(row: Mapping[str, Any]) -> str:
    return "|".join(row[name] or "" for name in LISTINGS["transactions"].text).lower()


async def test_transactions_come_newest_first_and_undated_ones_last(stocked: Stocked) -> None:
    """In pages of any size the same list, each row once; by id too."""
    every = await stocked.all("transactions", limit=500)
    async with stocked.web.store.writing() as unit:
        keys = [row["id"].partition(":")[2] for row in every[3:6]]
        undated = sa.update(tables.transaction).where(tables.transaction.c.key.in_(keys))
        await unit.connection.execute(undated.values(booking_date_time=None, booking_date=None))
        await unit.commit()
    whole = [row["id"] for row in await stocked.all("transactions", limit=500)]

    assert sorted(whole[-3:]) == sorted(row["id"] for row in every[3:6])
    assert whole[:-3] == [row["id"] for row in every if row["id"] not in whole[-3:]]
    dates = [row["booked_at"] for row in every]
    assert dates == sorted(dates, reverse=True)
    for limit in (7, len(whole) - 3, len(whole) - 1, len(whole)):
        assert [row["id"] for row in await stocked.all("transactions", limit=limit)] == whole
    by_id = [row["id"] for row in await stocked.all("transactions", limit=11, order="id")]
    assert (len(by_id), sorted(by_id)) == (len(whole), sorted(whole))


async def test_a_page_begins_behind_the_last_row_whatever_comes_and_goes(stocked: Stocked) -> None:
    """No row that stays is left out or shown twice, though rows before and behind the place come and go."""
    every = [row["id"] for row in await stocked.all("transactions", limit=500)]
    first = await stocked.get("transactions", limit=10)
    last_key = every[9].partition(":")[2]
    async with stocked.web.store.writing() as unit:
        table = tables.transaction
        at = await unit.now()
        shown_then = [one.partition(":")[2] for one in (every[2], every[12])]
        gone = sa.update(table).where(table.c.key.in_([*shown_then, last_key])).values(gone_at=at)
        await unit.connection.execute(gone)
        new = sa.select(*(
            sa.literal("zzz-new").label("key") if one.name == "key"
            else sa.literal(at + LATER, one.type).label(one.name) if one.name == "booking_date_time"
            else one
            for one in table.c
        )).where(table.c.key == every[0].partition(":")[2])  # fmt: skip
        await unit.connection.execute(sa.insert(table).from_select([one.name for one in table.c], new))
        await unit.commit()
    rest, cursor = list[str](), first["next_cursor"]
    while cursor is not None:
        found = await stocked.get("transactions", limit=10, cursor=cursor)
        rest, cursor = [*rest, *(row["id"] for row in found["transactions"])], found["next_cursor"]

    assert rest == [one for one in every[10:] if one != every[12]]


async def test_a_cursor_of_another_filter_is_refused(small: Stocked) -> None:
    """Also one of another order, another list, another time, and of a key that sees more."""
    cursor = (await small.get("transactions", limit=5, text="a"))["next_cursor"]
    key = await small.web.key([Scope.DATA_READ])
    for asked in ({}, {"text": "b"}, {"text": "a", "order": "id"}, {"text": "a", "user_ref": "customer-1"}):
        await small.get("transactions", expected=422, cursor=cursor, **asked)
    await small.get("beneficiaries", expected=422, cursor=cursor)
    await small.get("transactions", expected=422, cursor=cursor, text="a", key=key)
    await small.get("transactions", cursor=cursor, text="a")


# -- who may see what ------------------------------------------------------------------------------------------------


async def test_without_the_scope_for_personal_data_no_person_is_named(stocked: Stocked) -> None:
    """No name, account number or counterparty anywhere in any answer; masked numbers and all else are there."""
    hidden = secrets(stocked.web)
    key, plain = await stocked.web.key([Scope.DATA_READ, Scope.DATA_PERSONAL]), await stocked.web.key([Scope.DATA_READ])
    seen = set()
    for name, path in PATHS.items():
        asked = {"user_ref": "customer-1"} | ({} if name == "balances" else {"limit": 200})
        whole = await stocked.web.product.get(f"/v1/{path}", params=asked, headers=bearer(key))
        masked = await stocked.web.product.get(f"/v1/{path}", params=asked, headers=bearer(plain))
        assert (whole.status_code, masked.status_code) == (200, 200)
        seen |= {one for one in hidden if one in whole.text}
        assert {one for one in hidden if one in masked.text} == set(), name
        for member in personal_members(LISTINGS[name].view):
            assert {row[member] for row in masked.json()[name]} == {None}
        kept = set(members(LISTINGS[name].view)) - personal_members(LISTINGS[name].view)
        for one, other in zip(whole.json()[name], masked.json()[name], strict=True):
            assert {member: one[member] for member in kept} == {member: other[member] for member in kept}
    assert any(one.startswith("AE") for one in seen)
    assert len(seen) > 10
    accounts = await stocked.get("accounts", key=plain)
    numbers = [one for row in accounts["accounts"] for one in row["identifiers"]]
    assert any(re.fullmatch(r"AE\d\d\*+\d{4}", one["identification"]) for one in numbers if one["scheme"] == "IBAN")
    assert {one["name"] for one in numbers} == {None}


async def test_a_text_is_not_looked_for_in_what_a_key_does_not_see(small: Stocked) -> None:
    """By and by the answers would tell a name."""
    plain = await small.web.key([Scope.DATA_READ])
    every = await small.all("transactions", limit=500)
    told = next(row for row in every if row["transaction_information"] and not row["merchant_name"])
    text = told["transaction_information"]

    assert (await small.get("transactions", text=text))["transactions"]
    assert (await small.get("transactions", text=text, key=plain))["transactions"] == []
    merchant = next(row["merchant_name"] for row in every if row["merchant_name"])
    assert (await small.get("transactions", text=merchant, key=plain))["transactions"]


async def test_items_as_sent_need_a_scope_of_their_own(stocked: Stocked) -> None:
    """With it each row has its item, exactly; without it 403.  It includes leave to see who people are."""
    raw = await stocked.web.key([Scope.DATA_READ, Scope.DATA_RAW])
    less = await stocked.web.key([Scope.DATA_READ, Scope.DATA_PERSONAL])
    for name, path in PATHS.items():
        if name == "balance_history":
            continue
        asked: dict[str, Any] = {"user_ref": "customer-1", "include": "raw"}
        refused = await stocked.get(path, key=less, expected=403, **asked)
        assert (refused["code"], "data:raw" in refused["detail"]) == ("scope_missing", True)
        rows = (await stocked.get(path, key=raw, **asked))[name]
        sent = [item for one in ({"parties", "account_parties"} if name == "parties" else {LISTINGS[name].resource})
                for item in items(stocked.web, str(one))]  # fmt: skip
        assert rows
        assert all(any(_same(row["raw"], one) for one in sent) for row in rows), name
    accounts = await stocked.get("accounts", key=raw)
    assert "*" not in str(accounts["accounts"][0]["identifiers"][0]["identification"])


def _same(one: Any, other: Any) -> bool:
    """The same JSON, amounts as numbers or texts."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) or str(one) == str(other)


async def test_each_route_needs_its_scope(small_web: WebHouse) -> None:
    """A key with every other scope is refused."""
    key = await small_web.key([one for one in Scope if one is not Scope.DATA_READ])
    for path in (*PATHS.values(), "runs", "lfis"):
        answer = await small_web.product.get(f"/v1/{path}?", headers=bearer(key))
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing"), path


async def test_an_ended_connection_is_restricted(stocked: Stocked) -> None:
    """Asked for by id: 403 with the way on; asked for by user or not at all: its rows are not there."""
    account_id = await stocked.account_id()
    await stocked.change(tables.connection, restricted_at=datetime.now(UTC))
    for name, path in PATHS.items():
        for asked in ({"connection_id": stocked.connection_id}, {"account_id": account_id}):
            refused = await stocked.get(path, expected=403, **asked)
            assert (refused["code"], "renew" in refused["fix"]) == ("restricted", True), path
        found = await stocked.get(path, user_ref="customer-1")
        assert (found[name], found["freshness"]) == ([], {}), path
        (left_out,) = found["left_out"]
        assert (left_out["connection_id"], left_out["reason"]) == (stocked.connection_id, "consent_ended"), path
        assert left_out["since"].endswith("Z")
        if name != "balances":
            every = await stocked.get(path)
            assert (every[name], every["left_out"]) == ([], [])  # of one user alone
    for path in ("accounts", "balances", "transactions"):
        refused = await stocked.get(path, expected=403, connection_id=stocked.connection_id, as_of=_ago(seconds=1))
        assert refused["code"] == "restricted"
        then = await stocked.get(path, user_ref="customer-1", as_of=_ago(seconds=1))
        assert (then[path], [one["connection_id"] for one in then["left_out"]]) == ([], [stocked.connection_id])
    assert (await stocked.get("runs", connection_id=stocked.connection_id))["runs"]


async def test_what_is_unknown_or_anothers_is_not_found(
    small: Stocked, sqlite_url: str, open_store: Callable[..., Store]
) -> None:
    """By connection and by account; the same words for both."""
    account_id = await small.account_id()
    async with small.web.store.writing() as unit:
        for table in (tables.connection, tables.account_reference):
            moved = sa.select(*(sa.literal("another") if one.name == "tenant" else one for one in table.c))
            rows = [tuple(row) for row in await unit.connection.execute(moved)]
            for row in rows:
                values = dict(zip((one.name for one in table.c), row, strict=True))
                changed = {"connection_id": f"x-{values['connection_id']}"}
                if "account_id" in values:
                    changed["account_id"] = "acc_x" + values["account_id"][5:]
                await unit.connection.execute(sa.insert(table).values(values | changed))
        await unit.commit()
    for path in PATHS.values():
        answers = [
            await small.get(path, expected=404, **asked)
            for asked in (
                {"connection_id": f"x-{small.connection_id}"},
                {"connection_id": "unknown"},
                {"account_id": "acc_x" + account_id[5:]},
                {"account_id": "acc_unknown"},
                {"account_id": account_id, "connection_id": "unknown"},
            )
        ]
        assert {one["code"] for one in answers} == {"not_found"}
        assert answers[0]["detail"] == answers[1]["detail"]
        assert answers[2]["detail"] == answers[3]["detail"]
    await small.get("runs", expected=404, connection_id=f"x-{small.connection_id}")


# -- ETags -----------------------------------------------------------------------------------------------------------


async def test_an_answer_that_did_not_change_is_not_sent_again(stocked: Stocked) -> None:
    """Weak ETag over all but the ages: 304 until a row or a check changes; nothing is kept by caches."""
    product = stocked.web.product
    for path in ("balances?user_ref=customer-1", "transactions?limit=5", "accounts", "runs", "lfis"):
        first = await product.get(f"/v1/{path}")
        etag = first.headers["etag"]
        assert etag.startswith('W/"')
        assert first.headers["cache-control"] == "no-store"
        for named in (etag, f'"other", {etag}', etag.removeprefix("W/"), "*"):
            same = await product.get(f"/v1/{path}", headers={"if-none-match": named})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag), path
        other = await product.get(f"/v1/{path}", headers={"if-none-match": 'W/"other"'})
        assert other.status_code == 200
    before = (await product.get("/v1/balances?user_ref=customer-1")).headers["etag"]
    await stocked.change(tables.balance, signed_amount=Decimal("1.25"))
    after = await product.get("/v1/balances?user_ref=customer-1", headers={"if-none-match": before})
    assert after.status_code == 200
    assert {row["amount"] for row in after.json()["balances"]} == {"1.25"}


async def test_a_key_that_sees_less_has_another_etag(small: Stocked) -> None:
    """What one key was shown says nothing to another."""
    plain = await small.web.key([Scope.DATA_READ])
    whole = await small.web.product.get("/v1/accounts")
    answer = await small.web.product.get(
        "/v1/accounts", headers={**bearer(plain), "if-none-match": whole.headers["etag"]}
    )
    assert answer.status_code == 200


# -- what was known ---------------------------------------------------------------------------------------------------


async def test_what_was_known_then(stocked: Stocked) -> None:
    """Before the first sync nothing; then what is shown now; after a change both, each at its time."""
    for name in ("accounts", "balances", "transactions"):
        asked: dict[str, Any] = {"user_ref": "customer-1"} | ({} if name == "balances" else {"limit": 200})
        now = await stocked.get(PATHS[name], **asked)
        then = await stocked.get(PATHS[name], **asked, as_of=_ago(seconds=-0.0))
        before = await stocked.get(PATHS[name], **asked, as_of=_ago(days=1))
        unknown = {"first_seen_at", "checked_at", "missed_since"}
        assert [_without(row, unknown) for row in then[name]] == [_without(row, unknown) for row in now[name]]
        assert (before[name], before["freshness"], then["freshness"]) == ([], {}, {})
        if name == "balances":
            assert [one | {"stale": 0} for one in then["totals"]] == now["totals"]
            assert before["totals"] == []


async def test_what_was_known_comes_in_pages_and_through_filters(small: Stocked) -> None:
    """As now, with cursors of its own."""
    at = _ago(seconds=0)
    asked: dict[str, Any] = {"user_ref": "customer-1", "direction": "Debit", "text": "a"}
    now = [row["id"] for row in await small.all("transactions", limit=500, **asked)]
    then = [row["id"] for row in await small.all("transactions", limit=7, as_of=at, **asked)]
    cursor = (await small.get("transactions", limit=7, as_of=at, **asked))["next_cursor"]

    assert then == now
    assert len(now) > 7
    await small.get("transactions", expected=422, cursor=cursor, limit=7, **asked)


async def test_a_change_is_seen_from_its_time_on(small: Stocked) -> None:
    """A balance that the bank changed: the old one before, the new one since."""
    web = small.web
    account = web.bank.bank.account_of(web.bank.users[0]).account_id
    at = _ago(seconds=0)
    web.bank.bank.change_balance(account, amount="-17.125")
    await resynced(small)
    old = {
        row["id"]: row["amount"] for row in (await small.get("balances", user_ref="customer-1", as_of=at))["balances"]
    }
    new = {row["id"]: row["amount"] for row in (await small.get("balances", user_ref="customer-1"))["balances"]}
    later = await small.get("balances", user_ref="customer-1", as_of=_ago(seconds=0))

    assert "-17.125" in new.values()
    assert "-17.125" not in old.values()
    assert old.keys() == new.keys()
    assert {row["id"]: row["amount"] for row in later["balances"]} == new


async def resynced(stocked: Stocked) -> None:
    from syncworker import wiring

    application = await wiring.build_application(stocked.web.settings)
    try:
        assert await application.sync_now(stocked.connection_id) is not None  # type: ignore[arg-type]
    finally:
        await application.close()


# -- runs and LFIs ---------------------------------------------------------------------------------------------------


async def test_runs_say_what_was_done(stocked: Stocked) -> None:
    """Newest first, in pages; outcomes and counts, no row of data."""
    await resynced(stocked)
    rows = (await stocked.get("runs"))["runs"]
    first = await stocked.get("runs", limit=1, connection_id=stocked.connection_id)
    second = await stocked.get("runs", limit=1, connection_id=stocked.connection_id, cursor=first["next_cursor"])

    assert [row["run_id"] for row in rows] == sorted((row["run_id"] for row in rows), reverse=True)
    assert len(rows) == 2
    assert [*first["runs"], *second["runs"]] == rows
    assert rows[-1]["added"] > 20
    assert rows[-1]["calls"] > 5
    assert second["next_cursor"] is None
    await stocked.get("runs", expected=422, cursor=first["next_cursor"])


async def test_lfis_say_how_they_stand(small_web: WebHouse) -> None:
    """Open; gated after a 429, since when and until when."""
    (one,) = (await small_web.product.get("/v1/lfis")).json()["lfis"]
    until = datetime.now(UTC) + timedelta(hours=1)
    async with small_web.store.writing() as unit:
        await unit.lfis.close_gate(Slug("sandbox"), until=until)
        await unit.commit()
    (gated,) = (await small_web.product.get("/v1/lfis")).json()["lfis"]

    assert (one["lfi"], one["state"], one["since"], one["until"], one["reason"]) == (
        "sandbox",
        "open",
        None,
        None,
        None,
    )
    assert one["versions"]
    assert (gated["state"], datetime.fromisoformat(gated["until"])) == ("gated", until)
    assert gated["since"] is not None


# -- pace ------------------------------------------------------------------------------------------------------------


async def test_reads_have_a_pace_of_their_own(open_house: Opener, sqlite_url: str) -> None:
    """A product that reads too fast can still ask for consents, and the other way round."""
    slow = WEB.replace("key_per_second = 1000", "key_per_second = 1\nreads_per_second = 2")
    web = await open_house(sqlite_url, web=slow, timer=lambda: 1.0)
    reads = [(await web.product.get("/v1/lfis")).status_code for _ in range(22)]
    others = [(await web.product.get("/v1/connections")).status_code for _ in range(12)]

    assert (reads, others) == ([200] * 21 + [429], [200] * 11 + [429])


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _ago(**by: float) -> str:
    return (datetime.now(UTC) - timedelta(**by)).isoformat()


def _without(row: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
