"""Cursors: where a reader of the feed stands, as text that says nothing to the reader.

A cursor is base64url (RFC 4648 §5, no padding) of

    version 1 · epoch 4 · place 4 + 8 + 8 · check 8 · filter 8 · connection 2 + n · key 2 + n · digest 8   (bytes)

    epoch        the history of the database it was given in
    place        of the last row read: epoch, transaction, number
    check        of what stands at that place: another row there means another history
    filter       what was read; a cursor goes on with the same only
    connection   of the row at that place: erasure may take the row away, and leaves a change of the connection
    key          the last row shown of the marker at that place; none: it was shown whole
    digest       of all that and of the tenant

The digests guard against mistakes and not against forgery: a reader can place itself anywhere in the feed of its own
tenant anyway, and its rights are looked at with each request.
"""

import base64
import binascii
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from syncworker.errors import CursorUnknownError
from syncworker.standard.json_text import instant_text
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.changes import FeedRow, Place

VERSION: Final = 1
LENGTH_MAX: Final = 4_096
"""Characters of a cursor; ids and keys are at most 128 and 256 characters long."""

_FRAME: Final = struct.Struct(">BIIqq8s8s")
_DIGEST_BYTES: Final = 8
NOTHING: Final = bytes(_DIGEST_BYTES)
"""The check where no row stands."""

_WHOLE: Final = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is read of a tenant's feed.

    Attributes:
        connections: changes of these alone; `None`: of all.
        user_ref: changes of this user's connections alone, also of those that are still to come; `None`: of all.
        resources: changes of these alone, and of whole connections; `None`: of all.
    """

    connections: frozenset[ConsentId] | None = None
    user_ref: str | None = None
    resources: frozenset[ResourceName] | None = None

    @property
    def digest(self) -> bytes:
        """Equal for equal filters."""
        return _digest(
            [
                *_listed(self.connections),
                *_listed(None if self.user_ref is None else [self.user_ref]),
                *_listed(None if self.resources is None else [one.value for one in self.resources]),
            ]
        )


EVERYTHING: Final = Filter()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """Where a reader stands.

    Attributes:
        epoch: it was given in.
        place: of the last row read, or how far rows had been taken away.
        check: of the row there; zeros where there is none.
        connection_id: of the row there; `''` where there is none.
        filter: digest of what is read.
        inside: the last key shown of the marker at the place; `None`: it was shown whole, or is no marker.
    """

    epoch: int
    place: Place
    check: bytes
    connection_id: str
    filter: bytes
    inside: str | None = None


def cursor_at(row: FeedRow | None, *, epoch: int, of: Filter, inside: str | None = None, else_: Place) -> Cursor:
    """The cursor behind a row; without one, at a place where none stands: how far rows were taken away."""
    return Cursor(
        epoch=epoch,
        place=else_ if row is None else row.place,
        check=NOTHING if row is None else check_of(row),
        connection_id="" if row is None else row.connection_id,
        filter=of.digest,
        inside=inside,
    )


def check_of(row: FeedRow) -> bytes:
    """What tells a row from another that stands at the same place in another history."""
    change = row.change
    return _digest(
        [
            row.connection_id,
            change.account_id,
            change.resource.value if change.resource else "",
            change.key,
            change.op.value,
            change.scope or "",
            instant_text(row.at),
            str(row.gen),
        ]
    )


def written(cursor: Cursor, *, tenant: str) -> str:
    """A cursor as a reader gets it."""
    connection, inside = cursor.connection_id.encode(), (cursor.inside or "").encode()
    body = b"".join(
        (
            _FRAME.pack(VERSION, cursor.epoch, *cursor.place, cursor.check, cursor.filter),
            struct.pack(">H", len(connection)),
            connection,
            struct.pack(">H", _WHOLE if cursor.inside is None else len(inside)),
            inside,
        )
    )
    return base64.urlsafe_b64encode(body + _seal(body, tenant)).decode().rstrip("=")


def read(text: str, *, tenant: str) -> Cursor:
    """A cursor as a reader gave it back.

    Raises:
        CursorUnknownError: it was not given by us, was changed, or was given to another tenant.
    """
    if len(text) > LENGTH_MAX:
        raise CursorUnknownError
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        body, seal = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if seal != _seal(body, tenant):
            raise CursorUnknownError
        version, epoch, of_epoch, txid, seq, check, of = _FRAME.unpack_from(body)
        connection, rest = _taken(body[_FRAME.size :])
        inside, rest = _taken(rest)
    except (UnicodeError, binascii.Error, struct.error):
        raise CursorUnknownError from None
    if version != VERSION or rest or connection is None:
        raise CursorUnknownError
    return Cursor(
        epoch=epoch, place=Place(of_epoch, txid, seq), check=check, connection_id=connection, filter=of, inside=inside
    )


def _taken(data: bytes) -> tuple[str | None, bytes]:
    """The text at the beginning, and what follows it."""
    (length,) = struct.unpack_from(">H", data)
    if length == _WHOLE:
        return None, data[2:]
    text, rest = data[2:][:length], data[2:][length:]
    if len(text) < length:
        raise CursorUnknownError
    return text.decode(), rest


def _seal(body: bytes, tenant: str) -> bytes:
    return blake2b(body, digest_size=_DIGEST_BYTES, key=blake2b(tenant.encode(), digest_size=32).digest()).digest()


def _listed(words: Iterable[str] | None) -> list[str]:
    if words is None:
        return ["-"]
    ordered = sorted(words)
    return [str(len(ordered)), *ordered]


def _digest(words: Iterable[str]) -> bytes:
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for word in words:
        said = word.encode(errors="surrogatepass")
        digest.update(len(said).to_bytes(4, "big") + said)
    return digest.digest()
