"""Messages reach the product: signed, in order for each connection, at least once, and until it says no."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from syncworker.delivery.job import Delivering, folded
from syncworker.delivery.sending import Posting, check_url
from syncworker.errors import RequestError
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.consents import Connection
from syncworker.store.messages import Disabled, Endpoint, MessageType
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from tests.delivery.receiver import Product, product
from tests.ground.clock import ManualClock

C1, C2 = "c1", "c2"


@dataclass
class House:
    """A product, an endpoint of it, and what delivers to it."""

    store: Store
    clock: ManualClock
    product: Product
    delivering: Delivering
    endpoint: Endpoint
    secret: str
    told: list[str] = field(default_factory=list)

    async def tell(self, what: MessageType = MessageType.CONSENT_PAUSED, connection_id: str = C1, **data: Any) -> None:
        """Write a message as product code does."""

        async def step(unit: UnitOfWork) -> None:
            unit.messages.tell(what, data, connection_id=connection_id, at=await unit.now())

        await self.store.atomically(step)

    async def deliver(self) -> str:
        """One claim: the word it ended with."""
        _, word = await self.delivering.deliver(Claim(1, WorkKind.DELIVERY, self.endpoint.endpoint_id, Slug("x"), 1))
        return word

    async def due(self) -> list[str]:
        """Endpoints that are due now."""
        async with self.store.reading() as unit:
            return await unit.messages.due_endpoints(now=await unit.now())

    async def outcomes(self) -> list[str | None]:
        """What became of each message, oldest first."""
        async with self.store.reading() as unit:
            return [one.outcome for one in reversed(await unit.messages.find(limit=100))]

    async def stands(self) -> Endpoint:
        """The endpoint as it is now."""
        async with self.store.reading() as unit:
            found = await unit.messages.endpoint(self.endpoint.endpoint_id)
        assert found is not None
        return found


@pytest.fixture
async def house(store: Store, clock: ManualClock) -> AsyncIterator[House]:
    """A product that takes everything."""
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(product())
        posting = Posting(clock=clock, timeout_s=2, allow_private_hosts=True)
        stack.push_async_callback(posting.close)
        delivering = Delivering(store, posting, give_up=timedelta(days=3), keep=timedelta(days=30))

        async def step(unit: UnitOfWork) -> tuple[Endpoint, str]:
            at = await unit.now()
            for name in (C1, C2):
                await unit.consents.add_connection(
                    Connection(
                        connection_id=ConsentId(name),
                        lfi=Slug("bank"),
                        user_ref=f"customer-{name}",
                        created_at=at,
                        last_data_at=None,
                    )
                )
            endpoint, secret = await unit.messages.add_endpoint(made.url, at=at)
            return endpoint, secret.get_secret_value()

        endpoint, secret = await store.atomically(step)
        yield House(store, clock, made, delivering, endpoint, secret)


async def test_a_message_is_signed_and_names_the_customer(house: House) -> None:
    """The receiver's own library takes it; the body says type, time, connection and customer."""
    await house.tell(consent_id="c1")
    assert await house.due() == [house.endpoint.endpoint_id]
    assert await house.deliver() == "delivered"
    (came,) = house.product.received
    content = came.verified(house.secret)
    assert content["type"] == "consent.paused"
    assert content["data"] == {"connection_id": "c1", "user_ref": "customer-c1", "consent_id": "c1"}
    assert await house.due() == []
    assert await house.outcomes() == ["delivered"]


async def test_every_living_secret_signs(house: House) -> None:
    """While a receiver changes over, it may check with the old secret or the new one."""
    new = await house.store.atomically(lambda unit: unit.messages.add_secret(house.endpoint.endpoint_id))
    assert new is not None
    await house.tell()
    await house.deliver()
    (came,) = house.product.received
    came.verified(house.secret)
    came.verified(new.get_secret_value())
    assert await house.store.atomically(lambda unit: unit.messages.drop_old_secrets(house.endpoint.endpoint_id)) == 1
    await house.tell()
    await house.deliver()
    house.product.received[-1].verified(new.get_secret_value())
    with pytest.raises(Exception, match="No matching signature"):
        house.product.received[-1].verified(house.secret)


async def test_messages_of_a_connection_come_in_order_and_one_that_fails_holds_back_only_its_own(house: House) -> None:
    """c1's first message is refused: what is behind it waits; all of c2's arrive."""
    house.product.answer = lambda came: 500 if came.content["data"].get("poison") else 204
    await house.tell(connection_id=C1, poison=True)
    await house.tell(connection_id=C1, number=2)
    for number in range(3):
        await house.tell(connection_id=C2, number=number)
    await house.deliver()
    assert [one["data"]["number"] for one in house.product.about("c2")] == [0, 1, 2]
    assert [one["data"].get("poison") for one in house.product.about("c1")] == [True]
    house.product.answer = lambda _: 204
    house.clock.advance(seconds=10)
    await house.deliver()
    assert [one["data"].get("number") for one in house.product.about("c1")] == [None, None, 2]
    first, again = [one for one in house.product.received if one.content["data"].get("poison")]
    assert first.message_id == again.message_id
    assert first.body == again.body


