"""A worker with a tiny application: real app, table, broker and dispatcher; instead of calling a bank it takes notes.

Run as `python -m tests.live.tiny worker|beat`; the environment names database, broker, folder and what to do.
A subject tells what happens to it: `kill-…` ends the process in the middle, `endless-…` takes a minute, `block-…`
holds the event loop itself for as long, the first time.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from syncworker import beat, broker, tasks
from syncworker.broker import Broker
from syncworker.processes import process_name
from syncworker.schedule.claims import Batch, Dispatcher
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind

LEASE = timedelta(seconds=float(os.environ.get("TINY_LEASE_S", "2")))
TICK_S = float(os.environ.get("TINY_TICK_S", "0.3"))
ONCE = timedelta(days=1)
SLOTS = {Slug("noor"): 200, Slug("waha"): 200}


class TinyApplication:
    """Ends each claim well, and writes one line `kind subject gen` per claim it ended."""

    def __init__(self, database_url: str, notes: Path) -> None:
        self._store = Store(database_url)
        self._notes = notes
        self._dispatcher = Dispatcher(self._store, name=process_name(), batch_size=5, lease=LEASE)
        self.arrive = self._dispatcher.arrive
        self.progress = self._dispatcher.progress
        self.canaries = self._dispatcher.canaries
        self.canary = self._dispatcher.canary
        self.give_back = self._dispatcher.give_back
        self.leave = self._dispatcher.leave

    async def tick(self) -> list[Batch]:
        return await self._dispatcher.tick(SLOTS)

    async def refill(self, kind: WorkKind, lfi: Slug) -> list[Batch]:
        return await self._dispatcher.refill(kind, {lfi: SLOTS[lfi]})

    async def small_batch(self, kind: WorkKind, claims: Sequence[tuple[int, int]]) -> None:
        raise NotImplementedError(kind)

    async def sync_batch(self, claims: Sequence[tuple[int, int]]) -> None:
        await self._work(claims)

    async def token_batch(self, claims: Sequence[tuple[int, int]]) -> None:
        await self._work(claims)

    async def pulse(self, *, busy: bool) -> None:
        if busy:
            await self.progress()

    def stop(self) -> None:
        """Its runs end when they are cancelled."""

    async def close(self) -> None:
        await self._store.close()

    async def _work(self, hints: Sequence[tuple[int, int]]) -> None:
        taken = await self._store.atomically(lambda unit: unit.work.take_many(hints, lease=LEASE))
        await asyncio.gather(*(self._one(claim) for claim in taken))

    async def _one(self, claim: Claim) -> None:
        try:
            if claim.subject.startswith("kill-"):
                os.kill(os.getpid(), signal.SIGKILL)
            if claim.subject.startswith("block-") and claim.gen == 1:
                self._notes.with_name("blocked").touch()
                time.sleep(60)  # noqa: ASYNC251  the fault itself
            await asyncio.sleep(60 if claim.subject.startswith("endless-") else 0.01)
        except asyncio.CancelledError:
            await self._store.atomically(lambda unit: unit.work.give_back([claim]))
            raise
        if await self._finish(claim):
            with self._notes.open("a") as notes:
                notes.write(f"{claim.kind.value} {claim.subject} {claim.gen}\n")

    async def _finish(self, claim: Claim) -> bool:
        async with self._store.writing() as unit:
            due_at = await unit.now() + ONCE
            ended = await unit.work.finish(claim, due_at=due_at, outcome="ok", good=True)
            await unit.commit()
        return ended


async def build() -> TinyApplication:
    return TinyApplication(os.environ["TINY_DATABASE_URL"], Path(os.environ["TINY_NOTES"]))


async def due(database_url: str, kind: WorkKind, *subjects: str, lfi: str = "noor") -> None:
    """Make subjects due now."""
    store = Store(database_url)
    async with store.writing() as unit:
        for subject in subjects:
            await unit.work.schedule(kind, subject, lfi=Slug(lfi), due_at=await unit.now())
        await unit.commit()
    await store.close()


def main(role: str) -> None:
    tasks.configure(
        Broker(url=os.environ["TINY_BROKER_URL"]),
        TICK_S,
        Path(os.environ["TINY_NOTES"]).parent / "data",
        threads=int(os.environ.get("TINY_THREADS", "4")),
        batch_deadline=float(os.environ.get("TINY_DEADLINE_S", "120")),
        patience=1,
        hard_limit=float(os.environ.get("TINY_HARD_LIMIT_S", "30")),
        worker=process_name() if role == "worker" else None,
        build=build,
    )
    if role == "beat":
        beat.leave_signs(Path(os.environ["TINY_NOTES"]).parent / "data", os.environ["TINY_DATABASE_URL"])
        sys.exit(broker.start(["beat", "--loglevel=INFO", "--pidfile="]))
    else:
        sys.exit(broker.start(tasks.worker_arguments(worker=process_name())))


if __name__ == "__main__":
    from tests.live import tiny  # the module, not a second copy of it as __main__

    tiny.main(sys.argv[1])
