"""What earlier exports at a target hold: a full export and the increments behind it, read back.

Increments need it twice: rows of a connection that was erased are named nowhere else any more, and tables of whose
changes the feed tells nothing are compared with what was exported before.

All is compared as canonical text, the same whatever the format.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from syncworker.errors import ExportTargetError, ManifestError, RequestError, SyncWorkerError
from syncworker.exports.layout import (
    MANIFEST,
    ExportKind,
    Format,
    Latest,
    Manifest,
    TableEntry,
    folder_of,
    parsed_folder,
)
from syncworker.exports.readers import DamagedError, text_of
from syncworker.exports.rows import Rows
from syncworker.exports.schema import OP, Op, Table, arrow_schema
from syncworker.exports.snapshot import order_of
from syncworker.exports.targets import Target

Key = tuple[str | None, ...]
"""The values of `key_columns`, as canonical text."""

KEYS_MAX: Final = 1_000_000
"""Keys held in memory; beyond that the next export is a full one."""


class ChainError(SyncWorkerError):
    """Earlier exports cannot be read, or hold too much to be compared: a full export begins anew."""

    code = "export_chain"


@dataclass(frozen=True, slots=True)
class Chain:
    """A full export and the increments behind it, in order."""

    target: Target
    name: str
    manifests: tuple[Manifest, ...]

    @property
    def last(self) -> Manifest:
        return self.manifests[-1]

    def keys(self, table: Table, connections: Collection[str]) -> set[Key]:
        """Keys of the rows that the chain holds of some connections.

        Raises:
            ChainError: a file is missing, damaged or not to be read; too many rows.
        """
        found: set[Key] = set()
        for batch in self._texts(table, {"connection_id": connections}):
            keys, ops = _keys(table, batch), _ops(batch)
            for key, op in zip(keys, ops, strict=True):
                if op == Op.DELETE:
                    found.discard(key)
                else:
                    found.add(key)
            _bounded(len(found))
        return found

    def digests(self, table: Table) -> dict[Key, bytes]:
        """What the chain holds of a table: digests of the rows by their keys.

        Raises:
            ChainError: as `keys`.
        """
        held: dict[Key, bytes] = {}
        for batch in self._texts(table, {}):
            whole = batch.select(arrow_schema(table, op=False).names)
            for key, op, digest in zip(_keys(table, batch), _ops(batch), digests_of(whole), strict=True):
                if op == Op.DELETE:
                    held.pop(key, None)
                else:
                    held[key] = digest
            _bounded(len(held))
        return held

    def _texts(self, table: Table, only: Mapping[str, Collection[str]]) -> Iterator[pa.RecordBatch]:
        for manifest in self.manifests:
            entry = next((one for one in manifest.tables if one.name == table.name), None)
            if entry is None:
                raise ChainError(f"{manifest.folder}: holds no table {table.name}")
            if manifest.format is Format.DELTA:
                yield from self._of_delta(table, manifest, entry, only)
                continue
            incremental = manifest.kind is ExportKind.INCREMENTAL
            for one in entry.files:
                path = f"{self.name}/{manifest.folder}/{one.path}"
                try:
                    with self.target.reading(path) as file:
                        for batch in text_of(file, table, manifest.format, op=incremental):
                            yield _chosen(batch, only)
                except (DamagedError, FileNotFoundError, ExportTargetError) as error:
                    raise ChainError(f"{path}: cannot be read again ({type(error).__name__})") from None

    def _of_delta(
        self, table: Table, manifest: Manifest, entry: TableEntry, only: Mapping[str, Collection[str]]
    ) -> Iterator[pa.RecordBatch]:
        from syncworker.exports import delta  # deltalake is an extra of its own

        try:
            for batch in delta.read_version(self.target, table, manifest, entry):
                yield _chosen(batch, only)
        except (DamagedError, ExportTargetError) as error:
            raise ChainError(f"{table.name}: cannot be read again ({type(error).__name__})") from None


def found_chain(target: Target, name: str, number: int) -> Chain | None:
    """The exports of a series up to a number, as they stand at a target; `None`: they cannot be gone on from.

    Blocks.
    """
    try:
        latest = Latest.of(target.read(f"{name}/LATEST.json"))
        if latest.number != number:
            return None
        last = _manifest(target, name, latest.folder)
        if (last.export, last.number) != (name, number):
            return None
        manifests = [last]
        if last.kind is ExportKind.INCREMENTAL:
            between = [
                parsed for folder in folders(target, name)
                if (parsed := parsed_folder(folder)) is not None and last.base <= parsed[1] < number
            ]  # fmt: skip
            below = [
                found for kind, one in sorted(between, key=lambda pair: pair[1])
                if (found := _manifest_or_none(target, name, folder_of(kind, one))) is not None
            ]  # fmt: skip
            manifests = [*below, last]
    except (FileNotFoundError, ManifestError):
        return None
    whole = manifests[0].kind is ExportKind.FULL and manifests[0].number == last.base
    linked = all(one.base == last.base for one in manifests) and all(
        one.from_ == before.to for before, one in pairwise(manifests)
    )
    return Chain(target, name, tuple(manifests)) if whole and linked else None


def check_owner(target: Target, name: str, tenant: str) -> None:
    """Make sure that the exports of a name at a target, if there are any, belong to a tenant.

    Raises:
        RequestError: they are another tenant's.
    """
    for folder in sorted(folders(target, name), key=lambda one: one.rpartition("-")[2], reverse=True):
        try:
            found = _manifest_or_none(target, name, folder)
        except ManifestError:
            continue
        if found is not None and found.tenant != tenant:
            raise RequestError(f"to: exports named {name} there are of another tenant; choose another name")
        if found is not None:
            return


def folders(target: Target, name: str) -> list[str]:
    """Folders of exports of a series, finished or not."""
    start = len(name) + 1
    found = {one.path[start:].partition("/")[0] for one in target.list(name)}
    return sorted(folder for folder in found if parsed_folder(folder) is not None)


def manifest_at(target: Target, name: str, number: int) -> tuple[Manifest, bytes] | None:
    """The manifest of a number, and its bytes; `None`: there is none, so there is no such export."""
    for kind in ExportKind:
        try:
            data = target.read(f"{name}/{folder_of(kind, number)}/{MANIFEST}")
        except FileNotFoundError:
            continue
        return Manifest.of(data), data
    return None


def digests_of(text: pa.RecordBatch) -> list[bytes]:
    """A digest of each row of canonical text."""
    rows = zip(*(column.to_pylist() for column in text.columns), strict=True)
    return [hashlib.blake2b(repr(row).encode(), digest_size=16).digest() for row in rows]


def texts_of(table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of a full export as canonical text."""
    return Rows(table, batch, op=False).text


