"""An object store as the target of exports, through pyarrow's file systems.

An object appears when its upload ends, so a part is there whole or not at all, and nothing is renamed.  pyarrow cannot
call off an upload: `abort` ends it and deletes the object, which lies in a folder without manifest meanwhile.  A killed
process leaves an unfinished upload, which no reader sees and the store charges for: a bucket should have a rule that
ends such uploads after a day (`AbortIncompleteMultipartUpload`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as fs

from syncworker.errors import ExportTargetError
from syncworker.exports.targets import Found, S3Access, Sink, checked_path

REQUEST_TIMEOUT_S: Final = 30
CONNECT_TIMEOUT_S: Final = 5
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SAID: Final = re.compile(r"AWS Error (?P<code>[A-Z0-9_]+)(?: during (?P<call>\w+) operation)?")


class S3Target:
    """`s3://bucket/prefix`."""

    def __init__(self, place: str, access: S3Access) -> None:
        """
        Args:
            place: `bucket/prefix`; the prefix may be missing.

        Raises:
            ExportTargetError: no bucket's name, half a pair of keys, or no address of an endpoint.
        """
        bucket, _, prefix = place.strip("/").partition("/")
        if not _BUCKET.fullmatch(bucket):
            raise ExportTargetError("to: s3://bucket/prefix has no name of a bucket: 3 to 63 of a-z, 0-9, '.' and '-'")
        if "?" in prefix:  # as in addresses that carry keys; what is named here is shown and kept
            raise ExportTargetError("to: s3://bucket/prefix takes no options behind ?; keys come from the environment")
        self._root = bucket if not prefix else f"{bucket}/{checked_path(prefix)}"
        self._access = access
        self._store = fs.S3FileSystem(**_options(access))

    def __repr__(self) -> str:
        return f"S3Target({self.text})"

    @property
    def text(self) -> str:
        return f"s3://{self._root}"

    @property
    def access(self) -> S3Access:
        """How it is reached, for libraries that reach it themselves."""
        return self._access

    def open(self, path: str) -> Sink:
        """As `Target.open`."""
        if self.exists(path):
            raise ExportTargetError(f"{path}: is there already; exports are never written again")
        return self._sink(path)

    def reading(self, path: str) -> BinaryIO:
        """As `Target.reading`."""
        with _told(path):
            return cast("BinaryIO", self._store.open_input_file(self._at(path)))

    def read(self, path: str) -> bytes:
        """As `Target.read`."""
        with _told(path), self._store.open_input_file(self._at(path)) as file:
            return cast("bytes", file.read())

    def exists(self, path: str) -> bool:
        """As `Target.exists`."""
        with _told(path):
            return bool(self._store.get_file_info(self._at(path)).type == fs.FileType.File)

    def list(self, prefix: str) -> Sequence[Found]:
        """As `Target.list`."""
        wanted = fs.FileSelector(self._at(prefix), recursive=True, allow_not_found=True)
        with _told(prefix):
            found = self._store.get_file_info(wanted)
        from_root = len(self._root) + 1
        return sorted(
            (Found(one.path[from_root:], one.size, one.mtime) for one in found if one.type == fs.FileType.File),
            key=lambda one: one.path,
        )

    def put_whole(self, path: str, data: bytes) -> None:
        """As `Target.put_whole`."""
        sink = self._sink(path)
        sink.write(memoryview(data))
        sink.close()

    def remove(self, prefix: str) -> int:
        """As `Target.remove`."""
        if self.exists(prefix):
            with _told(prefix):
                self._store.delete_file(self._at(prefix))
            return 1
        count = len(self.list(prefix))
        with _told(prefix), suppress(FileNotFoundError):
            self._store.delete_dir(self._at(prefix))
        return count

    def _at(self, path: str) -> str:
        return f"{self._root}/{checked_path(path)}"

    def _sink(self, path: str) -> "_ObjectSink":
        with _told(path):
            return _ObjectSink(self._store, self._at(path), path)


class _ObjectSink:
    def __init__(self, store: Any, at: str, shown: str) -> None:
        self._store = store
        self._at = at
        self._shown = shown
        self._file = store.open_output_stream(at, compression=None)

    def write(self, data: memoryview, /) -> None:
        with _told(self._shown):
            self._file.write(data)

    def close(self) -> None:
        with _told(self._shown):
            self._file.close()

    def abort(self) -> None:
        with suppress(OSError, pa.ArrowException):
            self._file.close()
        with suppress(OSError, pa.ArrowException):
            self._store.delete_file(self._at)


def _options(access: S3Access) -> dict[str, Any]:
    if (access.access_key is None) != (access.secret_key is None):
        raise ExportTargetError("s3: access_key and secret_key come together, or both from the environment")
    options: dict[str, Any] = {
        "region": access.region,
        "access_key": access.access_key,
        "secret_key": access.secret_key,
        "session_token": access.session_token,
        "request_timeout": REQUEST_TIMEOUT_S,
        "connect_timeout": CONNECT_TIMEOUT_S,
    }
    if access.endpoint is not None:
        address = urlsplit(access.endpoint)
        whole = address.scheme in {"http", "https"} and address.hostname and not address.path.strip("/")
        if not whole or address.username or address.password or address.query:
            raise ExportTargetError("s3: endpoint: is no https://host or https://host:port, without keys in it")
        options |= {"scheme": address.scheme, "endpoint_override": address.netloc}
    return {name: value for name, value in options.items() if value is not None}


@contextmanager
def _told(path: str) -> Iterator[None]:
    """An error of the store as ours, by its code: what the store says besides may hold names of keys."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        said = _SAID.search(str(error))
        what = f"{said['code']} in {said['call'] or 'a call'}" if said else type(error).__name__
        raise ExportTargetError(f"{path}: the object store says {what}; look at keys, bucket and region") from None
