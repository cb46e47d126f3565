"""Delta tables, for readers who outgrew one machine: `TARGET/NAME-delta/TABLE`.

An increment is appended, with `op` and `number`; a full export overwrites.  The state of a table is, for each merge
key, its row with the highest number, unless that says `delete`.  MERGE would keep one row for each key, but reads the
whole table for every increment.

Files are written like any Parquet part of ours, so they hold the same bytes and need the same memory; deltalake commits
them.  **Exactly once**: the commit carries the application transaction `(app, number)`.  A number that is in the table
already is not written again: its rows are read back and compared with those of this attempt, which must be the same.

Tables are committed one by one: there is no commit over several.  So the manifest lists the version of each, and is
written when all of them are there; rows of a number without a manifest are of a run that was killed, and the next
increment, which begins where the last manifest ends, brings the same keys under a higher number.

Statistics in the log are of `number` alone: others would keep values of personal columns in the log of the table, and
deltalake writes those of decimals as floats.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import deltalake
import pyarrow as pa
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction

from syncworker.errors import ExportTargetError
from syncworker.exports.layout import ExportKind, FileEntry, Manifest, TableEntry, Writer, checked_name
from syncworker.exports.readers import DamagedError, parquet_batches
from syncworker.exports.rows import Digest, Rows
from syncworker.exports.s3 import S3Target
from syncworker.exports.schema import NUMBER, Op, Table, arrow_schema, described
from syncworker.exports.targets import Target, sha256_of
from syncworker.exports.writers import ROWS_PER_PART, SETTINGS, HashedFile, ParquetPart, count_deletes
from syncworker.standard.json_text import json_bytes

_TEXT_ROWS: Final = 4_096
_CONFIGURATION: Final = {"delta.dataSkippingStatsColumns": NUMBER}
_PATIENCE: Final = {"connect_timeout": "5s", "timeout": "30s", "max_retries": "3", "retry_timeout": "60s"}
RETENTION_MIN: Final = timedelta(hours=1)


def writer_facts() -> Writer:
    """What a manifest says of the writer of Delta tables."""
    return Writer(settings=SETTINGS, pyarrow=pa.__version__, deltalake=deltalake.__version__)


def delta_schema(table: Table) -> pa.Schema:
    """Columns of a Delta table: `op`, the table's, `number`."""
    return pa.schema([*_nullable(arrow_schema(table, op=True)), pa.field(NUMBER, pa.int64())])


def _nullable(schema: pa.Schema) -> Iterator[pa.Field]:
    for one in schema:
        yield one.with_nullable(True)


def app_id(name: str, table: str) -> str:
    """Of the application transactions."""
    return f"syncworker/{name}/{table}"


def folder_of(name: str, table: str) -> str:
    """Of a Delta table, from the target's root on."""
    return f"{checked_name(name)}-delta/{table}"


