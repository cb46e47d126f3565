"""Rows of one snapshot as Arrow batches, streamed: memory depends on the size of a piece and not on the tables'.

In: an open `store.exporting.Snapshot`, a table of `schema`.  Out: batches of its `arrow_schema`, handed to a function
in a thread, so that the event loop stays alive while files are written; the next piece is read when it has taken them.

PostgreSQL's CSV goes into Arrow's own reader, with the types said and none guessed.  SQLite's rows become columns here;
its amounts are read as the integers they are.  Both come out the same, lists and objects in one canonical text.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from pyarrow import csv

from syncworker.exports.schema import Column, Hiding, Table, arrow_schema
from syncworker.standard.json_text import canonical_text
from syncworker.store import export_queries as queries
from syncworker.store.exporting import Piece, Snapshot
from syncworker.store.sql_views import Kind

Take = Callable[[pa.RecordBatch], None]
"""Takes a batch; called in a thread, one at a time."""

ROWS_OF_A_PIECE: Final = 50_000
"""Rows that a query of a full export is to give, about: its sort stays in memory, and its start costs little."""

CONNECTIONS_AT_FIRST: Final = 50
CONNECTIONS_MAX: Final = 2_000
"""Connections of one query."""

_UNNAMED: Final = Column("", Kind.TEXT, pa.string(), personal=False, hiding=Hiding.KEPT, comment="")
"""Stands for a column of `queries.DELETED` that a table has not."""

_BLOCK: Final = 1 << 20
"""Bytes of CSV parsed at once."""


class Reader:
    """Reads the tables of one tenant in a snapshot."""

    def __init__(self, snapshot: Snapshot, *, piece_rows: int = ROWS_OF_A_PIECE) -> None:
        self.snapshot = snapshot
        self._unit = snapshot.unit
        self._piece_rows = piece_rows

    async def whole(self, table: Table, take: Callable[[str, pa.RecordBatch], None]) -> int:
        """All rows of a table that can be read, by LFI, sorted by `order_of`; gives how many.

        Args:
            take: is given the LFI as well.
        """
        rows, at_once = 0, CONNECTIONS_AT_FIRST
        async for lfi, connections in self.connections():
            place = 0
            while place < len(connections):
                some = connections[place : place + at_once]
                found = await self.of_connections(table, some, lambda batch, lfi=lfi: take(lfi, batch))  # type: ignore[misc]
                rows, place = rows + found, place + len(some)
                if found * 2 < self._piece_rows:
                    at_once = min(at_once * 2, CONNECTIONS_MAX)
                elif found > self._piece_rows * 2:
                    at_once = max(at_once // 2, 1)
        return rows

    async def of_connections(
        self, table: Table, connections: Sequence[str], take: Take, *, only: Sequence[str] | None = None
    ) -> int:
        """The rows of some connections, sorted.

        Args:
            only: these columns, in the order of the table; `None`: all.
        """
        columns = [one for one in table.columns if only is None or one.name in only]
        piece = queries.whole(
            self._unit.dialect,
            table.view,
            self._selected(columns),
            order_of(table),
            self._unit.tenant,
            connections,
        )
        return await self._pour(piece, columns, take)

    async def upserts(self, table: Table, window: queries.Window, take: Take) -> int:
        """The rows of a table that a window of the feed is about and that can be read."""
        columns = table.columns
        piece = queries.upserts(self._unit.dialect, table.name, self._selected(columns), order_of(table), window)
        return await self._pour(piece, columns, take)

    async def deletes(self, table: Table, window: queries.Window, take: Take) -> int:
        """The keys that a window is about and that no row has any more: batches with null in all other columns."""
        named = {"at": "as_of_bank"} if table.name == queries.HISTORY else {}
        columns = [
            next((column for column in table.columns if column.name == named.get(one, one)), _UNNAMED)
            for one in queries.DELETED
        ]
        piece = queries.deletes(self._unit.dialect, table.name, window)
        return await self._pour(piece, columns, lambda batch: take(keys_alone(table, batch)))

    async def connections(self) -> AsyncIterator[tuple[str, list[str]]]:
        """LFIs with their connections, some at a time."""
        after: tuple[str, str] | None = None
        dialect, tenant = self._unit.dialect, self._unit.tenant
        while rows := await self.snapshot.fetched(
            queries.connections_behind(dialect, tenant, after, limit=CONNECTIONS_MAX)
        ):
            by_lfi: dict[str, list[str]] = {}
            for lfi, connection_id in rows:
                by_lfi.setdefault(lfi, []).append(connection_id)
            for lfi, those in by_lfi.items():
                yield lfi, those
            after = (rows[-1][0], rows[-1][1])

    def _selected(self, columns: Sequence[Column]) -> list[str]:
        """Columns as the view has them: SQLite's amounts by their integers."""
        if self.snapshot.is_postgresql:
            return [one.name for one in columns]
        return [f"{one.name}_e5" if one.kind is Kind.AMOUNT else one.name for one in columns]

    async def _pour(self, piece: Piece, columns: Sequence[Column], take: Take) -> int:
        if self.snapshot.is_postgresql:
            return await self.snapshot.copied(piece, lambda lines: _parsed(lines, columns, take))
        count = 0
        async for rows in self.snapshot.rows(piece):
            await self.snapshot.apart(lambda rows=rows: take(of_rows(rows, columns)))  # type: ignore[misc]
            count += len(rows)
        return count


