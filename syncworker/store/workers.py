"""Which processes get on: a row for each, moved by ticks, canaries and batches (`reliability.md` rule 9).

A canary is a message to one worker alone, through its own queue.  A tick sends it, the worker notes that it came: so
the whole way, beat → claim → broker → worker → database, is walked for each worker, also for one that has nothing to
do.  A worker whose loop stands still, or whose connection to the broker is half open, notes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.store.tables import worker

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

WORKER: Final = "worker"
CANARY_AGAIN: Final = timedelta(seconds=30)
"""A canary that has not come round for so long is lost, as with the broker's data: another one is sent."""

GIVEN_UP: Final = timedelta(minutes=10)
"""A worker that made no progress for so long gets no canary any more: nobody collects them."""

FORGOTTEN: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """One process as it stands.

    Attributes:
        name: host and process id, joined by `/`.
        kind: `worker` or `beat`.
        progress_at: when something last came to its begin or end in it; of beat: when its schedule last went round.
        observers_failed: how often an observer of calls failed in it: clock comparison, journal, log …
        canary_asked_at, canary_at: when a canary was last sent to it, and when one last came.
    """

    name: str
    kind: str
    started_at: datetime
    progress_at: datetime
    canary_asked_at: datetime | None
    canary_at: datetime | None
    observers_failed: int = 0


class Workers:
    """The `worker` rows of the installation."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def arrive(self, name: str, kind: str = WORKER) -> None:
        """A process begins: whatever its name stood for before is over (a container keeps host name and process id)."""
        now = self._unit.dialect.now()
        fresh = self._unit.dialect.insert(worker).values(name=name, kind=kind, started_at=now, progress_at=now)
        begun: dict[str, Any] = {
            "kind": fresh.excluded.kind,
            "canary_asked_at": None,
            "canary_at": None,
            "observers_failed": 0,
        }
        begun |= {column: fresh.excluded[column] for column in ("started_at", "progress_at")}
        await self._unit.connection.execute(fresh.on_conflict_do_update(index_elements=["name"], set_=begun))

    async def ask_canaries(self) -> Sequence[str]:
        """Note that a canary goes to every worker that waits for none; sweeps rows of long ago.

        Returns:
            Names of the workers to send one to, after the commit.
        """
        now = self._unit.dialect.now()
        after = self._unit.dialect.after
        await self._unit.connection.execute(sa.delete(worker).where(worker.c.progress_at < after(-FORGOTTEN)))
        waits_for_none = sa.or_(
            worker.c.canary_asked_at.is_(None),
            worker.c.canary_at >= worker.c.canary_asked_at,
            worker.c.canary_asked_at < after(-CANARY_AGAIN),
        )
        to_ask = self._unit.dialect.skip_locked(
            worker,
            sa.select(worker.c.name).where(
                worker.c.kind == WORKER, worker.c.progress_at >= after(-GIVEN_UP), waits_for_none
            ),
        ).cte("to_ask")
        asked = await self._unit.connection.execute(
            sa.update(worker)
            .where(worker.c.name.in_(sa.select(to_ask.c.name)))
            .values(canary_asked_at=now)
            .returning(worker.c.name)
        )
        return sorted(asked.scalars())

    async def canary_came(self, name: str) -> None:
        """The canary of this worker came round."""
        now = self._unit.dialect.now()
        await self._unit.connection.execute(
            sa.update(worker).where(worker.c.name == name).values(canary_at=now, progress_at=now)
        )

    async def observers_failed(self, name: str, times: int) -> None:
        """Note how often an observer of calls failed in this process since it began."""
        await self._unit.connection.execute(
            sa.update(worker).where(worker.c.name == name).values(observers_failed=times)
        )

    async def get(self, name: str) -> WorkerRow | None:
        """One process; `None` when no such process is known."""
        return next(iter(await self._select(worker.c.name == name)), None)

    async def list(self) -> Sequence[WorkerRow]:
        """Every process, those that ended without a word included; by name."""
        return await self._select()

    async def _select(self, *conditions: sa.ColumnElement[bool]) -> Sequence[WorkerRow]:
        columns = [worker.c[name] for name in WorkerRow.__slots__]
        rows = await self._unit.connection.execute(sa.select(*columns).where(*conditions).order_by(worker.c.name))
        return [WorkerRow(**{name: getattr(row, name) for name in WorkerRow.__slots__}) for row in rows]