class DeltaWriter:
    """A `TableWriter` of one Delta table."""

    def __init__(self, table: Table, target: Target, *, name: str, number: int, op: bool, at: datetime) -> None:
        """
        Args:
            op: of an increment, which is appended; a full export takes the place of all that was there.
            at: what the log says of when files were made: the instant of the snapshot.

        Raises:
            ExportTargetError: the target cannot be reached.
        """
        self._table = table
        self._target = target
        self._name = name
        self._number = number
        self._op = op
        self._at = at
        self._digest = Digest()
        self._rows = 0
        self._deletes = 0
        self._files: list[FileEntry] = []
        self._open: tuple[str, HashedFile, ParquetPart] | None = None
        self._open_rows = 0
        known = _opened(target, name, table.name)
        seen = None if known is None else known.transaction_version(app_id(name, table.name))
        if seen is not None and seen > number:
            raise ExportTargetError(f"{self._folder}: holds export {seen} already; {number} comes too late")
        self._held = seen == number

    @property
    def _folder(self) -> str:
        return folder_of(self._name, self._table.name)

    def write(self, batch: pa.RecordBatch, *, lfi: str | None) -> None:
        """As `TableWriter.write`; a Delta table has no folders by LFI."""
        while batch.num_rows:
            piece = batch.slice(0, min(_TEXT_ROWS, ROWS_PER_PART - self._open_rows))
            batch = batch.slice(piece.num_rows)
            rows = Rows(self._table, piece, op=self._op)
            self._digest.add(rows.canonical)
            self._rows += piece.num_rows
            self._deletes += count_deletes(piece) if self._op else 0
            if not self._held:
                self._add(piece)

    def close(self) -> TableEntry:
        """As `TableWriter.close`: commits.

        Raises:
            ExportTargetError: the commit failed, or the table has other rows under this number.
        """
        if self._open is not None:
            self._end_part()
        if self._held:
            return self._compared()
        version = self._commit()
        return self._entry(tuple(self._files), version)

    def abort(self) -> None:
        """As `TableWriter.abort`: files that no commit names are none of the table's."""
        if self._open is not None:
            self._open[1].abort()
            self._open[2].drop()
            self._open = None
        for one in self._files:
            with suppress(ExportTargetError, OSError):
                self._target.remove(f"{self._name}-delta/{one.path}")
        self._files = []

    def _add(self, piece: pa.RecordBatch) -> None:
        if self._open is None:
            path = f"{self._table.name}/part-{self._number:06d}-{len(self._files):05d}-{secrets.token_hex(8)}.parquet"
            file = HashedFile(self._target.open(f"{self._name}-delta/{path}"))
            self._open = (path, file, ParquetPart(self._table, file, op=True, schema=delta_schema(self._table)))
            self._open_rows = 0
        count = piece.num_rows
        columns = piece.columns if self._op else [_constant(Op.UPSERT.value, pa.string(), count), *piece.columns]
        columns = [*columns, _constant(self._number, pa.int64(), count)]
        self._open[2].add(pa.RecordBatch.from_arrays(columns, schema=delta_schema(self._table)))
        self._open_rows += count
        if self._open_rows == ROWS_PER_PART:
            self._end_part()

    def _end_part(self) -> None:
        assert self._open is not None
        path, file, part = self._open
        part.finish()
        file.close()
        self._files.append(FileEntry(path=path, rows=self._open_rows, bytes=file.bytes, sha256=file.sha256.hexdigest()))
        self._open, self._open_rows = None, 0

    def _commit(self) -> int:
        """Returns the table's version with these rows."""
        uri, options = location(self._target, self._folder)
        properties = deltalake.CommitProperties(
            custom_metadata={"syncworker.number": str(self._number)},
            app_transactions=[deltalake.Transaction(app_id(self._name, self._table.name), self._number)],
        )
        schema = delta_schema(self._table)
        try:
            known = deltalake.DeltaTable.create(
                uri, schema, mode="ignore", configuration=_CONFIGURATION, storage_options=options
            )
            known.create_write_transaction(
                [self._action(one) for one in self._files],
                mode="append" if self._op else "overwrite",
                schema=schema,
                commit_properties=properties,
            )
            known.update_incremental()
            return known.version()
        except (DeltaError, OSError) as error:
            known_now = _opened(self._target, self._name, self._table.name)
            if known_now is not None and known_now.transaction_version(app_id(self._name, self._table.name)) == (
                self._number
            ):
                return known_now.version()  # the commit was made, and its answer was lost
            self.abort()
            raise ExportTargetError(
                f"{self._folder}: deltalake commits nothing ({type(error).__name__}); look at the target, and whether"
                " another program writes to the table"
            ) from None

    def _action(self, file: FileEntry) -> AddAction:
        stats = {
            "numRecords": file.rows,
            "minValues": {NUMBER: self._number},
            "maxValues": {NUMBER: self._number},
            "nullCount": {NUMBER: 0},
        }
        return AddAction(
            path=file.path.partition("/")[2],
            size=file.bytes,
            partition_values={},
            modification_time=int(self._at.timestamp() * 1000),
            data_change=True,
            stats=json_bytes(stats).decode(),
        )

    def _entry(self, files: tuple[FileEntry, ...], version: int) -> TableEntry:
        op = {Op.UPSERT.value: self._rows - self._deletes, Op.DELETE.value: self._deletes} if self._op else {}
        return TableEntry(
            name=self._table.name,
            merge_key=self._table.merge_key,
            rows=self._rows,
            op=op,
            content_digest=self._digest.hex(),
            columns=described(self._table),
            files=files,
            delta_version=version,
        )

    def _compared(self) -> TableEntry:
        """The table has this number from an attempt before; its rows are this attempt's."""
        known = _opened(self._target, self._name, self._table.name)
        assert known is not None
        files = _files_of(self._target, known, self._name, self._table.name, self._number)
        digest = Digest()
        for one in files:
            for batch in _stripped(self._target, self._name, self._table, one, op=self._op):
                digest.add(Rows(self._table, batch, op=self._op).canonical)
        if digest.hex() != self._digest.hex():
            raise ExportTargetError(
                f"{self._folder}: holds other rows as export {self._number}; run the export again: it takes the next"
            )
        return self._entry(files, known.version())


def _constant(value: object, type_: pa.DataType, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, type_), count)


# -- reading back ----------------------------------------------------------------------------------------------------


