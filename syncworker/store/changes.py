"""The feed: one row per applied change, appended in the transaction that applies it.

Numbers are given when rows are inserted, and transactions commit in another order.  So a row's place is its history
(`epochs`), its transaction and then its number, and a reader stops before the oldest transaction still open: below that
line nothing can appear any more, and nothing is skipped.  SQLite has one writer at a time; there the number alone is
the order.

Where a walk brings `MARKER_FROM` new rows or more to one listing, one row stands for all of them: a *marker*.  Readers
expand it (`expanded`): its rows are those of the listing whose `first_seen_at` is the marker's `at`.  That set never
changes except by erasure, because `first_seen_at` is written once and no other transaction gives its rows the instant
of a marker (`instant_of`).  A marker of scope `all` stands for every row first seen up to its instant: the listing can
be read again after it could not.

Rows with neither resource nor key speak of a whole connection: `erased` and `restricted`.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.bulk import insert_many
from syncworker.store.readable import readable
from syncworker.store.statements import Answer, Statement, named
from syncworker.store.tables import RECORD_TABLES, change, connection, feed_epoch, feed_pruned, resource_of

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

MARKER_FROM: Final = 10
"""New rows of one listing from which a marker is written instead of a row for each.

Expanding a marker is a statement of its own for every reader, which costs about as much as reading ten rows of the
feed; so below ten rows a marker would save the writer little and cost the readers more.
"""

_NEWEST: Final = 4
"""Rows of a connection's feed that are looked at for its newest instant: transactions of one connection follow each
other, but one that did other work first may have a lower place than the one before it."""

_TICK: Final = timedelta(microseconds=1)


class Op(StrEnum):
    """What happened, as a reader of the feed sees it: a revived tombstone is added again.

    `BACKFILLED` is only written for markers; `ERASED` and `RESTRICTED` speak of a whole connection.
    """

    ADDED = "added"
    MODIFIED = "modified"
    REMOVED = "removed"
    BACKFILLED = "backfilled"
    ERASED = "erased"
    RESTRICTED = "restricted"


class Marked(StrEnum):
    """Which rows a marker stands for."""

    HISTORY = "history"  # first seen by its transaction: the first walk of a listing, or a slice of its backfill
    NEWS = "news"  # first seen by its transaction: an ordinary walk that brought many at once
    ALL = "all"  # every row of the listing first seen until then


@dataclass(frozen=True, slots=True)
class RowChange:
    """One change of one row, a marker, or a change of a whole connection.

    Attributes:
        account_id: `''` for a row of the connection.
        resource: `None` for a change of a whole connection.
        key: `''` for a marker and for a change of a whole connection.
        previous_status: of a transaction whose status this change moved from Pending to Booked.
        scope: of a marker (`Marked`), or the class of data that was erased (`erasure.DataClass`); else `None`.
    """

    account_id: str
    resource: ResourceName | None
    key: str
    op: Op
    previous_status: str | None = None
    scope: str | None = None

    @property
    def marker(self) -> Marked | None:
        """Which rows it stands for; `None` where it is no marker."""
        return Marked(self.scope) if self.op is Op.BACKFILLED and self.scope else None


class RowChanges(NamedTuple):
    """Rows of one listing to which the same happened.

    Attributes:
        account_id: `''` for rows of the connection.
        keys: in the order the feed shows them.
        previous_status, scope: as in `RowChange`.
    """

    account_id: str
    resource: ResourceName | None
    op: Op
    keys: Sequence[str]
    previous_status: str | None = None
    scope: str | None = None


def marker(account_id: str, resource: ResourceName, scope: Marked) -> RowChanges:
    """The one row that stands for rows of a listing."""
    return RowChanges(account_id, resource, Op.BACKFILLED, [""], scope=scope.value)


class Place(NamedTuple):
    """Where a row stands in the feed: its history, its transaction, then its number within."""

    epoch: int
    txid: int
    seq: int


BEGINNING: Final = Place(0, -1, -1)
"""Before the first row."""


class Newest(NamedTuple):
    """The last of a connection's feed.

    Attributes:
        at: its latest instant.
        marked_at: the instant of its latest marker; `None`: there is none among the last rows.
        gen: of the last row.
    """

    at: datetime
    marked_at: datetime | None
    gen: int


class Line(NamedTuple):
    """How far the feed can be read now.

    Attributes:
        epoch: the current history.
        txid: rows of this history are read below this transaction; `None` (SQLite): up to `seq`.
        seq: the highest number there was.
        now: database time.
        pruned_to: rows up to here were taken away; `BEGINNING`: none.
        waiting_since: the instant of the oldest committed change that an open transaction holds back.
    """

    epoch: int
    txid: int | None
    seq: int
    now: datetime
    pruned_to: Place
    waiting_since: datetime | None

    @property
    def lag(self) -> timedelta:
        """How long the oldest committed change has waited for an open transaction; zero: none waits."""
        return max(self.now - self.waiting_since, timedelta(0)) if self.waiting_since else timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker:
    """An open transaction that holds the line back.

    Attributes:
        pid: of the server's process; `None`: a prepared transaction, which has none.
        application: as it calls itself; `None` where our role may not see it.
        since: when the transaction began; `None` where our role may not see it.
        idle_since: since when it does nothing and stays open; `None`: it is at work, or our role may not see it.
    """

    pid: int | None
    application: str | None
    since: datetime | None
    idle_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRow:
    """A `RowChange` in its place in the feed.

    Attributes:
        readable: whether the rows of its connection can be read now; `True` where that was not asked.
    """

    place: Place
    connection_id: ConsentId
    change: RowChange
    at: datetime
    gen: int
    readable: bool = True


def instant_of(now: datetime, newest: Newest | None, *, marks: bool) -> datetime:
    """The instant of a transaction's changes in a connection's feed: never before the last, and never that of a marker.

    Args:
        newest: the last of the connection's feed.
        marks: the transaction writes a marker: its instant is no other transaction's.
    """
    if newest is None:
        return now
    at = max(now, newest.at)
    if (marks and at == newest.at) or (newest.marked_at is not None and at <= newest.marked_at):
        return at + _TICK
    return at


_COLUMNS: Final = (
    "tenant", "epoch", "txid", "connection_id", "account_id", "resource", "key", "op", "previous_status", "scope",
    "at", "gen",
)  # fmt: skip

_EPOCH: Final = sa.func.coalesce(sa.select(feed_epoch.c.epoch).scalar_subquery(), 1)
"""The current history; a database that no process has opened yet is in its first."""

OLDEST_OPEN: Final = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
"""On PostgreSQL: the oldest transaction still open; nothing can appear below it any more."""

_XMIN: Final[sa.ColumnElement[int]] = sa.literal_column(OLDEST_OPEN, sa.BigInteger)
_PLACE: Final = (change.c.epoch, change.c.txid, change.c.seq)


def _appending() -> Any:
    """All changes of a walk in one statement, which looks the same however many they are."""
    text = sa.Text()
    rows = (
        sa.func.json_to_recordset(sa.bindparam("changes", type_=sa.JSON(), required=True))
        .table_valued(
            sa.column("place", sa.Integer()),
            sa.column("account_id", text),
            sa.column("resource", text),
            sa.column("op", text),
            sa.column("keys", postgresql.ARRAY(text)),
            sa.column("previous_status", text),
            sa.column("scope", text),
            name="those",
        )
        .render_derived(with_types=True)
    )
    each = sa.func.unnest(rows.c["keys"]).table_valued("key", with_ordinality="place", name="each").render_derived()
    found = (
        sa.select(
            named(change.c.tenant),
            _EPOCH,
            sa.cast(sa.cast(sa.func.pg_current_xact_id(), text), sa.BigInteger),
            named(change.c.connection_id),
            rows.c.account_id,
            rows.c.resource,
            each.c.key,
            rows.c.op,
            rows.c.previous_status,
            rows.c.scope,
            named(change.c.at),
            named(change.c.gen),
        )
        .select_from(rows.join(each, sa.true()))
        .order_by(rows.c.place, each.c.place)
    )
    return sa.insert(change).from_select(_COLUMNS, found)


_APPEND: Final = Statement(lambda _: _appending())

NEWEST: Final = Statement(
    lambda dialect: (
        sa.select(change.c.at, change.c.scope, change.c.op, change.c.gen)
        .where(
            change.c.connection_id == named(change.c.connection_id),
            dialect.aside(change.c.tenant) == named(change.c.tenant),
        )
        .order_by(*(column.desc() for column in _PLACE))
        .limit(_NEWEST)
    )
)
"""The last rows of a connection's feed, newest first; `read_newest` reads them."""


