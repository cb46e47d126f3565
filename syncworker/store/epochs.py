"""Which history the database is in: when it was restored, cursors of the feed given before mean nothing any more.

A restored database goes on from an older state.  Numbers and transactions of the feed are given again, for other
changes, and a reader that went on with its cursor would miss them without noticing.  So each row of the feed belongs to
an *epoch*, and a new one begins when the database's history is another:

    PostgreSQL   another cluster, or another timeline of its log (a promoted standby, a recovery to a point in time);
                 `feed_epoch` was written by another transaction than it says: a dump was restored, even into the same
                 cluster; a row of the feed is of a transaction yet to come; the feed's numbers ran backwards
    SQLite       the feed's numbers ran backwards, or the feed has rows of a later epoch than is noted

What cannot be told here: a file or a volume that was copied back whole holds the note of its own time as well.  A
reader's cursor tells that, since it carries a check of the row at its place, unless that row is in the copy too.  Then
its history is the same up to there; but a mirror may hold later states of rows, which come right when they change next.

Looked at when a process or a command opens the store, and by housekeeping.  Where the server does not let us ask for
the cluster's identifier, the other signs have to do.
"""

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.store.tables import change, feed_epoch

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

_ROW: Final = 1
_XIDS: Final = 2**32


class _Database(NamedTuple):
    """What the database says of itself.

    Attributes:
        system_id: `''` where it does not say.
        next_txid: transactions begun so far have lower numbers.
        seq: the highest number the feed ever gave.
        epoch, txid: of the feed's row with the highest number.
    """

    system_id: str
    timeline: int
    next_txid: int
    seq: int
    epoch: int
    txid: int


class Epochs:
    """The table `feed_epoch`, of the installation.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def current(self) -> int:
        """The epoch the database is in, as noted."""
        return await self._unit.connection.scalar(sa.select(feed_epoch.c.epoch)) or 1

    async def differs(self) -> bool:
        """Whether the history is another than the one noted, or none is noted; writes nothing."""
        noted = (await self._unit.connection.execute(self._noted())).one_or_none()
        return noted is None or _is_other(noted, await self._found())

    async def look(self) -> bool:
        """Note where the history stands; begin a new epoch when it is another.  Says whether one began.

        Processes that look at the same time wait for each other.  A new epoch waits for the transactions that write to
        the feed: rows of the old one cannot appear after it began.
        """
        connection = self._unit.connection
        await self._make()
        noted = (await connection.execute(self._noted().with_for_update(of=feed_epoch))).one()
        found = await self._found()
        other = _is_other(noted, found)
        if other and self._unit.dialect.is_postgresql:
            await connection.exec_driver_sql("LOCK TABLE change IN SHARE ROW EXCLUSIVE MODE")
        values = self._note(found)
        if other:
            values |= {"epoch": max(noted.epoch, found.epoch) + 1, "began_at": await self._unit.now()}
        await connection.execute(sa.update(feed_epoch).where(feed_epoch.c.id == _ROW).values(**values))
        return other

    async def _make(self) -> None:
        """The first note, where there is none."""
        if await self._unit.connection.scalar(sa.select(feed_epoch.c.id)) is not None:
            return
        found = await self._found()
        epoch = found.epoch + 1 if found.epoch > 1 else 1  # rows of later histories: the note that counted them is lost
        fresh = self._unit.dialect.upsert(feed_epoch, ("id",), ())
        values = self._note(found) | {"id": _ROW, "epoch": epoch, "began_at": await self._unit.now()}
        await self._unit.connection.execute(fresh.values(**values))

    def _noted(self) -> sa.Select[Any]:
        written_by: sa.ColumnElement[int] = sa.literal(0)
        if self._unit.dialect.is_postgresql:
            written_by = sa.literal_column("feed_epoch.xmin::text::bigint", sa.BigInteger)
        return sa.select(feed_epoch, written_by.label("written_by")).where(feed_epoch.c.id == _ROW)

    def _note(self, found: _Database) -> dict[str, Any]:
        txid: Any = 0
        if self._unit.dialect.is_postgresql:
            txid = sa.literal_column("pg_current_xact_id()::text::bigint", sa.BigInteger)
        return {"system_id": found.system_id, "timeline": found.timeline, "txid": txid, "seq": found.seq}

    async def _found(self) -> _Database:
        connection = self._unit.connection
        newest = sa.select(change.c.epoch, change.c.txid).order_by(change.c.seq.desc()).limit(1)
        row = (await connection.execute(newest)).one_or_none()
        epoch, txid = (1, -1) if row is None else row
        if not self._unit.dialect.is_postgresql:
            seq = await connection.scalar(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'change'"))
            return _Database("", 0, 1, int(seq or 0), epoch, txid)
        # asked before it is called: a call that is not allowed fails the whole transaction
        tells = await connection.scalar(
            sa.text("SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')")
        )
        asked = sa.text("SELECT system_identifier::text FROM pg_control_system()")
        system_id = str(await connection.scalar(asked)) if tells else ""
        timeline, next_txid, seq = (
            await connection.execute(
                sa.text(
                    "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint,"
                    " pg_snapshot_xmax(pg_current_snapshot())::text::bigint,"
                    " (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM change_seq_seq)"
                )
            )
        ).one()
        return _Database(system_id, timeline, next_txid, seq, epoch, txid)


def _is_other(noted: sa.Row[Any], found: _Database) -> bool:
    """Whether the database cannot have come from where the note was written."""
    return (
        ("" not in (noted.system_id, found.system_id) and noted.system_id != found.system_id)
        or noted.timeline != found.timeline
        or noted.written_by != noted.txid % _XIDS
        or noted.seq > found.seq
        or noted.epoch < found.epoch
        or (noted.epoch == found.epoch and found.txid >= found.next_txid)
    )
