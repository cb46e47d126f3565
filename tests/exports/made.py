"""Rows, exports and chains of exports for the tests of this folder."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from random import Random
from typing import Any

import pyarrow as pa

from syncworker.exports import delta
from syncworker.exports.layout import (
    LATEST,
    MANIFEST,
    ExportKind,
    Format,
    Manifest,
    Privacy,
    TableEntry,
    folder_of,
    latest_of,
)
from syncworker.exports.schema import TABLES, Table, arrow_schema, schema_hash
from syncworker.exports.targets import Target
from syncworker.exports.writers import ROWS_PER_PART, table_writer, writer_facts
from syncworker.store.sql_views import Kind

NAME = "nightly"
AT = datetime(2026, 11, 30, 8, 0, 0, 123456, tzinfo=UTC)
TRANSACTION = TABLES["transaction"]
LARGEST = Decimal("9999999999999.99999")
SMALLEST = Decimal("0.00001")

HOSTILE = (
    "=1+1", "+971501234567", "-120.50", "@SUM(A1)", "\t=1", "\rx", "\nx", "  =cmd|'/C calc'!A0", "'=1", "''=1", "'",
    "", "' =1", "'plain", "a,b", 'say "hi"', "two\nlines", "cr\r\nlf", "back\\slash", '\\"', "كارفور", "😀", "null",
    "NULL", "NaN", "true", "0012", "1e5", "\u00a0=1", "\uff1d1+1", "\ufeff=1", "\x01\x1f", "\x7f", " ", "a'b", "#N/A",
    "\u2003-1",
)  # fmt: skip
"""Texts that a format, a spreadsheet or a reader may take for something else."""

Row = Mapping[str, Any]


def value(kind: Kind, random: Random) -> Any:
    """Of a kind, ordinary or at its edges."""
    match kind:
        case Kind.TEXT:
            return random.choice(HOSTILE) if random.random() < 0.5 else f"text {random.randrange(1000)}"
        case Kind.AMOUNT:
            small = Decimal(random.randrange(-(10**9), 10**9)).scaleb(-random.randrange(6))
            return random.choice([small, LARGEST, -LARGEST, SMALLEST, -SMALLEST, Decimal(0), Decimal("-0.10")])
        case Kind.E5 | Kind.INTEGER:
            return random.randrange(-5, 10**12)
        case Kind.INSTANT:
            at = AT - timedelta(microseconds=random.randrange(10**15))
            return random.choice([at, at.replace(microsecond=0), datetime.min.replace(tzinfo=UTC)])
        case Kind.DATE:
            return random.choice([date(2026, 2, 28), date.min, date.max])
        case Kind.FLAG:
            return random.random() < 0.5
        case Kind.JSON:
            return random.choice(['["Cashback"]', '[{"a":"=1","b":[1,null]}]', "[]", '"-1"'])


def made(table: Table, count: int, *, seed: int = 1) -> list[dict[str, Any]]:
    """Rows of a table, sorted as an export has them; a third of their values is null."""
    random = Random(seed)
    rows = []
    for number in range(count):
        row = {
            one.name: None if random.random() < 0.33 else value(one.kind, random)
            for one in table.columns
            if one.name not in {"connection_id", "lfi", "account_id", "key"}
        }
        connection = number * 5 // max(count, 1)
        row["lfi"] = f"bank-{connection // 2}"
        row["connection_id"] = f"connection-{connection:03}"
        row["account_id"] = f"acc_{number // 4:08}"
        row["key"] = f"T{number:08}"
        rows.append({one.name: row[one.name] for one in table.columns})
    return rows


def batches(table: Table, rows: Sequence[Row], *, op: bool, sizes: Sequence[int]) -> Iterator[pa.RecordBatch]:
    """Rows in batches whose sizes repeat."""
    schema = arrow_schema(table, op=op)
    start, turn = 0, 0
    while start < len(rows):
        size = sizes[turn % len(sizes)]
        piece = rows[start : start + size]
        columns = [pa.array([row.get(field.name) for row in piece], field.type) for field in schema]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
        start, turn = start + size, turn + 1


def write_table(
    target: Target,
    table: Table,
    rows: Sequence[Row],
    *,
    format: Format = Format.PARQUET,  # noqa: A002
    folder: str = f"{NAME}/full-000001",
    op: bool = False,
    sizes: Sequence[int] = (7,),
    rows_per_part: int = ROWS_PER_PART,
) -> TableEntry:
    """One table of one export, in files."""
    writer = table_writer(table, target, folder=folder, format=format, op=op, rows_per_part=rows_per_part)
    for lfi, of_lfi in groupby(rows, key=lambda row: None if op else row["lfi"]):
        for batch in batches(table, list(of_lfi), op=op, sizes=sizes):
            writer.write(batch, lfi=lfi)
    return writer.close()


def write_delta(target: Target, table: Table, rows: Sequence[Row], *, number: int, op: bool = False) -> TableEntry:
    """One Delta table of one export."""
    writer = delta.DeltaWriter(table, target, name=NAME, number=number, op=op, at=AT)
    for batch in batches(table, rows, op=op, sizes=(7, 3)):
        writer.write(batch, lfi=None)
    return writer.close()


def export(
    target: Target,
    tables: Mapping[str, Sequence[Row]],
    *,
    number: int = 1,
    base: int | None = None,
    format: Format = Format.PARQUET,  # noqa: A002
    from_: str | None = None,
    to: str = "cursor-1",
    **other: Any,
) -> Manifest:
    """A whole export: parts, manifest, `LATEST.json`; an increment where it has a base."""
    kind = ExportKind.FULL if base is None else ExportKind.INCREMENTAL
    op = base is not None
    folder = f"{NAME}/{folder_of(kind, number)}"
    entries = [
        write_delta(target, TABLES[name], rows, number=number, op=op)
        if format is Format.DELTA
        else write_table(target, TABLES[name], rows, format=format, folder=folder, op=op, **other)
        for name, rows in tables.items()
    ]
    manifest = Manifest(
        export=NAME,
        tenant="main",
        number=number,
        kind=kind,
        base=number if base is None else base,
        format=format,
        from_=from_,
        to=to,
        as_of=AT,
        schema_hash=schema_hash(TABLES.values()),
        decoder=7,
        writer=delta.writer_facts() if format is Format.DELTA else writer_facts(),
        privacy=Privacy.FULL,
        tables=tuple(entries),
    )
    data = manifest.to_bytes()
    target.put_whole(f"{folder}/{MANIFEST}", data)
    target.put_whole(f"{NAME}/{LATEST}", latest_of(manifest, data).to_bytes())
    return manifest


def changes(rows: Sequence[Row], *, deleted: Sequence[Row] = ()) -> list[dict[str, Any]]:
    """Rows of an increment."""
    told = [{"op": "upsert", **row} for row in rows]
    keys = ("connection_id", "account_id", "key")
    return told + [{"op": "delete", **{name: row[name] for name in keys}} for row in deleted]
