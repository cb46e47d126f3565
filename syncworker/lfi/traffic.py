"""What a client asks before a call and tells after it: the seam to limits, gate and breaker.

The client knows one LFI; what all workers together may do to it is decided above (`schedule.traffic`).
"""

from collections.abc import Awaitable, Mapping
from typing import Protocol

from syncworker.lfi.transport import Call
from syncworker.standard.operations import OperationClass


class Traffic(Protocol):
    """One LFI's limits."""

    def admit(self, operations: OperationClass) -> Awaitable[None] | None:
        """Let a call of this class through.

        Returns:
            `None`: it may start now.  Else what ends when it may; the wait is the caller's to bound.

        Raises:
            GateClosedError: the LFI asked us to wait (429).  Each of these also from the wait.
            LFIBreakerOpenError: calls of this class are kept back after too many that got no answer.
        """
        ...

    def may_retry(self) -> bool:
        """Whether one more short retry fits the budget; counts it when it does."""
        ...

    def note(self, call: Call, headers: Mapping[str, str]) -> None:
        """Hear how one attempt ended.

        Args:
            headers: of the answer, names in lower case; empty when none came.
        """
        ...


class FreeTraffic:
    """No limits: for one-off calls and tests."""

    def admit(self, operations: OperationClass) -> Awaitable[None] | None:
        """At once."""
        return None

    def may_retry(self) -> bool:
        """Always."""
        return True

    def note(self, call: Call, headers: Mapping[str, str]) -> None:
        """Forgotten."""
