"""The cursor in a webhook leads to the changes it tells, and accounts in webhooks have our ids."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from syncworker.delivery.job import Delivering
from syncworker.delivery.sending import Posting
from syncworker.opening import load_keyring
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.messages import MessageType
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind
from syncworker.wiring import cursor_of_connection
from tests.delivery.receiver import Product, product
from tests.ground.clock import ManualClock
from tests.web.house import WebHouse
from tests.web.kept import Kept


@dataclass
class Pointed:
    """A product with an endpoint, a web process it asks, and a connection that syncs."""

    product: Product
    delivering: Delivering
    endpoint_id: str
    kept: Kept
    web: WebHouse

    async def deliver(self) -> list[Any]:
        """What the endpoint was sent with one claim: contents."""
        before = len(self.product.received)
        await self.delivering.deliver(Claim(1, WorkKind.DELIVERY, self.endpoint_id, Slug("x"), 1))
        return [one.content for one in self.product.received[before:]]

    async def changes(self, cursor: str, connection_id: str) -> list[tuple[str, str]]:
        """Behind a cursor, of one connection: op and key."""
        asked = {"cursor": cursor, "connection_id": connection_id}
        answer = await self.web.product.get("/v1/changes", params=asked)
        assert answer.status_code == 200, answer.text
        return [(one["op"], one["id"].partition(":")[2]) for one in answer.json()["changes"]]


@pytest.fixture
async def pointed(
    web: WebHouse, database_url: str, open_store: Callable[..., Store], clock: ManualClock
) -> AsyncIterator[Pointed]:
    """All of them on one database."""
    store = open_store(database_url, keyring=load_keyring(web.settings), clock=clock)
    kept = Kept(store, clock, ConsentId("c0ffee00-0000-4000-8000-000000000001"))
    await kept.file()
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(product())
        posting = Posting(clock=clock, timeout_s=2, allow_private_hosts=True)
        stack.push_async_callback(posting.close)
        delivering = Delivering(
            store, posting, give_up=timedelta(days=3), keep=timedelta(days=30), places=cursor_of_connection
        )
        endpoint, _ = await store.atomically(lambda unit: unit.messages.add_endpoint(made.url, at=clock.now()))
        yield Pointed(made, delivering, endpoint.endpoint_id, kept, web)


async def test_the_cursor_of_a_message_gives_the_changes_it_tells(pointed: Pointed) -> None:
    """All of them and none before, among changes of other connections; after later syncs what these brought too."""
    kept = pointed.kept
    kept.transactions = {"1001": {"t1": {}}}
    await kept.sync()
    (added, first) = await pointed.deliver()
    kept.transactions["1001"] |= {"t2": {}, "t1": {"TransactionInformation": "tea"}}
    await kept.sync()
    (second,) = await pointed.deliver()
    whose = kept.connection_id
    assert added["type"] == MessageType.ACCOUNT_ADDED
    assert sorted(await pointed.changes(second["data"]["cursor"], whose)) == [("added", "t2"), ("modified", "t1")]
    assert sorted(await pointed.changes(first["data"]["cursor"], whose)) == [
        ("added", ""), ("added", "p1"), ("added", "t1"), ("added", "t2"),
    ]  # fmt: skip


async def test_the_cursor_of_folded_messages_is_the_earliest(pointed: Pointed) -> None:
    """One message for two syncs: from its cursor on come the changes of both."""
    kept = pointed.kept
    await kept.sync()
    await pointed.deliver()
    for key in ("t1", "t2"):
        kept.transactions = {"1001": kept.transactions.get("1001", {}) | {key: {}}}
        await kept.sync()
    (one,) = await pointed.deliver()
    assert one["data"]["counts"]["transactions"]["added"] == 2
    assert await pointed.changes(one["data"]["cursor"], kept.connection_id) == [("added", "t1"), ("added", "t2")]


async def test_a_message_whose_changes_were_erased_points_to_what_is_left(pointed: Pointed) -> None:
    """Erasure destroys the changes of the sync; the next message still has a cursor, and it is read."""
    kept = pointed.kept
    kept.transactions = {"1001": {"t1": {}}}
    await kept.sync()
    await kept.erase()
    sent = await pointed.deliver()
    cursors = [one["data"]["cursor"] for one in sent if one["type"] == MessageType.UPDATES_AVAILABLE]
    assert cursors == [None]
    kept.transactions = {"1001": {"t2": {}}}
    await kept.sync()
    (*_, last) = await pointed.deliver()
    assert ("added", "t2") in await pointed.changes(last["data"]["cursor"], kept.connection_id)


async def test_messages_of_accounts_name_them_as_the_lists_do(pointed: Pointed) -> None:
    """Ours beside the LFI's, when it comes and when it goes."""
    kept = pointed.kept
    kept.accounts = ["1001", "1002"]
    await kept.sync()
    told = [one["data"] for one in await pointed.deliver() if one["type"] == MessageType.ACCOUNT_ADDED]
    listed = (await pointed.web.product.get("/v1/accounts")).json()["accounts"]
    assert {one["lfi_account_id"]: one["account_id"] for one in told} == {
        row["lfi_account_id"]: row["account_id"] for row in listed
    }
    kept.accounts = ["1002"]
    await kept.sync()
    (gone,) = [one["data"] for one in await pointed.deliver() if one["type"] == MessageType.ACCOUNT_REMOVED]
    assert gone in told
