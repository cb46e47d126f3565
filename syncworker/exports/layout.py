"""Where an export's files lie, and what its manifest and `LATEST.json` say.

    TARGET/NAME/full-000041/transaction/part-bank-one-00000.parquet … _manifest.json
    TARGET/NAME/incr-000042/transaction/part-00000.parquet … _manifest.json
    TARGET/NAME/LATEST.json

Folders are numbered and never written again.  A folder is an export once its manifest is there, which is written last;
`LATEST.json` points to the newest and is replaced after that.  Pure: values in, values out, and no pyarrow.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from syncworker.errors import ManifestError, RequestError
from syncworker.standard.json_text import json_bytes

FORMAT_VERSION: Final = 1
MANIFEST: Final = "_manifest.json"
LATEST: Final = "LATEST.json"
NUMBER_MAX: Final = 999_999_999
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TABLE: Final = re.compile(r"[a-z][a-z_]{0,62}")
_FOLDER: Final = re.compile(r"(full|incr)-(\d{6,9})")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Format(StrEnum):
    """How an export is written; `delta` is a shape of its own (`exports.delta`)."""

    PARQUET = "parquet"
    NDJSON = "ndjson"
    CSV = "csv"
    DELTA = "delta"


class ExportKind(StrEnum):
    FULL = "full"
    INCREMENTAL = "incremental"


class Privacy(StrEnum):
    FULL = "full"
    PSEUDONYMOUS = "pseudonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file: `path` from the export's folder on, with `/`."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableEntry:
    """One table of an export.

    Attributes:
        merge_key: columns that name a row.
        op: rows by `upsert` and `delete`; empty in a full export.
        columns: names and kinds (`sql_views.Kind`), in order, `op` left out.
        content_digest: sha256 over the canonical text of all rows, in the order of `files`.
        files: of a Delta table those that this export brought, with paths from the folder of its tables on.
        delta_version: of the Delta table with these rows; `None`: an export of files.
    """

    name: str
    merge_key: tuple[str, ...]
    rows: int
    op: Mapping[str, int] = field(default_factory=dict)
    content_digest: str
    columns: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FileEntry, ...] = ()
    delta_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """What bytes depend on besides the content."""

    settings: str
    pyarrow: str | None = None
    deltalake: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How far back and how fresh one listing of a connection is.

    Attributes:
        complete_from: UAE date as text; `None`: no lower end, or never seen whole.
    """

    connection_id: str
    resource: str
    account_id: str | None = None
    complete_from: str | None = None
    checked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows that are in the tables and not in the export."""

    connection_id: str
    reason: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What one export holds.

    Attributes:
        base: number of the full export that an increment stands on; of a full export its own.
        from_: cursor of the feed the increment begins behind; `None` in a full export.
        to: cursor of the feed the next increment begins behind.
        as_of: the instant of the snapshot.
        reason: why the export is a full one where an increment was due; `None`: it was not.
        decoder: version of the decoder that filled the typed columns.
    """

    export: str
    tenant: str
    number: int
    kind: ExportKind
    base: int
    format: Format
    from_: str | None
    to: str | None
    as_of: datetime
    schema_hash: str
    decoder: int
    writer: Writer
    privacy: Privacy
    pseudonym_key_id: str | None = None
    reason: str | None = None
    tables: tuple[TableEntry, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def folder(self) -> str:
        return folder_of(self.kind, self.number)

    def to_bytes(self) -> bytes:
        """As it is written: JSON, indented, the same bytes for the same values."""
        fields = asdict(self)
        ordered = {"format_version": fields.pop("format_version")}
        ordered |= {"from" if name == "from_" else name: value for name, value in fields.items()}
        return _text(ordered)

    @classmethod
    def of(cls, data: bytes, *, where: str = MANIFEST) -> "Manifest":
        """
        Args:
            where: the file, for messages.

        Raises:
            ManifestError: no manifest of this version; names the field.
        """
        document = _document(data, where)
        if "from_" in document:
            raise ManifestError(f"{where}: from_: is no field of a manifest; write it again with a full export")
        document["from_"] = document.pop("from", None)
        found = _read(cls, document, where)
        found.check(where)
        return found

    def check(self, where: str = MANIFEST) -> None:
        """
        Raises:
            ManifestError: a value that no manifest has; names the field.
        """
        _bounded(where, "export", bool(_NAME.fullmatch(self.export)), "is no name of an export")
        _bounded(where, "number", 1 <= self.number <= NUMBER_MAX, f"is not from 1 to {NUMBER_MAX}")
        _bounded(where, "base", 1 <= self.base <= self.number, "is not from 1 to the number")
        whole = self.kind is ExportKind.FULL
        _bounded(where, "base", not whole or self.base == self.number, "of a full export is its own number")
        _bounded(where, "from", whole == (self.from_ is None), "is of increments, and of each of them")
        hidden = self.privacy is Privacy.PSEUDONYMOUS
        _bounded(where, "pseudonym_key_id", hidden == (self.pseudonym_key_id is not None), "belongs to pseudonyms")
        names = [table.name for table in self.tables]
        _bounded(where, "tables", len(set(names)) == len(names), "names a table twice")
        for index, table in enumerate(self.tables):
            _check_table(table, f"{where}: tables[{index}]", self)


def _check_table(table: TableEntry, where: str, manifest: Manifest) -> None:
    _bounded(where, "name", bool(_TABLE.fullmatch(table.name)), "is no name of a table")
    _bounded(where, "content_digest", bool(_SHA256.fullmatch(table.content_digest)), "is no sha256")
    _bounded(where, "rows", table.rows >= 0, "is below 0")
    incremental = manifest.kind is ExportKind.INCREMENTAL
    _bounded(where, "op", incremental or not table.op, "is of increments")
    _bounded(where, "op", not incremental or sum(table.op.values()) == table.rows, "does not add up to rows")
    if manifest.format is Format.DELTA:
        _bounded(where, "delta_version", table.delta_version is not None, "is missing")
    _bounded(where, "files", sum(one.rows for one in table.files) == table.rows, "do not add up to rows")
    for index, one in enumerate(table.files):
        inside = f"{where}.files[{index}]"
        parts = one.path.split("/")
        _bounded(inside, "path", parts[0] == table.name and len(parts) > 1, "does not lie in the table's folder")
        _bounded(inside, "path", not {"", ".", ".."} & set(parts) and "\\" not in one.path, "leads elsewhere")
        _bounded(inside, "sha256", bool(_SHA256.fullmatch(one.sha256)), "is no sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """`LATEST.json`: the newest export of a name.

    Attributes:
        base: folder of the full export to begin with; `folder` itself where that is full.
        manifest_sha256: of the manifest in `folder`.
    """

    export: str
    number: int
    kind: ExportKind
    folder: str
    base: str
    manifest_sha256: str
    format_version: int = FORMAT_VERSION

    def to_bytes(self) -> bytes:
        fields = asdict(self)
        return _text({"format_version": fields.pop("format_version")} | fields)

    @classmethod
    def of(cls, data: bytes, *, where: str = LATEST) -> "Latest":
        """
        Raises:
            ManifestError: no such file of this version; names the field.
        """
        found = _read(cls, _document(data, where), where)
        _bounded(where, "folder", found.folder == folder_of(found.kind, found.number), "is not of kind and number")
        base = parsed_folder(found.base)
        _bounded(where, "base", base is not None and base[0] is ExportKind.FULL, "is no folder of a full export")
        return found


def latest_of(manifest: Manifest, written: bytes) -> Latest:
    """What points to an export.

    Args:
        written: the bytes of its manifest, as they stand at the target.
    """
    return Latest(
        export=manifest.export,
        number=manifest.number,
        kind=manifest.kind,
        folder=manifest.folder,
        base=folder_of(ExportKind.FULL, manifest.base),
        manifest_sha256=hashlib.sha256(written).hexdigest(),
    )


# -- names -----------------------------------------------------------------------------------------------------------


def checked_name(name: str) -> str:
    """A name of an export, which is a folder's as well.

    Raises:
        RequestError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise RequestError("name: up to 63 small letters, digits, - and _, a letter or digit first")
    return name


def folder_of(kind: ExportKind, number: int) -> str:
    """`full-000041`, `incr-000042`."""
    return f"{'full' if kind is ExportKind.FULL else 'incr'}-{number:06d}"


def parsed_folder(folder: str) -> tuple[ExportKind, int] | None:
    """Kind and number of a folder; `None`: it is no export's."""
    found = _FOLDER.fullmatch(folder)
    if found is None:
        return None
    kind = ExportKind.FULL if found[1] == "full" else ExportKind.INCREMENTAL
    number = int(found[2])
    return (kind, number) if folder_of(kind, number) == folder else None


def part_path(table: str, part: int, format: Format, *, lfi: str | None) -> str:  # noqa: A002  a format it is
    """Of a part, from the export's folder on; in a full export the LFI is in its name.

    No folders by LFI: `lfi` is a column as well, and readers that make a column of a folder `lfi=…` (pandas) then have
    two of different types.  All parts of a table lie in one folder, which every reader opens as it is.
    """
    of_lfi = "" if lfi is None else f"{quote(lfi, safe='')}-"
    return f"{table}/part-{of_lfi}{part:05d}.{format.value}"


def next_number(folders: Iterable[str]) -> int:
    """The number behind all that are taken at a target, finished or not."""
    taken = [known[1] for known in map(parsed_folder, folders) if known is not None]
    return max(taken, default=0) + 1


# -- JSON ------------------------------------------------------------------------------------------------------------

T = TypeVar("T")


def _text(value: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(json_bytes(value), indent=1) + b"\n"


def _document(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{where}: is no JSON ({error}); make a full export") from None
    if not isinstance(document, dict):
        raise ManifestError(f"{where}: is no JSON object; make a full export")
    version = document.get("format_version")
    if version != FORMAT_VERSION:
        raise ManifestError(
            f"{where}: format_version: {FORMAT_VERSION} is known here, and not {version!r};"
            " use the version of syncworker that wrote it, or a newer one"
        )
    return document


def _read(type_: type[T], document: Mapping[str, Any], where: str) -> T:
    try:
        return msgspec.convert(document, type_)
    except msgspec.ValidationError as error:
        raise ManifestError(f"{where}: {error}; make a full export") from None


def _bounded(where: str, field_: str, holds: bool, why: str) -> None:
    if not holds:
        raise ManifestError(f"{where}: {field_}: {why}; make a full export")
