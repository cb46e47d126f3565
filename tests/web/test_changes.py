"""`GET /v1/changes`: what a mirror is told, what it is not, and what it is told when its cursor leads nowhere."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.feed import read
from syncworker.opening import load_keyring
from syncworker.standard.values import ConsentId
from syncworker.store.api_keys import Scope
from syncworker.store.changes import MARKER_FROM
from syncworker.store.erasure import DataClass
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock
from tests.web.house import WebHouse
from tests.web.kept import IBAN, Kept

PATH = "/v1/changes"
MANY: dict[str, dict[str, Any]] = {f"t{number:02}": {} for number in range(MARKER_FROM + 5)}
MEMBERS = {
    "op", "history", "resource", "list", "id", "connection_id", "account_id", "at", "previous_status", "classes",
    "item",
}  # fmt: skip


@dataclass
class Feed:
    """The web process and what syncs into its database."""

    web: WebHouse
    store: Store
    clock: ManualClock

    async def kept(self, number: int = 1, *, user_ref: str = "customer-1", **facts: Any) -> Kept:
        """A connection, agreed to and not synced yet."""
        connection_id = ConsentId(f"c0ffee00-0000-4000-8000-{number:012}")
        made = Kept(self.store, self.clock, connection_id, user_ref, **facts)
        await made.file()
        return made

    async def page(self, cursor: str | None = None, *, key: str | None = None, **query: Any) -> dict[str, Any]:
        """One page, which must be answered."""
        answer = await self.get(cursor, key=key, **query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        found: dict[str, Any] = answer.json()
        return found

    async def get(self, cursor: str | None = None, *, key: str | None = None, **query: Any) -> Any:
        asked = query | ({} if cursor is None else {"cursor": cursor})
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return await self.web.product.get(PATH, params=asked, headers=headers)

    async def now(self, **query: Any) -> str:
        page = await self.page("now", **query)
        assert (page["changes"], page["has_more"], page["lag_seconds"]) == ([], False, 0)
        cursor: str = page["next_cursor"]
        return cursor


@pytest.fixture
async def feed(web: WebHouse, database_url: str, open_store: Callable[..., Store]) -> Feed:
    """A web process, and a clock for what is synced."""
    clock = ManualClock()
    return Feed(web, open_store(database_url, keyring=load_keyring(web.settings), clock=clock), clock)


def told(page: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(one["op"], one["list"], (one["id"] or "").partition(":")[2] or None) for one in page["changes"]]


async def test_changes_name_rows_as_the_lists_do(feed: Feed) -> None:
    """The item of a change is the row of its list; ids are ours; a party of the connection has the connection's."""
    kept = await feed.kept(transactions={"1001": {"t1": {}}}, balances={"1001": "7.00"})
    await kept.sync()
    page = await feed.page()
    items = {(one["list"], one["id"]): one["item"] for one in page["changes"]}
    assert all(set(one) == MEMBERS for one in page["changes"])
    assert {one["op"] for one in page["changes"]} == {"added"}
    (account,) = (await feed.web.product.get("/v1/accounts")).json()["accounts"]
    asked = {"connection_id": kept.connection_id}
    for name in ("accounts", "transactions", "balances", "parties"):
        listed = (await feed.web.product.get(f"/v1/{name}", params=asked)).json()[name]
        assert listed, name
        assert {row["id"]: row for row in listed} == {id_: item for (of, id_), item in items.items() if of == name}
    assert account["identifiers"][0]["identification"] == IBAN
    assert (account["account_id"] + ":t1") in {id_ for _, id_ in items}
    assert ("parties", f"{kept.connection_id}:p1") in items


async def test_a_page_ends_inside_a_marker_and_begins_again_there(feed: Feed) -> None:
    """Many new rows are one row of the feed; readers meet each of them once, as history of the first walk."""
    kept = await feed.kept(transactions={"1001": MANY})
    await kept.sync()
    found, cursor = [], None
    while True:
        page = await feed.page(cursor, limit=4, resources="transactions")
        found += page["changes"]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert [one["id"].partition(":")[2] for one in found] == sorted(MANY)
    assert {(one["op"], one["history"]) for one in found} == {("added", True)}
    kept.transactions["1001"] = MANY | {f"u{number:02}": {} for number in range(MARKER_FROM)}
    await kept.sync()
    news = await feed.page(cursor, resources="transactions")
    assert {(one["op"], one["history"]) for one in news["changes"]} == {("added", False)}


async def test_pending_to_booked_says_so_and_repeats_are_one_change(feed: Feed) -> None:
    """Under one id a transaction is modified; what came and went between two pages is removed, once."""
    kept = await feed.kept(transactions={"1001": {"t1": {"Status": "Pending"}, "t2": {"Status": "Pending"}}})
    await kept.sync()
    cursor = await feed.now()
    kept.transactions["1001"] = {"t1": {}, "t2": {"Status": "Pending"}, "goes": {}}
    await kept.sync()
    kept.transactions["1001"] = {"t1": {"TransactionInformation": "tea"}, "t3": {}}
    await kept.sync()
    page = await feed.page(cursor)
    assert sorted(told(page)) == [
        ("added", "transactions", "t3"),
        ("modified", "transactions", "t1"),
        ("removed", "transactions", "goes"),
        ("removed", "transactions", "t2"),
    ]
    booked = next(one for one in page["changes"] if one["op"] == "modified")
    assert booked["previous_status"] == "Pending"
    assert (booked["item"]["status"], booked["item"]["transaction_information"]) == ("Booked", "tea")
    assert [one["item"] for one in page["changes"] if one["op"] == "removed"] == [None, None]


