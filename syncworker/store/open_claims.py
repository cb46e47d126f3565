"""Which rows of `work` hold an LFI's slots: one list of ids per kind and LFI.

Free slots are counted before every claim.  An index of leases would answer that, but PostgreSQL writes a row whose
indexed column changes into every index of its table anew, and a claim changes nothing but such a lease.  So no index
knows of leases, a claim stays on its page, and a list names the rows to look at.

Only who claims writes a list.  It is locked from the counting to the commit: two dispatchers never count the same
slots, and claim side by side for different LFIs.  An end leaves its id in the list; whoever looks next at that list
drops what has no lease alive.  A list is never longer than the LFI's slots and the few that passed the dispatcher by.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.values import Slug
from syncworker.store.dialect import Dialect
from syncworker.store.statements import Statement, named
from syncworker.store.tables import open_claims, work

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


def _living(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(work.c.id).where(
        dialect.among(work.c.id, "ids", tenant=named(work.c.tenant)),
        work.c.lease_until > named(work.c.lease_until, "now"),
    )


def _keeping(_dialect: Dialect) -> sa.Update:
    return (
        sa.update(open_claims)
        .where(
            open_claims.c.tenant == named(open_claims.c.tenant, "of_tenant"),
            open_claims.c.kind == named(open_claims.c.kind, "of_kind"),
            open_claims.c.lfi == named(open_claims.c.lfi, "of_lfi"),
        )
        .values(work_ids=named(open_claims.c.work_ids, "ids"))
    )


def _locking(dialect: Dialect, *, wait: bool) -> sa.Select[Any]:
    query = (
        sa.select(open_claims.c.lfi, open_claims.c.work_ids)
        .where(
            open_claims.c.kind == named(open_claims.c.kind),
            dialect.among(open_claims.c.lfi, "lfis", tenant=named(open_claims.c.tenant)),
        )
        .order_by(open_claims.c.lfi)
    )
    if dialect.is_postgresql:
        return query.with_for_update(of=open_claims, skip_locked=not wait, key_share=True)
    return query


_LIVING: Final = Statement(_living)
_LOCK: Final = Statement(partial(_locking, wait=True))
_LOCK_FREE: Final = Statement(partial(_locking, wait=False))
_KEEP: Final = Statement(_keeping)


class OpenClaims:
    """The lists of one kind of work, of one tenant."""

    def __init__(self, unit: "UnitOfWork", kind: str) -> None:
        self._unit = unit
        self._kind = kind
        self._held: dict[Slug, list[int]] = {}

    async def lock(self, lfis: Collection[Slug], *, wait: bool = False) -> set[Slug]:
        """Keep the lists of these LFIs to ourselves until this transaction ends.

        Args:
            wait: for who has one; otherwise such lists are passed over (PostgreSQL; SQLite has one writer).

        Returns:
            The LFIs whose lists are ours.
        """
        found = await self._locked(lfis, wait=wait)
        if len(found) < len(lfis):
            await self._make(set(lfis) - found.keys())
            found = await self._locked(lfis, wait=wait)
        self._held |= found
        return set(found)

    async def living(self, now: datetime) -> Mapping[Slug, int]:
        """How many claims with a lease alive each of our lists names; forgets the others."""
        ids = [work_id for listed in self._held.values() for work_id in listed]
        answer = await _LIVING.run(self._unit, tenant=self._unit.tenant, ids=ids, now=now) if ids else None
        alive = {work_id for (work_id,) in answer.rows} if answer else set()
        for lfi, listed in self._held.items():
            self._held[lfi] = [work_id for work_id in listed if work_id in alive]
        return {lfi: len(listed) for lfi, listed in self._held.items()}

    def add(self, claimed: Mapping[Slug, Sequence[int]]) -> None:
        """Write down new claims in lists that are ours, with the commit."""
        frame = {"of_tenant": self._unit.tenant, "of_kind": self._kind}
        self._unit.with_commit(
            [
                (_KEEP, {**frame, "of_lfi": lfi, "ids": sorted({*self._held[lfi], *ids})})
                for lfi, ids in claimed.items()
                if ids
            ]
        )

    async def _locked(self, lfis: Collection[Slug], *, wait: bool) -> dict[Slug, list[int]]:
        statement = _LOCK if wait else _LOCK_FREE
        frame = {"tenant": self._unit.tenant, "kind": self._kind, "lfis": sorted(lfis)}
        return {Slug(lfi): list(work_ids) for lfi, work_ids in (await statement.run(self._unit, **frame)).rows}

    async def _make(self, lfis: Collection[Slug]) -> None:
        """Make lists that are not there; one that somebody holds is there, and an `INSERT` would wait for him."""
        there = await self._unit.connection.scalars(sa.select(open_claims.c.lfi).where(self._ours))
        absent = sorted(set(lfis) - set(there))
        if absent:
            fresh = self._unit.dialect.insert(open_claims).on_conflict_do_nothing()
            frame = {"tenant": self._unit.tenant, "kind": self._kind, "work_ids": []}
            await self._unit.connection.execute(fresh, [{**frame, "lfi": lfi} for lfi in absent])

    @property
    def _ours(self) -> sa.ColumnElement[bool]:
        return sa.and_(open_claims.c.tenant == self._unit.tenant, open_claims.c.kind == self._kind)