def order_of(table: Table) -> list[str]:
    """Columns that rows are sorted by: connection, account, key, and what else names a row."""
    names = {one.name for one in table.columns}
    whose = [one for one in ("connection_id", "account_id", "key") if one in names]
    return list(dict.fromkeys([*whose, *table.merge_key]))


def keys_alone(table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows with the columns of a key, in a table's schema: everything else is null."""
    wanted = {"connection_id", "account_id", *table.merge_key}
    given = set(batch.schema.names) & wanted
    return pa.RecordBatch.from_arrays(
        [batch.column(one.name) if one.name in given else pa.nulls(len(batch), one.arrow) for one in table.columns],
        schema=arrow_schema(table, op=False),
    )


# -- PostgreSQL ------------------------------------------------------------------------------------------------------


def _parsed(lines: Iterator[bytes], columns: Sequence[Column], take: Take) -> int:
    """CSV as `COPY` writes it, parsed by Arrow."""
    names = [one.name for one in columns]
    parsing = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    converting = csv.ConvertOptions(
        column_types={one.name: one.arrow for one in columns},
        null_values=[""],
        true_values=["t"],
        false_values=["f"],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    schema = pa.schema([pa.field(one.name, one.arrow) for one in columns])
    jsons = [place for place, one in enumerate(columns) if one.kind is Kind.JSON]
    count = 0
    for text in _pieces(lines):
        reading = csv.ReadOptions(column_names=names, block_size=len(text) + 1, use_threads=False)
        found = csv.read_csv(
            pa.py_buffer(text), read_options=reading, parse_options=parsing, convert_options=converting
        )
        for batch in found.to_batches():
            arrays = [*batch.columns]
            for place in jsons:
                arrays[place] = canonical(arrays[place].to_pylist())
            count += len(batch)
            take(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return count


def _pieces(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines, about `_BLOCK` bytes of them: a row may be longer than a block, and then is one of its own."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _BLOCK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


# -- SQLite ----------------------------------------------------------------------------------------------------------


def of_rows(rows: Sequence[tuple[Any, ...]], columns: Sequence[Column]) -> pa.RecordBatch:
    """Rows of SQLite as columns."""
    arrays = [
        _COLUMN[one.kind](values, one.arrow) for one, values in zip(columns, zip(*rows, strict=True), strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([pa.field(one.name, one.arrow) for one in columns]))


def _amounts(values: Sequence[int | None], arrow: pa.DataType) -> pa.Array:
    """Integers of 1/100,000: a decimal of five places is held as just that integer."""
    whole = pa.array(values, pa.int64()).cast(pa.decimal128(19, 0))
    return pa.Array.from_buffers(arrow, len(whole), whole.buffers(), whole.null_count)


def _cast(values: Sequence[Any], arrow: pa.DataType) -> pa.Array:
    return pa.array(values, pa.string()).cast(arrow)


def _flags(values: Sequence[int | None], arrow: pa.DataType) -> pa.Array:
    return pa.array(values, pa.int64()).cast(arrow)


def _plain(values: Sequence[Any], arrow: pa.DataType) -> pa.Array:
    return pa.array(values, arrow)


_COLUMN: Final[Mapping[Kind, Callable[[Sequence[Any], pa.DataType], pa.Array]]] = {
    Kind.TEXT: _plain,
    Kind.INTEGER: _plain,
    Kind.E5: _plain,
    Kind.AMOUNT: _amounts,
    Kind.INSTANT: _cast,
    Kind.DATE: _cast,
    Kind.FLAG: _flags,
    Kind.JSON: lambda values, _: canonical(values),
}


# -- both ------------------------------------------------------------------------------------------------------------


def canonical(values: Sequence[str | None]) -> pa.Array:
    """Lists and objects in one text: names sorted, no blanks."""
    if not any(values):
        return pa.nulls(len(values), pa.string())
    return pa.array([None if one is None else canonical_text(one) for one in values], pa.string())


def with_op(table: Table, op: str, batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of an increment: `op` first."""
    said = pa.repeat(pa.scalar(op, pa.string()), len(batch))
    return pa.RecordBatch.from_arrays([said, *batch.columns], schema=arrow_schema(table, op=True))