def keys_of(table: Table, text: pa.RecordBatch) -> list[Key]:
    """Keys of rows of canonical text."""
    return _keys(table, text)


def deletes_of(table: Table, keys: Collection[Key]) -> pa.RecordBatch:
    """Rows with keys alone, sorted, of the table's schema."""
    names = key_columns(table)
    ordered = sorted(keys, key=lambda key: tuple((one is not None, one or "") for one in key))
    columns = {name: [key[place] for key in ordered] for place, name in enumerate(names)}
    schema = arrow_schema(table, op=False)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(columns[one.name], pa.string()).cast(one.type) if one.name in columns
            else pa.nulls(len(ordered), one.type)
            for one in schema
        ],
        schema=schema,
    )  # fmt: skip


def key_columns(table: Table) -> list[str]:
    """Columns that a delete fills: whose the row was, and the merge key."""
    names = {one.name for one in table.columns}
    whose = [one for one in ("connection_id", "account_id") if one in names]
    return [one for one in order_of(table) if one in {*whose, *table.merge_key}]


def _manifest(target: Target, name: str, folder: str) -> Manifest:
    return Manifest.of(target.read(f"{name}/{folder}/{MANIFEST}"), where=f"{folder}/{MANIFEST}")


def _manifest_or_none(target: Target, name: str, folder: str) -> Manifest | None:
    try:
        return _manifest(target, name, folder)
    except FileNotFoundError:
        return None


def _chosen(batch: pa.RecordBatch, only: Mapping[str, Collection[str]]) -> pa.RecordBatch:
    for name, values in only.items():
        batch = batch.filter(pc.is_in(batch.column(name), pa.array(sorted(values), pa.string())))
    return batch


def _keys(table: Table, batch: pa.RecordBatch) -> list[Key]:
    return list(zip(*(batch.column(name).to_pylist() for name in key_columns(table)), strict=True))


def _ops(batch: pa.RecordBatch) -> list[str]:
    return batch.column(OP).to_pylist() if OP in batch.schema.names else [Op.UPSERT] * batch.num_rows


def _bounded(count: int) -> None:
    if count > KEYS_MAX:
        raise ChainError(f"more than {KEYS_MAX:,} rows to compare")
