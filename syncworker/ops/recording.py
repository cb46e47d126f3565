"""Note, while ticks come, what an operator is shown: causes with beginning and end, when connections go stale.

A tick that finds the last look older than `EVERY` looks: it judges connections whose sync ended since, collects a
status, judges that and brings the table `cause` up to date.  What is usual at an LFI is measured once an hour, and not
while that LFI is slow.

Nothing can be noted while nothing ticks.  The first look after such a time notes it as one cause that is over.
"""

from datetime import datetime, timedelta
from typing import Final

import structlog

from syncworker.errors import SyncWorkerError
from syncworker.ops.cause import CauseKind
from syncworker.ops.diagnosis import Diagnosis, diagnose
from syncworker.ops.status import collect
from syncworker.ops.targets import judged, targets_of, usual_of
from syncworker.settings import Settings
from syncworker.standard.values import Slug
from syncworker.store.causes import TICK, Observed
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind

EVERY: Final = timedelta(seconds=10)
JUDGED_AT_ONCE: Final = 500
"""Connections judged in one look; after an upgrade the ticks that follow judge the others."""

MEASURED_EVERY: Final = timedelta(hours=1)
MEASURED_FIRST: Final = timedelta(minutes=1)
"""An LFI of which nothing is known yet is measured so often."""

STOOD_STILL: Final = timedelta(minutes=1)
"""No look for longer means that nothing ticked."""

PRUNED_EVERY: Final = timedelta(hours=1)

log = structlog.stdlib.get_logger(__name__)


class Recording:
    """Looks.  Lives on one event loop; several processes may look, each notes the same."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._targets = targets_of(settings)
        self._looked_at: datetime | None = None
        self._measured_at: datetime | None = None
        self._pruned_at: datetime | None = None

    async def look(self) -> None:
        """Look, at most every `EVERY`; call it at every tick.  Never fails: the next look finds the same."""
        try:
            async with self._store.looking() as unit:
                now = await unit.now()
            if self._looked_at is not None and now - self._looked_at < EVERY:
                return
            self._looked_at = now
            await self.note(now)
        except SyncWorkerError as error:
            log.warning("causes not noted", error=error.code)

    async def note(self, now: datetime) -> Diagnosis:
        """Note everything as it is now.

        Raises:
            StoreUnavailableError, StoreRefusedError: the database is away, or of another schema.
        """
        await self._judge()
        status = await collect(self._settings, self._store, asks_broker=False, probes=False, costs=False)
        found = diagnose(status)
        observed = [
            Observed(
                one.kind.value,
                one.key,
                one.since or now,
                one.effect.stale,
                one.effect.failing,
                one.effect.waiting,
            )
            for one in found.causes
        ]

        async def step(unit: UnitOfWork) -> None:
            before = await unit.causes.looked_at(TICK)
            if before is not None and now - before > max(STOOD_STILL, 6 * self._tick):
                await unit.causes.note_past(CauseKind.STANDSTILL.value, began_at=before, ended_at=now)
            await unit.causes.record(observed, at=now)
            await unit.causes.look(TICK, at=now)

        await self._store.atomically(step)
        await self._measure(now, slow={one.lfi for one in found.causes if one.kind is CauseKind.LFI_SLOW})
        await self._prune(now)
        return found

    @property
    def _tick(self) -> timedelta:
        return timedelta(seconds=self._settings.tick_seconds)

    async def _judge(self) -> None:
        rule = self._targets.rule
        async with self._store.looking() as unit:
            those = await unit.causes.unjudged(rule=rule, limit=JUDGED_AT_ONCE)
            rows = await judged(unit, those, self._targets)
        if rows:
            await self._store.atomically(lambda unit: unit.causes.judge(rows, rule=rule))

    async def _measure(self, now: datetime, *, slow: set[Slug | None]) -> None:
        if self._measured_at is not None and now - self._measured_at < MEASURED_FIRST:
            return
        self._measured_at = now
        async with self._store.looking() as unit:
            since = await unit.causes.usual_since()
            oldest = min(since.values(), default=None)
            called = {row.lfi for row in await unit.work.summary() if row.kind is WorkKind.SYNC}
            if oldest is not None and now - oldest < MEASURED_EVERY and called <= since.keys():
                return
            runs = await unit.causes.run_times()
        due = {one.lfi for one in runs if one.lfi not in since or now - since[one.lfi] >= MEASURED_EVERY} - slow
        rows = [one for one in usual_of([one for one in runs if one.lfi in due]) if one.lfi in due]
        if rows:
            await self._store.atomically(lambda unit: unit.causes.keep_usual(rows, at=now))

    async def _prune(self, now: datetime) -> None:
        if self._pruned_at is not None and now - self._pruned_at < PRUNED_EVERY:
            return
        self._pruned_at = now
        kept = timedelta(days=self._settings.freshness.causes_days)
        await self._store.atomically(lambda unit: unit.causes.prune(before=now - kept))
