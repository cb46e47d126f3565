"""Parts of a table as files: Parquet, NDJSON, CSV.

In: Arrow batches, sorted.  Out: files at a target, and what the manifest says of them.

A part is cut at a number of rows, and in a full export at a change of the LFI, never at the end of a batch; so the same
rows make the same files, however they come.  Bytes of Parquet depend on the version of pyarrow and on `SETTINGS`, and
on nothing else: row groups of exactly `ROWS_PER_GROUP`, written from pieces of exactly `_PIECE` rows, because pyarrow
looks at the end of a piece whether a page is full; named dictionary columns; a fixed compression; no time of a run.

Memory: Parquet holds the Arrow columns of one row group, NDJSON and CSV one batch.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from syncworker.exports.layout import FileEntry, Format, TableEntry, Writer, part_path
from syncworker.exports.rows import Digest, Rows, csv_text, guarded, json_lines
from syncworker.exports.schema import DICTIONARY_COLUMNS, OP, Op, Table, arrow_schema, described
from syncworker.exports.targets import Sink, Target

SETTINGS: Final = "v1"
"""Name of all that follows: another name when one of them changes."""

ROWS_PER_PART: Final = 1_048_576
ROWS_PER_GROUP: Final = 131_072
_PIECE: Final = 8_192
_TEXT_ROWS: Final = 4_096
"""Rows whose text is in memory at once."""
_PAGE_BYTES: Final = 1_048_576
_ROWS_PER_PAGE: Final = 20_000
_ZSTD_LEVEL: Final = 3


def writer_facts() -> Writer:
    """What a manifest says of the writer of files."""
    return Writer(settings=SETTINGS, pyarrow=pa.__version__)


class TableWriter(Protocol):
    """Writes one table of one export.  It is used by one thread at a time, and blocks: not by the event loop's."""

    def write(self, batch: pa.RecordBatch, *, lfi: str | None) -> None:
        """Add rows.

        Args:
            batch: of `arrow_schema(table, op=…)`, in the order rows have in the export.
            lfi: whose they are, in a full export: names their file; `None` in an increment.

        Raises:
            ValueError: a batch of another schema.
            ExportTargetError: the target refuses.
        """

    def close(self) -> TableEntry:
        """All rows are in: what the manifest says of the table."""

    def abort(self) -> None:
        """Leave nothing that a reader takes for a part; also after an error of `write` or `close`."""


class PartWriter(Protocol):
    """Writes one file."""

    def write(self, rows: Rows) -> None: ...
    def finish(self) -> None:
        """Write what belongs to the end; the file itself is closed by the caller."""

    def drop(self) -> None:
        """The file is broken off: let go of what is held."""


