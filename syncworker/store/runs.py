"""What was done and what it cost: one row per sync run, one per HTTP call."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.calendar import shifted
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.bulk import insert_many
from syncworker.store.dialect import Dialect
from syncworker.store.statements import Statement, Told, named
from syncworker.store.tables import call, run
from syncworker.store.tokens import IN_DOUBT

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
        attempt: from 1; more for a short retry.
        reason: the LFI's words about a call that is no success, masked.
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
    attempt: int = 1
    reason: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FiledRun:
    """A run with its number, as it was filed."""

    id: int
    run: RunRow


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficRow:
    """The calls to one LFI over some time, counted.

    Attributes:
        retried: short retries among them.
        unanswered: without an answer, or with 5xx.
        rate_limited: answered 429.
    """

    lfi: Slug
    calls: int
    retried: int
    unanswered: int
    rate_limited: int
    price_millifils: int


CLOCKS_APART_MAX: Final = timedelta(hours=1)
"""How far a worker's clock may be from the database's for its calls to be found with their run."""

_RUN: Final = tuple(RunRow.__slots__)
_CALL: Final = tuple(CallRow.__slots__)
_ADD: Final = Statement(
    lambda _: sa.insert(run).values({name: named(run.c[name]) for name in ("tenant", *_RUN)}).returning(run.c.id)
)


def _typed(table: sa.Table, names: Sequence[str]) -> dict[str, Any]:
    return {name: table.c[name].type for name in names}


def _calls(dialect: Dialect) -> Any:
    """Calls, however many, of one run or of none."""
    those = dialect.given("calls", _typed(call, _CALL))
    frame = (named(call.c.tenant, "of_tenant"), named(call.c.run_id, "of_run"))
    found = sa.select(*frame, *(those.c[name] for name in _CALL))
    return sa.insert(call).from_select(("tenant", "run_id", *_CALL), found)


def _whole_runs(dialect: Dialect) -> Any:
    """Runs, however many, each with its calls; no two are of one connection (PostgreSQL)."""
    tenant = named(run.c.tenant, "of_tenant")
    those = sa.select(dialect.given("runs", {**_typed(run, _RUN), "made": sa.JSON()})).cte("those")
    filed = (
        sa.insert(run)
        .from_select(("tenant", *_RUN), sa.select(tenant, *(those.c[name] for name in _RUN)))
        .returning(run.c.id, run.c.connection_id)
        .cte("filed")
    )
    made = sa.func.json_to_recordset(those.c.made).table_valued(
        *(sa.column(name, kind) for name, kind in _typed(call, _CALL).items())
    )
    of_run = made.render_derived(name="made", with_types=True).lateral()
    found = (
        sa.select(tenant, filed.c.id, *(of_run.c[name] for name in _CALL))
        .select_from(those.join(filed, filed.c.connection_id == those.c.connection_id).join(of_run, sa.true()))
        .order_by(filed.c.id)
    )
    return sa.insert(call).from_select(("tenant", "run_id", *_CALL), found)


_ADD_CALLS: Final = Statement(_calls)
_FILE: Final = Statement(_whole_runs)


class Runs:
    """The tables `run` and `call` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add(self, row: RunRow) -> int:
        """File one run; says its number."""
        ((number,),) = (await _ADD.run(self._unit, tenant=self._unit.tenant, **_facts(row))).rows
        assert isinstance(number, int)
        return number

    async def add_calls(self, rows: Collection[CallRow], *, run_id: int | None = None) -> None:
        """File calls, in the order they were made.

        Args:
            run_id: the run they were made for; `None` when it is none.
        """
        dialect = self._unit.dialect
        if rows and dialect.is_postgresql:
            calls = dialect.rows(list(rows))
            await _ADD_CALLS.run(self._unit, of_tenant=self._unit.tenant, of_run=run_id, calls=calls)
        elif rows:
            values = [(self._unit.tenant, run_id, *(getattr(row, name) for name in _CALL)) for row in rows]
            await insert_many(self._unit.connection, dialect, call, ("tenant", "run_id", *_CALL), values)

    def adding(self, rows: Sequence[CallRow]) -> list[Told]:
        """`add_calls` of calls that belong to no run, to be sent with others; no rows, no statement."""
        if not rows:
            return []
        calls = self._unit.dialect.rows([{name: getattr(row, name) for name in _CALL} for row in rows])
        return [(_ADD_CALLS, {"of_tenant": self._unit.tenant, "of_run": None, "calls": calls})]

    async def settle(self, rows: Sequence[CallRow]) -> None:
        """File calls of one LFI of which some may be filed already: as they are, or by another process in doubt.

        A row in doubt is replaced; a call that is filed stays as it is.
        """
        if not rows:
            return
        since = shifted(min(row.started_at for row in rows), -CLOCKS_APART_MAX)
        those = (
            call.c.tenant == self._unit.tenant,
            call.c.lfi == rows[0].lfi,
            call.c.started_at >= since,  # what the index holds
            call.c.interaction_id.in_([row.interaction_id for row in rows]),
        )
        await self._unit.connection.execute(sa.delete(call).where(*those, call.c.error == IN_DOUBT))
        filed = set((await self._unit.connection.execute(sa.select(call.c.interaction_id).where(*those))).scalars())
        await self.add_calls([row for row in rows if row.interaction_id not in filed])

    async def file(self, those: Sequence[tuple[RunRow, Sequence[CallRow]]]) -> None:
        """File runs with the calls made for them; on PostgreSQL with the commit, so that it costs no trip of its own.

        Args:
            those: no two of one connection.
        """
        dialect = self._unit.dialect
        if not dialect.is_postgresql:
            for row, calls in those:
                await self.add_calls(calls, run_id=await self.add(row))
        elif those:
            runs = dialect.rows([{**_facts(row), "made": calls} for row, calls in those])
            self._unit.with_commit([(_FILE, {"of_tenant": self._unit.tenant, "runs": runs})])

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

    async def calls_of_runs(self) -> int:
        """How many calls were made for runs; tokens, consents and documents of the LFI are others."""
        query = sa.select(sa.func.count()).where(call.c.tenant == self._unit.tenant, call.c.run_id.is_not(None))
        return int(await self._unit.connection.scalar(query) or 0)

    async def find(
        self,
        *,
        lfi: Slug | None = None,
        connection_id: ConsentId | None = None,
        consent_id: ConsentId | None = None,
        outcomes: Collection[str] = (),
        since: datetime | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[FiledRun]:
        """Runs, newest first, as far as every condition given holds.

        Args:
            outcomes: any of these; none means all.
            since: begun at this instant or later.
            before: filed before the run with that number.
        """
        conditions = [run.c.tenant == self._unit.tenant]
        for column, value in ((run.c.lfi, lfi), (run.c.connection_id, connection_id), (run.c.consent_id, consent_id)):
            if value is not None:
                conditions.append(column == value)
        if outcomes:
            conditions.append(run.c.outcome.in_(sorted(outcomes)))
        if since is not None:
            conditions.append(run.c.started_at >= since)
        if before is not None:
            conditions.append(run.c.id < before)
        return await self._filed(sa.and_(*conditions), limit=limit)

    async def get(self, number: int) -> FiledRun | None:
        """One run by its number."""
        found = await self._filed(sa.and_(run.c.tenant == self._unit.tenant, run.c.id == number), limit=1)
        return next(iter(found), None)

    async def calls_of(self, filed: FiledRun) -> list[CallRow]:
        """The calls made for a run, in the order they were made."""
        begun = shifted(filed.run.started_at, -CLOCKS_APART_MAX)
        ended = shifted(filed.run.ended_at, CLOCKS_APART_MAX)
        query = (
            sa.select(*(call.c[name] for name in _CALL))
            .where(
                call.c.tenant == self._unit.tenant,
                call.c.lfi == filed.run.lfi,
                call.c.started_at.between(begun, ended),  # what the index holds; calls carry the worker's own time
                call.c.run_id == filed.id,
            )
            .order_by(call.c.id)
        )
        return [CallRow(**dict(row)) for row in (await self._unit.connection.execute(query)).mappings()]

    async def said(self, consent_ids: Collection[str], *, run_id: int | None = None, limit: int = 1) -> list[CallRow]:
        """Calls made for these consents that the LFI explained its refusal of, newest first.

        Args:
            run_id: of this run only.
        """
        query = (
            sa.select(*(call.c[name] for name in _CALL))
            .where(
                call.c.tenant == self._unit.tenant,
                call.c.consent_id.in_(sorted(consent_ids)),
                call.c.reason.is_not(None),
            )
            .order_by(call.c.id.desc())
            .limit(limit)
        )
        if run_id is not None:
            query = query.where(call.c.run_id == run_id)
        return [CallRow(**dict(row)) for row in (await self._unit.connection.execute(query)).mappings()]

    async def traffic(self, *, since: datetime) -> list[TrafficRow]:
        """The calls to each LFI since then, counted; by LFI."""
        unanswered = sa.or_(call.c.status.is_(None), call.c.status >= 500)
        query = (
            sa.select(
                call.c.lfi,
                sa.func.count().label("calls"),
                sa.func.count(sa.case((call.c.attempt > 1, 1))).label("retried"),
                sa.func.count(sa.case((unanswered, 1))).label("unanswered"),
                sa.func.count(sa.case((call.c.status == 429, 1))).label("rate_limited"),
                sa.func.sum(call.c.price_millifils).label("price_millifils"),
            )
            .where(call.c.tenant == self._unit.tenant, call.c.started_at >= since)
            .group_by(call.c.lfi)
            .order_by(call.c.lfi)
        )
        rows = (await self._unit.connection.execute(query)).mappings()
        return [TrafficRow(**dict(row) | {"price_millifils": int(row["price_millifils"])}) for row in rows]

    async def _filed(self, condition: sa.ColumnElement[bool], *, limit: int) -> list[FiledRun]:
        query = (
            sa.select(run.c.id, *(run.c[name] for name in _RUN)).where(condition).order_by(run.c.id.desc()).limit(limit)
        )
        rows = (await self._unit.connection.execute(query)).mappings()
        return [FiledRun(id=row["id"], run=RunRow(**{name: row[name] for name in _RUN})) for row in rows]

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


def _facts(row: RunRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _RUN} | {"steps": [dict(step) for step in row.steps]}
