"""Delivery with a real worker, a real beat, a real broker and both databases."""

import asyncio
import base64
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import kombu
import pytest
import redis

from syncworker.store.unit_of_work import Store
from syncworker.store.work import CRASHED, CRASHES_MAX, WorkKind, WorkRow
from tests.ground.processes import Nursery, Spawned
from tests.ground.proxy import FaultProxy
from tests.live.tiny import due

pytestmark = pytest.mark.live

SYNC, TOKEN = WorkKind.SYNC, WorkKind.TOKEN
PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Site:
    """One installation: a database, a broker, workers and a beat that come and go."""

    nursery: Nursery
    database_url: str
    broker_url: str
    notes: Path

    @property
    def env(self) -> dict[str, str]:
        """What `tests.live.tiny` reads."""
        return {
            "TINY_DATABASE_URL": self.database_url,
            "TINY_BROKER_URL": self.broker_url,
            "TINY_NOTES": str(self.notes),
        }

    def start(self, role: str, **env: str) -> Spawned:
        return self.nursery.spawn(
            (sys.executable, "-m", "tests.live.tiny", role),
            cwd=PROJECT,
            env={**self.env, **env},
            ready=lambda child: (" ready." if role == "worker" else "beat: Starting") in child.output(),
        )

    def run(self, script: str, **env: str) -> None:
        """Run a script in a process of its own, to its good end."""
        child = self.nursery.spawn((sys.executable, "-c", script), cwd=PROJECT, env={**self.env, **env})
        status = child.wait()
        assert status == 0, child.output()

    def done(self) -> list[str]:
        """`kind subject` of every claim that ended well."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line.rpartition(" ")[0] for line in lines]

    async def until(self, what: Callable[[], bool], *, within: float = 30.0) -> None:
        deadline = time.monotonic() + within
        while not what():
            assert time.monotonic() < deadline, f"not in time; done: {self.done()}"
            await asyncio.sleep(0.05)

    async def until_row(self, kind: WorkKind, subject: str, what: Callable[[WorkRow], bool]) -> WorkRow:
        deadline = time.monotonic() + 20
        while not what(row := await self.row(kind, subject)):
            assert time.monotonic() < deadline, row
            await asyncio.sleep(0.1)
        return row

    async def row(self, kind: WorkKind, subject: str) -> WorkRow:
        store = Store(self.database_url)
        async with store.reading() as unit:
            row = await unit.work.find(kind, subject)
        await store.close()
        assert row is not None
        return row


@pytest.fixture
def site(worker_process: Nursery, database_url: str, broker_url: str, tmp_path: Path) -> Site:
    return Site(worker_process, database_url, broker_url, tmp_path / "notes")


@pytest.fixture
def sqlite_site(worker_process: Nursery, sqlite_url: str, broker_url: str, tmp_path: Path) -> Site:
    """For what is the broker's and the worker's alone: one database is enough."""
    return Site(worker_process, sqlite_url, broker_url, tmp_path / "notes")


def flush(broker_url: str) -> None:
    client = redis.Redis.from_url(broker_url)
    client.flushall()
    client.close()


async def test_what_is_due_runs_once(site: Site) -> None:
    """Beat ticks, the worker claims, publishes to itself and works: 40 syncs and 20 tokens, each once."""
    syncs, tokens = [f"connection-{n}" for n in range(40)], [f"consent-{n}" for n in range(20)]
    await due(site.database_url, SYNC, *syncs)
    await due(site.database_url, TOKEN, *tokens, lfi="waha")
    site.start("worker")
    site.start("beat")

    await site.until(lambda: len(site.done()) >= 60)
    await asyncio.sleep(1)

    assert sorted(site.done()) == sorted([f"sync {each}" for each in syncs] + [f"token {each}" for each in tokens])


async def test_an_emptied_broker_costs_a_lease_and_no_work(sqlite_site: Site) -> None:
    """Claims are made and their messages lost (FLUSHALL while no worker takes them): all come back, each runs once."""
    site = sqlite_site
    subjects = [f"connection-{n}" for n in range(20)]
    await due(site.database_url, SYNC, *subjects)
    store = Store(site.database_url)
    async with store.writing() as unit:  # a dispatcher that claimed, committed, and whose hints vanished
        claims = await unit.work.claim(SYNC, slots={"noor": 100}, lease=timedelta(seconds=2))  # type: ignore[dict-item]
        await unit.commit()
    await store.close()
    flush(site.broker_url)
    site.start("worker")
    site.start("beat")

    await site.until(lambda: len(site.done()) >= 20)
    rows = [await site.row(SYNC, subject) for subject in subjects]

    assert len(claims) == 20
    assert sorted(site.done()) == sorted(f"sync {each}" for each in subjects)
    assert {(row.gen > 1, row.crashes, row.attempts) for row in rows} == {(True, 0, 0)}


@pytest.mark.long
async def test_a_worker_killed_again_and_again_forgets_nothing(sqlite_site: Site) -> None:
    """`kill -9` six times while 120 subjects are in work: every one of them ends well."""
    site = sqlite_site
    subjects = [f"connection-{n}" for n in range(120)]
    await due(site.database_url, SYNC, *subjects)
    site.start("beat")
    for kills in range(6):
        worker = site.start("worker", TINY_LEASE_S="3")
        target = min(100, kills * 15 + 5)
        await site.until(lambda target=target: len(set(site.done())) >= target, within=60)  # type: ignore[misc]
        worker.kill()
    site.start("worker", TINY_LEASE_S="3")

    rows = [await site.until_row(SYNC, subject, lambda row: row.last_good_at is not None) for subject in subjects]

    assert {(row.last_outcome, row.lease_until, row.parked_at) for row in rows} == {("ok", None, None)}


@pytest.mark.long
async def test_a_subject_that_kills_its_worker_is_parked(sqlite_site: Site) -> None:
    """After five crashes nobody claims it any more, and everything else has run."""
    site = sqlite_site
    await due(site.database_url, SYNC, "kill-1")
    site.start("beat")
    deaths = 0
    while deaths < CRASHES_MAX:
        worker = site.start("worker", TINY_LEASE_S="1")
        await site.until(lambda worker=worker: not worker.running())  # type: ignore[misc]
        deaths += 1
    site.start("worker", TINY_LEASE_S="1")
    await due(site.database_url, SYNC, "healthy")
    await site.until(lambda: site.done() == ["sync healthy"])
    row = await site.until_row(SYNC, "kill-1", lambda row: row.parked_at is not None)

    assert (row.crashes, row.last_error, row.gen) == (CRASHES_MAX, CRASHED, CRASHES_MAX + 1)


async def test_tokens_do_not_wait_behind_syncs(sqlite_site: Site) -> None:
    """Syncs that never end fill every thread they may have; ticks and token refreshes still run."""
    site = sqlite_site
    await due(site.database_url, SYNC, *(f"endless-{n}" for n in range(60)))
    site.start("worker", TINY_LEASE_S="30")
    site.start("beat")
    await site.until_row(SYNC, "endless-0", lambda row: row.last_started_at is not None)
    await asyncio.sleep(1)

    await due(site.database_url, TOKEN, "consent-1")

    await site.until(lambda: site.done() == ["token consent-1"], within=10)


async def test_a_bank_that_hangs_leaves_the_others_alone(sqlite_site: Site) -> None:
    """Twelve batches of one LFI that never end, and two threads for syncs: another LFI's syncs run at once.

    One bank's batches once took every thread that syncs may have, and kept them until their deadline.
    """
    site = sqlite_site
    await due(site.database_url, SYNC, *(f"endless-{n}" for n in range(60)))
    site.start("worker", TINY_LEASE_S="30")
    site.start("beat")
    await site.until_row(SYNC, "endless-0", lambda row: row.last_started_at is not None)

    await due(site.database_url, SYNC, *(f"connection-{n}" for n in range(20)), lfi="waha")

    await site.until(lambda: len(site.done()) == 20)
    assert sorted(site.done()) == sorted(f"sync connection-{n}" for n in range(20))


async def test_a_batch_that_lasts_frees_its_thread(sqlite_site: Site) -> None:
    """Six batches of one LFI that never end begin one after the other, on one thread."""
    site = sqlite_site
    await due(site.database_url, SYNC, *(f"endless-{n}" for n in range(6)))
    site.start("worker", TINY_LEASE_S="60", TINY_THREADS="3")
    site.start("beat")

    for n in range(6):
        await site.until_row(SYNC, f"endless-{n}", lambda row: row.last_started_at is not None)


async def test_sigterm_ends_a_busy_worker_and_its_rows_are_due_at_once(sqlite_site: Site) -> None:
    """Runs get their patience, then are cancelled and give their rows back; no lease has to run out."""
    site = sqlite_site
    await due(site.database_url, SYNC, "endless-1")
    worker = site.start("worker", TINY_LEASE_S="600")
    site.start("beat")
    await site.until_row(SYNC, "endless-1", lambda row: row.last_started_at is not None)
    begun = time.monotonic()
    status = await asyncio.to_thread(worker.stop, grace=40)
    took = time.monotonic() - begun

    row = await site.row(SYNC, "endless-1")
    assert (status, row.lease_until, row.crashes, row.attempts) == (0, None, 0, 0)
    assert took < 10


async def test_sigterm_ends_an_idle_worker_at_once(sqlite_site: Site) -> None:
    """Nothing to wait for: gone within seconds, with status 0, and no longer counted as alive."""
    site = sqlite_site
    worker = site.start("worker")
    begun = time.monotonic()
    status = await asyncio.to_thread(worker.stop, grace=40)

    assert (status, time.monotonic() - begun < 10) == (0, True)


async def test_foreign_messages_are_refused_and_not_printed(sqlite_site: Site) -> None:
    """Pickle, an unknown task, an unknown keyword: the worker goes on, and no body reaches its log."""
    site = sqlite_site
    worker = site.start("worker", TINY_LEASE_S="30")
    secret = "AE070331234567890123456"
    with kombu.Connection(site.broker_url) as connection:
        producer = connection.Producer()
        headers = {"lang": "py", "task": "steal", "id": "1", "root_id": "1", "parent_id": None, "argsrepr": secret}
        body = [[secret], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        send = {
            "exchange": "sync",
            "routing_key": "sync",
            "declare": [kombu.Queue("sync", kombu.Exchange("sync"), "sync")],
        }
        producer.publish(body, serializer="json", headers=headers, **send)
        producer.publish(body, serializer="pickle", headers={**headers, "task": "sync_batch"}, **send)
        producer.publish({"surprise": secret}, serializer="json", **send)
        known = {**headers, "task": "sync_batch", "argsrepr": "[]"}
        await due(site.database_url, SYNC, "connection-1")
        store = Store(site.database_url)
        async with store.writing() as unit:
            (claim,) = await unit.work.claim(SYNC, slots={"noor": 1})  # type: ignore[dict-item]
            await unit.commit()
        await store.close()
        hint = [[[[claim.id, claim.gen]]], {"added_next_year": 1}, body[2]]
        producer.publish(hint, serializer="json", headers=known, **send)

    await site.until(lambda: site.done() == ["sync connection-1"])

    assert worker.running()
    assert "Received unregistered task of type …" in worker.output()
    assert secret not in worker.output()


IN_PROCESS = """
import os
from pathlib import Path
from syncworker import tasks
from syncworker.broker import Broker
from syncworker.schedule.claims import Batch
from syncworker.store.work import WorkKind
from tests.live import tiny
data = Path(os.environ["TINY_NOTES"]).parent / "data"
tasks.configure(Broker(url=os.environ["TINY_BROKER_URL"]), 5, data, build=tiny.build)
"""


async def test_a_hint_carries_nothing_but_integers_and_the_lfi(sqlite_site: Site) -> None:
    """What lies in the broker: the task's name, `(id, gen)` and the LFI's slug; no subject."""
    site = sqlite_site
    site.run(IN_PROCESS + "tasks.publish(Batch(WorkKind.TOKEN, 'noor', ((7, 3), (8, 1))))")
    client = redis.Redis.from_url(site.broker_url)
    (raw,) = client.lrange("token", 0, -1)
    client.close()

    message = json.loads(raw)
    arguments = json.loads(base64.b64decode(message["body"]))[:2]
    assert (message["headers"]["task"], message["content-type"]) == ("token_batch", "application/json")
    assert arguments == [[[[7, 3], [8, 1]]], {"lfi": "noor"}]


async def test_claims_that_cannot_be_published_are_given_back(sqlite_site: Site) -> None:
    """The broker dies between claim and publication: the rows are due at once, nothing is counted, nobody hangs."""
    site = sqlite_site
    await due(site.database_url, SYNC, *(f"connection-{n}" for n in range(12)))
    begun = time.monotonic()
    site.run(IN_PROCESS + "tasks.tick(); tasks.runtime.stop(5)", TINY_BROKER_URL="redis://127.0.0.1:9/0")

    rows = [await site.row(SYNC, f"connection-{n}") for n in range(12)]
    assert {(row.gen, row.lease_until, row.attempts, row.crashes) for row in rows} == {(1, None, 0, 0)}
    assert time.monotonic() - begun < 20


async def test_beat_comes_back_when_the_broker_does(
    sqlite_site: Site, fault_proxy: Callable[[str | int], Awaitable[FaultProxy]]
) -> None:
    """Connections cut and refused for two seconds: worker and beat go on by themselves, and nothing is lost."""
    site = sqlite_site
    proxy = await fault_proxy(site.broker_url)
    site.broker_url = proxy.url(site.broker_url)
    await asyncio.to_thread(site.start, "worker")
    await asyncio.to_thread(site.start, "beat")
    await proxy.refuse()
    proxy.cut()
    await due(site.database_url, SYNC, *(f"connection-{n}" for n in range(10)))
    await asyncio.sleep(2)
    during = site.done()
    await proxy.heal()

    await site.until(lambda: len(site.done()) >= 10)

    assert (during, len(site.done())) == ([], 10)


async def test_beat_ends_at_once_even_while_the_broker_does_not_answer(
    sqlite_site: Site, fault_proxy: Callable[[str | int], Awaitable[FaultProxy]]
) -> None:
    """SIGTERM in the middle of a publication that hangs: beat keeps nothing, so it need not wait for anything."""
    site = sqlite_site
    proxy = await fault_proxy(site.broker_url)
    site.broker_url = proxy.url(site.broker_url)
    beat = await asyncio.to_thread(site.start, "beat")
    await asyncio.sleep(1)
    proxy.blackhole()
    await asyncio.sleep(1)

    begun = time.monotonic()
    status = await asyncio.to_thread(beat.stop, grace=8)

    assert (status, time.monotonic() - begun < 3) == (0, True), beat.output()
