"""Compare this host's clock with everybody's: each LFI's `Date` header, the database's time.

A clock that is wrong is a fault of its own (`design.md` §12): assertions are refused as expired or not yet valid,
leases and token lives are misjudged.  One comparison is two instants of ours, before and after, and one of theirs in
between; it bounds how far the clocks are apart, and the narrowest of an hour counts.  Comparisons come with the answers
we get anyway; only an LFI that was not heard for an hour is asked for its discovery document.  Our clock and the
database's are compared all the time, and all comparisons are made anew when these two move apart, or together again.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from syncworker.standard.calendar import http_date, shifted, span
from syncworker.store.clocks import DATABASE, OFFSET_MAX, ClockOffset
from syncworker.store.unit_of_work import Store

COMPARED_EVERY: Final = timedelta(hours=1)
ASKED_AGAIN: Final = timedelta(minutes=10)
"""An LFI that did not answer when it was asked for its time is left alone for so long."""

DATE_STEP: Final = timedelta(seconds=1)
"""A `Date` header counts whole seconds, cut off."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Bounds of a peer's clock less ours, from one exchange."""

    low: timedelta
    high: timedelta

    @property
    def offset(self) -> timedelta:
        return (self.low + self.high) / 2

    @property
    def within(self) -> timedelta:
        return (self.high - self.low) / 2


def compare(sent: datetime, received: datetime, *, said: datetime, step: timedelta = timedelta()) -> Comparison:
    """Bounds of the peer's clock less ours.

    Args:
        sent, received: our instants around the exchange.
        said: the peer's instant, read somewhere in between, cut off to a multiple of `step`.
    """
    return Comparison(low=said - received, high=shifted(said, step) - sent)


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """The instant an answer was made by its maker's clock; `None` when it does not say, or a cache answered.

    Args:
        headers: names in lower case.
    """
    if headers.get("age", "0").strip() not in {"", "0"}:
        return None
    return http_date(headers.get("date", ""))


class ClockWatch:
    """Keeps the narrowest comparison with each peer, and files them once an hour.  Lives on one event loop."""

    def __init__(self, host: str) -> None:
        """Knows nothing yet.

        Args:
            host: whose clock it is that is compared.
        """
        self._host = host
        self._best: dict[str, Comparison] = {}
        self._quickest: dict[str, float] = {}
        """Seconds of the exchange behind the best comparison: the less one took, the more it says."""
        self._filed_at: dict[str, datetime] = {}
        self._asked_at: dict[str, datetime] = {}
        self._wrong: bool | None = None
        """Whether our clock and the database's were apart when last compared; `None`: never compared."""

    def note(self, peer: str, *, sent: datetime, took_s: float, headers: Mapping[str, str]) -> None:
        """Take an answer's `Date`, unless a narrower comparison is there already.

        Args:
            sent: by our clock.
            took_s: from then to the last byte.
        """
        if took_s >= self._quickest.get(peer, math.inf):
            return  # nearly always
        said = date_of(headers)
        if said is not None:
            self._quickest[peer] = took_s
            self._best[peer] = compare(sent, shifted(sent, span(seconds=took_s)), said=said, step=DATE_STEP)

    def unheard(self, peers: Iterable[str], *, now: datetime) -> list[str]:
        """Peers to ask now: neither compared lately, nor heard since, nor asked a moment ago."""
        asked = [
            peer
            for peer in peers
            if peer not in self._best
            and self._is_due(peer, now)
            and now - self._asked_at.get(peer, now - ASKED_AGAIN) >= ASKED_AGAIN
        ]
        self._asked_at |= dict.fromkeys(asked, now)
        return asked

    async def file(self, store: Store, *, now: datetime, sent: datetime, database: datetime) -> list[ClockOffset]:
        """File what is new of the last hour, compare with the database, and say what is wrong.

        Args:
            now: by our clock, when the database had answered.
            sent: by our clock, before the database was asked.
            database: what it answered.

        Returns:
            What was filed.

        Raises:
            StoreUnavailableError: nothing was filed; it is tried again with the next call.
        """
        ours = compare(sent, now, said=database)
        self._look_for_a_jump(ours)
        known = self._best | {DATABASE: ours}
        measured = [
            ClockOffset(host=self._host, peer=peer, offset=found.offset, within=found.within, measured_at=database)
            for peer, found in sorted(known.items())
            if self._is_due(peer, now)
        ]
        if measured:
            await store.atomically(lambda unit: unit.clocks.keep(measured))
        for one in measured:
            self._filed_at[one.peer] = now
            self._best.pop(one.peer, None)
            self._quickest.pop(one.peer, None)
            if one.wrong:
                log.warning(
                    "clocks are apart",
                    host=one.host,
                    peer=one.peer,
                    offset_s=round(one.offset.total_seconds(), 1),
                    more_than_s=OFFSET_MAX.total_seconds(),
                )
        return measured

    def _look_for_a_jump(self, ours: Comparison) -> None:
        """Compare with everybody anew, now, when our clock has left the database's by too much, or has come back."""
        if abs(ours.offset) + ours.within <= OFFSET_MAX:
            wrong = False
        elif abs(ours.offset) - ours.within > OFFSET_MAX:
            wrong = True
        else:
            return  # measured too loosely to say
        if self._wrong is not None and wrong is not self._wrong:
            for kept in (self._filed_at, self._asked_at, self._best, self._quickest):
                kept.clear()
        self._wrong = wrong

    def _is_due(self, peer: str, now: datetime) -> bool:
        filed = self._filed_at.get(peer)
        return filed is None or now - filed >= COMPARED_EVERY
