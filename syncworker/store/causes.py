"""Causes with beginning and end, when connections go stale, what is usual at an LFI: what housekeeping notes.

A cause is one row from the look that found it first to the look that did not find it any more.  One that comes back
soon is the same cause again: a gate that opens and closes every few seconds is one row.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.values import ConsentId, Slug
from syncworker.store import freshness
from syncworker.store.calls import timings
from syncworker.store.consents import LIVE, StoredConsent, read_consents
from syncworker.store.overview import OpenedCause, Timing, Usual
from syncworker.store.records import GRANTED_TO_LIVE
from syncworker.store.statements import run_all
from syncworker.store.tables import cause, ops_look, run, staleness, usual, work
from syncworker.store.work import WorkKind

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

SAME_WITHIN: Final = timedelta(minutes=2)
"""A cause that ended and is found again within so long had not ended."""

TICK: Final = "tick"
SAMPLED_RUNS: Final = 2_000
"""Newest runs that what is usual is measured by."""


class Observed(NamedTuple):
    """A cause as one look found it."""

    kind: str
    key: str
    since: datetime
    stale: int
    failing: int
    waiting: int


class Judged(NamedTuple):
    """When a connection goes stale, and by which of its listings.

    Attributes:
        ages: the oldest last walk of each of its resources, packed (`store.ages`).
    """

    connection_id: ConsentId
    stale_at: datetime
    resource: str
    account_id: str
    checked_at: datetime | None
    run_ended_at: datetime
    ages: bytes | None = None


class HeldListings(NamedTuple):
    """Listings of connections, the consent each is read with, and the accounts that one shows."""

    cursors: Mapping[ConsentId, Mapping[freshness.Listing, freshness.Cursor]]
    consents: Mapping[ConsentId, StoredConsent]
    granted: Mapping[ConsentId, Collection[str]]


class RunTime(NamedTuple):
    """A run: its LFI, how long it took, and its calls."""

    lfi: Slug
    duration_ms: int
    calls: tuple[Timing, ...]


_WORST: Final = ("stale", "failing", "waiting")
_USUAL: Final = ("lfi", "resource", "median_ms", "samples")


class Causes:
    """What housekeeping notes of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    # -- causes ----------------------------------------------------------------------------------------------------

    async def record(self, found: Sequence[Observed], *, at: datetime) -> None:
        """Begin, continue and end causes, so that those open are those found."""
        current = {one.key: one for one in found}
        mine = cause.c.tenant == self._unit.tenant
        rows = (await self._unit.connection.execute(sa.select(cause).where(mine, cause.c.ended_at.is_(None)))).all()
        held = {row.key: row for row in rows}
        gone = sorted(row.id for key, row in held.items() if key not in current)
        if gone:
            await self._unit.connection.execute(sa.update(cause).where(mine, cause.c.id.in_(gone)).values(ended_at=at))
        fresh = sorted(current.keys() - held.keys())
        again = await self._ended_lately(fresh, at=at)
        for key in sorted(current):
            one, row = current[key], held.get(key) or again.get(key)
            if row is None:
                values = {"tenant": self._unit.tenant, **one._asdict(), "began_at": one.since, "seen_at": at}
                del values["since"]
                insert = self._unit.dialect.insert(cause).values(**values)
                await self._unit.connection.execute(insert.on_conflict_do_nothing())  # another look was first
                continue
            worst = {name: max(getattr(one, name), getattr(row, name)) for name in _WORST}
            await self._unit.connection.execute(
                sa.update(cause)
                .where(mine, cause.c.id == row.id)
                .values(seen_at=at, ended_at=None, began_at=min(row.began_at, one.since), **worst)
            )

    async def _ended_lately(self, keys: Collection[str], *, at: datetime) -> Mapping[str, sa.Row[tuple[object, ...]]]:
        if not keys:
            return {}
        query = sa.select(cause).where(
            cause.c.tenant == self._unit.tenant, cause.c.ended_at >= at - SAME_WITHIN, cause.c.key.in_(keys)
        )
        return {row.key: row for row in await self._unit.connection.execute(query.order_by(cause.c.id))}

    async def note_past(self, kind: str, *, began_at: datetime, ended_at: datetime) -> None:
        """File a cause that is over: nothing could note it while it lasted."""
        await self._unit.connection.execute(
            sa.insert(cause).values(
                tenant=self._unit.tenant, kind=kind, key=kind, began_at=began_at, seen_at=ended_at, ended_at=ended_at,
                stale=0, failing=0, waiting=0,
            )
        )  # fmt: skip

    async def recent(self, *, limit: int = 50) -> Sequence[OpenedCause]:
        """Causes, those that last first, then those that ended last."""
        names = OpenedCause._fields
        ended = sa.case((cause.c.ended_at.is_(None), 0), else_=1)
        rows = await self._unit.connection.execute(
            sa.select(*(cause.c[name] for name in names))
            .where(cause.c.tenant == self._unit.tenant)
            .order_by(ended, cause.c.ended_at.desc(), cause.c.began_at.desc(), cause.c.id)
            .limit(limit)
        )
        return [OpenedCause(*row) for row in rows]

    async def prune(self, *, before: datetime) -> int:
        """Remove causes that ended before an instant; says how many."""
        gone = await self._unit.connection.execute(
            sa.delete(cause).where(cause.c.ended_at < before, cause.c.tenant == self._unit.tenant)
        )
        return gone.rowcount

    async def look(self, name: str, *, at: datetime) -> None:
        """Note that a process looked; a write that shows whether the database takes writes."""
        statement = self._unit.dialect.upsert(ops_look, ("tenant", "name"), ("at",))
        await self._unit.connection.execute(statement, {"tenant": self._unit.tenant, "name": name, "at": at})

    async def looked_at(self, name: str) -> datetime | None:
        """When a process of that name last looked; `None`: never."""
        query = sa.select(ops_look.c.at).where(ops_look.c.tenant == self._unit.tenant, ops_look.c.name == name)
        at = await self._unit.connection.scalar(query)
        assert at is None or isinstance(at, datetime)
        return at

    # -- staleness -------------------------------------------------------------------------------------------------

    async def unjudged(self, *, rule: str, limit: int) -> list[tuple[ConsentId, datetime]]:
        """Connections whose last run ended after they were judged, or that were judged by another rule.

        Returns:
            Each with the end of that run.
        """
        those = work.outerjoin(
            staleness, sa.and_(staleness.c.tenant == work.c.tenant, staleness.c.connection_id == work.c.subject)
        )
        judged = sa.and_(staleness.c.run_ended_at == work.c.last_ended_at, staleness.c.rule == rule)
        rows = await self._unit.connection.execute(
            sa.select(work.c.subject, work.c.last_ended_at)
            .select_from(those)
            .where(
                work.c.tenant == self._unit.tenant,
                work.c.kind == WorkKind.SYNC.value,
                work.c.last_ended_at.is_not(None),
                sa.not_(sa.func.coalesce(judged, sa.false())),
            )
            .order_by(work.c.last_ended_at)
            .limit(limit)
        )
        return [(ConsentId(subject), at) for subject, at in rows]

    async def listings(self, connection_ids: Sequence[ConsentId]) -> HeldListings:
        """All that says when these connections go stale, in one trip."""
        place = {"tenant": self._unit.tenant, "connection_ids": sorted(set(connection_ids))}
        cursors, checks, live, granted = await run_all(
            self._unit,
            [(freshness.OF, place), (freshness.CHECKS, place), (LIVE, place), (GRANTED_TO_LIVE, place)],
        )
        accounts: dict[ConsentId, set[str]] = {}
        for consent_id, account_id in granted.rows:
            accounts.setdefault(consent_id, set()).add(account_id)
        return HeldListings(
            cursors=freshness.read_freshness(cursors, checks),
            consents={one.connection_id: one for one in read_consents(live)},
            granted=accounts,
        )

    async def judge(self, rows: Sequence[Judged], *, rule: str) -> None:
        """Keep when these connections go stale."""
        if not rows:
            return
        replaced = (*(name for name in Judged._fields if name != "connection_id"), "rule")
        statement = self._unit.dialect.upsert(staleness, ("tenant", "connection_id"), replaced)
        values = [{"tenant": self._unit.tenant, **one._asdict(), "rule": rule} for one in sorted(rows)]
        await self._unit.connection.execute(statement, values)

    # -- what is usual ---------------------------------------------------------------------------------------------

    async def run_times(self, *, limit: int = SAMPLED_RUNS) -> list[RunTime]:
        """The newest runs with packed calls, newest first."""
        query = (
            sa.select(run.c.lfi, run.c.started_at, run.c.ended_at, run.c.packed)
            .where(run.c.tenant == self._unit.tenant, run.c.packed.is_not(None))
            .order_by(run.c.id.desc())
            .limit(limit)
        )
        return [
            RunTime(
                Slug(lfi),
                (ended - started) // timedelta(milliseconds=1),
                tuple(Timing(Slug(lfi), operation, took) for operation, took in timings(packed)),
            )
            for lfi, started, ended, packed in await self._unit.connection.execute(query)
        ]

    async def keep_usual(self, rows: Sequence[Usual], *, at: datetime) -> None:
        """Keep what is usual; rows that are not given stay."""
        if not rows:
            return
        statement = self._unit.dialect.upsert(
            usual, ("tenant", "lfi", "resource"), ("median_ms", "samples", "measured_at")
        )
        values = [{"tenant": self._unit.tenant, **one._asdict(), "measured_at": at} for one in sorted(rows)]
        await self._unit.connection.execute(statement, values)

    async def usual_since(self) -> Mapping[Slug, datetime]:
        """When what is usual was last measured, by LFI."""
        query = (
            sa.select(usual.c.lfi, sa.func.max(usual.c.measured_at))
            .where(usual.c.tenant == self._unit.tenant)
            .group_by(usual.c.lfi)
        )
        return {Slug(lfi): at for lfi, at in await self._unit.connection.execute(query)}
