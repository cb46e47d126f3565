"""An increment: what became, by the end, of every row that changed since the last export.

In: a place in the feed, a snapshot, the exports before.  Out: batches with `op`: `upsert` rows have all their columns,
`delete` rows their keys alone.  Each row comes at most once, as it is in the snapshot; how often it changed, and in
which order, is not told.

    tables whose changes the feed tells      `store.export_queries`: touched rows, shown or not
    connections whose data was erased        also the keys that earlier exports hold and no row has now
    the others (`connection`, `consent`,     compared row by row with what earlier exports hold
    `account_identifier`)

All changes that the snapshot shows are taken, also those before which others may still commit.  Those are told again by
the next increment, which begins at the line that was settled here: harmless, since rows are told as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from syncworker.errors import CursorTooOldError, CursorUnknownError
from syncworker.exports.chain import Chain, Key, deletes_of, digests_of, key_columns, keys_of, texts_of
from syncworker.exports.schema import Op, Table
from syncworker.exports.snapshot import CONNECTIONS_AT_FIRST, CONNECTIONS_MAX, Reader, with_op
from syncworker.feed import cursor as cursors
from syncworker.feed import read as feed
from syncworker.store import export_queries as queries
from syncworker.store.changes import Place
from syncworker.store.unit_of_work import UnitOfWork

Write = Callable[[pa.RecordBatch], None]
"""Takes a batch of `arrow_schema(table, op=True)`."""

Hide = Callable[[Table, pa.RecordBatch], pa.RecordBatch]
"""What is done to rows before they are exported or compared: pseudonyms, or nothing."""


async def place_of(unit: UnitOfWork, cursor: str) -> Place | str:
    """Where in the feed an increment begins, or the word for why there is none: a full export is due."""
    try:
        await feed.page(unit, cursor=cursor, items=feed.living, limit=1)
        return cursors.read(cursor, tenant=unit.tenant).place
    except (CursorTooOldError, CursorUnknownError) as error:
        return error.code


@dataclass(slots=True)
class Increment:
    """One increment being read.

    Attributes:
        fed: connections that changes are about, in order.
        erased: those of them whose data was erased.
    """

    reader: Reader
    chain: Chain
    after: Place
    hide: Hide
    fed: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    _held: dict[str, set[Key]] = field(default_factory=dict)
    _digests: dict[str, dict[Key, bytes]] = field(default_factory=dict)

    async def prepare(self, tables: Sequence[Table]) -> None:
        """Read what has to be known before anything is written.

        Raises:
            ChainError: earlier exports cannot be read: a full export is due.
        """
        snapshot = self.reader.snapshot
        rows = await snapshot.fetched(queries.fed_connections(snapshot.unit.dialect, self._window(())))
        self.fed = [connection_id for connection_id, _ in rows]
        self.erased = [connection_id for connection_id, erased in rows if erased]
        for table in tables:
            if table.name not in queries.FED:
                self._digests[table.name] = await snapshot.apart(lambda table=table: self.chain.digests(table))  # type: ignore[misc]
            elif self.erased:
                self._held[table.name] = await snapshot.apart(
                    lambda table=table: self.chain.keys(table, self.erased)  # type: ignore[misc]
                )

    async def pour(self, table: Table, write: Write) -> None:
        """All rows of a table's increment."""
        if table.name in queries.FED:
            await self._fed(table, write)
        else:
            await self._compared(table, write)

    async def _fed(self, table: Table, write: Write) -> None:
        def upsert(batch: pa.RecordBatch) -> None:
            write(with_op(table, Op.UPSERT, self.hide(table, batch)))

        erased, said = set(self.erased), set[Key]()

        def delete(batch: pa.RecordBatch) -> None:
            write(with_op(table, Op.DELETE, batch))
            if erased:
                said.update(keys_of(table, texts_of(table, batch)))

        place, at_once = 0, CONNECTIONS_AT_FIRST
        while place < len(self.fed):
            window = self._window(self.fed[place : place + at_once])
            found = await self.reader.upserts(table, window, upsert)
            found += await self.reader.deletes(table, window, delete)
            place += at_once
            at_once = min(at_once * 2, CONNECTIONS_MAX) if found < 25_000 else max(at_once // 2, 1)
        if held := self._held.get(table.name):
            gone = held - await self._living(table) - said
            if gone:
                await self.reader.snapshot.apart(lambda: write(with_op(table, Op.DELETE, deletes_of(table, gone))))

    async def _living(self, table: Table) -> set[Key]:
        """Keys of the rows that erased connections have now."""
        found: set[Key] = set()
        names = key_columns(table)

        def take(batch: pa.RecordBatch) -> None:
            whole = pa.RecordBatch.from_arrays(
                [
                    batch.column(one.name) if one.name in names else pa.nulls(batch.num_rows, one.arrow)
                    for one in table.columns
                ],
                names=[one.name for one in table.columns],
            )
            found.update(keys_of(table, texts_of(table, whole)))

        for start in range(0, len(self.erased), CONNECTIONS_MAX):
            await self.reader.of_connections(table, self.erased[start : start + CONNECTIONS_MAX], take, only=names)
        return found

    async def _compared(self, table: Table, write: Write) -> None:
        held = self._digests.pop(table.name)

        def compare(_lfi: str, batch: pa.RecordBatch) -> None:
            batch = self.hide(table, batch)
            text = texts_of(table, batch)
            differs = [
                held.pop(key, None) != digest
                for key, digest in zip(keys_of(table, text), digests_of(text), strict=True)
            ]
            if any(differs):
                write(with_op(table, Op.UPSERT, batch.filter(pa.array(differs))))

        await self.reader.whole(table, compare)
        if held:
            await self.reader.snapshot.apart(lambda: write(with_op(table, Op.DELETE, deletes_of(table, held.keys()))))

    def _window(self, connections: Sequence[str]) -> queries.Window:
        return queries.Window(tenant=self.reader.snapshot.unit.tenant, after=self.after, connections=connections)
