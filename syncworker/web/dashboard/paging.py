"""Places in lists, as links carry them, and numbers that come with a path or a query."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, TypeVar

from fastapi import Request

from syncworker.standard.calendar import as_utc, read_iso
from syncworker.web.dashboard.door import RefusedError, not_found

PAGE: Final = 50
ID_LENGTH: Final = 128
TEXT_LENGTH: Final = 200
_NUMBER_LENGTH: Final = 18

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")


def packed(place: Sequence[str]) -> str:
    """A place in a list, for a link."""
    return base64.urlsafe_b64encode(json.dumps(list(place)).encode()).decode().rstrip("=")


def unpacked(text: str, parts: int) -> tuple[str, ...]:
    """What `packed` made.

    Raises:
        RefusedError: it is none of ours.
    """
    try:
        place = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        good = isinstance(place, list) and len(place) == parts and all(isinstance(one, str) for one in place)
        good = good and all(len(one) <= 2 * ID_LENGTH and "\0" not in one for one in place)
        for one in place if good else ():
            one.encode()
    except (binascii.Error, ValueError, RecursionError):
        good = False
    if not good:
        raise _no_such_page()
    return tuple(place)


def instant(text: str) -> datetime:
    """An instant of a place.

    Raises:
        RefusedError: it is none.
    """
    try:
        return as_utc(read_iso(text))
    except ValueError:
        raise _no_such_page() from None


def _no_such_page() -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, "No such page", "Begin the list anew, without `after` in the address.")


def number(text: str, what: str) -> int:
    """A number of a path.

    Raises:
        RefusedError: it is none, so nothing of that number is held.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _NUMBER_LENGTH):
        raise not_found(what)
    return int(text)


def number_asked(request: Request, name: str) -> int | None:
    """A number of the query; `None`: there is none, or what is there is no number."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _NUMBER_LENGTH else None


def asked(request: Request, name: str) -> str | None:
    """A text of the query; `None`: there is none that a row could hold."""
    text = request.query_params.get(name, "").strip()
    if not text or len(text) > TEXT_LENGTH or not text.isprintable():
        return None
    return text


def chosen(request: Request, name: str, kinds: type[E]) -> E | None:
    """One of some words of the query; `None`: none of them."""
    given = request.query_params.get(name)
    return next((one for one in kinds if one.value == given), None)


def is_id(text: str) -> bool:
    """Whether an id of ours could look so; whatever else came with the path never reaches the database."""
    return 1 <= len(text) <= ID_LENGTH and text.isascii() and text.isprintable()


def cut(rows: Sequence[T], limit: int = PAGE) -> tuple[Sequence[T], bool]:
    """The rows of a page, and whether more follow; lists ask for one more than they show."""
    return rows[:limit], len(rows) > limit


def kept(request: Request, names: Sequence[str], **changes: Any) -> Mapping[str, str]:
    """The filters of a list, for its next link."""
    found = {name: value for name in names if (value := asked(request, name))}
    return found | {name: str(value) for name, value in changes.items() if value is not None}
