"""Ask the Hub for each consent as often as its state deserves, and not when it was heard of anyway.

Each consent that may still move has one row of work (`WorkKind.CONSENT`).  `next_look` is the cadence: a table by
state, a pure function.  Every token answer carries the consent, so a consent whose token is refreshed by schedule is
hardly ever asked for: a look that finds it fresh costs no call.  A consent whose end has come is ended by the clock.

Source: `domain.md` §4.1, §4.3; `design.md` §12 "consent poll".
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog
import xxhash

from syncworker.consents.erasing import Retention, keep_no_longer
from syncworker.consents.lifecycle import Lifecycle, rest
from syncworker.consents.revoking import Revoking
from syncworker.standard.consents import Status
from syncworker.standard.values import ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim

ABANDONED: Final = "authorization_abandoned"
"""Why a consent nobody ever decided about is not asked for any more."""

SPREAD: Final = 0.1
"""Looks come up to this share of their cadence early, by the ConsentId: what began together does not stay together."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """How often the Hub is asked, by state.

    Attributes:
        authorized: also of a paused one; each token answer counts as a look.
        suspended_first, suspended_first_for: quickly at first, since most blocks are short …
        suspended: … and slowly after that; of a state the standard does not know, too.
        awaiting_first, awaiting_first_for: while the user is probably still at the bank's page …
        awaiting, awaiting_for: … then slowly, while further authorisers are asked; after that it is abandoned.
    """

    authorized: timedelta = timedelta(hours=1)
    suspended_first: timedelta = timedelta(minutes=15)
    suspended_first_for: timedelta = timedelta(days=1)
    suspended: timedelta = timedelta(hours=1)
    awaiting_first: timedelta = timedelta(minutes=2)
    awaiting_first_for: timedelta = timedelta(minutes=30)
    awaiting: timedelta = timedelta(hours=1)
    awaiting_for: timedelta = timedelta(days=1)


def next_look(consent: StoredConsent, *, now: datetime, cadence: Cadence) -> datetime | None:
    """When to look at a consent again; `None` when it has ended, or was never decided about.

    Never after its `ExpirationDateTime`: at that instant the clock ends it, whatever the Hub says.
    """
    if consent.terminal or abandoned(consent, now=now, cadence=cadence):
        return None
    every = _every(consent, now=now, cadence=cadence)
    early = SPREAD * (xxhash.xxh3_64_intdigest(consent.consent_id.encode()) / 2**64)
    look = consent.status_seen_at + every * (1 - early)
    return min(look, consent.expires_at) if consent.status in {Status.Authorized, Status.Suspended} else look


def abandoned(consent: StoredConsent, *, now: datetime, cadence: Cadence) -> bool:
    """Whether nobody decided about it for so long that nobody will."""
    return consent.status == Status.AwaitingAuthorization and now >= consent.created_at + cadence.awaiting_for


def _every(consent: StoredConsent, *, now: datetime, cadence: Cadence) -> timedelta:
    match consent.status:
        case Status.Authorized:
            return cadence.authorized
        case Status.AwaitingAuthorization:
            young = now < consent.created_at + cadence.awaiting_first_for
            return cadence.awaiting_first if young else cadence.awaiting
        case _:
            since = consent.status_updated_at or consent.status_seen_at
            return cadence.suspended_first if now < since + cadence.suspended_first_for else cadence.suspended


class Polling:
    """Looks at one consent per claim.  Lives on one event loop.

    Args:
        lifecycle: asks the Hub and files what it says.
        revoking: brings our own revocations to the Hub.
        retention: how long what a consent brought stays after its end.
    """

    def __init__(
        self, store: Store, lifecycle: Lifecycle, revoking: Revoking, *, cadence: Cadence, retention: Retention
    ) -> None:
        self._store = store
        self._lifecycle = lifecycle
        self._revoking = revoking
        self._cadence = cadence
        self._retention = retention

    async def look(self, claim: Claim) -> tuple[datetime | None, str]:
        """Look at the consent of a claim; says when to look again, and what was done in one word.

        Raises:
            TransientError, RefusedError, StandardViolationError, SetupError: the Hub gave no answer we could file.
        """
        consent_id = ConsentId(claim.subject)
        held, now = await self._held(consent_id)
        if held is None:
            return None, "erased"
        if held.revoke_asked_at is not None and not held.terminal:
            held = await self._revoking.send(held)
            return self._after(held, now, "revoked" if held.terminal else "revocation_sent")
        if held.terminal:
            keep = partial(keep_no_longer, held=held, retention=self._retention)
            return await self._store.atomically(keep), "ended"
        if abandoned(held, now=now, cadence=self._cadence):
            await self._store.atomically(partial(self._abandon, held))
            return None, ABANDONED
        if now >= held.expires_at and await self._lifecycle.end_overdue(consent_id):
            return None, "ended_by_clock"
        due = next_look(held, now=now, cadence=self._cadence)
        if due is not None and due > now and not claim.asked:
            return due, "fresh"
        before = held.status
        held = await self._lifecycle.ask(consent_id)
        return self._after(held, now, "asked" if held.status == before else "moved")

    def _after(self, held: StoredConsent, now: datetime, outcome: str) -> tuple[datetime | None, str]:
        return next_look(held, now=now, cadence=self._cadence), outcome

    async def _held(self, consent_id: ConsentId) -> tuple[StoredConsent | None, datetime]:
        async with self._store.reading() as unit:
            return await unit.consents.get(consent_id), await unit.now()

    async def _abandon(self, held: StoredConsent, unit: UnitOfWork) -> None:
        at = await unit.now()
        await unit.consents.set_needs_consent(held.consent_id, ABANDONED)
        await unit.consents.note(ABANDONED, subject=held.consent_id, facts={}, at=at)
        await rest(unit, consent_id=held.consent_id, connection_id=held.connection_id, lfi=held.lfi)