async def test_waiting_updates_are_folded_until_one_was_sent(house: House) -> None:
    """Counts add up, the oldest date counts; another type between keeps the order; a message that was sent stays."""
    updates = MessageType.UPDATES_AVAILABLE

    def one(added: int, day: str | None) -> dict[str, Any]:
        return {"counts": {"transactions": {"added": added, "modified": 0}}, "oldest_booking_date": day}

    house.product.answer = lambda _: 503
    await house.tell(updates, **one(1, "2026-11-20"))
    await house.tell(updates, **one(2, None))
    await house.tell(updates, **one(3, "2026-11-18"))
    await house.tell(MessageType.CONSENT_PAUSED)
    await house.tell(updates, **one(5, None))
    assert await house.deliver() == "failing"
    await house.tell(updates, **one(7, None))
    house.product.answer = lambda _: 204
    house.clock.advance(minutes=1)
    await house.deliver()
    contents = [one["data"].get("counts", {}).get("transactions", {}).get("added") for one in house.product.about("c1")]
    assert contents == [6, 6, None, 12]
    assert house.product.about("c1")[0]["data"]["oldest_booking_date"] == "2026-11-18"
    assert await house.outcomes() == ["delivered", "folded", "folded", "delivered", "delivered", "folded"]


async def test_an_endpoint_that_is_down_is_asked_seldom_and_disabled_after_three_days(house: House) -> None:
    """A handful of probes and not every queue; then nothing more, the messages kept; enabling it sends them."""
    house.product.answer = lambda _: 500
    for number in range(40):
        await house.tell(connection_id=f"x{number}")
    await house.deliver()
    begun = len(house.product.received)
    rounds = 0
    for _ in range(12 * 3 + 2):
        house.clock.advance(hours=2)
        if await house.due():
            await house.deliver()
            rounds += 1
    stands = await house.stands()
    assert stands.disabled_why == "failing"
    assert len(house.product.received) - begun <= 3 * rounds
    assert await house.due() == []
    house.product.answer = lambda _: 204
    await house.store.atomically(lambda unit: unit.messages.enable(house.endpoint.endpoint_id, at=house.clock.now()))
    assert await house.due() == [house.endpoint.endpoint_id]
    await house.deliver()
    assert {one.content["data"].get("connection_id") for one in house.product.received} >= {"x0", "x39"}
    assert set(await house.outcomes()) == {"delivered"}


async def test_one_message_that_the_receiver_refuses_is_given_up_and_the_next_goes_on(house: House) -> None:
    """Others are taken all the time: so it is the message, not the endpoint."""
    house.product.answer = lambda came: 422 if came.content["data"].get("poison") else 204
    await house.tell(connection_id=C1, poison=True)
    await house.tell(connection_id=C1, behind=True)
    for _ in range(8 * 3 + 4):
        await house.tell(connection_id=C2)
        await house.deliver()
        house.clock.advance(hours=3)
    assert (await house.stands()).disabled_at is None
    assert (await house.outcomes())[:2] == ["given_up", "delivered"]


async def test_gone_disables_at_once(house: House) -> None:
    """410: nothing is sent any more, and another endpoint is told."""
    house.product.answer = lambda _: 410
    await house.tell()
    await house.tell(connection_id=C2)
    await house.deliver()
    assert (await house.stands()).disabled_why == Disabled.GONE
    assert await house.deliver() == "disabled"
    async with house.store.reading() as unit:
        kinds = [one.type for one in await unit.messages.find()]
        noted = await unit.consents.notes(what="webhook_endpoint_disabled")
    assert "endpoint.disabled" in kinds
    assert len(noted) == 1


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [(302, "location: https://elsewhere.example/\r\n", "redirected"), (400, "", "refused"), (503, "", "unavailable")],
)
async def test_what_is_no_success_is_tried_again(house: House, status: int, headers: str, error: str) -> None:
    """Redirects are not followed."""
    house.product.answer, house.product.headers = (lambda _: status), headers
    await house.tell()
    assert await house.deliver() == "failing"
    assert len(house.product.received) == 1
    async with house.store.reading() as unit:
        (message,) = await unit.messages.find()
    assert (message.last_status, message.last_error, message.attempts) == (status, error, 1)


async def test_retry_after_is_honoured(house: House) -> None:
    """An endpoint that asks for an hour is left alone for it."""
    house.product.answer, house.product.headers = (lambda _: 429), "retry-after: 3600\r\n"
    await house.tell()
    await house.deliver()
    house.clock.advance(minutes=59)
    assert await house.due() == []
    house.clock.advance(minutes=2)
    assert await house.due() == [house.endpoint.endpoint_id]