class FileWriter:
    """A `TableWriter` of files."""

    def __init__(
        self,
        table: Table,
        target: Target,
        *,
        folder: str,
        format: Format,  # noqa: A002  a format it is
        op: bool,
        rows_per_part: int = ROWS_PER_PART,
    ) -> None:
        assert format in _PARTS, f"{format}: is no format of files"
        self._table = table
        self._target = target
        self._folder = folder
        self._format = format
        self._op = op
        self._rows_per_part = rows_per_part
        self._digest = Digest()
        self._rows = 0
        self._deletes = 0
        self._files: list[FileEntry] = []
        self._parts: dict[str | None, int] = {}
        self._lfi: str | None = None
        self._open: _Part | None = None

    def write(self, batch: pa.RecordBatch, *, lfi: str | None) -> None:
        """As `TableWriter.write`."""
        if self._open is not None and lfi != self._lfi:
            self._end_part()
        self._lfi = lfi
        while batch.num_rows:
            if self._open is None:
                self._open = self._new_part(lfi)
            piece = batch.slice(0, min(_TEXT_ROWS, self._rows_per_part - self._open.rows))
            batch = batch.slice(piece.num_rows)
            self._add(self._open, Rows(self._table, piece, op=self._op))
            if self._open.rows == self._rows_per_part:
                self._end_part()

    def close(self) -> TableEntry:
        """As `TableWriter.close`.  An empty table of a full export has a file without rows: readers see its columns."""
        if self._open is not None:
            self._end_part()
        if not self._op and not self._files:
            self._open = self._new_part(None)
            self._end_part()
        op = {Op.UPSERT.value: self._rows - self._deletes, Op.DELETE.value: self._deletes} if self._op else {}
        return TableEntry(
            name=self._table.name,
            merge_key=self._table.merge_key,
            rows=self._rows,
            op=op,
            content_digest=self._digest.hex(),
            columns=described(self._table),
            files=tuple(self._files),
        )

    def abort(self) -> None:
        """As `TableWriter.abort`: the part that is open goes; parts that are whole lie in a folder without manifest."""
        part, self._open = self._open, None
        if part is not None:
            part.file.abort()
            part.writer.drop()

    def _add(self, part: "_Part", rows: Rows) -> None:
        self._digest.add(rows.canonical)
        part.writer.write(rows)
        part.rows += rows.batch.num_rows
        self._rows += rows.batch.num_rows
        if self._op:
            self._deletes += count_deletes(rows.batch)

    def _new_part(self, lfi: str | None) -> "_Part":
        number = self._parts.get(lfi, 0)
        self._parts[lfi] = number + 1
        path = part_path(self._table.name, number, self._format, lfi=lfi)
        file = HashedFile(self._target.open(f"{self._folder}/{path}"))
        return _Part(path, file, _PARTS[self._format](self._table, file, op=self._op))

    def _end_part(self) -> None:
        part = self._open
        assert part is not None
        part.writer.finish()
        part.file.close()
        self._open = None
        self._files.append(
            FileEntry(path=part.path, rows=part.rows, bytes=part.file.bytes, sha256=part.file.sha256.hexdigest())
        )


def count_deletes(batch: pa.RecordBatch) -> int:
    """Rows of an increment that say `delete`.

    Raises:
        ValueError: `op` says something else than `upsert` or `delete`.
    """
    found = {one["values"]: one["counts"] for one in batch.column(OP).value_counts().to_pylist()}
    unknown = found.keys() - {one.value for one in Op}
    if unknown:
        raise ValueError(f"{OP}: {', '.join(sorted(unknown))}: neither upsert nor delete")
    deletes: int = found.get(Op.DELETE.value, 0)
    return deletes