async def test_a_page_is_the_same_under_its_cursor_while_writers_go_on(feed: Feed) -> None:
    """Which rows it is about and where it ends; what they say is what they say now."""
    kept = await feed.kept(transactions={"1001": {f"t{number}": {} for number in range(6)}})
    await kept.sync()
    first = await feed.page(limit=3)
    for turn in range(3):
        kept.transactions["1001"] |= {f"u{turn}": {}}
        await kept.sync()
        again = await feed.page(limit=3)
        assert (told(again), again["next_cursor"]) == (told(first), first["next_cursor"])
    cursor, seen = first["next_cursor"], told(first)
    while True:
        page = await feed.page(cursor, limit=3)
        cursor, seen = page["next_cursor"], seen + told(page)
        if not page["has_more"]:
            break
    assert len(seen) == len(set(seen)) == 2 + 6 + 3


async def test_the_end_of_the_consent_is_one_restricted(feed: Feed) -> None:
    """Nothing of the connection's rows is told behind it; its feed is still there to be asked for."""
    kept = await feed.kept(transactions={"1001": MANY})
    await kept.sync()
    cursor = await feed.now(connection_id=kept.connection_id)
    kept.transactions["1001"] = {"t99": {}}
    await kept.sync()
    await kept.end()
    page = await feed.page(cursor, connection_id=kept.connection_id)
    (one,) = page["changes"]
    assert (one["op"], one["connection_id"]) == ("restricted", kept.connection_id)
    assert {name for name, value in one.items() if value is None} == MEMBERS - {
        "op", "history", "connection_id", "at"
    }  # fmt: skip
    assert page["connections"] == {}
    whole = await feed.page(connection_id=kept.connection_id)
    assert [one["op"] for one in whole["changes"]] == ["restricted"]


async def test_an_erasure_is_told_once_a_class(feed: Feed) -> None:
    """So that a mirror destroys the same."""
    kept = await feed.kept(transactions={"1001": {"t1": {}}})
    await kept.sync()
    cursor = await feed.now()
    await kept.erase()
    page = await feed.page(cursor)
    assert [(one["op"], one["classes"]) for one in page["changes"]] == [
        ("erased", [DataClass.PERSONAL.value]),
        ("erased", [DataClass.DATA.value]),
    ]


async def test_an_account_that_comes_back_brings_its_rows(feed: Feed) -> None:
    """While the LFI shows it no more, no list has its rows, and the feed has none of them either."""
    kept = await feed.kept(accounts=["1001", "1002"], transactions={"1001": MANY, "1002": {"t1": {}}})
    await kept.sync()
    cursor = await feed.now()
    kept.accounts = ["1002"]
    await kept.sync()
    gone = await feed.page(cursor)
    assert told(gone) == [("removed", "accounts", None)]
    assert {one["op"] for one in (await feed.page(resources="transactions"))["changes"]} == {"removed", "added"}
    kept.accounts = ["1001", "1002"]
    await kept.sync()
    back = await feed.page(gone["next_cursor"])
    (account,) = [one for one in back["changes"] if one["list"] == "accounts"]
    assert account["account_id"] == gone["changes"][0]["account_id"]
    rows = [one for one in back["changes"] if one["list"] == "transactions"]
    assert [one["id"] for one in rows] == [f"{account['account_id']}:{key}" for key in sorted(MANY)]
    assert all(one["history"] for one in rows)


async def test_filters_and_their_cursors(feed: Feed) -> None:
    """By connection, user and resource; a cursor goes on with its own filter alone."""
    one = await feed.kept(1, transactions={"1001": {"t1": {}}})
    two = await feed.kept(2, user_ref="customer-2", transactions={"1001": {"t2": {}}})
    await one.sync()
    await two.sync()
    for query in ({"connection_id": two.connection_id}, {"user_ref": "customer-2"}):
        page = await feed.page(**query)
        assert {change["connection_id"] for change in page["changes"]} == {two.connection_id}
        assert (await feed.page(page["next_cursor"], **query))["changes"] == []
        other = await feed.get(page["next_cursor"])
        assert (other.status_code, other.json()["code"]) == (422, "cursor_filter")
    both = await feed.page(resources="transactions,parties")
    assert {change["list"] for change in both["changes"]} == {"transactions", "parties"}
    assert (await feed.page(user_ref="unknown"))["changes"] == []


