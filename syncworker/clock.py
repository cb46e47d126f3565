"""The only module that asks the computer for the time.

Pure functions take `now`; parts that act take a `Clock`.  Instants are aware and UTC.  Between machines the
database's clock arbitrates (`store.dialect`); a process's own clock decides only about its own deadlines.
"""

import time
from datetime import UTC, datetime
from typing import Final, Protocol


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> datetime:
        """The present instant, aware, UTC."""
        ...


class SystemClock:
    """The computer's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


monotonic: Final = time.monotonic
"""Seconds from an arbitrary start that never run backwards: for durations and deadlines."""
