"""What is done to rows on their way into a file: canonical text, digest, guarded cells, JSON lines, pseudonyms.

All of it works on whole columns with Arrow's kernels: a million rows of eighty columns pass in a few seconds, and no
value becomes an object of Python.

**Canonical text** of rows, over which `content_digest` is made, is CSV without a header: columns in the order of the
schema, every value in double quotes with `""` for a quote inside, null as nothing at all, `,` and `\\n` between.
Values are written as the views and answers write them:

    amount     at least two digits behind the point and no zero beyond them: `-120.50`, `0.00001`
    instant    UTC, microseconds: `2026-11-29T20:30:00.000000Z`
    date       `2026-11-30`
    flag       `true`, `false`
    JSON       its text, as it is

So the digest is the same for Parquet, NDJSON, CSV and Delta, on every database, and whatever the size of the batches.
"""

import base64
import hashlib
import hmac
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from syncworker.exports.schema import OP, Hiding, Table, arrow_schema
from syncworker.standard.values import read_iban
from syncworker.store.sql_views import Kind

_PLACES_OPTIONAL: Final = 3
"""Of the five digits behind an amount's point, those that go when they are zeros."""

_ROWS_AT_ONCE: Final = 4_096
_CANONICAL: Final = pcsv.WriteOptions(include_header=False, quoting_style="all_valid", batch_size=_ROWS_AT_ONCE)


class Rows:
    """A batch, and its texts, each made once and only when it is asked for.

    Attributes:
        batch: rows of `arrow_schema(table, op=op)`.
    """

    def __init__(self, table: Table, batch: pa.RecordBatch, *, op: bool) -> None:
        """
        Raises:
            ValueError: the batch is of another schema; names the first column that differs.
        """
        wanted = arrow_schema(table, op=op)
        if not batch.schema.equals(wanted):
            raise ValueError(f"{table.name}: {_difference(batch.schema, wanted)}")
        if op and batch.column(0).null_count:
            raise ValueError(f"{table.name}: {OP} is null in a row")
        self.table = table
        self.op = op
        self.batch = batch

    @cached_property
    def text(self) -> pa.RecordBatch:
        """Every column as text, as it stands in the canonical text."""
        return pa.RecordBatch.from_arrays([_texts(one) for one in self.batch.columns], names=self.batch.schema.names)

    @cached_property
    def canonical(self) -> pa.Buffer:
        """The canonical text."""
        return csv_text(self.text)


def _difference(found: pa.Schema, wanted: pa.Schema) -> str:
    for index, field in enumerate(wanted):
        if index >= len(found):
            return f"column {field.name} is missing"
        if not found.field(index).equals(field):
            return f"column {index + 1} is {found.field(index)}, and not {field}"
    return f"has {len(found)} columns, and not {len(wanted)}"


def csv_text(text: pa.RecordBatch) -> pa.Buffer:
    """Columns of text as CSV: every value quoted, null as nothing."""
    sink = pa.BufferOutputStream()
    pcsv.write_csv(text, sink, _CANONICAL)
    return sink.getvalue()