class HashedFile:
    """A file being written, as pyarrow wants one, with its length and its sha256."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.bytes = 0
        self.sha256 = hashlib.sha256()
        self.closed = False
        self._gone = False

    def write(self, data: Any) -> int:
        """What is written to a file that was broken off goes nowhere: pyarrow ends its files whatever happened."""
        view = memoryview(data)
        if self._gone:
            return view.nbytes
        self._sink.write(view)
        self.sha256.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Nothing is held here."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        if not self.closed:
            self._sink.close()
            self.closed = True

    def abort(self) -> None:
        if not self.closed and not self._gone:
            self._gone = True
            self._sink.abort()


class _Part:
    def __init__(self, path: str, file: HashedFile, writer: PartWriter) -> None:
        self.path = path
        self.file = file
        self.writer = writer
        self.rows = 0


class CsvPart:
    """CSV with a header: the canonical text of rows, cells guarded."""

    def __init__(self, table: Table, file: HashedFile, *, op: bool) -> None:
        self._file = file
        names = arrow_schema(table, op=op).names
        file.write(f"{','.join(names)}\n".encode())

    def write(self, rows: Rows) -> None:
        text = guarded(rows.table, rows.text)
        self._file.write(rows.canonical if text is rows.text else csv_text(text))

    def finish(self) -> None:
        """CSV has no end."""

    def drop(self) -> None:
        """Nothing is held."""


class NdjsonPart:
    """One JSON object a line."""

    def __init__(self, table: Table, file: HashedFile, *, op: bool) -> None:
        self._file = file

    def write(self, rows: Rows) -> None:
        if rows.batch.num_rows:
            self._file.write(json_lines(rows))

    def finish(self) -> None:
        """NDJSON has no end."""

    def drop(self) -> None:
        """Nothing is held."""


class ParquetPart:
    """Parquet; holds the Arrow columns of up to one row group."""

    def __init__(self, table: Table, file: HashedFile, *, op: bool, schema: pa.Schema | None = None) -> None:
        """
        Args:
            schema: of a file with other columns than the table's (`exports.delta`).
        """
        self._schema = arrow_schema(table, op=op) if schema is None else schema
        self._pending: list[pa.RecordBatch] = []  # of less than a piece together
        self._pending_rows = 0
        self._pieces: list[pa.RecordBatch] = []
        self._writer = pq.ParquetWriter(
            pa.PythonFile(file, mode="w"),
            self._schema,
            version="2.6",
            data_page_version="1.0",
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=[name for name in self._schema.names if name in DICTIONARY_COLUMNS],
            write_statistics=True,
            store_schema=False,
            store_decimal_as_integer=True,
            write_batch_size=1_024,
            data_page_size=_PAGE_BYTES,
            max_rows_per_page=_ROWS_PER_PAGE,
            dictionary_pagesize_limit=_PAGE_BYTES,
            write_page_index=False,
        )

    def write(self, rows: Rows) -> None:
        self.add(rows.batch)

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows of the file's schema."""
        while batch.num_rows:
            head = batch.slice(0, _PIECE - self._pending_rows)
            batch = batch.slice(head.num_rows)
            self._pending.append(head)
            self._pending_rows += head.num_rows
            if self._pending_rows == _PIECE:
                self._end_piece()

    def finish(self) -> None:
        if self._pending:
            self._end_piece()
        if self._pieces:
            self._end_group()
        self._writer.close()

    def drop(self) -> None:
        self._pending, self._pieces = [], []
        with suppress(pa.ArrowException, OSError):  # a writer whose file refused is in no state to end well
            self._writer.close()

    def _end_piece(self) -> None:
        """Copied together: slices would keep their batches whole in memory.  Columns without a value are kept once."""
        piece = pa.concat_batches(self._pending)
        columns = [
            _nulls(one.type, len(one)) if one.null_count == len(one) else one for one in piece.columns
        ]  # fmt: skip
        self._pieces.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._pending, self._pending_rows = [], 0
        if len(self._pieces) * _PIECE == ROWS_PER_GROUP:
            self._end_group()

    def _end_group(self) -> None:
        group = pa.Table.from_batches(self._pieces, self._schema)
        self._pieces = []
        self._writer.write_table(group, row_group_size=ROWS_PER_GROUP)
        del group
        pa.default_memory_pool().release_unused()


@lru_cache(maxsize=64)
def _nulls(type_: pa.DataType, count: int) -> pa.Array:
    """Most columns of most tables hold nothing, and offsets of an empty text take four bytes a row."""
    return pa.nulls(count, type_)


_PARTS: Final[Mapping[Format, Callable[..., PartWriter]]] = {
    Format.PARQUET: ParquetPart,
    Format.NDJSON: NdjsonPart,
    Format.CSV: CsvPart,
}


def table_writer(
    table: Table,
    target: Target,
    *,
    folder: str,
    format: Format,  # noqa: A002
    op: bool,
    rows_per_part: int = ROWS_PER_PART,
) -> TableWriter:
    """A writer of files below a folder of a target; Delta tables have a writer of their own (`exports.delta`).

    Args:
        folder: of the export, from the target's root on: `nightly/full-000041`.
        op: of an increment: rows begin with `op`.
    """
    return FileWriter(table, target, folder=folder, format=format, op=op, rows_per_part=rows_per_part)
