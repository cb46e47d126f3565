"""Observation of a call never changes its outcome: the one wrapper that every observer of a call runs behind.

An observer is told of a call that has been made: the log, the clock comparison, the counters of limits and breaker, the
journal.  A fault in one of them must not take the answer away: of a token call the answer is the grant.  So this is
the one place beside the loops where any `Exception` is caught.  What was caught is counted, and told in the log once
for each observer and type of exception, without the exception's text, which may repeat what was observed.  A
cancellation and the end of the process are no `Exception` and pass.
"""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import ParamSpec, TypeVar

import structlog

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.stdlib.get_logger(__name__)


class Observer(StrEnum):
    """Every observer of calls."""

    CODE = "code"
    """Reads the error code of an answer that is no success, for the `call` table."""
    LOG = "log"
    """Writes the log line of an attempt."""
    TRAFFIC = "traffic"
    """Teaches gate, breaker and retry budget."""
    CLOCKS = "clocks"
    """Compares our clock with the `Date` header."""
    CALLS = "calls"
    """Keeps the attempt for the `call` table."""
    JOURNAL = "journal"
    """Files calls that belong to no run."""


class Observing:
    """Runs observers, and counts those that failed.

    Attributes:
        caught: how often each observer failed in this process.
    """

    def __init__(self) -> None:
        self.caught: Counter[Observer] = Counter()
        self._told: set[tuple[Observer, str]] = set()

    def tell(self, observer: Observer, observe: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call an observer; `None` when it failed."""
        try:
            return observe(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  an observer's fault must not change the outcome of what it observes
            self._note(observer, error)
            return None

    async def wait(self, observer: Observer, observing: Awaitable[T]) -> T | None:
        """Await an observer; `None` when it failed."""
        try:
            return await observing
        except Exception as error:  # noqa: BLE001  as in `tell`
            self._note(observer, error)
            return None

    def _note(self, observer: Observer, error: Exception) -> None:
        self.caught[observer] += 1
        kind = type(error).__name__
        if (observer, kind) not in self._told:
            self._told.add((observer, kind))
            with contextlib.suppress(Exception):  # the log is an observer too
                log.error("an observer of calls failed; told once", observer=observer.value, error=kind)
