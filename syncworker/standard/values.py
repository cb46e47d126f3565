"""Money, instants, dates and ids as the standard writes them; tolerant in, strict out.

Source: Account Information API v2.1-errata2, `AEActiveOrHistoricCurrencyAndAmount_*`, `ISODateTime`; `domain.md` §5.2.
"""

import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Final, NewType

ConsentId = NewType("ConsentId", str)  # text 1..128; a UUID only in what we make ourselves (D-12)
AccountId = NewType("AccountId", str)  # text 1..40
Slug = NewType("Slug", str)  # our short name of an LFI

UAE: Final = timezone(timedelta(hours=4))
"""Gulf Standard Time: an instant without an offset is read as this, and a booking's local date is counted in it."""

MONEY_PLACES: Final = 5
_MONEY_LIMIT: Final = Decimal(10) ** 13
_INSTANT_WITHOUT_COLON: Final = re.compile(r"([+-]\d{2})(\d{2})$")


def read_money(text: str | int | Decimal) -> Decimal:
    """An unsigned amount: at most 13 digits before the point and 5 after it.

    Raises:
        ValueError: not such a number.  The message does not repeat the amount.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise ValueError("Amount: not a decimal number") from None
    if not amount.is_finite() or amount < 0 or amount >= _MONEY_LIMIT:
        raise ValueError("Amount: outside 0 .. 9999999999999.99999")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MONEY_PLACES:
        raise ValueError("Amount: more than 5 digits after the point")
    return amount


def signed(amount: Decimal, indicator: str) -> Decimal:
    """The amount with its sign: a `Debit` is negative (trap 20)."""
    return -amount if indicator == "Debit" else amount


def read_instant(text: str) -> tuple[datetime, bool]:
    """An instant in UTC, and whether the bank left out the offset.

    Reads `Z`, `+04:00`, `+0400` and fractions; without an offset it is UAE time, which the caller flags.

    Raises:
        ValueError: not an ISO 8601 date-time, or one that is before the year 1 or after 9999 in UTC, as the
            `0001-01-01T00:00:00` that some systems write for "none" is when it is UAE time.
    """
    moment = datetime.fromisoformat(_INSTANT_WITHOUT_COLON.sub(r"\1:\2", text) if "T" in text else text)
    try:
        if moment.tzinfo is None:
            return moment.replace(tzinfo=UAE).astimezone(UTC), True
        return moment.astimezone(UTC), False
    except OverflowError:
        raise ValueError("instant: lies outside the years 1 to 9999 in UTC") from None


def write_instant(moment: datetime) -> str:
    """An instant as we send it: UTC, whole seconds, `Z`.

    Raises:
        ValueError: a naive instant.
    """
    if moment.tzinfo is None:
        raise ValueError("instant: has no time zone")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def local_date(moment: datetime) -> date:
    """The calendar date of an instant in the UAE."""
    return moment.astimezone(UAE).date()
