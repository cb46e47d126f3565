"""Time by hand."""

from datetime import UTC, datetime, timedelta


class ManualClock:
    """A `Clock` that stands still until a test moves it; it begins at the present second unless told."""

    def __init__(self, start: datetime | None = None) -> None:
        moment = datetime.now(UTC).replace(microsecond=0) if start is None else start
        if moment.tzinfo is None:
            raise ValueError("start: has no time zone")
        self._now = moment.astimezone(UTC)

    def now(self) -> datetime:
        return self._now

    def advance(
        self,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        milliseconds: float = 0,
    ) -> datetime:
        """Move on and return the new instant."""
        step = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        if step < timedelta(0):
            raise ValueError("time does not run backwards here; use `set`")
        self._now += step
        return self._now

    def set(self, moment: datetime) -> None:
        """Jump to an instant, back as well."""
        self._now = moment.astimezone(UTC)
