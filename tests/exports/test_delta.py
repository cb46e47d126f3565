"""Delta tables: appended once per number, overwritten by a full export, read by others, verified."""

import json
from datetime import timedelta
from pathlib import Path

import deltalake
import duckdb
import polars as pl
import pytest

from syncworker.errors import ExportTargetError
from syncworker.exports import delta, purging
from syncworker.exports.layout import Format
from syncworker.exports.schema import TABLES
from syncworker.exports.targets import FolderTarget, S3Access, target_of
from syncworker.exports.verify import verify
from tests.exports import made
from tests.exports.conftest import BUCKET

pytestmark = pytest.mark.unit

ROWS = made.made(made.TRANSACTION, 60)
ACCOUNTS = made.made(TABLES["account"], 9)


def rows_of(root: Path, table: str = "transaction") -> list[tuple[str, int, str]]:
    frame = pl.read_delta(str(root / f"{made.NAME}-delta/{table}"))
    return sorted(zip(frame["op"], frame["number"], frame["lfi_account_id" if table == "account" else "key"],
                      strict=True), key=str)  # fmt: skip


def state(root: Path) -> list[str]:
    """Keys that live: of each key the row with the highest number, unless it says delete."""
    with duckdb.connect() as database:
        database.register("t", deltalake.DeltaTable(root / f"{made.NAME}-delta/transaction").to_pyarrow_table())
        found = database.execute(
            "SELECT key FROM t QUALIFY row_number() OVER (PARTITION BY account_id, key ORDER BY number DESC) = 1"
            " AND op = 'upsert' ORDER BY key"
        )
        return [one for (one,) in found.fetchall()]


def test_a_full_export_and_increments_on_it(tmp_path: Path) -> None:
    """The state of the table is what the how-to's query gives; a next full export takes the place of all."""
    target = FolderTarget(tmp_path)
    made.export(target, {"transaction": ROWS, "account": ACCOUNTS}, format=Format.DELTA)
    second = made.changes(ROWS[:5], deleted=ROWS[5:8])
    made.export(target, {"transaction": second}, number=2, base=1, from_="cursor-1", to="b", format=Format.DELTA)

    keys = [row["key"] for row in ROWS]
    assert state(tmp_path) == [*keys[:5], *keys[8:]]
    assert len(rows_of(tmp_path)) == 68
    assert verify(target, made.NAME).findings == []

    made.export(target, {"transaction": ROWS[8:], "account": ACCOUNTS}, number=3, to="c", format=Format.DELTA)
    assert state(tmp_path) == keys[8:]
    assert rows_of(tmp_path) == [("upsert", 3, key) for key in keys[8:]]
    report = verify(target, made.NAME)
    assert (report.findings, report.exports, report.rows) == ([], [3], 52 + 9)


def test_the_digest_is_that_of_the_other_formats(tmp_path: Path) -> None:
    """`op` of a full export and `number` are no content."""
    target = FolderTarget(tmp_path)
    for op in (False, True):
        rows = made.changes(ROWS[:9], deleted=ROWS[9:]) if op else ROWS
        of_files = made.write_table(target, made.TRANSACTION, rows, op=op, folder=f"x/{op}")
        of_delta = made.write_delta(target, made.TRANSACTION, rows, number=1 + op, op=op)
        assert (of_delta.content_digest, of_delta.op, of_delta.rows) == (
            of_files.content_digest, of_files.op, of_files.rows,
        )  # fmt: skip


def test_duckdbs_sums_over_a_delta_table_are_exact(tmp_path: Path) -> None:
    """Decimals stay decimals."""
    made.write_delta(FolderTarget(tmp_path), made.TRANSACTION, ROWS, number=1)
    table = deltalake.DeltaTable(tmp_path / f"{made.NAME}-delta/transaction")

    with duckdb.connect() as database:
        database.register("t", table.to_pyarrow_dataset())
        found = database.execute("SELECT sum(amount) FROM t").fetchone()

    assert found == (sum(row["amount"] for row in ROWS if row["amount"] is not None),)


def test_a_number_is_in_a_table_once(tmp_path: Path) -> None:
    """A run that was killed between two tables and begins again with the same rows."""
    target = FolderTarget(tmp_path)
    first = made.write_delta(target, made.TRANSACTION, ROWS, number=1)

    again = made.write_delta(target, made.TRANSACTION, ROWS, number=1)
    made.write_delta(target, TABLES["account"], ACCOUNTS, number=1)

    assert again == first
    assert len(rows_of(tmp_path)) == 60
    assert len(rows_of(tmp_path, "account")) == 9


def test_other_rows_under_a_number_that_is_taken_are_refused(tmp_path: Path) -> None:
    """A later snapshot has other rows: under the same number they would be lost, so the next number is theirs."""
    target = FolderTarget(tmp_path)
    made.write_delta(target, made.TRANSACTION, ROWS, number=2)

    with pytest.raises(ExportTargetError, match="holds other rows as export 2; run the export again"):
        made.write_delta(target, made.TRANSACTION, ROWS[1:], number=2)
    with pytest.raises(ExportTargetError, match="holds export 2 already; 1 comes too late"):
        made.write_delta(target, made.TRANSACTION, ROWS, number=1)
    assert len(rows_of(tmp_path)) == 60


