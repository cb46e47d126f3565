"""What was done and what it cost: one row per sync run with its calls packed, one per other HTTP call.

A call of a run is a row of `call` too where the LFI said something about it, and where it was filed before calls were
packed: each call is in one of the two, so sums add both.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.calendar import of_epoch, shifted
from syncworker.standard.interaction import mark_in, mark_in_head, mark_of, second_of
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.bulk import insert_many
from syncworker.store.calls import COLUMNS, CallRow, PackedCalls, pack, unpack
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
class FiledRun:
    """A run with its number, as it was filed."""

    id: int
    run: RunRow


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCall:
    """A call that was looked for, with the run it was made for; `None`: for none."""

    call: CallRow
    run: FiledRun | None


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

ANNOUNCED_WITHIN: Final = timedelta(minutes=5)
"""How long before a token call is sent its row in doubt is written, at most; both are dated by one clock."""

RUN_LASTS_MAX: Final = timedelta(hours=1)
"""How long the calls of a run go on, at the very most: a run has minutes."""

NEAR: Final = timedelta(minutes=2)
"""How far from the second in its interaction id a call of no run begins: a refresh notes the id before it is sent."""

_RUN: Final = tuple(RunRow.__slots__)
_CALL: Final = tuple(CallRow.__slots__)
_ADD: Final = Statement(
    lambda _: sa.insert(run).values({name: named(run.c[name]) for name in ("tenant", *_RUN)}).returning(run.c.id)
)
_ADD_PACKED: Final = Statement(
    lambda _: (
        sa.insert(run).values({name: named(run.c[name]) for name in ("tenant", *_RUN, *COLUMNS)}).returning(run.c.id)
    )
)


def _typed(table: sa.Table, names: Sequence[str]) -> dict[str, Any]:
    return {name: table.c[name].type for name in names}


def _calls(dialect: Dialect) -> Any:
    """Calls, however many, of one run or of none."""
    those = dialect.given("calls", _typed(call, _CALL))
    frame = (named(call.c.tenant, "of_tenant"), named(call.c.run_id, "of_run"))
    found = sa.select(*frame, *(those.c[name] for name in _CALL))
    return sa.insert(call).from_select(("tenant", "run_id", *_CALL), found)


def _packed_runs(dialect: Dialect, **more: Any) -> tuple[Any, sa.Insert]:
    """Runs, however many, as one parameter, and their insertion (PostgreSQL)."""
    kinds = {**_typed(run, (*_RUN, *COLUMNS)), "packed": sa.Text(), **more}
    those = sa.select(dialect.given("runs", kinds)).cte("those")
    values = [those.c[name] for name in (*_RUN, *COLUMNS) if name != "packed"]
    names = ("tenant", *(one.name for one in values), "packed")
    packed = sa.func.decode(those.c.packed, "base64")
    return those, sa.insert(run).from_select(names, sa.select(named(run.c.tenant, "of_tenant"), *values, packed))


def _runs(dialect: Dialect) -> Any:
    """Runs whose calls are all packed (PostgreSQL)."""
    return _packed_runs(dialect)[1]


def _runs_and_calls(dialect: Dialect) -> Any:
    """Runs, each with its calls that are rows; no two runs are of one connection (PostgreSQL)."""
    those, adding = _packed_runs(dialect, made=sa.JSON())
    filed = adding.returning(run.c.id, run.c.connection_id).cte("filed")
    made = sa.func.json_to_recordset(those.c.made).table_valued(
        *(sa.column(name, kind) for name, kind in _typed(call, _CALL).items())
    )
    of_run = made.render_derived(name="made", with_types=True).lateral()
    found = (
        sa.select(named(run.c.tenant, "of_tenant"), filed.c.id, *(of_run.c[name] for name in _CALL))
        .select_from(those.join(filed, filed.c.connection_id == those.c.connection_id).join(of_run, sa.true()))
        .order_by(filed.c.id)
    )
    return sa.insert(call).from_select(("tenant", "run_id", *_CALL), found)


_ADD_CALLS: Final = Statement(_calls)
_FILE: Final = Statement(_runs)
_FILE_BOTH: Final = Statement(_runs_and_calls)


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
        self._unit.tally.calls(rows)
        await self._add_calls(rows, run_id=run_id)

    async def _add_calls(self, rows: Collection[CallRow], *, run_id: int | None) -> None:
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
        self._unit.tally.calls(rows)
        calls = self._unit.dialect.rows([{name: getattr(row, name) for name in _CALL} for row in rows])
        return [(_ADD_CALLS, {"of_tenant": self._unit.tenant, "of_run": None, "calls": calls})]

    async def settle(self, rows: Sequence[CallRow], *, apart: timedelta = CLOCKS_APART_MAX) -> None:
        """File calls of one LFI of which some may be filed already: as they are, or in doubt.

        A row in doubt is replaced; a call that is filed stays as it is.

        Args:
            apart: how long before or after a call its row in doubt may be dated.
        """
        if not rows:
            return
        those = self._announced(rows, apart)
        await self._unit.connection.execute(sa.delete(call).where(*those, call.c.error == IN_DOUBT))
        filed = set((await self._unit.connection.execute(sa.select(call.c.interaction_id).where(*those))).scalars())
        await self.add_calls([row for row in rows if row.interaction_id not in filed])

    async def withdraw(self, row: CallRow) -> None:
        """Take back the row in doubt of a call that was not sent."""
        those = self._announced([row], ANNOUNCED_WITHIN)
        await self._unit.connection.execute(sa.delete(call).where(*those, call.c.error == IN_DOUBT))

    def _announced(self, rows: Sequence[CallRow], apart: timedelta) -> tuple[sa.ColumnElement[bool], ...]:
        """Where rows of these calls of one LFI are, as the index finds them."""
        return (
            call.c.tenant == self._unit.tenant,
            call.c.lfi == rows[0].lfi,
            call.c.started_at >= shifted(min(row.started_at for row in rows), -apart),
            call.c.started_at <= shifted(max(row.started_at for row in rows), apart),
            call.c.interaction_id.in_([row.interaction_id for row in rows]),
        )

    async def file(self, those: Sequence[tuple[RunRow, Sequence[CallRow]]]) -> None:
        """File runs with the calls made for them; on PostgreSQL with the commit, so that it costs no trip of its own.

        Args:
            those: no two of one connection.
        """
        dialect = self._unit.dialect
        for row, calls in those:
            self._unit.tally.run(lfi=row.lfi, outcome=row.outcome, steps=row.steps)
            self._unit.tally.calls(calls)
        parted = [(row, *pack(calls)) for row, calls in those]
        if not dialect.is_postgresql:
            for row, packed, rows in parted:
                place = {"tenant": self._unit.tenant, **_facts(row), **_columns(packed)}
                ((number,),) = (await _ADD_PACKED.run(self._unit, **place)).rows
                await self._add_calls(rows, run_id=number)
        elif any(rows for _, _, rows in parted):
            runs = dialect.rows([{**_facts(row), **_columns(packed), "made": rows} for row, packed, rows in parted])
            self._unit.with_commit([(_FILE_BOTH, {"of_tenant": self._unit.tenant, "runs": runs})])
        elif parted:
            runs = dialect.rows([{**_facts(row), **_columns(packed)} for row, packed, _ in parted])
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
        rows = sa.select(sa.func.count()).where(call.c.tenant == self._unit.tenant, call.c.run_id.is_not(None))
        packed = sa.select(sa.func.coalesce(sa.func.sum(run.c.called), 0)).where(run.c.tenant == self._unit.tenant)
        query = sa.select(rows.scalar_subquery() + packed.scalar_subquery())
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
        """The calls made for a run, in the order they were made.

        Raises:
            SetupError: its calls were packed by a newer syncworker.
        """
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
        rows = [CallRow(**dict(row)) for row in (await self._unit.connection.execute(query)).mappings()]
        condition = sa.and_(run.c.tenant == self._unit.tenant, run.c.id == filed.id, run.c.packed.is_not(None))
        found = (await self._unit.connection.execute(sa.select(*_PACKED).where(condition))).mappings()
        return next((_unpacked(one, rows) for one in found), rows)

    async def named(self, text: str) -> FiledRun | None:
        """The run that logs name by the head of its calls' interaction ids, or of which one such id is.

        Two runs of one second share a head once in 65,536 times; the newer one is given.
        """
        mark = mark_in_head(text)
        if mark is None:
            return None
        found = await self._filed(sa.and_(run.c.call_mark == mark, run.c.tenant == self._unit.tenant), limit=1)
        return found[0] if found else None

    async def of_interaction(self, interaction_id: str) -> FoundCall | None:
        """The call that was sent with an interaction id.

        An id leads to its run, or to the time of a call of no run, by an index.  Only calls filed before ids had marks
        are looked for among all rows.

        Raises:
            SetupError: as `calls_of`.
        """
        text = interaction_id.lower()
        mark = mark_in(text)
        if mark is not None:
            for filed in await self._filed(
                sa.and_(run.c.call_mark == mark, run.c.tenant == self._unit.tenant), limit=_SAME_MARK_MAX
            ):
                for one in await self.calls_of(filed):
                    if one.interaction_id == text:
                        return FoundCall(call=one, run=filed)
            at = of_epoch(second_of(mark))
            window = call.c.started_at.between(shifted(at, -NEAR), shifted(at, NEAR))
            near = sa.and_(call.c.lfi.in_(_lfis_called(self._unit.tenant)), window)
            if (found := await self._sent_with(interaction_id, near)) is not None:
                return found
        return await self._sent_with(interaction_id, sa.true())

    async def _sent_with(self, interaction_id: str, condition: sa.ColumnElement[bool]) -> FoundCall | None:
        """A row of `call` by its interaction id, as it was given or in lower case."""
        query = sa.select(call.c.run_id, *(call.c[name] for name in _CALL)).where(
            call.c.tenant == self._unit.tenant,
            call.c.interaction_id.in_({interaction_id, interaction_id.lower()}),
            condition,
        )
        found = (await self._unit.connection.execute(query.order_by(call.c.id).limit(1))).mappings().first()
        if found is None:
            return None
        filed = None if found["run_id"] is None else await self.get(found["run_id"])
        return FoundCall(call=CallRow(**{name: found[name] for name in _CALL}), run=filed)

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
        """The calls to each LFI begun since then, counted; by LFI."""
        counts = await self._counted(since=since, lfi=None)
        return [TrafficRow(lfi=slug, **_sum(some)) for slug, some in sorted(counts.items())]

    async def _counted(self, *, since: datetime | None, lfi: Slug | None) -> dict[Slug, list[Mapping[str, Any]]]:
        """Sums over rows of `call`, over runs, and over the runs that the instant cuts in two; by LFI."""
        of_tenant, packed = run.c.tenant == self._unit.tenant, run.c.packed.is_not(None)
        at = [] if lfi is None else [run.c.lfi == lfi]
        rows = [call.c.tenant == self._unit.tenant, *([] if lfi is None else [call.c.lfi == lfi])]
        runs = [of_tenant, *at, packed]
        cut: list[Mapping[str, Any]] = []
        if since is not None:
            # marks carry the database's time, or nearly: what the index finds is more than what counts
            lowest = mark_of(shifted(since, -(CLOCKS_APART_MAX + RUN_LASTS_MAX)))
            of_tenant = self._unit.dialect.beside(run.c.tenant) == self._unit.tenant
            marked = [of_tenant, *at, packed, run.c.call_mark >= lowest]
            query = sa.select(*_PACKED).where(*marked, run.c.called_from < since, run.c.called_until >= since)
            cut = [
                _count(one)
                for row in (await self._unit.connection.execute(query)).mappings()
                for one in _unpacked(row)
                if one.started_at >= since
            ]
            rows.append(call.c.started_at >= since)
            runs = [*marked, run.c.called_from >= since]
        each = sa.union_all(
            sa.select(call.c.lfi, *_OF_CALLS).where(*rows).group_by(call.c.lfi),
            sa.select(run.c.lfi, *_OF_RUNS).where(*runs).group_by(run.c.lfi),
        )
        counts: dict[Slug, list[Mapping[str, Any]]] = {}
        for one in [*(await self._unit.connection.execute(each)).mappings(), *cut]:
            counts.setdefault(Slug(one["lfi"]), []).append(one)
        return counts

    async def _filed(self, condition: sa.ColumnElement[bool], *, limit: int) -> list[FiledRun]:
        query = (
            sa.select(run.c.id, *(run.c[name] for name in _RUN)).where(condition).order_by(run.c.id.desc()).limit(limit)
        )
        rows = (await self._unit.connection.execute(query)).mappings()
        return [FiledRun(id=row["id"], run=RunRow(**{name: row[name] for name in _RUN})) for row in rows]

    async def cost(self, *, since: datetime | None = None, lfi: Slug | None = None) -> tuple[int, int]:
        """How many calls were made and what they cost, in milli-fils."""
        counts = _sum([one for some in (await self._counted(since=since, lfi=lfi)).values() for one in some])
        return counts["calls"], counts["price_millifils"]


_SAME_MARK_MAX: Final = 100
"""Most runs looked into for one interaction id: two of one second share a mark once in 65,536 times."""

_PACKED: Final = tuple(run.c[name] for name in ("lfi", "consent_id", "call_mark", "called_from", "packed"))
_SUMS: Final = ("calls", "retried", "unanswered", "rate_limited", "price_millifils")
_OF_CALLS: Final = (
    sa.func.count().label("calls"),
    sa.func.count(sa.case((call.c.attempt > 1, 1))).label("retried"),
    sa.func.count(sa.case((sa.or_(call.c.status.is_(None), call.c.status >= 500), 1))).label("unanswered"),
    sa.func.count(sa.case((call.c.status == 429, 1))).label("rate_limited"),
    sa.func.sum(call.c.price_millifils).label("price_millifils"),
)
_OF_RUNS: Final = tuple(
    sa.func.sum(run.c[column]).label(name)
    for name, column in zip(_SUMS, ("called", "retried", "unanswered", "rate_limited", "called_millifils"), strict=True)
)


def _lfis_called(tenant: str) -> sa.Select[Any]:
    """Every LFI with a row in `call`, each found by one look into the index that begins with tenant and LFI."""
    first = sa.select(sa.func.min(call.c.lfi).label("lfi")).where(call.c.tenant == tenant).cte("called", recursive=True)
    following = sa.select(sa.func.min(call.c.lfi)).where(call.c.tenant == tenant, call.c.lfi > first.c.lfi)
    every = first.union_all(sa.select(following.scalar_subquery()).where(first.c.lfi.is_not(None)))
    return sa.select(every.c.lfi).where(every.c.lfi.is_not(None))


def _sum(counts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {name: sum(int(one[name]) for one in counts) for name in _SUMS}


def _count(one: CallRow) -> Mapping[str, Any]:
    """One call, counted as `_OF_CALLS` counts many."""
    return {
        "lfi": one.lfi,
        "calls": 1,
        "retried": one.attempt > 1,
        "unanswered": one.status is None or one.status >= 500,
        "rate_limited": one.status == 429,
        "price_millifils": one.price_millifils,
    }


def _unpacked(row: Mapping[Any, Any], rows: Sequence[CallRow] = ()) -> list[CallRow]:
    """The calls of a run from its columns `_PACKED`."""
    return unpack(
        row["packed"],
        mark=row["call_mark"],
        first=row["called_from"],
        lfi=Slug(row["lfi"]),
        consent_id=row["consent_id"],
        rows=rows,
    )


def _columns(packed: PackedCalls | None) -> dict[str, Any]:
    return {name: None if packed is None else getattr(packed, name) for name in COLUMNS}


def _facts(row: RunRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _RUN} | {"steps": [dict(step) for step in row.steps]}
