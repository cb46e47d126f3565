"""Reads exports again and compares them with their manifests.

Of each file: whether it is there, its length, its sha256, its rows.  Of each table: rows by `op`, and the digest over
its content, which is made anew from what the files say.  Of a folder: files that no manifest knows.  Of a name: whether
`LATEST.json` points to the newest whole export, and whether its increments follow one another without a gap.

What is wrong is a `Finding`, never an exception: one damaged file does not keep the others from being looked at.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import pyarrow as pa

from syncworker.errors import ExportTargetError, ManifestError, RequestError
from syncworker.exports.layout import (
    LATEST,
    MANIFEST,
    ExportKind,
    FileEntry,
    Format,
    Latest,
    Manifest,
    TableEntry,
    checked_name,
)
from syncworker.exports.purge import Standing, standing
from syncworker.exports.readers import DamagedError, text_of
from syncworker.exports.rows import Digest, csv_text
from syncworker.exports.schema import OP, Op, Table, table_as
from syncworker.exports.targets import Target, sha256_of

AGAIN: Final = "make a full export: syncworker export run --full"
_REMOVE: Final = "remove it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        file: from the target's root on.
        what: is wrong; names no value of a row.
        fix: what to do.
    """

    file: str
    what: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was looked at, and what was found.

    Attributes:
        exports: numbers that were looked at.
    """

    export: str
    exports: Sequence[int]
    files: int
    rows: int
    bytes: int
    findings: Sequence[Finding]


@dataclass(slots=True)
class _Walk:
    target: Target
    name: str
    content: bool
    files: int = 0
    rows: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    latest: Latest | None = None

    def found(self, file: str, what: str, fix: str = AGAIN) -> None:
        """
        Args:
            file: from the folder of the name on.
        """
        self.found_at(f"{self.name}/{file}", what, fix)

    def found_at(self, path: str, what: str, fix: str = AGAIN) -> None:
        """
        Args:
            path: from the target's root on.
        """
        self.findings.append(Finding(file=path, what=what, fix=fix))


def verify(target: Target, name: str, *, number: int | None = None, content: bool = True) -> Report:
    """Look at one export, or, without a number, at the newest with all it stands on.

    Args:
        content: read rows as well; without it files are compared by length and sha256 alone.

    Raises:
        RequestError: there is no export of this number.
        ExportTargetError: the target cannot be reached.
    """
    walk = _Walk(target, checked_name(name), content)
    folders = standing(target, name)
    if number is not None:
        folders = [one for one in folders if one.number == number]
        if not folders:
            raise RequestError(f"number: {name} has no export {number}")
        wanted: Sequence[Standing] = folders
    else:
        walk.latest = _latest(walk, folders)
        wanted = _chain(folders, walk.latest)
    manifests = [manifest for one in wanted if (manifest := _export(walk, one)) is not None]
    if number is None:
        _links(walk, manifests)
    return Report(
        export=name,
        exports=[one.number for one in wanted],
        files=walk.files,
        rows=walk.rows,
        bytes=walk.bytes,
        findings=walk.findings,
    )


# -- which exports ---------------------------------------------------------------------------------------------------


def _latest(walk: _Walk, folders: Sequence[Standing]) -> Latest | None:
    whole = [one for one in folders if one.complete]
    if not whole:
        walk.found(LATEST, "there is no whole export of this name")
    try:
        latest = Latest.of(walk.target.read(f"{walk.name}/{LATEST}"), where=LATEST)
    except FileNotFoundError:
        if whole:
            walk.found(LATEST, "is missing", "run the export again: it writes the pointer anew")
        return None
    except ManifestError as error:
        walk.found(LATEST, str(error), "run the export again: it writes the pointer anew")
        return None
    if latest.export != walk.name:
        walk.found(LATEST, f"is of the export {latest.export}", "run the export again: it writes the pointer anew")
    if whole and whole[-1].number != latest.number:
        what = f"points to {latest.folder}, and {whole[-1].folder} is whole as well"
        if latest.number > whole[-1].number:
            what = f"points to {latest.folder}, which is not there"
        walk.found(LATEST, what, "run the export again: it takes up what was left")
    return latest


def _chain(folders: Sequence[Standing], latest: Latest | None) -> Sequence[Standing]:
    """From the newest full export on, up to what `LATEST.json` says; folders without manifest are no exports."""
    whole = [one for one in folders if one.complete and (latest is None or one.number <= latest.number)]
    fulls = [index for index, one in enumerate(whole) if one.kind is ExportKind.FULL]
    return whole[fulls[-1] if fulls else 0 :]


def _links(walk: _Walk, chain: Sequence[Manifest]) -> None:
    """That each increment begins where the export before it ended, and is of its kind."""
    if chain and chain[0].kind is not ExportKind.FULL:
        walk.found(f"{chain[0].folder}/{MANIFEST}", "the full export it stands on is not there")
    for before, one in pairwise(chain):
        file = f"{one.folder}/{MANIFEST}"
        if one.base != chain[0].number:
            walk.found(file, f"base: is {one.base}, and the full export before it is {chain[0].number}")
        if one.from_ != before.to:
            walk.found(file, f"from: does not go on where {before.folder} ends: changes between them are missing")
        for name in ("schema_hash", "privacy", "pseudonym_key_id", "format", "tenant"):
            if getattr(one, name) != getattr(before, name):
                walk.found(file, f"{name}: differs from {before.folder}, so it does not fit on it")


# -- one export ------------------------------------------------------------------------------------------------------


def _export(walk: _Walk, folder: Standing) -> Manifest | None:
    manifest = _manifest(walk, folder)
    if manifest is None:
        return None
    if manifest.format is Format.DELTA:
        _delta(walk, manifest)
        return manifest
    there = {one.path: one.bytes for one in walk.target.list(f"{walk.name}/{folder.folder}")}
    there.pop(f"{walk.name}/{folder.folder}/{MANIFEST}", None)
    for table in manifest.tables:
        known = [_file(walk, f"{walk.name}/{folder.folder}", one, there) for one in table.files]
        if walk.content and all(known):
            _content(walk, folder.folder, manifest, table)
    for path in there:
        walk.found(path.removeprefix(f"{walk.name}/"), "the manifest does not know it", _REMOVE)
    return manifest


def _manifest(walk: _Walk, folder: Standing) -> Manifest | None:
    file = f"{folder.folder}/{MANIFEST}"
    try:
        data = walk.target.read(f"{walk.name}/{file}")
        manifest = Manifest.of(data, where=MANIFEST)
    except FileNotFoundError:
        walk.found(file, "is missing: the folder is no export", "purge removes it: syncworker export purge")
        return None
    except ManifestError as error:
        walk.found(file, str(error))
        return None
    if (manifest.export, manifest.kind, manifest.number) != (walk.name, folder.kind, folder.number):
        walk.found(file, f"is of {manifest.export}/{manifest.folder}, and lies in another folder")
    _pointed(walk, file, data, folder)
    return manifest


def _pointed(walk: _Walk, file: str, data: bytes, folder: Standing) -> None:
    """A manifest that was changed later on is told by the pointer's sha256 of it."""
    latest = walk.latest
    if latest is None or latest.number != folder.number:
        return
    if latest.manifest_sha256 != hashlib.sha256(data).hexdigest():
        walk.found(file, f"is not the manifest that {LATEST} was written for")