def read_newest(answer: Answer) -> Newest | None:
    """What `NEWEST` gave; `None`: the connection has no feed."""
    if not answer.rows:
        return None
    marked = [at for at, scope, op, _ in answer.rows if op == Op.BACKFILLED and scope is not None]
    return Newest(max(row[0] for row in answer.rows), max(marked, default=None), answer.rows[0][3])


class Changes:
    """The tables `change` and `feed_pruned` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    # -- what we write -----------------------------------------------------------------------------------------------

    async def append(self, connection_id: ConsentId, changes: Sequence[RowChanges], *, at: datetime, gen: int) -> None:
        """Append changes in the order given; on PostgreSQL with the commit, so that they cost no trip of their own.

        Args:
            at: as `instant_of` gives it.
        """
        if not any(one.keys for one in changes):
            return
        if self._unit.dialect.is_postgresql:
            those = [
                one._asdict() | {"place": place, "resource": one.resource or ""} for place, one in enumerate(changes)
            ]
            frame = {"tenant": self._unit.tenant, "connection_id": connection_id, "at": at, "gen": gen}
            self._unit.with_commit([(_APPEND, frame | {"changes": those})])
            return
        epoch = await self._unit.connection.scalar(sa.select(_EPOCH))
        rows = [
            (
                self._unit.tenant, epoch, 0, connection_id, one.account_id, (one.resource or ""), key, one.op.value,
                one.previous_status, one.scope, at, gen,
            )
            for one in changes
            for key in one.keys
        ]  # fmt: skip
        await insert_many(self._unit.connection, self._unit.dialect, change, _COLUMNS, rows)

    async def say(self, connection_id: ConsentId, changes: Sequence[RowChanges], *, now: datetime) -> datetime:
        """Append markers or changes of a whole connection, outside a sync; gives the instant they got."""
        place = {"tenant": self._unit.tenant, "connection_id": connection_id}
        await self._unit.send()  # what waits for the commit comes before
        newest = read_newest(await NEWEST.run(self._unit, **place))
        at = instant_of(now, newest, marks=any(one.op is Op.BACKFILLED for one in changes))
        await self.append(connection_id, changes, at=at, gen=newest.gen if newest else 0)
        await self._unit.send()
        return at

    async def say_use(self, connection_id: ConsentId, *, restricted: bool, now: datetime) -> None:
        """Say that a connection's data cannot be read any more, or show every listing held of it once more."""
        if restricted:
            await self.say(connection_id, [RowChanges("", None, Op.RESTRICTED, [""])], now=now)
            return
        markers = [marker(*listing, Marked.ALL) for listing in await self.listings(connection_id)]
        if markers:
            await self.say(connection_id, markers, now=now)

    async def prune(self, *, before: datetime, limit: int) -> int:
        """Take away the oldest changes, as far as all of them are of before an instant; says how many.

        Args:
            limit: most rows at once.  If so many went, there may be more.
        """
        oldest = self._settled(change.c.at, *_PLACE).order_by(*_PLACE).limit(limit)
        rows = (await self._unit.connection.execute(oldest)).all()
        last: Place | None = None
        for at, *place in rows:
            if at >= before:
                break
            last = Place(*place)
        if last is None:
            return 0
        gone = await self._unit.connection.execute(
            sa.delete(change).where(change.c.tenant == self._unit.tenant, _up_to(last))
        )
        names = ("epoch", "txid", "seq")
        noted = self._unit.dialect.upsert(feed_pruned, ("tenant",), names)
        await self._unit.connection.execute(noted.values(tenant=self._unit.tenant, **last._asdict()))
        return gone.rowcount

    # -- what is read ------------------------------------------------------------------------------------------------

    async def read(
        self, *, after: Place = BEGINNING, limit: int = 1_000, connection_id: ConsentId | None = None
    ) -> list[FeedRow]:
        """Rows behind a place, in order; none that a transaction still open could precede.  Markers stay markers.

        Going on from the last row's `place` shows every change once, whichever transaction commits first.
        """
        query = self._settled(change).where(_behind(after)).order_by(*_PLACE).limit(limit)
        if connection_id is not None:
            query = query.where(change.c.connection_id == connection_id)
        return list(_feed_rows((await self._unit.connection.execute(query)).mappings()))

    async def head(self) -> Place:
        """The newest place a reader can reach now; one who wants only what comes from now on starts behind it."""
        newest = self._settled(*_PLACE).order_by(*(column.desc() for column in _PLACE)).limit(1)
        row = (await self._unit.connection.execute(newest)).one_or_none()
        return BEGINNING if row is None else Place(*row)

    async def line(self) -> Line:
        """How far the feed can be read now."""
        dialect, tenant = self._unit.dialect, self._unit.tenant
        pruned = sa.select(feed_pruned).where(feed_pruned.c.tenant == tenant).subquery()
        waiting: sa.ColumnElement[Any] = sa.null()
        if dialect.is_postgresql:
            waiting = (
                sa.select(sa.func.min(change.c.at))
                .where(change.c.tenant == tenant, change.c.epoch == _EPOCH, change.c.txid >= _XMIN)
                .scalar_subquery()
            )
        query = sa.select(
            _EPOCH,
            _XMIN if dialect.is_postgresql else sa.null(),
            sa.literal(0) if dialect.is_postgresql else sa.select(sa.func.max(change.c.seq)).scalar_subquery(),
            dialect.now(),
            *(sa.select(pruned.c[name]).scalar_subquery() for name in Place._fields),
            sa.type_coerce(waiting, change.c.at.type),
        )
        epoch, txid, seq, now, *place, since = (await self._unit.connection.execute(query)).one()
        return Line(epoch, txid, seq or 0, now, BEGINNING if place[0] is None else Place(*place), since)

    async def page(
        self,
        *,
        after: Place,
        below: Line,
        limit: int,
        connection_id: ConsentId | None = None,
        resources: Collection[ResourceName] | None = None,
        newest_first: bool = False,
    ) -> list[FeedRow]:
        """Rows behind a place and below a line, in order, each with whether its connection can be read now.

        Args:
            resources: changes of these alone, and those of whole connections.
        """
        can_be_read = (  # no join: PostgreSQL might begin with the connections
            sa.select(readable())
            .where(connection.c.tenant == change.c.tenant, connection.c.connection_id == change.c.connection_id)
            .correlate(change)
            .scalar_subquery()
        )
        query = (
            sa.select(change, can_be_read.label("readable"))
            .where(_behind(after), self._below(below))
            .order_by(*((column.desc() for column in _PLACE) if newest_first else _PLACE))
            .limit(limit)
        )
        if connection_id is None:
            query = query.where(change.c.tenant == self._unit.tenant)
        else:
            query = query.where(
                self._unit.dialect.aside(change.c.tenant) == self._unit.tenant,
                change.c.connection_id == connection_id,
            )
        if resources is not None:
            query = query.where(change.c.resource.in_(["", *sorted(one.value for one in resources)]))
        return list(_feed_rows((await self._unit.connection.execute(query)).mappings()))

    async def at(self, place: Place) -> FeedRow | None:
        """The row at a place; `None`: there is none."""
        query = sa.select(change).where(
            change.c.tenant == self._unit.tenant, *(column == one for column, one in zip(_PLACE, place, strict=True))
        )
        return next(_feed_rows((await self._unit.connection.execute(query)).mappings()), None)

    async def erased_behind(self, place: Place, connection_id: ConsentId) -> bool:
        """Whether data of a connection was erased behind a place: that destroys changes before it."""
        query = sa.select(change.c.seq).where(
            self._unit.dialect.aside(change.c.tenant) == self._unit.tenant,
            change.c.connection_id == connection_id,
            change.c.op == Op.ERASED.value,
            _behind(place),
        )
        return (await self._unit.connection.execute(query.limit(1))).first() is not None

    async def expanded(self, row: FeedRow, *, after: str | None, limit: int) -> list[tuple[str, bool]]:
        """Rows that a marker stands for, behind a key, in the order of their keys: each key, and whether it lives.

        The order is that of the table's primary key, so that a page costs no sort of the listing.
        """
        marked = row.change.marker
        assert marked is not None, "no marker"
        assert row.change.resource is not None, "no listing"
        table = RECORD_TABLES[row.change.resource]
        first_seen = table.c.first_seen_at
        at = sa.literal(row.at, first_seen.type)
        query = (
            sa.select(table.c.key, table.c.gone_at.is_(None))
            .where(
                table.c.tenant == self._unit.tenant,
                table.c.connection_id == row.connection_id,
                table.c.account_id == row.change.account_id,
                first_seen <= at if marked is Marked.ALL else first_seen == at,
            )
            .order_by(table.c.key)
            .limit(limit)
        )
        if after is not None:
            query = query.where(table.c.key > after)
        return [(key, bool(lives)) for key, lives in await self._unit.connection.execute(query)]

    async def listings(self, connection_id: ConsentId) -> list[tuple[str, ResourceName]]:
        """Account and resource of every listing of a connection that has rows, in order."""
        found = []
        for table in dict.fromkeys(RECORD_TABLES.values()):
            query = (
                sa.select(table.c.account_id)
                .where(table.c.tenant == self._unit.tenant, table.c.connection_id == connection_id)
                .distinct()
            )
            accounts = await self._unit.connection.scalars(query)
            found += [(account_id, resource_of(table, account_id)) for account_id in accounts]
        return sorted(found)

    async def blockers(self, *, limit: int = 5) -> list[Blocker]:
        """The oldest open transactions that have written, of any database of the server; SQLite: none.

        They hold the line back: no change of a younger transaction is shown before they end.  No statement's text is
        read: it may hold values.
        """
        if not self._unit.dialect.is_postgresql:
            return []
        query = sa.text(
            "SELECT pid, application, since, idle_since FROM ("
            " SELECT pid, application_name AS application, xact_start AS since, age(backend_xid) AS age,"
            " CASE WHEN state LIKE 'idle in transaction%' THEN state_change END AS idle_since"
            " FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
            " UNION ALL"
            " SELECT NULL, 'prepared transaction', prepared, age(transaction), NULL FROM pg_prepared_xacts"
            ") AS those ORDER BY age DESC LIMIT :limit"
        )
        rows = await self._unit.connection.execute(query, {"limit": limit})
        return [
            Blocker(pid=pid, application=application or None, since=since, idle_since=idle_since)
            for pid, application, since, idle_since in rows
        ]

    def _settled(self, *columns: Any) -> sa.Select[Any]:
        """Rows of transactions older than every one still open: nothing can appear among them any more."""
        query = sa.select(*columns).where(change.c.tenant == self._unit.tenant)
        if self._unit.dialect.is_postgresql:
            query = query.where(sa.or_(change.c.epoch < _EPOCH, change.c.txid < _XMIN))
        return query

    @staticmethod
    def _below(line: Line) -> sa.ColumnElement[bool]:
        if line.txid is None:
            return sa.and_(change.c.epoch <= line.epoch, change.c.seq <= line.seq)
        return sa.or_(change.c.epoch < line.epoch, sa.and_(change.c.epoch == line.epoch, change.c.txid < line.txid))


def _behind(place: Place) -> sa.ColumnElement[bool]:
    return sa.tuple_(*_PLACE) > sa.tuple_(*place)


def _up_to(place: Place) -> sa.ColumnElement[bool]:
    return sa.tuple_(*_PLACE) <= sa.tuple_(*place)


def _feed_rows(rows: Iterable[sa.RowMapping]) -> Iterator[FeedRow]:
    for row in rows:
        yield FeedRow(
            place=Place(row["epoch"], row["txid"], row["seq"]),
            connection_id=ConsentId(row["connection_id"]),
            change=RowChange(
                row["account_id"],
                ResourceName(row["resource"]) if row["resource"] else None,
                row["key"],
                Op(row["op"]),
                row["previous_status"],
                row["scope"],
            ),
            at=row["at"],
            gen=row["gen"],
            readable=bool(row.get("readable", True)),
        )
