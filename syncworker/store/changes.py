"""The feed: one row per applied change, appended in the transaction that applies it.

Numbers are given when rows are inserted, and transactions commit in another order.  So a row's place is its
transaction and then its number, and a reader stops before the oldest transaction still open: below that line nothing
can appear any more, and nothing is skipped.  SQLite has one writer at a time; there the number alone is the order.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.bulk import insert_many
from syncworker.store.statements import Statement
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


TRANSACTION: Final = Statement(
    lambda dialect: sa.select(
        sa.cast(sa.cast(sa.func.pg_current_xact_id(), sa.Text), sa.BigInteger)
        if dialect.is_postgresql
        else sa.literal_column("0", sa.BigInteger)
    )
)
"""The number of the transaction; 0 on SQLite."""


class Changes:
    """The table `change` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def append(
        self,
        connection_id: ConsentId,
        changes: Collection[RowChange],
        *,
        at: datetime,
        gen: int,
        transaction: int | None = None,
    ) -> None:
        """Append changes in the order given.

        Args:
            transaction: its number (`TRANSACTION`), when it was read before; `None`: it is read here.
        """
        if not changes:
            return
        txid = transaction
        if txid is None:
            ((txid,),) = (await TRANSACTION.run(self._unit)).rows
        rows = [
            (self._unit.tenant, txid, connection_id, one.account_id, one.resource.value, one.key, one.op.value, at, gen)
            for one in changes
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
