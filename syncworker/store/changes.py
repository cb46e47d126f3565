"""The feed: one row per applied change, appended in the transaction that applies it.

`seq` orders the rows.  On PostgreSQL a transaction that took a lower number may commit later, so each row carries its
transaction id: a reader stops before the oldest transaction still open, and skips nothing.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.bulk import insert_many
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRow:
    """A `RowChange` in its place in the feed."""

    seq: int
    connection_id: ConsentId
    change: RowChange
    at: datetime
    gen: int


_COLUMNS: Final = ("tenant", "txid", "connection_id", "account_id", "resource", "key", "op", "at", "gen")


class Changes:
    """The table `change` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def append(self, connection_id: ConsentId, changes: Collection[RowChange], *, at: datetime, gen: int) -> None:
        """Append changes in the order given."""
        if not changes:
            return
        txid = await self._transaction()
        rows = [
            (self._unit.tenant, txid, connection_id, one.account_id, one.resource.value, one.key, one.op.value, at, gen)
            for one in changes
        ]
        await insert_many(self._unit.connection, self._unit.dialect, change, _COLUMNS, rows)

    async def read(
        self, *, after: int = 0, limit: int = 1_000, connection_id: ConsentId | None = None
    ) -> list[FeedRow]:
        """Rows behind `seq == after`, in order; none that a transaction still open could precede."""
        query = (
            sa.select(change)
            .where(change.c.tenant == self._unit.tenant, change.c.seq > after)
            .order_by(change.c.seq)
            .limit(limit)
        )
        if self._unit.dialect.is_postgresql:
            oldest_open: sa.ColumnElement[int] = sa.literal_column(
                "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
            )
            query = query.where(change.c.txid < oldest_open)
        if connection_id is not None:
            query = query.where(change.c.connection_id == connection_id)
        return list(_feed_rows((await self._unit.connection.execute(query)).all()))

    async def head(self) -> int:
        """The newest `seq` there is; a reader that wants only what comes from now on starts behind it."""
        newest = await self._unit.connection.scalar(
            sa.select(sa.func.max(change.c.seq)).where(change.c.tenant == self._unit.tenant)
        )
        return int(newest or 0)

    async def _transaction(self) -> int:
        if not self._unit.dialect.is_postgresql:
            return 0
        number = await self._unit.connection.scalar(sa.text("SELECT pg_current_xact_id()::text::bigint"))
        assert isinstance(number, int)
        return number


def _feed_rows(rows: Iterable[sa.Row[tuple[object, ...]]]) -> Iterable[FeedRow]:
    for row in rows:
        yield FeedRow(
            seq=row.seq,
            connection_id=ConsentId(row.connection_id),
            change=RowChange(row.account_id, ResourceName(row.resource), row.key, Op(row.op)),
            at=row.at,
            gen=row.gen,
        )
