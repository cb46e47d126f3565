"""What was done and what it cost: one row per sync run, one per HTTP call."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.values import ConsentId, Slug
from syncworker.store.bulk import insert_many
from syncworker.store.statements import Statement, named
from syncworker.store.tables import call, run

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One sync run.

    Attributes:
        outcome: ok, unchanged, partial or failed.
        steps: outcome of every listing that was due; ids, counts and codes only.
    """

    connection_id: ConsentId
    consent_id: ConsentId
    lfi: Slug
    gen: int
    started_at: datetime
    ended_at: datetime
    outcome: str
    error: str | None
    calls: int
    pages: int
    pages_unchanged: int
    added: int
    modified: int
    removed: int
    steps: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """One HTTP attempt.

    Attributes:
        consent_id: `''` for a call that belongs to no consent.
        status: `None` when no answer came.
        price_millifils: 1 AED = 100,000 milli-fils.
    """

    lfi: Slug
    consent_id: str
    operation: str
    status: int | None
    error: str | None
    interaction_id: str
    started_at: datetime
    duration_ms: int
    bytes_in: int
    attended: bool
    price_millifils: int


_RUN: Final = tuple(RunRow.__slots__)
_CALL: Final = tuple(CallRow.__slots__)
_ADD: Final = Statement(lambda _: sa.insert(run).values({name: named(run.c[name]) for name in ("tenant", *_RUN)}))


class Runs:
    """The tables `run` and `call` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add(self, row: RunRow) -> None:
        """File one run."""
        values = {name: getattr(row, name) for name in _RUN} | {"steps": [dict(step) for step in row.steps]}
        await _ADD.run(self._unit, tenant=self._unit.tenant, **values)

    async def add_calls(self, rows: Collection[CallRow]) -> None:
        """File calls, in the order they were made."""
        if not rows:
            return
        values = [(self._unit.tenant, *(getattr(row, name) for name in _CALL)) for row in rows]
        await insert_many(self._unit.connection, self._unit.dialect, call, ("tenant", *_CALL), values)

    async def latest(self, connection_id: ConsentId | None = None, *, limit: int = 50) -> list[RunRow]:
        """Runs, newest first."""
        query = (
            sa.select(*(run.c[name] for name in _RUN))
            .where(run.c.tenant == self._unit.tenant)
            .order_by(run.c.id.desc())
            .limit(limit)
        )
        if connection_id is not None:
            query = query.where(run.c.connection_id == connection_id)
        return [RunRow(**dict(row)) for row in (await self._unit.connection.execute(query)).mappings()]

    async def newest(self) -> int:
        """Number of the newest run; 0 when there is none.  For `outcomes`."""
        number = await self._unit.connection.scalar(
            sa.select(sa.func.coalesce(sa.func.max(run.c.id), 0)).where(run.c.tenant == self._unit.tenant)
        )
        assert isinstance(number, int)
        return number

    async def outcomes(self, *, after: int) -> dict[str, int]:
        """How many runs ended in which way, of those filed after the run with that number."""
        query = (
            sa.select(run.c.outcome, sa.func.count())
            .where(run.c.tenant == self._unit.tenant, run.c.id > after)
            .group_by(run.c.outcome)
        )
        return {outcome: int(count) for outcome, count in await self._unit.connection.execute(query)}

    async def cost(self, *, since: datetime | None = None, lfi: Slug | None = None) -> tuple[int, int]:
        """How many calls were made and what they cost, in milli-fils."""
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(call.c.price_millifils), 0)).where(
            call.c.tenant == self._unit.tenant
        )
        if since is not None:
            query = query.where(call.c.started_at >= since)
        if lfi is not None:
            query = query.where(call.c.lfi == lfi)
        calls, price = (await self._unit.connection.execute(query)).one()
        return int(calls), int(price)
