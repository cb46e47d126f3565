"""The feed: one row per applied change, appended in the transaction that applies it.

Numbers are given when rows are inserted, and transactions commit in another order.  So a row's place is its
transaction and then its number, and a reader stops before the oldest transaction still open: below that line nothing
can appear any more, and nothing is skipped.  SQLite has one writer at a time; there the number alone is the order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.bulk import insert_many
from syncworker.store.statements import Statement, named
from syncworker.store.tables import change

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


class Op(StrEnum):
    """What happened to a row, as a reader of the feed sees it: a revived tombstone is added again."""

    ADDED = "added"
    MODIFIED = "modified"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class RowChange:
    """One change of one row; `account_id` is `''` for a row of the connection."""

    account_id: str
    resource: ResourceName
    key: str
    op: Op


class RowChanges(NamedTuple):
    """Rows of one listing to which the same happened.

    Attributes:
        account_id: `''` for rows of the connection.
        keys: in the order the feed shows them.
    """

    account_id: str
    resource: ResourceName
    op: Op
    keys: Sequence[str]


class Place(NamedTuple):
    """Where a row stands in the feed: its transaction, then its number within."""

    txid: int
    seq: int


BEGINNING: Final = Place(-1, -1)
"""Before the first row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRow:
    """A `RowChange` in its place in the feed."""

    place: Place
    connection_id: ConsentId
    change: RowChange
    at: datetime
    gen: int


_COLUMNS: Final = ("tenant", "txid", "connection_id", "account_id", "resource", "key", "op", "at", "gen")


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
            name="those",
        )
        .render_derived(with_types=True)
    )
    each = sa.func.unnest(rows.c["keys"]).table_valued("key", with_ordinality="place", name="each").render_derived()
    found = (
        sa.select(
            named(change.c.tenant),
            sa.cast(sa.cast(sa.func.pg_current_xact_id(), text), sa.BigInteger),
            named(change.c.connection_id),
            rows.c.account_id,
            rows.c.resource,
            each.c.key,
            rows.c.op,
            named(change.c.at),
            named(change.c.gen),
        )
        .select_from(rows.join(each, sa.true()))
        .order_by(rows.c.place, each.c.place)
    )
    return sa.insert(change).from_select(_COLUMNS, found)


_APPEND: Final = Statement(lambda _: _appending())


class Changes:
    """The table `change` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def append(self, connection_id: ConsentId, changes: Sequence[RowChanges], *, at: datetime, gen: int) -> None:
        """Append changes in the order given; on PostgreSQL with the commit, so that they cost no trip of their own."""
        if not any(one.keys for one in changes):
            return
        if self._unit.dialect.is_postgresql:
            names = ("place", *RowChanges._fields)
            those = [dict(zip(names, (place, *one), strict=True)) for place, one in enumerate(changes)]
            frame = {"tenant": self._unit.tenant, "connection_id": connection_id, "at": at, "gen": gen}
            self._unit.with_commit([(_APPEND, frame | {"changes": those})])
            return
        rows = [
            (self._unit.tenant, 0, connection_id, one.account_id, one.resource.value, key, one.op.value, at, gen)
            for one in changes
            for key in one.keys
        ]
        await insert_many(self._unit.connection, self._unit.dialect, change, _COLUMNS, rows)

    async def read(
        self, *, after: Place = BEGINNING, limit: int = 1_000, connection_id: ConsentId | None = None
    ) -> list[FeedRow]:
        """Rows behind a place, in order; none that a transaction still open could precede.

        Going on from the last row's `place` shows every change once, whichever transaction commits first.
        """
        query = self._settled().where(sa.tuple_(change.c.txid, change.c.seq) > after)
        query = query.order_by(change.c.txid, change.c.seq).limit(limit)
        if connection_id is not None:
            query = query.where(change.c.connection_id == connection_id)
        return list(_feed_rows((await self._unit.connection.execute(query)).all()))

    async def head(self) -> Place:
        """The newest place a reader can reach now; who wants only what comes from now on starts behind it."""
        newest = self._settled().order_by(change.c.txid.desc(), change.c.seq.desc()).limit(1)
        row = (await self._unit.connection.execute(newest)).one_or_none()
        return BEGINNING if row is None else Place(row.txid, row.seq)

    def _settled(self) -> sa.Select[Any]:
        """Rows of transactions older than every one still open: nothing can appear among them any more."""
        query = sa.select(change).where(change.c.tenant == self._unit.tenant)
        if self._unit.dialect.is_postgresql:
            oldest_open: sa.ColumnElement[int] = sa.literal_column(
                "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
            )
            query = query.where(change.c.txid < oldest_open)
        return query


def _feed_rows(rows: Iterable[sa.Row[tuple[object, ...]]]) -> Iterable[FeedRow]:
    for row in rows:
        yield FeedRow(
            place=Place(row.txid, row.seq),
            connection_id=ConsentId(row.connection_id),
            change=RowChange(row.account_id, ResourceName(row.resource), row.key, Op(row.op)),
            at=row.at,
            gen=row.gen,
        )
