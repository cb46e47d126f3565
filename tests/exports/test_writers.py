"""What is written: the same bytes for the same rows, exact values, guarded cells, nothing of what was broken off."""

import csv
import hashlib
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syncworker.errors import ExportTargetError
from syncworker.exports.layout import Format
from syncworker.exports.readers import text_of
from syncworker.exports.rows import Rows, csv_text, guarded, unguarded
from syncworker.exports.schema import DICTIONARY_COLUMNS, TABLES, Table, arrow_schema, schema_hash
from syncworker.exports.targets import FolderTarget
from syncworker.exports.writers import ROWS_PER_GROUP, table_writer
from syncworker.store.sql_views import Kind
from tests.exports import made

pytestmark = pytest.mark.unit

FILES = (Format.PARQUET, Format.NDJSON, Format.CSV)
ROWS = made.made(made.TRANSACTION, 200)


def sums(rows: Sequence[made.Row]) -> dict[str, Decimal]:
    """Of the rows' amounts, exact, by their columns."""
    columns = [one.name for one in made.TRANSACTION.columns if one.kind is Kind.AMOUNT]
    return {name: sum((row[name] for row in rows if row[name] is not None), Decimal(0)) for name in columns}


def text_rows(table: Table, rows: Sequence[made.Row], *, op: bool = False) -> list[dict[str, str | None]]:
    """Rows as their canonical text has them."""
    found: list[dict[str, str | None]] = []
    for batch in made.batches(table, rows, op=op, sizes=(64,)):
        found += Rows(table, batch, op=op).text.to_pylist()
    return found


@pytest.mark.parametrize("format_", FILES)
def test_the_same_rows_make_the_same_files_whatever_the_size_of_the_batches(tmp_path: Path, format_: Format) -> None:
    """A database hands out batches as it likes; a part ends at a number of rows, or with its LFI."""
    entries = [
        made.write_table(FolderTarget(tmp_path / str(turn)), made.TRANSACTION, ROWS, format=format_, sizes=sizes,
                         rows_per_part=30)
        for turn, sizes in enumerate([(1,), (7, 2, 31), (200,)])
    ]  # fmt: skip

    assert entries[0] == entries[1] == entries[2]
    assert [one.rows for one in entries[0].files] == [30, 30, 20, 30, 30, 20, 30, 10]


def test_a_row_group_is_cut_by_number_of_rows_and_pages_do_not_follow_batches(tmp_path: Path) -> None:
    """Two row groups and some, from batches that fit in none of the sizes the writer has."""
    table = TABLES["connection"]
    count = 2 * ROWS_PER_GROUP + 9_000
    column = pa.array([f"connection-{number:07}" for number in range(count)])
    whole = pa.RecordBatch.from_arrays(
        [column, *(pa.array([f"{number % 977}" * 3 for number in range(count)]) for _ in range(2)),
         *(pa.repeat(pa.scalar(made.AT, pa.timestamp("us", "UTC")), count) for _ in range(3))],
        schema=arrow_schema(table, op=False),
    )  # fmt: skip

    def written(size: int) -> Path:
        root = tmp_path / str(size)
        writer = table_writer(table, FolderTarget(root), folder="n/full-000001", format=Format.PARQUET, op=False)
        for start in range(0, count, size):
            writer.write(whole.slice(start, size), lfi="bank")
        return root / "n/full-000001" / writer.close().files[0].path

    found = [written(size) for size in (count, 12_345, 8_192)]

    assert len({one.read_bytes() for one in found}) == 1
    facts = pq.read_metadata(found[0])
    assert [facts.row_group(index).num_rows for index in range(3)] == [ROWS_PER_GROUP, ROWS_PER_GROUP, 9_000]


def test_parquet_has_exact_types_and_the_named_dictionaries(tmp_path: Path) -> None:
    """Decimals with five places, instants in UTC, dates; plain text where no dictionary was asked for."""
    entry = made.write_table(FolderTarget(tmp_path), made.TRANSACTION, ROWS)
    file = tmp_path / made.NAME / "full-000001" / entry.files[0].path

    facts = pq.read_metadata(file)
    schema = pq.read_schema(file)

    assert schema.equals(arrow_schema(made.TRANSACTION, op=False))
    assert schema.field("amount").type == pa.decimal128(18, 5)
    assert schema.field("booked_at").type == pa.timestamp("us", tz="UTC")
    assert schema.field("booking_date").type == pa.date32()
    columns = [facts.row_group(0).column(index) for index in range(facts.num_columns)]
    with_dictionary = {one.path_in_schema for one in columns if one.has_dictionary_page}
    assert with_dictionary == DICTIONARY_COLUMNS & set(schema.names)
    assert {one.compression for one in columns} == {"ZSTD"}


