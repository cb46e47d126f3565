"""Makes the exports of the settings when they are due, beside all other work.

Each series has a row of `work` (`WorkKind.EXPORT`).  At a tick a process looks whether one is due and claims it by
itself; the export then goes on in a task and threads of its own, so that no sync and no token waits for it.  A process
makes one export at a time.  While it runs both its leases are renewed, that of the row of `work` and that of its
number; a process that ends gives the row back, or its lease runs out, and the next one begins anew.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

import structlog

from syncworker.errors import SyncWorkerError
from syncworker.exports.layout import Manifest
from syncworker.exports.plans import wanted_of
from syncworker.exports.purging import purged, tidied
from syncworker.exports.run import run
from syncworker.settings import ExportSettings, Settings
from syncworker.standard.calendar import UAE, at_time, local_date, shifted, span
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import LEASE, Claim, WorkKind, WorkRow

PLACE: Final = Slug("(exports)")
"""In place of an LFI: no slug has parentheses."""

log = structlog.stdlib.get_logger(__name__)


def next_due(set_: ExportSettings, *, now: datetime, began: datetime | None = None) -> datetime:
    """When a series is due next.

    Args:
        began: when the last export was due or began; `None`: none did.
    """
    if set_.every is not None:
        return now if began is None else max(now, shifted(began, span(seconds=set_.every)))
    hour, _, minute = (set_.at or "").partition(":")
    today = at_time(local_date(now), time(int(hour), int(minute)), UAE)
    return today if today > now else shifted(today, timedelta(days=1))


@dataclass(slots=True)
class _Open:
    claim: Claim
    task: "asyncio.Task[None]"


class Exporting:
    """Makes exports when they are due.  Lives on one event loop."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        retry_after: Callable[[int], timedelta],
        lease: timedelta = LEASE,
    ) -> None:
        """Does nothing yet.

        Args:
            retry_after: how long to wait after so many bad ends in a row.
        """
        self._store = store
        self._settings = settings
        self._series: Mapping[str, ExportSettings] = settings.exports
        self._retry_after = retry_after
        self._lease = lease
        self._open: _Open | None = None
        self._known = False

    async def look(self) -> bool:
        """Begin an export if one is due and no other process is at it; returns at once.

        Call it at every tick; without a series it asks the database nothing.  While the database is away nothing
        happens, and the next tick finds the same.

        Returns:
            Whether one was begun.
        """
        if not self._series or (self._open is not None and not self._open.task.done()):
            return False
        try:
            if not self._known:
                await self._store.atomically(self._note)
                self._known = True
            async with self._store.looking() as unit:
                now = await unit.now()
                rows = [row for name in self._series if (row := await unit.work.find(WorkKind.EXPORT, name))]
            due = min((row for row in rows if _is_free(row, now)), key=lambda row: row.due_at, default=None)
            if due is None:
                return False
            claim = await self._store.atomically(lambda unit: self._taken(unit, due.subject))
        except SyncWorkerError as error:
            log.warning("exports not looked at", error=error.code)
            return False
        if claim is None:
            return False
        self._open = _Open(claim, asyncio.create_task(self._made(claim), name=f"export {claim.subject}"))
        return True

    async def finished(self) -> None:
        """Wait until an export under way has ended."""
        if self._open is not None:
            await asyncio.gather(self._open.task, return_exceptions=True)

    async def close(self) -> None:
        """Give up an export under way; it is due again at once, without a database when the lease runs out."""
        open_ = self._open
        if open_ is None or open_.task.done():
            return
        open_.task.cancel()
        await asyncio.gather(open_.task, return_exceptions=True)
        try:
            await self._store.atomically(lambda unit: unit.work.give_back([open_.claim]))
        except SyncWorkerError as error:
            log.warning("claim of an export not given back", error=error.code)

    async def _note(self, unit: UnitOfWork) -> None:
        """A row for each series, due as it is set; a series that is set no more has none."""
        now = await unit.now()
        for name, set_ in self._series.items():
            row = await unit.work.find(WorkKind.EXPORT, name)
            due_at = next_due(set_, now=now, began=None if row is None else row.last_started_at)
            if row is None or row.due_at > due_at:
                await unit.work.schedule(WorkKind.EXPORT, name, lfi=PLACE, due_at=due_at)
        for name in await unit.work.subjects(WorkKind.EXPORT):
            if name not in self._series:
                await unit.work.forget(WorkKind.EXPORT, name)

    async def _taken(self, unit: UnitOfWork, name: str) -> Claim | None:
        row, now = await unit.work.find(WorkKind.EXPORT, name), await unit.now()
        if row is None or not _is_free(row, now):  # another process was faster
            return None
        claim = await unit.work.claim_one(WorkKind.EXPORT, name, lease=self._lease)
        return None if claim is None else await unit.work.take(claim.id, claim.gen, lease=self._lease)

    async def _made(self, claim: Claim) -> None:
        """One export, and the claim's end."""
        error: str | None = None
        async with self._store.looking() as unit:
            began = await unit.now()
        renewing = asyncio.create_task(self._renew(claim), name="renew the claim of an export")
        try:
            manifest = await self._export(claim.subject, began)
            log.info("export made", name=claim.subject, number=manifest.number, kind=manifest.kind.value)
        except SyncWorkerError as fault:
            error = fault.code
            log.warning("export not made", name=claim.subject, error=error, why=str(fault), attempts=claim.attempts)
        except Exception as fault:  # noqa: BLE001  what breaks here must be seen, and must not end the worker
            error = "unexpected"
            log.error("export broke", name=claim.subject, error=type(fault).__name__)  # noqa: TRY400
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

        async def step(unit: UnitOfWork) -> None:
            now = await unit.now()
            due_at = next_due(self._series[claim.subject], now=now, began=began)
            if error is not None:
                due_at = min(due_at, shifted(now, self._retry_after(claim.attempts)))
            outcome = "failed" if error else "made"
            await unit.work.finish(claim, due_at=due_at, outcome=outcome, error=error, good=error is None)

        try:
            await self._store.atomically(step)
        except SyncWorkerError as fault:
            log.warning("end of an export not filed", name=claim.subject, error=fault.code)

    async def _export(self, name: str, now: datetime) -> Manifest:
        set_ = self._series[name]
        wanted = wanted_of(name, set_, self._settings)
        manifest = await run(self._store, wanted, lease=self._lease)
        with suppress(SyncWorkerError):  # what is not removed today is tomorrow
            gone = await asyncio.to_thread(purged, wanted.target, name, keep_full=set_.keep_full, now=now)
            if gone:
                log.info("old exports removed", name=name, exports=len(gone))
            retention = timedelta(days=set_.vacuum_days)
            await asyncio.to_thread(tidied, wanted.target, name, retention=retention, compact=set_.compact)
        return manifest

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 4)
            with suppress(SyncWorkerError):
                await self._store.atomically(lambda unit: unit.work.extend(claim, lease=self._lease))


def _is_free(row: WorkRow, now: datetime) -> bool:
    waits = row.due_at > now and row.asked_at is None
    return not waits and row.parked_at is None and (row.lease_until is None or row.lease_until <= now)