def _texts(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_string(kind):
        return column
    if column.null_count == len(column):
        return pa.nulls(len(column), pa.string())
    if pa.types.is_decimal(kind):
        return _amounts(column)
    if pa.types.is_timestamp(kind):
        return _instants(column)
    return pc.cast(column, pa.string())


def _amounts(column: pa.Array) -> pa.Array:
    exact = pc.cast(column, pa.string())
    whole = pc.utf8_slice_codeunits(exact, 0, -_PLACES_OPTIONAL)
    rest = pc.ascii_rtrim(pc.utf8_slice_codeunits(exact, -_PLACES_OPTIONAL), "0")
    return pc.binary_join_element_wise(whole, rest, "")


def _instants(column: pa.Array) -> pa.Array:
    """A column with a time zone takes Arrow twenty times as long to write as one without; it is UTC either way."""
    plain = pc.cast(pc.cast(column, pa.timestamp("us")), pa.string())
    return pc.binary_join_element_wise(pc.binary_replace_slice(plain, 10, 11, "T"), "Z", "")


# -- the digest ------------------------------------------------------------------------------------------------------


class Digest:
    """`content_digest` of a table, over the canonical text of its rows in order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, canonical: pa.Buffer) -> None:
        self._sha256.update(canonical)

    def hex(self) -> str:
        return self._sha256.hexdigest()


# -- cells that a spreadsheet would run ------------------------------------------------------------------------------

_UNSEEN: Final = r"\s\x0b\p{Z}\p{Cc}\x{AD}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{2069}\x{FEFF}"
_RUN: Final = rf"^'*(?:[\t\r\n]|[{_UNSEEN}]*[=+\-@\x{{FF1D}}\x{{FF0B}}\x{{FF0D}}\x{{FF20}}])"
"""A text that a spreadsheet may take for a formula, or the same behind apostrophes.

After OWASP, "CSV Injection": `=`, `+`, `-`, `@`, tab, carriage return and line feed in the first place, and the four
signs in full width.  Spaces and characters that are not seen (NUL, marks of direction) before a sign count as well:
some programs take them away.  Behind apostrophes, since then
what begins with an apostrophe and a sign can be told from what was guarded.
"""

_SUSPECTS: Final = pa.array([bytes([one]) for one in [*range(0x21), *b"'=+-@\x7f\xc2\xe1\xe2\xe3\xef"]], pa.binary())
"""First bytes of all that `_RUN` matches, and of few other texts; looking at one byte is ten times as fast."""


def _suspect(column: pa.Array) -> bool:
    if column.null_count == len(column):
        return False
    first = pc.binary_slice(column.cast(pa.binary()), 0, 1)
    return bool(pc.any(pc.is_in(first, _SUSPECTS)).as_py())


def guarded(table: Table, text: pa.RecordBatch) -> pa.RecordBatch:
    """Cells of text that a spreadsheet may run, with an apostrophe before them; the same batch where there are none.

    Numbers, instants, dates and flags are left alone: they are none of a user's or a bank's making.
    """
    changed = False
    columns = text.columns
    for index in _free(table, text):
        if not _suspect(columns[index]):
            continue
        runs = pc.fill_null(pc.match_substring_regex(columns[index], _RUN), False)
        if pc.any(runs).as_py():
            with_mark = pc.binary_join_element_wise("'", columns[index], "")
            columns[index] = pc.if_else(runs, with_mark, columns[index])
            changed = True
    return pa.RecordBatch.from_arrays(columns, names=text.schema.names) if changed else text


def unguarded(table: Table, text: pa.RecordBatch) -> pa.RecordBatch:
    """What `guarded` was given: one apostrophe less where `_RUN` matches and there is one."""
    columns = text.columns
    for index in _free(table, text):
        if not _suspect(columns[index]):
            continue
        marked = pc.and_(pc.starts_with(columns[index], "'"), pc.match_substring_regex(columns[index], _RUN))
        columns[index] = pc.if_else(
            pc.fill_null(marked, False),
            pc.utf8_slice_codeunits(columns[index], 1),
            columns[index],
        )
    return pa.RecordBatch.from_arrays(columns, names=text.schema.names)


def _free(table: Table, text: pa.RecordBatch) -> Sequence[int]:
    """Places of columns that hold what others wrote."""
    free = {one.name for one in table.columns if one.kind in {Kind.TEXT, Kind.JSON}}
    return [index for index, name in enumerate(text.schema.names) if name in free]


# -- JSON lines ------------------------------------------------------------------------------------------------------

_CONTROL: Final = bytes(range(0x20))
_ESCAPED: Final = _CONTROL + b'"\\'
_SHORT: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def json_lines(rows: Rows) -> pa.Buffer:
    """One JSON object a line: every column in each, null included, so that a reader sees all columns in any line.

    Amounts, instants and dates are text; integers and flags are bare.  JSON is text, as in the other formats: its shape
    differs from row to row, and readers that derive types from it would fail.
    """
    kinds = {one.name: one.kind for one in rows.table.columns}
    parts: list[pa.Array | str] = []
    literal = "{"
    for index, (name, column) in enumerate(zip(rows.text.schema.names, rows.text.columns, strict=True)):
        literal += f'{"," if index else ""}"{name}":'
        if column.null_count == len(column):
            literal += "null"
            continue
        kind = kinds.get(name, Kind.TEXT)
        cells = _escaped(column) if kind in {Kind.TEXT, Kind.JSON} else column
        mark = "" if kind in {Kind.INTEGER, Kind.FLAG} else '"'
        if column.null_count:
            whole = pc.binary_join_element_wise(mark, cells, mark, "") if mark else cells
            parts += [literal, pc.fill_null(whole, "null")]
            literal = ""
        else:
            parts += [literal + mark, cells]
            literal = mark
    lines = pc.binary_join_element_wise(*parts, literal + "}\n", "") if parts else None
    assert lines is not None, "a row without a merge key"
    return _buffer_of(lines)


def _escaped(column: pa.Array) -> pa.Array:
    held = _bytes_of(column)
    if len(held.translate(None, _ESCAPED)) == len(held):
        return column
    column = pc.replace_substring(column, "\\", "\\\\")
    column = pc.replace_substring(column, '"', '\\"')
    for code in _CONTROL:
        if code in held:
            character = chr(code)
            column = pc.replace_substring(column, character, _SHORT.get(character, f"\\u{code:04x}"))
    return column


def _span(column: pa.Array) -> tuple[int, int]:
    """Where a text column's bytes begin and end in its buffer."""
    offsets = column.buffers()[1]
    (start,) = struct.unpack_from("<i", offsets, 4 * column.offset)
    (end,) = struct.unpack_from("<i", offsets, 4 * (column.offset + len(column)))
    return start, end


def _buffer_of(column: pa.Array) -> pa.Buffer:
    if not len(column):
        return pa.py_buffer(b"")
    start, end = _span(column)
    return column.buffers()[2].slice(start, end - start)


def _bytes_of(column: pa.Array) -> bytes:
    """Of a column of text; what nulls cover may be among them."""
    data = column.buffers()[2] if len(column) else None
    return b"" if data is None else _buffer_of(column).to_pybytes()


# -- pseudonyms ------------------------------------------------------------------------------------------------------

_KNOWN_MAX: Final = 100_000
_LENGTH: Final = 20
"""Characters of a pseudonym, five bits each: a hundred bits, so that two values never meet."""


class Pseudonyms:
    """Makes pseudonyms under a key of the tenant: one value has one pseudonym, in every column, table and export.

    A pseudonym is `psn_` and 20 letters and digits of an HMAC-SHA256.  An IBAN has one pseudonym however it is
    written; any other text counts as it stands.
    """

    def __init__(self, key: bytes) -> None:
        """
        Args:
            key: 32 bytes or more; another key, other pseudonyms.

        Raises:
            ValueError: it is shorter.
        """
        if len(key) < 32:
            raise ValueError("key: of pseudonyms, has 32 bytes or more")
        self._key = key
        self._known: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Pseudonyms({self.key_id})"

    @property
    def key_id(self) -> str:
        """Names the key in a manifest and tells nothing of it."""
        return "psk_" + self._code(b"key id")

    def of(self, value: str) -> str:
        """The pseudonym of a value."""
        known = self._known.get(value)
        if known is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            known = self._known[value] = "psn_" + self._code(b"value:" + (read_iban(value) or value).encode())
        return known

    def hide(self, table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with personal columns as pseudonyms, or null where a pseudonym is of no use."""
        names = batch.schema.names
        columns = batch.columns
        for column in table.columns:
            if column.hiding is Hiding.KEPT:
                continue
            index = names.index(column.name)
            columns[index] = (
                self._all_of(columns[index])
                if column.hiding is Hiding.PSEUDONYM
                else pa.nulls(batch.num_rows, column.arrow)
            )
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _all_of(self, column: pa.Array) -> pa.Array:
        if column.null_count == len(column):
            return column
        distinct = column.dictionary_encode()
        made = pa.array([self.of(value) for value in distinct.dictionary.to_pylist()], pa.string())
        return made.take(distinct.indices)

    def _code(self, what: bytes) -> str:
        return base64.b32encode(hmac.digest(self._key, what, "sha256"))[:_LENGTH].decode().lower()
