"""Runs, calls, latency and price over time, for the eyes of an operator.

Calls of runs lie packed in their runs' rows with sums beside them (`store.calls`), other calls are rows of `call`.
Sums are exact; latency is read from the newest runs only, since their calls have to be unpacked for it.  A run's calls
count to the hour in which the first of them began.  Nothing here writes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.calendar import of_epoch, shifted
from syncworker.standard.interaction import mark_of
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.calls import CallRow, unpack
from syncworker.store.runs import CLOCKS_APART_MAX, RUN_LASTS_MAX
from syncworker.store.tables import call, run

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

HOUR_S: Final = 3_600
QUARTER_S: Final = 900

SAMPLE_RUNS: Final = 1_000
"""Newest runs of an LFI whose calls are unpacked for its latency."""


class QuarterOfRuns(NamedTuple):
    """Runs that began in one quarter of an hour, by how they ended."""

    began: datetime
    outcome: str
    runs: int
    rows: int
    """Rows added, modified and removed by them."""


class HourOfCalls(NamedTuple):
    """Calls to one LFI that began in one hour."""

    lfi: str
    hour: datetime
    calls: int
    unanswered: int
    rate_limited: int
    attended: int
    millifils: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One run, without its listings."""

    id: int
    connection_id: ConsentId
    lfi: Slug
    started_at: datetime
    ended_at: datetime
    outcome: str
    error: str | None
    calls: int
    added: int
    modified: int
    removed: int
    called_millifils: int | None


class OpsTraffic:
    """Reads `run` and `call` of one tenant, for operators."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def first_run_since(self, at: datetime) -> int:
        """Number of the first run filed of those that began at this instant or later, or one a little before.

        Runs are numbered as they end, so a few that began earlier may follow; no index has the instants of all runs,
        and this asks the primary key a few times instead.
        """
        of_tenant = self._beside()
        newest = sa.select(run.c.id).where(of_tenant).order_by(run.c.id.desc()).limit(1)
        low, high = 0, int(await self._unit.connection.scalar(newest) or 0)
        begun = shifted(at, -RUN_LASTS_MAX)
        while low < high:
            middle = (low + high) // 2
            query = (
                sa.select(run.c.id, run.c.started_at).where(of_tenant, run.c.id >= middle).order_by(run.c.id).limit(1)
            )
            row = (await self._unit.connection.execute(query)).first()
            if row is None or row.started_at >= begun:
                high = middle
            else:
                low = row.id + 1
        return low

    async def runs_by_quarter(self, *, since: datetime) -> list[QuarterOfRuns]:
        """Runs begun since then, by quarter of an hour and outcome."""
        first = await self.first_run_since(since)
        quarter = _part(self._unit, run.c.started_at, QUARTER_S)
        rows = sa.func.sum(run.c.added + run.c.modified + run.c.removed)
        query = (
            sa.select(quarter.label("quarter"), run.c.outcome, sa.func.count(), rows)
            .where(self._beside(), run.c.id >= first, run.c.started_at >= since)
            .group_by(quarter, run.c.outcome)
        )
        found = await self._unit.connection.execute(query)
        return [
            QuarterOfRuns(_moment(at, QUARTER_S), outcome, int(runs), int(count or 0))
            for at, outcome, runs, count in found
        ]

    async def calls_by_hour(self, *, since: datetime, lfi: str | None = None) -> list[HourOfCalls]:
        """Calls begun since then, by LFI and hour; those of runs by the first call of the run."""
        lowest = mark_of(shifted(since, -(CLOCKS_APART_MAX + RUN_LASTS_MAX)))
        of_runs, of_calls = (_part(self._unit, at, HOUR_S) for at in (run.c.called_from, call.c.started_at))
        packed = (
            sa.select(run.c.lfi, of_runs.label("hour"), *(sa.func.sum(run.c[name]).label(name) for name in _OF_RUNS))
            .where(self._beside(), run.c.call_mark >= lowest, run.c.called_from >= since)
            .group_by(run.c.lfi, of_runs)
        )
        single = (
            sa.select(call.c.lfi, of_calls.label("hour"), *_OF_CALLS)
            .where(call.c.tenant == self._unit.tenant, call.c.started_at >= since)
            .group_by(call.c.lfi, of_calls)
        )
        if lfi is not None:
            packed, single = packed.where(run.c.lfi == lfi), single.where(call.c.lfi == lfi)
        found: dict[tuple[str, datetime], list[int]] = {}
        for query in (packed, single):
            for slug, hour, *counts in await self._unit.connection.execute(query):
                held = found.setdefault((slug, _moment(hour, HOUR_S)), [0] * len(_OF_RUNS))
                held[:] = [before + int(more or 0) for before, more in zip(held, counts, strict=True)]
        return [HourOfCalls(slug, hour, *counts) for (slug, hour), counts in sorted(found.items())]

    async def sample(self, lfi: Slug, *, since: datetime, runs_max: int = SAMPLE_RUNS) -> list[CallRow]:
        """Calls of the newest runs at an LFI, and its calls of no run, all begun since then; newest runs first."""
        lowest = mark_of(shifted(since, -(CLOCKS_APART_MAX + RUN_LASTS_MAX)))
        query = (
            sa.select(*_PACKED)
            .where(
                self._beside(),
                run.c.lfi == lfi,
                run.c.call_mark >= lowest,
                run.c.packed.is_not(None),
            )
            .order_by(run.c.call_mark.desc())
            .limit(runs_max)
        )
        found = [
            one
            for row in (await self._unit.connection.execute(query)).mappings()
            for one in _unpacked(row)
            if one.started_at >= since
        ]
        rows = (
            sa.select(*(call.c[name] for name in _CALL))
            .where(call.c.tenant == self._unit.tenant, call.c.lfi == lfi, call.c.started_at >= since)
            .order_by(call.c.started_at.desc())
            .limit(runs_max)
        )
        found += [CallRow(**row) for row in (await self._unit.connection.execute(rows)).mappings()]
        return found

    async def unanswered(self, lfi: Slug, *, since: datetime, limit: int = 20) -> list[CallRow]:
        """Calls to an LFI without an answer or with 5xx, newest first: what is handed to it."""
        lowest = mark_of(shifted(since, -(CLOCKS_APART_MAX + RUN_LASTS_MAX)))
        query = (
            sa.select(*_PACKED)
            .where(self._beside(), run.c.lfi == lfi, run.c.call_mark >= lowest, run.c.unanswered > 0)
            .order_by(run.c.call_mark.desc())
            .limit(limit)
        )
        packed = [one for row in (await self._unit.connection.execute(query)).mappings() for one in _unpacked(row)]
        bad = sa.or_(call.c.status.is_(None), call.c.status >= 500)
        rows = (
            sa.select(*(call.c[name] for name in _CALL))
            .where(call.c.tenant == self._unit.tenant, call.c.lfi == lfi, call.c.started_at >= since, bad)
            .order_by(call.c.started_at.desc())
            .limit(limit)
        )
        packed += [CallRow(**row) for row in (await self._unit.connection.execute(rows)).mappings()]
        wanted = [one for one in packed if one.started_at >= since and (one.status is None or one.status >= 500)]
        return sorted(wanted, key=lambda one: one.started_at, reverse=True)[:limit]

    async def runs(
        self,
        *,
        lfi: str | None = None,
        connection_id: str | None = None,
        outcome: str | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[RunLine]:
        """Runs, newest first; those of one connection by when they began."""
        given = {"lfi": lfi, "connection_id": connection_id, "outcome": outcome}
        query = (
            sa.select(*(run.c[name] for name in RunLine.__slots__))
            .where(
                run.c.tenant == self._unit.tenant if connection_id else self._beside(),
                *(run.c[name] == value for name, value in given.items() if value is not None),
            )
            .order_by(run.c.started_at.desc() if connection_id else run.c.id.desc(), run.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(run.c.id < before)
        return [RunLine(**row) for row in (await self._unit.connection.execute(query)).mappings()]

    def _beside(self) -> sa.ColumnElement[bool]:
        """Runs of the tenant, beside the numbers or marks that they are found by."""
        return self._unit.dialect.beside(run.c.tenant) == self._unit.tenant

    async def beside(self, number: int, connection_id: str) -> tuple[int | None, int | None]:
        """Numbers of the runs of the connection before and after one; `None` where there is none."""
        mine = (run.c.tenant == self._unit.tenant, run.c.connection_id == connection_id)
        before = sa.select(sa.func.max(run.c.id)).where(*mine, run.c.id < number)
        after = sa.select(sa.func.min(run.c.id)).where(*mine, run.c.id > number)
        row = (await self._unit.connection.execute(sa.select(before.scalar_subquery(), after.scalar_subquery()))).one()
        return row[0], row[1]

    async def usual_duration(self, connection_id: str, *, runs_max: int = 20) -> timedelta | None:
        """Median duration of the newest complete runs of a connection; `None` when there is none."""
        query = (
            sa.select(run.c.started_at, run.c.ended_at)
            .where(
                run.c.tenant == self._unit.tenant,
                run.c.connection_id == connection_id,
                run.c.outcome.in_(("ok", "unchanged")),
            )
            .order_by(run.c.started_at.desc())
            .limit(runs_max)
        )
        took = sorted(row.ended_at - row.started_at for row in await self._unit.connection.execute(query))
        return took[len(took) // 2] if took else None


def share(values: Sequence[int], part: float) -> int | None:
    """The value that this part of all values does not exceed (nearest rank); `None` of no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None


