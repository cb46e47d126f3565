"""Values of ours as JSON: what is sent to an LFI, signed, or handed to the database as one parameter.

msgspec looks at exact types.  A subclass of a type it knows is none to it, and a text, number, date or instant may well
be one: an instant of a clock that is a test's, a text of a library.  It is written as what it is a kind of, everywhere.
"""

from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final

import msgspec

from syncworker.standard.calendar import as_utc


def as_plain(value: Any) -> Any:
    """What to write for a value that the encoder does not know.

    Raises:
        NotImplementedError: JSON can say nothing of the kind; names the type, not the value.
    """
    match value:
        case datetime():
            return instant_text(value) if value.tzinfo is not None else value.isoformat()
        case date() | time():
            return value.isoformat()
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Decimal():
            return Decimal(value)
        case bytes():
            return bytes(bytearray(value))
    raise NotImplementedError(f"{type(value).__name__} is nothing JSON can say")


WITH_NUMBERS: Final = msgspec.json.Encoder(decimal_format="number", enc_hook=as_plain)
"""Amounts as numbers, as the bodies of account openings have them."""

_WRITER: Final = msgspec.json.Encoder(enc_hook=as_plain)


def json_bytes(value: Any) -> bytes:
    """A value as JSON: amounts as text, instants as ISO 8601 in UTC, tuples and dataclasses as what they hold."""
    return _WRITER.encode(value)


def canonical_text(text: str) -> str | None:
    """JSON in its one form: names sorted, no blanks; `None` for `null`."""
    value = msgspec.json.decode(text)
    return None if value is None else msgspec.json.encode(value, order="sorted").decode()


def instant_text(moment: datetime) -> str:
    """UTC text of fixed width; a tenth of the time `strftime` takes."""
    return f"{as_utc(moment).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
