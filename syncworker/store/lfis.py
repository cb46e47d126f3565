"""The LFIs added by command, and every LFI's gate.

A declaration in the settings has no row here until its gate closes; a gate belongs to the whole LFI and to all workers
(`reliability.md` rule 32), so it is kept in the database.
"""

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.values import Slug
from syncworker.store.tables import call_budget, lfi

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

_UNDECLARED: Final[Mapping[str, Any]] = {}  # a row that holds a gate only: the settings declare this LFI


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredLFI:
    """An LFI added by command.

    Attributes:
        declared: the declaration as it was given; paths of keys, never keys.
        not_before: the gate: no call before this instant; `None` while it is open.
    """

    slug: Slug
    declared: Mapping[str, Any]
    added_at: datetime
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate as it was closed last.

    Attributes:
        closed_at: when it was closed; `None` for one that 0002 closed.
        until: when it opens, or opened.
    """

    closed_at: datetime | None
    until: datetime


class LFIs:
    """Declarations and gates of one tenant."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add(self, slug: Slug, declared: Mapping[str, Any], *, at: datetime) -> None:
        """Keep a declaration; a second one of the same slug takes its place and leaves the gate as it is.

        Args:
            declared: JSON members only.
        """
        row = {"tenant": self._unit.tenant, "slug": slug, "declared": dict(declared), "added_at": at}
        statement = self._unit.dialect.upsert(lfi, ("tenant", "slug"), ("declared", "added_at"))
        await self._unit.connection.execute(statement, row)

    async def get(self, slug: Slug) -> DeclaredLFI | None:
        """The LFI added under this slug; `None` when there is none."""
        return next((found for found in await self._select(lfi.c.slug == slug)), None)

    async def list(self) -> builtins.list[DeclaredLFI]:
        """Every LFI added by command, by slug."""
        return await self._select()

    async def close_gate(self, slug: Slug, *, until: datetime) -> None:
        """No call to this LFI before `until`; a gate that is closed for longer stays so."""
        now = await self._unit.now()
        row = {
            "tenant": self._unit.tenant,
            "slug": slug,
            "declared": dict(_UNDECLARED),
            "added_at": now,
            "not_before": until,
            "gate_closed_at": now,
        }
        fresh = self._unit.dialect.insert(lfi)
        later = sa.or_(lfi.c.not_before.is_(None), lfi.c.not_before < fresh.excluded.not_before)
        statement = self._unit.dialect.upsert(lfi, ("tenant", "slug"), ("not_before", "gate_closed_at"), where=later)
        await self._unit.connection.execute(statement, row)

    async def open_gate(self, slug: Slug) -> None:
        """Let calls pass at once."""
        gate = (
            sa.update(lfi)
            .where(lfi.c.tenant == self._unit.tenant, lfi.c.slug == slug)
            .values(not_before=None, gate_closed_at=None)
        )
        await self._unit.connection.execute(gate)

    async def gates(self) -> Mapping[Slug, datetime]:
        """The gates closed at this moment of database time, and until when."""
        closed = sa.select(lfi.c.slug, lfi.c.not_before).where(
            lfi.c.tenant == self._unit.tenant, lfi.c.not_before > self._unit.dialect.now()
        )
        return {Slug(row.slug): row.not_before for row in await self._unit.connection.execute(closed)}

    async def gates_known(self) -> Mapping[Slug, Gate]:
        """Every LFI's gate as it was closed last, also those that are open again."""
        query = sa.select(lfi.c.slug, lfi.c.gate_closed_at, lfi.c.not_before).where(
            lfi.c.tenant == self._unit.tenant, lfi.c.not_before.is_not(None)
        )
        rows = await self._unit.connection.execute(query)
        return {Slug(row.slug): Gate(row.gate_closed_at, row.not_before) for row in rows}

    async def reserve(
        self, slug: Slug, *, interval: timedelta, burst: timedelta, patience: timedelta, calls: int
    ) -> float | None:
        """Move an LFI's next free instant on by so many calls, for installations without Redis.

        Args:
            interval: between two calls.
            burst: how much idle time may be made up for.
            patience: how far ahead calls are reserved.

        Returns:
            Seconds until the first of them may start; `None` when that is beyond the patience and nothing was reserved.
        """
        row = {"tenant": self._unit.tenant, "lfi": slug}
        now = await self._unit.now()
        fresh = self._unit.dialect.insert(call_budget).values(**row, next_free=now - burst)
        await self._unit.connection.execute(fresh.on_conflict_do_nothing(index_elements=["tenant", "lfi"]))
        mine = sa.and_(call_budget.c.tenant == self._unit.tenant, call_budget.c.lfi == slug)
        query = sa.select(call_budget.c.next_free).where(mine)
        if self._unit.dialect.is_postgresql:
            query = query.with_for_update()
        held = await self._unit.connection.scalar(query)
        assert isinstance(held, datetime)
        now = await self._unit.now()  # the lock may have been waited for
        start = max(held, now - burst)
        if start - now > patience:
            return None
        moved = sa.update(call_budget).where(mine).values(next_free=start + interval * calls)
        await self._unit.connection.execute(moved)
        return max(0.0, (start - now).total_seconds())

    async def _select(self, *conditions: sa.ColumnElement[bool]) -> builtins.list[DeclaredLFI]:
        query = sa.select(lfi).where(lfi.c.tenant == self._unit.tenant, *conditions).order_by(lfi.c.slug)
        return [
            DeclaredLFI(slug=Slug(row.slug), declared=row.declared, added_at=row.added_at, not_before=row.not_before)
            for row in await self._unit.connection.execute(query)
            if row.declared != _UNDECLARED
        ]
