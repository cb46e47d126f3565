"""How old what we show is, whether that is older than it should be, and why.

Three times are never one: `as_of_bank` is when the LFI says a balance was so, `checked_at` when we last saw the
listing whole, `changed_at` when it last differed.  Freshness is about `checked_at`: a listing is stale when it is older
than its cadence and a margin.  The reason is the first that holds, from what only the user can mend to what time mends.

Pure: values in, values out.  `questions` collects what it needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from syncworker.standard.consents import Status


class StaleReason(StrEnum):
    """Why a listing is older than it should be."""

    REVOKED = "revoked"
    """The consent ended by revocation; nothing is read any more."""
    EXPIRED = "expired"
    """The consent ended by time; nothing is read any more."""
    NEEDS_CONSENT = "needs_consent"
    """The user has to consent again."""
    PAUSED = "paused"
    """Paused on our side."""
    SUSPENDED = "suspended"
    """The Hub suspended the consent."""
    REFUSED = "refused"
    """The LFI refuses this listing."""
    LFI_DOWN = "lfi_down"
    """The LFI does not answer: calls are kept back until it does."""
    GATED = "gated"
    """The LFI asked for fewer calls (429): they wait."""
    NEVER_SYNCED = "never_synced"
    """It was never read."""
    LATE = "late"
    """None of these: it waits for its turn, or failed and is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState:
    """What keeps a connection's syncs back.

    Attributes:
        status: of the consent that counts; `None`: there is none.
        lfi_down, gated: calls for data are kept back at its LFI.
    """

    status: str | None
    expires_at: datetime | None = None
    paused: bool = False
    needs_consent: bool = False
    lfi_down: bool = False
    gated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """Of one listing.

    Attributes:
        age_seconds: since `checked_at`; `None`: never read whole.
        complete_from: rows are complete from this local date on.
        error: stable code of the last fault; `None`: none.
    """

    checked_at: datetime | None
    changed_at: datetime | None
    age_seconds: int | None
    stale: bool
    stale_reason: StaleReason | None
    next_due_at: datetime | None
    complete_from: date | None
    history_complete: bool
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """As doors show it."""
        return {
            "checked_at": self.checked_at,
            "changed_at": self.changed_at,
            "age_seconds": self.age_seconds,
            "stale": self.stale,
            "stale_reason": self.stale_reason,
            "next_due_at": self.next_due_at,
            "complete_from": self.complete_from,
            "history_complete": self.history_complete,
            "error": self.error,
        }


def freshness(listing: Mapping[str, Any], state: ConnectionState, *, now: datetime, target: timedelta) -> Freshness:
    """Judge one listing.

    Args:
        listing: a row of `v_listing`.
        target: how old it may grow: its cadence times the margin.
    """
    checked_at = listing["checked_at"]
    age = None if checked_at is None else max(now - checked_at, timedelta(0))
    stale = age is None or age > target
    ended = state.status is None or state.status in _ENDED
    return Freshness(
        checked_at=checked_at,
        changed_at=listing["changed_at"],
        age_seconds=None if age is None else int(age.total_seconds()),
        stale=stale,
        stale_reason=_reason(listing, state, now=now) if stale else None,
        next_due_at=None if ended or state.paused or state.needs_consent else listing["due_at"],
        complete_from=listing["complete_from"],
        history_complete=bool(listing["history_complete"]),
        error=listing["error"],
    )


_ENDED: Final[Mapping[str, StaleReason]] = {
    Status.Revoked: StaleReason.REVOKED,
    Status.Rejected: StaleReason.REVOKED,
    Status.Consumed: StaleReason.REVOKED,
    Status.Expired: StaleReason.EXPIRED,
}


def _reason(listing: Mapping[str, Any], state: ConnectionState, *, now: datetime) -> StaleReason:
    if state.status is None:
        return StaleReason.REVOKED
    if state.status in _ENDED:
        return _ENDED[state.status]
    if state.expires_at is not None and now >= state.expires_at:
        return StaleReason.EXPIRED
    refused_until = listing["refused_until"]
    for holds, reason in (
        (state.needs_consent, StaleReason.NEEDS_CONSENT),
        (state.paused, StaleReason.PAUSED),
        (state.status == Status.Suspended, StaleReason.SUSPENDED),
        (refused_until is not None and now < refused_until, StaleReason.REFUSED),
        (state.gated, StaleReason.GATED),
        (state.lfi_down, StaleReason.LFI_DOWN),
        (listing["checked_at"] is None, StaleReason.NEVER_SYNCED),
    ):
        if holds:
            return reason
    return StaleReason.LATE
