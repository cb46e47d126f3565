"""Workers that hang, as real processes: found by their progress, ended by the watchdog, started again, nothing lost."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from syncworker.processes import Child, Program, Supervisor, host_name
from syncworker.runtime import EXIT_HUNG
from syncworker.schedule.health import Verdict, judge
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind, WorkRow
from syncworker.store.workers import WorkerRow
from tests.ground.processes import Nursery, Spawned
from tests.live.tiny import due

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

SYNC = WorkKind.SYNC
PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Site:
    """A database, a broker, a store to look with."""

    nursery: Nursery
    database_url: str
    broker_url: str
    notes: Path
    store: Store

    @property
    def env(self) -> dict[str, str]:
        return {
            "TINY_DATABASE_URL": self.database_url,
            "TINY_BROKER_URL": self.broker_url,
            "TINY_NOTES": str(self.notes),
            "TINY_LEASE_S": "3",
        }

    def spawn(self, role: str, **env: str) -> Spawned:
        argv = (sys.executable, "-m", "tests.live.tiny", role)
        return self.nursery.spawn(argv, cwd=PROJECT, env={**self.env, **env})

    async def started(self, role: str, **env: str) -> Spawned:
        child = self.spawn(role, **env)
        said = " ready." if role == "worker" else "beat: Starting"
        return await child.soon(lambda child: said in child.output())

    async def worker_row(self, child: Spawned) -> WorkerRow | None:
        async with self.store.reading() as unit:
            return await unit.workers.get(f"{host_name()}/{child.pid}")

    async def work_row(self, subject: str) -> WorkRow:
        async with self.store.reading() as unit:
            row = await unit.work.find(SYNC, subject)
        assert row is not None
        return row

    async def until(self, what: Callable[[], Awaitable[bool]], *, within: float = 60.0) -> None:
        deadline = time.monotonic() + within
        while not await what():
            assert time.monotonic() < deadline, f"not within {within:g} s"
            await asyncio.sleep(0.1)

    def done(self) -> list[str]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line.split()[1] for line in lines]


@pytest.fixture
def site(
    worker_process: Nursery, sqlite_url: str, broker_url: str, tmp_path: Path, open_store: Callable[..., Store]
) -> Site:
    return Site(worker_process, sqlite_url, broker_url, tmp_path / "notes", open_store(sqlite_url, clock=None))


async def nobody_asks(_name: str) -> bool:
    """No canary of our own: what the worker shows by itself must be enough, or is not."""
    return True


async def test_idle_workers_show_progress_by_their_canaries(site: Site) -> None:
    """Two workers without any work and one beat: every tick's canaries come round to each of them."""
    workers = [await site.started("worker") for _ in range(2)]
    await site.started("beat")

    async def both_heard() -> bool:
        rows = [await site.worker_row(child) for child in workers]
        return all(row is not None and row.canary_at is not None for row in rows)

    await site.until(both_heard)


async def test_a_busy_worker_shows_progress(site: Site) -> None:
    """Every thread has a batch, and no canary can come: the loop's own pulse moves the row."""
    worker = await site.started("worker", TINY_THREADS="3", TINY_LEASE_S="60")
    await due(site.database_url, WorkKind.TOKEN, *(f"endless-{n}" for n in range(15)))  # three batches of five
    await site.started("beat")
    moved: set[object] = set()

    async def moves() -> bool:
        async with site.store.reading() as unit:
            rows = [await unit.work.find(WorkKind.TOKEN, f"endless-{n}") for n in range(15)]
        if all(row is not None and row.last_started_at is not None for row in rows):
            row = await site.worker_row(worker)
            moved.add(row and row.progress_at)
        return len(moved) >= 4

    await site.until(moves)


async def test_a_run_that_holds_the_loop_costs_the_process_its_life_and_nothing_else(site: Site) -> None:
    """From end to end: the watchdog ends the worker, a supervisor starts it anew, the rows come back by their lease.

    One crash is counted for each row that was in work, and forgotten with its good end: nobody is parked.
    """
    lines: list[str] = []
    env = {**site.env, "TINY_DEADLINE_S": "0.5", "TINY_HARD_LIMIT_S": "0.5", "TINY_LEASE_S": "1"}
    program = Program(name="worker", argv=(sys.executable, "-m", "tests.live.tiny", "worker"), env=_environ(env))
    subjects = ["block-1", *(f"connection-{n}" for n in range(4))]
    await due(site.database_url, SYNC, *subjects)
    await site.started("beat")

    with Supervisor([program], write=lines.append) as supervisor:

        async def all_done() -> bool:
            await asyncio.to_thread(supervisor.poll)
            return set(site.done()) == set(subjects)

        await site.until(all_done)

    rows = [await site.work_row(subject) for subject in subjects]
    assert f"supervisor | worker ended with status {EXIT_HUNG}, starting it again in 1 s" in lines
    assert {(row.parked_at, row.crashes, row.lease_until, row.gen > 1) for row in rows} == {(None, 0, None, True)}


def _environ(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **more}


async def test_a_worker_whose_loop_stands_still_is_found_and_replaced(site: Site) -> None:
    """Long before any hard limit: its row does not move, no canary is answered; the supervisor ends it."""
    lines: list[str] = []
    program = Program(
        name="worker", argv=(sys.executable, "-m", "tests.live.tiny", "worker"), env=_environ(site.env), grace=1
    )
    judged: list[Verdict] = []

    def hung(_name: str, child: Child) -> str | None:
        return "no progress" if judged and judged[-1] is Verdict.HANGS and child.pid == first else None

    with Supervisor([program], hung=hung, write=lines.append) as supervisor:
        first = supervisor.children()["worker"]
        await site.started("beat")
        await due(site.database_url, SYNC, "connection-1")

        async def begun() -> bool:
            return site.done() == ["connection-1"]

        await site.until(begun)
        await due(site.database_url, SYNC, "block-1")

        async def replaced() -> bool:
            found = await judge(
                site.store, f"{host_name()}/{first}", quiet=timedelta(seconds=2), ask=nobody_asks, wait=1
            )
            judged.append(found.verdict)
            await asyncio.to_thread(supervisor.poll)
            return supervisor.children().get("worker", first) != first

        await site.until(replaced)

    assert any("supervisor | worker hangs (no progress), ending it" in line for line in lines)


async def test_a_worker_whose_loop_stands_still_obeys_sigterm_all_the_same(site: Site) -> None:
    """Nothing on the loop can be stopped in order; when the time for that is over, the process ends itself."""
    worker = await site.started("worker", TINY_LEASE_S="60")
    await due(site.database_url, SYNC, "block-1")
    await site.started("beat")

    async def blocked() -> bool:
        return site.notes.with_name("blocked").exists()

    await site.until(blocked)
    worker.signal(signal.SIGTERM)

    assert await asyncio.to_thread(worker.wait, timeout=60) == EXIT_HUNG
