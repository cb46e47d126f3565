"""How durations and instants are written for an operator."""

from datetime import datetime, timedelta


def span(length: timedelta) -> str:
    """A duration in its two largest units: `3 d 4 h`, `2 min 5 s`, `180 ms`, `0 s`."""
    if timedelta(0) < length < timedelta(seconds=1):
        return f"{length // timedelta(milliseconds=1)} ms"
    seconds = int(length.total_seconds())
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    parts = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}")
    return sign + (" ".join(parts[:2]) or "0 s")


def instant(moment: datetime) -> str:
    """An instant in UTC, to the second: `2026-12-03 00:47:02Z`."""
    return f"{moment.replace(tzinfo=None).isoformat(' ', 'seconds')}Z"


def several(count: int, one: str, many: str = "") -> str:
    """A count with its noun: `1 connection`, `1,388 connections`."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