async def test_nothing_is_folded_into_a_message_that_may_have_arrived(house: House) -> None:
    """The deliverer stops after its request came in; what is told then has an id that the receiver does not know."""
    house.product.hold = asyncio.Event()
    counts = {"balances": {"modified": 1}}
    await house.tell(MessageType.UPDATES_AVAILABLE, counts=counts)
    sending = asyncio.create_task(house.deliver())
    while not house.product.received:  # noqa: ASYNC110 - the receiver sets no event
        await asyncio.sleep(0.01)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    house.product.hold.set()
    house.product.hold = None
    await house.tell(MessageType.UPDATES_AVAILABLE, counts=counts)
    await house.deliver()
    first, again, second = house.product.received
    assert (first.message_id, first.body) == (again.message_id, again.body)
    assert second.message_id != first.message_id
    assert second.content["data"]["counts"] == counts
    assert await house.outcomes() == ["delivered", "delivered"]


async def test_an_endpoint_that_does_not_answer_costs_its_time_once(house: House) -> None:
    """A hanging receiver ends in a timeout; the other connection's message is not lost by it."""
    house.product.hold = asyncio.Event()
    await house.tell()
    await house.tell(connection_id=C2)
    assert await house.deliver() == "failing"
    house.product.hold.set()
    house.product.hold = None
    house.clock.advance(minutes=1)
    await house.deliver()
    assert await house.outcomes() == ["delivered", "delivered"]


async def test_an_endpoint_gets_only_the_types_it_wants(house: House, store: Store) -> None:
    """Types it does not name are never written for it."""

    async def step(unit: UnitOfWork) -> str:
        wanted = [MessageType.CONSENT_REVOKED, MessageType.SYNC_FAILED]
        one, _ = await unit.messages.add_endpoint(house.product.url, types=wanted, at=await unit.now())
        return one.endpoint_id

    picky = await store.atomically(step)
    await house.tell(MessageType.CONSENT_PAUSED)
    await house.tell(MessageType.CONSENT_REVOKED)
    async with store.reading() as unit:
        assert [one.type for one in await unit.messages.find(endpoint_id=picky)] == ["consent.revoked"]


async def test_redelivered_messages_keep_their_ids(house: House) -> None:
    """What was delivered is sent once more under the same id; a folded message is not."""
    for _ in range(2):
        await house.tell(MessageType.UPDATES_AVAILABLE, counts={}, oldest_booking_date=None)
    await house.deliver()
    begins = house.clock.now() - timedelta(hours=1)
    again = await house.store.atomically(
        lambda unit: unit.messages.redeliver(house.endpoint.endpoint_id, since=begins, at=house.clock.now())
    )
    assert again == 1
    await house.deliver()
    assert len({one.message_id for one in house.product.received}) == 1
    assert len(house.product.received) == 2


async def test_old_messages_are_pruned(house: House) -> None:
    """Sent or not, a message goes after thirty days."""
    await house.tell()
    house.clock.advance(days=31)
    await house.delivering.look()
    assert await house.outcomes() == []


async def test_a_tick_makes_the_work_of_an_endpoint_due(house: House) -> None:
    """`look` schedules what `deliver` does."""
    await house.tell()
    await house.delivering.look()
    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.DELIVERY, house.endpoint.endpoint_id)
        now = await unit.now()
    assert row is not None
    assert row.due_at <= now


async def test_nothing_is_told_without_an_endpoint(store: Store) -> None:
    """A tenant without endpoints keeps no messages."""

    async def step(unit: UnitOfWork) -> None:
        unit.messages.tell(MessageType.SYNC_FAILED, {}, connection_id="c1", at=await unit.now())

    await store.atomically(step)
    async with store.reading() as unit:
        assert await unit.messages.find() == []


async def test_a_name_that_resolves_into_our_network_is_refused(clock: ManualClock) -> None:
    """The address is looked at where the connection is opened, whatever the name is."""

    async def inside(_host: str, _port: int) -> list[str]:
        return ["10.0.0.7"]

    posting = Posting(clock=clock, timeout_s=2, lookup=inside)
    try:
        answer = await posting.send("https://hooks.example/x", b"{}", message_id="msg_1", secrets=[])
    finally:
        await posting.close()
    assert answer.error == "private_address"


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://169.254.169.254/latest",
        "https://localhost/x",
        "https://user:word@hooks.example/",
        "https://hooks.example/#part",
        "ftp://hooks.example/",
        "https:///x",
        "https://hooks.example:99999/",
        "https://hooks.example/a b",
    ],
)
def test_urls_that_may_not_be_sent_to_are_refused(url: str) -> None:
    """The text says what would be right."""
    with pytest.raises(RequestError, match=r"^url: "):
        check_url(url, allow_private_hosts=False)


def test_folding_adds_up() -> None:
    """By resource and kind of change."""
    one = {"counts": {"balances": {"modified": 1}}, "oldest_booking_date": None}
    other = {"counts": {"balances": {"modified": 2}, "transactions": {"added": 1}}, "oldest_booking_date": "2026-01-02"}
    assert folded([one, other]) == {
        "counts": {"balances": {"modified": 3}, "transactions": {"added": 1}},
        "oldest_booking_date": "2026-01-02",
    }
