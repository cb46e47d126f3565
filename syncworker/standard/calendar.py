"""The ends of the calendar: the one place where a date that others gave is converted, moved or read.

Banks, callers and headers write 9999-12-31 and 0001-01-01 where they mean "no date".  Python's calendar ends there, so
a step of a day, or another offset, beyond either end raises `OverflowError`.  The rule:

    An instant or date is *clamped*.  What would lie beyond an end of the calendar is that end: `EARLIEST` or `LATEST`
    for instants, `FIRST_DAY` or `LAST_DAY` for dates.  Nothing here raises `OverflowError`.

A clamped value keeps its order with every other, which is all that windows, due times and lifetimes ask of it.  Where a
caller asks for a date that makes no sense, the caller is told instead (`fault_of_day`, `fault_of_instant`).
"""

import math
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from email.utils import parsedate_to_datetime
from typing import Final, TypeVar

UAE: Final = timezone(timedelta(hours=4))
"""Gulf Standard Time: an instant without an offset is read as this, and a booking's local date is counted in it."""

EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
LATEST: Final = datetime.max.replace(tzinfo=UTC)
FIRST_DAY: Final = date.min
LAST_DAY: Final = date.max

ASKED_FROM: Final = date(1900, 1, 1)
ASKED_TO: Final = date(2199, 12, 31)
"""Dates that a request of ours may name; outside of them a caller meant something else."""

DURATION_MAX: Final = timedelta(days=36_500)
"""The longest duration a setting may give: a hundred years."""

D = TypeVar("D", date, datetime)


def as_utc(moment: datetime) -> datetime:
    """An aware instant in UTC, clamped.

    Raises:
        ValueError: a naive instant.
    """
    return _in_zone(moment, UTC)


def within(moment: datetime, zone: tzinfo = UTC) -> bool:
    """Whether an aware instant lies within the calendar of a zone, so that nothing is clamped."""
    try:
        moment.astimezone(zone)
    except OverflowError:
        return False
    return True


def shifted(at: D, by: timedelta) -> D:
    """A date or an instant, later by a duration, or earlier by a negative one; clamped."""
    try:
        return at + by
    except OverflowError:
        beyond = by > timedelta()
    if isinstance(at, datetime):
        end = LATEST if beyond else EARLIEST
        return end if at.tzinfo is UTC else end.replace(tzinfo=at.tzinfo)
    return LAST_DAY if beyond else FIRST_DAY


def span(*, seconds: float = 0, days: float = 0) -> timedelta:
    """A duration others named, clamped to what any two instants may lie apart; of NaN none."""
    total = days * 86_400 + seconds
    if math.isnan(total):
        return timedelta()
    return timedelta(seconds=max(-_LONGEST_S, min(total, _LONGEST_S)))


def local_date(moment: datetime) -> date:
    """The calendar date of an aware instant in the UAE, clamped."""
    return _in_zone(moment, UAE).date()


def utc_date(moment: datetime) -> date:
    """The calendar date of an aware instant in UTC, clamped."""
    return _in_zone(moment, UTC).date()


def at_time(day: date, of_day: time = time(), zone: tzinfo = UTC) -> datetime:
    """The instant of a date at a time of day; by default its midnight in UTC."""
    return datetime.combine(day, of_day, zone)


def read_iso(text: str) -> datetime:
    """An ISO 8601 date-time as it stands, aware when it says an offset; its instant may lie beyond the calendar.

    Raises:
        ValueError: none.
    """
    try:
        return datetime.fromisoformat(text)
    except OverflowError as error:
        raise ValueError("not an ISO 8601 date-time") from error


def read_day(text: str) -> date:
    """An ISO 8601 date.

    Raises:
        ValueError: none.
    """
    return date.fromisoformat(text)


def http_date(text: str) -> datetime | None:
    """The instant of a header such as `Date` or `Retry-After`, in UTC, clamped; `None` when it holds none.

    Source: RFC 9110 §5.6.7.
    """
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return as_utc(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def of_epoch(seconds: float) -> datetime:
    """The instant so many seconds after 1970 began, in UTC, clamped; of NaN the epoch."""
    return shifted(datetime(1970, 1, 1, tzinfo=UTC), span(seconds=seconds))


def fault_of_day(day: date) -> str:
    """What is wrong with a date that a caller asks for, with the fix; empty when nothing is."""
    if ASKED_FROM <= day <= ASKED_TO:
        return ""
    return f"lies outside {ASKED_FROM} to {ASKED_TO}; give the date that is meant, or leave it out for no limit"


def fault_of_instant(moment: datetime) -> str:
    """What is wrong with an instant that a caller gives, with the fix; empty when nothing is."""
    if ASKED_FROM <= utc_date(moment) <= ASKED_TO:
        return ""
    return f"lies outside {ASKED_FROM} to {ASKED_TO}; give the instant that is meant"


_LONGEST_S: Final = (LATEST - EARLIEST).total_seconds()


def _in_zone(moment: datetime, zone: tzinfo) -> datetime:
    """An aware instant as another offset has it, clamped."""
    offset = moment.utcoffset()
    if offset is None:
        raise ValueError("instant: has no time zone")
    try:
        return moment.astimezone(zone)
    except OverflowError:
        end = LATEST if moment.year > 1 else EARLIEST
        return end.replace(tzinfo=zone)
