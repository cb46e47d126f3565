"""A connection to the broker that stays open and carries nothing: consumption resumes by itself."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.ground.processes import Nursery
from tests.ground.proxy import FaultProxy
from tests.live.tiny import due

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

PROJECT = Path(__file__).resolve().parents[2]
RESUMED_WITHIN_S = 60.0


async def test_a_half_open_broker_connection_stops_a_worker_for_less_than_a_minute(
    worker_process: Nursery,
    sqlite_url: str,
    broker_url: str,
    fault_proxy: Callable[[str | int], Awaitable[FaultProxy]],
    tmp_path: Path,
) -> None:
    """Every existing connection of worker and beat turns into a black hole, new ones work: what is due then still runs.

    With Celery's defaults a worker waits for ever: neither the kernel nor Redis says that nobody listens.
    """
    proxy = await fault_proxy(broker_url)
    notes = tmp_path / "notes"
    env = {"TINY_DATABASE_URL": sqlite_url, "TINY_BROKER_URL": proxy.url(broker_url), "TINY_NOTES": str(notes)}
    children = {}
    for role, said in (("worker", " ready."), ("beat", "beat: Starting")):
        children[role] = worker_process.spawn((sys.executable, "-m", "tests.live.tiny", role), cwd=PROJECT, env=env)
        await children[role].soon(lambda child, said=said: said in child.output())  # type: ignore[misc]
    await due(sqlite_url, WorkKind.SYNC, "before")
    await _until(lambda: _done(notes) == {"before"}, within=30)

    proxy.blackhole(existing_only=True)
    await due(sqlite_url, WorkKind.SYNC, *(f"after-{n}" for n in range(10)))
    begun = time.monotonic()
    await _until(lambda: len(_done(notes)) == 11, within=RESUMED_WITHIN_S)
    resumed = time.monotonic() - begun

    store = Store(sqlite_url)
    async with store.reading() as unit:
        rows = [await unit.work.find(WorkKind.SYNC, f"after-{n}") for n in range(10)]
    await store.close()
    assert {(row.crashes, row.lease_until) for row in rows if row is not None} == {(0, None)}
    assert all(child.running() for child in children.values())
    assert resumed > 1, "the fault did not reach the worker: nothing was proved"


def _done(notes: Path) -> set[str]:
    """Subjects of the claims that ended well."""
    return {line.split()[1] for line in notes.read_text().splitlines()} if notes.exists() else set()


async def _until(what: Callable[[], bool], *, within: float) -> None:
    deadline = time.monotonic() + within
    while not what():
        assert time.monotonic() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.1)
