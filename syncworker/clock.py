"""The only module that asks the computer for the time.

Pure functions take `now`; parts that act take a `Clock`.  Instants are aware and UTC.  Between machines the
database's clock arbitrates (`store.dialect`); a process's own clock decides only about its own deadlines.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

T = TypeVar("T")


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


def in_time(work: Callable[[], T], *, within: float) -> T:
    """Run a blocking check in a thread of its own and leave it behind when it takes too long.

    Args:
        within: seconds.

    Raises:
        TimeoutError: it has not come back.
    """
    came: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            came.append(work())
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="syncworker-check", daemon=True)
    thread.start()
    thread.join(within)
    if thread.is_alive():
        raise TimeoutError
    if failed:
        raise failed[0]
    return came[0]
