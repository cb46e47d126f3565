"""Decide how much of an LFI may be used now: after a 429, after too many calls without an answer.

In: what was seen, what the tables hold, the time.  Out: values.  No I/O, no clock of its own.

The *gate* is the LFI's own word: a 429 closes the whole LFI until `Retry-After`.  The *breaker* is ours: calls of one
class are kept back when the LFI does not answer them, or does not accept us as a client.  After its wait the breaker
lets a *trial* through, one row at a time; a success closes it, a failure makes the next wait longer.  Neither goes from
nothing to everything: rate and slots grow over a ramp.

Both are rows of the database, so all workers obey one word and `status` can say it.

Source: `reliability.md` rules 31, 32; `domain.md` §2.7.
"""

from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from syncworker.errors import ClientRejectedError, LFIUnavailableError
from syncworker.lfi.oauth import is_client_fault
from syncworker.lfi.transport import Call
from syncworker.standard.operations import OperationClass, class_of
from syncworker.store.breakers import Breaker
from syncworker.store.lfis import Gate

IN_A_ROW: Final = 10
"""Failures in a row that trip it.

More than the eight connections a worker keeps by default: a load balancer that restarts cuts them all at once, and is
back for the short retries.
"""

LAST_ATTEMPTS: Final = 40
"""Or half of so many attempts: an LFI that answers one call in two is not available either."""

WINDOW_S: Final = 120.0
"""Attempts older than this count no more: ten failures in an hour are ten accidents."""

UNAVAILABLE_WAITS: Final = (
    timedelta(seconds=15),
    timedelta(seconds=30),
    timedelta(minutes=1),
    timedelta(minutes=2),
    timedelta(minutes=5),
)
"""Before each trial after one more trip in a row; the last repeats, so an LFI that came back is found in five minutes.

The first is short, since most outages are; it is three ticks, so that what is in flight has ended when the trial goes.
"""

REJECTED_WAITS: Final = (timedelta(minutes=1), timedelta(minutes=5), timedelta(minutes=15), timedelta(minutes=30))
"""The same when the LFI does not accept us: a person has to mend it, and asking often only fills its logs."""

STEADY: Final = timedelta(minutes=5)
"""A breaker that trips again within so long of its closing has not recovered: its waits go on growing."""

FIRST_SHARE: Final = 0.1
"""Of rate and slots: what is let through at the beginning of a ramp, and in a trial."""

BREAKER_RAMP: Final = timedelta(minutes=1)
GATE_RAMP_MIN: Final = timedelta(seconds=10)
GATE_RAMP_MAX: Final = timedelta(minutes=5)
"""A gate opens over as long as it was closed, within these two."""

RETRY_SHARE: Final = 0.1
"""Of an LFI's calls that may be short retries (rule 32): with a third try each, an outage would triple its load."""

RETRIES_MIN: Final = 10
"""In a window, however few calls there were: a small installation may retry at all."""

RETRY_WINDOW_S: Final = 60.0
_SLICES: Final = 6
_SLICE_S: Final = RETRY_WINDOW_S / _SLICES

REASON_LENGTH: Final = 64
_LOST: Final = frozenset({"timeout", "lost", "tls", "untrusted"})
"""Our codes for attempts that brought no whole answer (`lfi.transport.Call`)."""


# -- what one attempt says ---------------------------------------------------------------------------------------------


class Verdict(StrEnum):
    """What one attempt says about the LFI."""

    ANSWERED = "answered"
    """It answers, whatever it said: a consent's 4xx says nothing against the LFI."""
    UNAVAILABLE = "unavailable"
    """5xx, timeout, cut, or a server that is not the LFI's."""
    RATE_LIMITED = "rate_limited"
    """429: the gate's business, never the breaker's."""
    REJECTED = "rejected"
    """It does not accept us as a client: every consent would hear the same."""
    UNTOLD = "untold"
    """We left before it ended, or nobody can read what came."""


def verdict(call: Call) -> Verdict:
    """Judge one attempt."""
    if not call.error_code:
        return Verdict.ANSWERED
    if call.status == 429:
        return Verdict.RATE_LIMITED
    if call.error_code in _LOST or (call.status or 0) >= 500:
        return Verdict.UNAVAILABLE
    if call.status is None or call.error_code in ("unfit", "cancelled"):
        return Verdict.UNTOLD
    oauth_code = "" if call.error_code.startswith("http_") else call.error_code
    if call.method == "POST" and class_of(call.operation) is OperationClass.TOKEN and call.status >= 400:
        return Verdict.REJECTED if is_client_fault(call.status, oauth_code) else Verdict.ANSWERED
    return Verdict.ANSWERED


def reason_of(call: Call) -> str:
    """Why an attempt speaks against the LFI, as a stable code with the attempt's own."""
    code = ClientRejectedError.code if verdict(call) is Verdict.REJECTED else LFIUnavailableError.code
    return f"{code}:{call.error_code}"[:REASON_LENGTH]


