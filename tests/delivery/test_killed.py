"""`kill -9` of the worker that delivers, at each step of a delivery: every message arrives, in order, under one id.

Real workers, a real beat and a real broker on PostgreSQL; the product's endpoint is an HTTP server on loopback.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from syncworker.settings import CONFIG_VARIABLE
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.consents import Connection
from syncworker.store.keyring import KeyRing
from syncworker.store.messages import Message, MessageType
from syncworker.store.tables import work
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind
from tests.delivery.receiver import Product, Received, product
from tests.ground.processes import Nursery, Spawned

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
CONNECTIONS = ("c1", "c2", "c3")
EACH = 3
"""Messages of each connection."""
STORY = (MessageType.CONSENT_PAUSED, MessageType.UPDATES_AVAILABLE, MessageType.CONSENT_REVOKED)


@dataclass
class Site:
    """An installation without a bank: a database, a broker, an endpoint, and workers that come and go."""

    nursery: Nursery
    store: Store
    product: Product
    config: Path
    endpoint_id: str = ""
    beats: list[Spawned] = field(default_factory=list)

    async def start(self, role: str, *, dies: str = "") -> Spawned:
        env = {CONFIG_VARIABLE: str(self.config), "DELIVERY_DIES": dies}
        argv = (sys.executable, "-m", "tests.delivery.deadly", role)
        child = self.nursery.spawn(argv, cwd=ROOT, env=env)
        if dies:
            return child
        sign = " ready." if role == "worker" else "maxinterval"
        return await child.soon(lambda one: sign in one.output(), timeout=60)

    async def tell(self) -> None:
        """Write the messages, one transaction each, the connections in turn."""

        async def write(unit: UnitOfWork, what: MessageType, connection_id: str, number: int) -> None:
            unit.messages.tell(what, {"number": number}, connection_id=connection_id, at=await unit.now())

        for number in range(EACH):
            for one in CONNECTIONS:
                await self.store.atomically(lambda unit: write(unit, STORY[number], one, number))  # noqa: B023

    async def messages(self) -> list[Message]:
        """As the table has them, oldest first."""
        async with self.store.reading() as unit:
            return list(reversed(await unit.messages.find(limit=1000)))

    async def lease_over(self) -> None:
        """The dead worker's lease has run out."""
        async with self.store.writing() as unit:
            over = await unit.now() - timedelta(seconds=1)
            held = sa.and_(work.c.kind == WorkKind.DELIVERY.value, work.c.lease_until.is_not(None))
            await unit.connection.execute(sa.update(work).where(held).values(lease_until=over))
            await unit.commit()

    async def until(self, what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not what():
            assert time.monotonic() < deadline, [one.content for one in self.product.received]
            await asyncio.sleep(0.02)

    async def delivered(self) -> list[Message]:
        """Every message, once all have ended."""
        deadline = time.monotonic() + 60
        while not all(one.ended_at for one in await self.messages()):
            assert time.monotonic() < deadline, await self.messages()
            await asyncio.sleep(0.1)
        return await self.messages()


@pytest.fixture
async def site(
    worker_process: Nursery, postgresql_url: str, broker_url: str, keyring_path: Path, tmp_path: Path
) -> AsyncIterator[Site]:
    """A beat that ticks, an endpoint, and three connections; no worker yet."""
    config = tmp_path / "syncworker.toml"
    config.write_text(
        f'database_url = "{postgresql_url}"\nbroker_url = "{broker_url}"\nkeyring = "{keyring_path}"\n'
        f'data_dir = "{tmp_path / "data"}"\ntick_seconds = 0.3\n[webhooks]\nallow_private_hosts = true\n'
    )
    store = Store(postgresql_url, keyring=KeyRing.load(keyring_path))
    async with product() as made:
        site = Site(worker_process, store, made, config)

        async def prepare(unit: UnitOfWork) -> str:
            at = await unit.now()
            for name in CONNECTIONS:
                row = Connection(connection_id=ConsentId(name), lfi=Slug("bank"), user_ref="u", created_at=at)
                await unit.consents.add_connection(row)
            endpoint, _ = await unit.messages.add_endpoint(made.url, at=at)
            return endpoint.endpoint_id

        site.endpoint_id = await store.atomically(prepare)
        await site.start("beat")
        yield site
    await store.close()


def first_arrivals(received: list[Received], connection_id: str) -> list[str]:
    """Ids of the messages about a connection, each where it came for the first time."""
    those = [one.message_id for one in received if one.content["data"]["connection_id"] == connection_id]
    return list(dict.fromkeys(those))


def check(site: Site, ended: list[Message]) -> None:
    """At least once, in order for each connection, the same bytes under one id; and the table says delivered."""
    assert len(ended) == EACH * len(CONNECTIONS)
    for connection_id in CONNECTIONS:
        written = [one.message_id for one in ended if one.connection_id == connection_id]
        assert first_arrivals(site.product.received, connection_id) == written
    bodies: dict[str, set[bytes]] = {}
    for came in site.product.received:
        bodies.setdefault(came.message_id, set()).add(came.body)
    assert {len(those) for those in bodies.values()} == {1}
    assert {(one.outcome, one.last_status, one.last_error) for one in ended} == {("delivered", 204, None)}
    times = {one.message_id: 0 for one in ended}
    for came in site.product.received:
        times[came.message_id] += 1
    for one in ended:  # an attempt is counted before its request: one that was killed before is counted and not sent
        assert times[one.message_id] <= one.attempts <= times[one.message_id] + 1


@pytest.mark.parametrize("attempt", [1, pytest.param(5, marks=pytest.mark.long)])
@pytest.mark.parametrize("step", ["before", "answered", "committed"])
async def test_a_worker_killed_at_a_step_of_a_delivery(site: Site, step: str, attempt: int) -> None:
    """Only what was answered and not committed comes twice; the queues beside it may have been in the same place."""
    await site.tell()
    dying = await site.start("worker", dies=f"{step}:{attempt}")
    await site.until(lambda: not dying.running())
    assert dying.process.returncode == -9
    before = await site.messages()
    came = {one.message_id for one in site.product.received}
    noted = {one.message_id for one in before if one.outcome == "delivered"}
    await site.lease_over()
    await site.start("worker")
    ended = await site.delivered()

    check(site, ended)
    counted = [one.message_id for one in site.product.received]
    again = {one for one in counted if counted.count(one) > 1}
    assert noted <= came
    assert again == came - noted
    if step == "answered":
        assert again
    if step == "committed":
        assert noted


async def test_a_worker_killed_while_its_requests_wait_for_an_answer(site: Site) -> None:
    """One request of each connection has come in and none was answered: each of them comes again, and first."""
    await site.tell()
    site.product.hold = asyncio.Event()
    dying = await site.start("worker")
    await site.until(lambda: len(site.product.received) == len(CONNECTIONS))
    dying.kill()
    assert {one.outcome for one in await site.messages()} == {None}
    site.product.hold.set()
    site.product.hold = None
    came = [one.message_id for one in site.product.received]
    await site.lease_over()
    await site.start("worker")
    ended = await site.delivered()

    check(site, ended)
    counted = [one.message_id for one in site.product.received]
    assert sorted(came) == sorted(one for one in set(counted) if counted.count(one) == 2)
    assert len(counted) == EACH * len(CONNECTIONS) + len(CONNECTIONS)


@pytest.mark.long
async def test_workers_killed_one_after_the_other(site: Site) -> None:
    """At a later step each time, fewer than the crashes that park a claim; then one that lives."""
    await site.tell()
    for dies in ("before:2", "answered:2", "committed:1", "answered:1"):
        dying = await site.start("worker", dies=dies)
        await site.until(lambda dying=dying: not dying.running())  # type: ignore[misc]
        await site.lease_over()
    await site.start("worker")

    check(site, await site.delivered())
