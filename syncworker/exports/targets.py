"""Places that exports are written to: a folder, or a bucket of an object store.

A file is at its path once it is whole.  In a folder it is written under a name of its own, brought to the disk and
renamed; files are readable by their owner alone, and no path leads out through a symbolic link.  An object store shows
an object once its upload ended.

Folders of exports are never written again, so an object store needs no renaming: the manifest, written last, is what
makes an export of a folder.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from syncworker.errors import ExportTargetError
from syncworker.standard.calendar import of_epoch

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """A file at a target.

    Attributes:
        path: from the target's root on, with `/`.
        modified: `None`: the target does not say.
    """

    path: str
    bytes: int
    modified: datetime | None


class Sink(Protocol):
    """One file being written; it is at its path after `close` alone."""

    def write(self, data: memoryview, /) -> None:
        """All of it.

        Raises:
            ExportTargetError: the target refuses, or is full.
        """

    def close(self) -> None:
        """The file is whole.

        Raises:
            ExportTargetError: as `write`.
        """

    def abort(self) -> None:
        """It shall not be there.  Raises nothing."""


class Target(Protocol):
    """A root below which files are written once and read.  Paths are relative to it, with `/`; all calls block.

    Every method raises `ExportTargetError` where the target cannot be reached or refuses.
    """

    @property
    def text(self) -> str:
        """As the operator wrote it; holds no secret."""

    def open(self, path: str) -> Sink:
        """A new file.  Raises `ExportTargetError` where there is one."""

    def reading(self, path: str) -> BinaryIO:
        """An existing file; can be sought in.  Raises `FileNotFoundError` where there is none."""

    def read(self, path: str) -> bytes:
        """A small file.  Raises `FileNotFoundError` where there is none."""

    def exists(self, path: str) -> bool: ...

    def list(self, prefix: str) -> Sequence[Found]:
        """All files below a folder, at any depth, by path; empty where there is no such folder."""

    def put_whole(self, path: str, data: bytes) -> None:
        """A small file, in place of the one that may be there: a reader sees the old one or the new one."""

    def remove(self, prefix: str) -> int:
        """A file, or a folder with all in it.  Returns the number of files; 0: it was not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """How an object store is reached; what is `None` comes from the environment, as AWS's own tools read it.

    Attributes:
        endpoint: `https://host:port` of a store that is not AWS's.
        access_key: with `secret_key`, or neither.
    """

    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


def target_of(text: str, s3: S3Access | None = None) -> Target:
    """The target that an operator named: a folder's path, or `s3://bucket/prefix`.

    Raises:
        ExportTargetError: neither; names what can be written.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        if not text.strip():
            raise ExportTargetError("to: is empty; give a folder, or s3://bucket/prefix")
        return FolderTarget(Path(text))
    if scheme == "s3":
        from syncworker.exports.s3 import S3Target

        return S3Target(rest, s3 or S3Access())
    if scheme == "file":
        return FolderTarget(Path(rest))
    raise ExportTargetError(f"to: {scheme}:// is no target; give a folder, or s3://bucket/prefix")


def sha256_of(target: Target, path: str) -> str:
    """Of a file's bytes.

    Raises:
        FileNotFoundError: it is not there.
    """
    found = hashlib.sha256()
    with target.reading(path) as opened:
        while block := opened.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def checked_path(path: str) -> str:
    """A path below the root.

    Raises:
        ExportTargetError: it leads elsewhere.
    """
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in path or "\0" in path:
        raise ExportTargetError(f"{path!r}: leads out of the target")
    return path


class FolderTarget:
    """A folder of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()

    @property
    def text(self) -> str:
        return str(self._root)

    def open(self, path: str) -> Sink:
        """As `Target.open`."""
        whole = self._inside(path)
        with _writing(path):
            self._make(whole.parent)
            if os.path.lexists(whole):
                raise ExportTargetError(f"{path}: is there already; exports are never written again")
            return _FileSink(whole, path)

    def reading(self, path: str) -> BinaryIO:
        """As `Target.reading`."""
        with _told(path):
            return self._inside(path).open("rb")

    def read(self, path: str) -> bytes:
        """As `Target.read`."""
        with _told(path):
            return self._inside(path).read_bytes()

    def exists(self, path: str) -> bool:
        """As `Target.exists`."""
        return self._inside(path).is_file()

    def list(self, prefix: str) -> Sequence[Found]:
        """As `Target.list`; a symbolic link is listed by its own size and not followed."""
        start = self._inside(prefix)
        found: list[Found] = []
        with _told(prefix):
            for folder, _, names in os.walk(start):
                for name in names:
                    one = Path(folder, name)
                    with suppress(FileNotFoundError):  # a file that was just renamed
                        seen = one.lstat()
                        path = one.relative_to(self._root).as_posix()
                        found.append(Found(path, seen.st_size, of_epoch(seen.st_mtime)))
        return sorted(found, key=lambda one: one.path)

    def put_whole(self, path: str, data: bytes) -> None:
        """As `Target.put_whole`."""
        whole = self._inside(path)
        with _writing(path):
            self._make(whole.parent)
            sink = _FileSink(whole, path)
        try:
            sink.write(memoryview(data))
            sink.close()
        except BaseException:
            sink.abort()
            raise

    def remove(self, prefix: str) -> int:
        """As `Target.remove`."""
        whole = self._inside(prefix)
        with _told(prefix):
            if not os.path.lexists(whole):
                return 0
            if whole.is_symlink() or whole.is_file():
                whole.unlink()
                count = 1
            else:
                count = len(self.list(prefix))
                shutil.rmtree(whole)
            _to_disk(whole.parent)
        return count

    def _inside(self, path: str) -> Path:
        whole = self._root / checked_path(path)
        try:
            root = self._root.resolve()
            leads_out = not whole.parent.resolve().is_relative_to(root) or (
                whole.is_symlink() and not whole.resolve().is_relative_to(root)
            )
        except (OSError, RuntimeError):  # a link that leads to itself
            leads_out = True
        if leads_out:
            raise ExportTargetError(f"{path}: a symbolic link leads out of {self._root}; remove the link")
        return whole

    def _make(self, folder: Path) -> None:
        """With all folders above it; each new one is on the disk before anything is put into it."""
        missing: list[Path] = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            with suppress(FileExistsError):  # made by another export at the same time
                one.mkdir(mode=FOLDER_MODE)
            _to_disk(one.parent)


class _FileSink:
    """Writes under a hidden name that no reader's pattern takes for a part."""

    def __init__(self, whole: Path, shown: str) -> None:
        self._whole = whole
        self._shown = shown
        self._own = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
        with suppress(FileNotFoundError):  # of a process of the same number that was killed
            self._own.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        self._file = os.fdopen(os.open(self._own, flags, FILE_MODE), "wb", buffering=1 << 20)

    def write(self, data: memoryview, /) -> None:
        with _writing(self._shown):
            self._file.write(data)

    def close(self) -> None:
        with _writing(self._shown):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._own.replace(self._whole)
            _to_disk(self._whole.parent)

    def abort(self) -> None:
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._own.unlink()


def _to_disk(folder: Path) -> None:
    """A new name in a folder survives a power cut once the folder is written."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """An error of the system as ours; a missing file stays what it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ExportTargetError(f"{path}: {error.strerror or error}; look at the folder's rights and room") from error


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """As `_told`; what is missing here is a folder that was there a moment ago."""
    try:
        with _told(path):
            yield
    except FileNotFoundError:
        raise ExportTargetError(f"{path}: its folder was removed while it was written; run the export again") from None
