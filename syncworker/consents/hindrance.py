"""Why a connection is not synced as its consent stands, in one constant word; `None` when it can be.

The words are those that `/v1` gives as `reason`.
"""

from datetime import datetime
from typing import Final

from syncworker.standard.consents import TERMINAL, Status
from syncworker.store.consents import StoredConsent

EXPIRED: Final = "expired"
REVOKED: Final = "revoked"
PAUSED: Final = "paused"
SUSPENDED: Final = "suspended"
NEEDS_CONSENT: Final = "needs_consent"

ENDED: Final = frozenset({EXPIRED, REVOKED})
"""Sharing is over."""


def hindrance(consent: StoredConsent | None, *, now: datetime) -> str | None:
    """Why the consent that data is asked with allows no call.

    Args:
        consent: `None`: the connection has none.
    """
    if consent is None:
        return NEEDS_CONSENT
    if consent.revoke_asked_at is not None:
        return REVOKED
    if consent.terminal:
        return of_status(consent.status)
    if now >= consent.expires_at:
        return EXPIRED
    if consent.paused_at is not None:
        return PAUSED
    if consent.needs_consent is not None:
        return NEEDS_CONSENT
    return None if consent.callable_at(now) else of_status(consent.status)


def of_status(status: str | None) -> str:
    """The word for a status of the Hub that allows no call."""
    if status == Status.Suspended:
        return SUSPENDED
    if status in TERMINAL:
        return EXPIRED if status == Status.Expired else REVOKED
    return NEEDS_CONSENT