@pytest.mark.parametrize("format_", FILES)
@pytest.mark.parametrize("op", [False, True])
def test_what_is_read_back_is_what_was_written(tmp_path: Path, format_: Format, op: bool) -> None:
    """Null and empty text stay two things, and so do an apostrophe of a bank's and one of the guard's."""
    rows = made.changes(ROWS, deleted=ROWS[:9]) if op else ROWS
    entry = made.write_table(FolderTarget(tmp_path), made.TRANSACTION, rows, format=format_, op=op)

    found: list[dict[str, Any]] = []
    for file in entry.files:
        with (tmp_path / made.NAME / "full-000001" / file.path).open("rb") as opened:
            for batch in text_of(opened, made.TRANSACTION, format_, op=op):
                found += batch.to_pylist()

    assert found == text_rows(made.TRANSACTION, rows, op=op)
    assert entry.op == ({"upsert": 200, "delete": 9} if op else {})


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_one_digest_in_all_formats(tmp_path: Path, name: str) -> None:
    """Of the content, so it does not ask in which files it stands."""
    rows = made.made(TABLES[name], 40)
    entries = [made.write_table(FolderTarget(tmp_path), TABLES[name], rows, format=one) for one in FILES]

    digests = {entry.content_digest for entry in entries}
    text = b"".join(
        csv_text(Rows(TABLES[name], batch, op=False).text).to_pybytes()
        for batch in made.batches(TABLES[name], rows, op=False, sizes=(3,))
    )
    assert digests == {hashlib.sha256(text).hexdigest()}


def test_the_canonical_text_is_what_it_is_said_to_be() -> None:
    """Written down, since `content_digest` of years of exports stands on it."""
    row = dict.fromkeys((one.name for one in made.TRANSACTION.columns), None) | {
        "id": "acc_1:T1", "amount": Decimal("-120.5"), "amount_as_sent": Decimal("0.00001"), "key": 'a"b',
        "booked_at": made.AT, "booking_date": made.AT.date(), "is_primary_instrument": True, "flags": '["Refund"]',
        "status": "", "running_balance": Decimal("1E+3"), "latitude": "=1",
    }  # fmt: skip
    (batch,) = made.batches(made.TRANSACTION, [row], op=False, sizes=(1,))

    text = Rows(made.TRANSACTION, batch, op=False).canonical.to_pybytes().decode()

    known = {
        "id": '"acc_1:T1"', "amount": '"-120.50"', "amount_as_sent": '"0.00001"', "key": '"a""b"',
        "booked_at": '"2026-11-30T08:00:00.123456Z"', "booking_date": '"2026-11-30"', "status": '""',
        "is_primary_instrument": '"true"', "flags": '"[""Refund""]"', "running_balance": '"1000.00"',
        "latitude": '"=1"',
    }  # fmt: skip
    assert text == ",".join(known.get(one.name, "") for one in made.TRANSACTION.columns) + "\n"


def test_the_schema_hash_is_of_names_types_and_keys() -> None:
    """The order of tables does not count; one table less does."""
    assert schema_hash(TABLES.values()) == schema_hash(reversed([*TABLES.values()]))
    assert schema_hash(TABLES.values()) != schema_hash([TABLES["account"]])


# -- readers ---------------------------------------------------------------------------------------------------------


def duckdb_source(root: Path, format_: Format) -> str:
    """As the how-to tells: with the types of columns where a file has none."""
    place = f"{root}/{made.NAME}/full-000001/transaction/**/*.{format_.value}"
    types = {Kind.AMOUNT: "DECIMAL(18,5)", Kind.INSTANT: "TIMESTAMPTZ", Kind.DATE: "DATE", Kind.FLAG: "BOOLEAN"}
    columns = ", ".join(f"'{one.name}': '{types.get(one.kind, 'VARCHAR')}'" for one in made.TRANSACTION.columns)
    match format_:
        case Format.PARQUET:
            return f"read_parquet('{place}')"
        case Format.CSV:
            return f"read_csv('{place}', header=true, columns={{{columns}}})"
        case _:
            return f"read_json('{place}', format='newline_delimited', columns={{{columns}}})"


@pytest.mark.parametrize("format_", FILES)
def test_duckdb_adds_up_every_format_to_the_last_digit(tmp_path: Path, format_: Format) -> None:
    """Sums of all amounts are the rows', very large and very small ones among them."""
    made.write_table(FolderTarget(tmp_path), made.TRANSACTION, ROWS, format=format_)
    wanted = sums(ROWS)

    chosen = ", ".join(f"sum({name})" for name in wanted)
    with duckdb.connect() as database:
        found = database.execute(f"SELECT {chosen} FROM {duckdb_source(tmp_path, format_)}").fetchone()

    assert found is not None
    assert dict(zip(wanted, (one or Decimal(0) for one in found), strict=True)) == wanted