async def test_a_cursor_of_another_history_or_of_no_feed_is_unknown(feed: Feed) -> None:
    """410 with the way to begin again, and nothing of what was sent."""
    cursor = await feed.now()
    await feed.store.atomically(lambda unit: unit.epochs.look())
    another = sa.text("UPDATE feed_epoch SET epoch = epoch + 1")  # as the first process does after a restore
    await feed.store.atomically(lambda unit: unit.connection.execute(another))
    for one in (cursor, "bm9uZQ", cursor[:-3], "%00"):
        answer = await feed.get(one)
        assert (answer.status_code, answer.json()["code"]) == (410, "cursor_unknown")
        assert "cursor=now" in answer.json()["fix"]
        assert one not in answer.text


async def test_a_cursor_older_than_what_is_kept_is_told_so(feed: Feed) -> None:
    """410 `cursor_too_old`; the newest cursor goes on."""
    kept = await feed.kept(transactions={"1001": {"t1": {}, "t2": {}}})
    await kept.sync()
    old = (await feed.page(limit=1))["next_cursor"]
    feed.clock.advance(days=60)
    kept.transactions["1001"] |= {"t3": {}}
    await kept.sync()
    newest = await feed.now()
    before = feed.clock.now() - timedelta(days=1)
    await feed.store.atomically(lambda unit: unit.changes.prune(before=before, limit=1000))
    answer = await feed.get(old)
    assert (answer.status_code, answer.json()["code"]) == (410, "cursor_too_old")
    assert "cursor=now" in answer.json()["fix"]
    assert (await feed.page(newest))["changes"] == []
    assert told(await feed.page()) == [("added", "transactions", "t3")]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 501}, "limit"),
        ({"resources": "transactions,none_such"}, "resources"),
        ({"resources": ""}, "resources"),
        ({"cursor": ""}, "cursor"),
        ({"cursor": "x" * 5000}, "cursor"),
        ({"since": "now"}, "since"),
        ({"connection_id": ["a", "b"]}, "connection_id"),
    ],
)
async def test_bad_requests_name_the_field(feed: Feed, query: dict[str, Any], field: str) -> None:
    """422, and nothing of what was sent."""
    answer = await feed.web.product.get(PATH, params=query)
    assert answer.status_code == 422, answer.text
    assert [one["field"] for one in answer.json()["errors"]] == [field]


async def test_what_a_key_may_not_see_is_not_shown(feed: Feed) -> None:
    """Without changes:read nothing; without data:read no item; without data:personal no name or number."""
    kept = await feed.kept(transactions={"1001": {"t1": {"TransactionInformation": "to B. Person"}}})
    await kept.sync()
    refused = await feed.get(key=await feed.web.key([Scope.DATA_READ]))
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    bare = await feed.page(key=await feed.web.key([Scope.CHANGES_READ]))
    assert [one["op"] for one in bare["changes"]] == ["added"] * 3
    assert {one["item"] for one in bare["changes"]} == {None}
    key = await feed.web.key([Scope.CHANGES_READ, Scope.DATA_READ])
    masked = await feed.get(key=key)
    for secret in (IBAN, "Person", "Holidays"):
        assert secret not in masked.text
        assert secret in (await feed.get()).text


async def test_another_tenant_has_another_feed(feed: Feed, database_url: str, open_store: Callable[..., Store]) -> None:
    """Its connection is not found, its cursor is unknown, its changes are in no page."""
    keyring = load_keyring(feed.web.settings)
    theirs = Feed(feed.web, open_store(database_url, tenant="another", keyring=keyring, clock=feed.clock), feed.clock)
    kept = await theirs.kept(7)
    await kept.sync()
    assert (await feed.page())["changes"] == []
    answer = await feed.get(connection_id=kept.connection_id)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    async with theirs.store.looking() as unit:
        cursor = await read.now(unit)
    assert (await feed.get(cursor)).json()["code"] == "cursor_unknown"


async def test_a_page_says_how_far_its_connections_have_come(feed: Feed) -> None:
    """Not before a sync went well; the history is complete once it is read back as far as is wanted."""
    kept = await feed.kept(transactions={"1001": {"t1": {}}})
    await kept.sync()
    before = (await feed.page())["connections"][kept.connection_id]
    await kept.ran("failed")
    failed = (await feed.page())["connections"][kept.connection_id]
    await kept.ran("ok")
    page = await feed.page()
    assert before == failed == {"initial_complete": False, "history_complete": False}
    assert page["connections"][kept.connection_id]["initial_complete"] is True
    await feed.store.atomically(
        lambda unit: unit.connection.execute(sa.text("UPDATE cursor SET backfilled_to = '2020-01-01'"))
    )
    assert (await feed.page())["connections"][kept.connection_id]["history_complete"] is True


async def test_pages_of_many_readers_come_together(feed: Feed) -> None:
    """Readers at different places do not disturb one another."""
    kept = await feed.kept(transactions={"1001": MANY})
    await kept.sync()
    pages = await asyncio.gather(*(feed.page(limit=limit) for limit in (1, 5, 500)))
    assert [len(one["changes"]) for one in pages] == [1, 5, 2 + len(MANY)]