class Window:
    """The last attempts of one class at one LFI, as one process saw them."""

    def __init__(self) -> None:
        self._attempts: deque[tuple[float, bool]] = deque(maxlen=LAST_ATTEMPTS)

    def add(self, *, at: float, failed: bool) -> bool:
        """Count one attempt.

        Args:
            at: seconds of a monotonic clock.

        Returns:
            Whether the breaker should trip.
        """
        while self._attempts and at - self._attempts[0][0] > WINDOW_S:
            self._attempts.popleft()
        self._attempts.append((at, failed))
        if not failed:
            return False
        failures = [one for _, one in self._attempts]
        in_a_row = next((count for count, one in enumerate(reversed(failures)) if not one), len(failures))
        return in_a_row >= IN_A_ROW or sum(failures) * 2 >= LAST_ATTEMPTS

    def clear(self) -> None:
        """Begin anew."""
        self._attempts.clear()


class RetryBudget:
    """Short retries of one process at one LFI, as a share of its calls over the last minute."""

    def __init__(self) -> None:
        self._calls: deque[list[int]] = deque(maxlen=_SLICES)
        self._retries: deque[list[int]] = deque(maxlen=_SLICES)

    def count(self, at: float) -> None:
        """Count one call, a first or a repeated one."""
        _count(self._calls, at)

    def spend(self, at: float) -> bool:
        """Whether one more retry fits; counts it when it does.

        Args:
            at: seconds of a monotonic clock.
        """
        if _sum(self._retries, at) + 1 > max(RETRIES_MIN, RETRY_SHARE * _sum(self._calls, at)):
            return False
        _count(self._retries, at)
        return True


def _count(slices: deque[list[int]], at: float) -> None:
    """Count one in the slice of that moment; a slice is its number and its count."""
    now = int(at / _SLICE_S)
    if slices and slices[-1][0] == now:
        slices[-1][1] += 1
    else:
        slices.append([now, 1])


def _sum(slices: deque[list[int]], at: float) -> int:
    """What was counted in the last minute; older slices go."""
    oldest = int((at - RETRY_WINDOW_S) / _SLICE_S)
    while slices and slices[0][0] <= oldest:
        slices.popleft()
    return sum(count for _, count in slices)


# -- the breaker's moves -----------------------------------------------------------------------------------------------


def tripped(
    held: Breaker | None, *, slug: str, operations: OperationClass, reason: str, now: datetime
) -> Breaker | None:
    """The breaker after a trip, or after a trial that failed.

    Returns:
        `None` when it keeps calls back already: what fails now was on its way before.
    """
    if held is not None and held.closed_at is None and now < held.until:
        return None
    again = held is not None and (held.closed_at is None or now - held.closed_at < STEADY)
    trips = held.trips + 1 if held is not None and again else 1
    began = held.opened_at if held is not None and held.closed_at is None else now
    return Breaker(
        lfi=slug,
        operations=operations,
        opened_at=began,
        until=now + wait_of(reason, trips),
        trips=trips,
        reason=reason,
        closed_at=None,
    )


def healed(held: Breaker | None, *, now: datetime) -> Breaker | None:
    """The breaker after a success; `None` when that changes nothing: it is closed, or its wait is not over.

    A success while calls are kept back was on its way before: the trial decides.
    """
    if held is None or held.closed_at is not None or now < held.until:
        return None
    return replace(held, closed_at=now)


def wait_of(reason: str, trips: int) -> timedelta:
    """How long calls are kept back after so many trips in a row."""
    waits = REJECTED_WAITS if reason.startswith(ClientRejectedError.code) else UNAVAILABLE_WAITS
    return waits[min(trips, len(waits)) - 1]


# -- how an LFI stands -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How much of one class of calls an LFI may get now.

    Attributes:
        share: of its rate and slots; 0 when nothing may be sent.
        until: nothing before this instant; `None` when something may be sent.
        gated: it is the gate that keeps calls back, else the breaker.
        trial: the breaker's wait is over, and what goes now decides.
        reason: stable code of what tripped the breaker, while it is not closed.
    """

    share: float = 1.0
    until: datetime | None = None
    gated: bool = False
    trial: bool = False
    reason: str | None = None

    def slots(self, most: int) -> int:
        """How many rows may be in work, of `most`: one in a trial, and never none on a ramp."""
        if self.until is not None:
            return 0
        return min(1, most) if self.trial else min(most, max(1, int(most * self.share)))


def standing(gate: Gate | None, breaker: Breaker | None, *, now: datetime) -> Standing:
    """How an LFI stands, from what the tables hold."""
    if gate is not None and now < gate.until:
        return Standing(share=0.0, until=gate.until, gated=True)
    share = 1.0 if gate is None else _ramp(now - gate.until, over=_gate_ramp(gate))
    if breaker is None:
        return Standing(share=share)
    if breaker.closed_at is not None:
        return Standing(share=min(share, _ramp(now - breaker.closed_at, over=BREAKER_RAMP)))
    if now < breaker.until:
        return Standing(share=0.0, until=breaker.until, reason=breaker.reason)
    return Standing(share=min(share, FIRST_SHARE), trial=True, reason=breaker.reason)


def _gate_ramp(gate: Gate) -> timedelta:
    length = timedelta() if gate.closed_at is None else gate.until - gate.closed_at
    return min(max(length, GATE_RAMP_MIN), GATE_RAMP_MAX)


def _ramp(open_for: timedelta, *, over: timedelta) -> float:
    return min(1.0, FIRST_SHARE + (1 - FIRST_SHARE) * (open_for / over))