@pytest.mark.parametrize("format_", FILES)
def test_polars_opens_every_format(tmp_path: Path, format_: Format) -> None:
    """Amounts of Parquet are decimals there; of the others text, which is exact too."""
    entry = made.write_table(FolderTarget(tmp_path), made.TRANSACTION, ROWS, format=format_)
    place = tmp_path / made.NAME / "full-000001"
    paths = [place / one.path for one in entry.files]
    text = {one.name: pl.String for one in made.TRANSACTION.columns}
    match format_:
        case Format.PARQUET:
            frame = pl.read_parquet(f"{place}/transaction/**/*.parquet")
        case Format.CSV:
            frame = pl.concat([pl.read_csv(one, schema=text) for one in paths])
        case _:
            flags = {one.name: pl.Boolean for one in made.TRANSACTION.columns if one.kind is Kind.FLAG}
            frame = pl.concat([pl.read_ndjson(one, schema={**text, **flags}) for one in paths])

    assert frame["key"].to_list() == [row["key"] for row in ROWS]
    assert [None if one is None else Decimal(one) for one in frame["amount"]] == [row["amount"] for row in ROWS]


@pytest.mark.parametrize("format_", FILES)
def test_pandas_opens_every_format(tmp_path: Path, format_: Format) -> None:
    """The folder of a table at once for Parquet, LFIs and all; file by file for the others."""
    entry = made.write_table(FolderTarget(tmp_path), made.TRANSACTION, ROWS, format=format_)
    place = tmp_path / made.NAME / "full-000001"
    match format_:
        case Format.PARQUET:
            frame = pd.read_parquet(place / "transaction")
        case Format.CSV:
            frame = pd.concat([pd.read_csv(place / one.path, dtype=str) for one in entry.files])
        case _:
            frame = pd.concat([pd.read_json(place / one.path, lines=True, dtype=False) for one in entry.files])

    assert list(frame["key"]) == [row["key"] for row in ROWS]
    assert [None if pd.isna(one) else Decimal(one) for one in frame["amount"]] == [row["amount"] for row in ROWS]


def test_ndjson_is_json_for_any_reader(tmp_path: Path) -> None:
    """Every column in every line, amounts and JSON as text."""
    entry = made.write_table(FolderTarget(tmp_path), made.TRANSACTION, ROWS, format=Format.NDJSON)
    lines: list[dict[str, Any]] = []
    for file in entry.files:
        whole = (tmp_path / made.NAME / "full-000001" / file.path).read_bytes()
        lines += [json.loads(line) for line in whole.split(b"\n") if line]

    wanted = text_rows(made.TRANSACTION, ROWS)
    for line, row in zip(lines, wanted, strict=True):
        flags = {"true": True, "false": False, None: None}
        assert line == {
            one.name: flags[row[one.name]] if one.kind is Kind.FLAG else row[one.name]
            for one in made.TRANSACTION.columns
        }


# -- cells that a spreadsheet would run ------------------------------------------------------------------------------


def guarded_cells(cells: Sequence[str | None]) -> list[str | None]:
    text = pa.RecordBatch.from_arrays([pa.array(cells, pa.string())], names=["transaction_information"])
    done = guarded(made.TRANSACTION, text)
    assert unguarded(made.TRANSACTION, done).column(0).to_pylist() == list(cells)
    return list(done.column(0).to_pylist())


@pytest.mark.parametrize(
    "cell",
    ["=1+1", "+1", "-1", "@a", "\tx", "\rx", "\nx", " =1", "\u00a0=1", "\ufeff@a", "\uff1d1", "'=1", "''=1", "' -1",
     "\u200b+1"],
)  # fmt: skip
def test_a_cell_that_may_be_run_has_one_apostrophe_more(cell: str) -> None:
    """Also one that has an apostrophe already: only so can it be told from what was guarded."""
    assert guarded_cells([cell, None, "plain"]) == ["'" + cell, None, "plain"]


@pytest.mark.parametrize("cell", ["", "'", "'plain", "a=1", "1-2", "كارفور", "\u00e9", "\u2013 dash", "#N/A", " ", "("])
def test_any_other_cell_stays_as_it_is(cell: str) -> None:
    """Nothing that a reader has to undo."""
    assert guarded_cells([cell]) == [cell]


