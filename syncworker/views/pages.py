"""Opaque cursors: the place behind which the next page of a list begins.

A cursor names the list, its filter and the values of the last row in the list's order.  One of another list or filter
is refused, and so is a text that is none.  It holds no secret and is no key: what it points at is read with the rights
of the request that brings it.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from syncworker.errors import RequestError
from syncworker.standard.json_text import json_bytes

VERSION: Final = 1
LENGTH_MAX: Final = 1024


class _Cursor(msgspec.Struct, array_like=True, frozen=True):
    version: int
    filter: str
    place: list[list[str | None]]


_READ: Final = msgspec.json.Decoder(_Cursor)


def filter_digest(name: str, asked: Mapping[str, Any]) -> str:
    """What a list and its filter are known by."""
    text = json_bytes([name, sorted((key, str(value)) for key, value in asked.items() if value is not None)])
    return hashlib.sha256(text).hexdigest()[:16]


def cursor_text(digest: str, place: Sequence[Any]) -> str:
    """The cursor for a place.

    Args:
        digest: of `filter_digest`.
        place: values of the order's columns in the last row of the page.
    """
    content = _Cursor(VERSION, digest, [list(_written(value)) for value in place])
    return base64.urlsafe_b64encode(json_bytes(content)).decode().rstrip("=")


def read_cursor(text: str, digest: str) -> tuple[Any, ...]:
    """The place of a cursor.

    Raises:
        RequestError: it is none, or of another list or filter.
    """
    try:
        content = _content(text)
        place = tuple(_read(kind, value) for kind, value in content.place)
    except (ValueError, TypeError, binascii.Error, msgspec.MsgspecError, ArithmeticError):
        raise RequestError("cursor: is none of this list's; begin without a cursor") from None
    if content.filter != digest:
        raise RequestError("cursor: belongs to another list or filter; begin without a cursor")
    return place


def _content(text: str) -> _Cursor:
    if len(text) > LENGTH_MAX:
        raise ValueError("too long")
    content = _READ.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    if content.version != VERSION:
        raise ValueError("another version")
    return content


def _written(value: Any) -> tuple[str, str | None]:
    match value:
        case None:
            return "n", None
        case datetime():
            return "t", value.isoformat()
        case date():
            return "d", value.isoformat()
        case int():
            return "i", str(value)
        case Decimal():
            return "m", str(value)
    return "s", str(value)


def _read(kind: str | None, value: str | None) -> Any:
    if kind == "n" and value is None:
        return None
    if value is None:
        raise ValueError
    match kind:
        case "t":
            moment = msgspec.convert(value, datetime)
            if moment.tzinfo is None:
                raise ValueError
            return moment
        case "d":
            return msgspec.convert(value, date)
        case "i":
            number = int(value)
            if not -(2**63) <= number < 2**63:
                raise ValueError
            return number
        case "m":
            return Decimal(value)
        case "s" if "\x00" not in value:
            return value
    raise ValueError