_CALL: Final = tuple(CallRow.__slots__)
_PACKED: Final = tuple(run.c[name] for name in ("lfi", "consent_id", "call_mark", "called_from", "packed"))
_OF_RUNS: Final = ("called", "unanswered", "rate_limited", "attended", "called_millifils")
_OF_CALLS: Final = (
    sa.func.count(),
    sa.func.count(sa.case((sa.or_(call.c.status.is_(None), call.c.status >= 500), 1))),
    sa.func.count(sa.case((call.c.status == 429, 1))),
    sa.func.count(sa.case((call.c.attended, 1))),
    sa.func.sum(call.c.price_millifils),
)


def _unpacked(row: Any) -> Iterator[CallRow]:
    yield from unpack(
        row["packed"],
        mark=row["call_mark"],
        first=row["called_from"],
        lfi=Slug(row["lfi"]),
        consent_id=row["consent_id"],
    )


def _part(unit: "UnitOfWork", column: sa.ColumnElement[Any], seconds: int) -> sa.ColumnElement[Any]:
    """Which part of time an instant lies in, each of so many seconds, from 1970: a number, cheap to group by."""
    length: sa.ColumnElement[Any] = sa.literal_column(str(seconds))
    if unit.dialect.is_postgresql:
        return sa.cast(sa.func.floor(sa.cast(sa.extract("epoch", column), sa.Float) / length), sa.BigInteger)
    epoch = sa.cast(sa.func.strftime(sa.literal_column("'%s'"), column), sa.BigInteger)
    return epoch.op("/")(length)


def _moment(part: int, seconds: int) -> datetime:
    return of_epoch(part * seconds)