def test_what_is_guarded_can_always_be_told() -> None:
    """Texts of the characters that count, by chance, each come back as they were."""
    random = Random(7)
    cells = ["".join(random.choices("'= \t-a\u00a0\n", k=random.randrange(6))) for _ in range(5_000)]

    done = guarded_cells(cells)

    assert len(set(done)) == len(set(cells))
    assert not [one for one in done if one is not None and one.lstrip()[:1] in {"=", "-"}]


def test_amounts_and_dates_of_csv_are_never_guarded(tmp_path: Path) -> None:
    """A debit begins with a minus, and is a number."""
    entry = made.write_table(FolderTarget(tmp_path), made.TRANSACTION, ROWS, format=Format.CSV)
    found: list[dict[str, str]] = []
    for file in entry.files:
        with (tmp_path / made.NAME / "full-000001" / file.path).open(newline="") as opened:
            found += csv.DictReader(opened)

    wanted = [row["amount"] or "" for row in text_rows(made.TRANSACTION, ROWS)]
    assert [row["amount"] for row in found] == wanted
    assert any(one.startswith("-") for one in wanted)


# -- what is not written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", FILES)
def test_a_broken_off_part_is_not_there(tmp_path: Path, format_: Format) -> None:
    """Neither under its name nor under one that a reader's pattern finds."""
    target = FolderTarget(tmp_path)
    writer = table_writer(made.TRANSACTION, target, folder="n/full-000001", format=format_, op=False, rows_per_part=30)
    for batch in made.batches(made.TRANSACTION, ROWS[:40], op=False, sizes=(40,)):
        writer.write(batch, lfi="bank-0")
    writer.abort()
    writer.abort()

    assert [one.path for one in target.list("n")] == [f"n/full-000001/transaction/part-bank-0-00000.{format_.value}"]


@pytest.mark.parametrize("format_", FILES)
def test_an_empty_table_has_a_file_with_its_columns_in_a_full_export(tmp_path: Path, format_: Format) -> None:
    """A reader's pattern finds a file; an increment without changes of a table has none."""
    full = made.write_table(FolderTarget(tmp_path), made.TRANSACTION, [], format=format_)
    increment = made.write_table(
        FolderTarget(tmp_path), made.TRANSACTION, [], format=format_, op=True, folder="n/incr-000002"
    )

    assert [(one.path, one.rows) for one in full.files] == [(f"transaction/part-00000.{format_.value}", 0)]
    assert (increment.files, increment.op, increment.rows) == ((), {"upsert": 0, "delete": 0}, 0)
    with duckdb.connect() as database:
        assert database.execute(f"SELECT count(*) FROM {duckdb_source(tmp_path, format_)}").fetchone() == (0,)


def test_an_lfi_is_in_a_files_name_whatever_its_own(tmp_path: Path) -> None:
    """No name leads out of the export."""
    row = ROWS[0] | {"lfi": "../x/y z"}
    entry = made.write_table(FolderTarget(tmp_path), made.TRANSACTION, [row])

    assert [one.path for one in entry.files] == ["transaction/part-..%2Fx%2Fy%20z-00000.parquet"]


def test_a_batch_of_another_schema_is_refused_with_the_columns_name(tmp_path: Path) -> None:
    """A column that a reader of the database forgot or typed otherwise."""
    writer = table_writer(
        made.TRANSACTION, FolderTarget(tmp_path), folder="n/full-000001", format=Format.PARQUET, op=False
    )
    schema = arrow_schema(made.TRANSACTION, op=False)
    other = schema.set(3, pa.field("lfi", pa.large_string()))

    with pytest.raises(ValueError, match=r"transaction: column 4 is pyarrow.Field<lfi: large_string>"):
        writer.write(pa.RecordBatch.from_pylist([{"lfi": "a"}], schema=other), lfi="a")
    writer.abort()


def test_an_op_that_is_neither_upsert_nor_delete_is_refused(tmp_path: Path) -> None:
    """It would be counted nowhere."""
    writer = table_writer(made.TRANSACTION, FolderTarget(tmp_path), folder="n/incr-000001", format=Format.CSV, op=True)
    (batch,) = made.batches(made.TRANSACTION, [{**ROWS[0], "op": "change"}], op=True, sizes=(1,))

    with pytest.raises(ValueError, match="op: change: neither upsert nor delete"):
        writer.write(batch, lfi=None)
    writer.abort()


def test_a_part_is_never_written_twice(tmp_path: Path) -> None:
    """Folders of exports are numbered; a number that is taken is an error."""
    made.write_table(FolderTarget(tmp_path), made.TRANSACTION, ROWS[:3])

    with pytest.raises(ExportTargetError, match="is there already"):
        made.write_table(FolderTarget(tmp_path), made.TRANSACTION, ROWS[:3])
