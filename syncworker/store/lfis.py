"""The LFIs added by command, what the participants directory says about them, every LFI's gate and ignored filters.

A declaration in the settings has no row here until its gate closes; a gate belongs to the whole LFI and to all workers
(`reliability.md` rule 32), so it is kept in the database.
"""

import builtins
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import Slug
from syncworker.store.statements import Answer, Statement, named, run_all
from syncworker.store.tables import call_budget, ignored_filter, lfi, lfi_change

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

_UNDECLARED: Final[Mapping[str, Any]] = {}  # a row that holds a gate only: the settings declare this LFI
DETAIL_LENGTH: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredLFI:
    """An LFI added by command.

    Attributes:
        declared: the declaration as it was given; paths of keys, never keys.
        not_before: the gate: no call before this instant; `None` while it is open.
        directory: what the participants directory said when it last showed it; `None`: it is not from there.
        seen_at: that reading.
        missing_since: the first reading that did not show it any more, or not as one that can be called.
    """

    slug: Slug
    declared: Mapping[str, Any]
    added_at: datetime
    not_before: datetime | None = None
    directory: Mapping[str, Any] | None = None
    seen_at: datetime | None = None
    missing_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LFIChange:
    """Something the participants directory says differently than before.

    Attributes:
        what: a constant word.
        version: of the standard, where it concerns one; else empty.
        detail: what it was and what it is, at most 512 characters.
    """

    slug: Slug
    seen_at: datetime
    what: str
    version: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate as it was closed last.

    Attributes:
        closed_at: when it was closed; `None` for one that 0002 closed.
        until: when it opens, or opened.
    """

    closed_at: datetime | None
    until: datetime


_CLOSED_GATES: Final = Statement(
    lambda dialect: sa.select(lfi.c.slug, lfi.c.not_before).where(
        lfi.c.tenant == named(lfi.c.tenant), lfi.c.not_before > dialect.now()
    )
)
GATES: Final = Statement(
    lambda _: sa.select(lfi.c.slug, lfi.c.gate_closed_at, lfi.c.not_before).where(
        lfi.c.tenant == named(lfi.c.tenant), lfi.c.not_before.is_not(None)
    )
)
_IGNORED: Final = Statement(
    lambda _: sa.select(ignored_filter.c.lfi, ignored_filter.c.resource, ignored_filter.c.seen_at).where(
        ignored_filter.c.tenant == named(ignored_filter.c.tenant)
    )
)


class LFIs:
    """Declarations and gates of one tenant."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add(
        self, slug: Slug, declared: Mapping[str, Any], *, at: datetime, directory: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a declaration; a second one of the same slug takes its place and leaves the gate as it is.

        Args:
            declared: JSON members only.
            directory: what the participants directory says; without it the LFI no longer follows the directory.
        """
        columns = {
            "declared": dict(declared),
            "added_at": at,
            "directory": None if directory is None else dict(directory),
            "directory_seen_at": None if directory is None else at,
            "directory_missing_since": None,
        }
        statement = self._unit.dialect.upsert(lfi, ("tenant", "slug"), tuple(columns))
        await self._unit.connection.execute(statement, {"tenant": self._unit.tenant, "slug": slug, **columns})

    async def follow(
        self, slug: Slug, declared: Mapping[str, Any], *, directory: Mapping[str, Any], at: datetime
    ) -> None:
        """File what a reading of the directory says about an LFI that came from there."""
        await self._unit.connection.execute(
            sa.update(lfi)
            .where(lfi.c.tenant == self._unit.tenant, lfi.c.slug == slug)
            .values(
                declared=dict(declared),
                directory=dict(directory),
                directory_seen_at=at,
                directory_missing_since=None,
            )
        )

    async def miss(self, slug: Slug, *, at: datetime) -> None:
        """Note that a reading of the directory did not show an LFI; it stays declared."""
        await self._unit.connection.execute(
            sa.update(lfi)
            .where(lfi.c.tenant == self._unit.tenant, lfi.c.slug == slug, lfi.c.directory_missing_since.is_(None))
            .values(directory_missing_since=at)
        )

    async def add_changes(self, changes: Sequence[LFIChange]) -> None:
        """File what the directory says differently."""
        if not changes:
            return
        rows = [
            {
                "tenant": self._unit.tenant,
                "slug": one.slug,
                "seen_at": one.seen_at,
                "what": one.what,
                "version": one.version,
                "detail": one.detail[:DETAIL_LENGTH],
            }
            for one in changes
        ]
        await self._unit.connection.execute(sa.insert(lfi_change), rows)

    async def changes(self, slug: Slug | None = None, *, limit: int = 20) -> builtins.list[LFIChange]:
        """What changed lately, of one LFI or of all, newest first."""
        query = sa.select(lfi_change).where(lfi_change.c.tenant == self._unit.tenant)
        if slug is not None:
            query = query.where(lfi_change.c.slug == slug)
        query = query.order_by(lfi_change.c.seen_at.desc(), lfi_change.c.id.desc()).limit(limit)
        return [
            LFIChange(slug=Slug(row.slug), seen_at=row.seen_at, what=row.what, version=row.version, detail=row.detail)
            for row in await self._unit.connection.execute(query)
        ]

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
        answer = await _CLOSED_GATES.run(self._unit, tenant=self._unit.tenant)
        return {Slug(slug): until for slug, until in answer.rows}

    async def gates_known(self) -> Mapping[Slug, Gate]:
        """Every LFI's gate as it was closed last, also those that are open again."""
        answer = await GATES.run(self._unit, tenant=self._unit.tenant)
        return read_gates(answer)

    async def habits(self) -> tuple[Mapping[Slug, datetime], Mapping[tuple[Slug, ResourceName], datetime]]:
        """`gates` and `filters_ignored` together."""
        tenant = {"tenant": self._unit.tenant}
        gates, ignored = await run_all(self._unit, [(_CLOSED_GATES, tenant), (_IGNORED, tenant)])
        return {Slug(slug): until for slug, until in gates.rows}, _read_ignored(ignored)

    async def filters_ignored(self) -> Mapping[tuple[Slug, ResourceName], datetime]:
        """The (LFI, resource) whose windows were seen to be ignored, and when last."""
        return _read_ignored(await _IGNORED.run(self._unit, tenant=self._unit.tenant))

    async def ignores_filter(self, slug: Slug, resource: ResourceName, *, at: datetime) -> None:
        """Remember that an LFI shows everything of a resource whatever window is asked for."""
        row = {"tenant": self._unit.tenant, "lfi": slug, "resource": resource.value, "seen_at": at}
        statement = self._unit.dialect.upsert(ignored_filter, ("tenant", "lfi", "resource"), ("seen_at",))
        await self._unit.connection.execute(statement, row)

    async def honours_filter(self, slug: Slug, resource: ResourceName) -> None:
        """Forget that it did."""
        await self._unit.connection.execute(
            sa.delete(ignored_filter).where(
                ignored_filter.c.tenant == self._unit.tenant,
                ignored_filter.c.lfi == slug,
                ignored_filter.c.resource == resource.value,
            )
        )

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
            DeclaredLFI(
                slug=Slug(row.slug),
                declared=row.declared,
                added_at=row.added_at,
                not_before=row.not_before,
                directory=row.directory,
                seen_at=row.directory_seen_at,
                missing_since=row.directory_missing_since,
            )
            for row in await self._unit.connection.execute(query)
            if row.declared != _UNDECLARED
        ]


def read_gates(answer: Answer) -> Mapping[Slug, Gate]:
    """What `GATES` gave."""
    return {Slug(slug): Gate(closed_at, until) for slug, closed_at, until in answer.rows}


def _read_ignored(answer: Answer) -> Mapping[tuple[Slug, ResourceName], datetime]:
    return {(Slug(slug), ResourceName(resource)): seen_at for slug, resource, seen_at in answer.rows}
