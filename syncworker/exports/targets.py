"""Places that exports are written to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class Found:
    """A file at a target: `path` from the target's root on, with `/`."""

    path: str
    bytes: int
    modified: datetime | None


class Sink(Protocol):
    """One file being written; it is at its path after `close` alone."""

    def write(self, data: bytes | memoryview, /) -> int: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Target(Protocol):
    """A root below which files are written once and read.  Paths are relative, with `/`."""

    text: str
    """As the operator wrote it; holds no secret."""

    def open(self, path: str) -> Sink: ...
    def reading(self, path: str) -> BinaryIO: ...
    def read(self, path: str) -> bytes: ...
    def exists(self, path: str) -> bool: ...
    def list(self, prefix: str) -> Sequence[Found]: ...
    def put_whole(self, path: str, data: bytes) -> None: ...
    def remove(self, prefix: str) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Access:
    """How an object store is reached; what is `None` comes from the environment, as AWS's own tools read it."""

    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


def target_of(text: str, s3: S3Access | None = None) -> Target:
    """A folder, or `s3://bucket/prefix`."""
    raise NotImplementedError
