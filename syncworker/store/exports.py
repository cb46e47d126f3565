"""The series of exports: which number each is, what is being made, how it ended.

A number is reserved before anything is written, and is never given again.  At most one export of a series is open; its
process renews a lease, and when that runs out another process finds the row with `left_open`, looks at the target how
far it came, and ends the row.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.store.tables import export

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

LEASE: Final = timedelta(seconds=120)


class Outcome(StrEnum):
    """How an export ended."""

    DONE = "done"
    ADOPTED = "adopted"
    """Its process ended after the manifest was there; a later one finished it."""
    ABANDONED = "abandoned"
    """Its process ended before; what it wrote is no export."""
    FAILED = "failed"


GOOD: Final = (Outcome.DONE.value, Outcome.ADOPTED.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """One export as the database knows it; facts are `None` until they are known."""

    name: str
    number: int
    target: str
    format: str
    kind: str | None
    reason: str | None
    base: int | None
    as_of: datetime | None
    to_cursor: str | None
    rows: int | None
    bytes: int | None
    started_at: datetime
    lease_until: datetime | None
    ended_at: datetime | None
    outcome: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is kept of an export that came to be."""

    kind: str
    reason: str | None
    base: int
    as_of: datetime
    to_cursor: str | None
    rows: int
    bytes: int


class Place(NamedTuple):
    """Where a list of exports goes on: behind this one."""

    started_at: datetime
    name: str
    number: int


class Exports:
    """The table `export` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def reserve(
        self,
        name: str,
        *,
        beyond: int,
        target: str,
        format: str,  # noqa: A002  a format it is
        lease: timedelta = LEASE,
    ) -> int | None:
        """Take the next number of a series; `None`: an export of it is open.

        Args:
            beyond: the highest number that stands at the target.
        """
        taken = await self._unit.connection.scalar(sa.select(sa.func.max(export.c.number)).where(*self._mine(name)))
        number = max(taken or 0, beyond) + 1
        now = await self._unit.now()
        fresh = self._unit.dialect.insert(export).values(
            tenant=self._unit.tenant, name=name, number=number, target=target, format=format, started_at=now,
            lease_until=now + lease,
        )  # fmt: skip
        made = await self._unit.connection.scalar(fresh.on_conflict_do_nothing().returning(export.c.number))
        return None if made is None else number

    async def extend(self, name: str, number: int, *, lease: timedelta = LEASE) -> bool:
        """Renew the lease; `False`: another process has ended the row."""
        kept = await self._unit.connection.execute(
            sa.update(export)
            .where(*self._open(name), export.c.number == number)
            .values(lease_until=self._unit.dialect.after(lease))
        )
        return bool(kept.rowcount)

    async def open_row(self, name: str) -> ExportRow | None:
        """The export of a series that is being made, or was when its process ended."""
        return await self._one(sa.select(export).where(*self._open(name)))

    async def end(
        self, name: str, number: int, outcome: Outcome, *, result: Result | None = None, error: str | None = None
    ) -> bool:
        """End an open row; `False`: it has ended already."""
        facts: dict[str, Any] = {}
        if result is not None:
            facts = {one: getattr(result, one) for one in Result.__dataclass_fields__}
        ended = await self._unit.connection.execute(
            sa.update(export)
            .where(*self._open(name), export.c.number == number)
            .values(ended_at=await self._unit.now(), lease_until=None, outcome=outcome.value, error=error, **facts)
        )
        return bool(ended.rowcount)

    async def last_good(self, name: str) -> ExportRow | None:
        """The newest export of a series that came to be."""
        query = sa.select(export).where(*self._mine(name), export.c.outcome.in_(GOOD))
        return await self._one(query.order_by(export.c.number.desc()).limit(1))

    async def get(self, name: str, number: int) -> ExportRow | None:
        """One export."""
        return await self._one(sa.select(export).where(*self._mine(name), export.c.number == number))

    async def listed(self, *, name: str | None = None, after: Place | None = None, limit: int = 100) -> list[ExportRow]:
        """Exports, newest first.

        Args:
            after: the last one of the page before.
        """
        query = sa.select(export).where(export.c.tenant == self._unit.tenant)
        if name is not None:
            query = query.where(export.c.name == name)
        if after is not None:
            at = sa.literal(after.started_at, export.c.started_at.type)
            lower = sa.and_(export.c.name == after.name, export.c.number < after.number)
            same = sa.and_(export.c.started_at == at, sa.or_(export.c.name > after.name, lower))
            query = query.where(sa.or_(export.c.started_at < at, same))
        query = query.order_by(export.c.started_at.desc(), export.c.name, export.c.number.desc()).limit(limit)
        return [_row(one) for one in (await self._unit.connection.execute(query)).mappings()]

    async def _one(self, query: sa.Select[Any]) -> ExportRow | None:
        found = (await self._unit.connection.execute(query)).mappings().one_or_none()
        return None if found is None else _row(found)

    def _mine(self, name: str) -> tuple[sa.ColumnElement[bool], ...]:
        return export.c.tenant == self._unit.tenant, export.c.name == name

    def _open(self, name: str) -> tuple[sa.ColumnElement[bool], ...]:
        return (*self._mine(name), export.c.ended_at.is_(None))


def _row(found: sa.RowMapping) -> ExportRow:
    return ExportRow(**{name: found[name] for name in ExportRow.__dataclass_fields__})
