"""Decide when something is due next.

In: instants, ids, counts.  Out: instants.  No I/O, no clock of its own.
The rule that matters: what belongs to many consents never shares an instant.  A consent's place in the spread is a
hash of its id, so it is the same on every machine and after every restart (`reliability.md` rule 22).
"""

from datetime import datetime, timedelta
from typing import Final

import xxhash

from syncworker.consents.tokens import MARGIN_MAX, MARGIN_SHARE
from syncworker.standard.calendar import shifted, span

RETRY_LADDER: Final = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
)
"""Waits after the first, second … bad end in a row; the last one repeats."""

RETRY_AFTER_MAX: Final = timedelta(hours=6)
"""How far an LFI's `Retry-After` may push us away."""

TOKEN_DUE: Final = 0.75
"""Share of a token's life after which its refresh is due …"""
TOKEN_SPREAD: Final = 0.10
"""… give or take this share of its life, by the ConsentId."""


def phase(subject: str) -> float:
    """The place of a subject in any spread: evenly distributed in [-1, 1), always the same for the same subject."""
    return xxhash.xxh3_64_intdigest(subject.encode()) / 2**63 - 1


def next_run_at(*, last_run_at: datetime | None, every: timedelta, now: datetime) -> datetime:
    """When a step should run next: at once if it never ran, never in the past."""
    return now if last_run_at is None else max(now, shifted(last_run_at, every))


def spread(moment: datetime, subject: str, *, over: timedelta) -> datetime:
    """A subject's own instant within `over` from a common one on, never before it."""
    return shifted(moment, over * ((phase(subject) + 1) / 2))


def token_margin(life: timedelta) -> timedelta:
    """How long before its expiry a token no longer counts as alive: 60 s, for short lives 15 % (rule 23)."""
    return max(timedelta(), min(MARGIN_MAX, life * MARGIN_SHARE))


def token_due_at(
    consent_id: str, issued_at: datetime, expires_at: datetime, *, headroom: timedelta = timedelta()
) -> datetime:
    """When a scheduled refresh is due: at 75 % ± 10 % of the token's life, never inside the margin before its expiry.

    Args:
        issued_at: when the answer arrived.
        expires_at: `issued_at + expires_in` of that answer.
        headroom: what passes between due and begun, as a tick; matters for lives of seconds only.
    """
    life = max(timedelta(), expires_at - issued_at)
    due_at = shifted(issued_at, life * (TOKEN_DUE + TOKEN_SPREAD * phase(consent_id)))
    latest = shifted(expires_at, -token_margin(life) - headroom)
    return max(issued_at, min(due_at, latest))


def retry_delay(attempts: int) -> timedelta:
    """How long to wait after a bad end: 1, 5, 30 minutes, 2 hours, then every 6 hours.

    Args:
        attempts: bad ends in a row, this one included; anything below 1 counts as 1.
    """
    return RETRY_LADDER[min(max(attempts, 1), len(RETRY_LADDER)) - 1]


def retry_at(attempts: int, *, subject: str, now: datetime, retry_after: float | None = None) -> datetime:
    """When to try again after a bad end: by the ladder ± 10 %, and not before the LFI's own `Retry-After` (capped).

    Args:
        retry_after: seconds, as the LFI said; `None` when it did not.
    """
    delay = retry_delay(attempts) * (1 + 0.1 * phase(subject))
    asked = min(span(seconds=max(0.0, retry_after or 0.0)), RETRY_AFTER_MAX)
    return shifted(now, max(delay, asked))
