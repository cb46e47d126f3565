"""Begin no call any more once the process stops, and send away who waits for a place.

A call may wait for its place at an LFI longer than a shutdown lasts.  `LastCalls` stands before the limits of an LFI:
whoever waits there when the process stops gets a `StoppingError`, and nothing is sent.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import TypeVar

from syncworker.errors import StoppingError
from syncworker.lfi.traffic import Traffic
from syncworker.lfi.transport import Call
from syncworker.standard.operations import OperationClass

T = TypeVar("T")


class Door:
    """Open until the process stops.  Lives on one event loop.

    Attributes:
        shut: set when it stops; for loops that look between two steps.
    """

    def __init__(self) -> None:
        self.shut = asyncio.Event()
        self._waiting: set[asyncio.Timeout] = set()

    def close(self) -> None:
        """Send away who waits, and let nobody in any more; a second call changes nothing."""
        if self.shut.is_set():
            return
        self.shut.set()
        now = asyncio.get_running_loop().time()
        for wait in self._waiting:
            wait.reschedule(now)

    def check(self) -> None:
        """Pass while it is open.

        Raises:
            StoppingError: the process stops.
        """
        if self.shut.is_set():
            raise StoppingError("the process is stopping")

    async def through(self, waiting: Awaitable[T]) -> T:
        """Await something, while the door is open.

        Raises:
            StoppingError: the process stops; the wait was given up.
        """
        if self.shut.is_set() and asyncio.iscoroutine(waiting):
            waiting.close()
        self.check()
        try:
            async with asyncio.timeout(None) as wait:
                self._waiting.add(wait)
                try:
                    return await waiting
                finally:
                    self._waiting.discard(wait)
        except TimeoutError:
            if wait.expired():
                raise StoppingError("the process is stopping") from None
            raise


class LastCalls:
    """One LFI's limits, until the process stops (`lfi.traffic.Traffic`)."""

    def __init__(self, limits: Traffic, door: Door) -> None:
        self._limits = limits
        self._door = door

    def admit(self, operations: OperationClass) -> Awaitable[None] | None:
        """As the limits say.

        Raises:
            StoppingError: the process stops; also from the wait.
        """
        self._door.check()
        waiting = self._limits.admit(operations)
        return None if waiting is None else self._door.through(waiting)

    def may_retry(self) -> bool:
        return not self._door.shut.is_set() and self._limits.may_retry()

    def note(self, call: Call, headers: Mapping[str, str]) -> None:
        self._limits.note(call, headers)