def read_version(target: Target, table: Table, manifest: Manifest, entry: TableEntry) -> Iterator[pa.RecordBatch]:
    """Rows that an export brought to a table, in their order, every column as text.

    Raises:
        DamagedError: a file is missing though the table needs it, or it is not what was written.
    """
    op = manifest.kind is ExportKind.INCREMENTAL
    for file in entry.files:
        try:
            for batch in _stripped(target, manifest.export, table, file, op=op):
                yield Rows(table, batch, op=op).text
        except FileNotFoundError:
            raise DamagedError(f"{file.path} is missing") from None


def needed(target: Target, name: str, entry: TableEntry) -> frozenset[str]:
    """Files of an export that the table still reads; others were put together, or their place was taken.

    Raises:
        DamagedError: the table is not there.
    """
    known = _opened(target, name, entry.name)
    if known is None:
        raise DamagedError("the table is not there")
    active = {f"{entry.name}/{one['path']}" for one in _actions(known)}
    return frozenset(active & {one.path for one in entry.files})


def _stripped(target: Target, name: str, table: Table, file: FileEntry, *, op: bool) -> Iterator[pa.RecordBatch]:
    """Rows of a file as they were written, without what Delta adds."""
    wanted = arrow_schema(table, op=op)
    with target.reading(f"{name}-delta/{file.path}") as opened:
        for batch in parquet_batches(opened, delta_schema(table)):
            yield pa.RecordBatch.from_arrays([batch.column(one) for one in wanted.names], schema=wanted)


def _files_of(target: Target, known: deltalake.DeltaTable, name: str, table: str, number: int) -> tuple[FileEntry, ...]:
    found = []
    for one in sorted(_actions(known), key=lambda one: one["path"]):
        if one.get(f"min.{NUMBER}") != number:
            continue
        path = f"{table}/{one['path']}"
        sha256 = sha256_of(target, f"{name}-delta/{path}")
        found.append(FileEntry(path=path, rows=one["num_records"], bytes=one["size_bytes"], sha256=sha256))
    return tuple(found)


def _actions(known: deltalake.DeltaTable) -> Sequence[Mapping[str, Any]]:
    """Files of the table as its log has them."""
    rows: list[dict[str, Any]] = pa.table(known.get_add_actions(flatten=True)).to_pylist()
    return rows


def _opened(target: Target, name: str, table: str) -> deltalake.DeltaTable | None:
    """`None`: there is no such table."""
    uri, options = location(target, folder_of(name, table))
    try:  # DeltaTable.is_deltatable would hold the interpreter while it waits for an object store
        return deltalake.DeltaTable(uri, storage_options=options)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise ExportTargetError(f"{folder_of(name, table)}: does not open ({type(error).__name__})") from None


def location(target: Target, folder: str) -> tuple[str, dict[str, str]]:
    """Where deltalake finds a table, and how it reaches it."""
    uri = f"{target.text}/{folder}"
    if not isinstance(target, S3Target):
        return uri, {}
    access = target.access
    options = {
        "AWS_ENDPOINT_URL": access.endpoint,
        "AWS_REGION": access.region,
        "AWS_ACCESS_KEY_ID": access.access_key,
        "AWS_SECRET_ACCESS_KEY": access.secret_key,
        "AWS_SESSION_TOKEN": access.session_token,
        "AWS_ALLOW_HTTP": "true" if (access.endpoint or "").startswith("http://") else None,
    }
    return uri, _PATIENCE | {name: value for name, value in options.items() if value is not None}


# -- keeping a table small -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tidied:
    """What was done.

    Attributes:
        compacted: files that were put together.
        removed: files that no version within the retention needs.
    """

    compacted: int
    removed: int


def tidy(
    target: Target, name: str, table: str, *, compact: bool, retention: timedelta | None, dry: bool = False
) -> Tidied:
    """Put small files together, and remove files that old versions alone need.

    Args:
        retention: how long an old version can still be read; erased rows stay in the files of old versions as long.
            `None`: nothing is removed.
        dry: change nothing, and say what would go.

    Raises:
        ExportTargetError: the table does not open, or another program wrote to it meanwhile.
    """
    known = _opened(target, name, table)
    if known is None:
        return Tidied(compacted=0, removed=0)
    try:
        compacted = known.optimize.compact()["numFilesRemoved"] if compact and not dry else 0
        removed: list[str] = []
        if retention is not None:
            hours = int(max(retention, RETENTION_MIN).total_seconds() // 3600)
            removed = known.vacuum(retention_hours=hours, dry_run=dry, enforce_retention_duration=False)
    except (DeltaError, OSError) as error:
        raise ExportTargetError(f"{folder_of(name, table)}: {type(error).__name__}; try again later") from None
    return Tidied(compacted=compacted, removed=len(removed))