def _file(walk: _Walk, above: str, entry: FileEntry, there: dict[str, int]) -> bool:
    """Whether a file is as the manifest says, so that its rows can be looked at."""
    path = f"{above}/{entry.path}"
    length = there.pop(path, None)
    if length is None:
        walk.found_at(path, "is missing")
        return False
    walk.files += 1
    walk.bytes += length
    if length != entry.bytes:
        walk.found_at(path, f"has {length} bytes, and not {entry.bytes}")
        return False
    try:
        found = sha256_of(walk.target, path)
    except (FileNotFoundError, ExportTargetError, OSError) as error:
        walk.found_at(path, f"cannot be read ({type(error).__name__})")
        return False
    if found != entry.sha256:
        walk.found_at(path, "its sha256 is another: its bytes were changed")
        return False
    return True


def _content(walk: _Walk, folder: str, manifest: Manifest, entry: TableEntry) -> None:
    table = _described(walk, f"{folder}/{entry.name}", entry)
    if table is None:
        return
    op = manifest.kind is ExportKind.INCREMENTAL
    tally = Tally(op=op)
    for file in entry.files:
        before = tally.rows
        try:
            with walk.target.reading(f"{walk.name}/{folder}/{file.path}") as opened:
                for text in text_of(opened, table, manifest.format, op=op):
                    tally.add(text)
        except DamagedError as error:
            walk.found(f"{folder}/{file.path}", str(error))
            return
        if tally.rows - before != file.rows:
            walk.found(f"{folder}/{file.path}", f"has {tally.rows - before} rows, and the manifest says {file.rows}")
    walk.rows += tally.rows
    for what in tally.differences(entry):
        walk.found(f"{folder}/{entry.name}", what)


def _described(walk: _Walk, place: str, entry: TableEntry) -> Table | None:
    """The table as it was when it was exported."""
    try:
        return table_as(entry.name, entry.columns, entry.merge_key)
    except ValueError as error:
        walk.found(place, str(error), "use the version of syncworker that wrote it, or a newer one")
        return None


class Tally:
    """Counts rows and makes their digest; for every format alike."""

    def __init__(self, *, op: bool) -> None:
        self._op = op
        self._digest = Digest()
        self.rows = 0
        self.ops: Counter[str] = Counter({one.value: 0 for one in Op} if op else {})

    def add(self, text: pa.RecordBatch) -> None:
        """Rows whose columns are text."""
        self._digest.add(csv_text(text))
        self.rows += text.num_rows
        if self._op:
            self.ops.update({one["values"]: one["counts"] for one in text.column(OP).value_counts().to_pylist()})

    def differences(self, entry: TableEntry) -> Iterator[str]:
        """What a manifest says otherwise."""
        if self.rows != entry.rows:
            yield f"has {self.rows} rows, and the manifest says {entry.rows}"
        if dict(self.ops) != entry.op:
            yield f"op: has {dict(self.ops)}, and the manifest says {dict(entry.op)}"
        if self._digest.hex() != entry.content_digest:
            yield "content_digest: the rows are others than those that were written, or in another order"


def _delta(walk: _Walk, manifest: Manifest) -> None:
    """Files of a Delta table; those that a later version of the table does not need may be gone."""
    from syncworker.exports.extras import require

    require("delta")
    from syncworker.exports import delta

    for entry in manifest.tables:
        place = f"{manifest.folder}/{entry.name}"
        table = _described(walk, place, entry)
        if table is None:
            continue
        above = f"{walk.name}-delta"
        try:
            needed = delta.needed(walk.target, walk.name, entry)
            there = {one.path: one.bytes for one in walk.target.list(f"{above}/{entry.name}")}
            known = [_file(walk, above, one, there) for one in entry.files if one.path in needed]
            if not walk.content or not all(known) or len(known) < len(entry.files):
                continue
            tally = Tally(op=manifest.kind is ExportKind.INCREMENTAL)
            for batch in delta.read_version(walk.target, table, manifest, entry):
                tally.add(batch)
        except DamagedError as error:
            walk.found(place, str(error))
            continue
        walk.rows += tally.rows
        for what in tally.differences(entry):
            walk.found(place, what)