def test_a_killed_run_leaves_files_that_are_none_of_the_tables(tmp_path: Path) -> None:
    """Written and not committed: no reader sees them, and the next run is not held up."""
    target = FolderTarget(tmp_path)
    made.write_delta(target, made.TRANSACTION, ROWS[:9], number=1)
    killed = delta.DeltaWriter(made.TRANSACTION, target, name=made.NAME, number=2, op=True, at=made.AT)
    for batch in made.batches(made.TRANSACTION, made.changes(ROWS), op=True, sizes=(9,)):
        killed.write(batch, lfi=None)

    assert len(rows_of(tmp_path)) == 9
    made.write_delta(target, made.TRANSACTION, made.changes(ROWS[9:12]), number=3, op=True)
    assert len(rows_of(tmp_path)) == 12
    killed.abort()


def test_an_increment_without_changes_of_a_table_is_committed_too(tmp_path: Path) -> None:
    """The version says so; readers find the table with its columns."""
    entry = made.write_delta(FolderTarget(tmp_path), made.TRANSACTION, [], number=1)

    assert (entry.rows, entry.files) == (0, ())
    assert rows_of(tmp_path) == []


def test_the_log_holds_no_value_of_a_row(tmp_path: Path) -> None:
    """Statistics would keep names and amounts that were erased."""
    made.write_delta(FolderTarget(tmp_path), made.TRANSACTION, ROWS, number=1)

    log = tmp_path / f"{made.NAME}-delta/transaction/_delta_log"
    stats = [
        json.loads(line["add"]["stats"])
        for file in sorted(log.glob("*.json"))
        for line in map(json.loads, file.read_text().splitlines())
        if "add" in line
    ]
    assert stats == [
        {"numRecords": 60, "minValues": {"number": 1}, "maxValues": {"number": 1}, "nullCount": {"number": 0}}
    ]


def test_a_damaged_file_of_a_delta_table_is_found(tmp_path: Path) -> None:
    """And one that is missing, as long as the table needs it."""
    target = FolderTarget(tmp_path)
    manifest = made.export(target, {"transaction": ROWS}, format=Format.DELTA)
    file = tmp_path / f"{made.NAME}-delta" / manifest.tables[0].files[0].path
    whole = file.read_bytes()

    file.write_bytes(whole[:-9])
    assert ["bytes, and not" in one.what for one in verify(target, made.NAME).findings] == [True]
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert [one.what for one in verify(target, made.NAME).findings] == ["its sha256 is another: its bytes were changed"]
    file.unlink()
    assert [one.what for one in verify(target, made.NAME).findings] == ["is missing"]


def test_small_files_are_put_together_and_old_ones_go(tmp_path: Path) -> None:
    """The rows stay; a verify of exports whose files went has nothing to find fault with."""
    target = FolderTarget(tmp_path)
    made.export(target, {"transaction": ROWS}, format=Format.DELTA)
    for number in range(2, 6):
        made.export(
            target, {"transaction": made.changes(ROWS[:number])}, number=number, base=1, format=Format.DELTA,
            from_=f"cursor-{number - 1}", to=f"cursor-{number}",
        )  # fmt: skip
    before = rows_of(tmp_path)

    done = delta.tidy(target, made.NAME, "transaction", compact=True, retention=timedelta(days=7))

    assert (done.compacted, done.removed) == (5, 0)
    assert rows_of(tmp_path) == before
    assert verify(target, made.NAME).findings == []
    assert delta.tidy(target, made.NAME, "account", compact=True, retention=None) == delta.Tidied(
        compacted=0, removed=0
    )


def test_files_of_old_versions_go_by_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a full export took the place of: shown, then removed; the table and its verify stay whole."""
    monkeypatch.setattr(delta, "RETENTION_MIN", timedelta(0))
    target = FolderTarget(tmp_path)
    for number in (1, 2):
        made.export(target, {"transaction": ROWS, "account": []}, number=number, format=Format.DELTA)
    before, files = rows_of(tmp_path), len(list(tmp_path.rglob("*.parquet")))

    would = purging.tidied(target, made.NAME, retention=timedelta(0), dry=True)
    assert [(one["folder"], one["files"]) for one in would] == [(f"{made.NAME}-delta/transaction", None)]
    assert len(list(tmp_path.rglob("*.parquet"))) == files
    assert purging.tidied(target, made.NAME, retention=timedelta(days=1)) == []
    assert [one["files"] for one in purging.tidied(target, made.NAME, retention=timedelta(0))] == [1]
    assert (len(list(tmp_path.rglob("*.parquet"))), rows_of(tmp_path)) == (files - 1, before)
    assert verify(target, made.NAME).findings == []


@pytest.mark.unit
def test_other_formats_have_no_old_versions(tmp_path: Path) -> None:
    """Nor has a place without an export."""
    target = FolderTarget(tmp_path)
    assert purging.tidied(target, made.NAME, retention=timedelta(0)) == []
    made.export(target, {"transaction": ROWS})
    assert purging.tidied(target, made.NAME, retention=timedelta(0)) == []


@pytest.mark.live
def test_a_delta_table_in_an_object_store(bucket: S3Access) -> None:
    """The same, through deltalake's own client of the bucket."""
    target = target_of(f"s3://{BUCKET}/delta", bucket)
    made.export(target, {"transaction": ROWS}, format=Format.DELTA)
    made.export(
        target, {"transaction": made.changes(ROWS[:5])}, number=2, base=1, from_="cursor-1", format=Format.DELTA
    )

    uri, options = delta.location(target, f"{made.NAME}-delta/transaction")
    assert deltalake.DeltaTable(uri, storage_options=options).to_pyarrow_table().num_rows == 65
    assert verify(target, made.NAME).findings == []
