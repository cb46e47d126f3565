"""Reads parts back: rows of a file as text, batch by batch, as the canonical text has them.

What cannot be read as a part of its table is a `DamagedError`, which says what is wrong and shows no value.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, BinaryIO, Final

import msgspec
import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from syncworker.exports.layout import Format
from syncworker.exports.rows import Rows, unguarded
from syncworker.exports.schema import OP, Table, arrow_schema
from syncworker.store.sql_views import Kind

_ROWS: Final = 8_192
_BLOCK: Final = 4 << 20
_BLOCK_MAX: Final = 64 << 20
"""A row is in one block; a bank's answer has 10 MiB, and quotes are doubled."""
_HEADER_MAX: Final = 1 << 16


class DamagedError(Exception):
    """A file is no part of its table."""


def text_of(file: BinaryIO, table: Table, format: Format, *, op: bool) -> Iterator[pa.RecordBatch]:  # noqa: A002
    """Rows of a part in order, every column as text (`Rows.text`).

    Args:
        file: can be sought in.

    Raises:
        DamagedError: it is no such part.
    """
    read = {Format.PARQUET: _parquet, Format.CSV: _csv, Format.NDJSON: _ndjson}[format]
    try:
        yield from read(file, table, op)
    except pa.ArrowException as error:
        raise DamagedError(f"does not read as {format.value} ({type(error).__name__})") from None
    except OSError as error:  # pyarrow's word for a damaged file as well
        raise DamagedError(f"does not read as {format.value} ({type(error).__name__})") from None


def parquet_batches(file: BinaryIO, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows of a Parquet file as they were written.

    Raises:
        DamagedError: it is none, or of another schema.
    """
    try:
        with pq.ParquetFile(file, pre_buffer=False) as part:
            if not part.schema_arrow.remove_metadata().equals(wanted):
                raise DamagedError("has other columns or types than its table")
            for batch in part.iter_batches(batch_size=_ROWS, use_threads=False):
                yield pa.RecordBatch.from_arrays(batch.columns, schema=wanted)
    except (pa.ArrowException, OSError) as error:
        raise DamagedError(f"does not read as Parquet ({type(error).__name__})") from None


def _parquet(file: BinaryIO, table: Table, op: bool) -> Iterator[pa.RecordBatch]:
    for batch in parquet_batches(file, arrow_schema(table, op=op)):
        yield Rows(table, batch, op=op).text


def _csv(file: BinaryIO, table: Table, op: bool) -> Iterator[pa.RecordBatch]:
    names = arrow_schema(table, op=op).names
    head = file.read(_HEADER_MAX)
    header = head.partition(b"\n")[0]
    if header != ",".join(names).encode():
        raise DamagedError(f"has other columns than {table.name}")
    if len(head) <= len(header) + 1:
        return
    block, done = _BLOCK, 0
    while True:
        file.seek(len(header) + 1)
        seen = 0
        try:
            for batch in _csv_batches(file, names, block):
                fresh = batch.slice(min(max(done - seen, 0), batch.num_rows))
                seen += batch.num_rows
                if fresh.num_rows:
                    yield unguarded(table, fresh)
                    done = seen
            break
        except pa.ArrowInvalid:  # damaged, or a row is longer than a block
            if block >= _BLOCK_MAX:
                raise
            block *= 4


def _csv_batches(file: BinaryIO, names: list[str], block: int) -> Iterator[pa.RecordBatch]:
    with pcsv.open_csv(
        _Open(file),
        read_options=pcsv.ReadOptions(column_names=names, block_size=block, use_threads=False),
        parse_options=pcsv.ParseOptions(newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    ) as reader:
        yield from reader


class _Open:
    """A file that stays open when pyarrow has read it."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        """The caller closes it."""


def _ndjson(file: BinaryIO, table: Table, op: bool) -> Iterator[pa.RecordBatch]:
    decoder = _decoder(table, op)
    names = arrow_schema(table, op=op).names
    kinds = {one.name: one.kind for one in table.columns}
    rest = b""
    while block := file.read(_BLOCK):
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield _lines(decoder, whole, names, kinds)
    if rest:
        raise DamagedError("its last line has no end")


def _lines(
    decoder: "msgspec.json.Decoder[Any]", whole: bytes, names: list[str], kinds: Mapping[str, Kind]
) -> pa.RecordBatch:
    try:
        lines = decoder.decode_lines(whole)
    except msgspec.ValidationError as error:
        raise DamagedError(f"a line is no row of the table ({error})") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DamagedError("a line is no JSON") from None
    columns = []
    for name in names:
        values = [getattr(line, name) for line in lines]
        kind = kinds.get(name, Kind.TEXT)
        if kind is Kind.FLAG:
            values = [None if one is None else "true" if one else "false" for one in values]
        elif kind is Kind.INTEGER:
            values = [None if one is None else str(one) for one in values]
        columns.append(pa.array(values, pa.string()))
    return pa.RecordBatch.from_arrays(columns, names=names)


@cache
def _decoder(table: Table, op: bool) -> "msgspec.json.Decoder[Any]":
    types: Mapping[Kind, Any] = {Kind.FLAG: bool | None, Kind.INTEGER: int | None}
    fields: list[tuple[str, Any]] = [(OP, str)] if op else []
    fields += [(one.name, types.get(one.kind, str | None)) for one in table.columns]
    row = msgspec.defstruct(f"Row_{table.name}", fields, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(row)
