"""Money, instants, dates and ids as the standard writes them; tolerant in, strict out.

Source: Account Information API v2.1-errata2, `AEActiveOrHistoricCurrencyAndAmount_*`, `ISODateTime`; `domain.md` §5.2.
"""

import re
from datetime import datetime
from decimal import Context, Decimal, InvalidOperation
from typing import Final, NewType

from syncworker.standard.calendar import UAE, as_utc, local_date, read_iso, within

__all__ = [
    "UAE",
    "AccountId",
    "ConsentId",
    "Slug",
    "local_date",
    "read_iban",
    "read_id",
    "read_instant",
    "read_money",
    "signed",
    "write_instant",
]

ConsentId = NewType("ConsentId", str)  # text 1..128; a UUID only in what we make ourselves (D-12)
AccountId = NewType("AccountId", str)  # text 1..40
Slug = NewType("Slug", str)  # our short name of an LFI

MONEY_PLACES: Final = 5
_MONEY_DIGITS: Final = 13
_MONEY_CHARACTERS_MAX: Final = 128
"""No writing of an amount is longer; a sane one has 20."""

_MONEY_UNIT: Final = Decimal(1).scaleb(-MONEY_PLACES)
_ONE: Final = Decimal(1)
_NO_MONEY: Final = Decimal("0.00000")
_EXACTLY: Final = Context(prec=2 * (_MONEY_DIGITS + MONEY_PLACES))
_IBAN: Final = re.compile(r"AE[0-9]{2,32}|(?!AE)[A-Z]{2}[0-9]{2}[A-Z0-9]{1,30}")
_INSTANT_WITHOUT_COLON: Final = re.compile(r"([+-]\d{2})(\d{2})$")


def read_id(value: object) -> str | None:
    """An id as text, exactly as sent; an LFI may type one id as text here and as a number there.

    Args:
        value: as a JSON reader gives it; a number must not have passed through a float.

    Returns:
        `None` for what is no id: blank text, a number with a point or an exponent, any other JSON type.
    """
    if type(value) is int:  # not a bool
        return str(value)
    return value if isinstance(value, str) and value and not value.isspace() else None


def read_iban(value: object) -> str | None:
    """An IBAN without spaces and in upper case, so that two ways of writing it come out the same.

    Check digits are not looked at: what counts is that two accounts differ when their IBANs do.

    Returns:
        `None` for what is no IBAN; neither is a masked one, which several accounts may share.  Of a UAE IBAN all but
        the country's letters are digits (ISO 13616).
    """
    if not isinstance(value, str):
        return None
    iban = "".join(value.split()).upper()
    return iban if _IBAN.fullmatch(iban) else None


def read_money(text: str | int | Decimal) -> Decimal:
    """An unsigned amount: at most 13 digits before the point and 5 after it, in any way of writing it.

    `100.0000000000`, `0E-10` and `1E+3` are exact and are read; a sixth digit after the point that is not 0 is not
    rounded away.  What an exponent asks for is never written out.

    Raises:
        ValueError: not such a number.  The message does not repeat the amount.
    """
    if isinstance(text, str) and (len(text) > _MONEY_CHARACTERS_MAX or "_" in text):
        raise ValueError("Amount: not a decimal number")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError("Amount: not a decimal number") from None
    if not amount.is_finite():
        raise ValueError("Amount: outside 0 .. 9999999999999.99999")
    if not amount:
        return abs(amount) if -MONEY_PLACES <= _exponent(amount) <= 0 else _NO_MONEY
    if amount < 0 or amount.adjusted() >= _MONEY_DIGITS:
        raise ValueError("Amount: outside 0 .. 9999999999999.99999")
    if -MONEY_PLACES <= _exponent(amount) <= 0:
        return amount
    if amount.adjusted() < -MONEY_PLACES:
        raise ValueError("Amount: more than 5 digits after the point")
    exact = amount.quantize(_MONEY_UNIT if _exponent(amount) < 0 else _ONE, context=_EXACTLY)
    if exact != amount:
        raise ValueError("Amount: more than 5 digits after the point")
    return exact


def _exponent(amount: Decimal) -> int:
    """Of a finite number."""
    exponent = amount.as_tuple().exponent
    assert isinstance(exponent, int)
    return exponent


def signed(amount: Decimal, indicator: str) -> Decimal:
    """The amount with its sign: a `Debit` is negative (trap 20)."""
    return -amount if indicator == "Debit" else amount


def read_instant(text: str, *, exact: bool = False) -> tuple[datetime, bool]:
    """An instant in UTC, clamped to the calendar's ends, and whether the bank left out the offset.

    Reads `Z`, `+04:00`, `+0400` and fractions; without an offset it is UAE time, which the caller flags.

    Args:
        exact: clamp nothing, for a value that is kept as data.

    Raises:
        ValueError: not an ISO 8601 date-time; or, when `exact`, one whose instant lies beyond the calendar in UTC.
    """
    moment = read_iso(_INSTANT_WITHOUT_COLON.sub(r"\1:\2", text) if "T" in text else text)
    without_offset = moment.tzinfo is None
    if without_offset:
        moment = moment.replace(tzinfo=UAE)
    if exact and not within(moment):
        raise ValueError("instant: lies beyond the calendar")
    return as_utc(moment), without_offset


def write_instant(moment: datetime) -> str:
    """An instant as we send it: UTC, whole seconds, `Z`.

    Raises:
        ValueError: a naive instant.
    """
    if moment.tzinfo is None:
        raise ValueError("instant: has no time zone")
    return as_utc(moment).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"
