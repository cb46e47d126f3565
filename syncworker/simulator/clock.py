"""The bank's own clock, which a test may move.

The bank lives by this clock: lifetimes of tokens, codes and consents, booking times, the log.  Whether a JWT is fresh
is also accepted by the unmoved clock, because a client does not live by ours (`readings`).
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta


def _computer() -> datetime:
    return datetime.now(UTC)


class BankClock:
    """A clock with an offset.

    Args:
        source: where the time comes from; aware instants.  The computer's clock unless given.
    """

    def __init__(self, source: Callable[[], datetime] = _computer) -> None:
        self._source = source
        self.offset = timedelta()

    def now(self) -> datetime:
        """The bank's present instant, aware, UTC."""
        return self._source().astimezone(UTC) + self.offset

    def readings(self) -> tuple[datetime, ...]:
        """The instants by which a JWT may be fresh: the bank's, and the unmoved one beside it when they differ."""
        now = self._source().astimezone(UTC)
        return (now + self.offset, now) if self.offset else (now,)

    def advance(self, by: timedelta) -> datetime:
        """Move the clock and tell the new time; negative moves back."""
        self.offset += by
        return self.now()
