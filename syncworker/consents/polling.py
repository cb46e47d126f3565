"""Ask the Hub for each consent as often as its state deserves, and not when it was heard of anyway.

Each consent that may still move has one row of work (`WorkKind.CONSENT`).  `next_look` is the cadence: a table by
state, a pure function.  Every token answer carries the consent, so a consent whose token is refreshed by schedule is
hardly ever asked for: a look that finds it fresh costs no call.  A consent whose end has come is ended by the clock.

What the Hub has to be told (a revocation, a switched subscription) is told by a look, too.  And one look a night is a
comparison (`reconciling`), fresh or not: each connection has its own minute of the night.

Source: `domain.md` §4.1, §4.3; `design.md` §12 "consent poll".
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog
import xxhash

from syncworker.consents.authorize import give_up_not_held, not_held
from syncworker.consents.erasing import Retention, keep_no_longer
from syncworker.consents.lifecycle import ABANDONED, Lifecycle, ended_unknown, rest
from syncworker.consents.reconciling import Reconciling
from syncworker.consents.revoking import Revoking
from syncworker.consents.subscribing import Subscribing
from syncworker.errors import RefusedError
from syncworker.standard.calendar import shifted
from syncworker.standard.consents import Status
from syncworker.standard.values import UAE, ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim

SPREAD: Final = 0.1
"""Looks come up to this share of their cadence early, by the ConsentId: what began together does not stay together."""

NIGHT_BEGINS: Final = datetime(2020, 1, 1, 1, tzinfo=UAE)
"""An hour past midnight where the customers are; the grid of comparisons begins at this one …"""
NIGHT: Final = timedelta(hours=4)
"""… and each connection has its place in so long a time."""

REVOKING_FIRST: Final = timedelta(minutes=5)
"""At most so long until a revocation that failed is tried again …"""
REVOKING_FIRST_FOR: Final = timedelta(days=1)
"""… for so long; after that as often as the consent's state deserves a look."""

NOT_FOUND: Final = 404

Astray = Callable[[ConsentId], Awaitable[tuple[datetime | None, str]]]
"""Looks at a consent we only asked for; says when to look again, and what was done."""

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
        compared: from one complete comparison of a connection with the Hub to the next, counted in nights.
    """

    authorized: timedelta = timedelta(hours=1)
    suspended_first: timedelta = timedelta(minutes=15)
    suspended_first_for: timedelta = timedelta(days=1)
    suspended: timedelta = timedelta(hours=1)
    awaiting_first: timedelta = timedelta(minutes=2)
    awaiting_first_for: timedelta = timedelta(minutes=30)
    awaiting: timedelta = timedelta(hours=1)
    awaiting_for: timedelta = timedelta(days=1)
    compared: timedelta = timedelta(days=1)


def next_look(consent: StoredConsent, *, now: datetime, cadence: Cadence) -> datetime | None:
    """When to look at a consent again; `None` when it has ended, or was never decided about.

    Never after its `ExpirationDateTime`: at that instant the clock ends it, whatever the Hub says.
    """
    if consent.terminal or abandoned(consent, now=now, cadence=cadence):
        return None
    every = _every(consent, now=now, cadence=cadence)
    look = shifted(consent.status_seen_at, every * (1 - SPREAD * _phase(consent.consent_id)))
    return min(look, consent.expires_at) if consent.status in {Status.Authorized, Status.Suspended} else look


def next_comparison(consent: StoredConsent, *, cadence: Cadence) -> datetime:
    """When a consent is due for a comparison: the first place of its connection in the nights since the last one."""
    place = NIGHT_BEGINS + NIGHT * _phase(consent.connection_id)
    since = consent.compared_at or consent.created_at
    return shifted(place, cadence.compared * ((since - place) // cadence.compared + 1))


def _phase(subject: str) -> float:
    """The place of a subject in a spread, in [0, 1)."""
    return xxhash.xxh3_64_intdigest(subject.encode()) / 2**64


def abandoned(consent: StoredConsent, *, now: datetime, cadence: Cadence) -> bool:
    """Whether nobody decided about it for so long that nobody will."""
    return consent.status == Status.AwaitingAuthorization and now >= shifted(consent.created_at, cadence.awaiting_for)


def _every(consent: StoredConsent, *, now: datetime, cadence: Cadence) -> timedelta:
    match consent.status:
        case Status.Authorized:
            return cadence.authorized
        case Status.AwaitingAuthorization:
            young = now < shifted(consent.created_at, cadence.awaiting_first_for)
            return cadence.awaiting_first if young else cadence.awaiting
        case _:
            since = consent.status_updated_at or consent.status_seen_at
            return cadence.suspended_first if now < shifted(since, cadence.suspended_first_for) else cadence.suspended


class Polling:
    """Looks at one consent per claim.  Lives on one event loop.

    Args:
        lifecycle: asks the Hub and files what it says.
        revoking: brings our own revocations to the Hub.
        subscribing: brings switched subscriptions to the Hub; without it they wait.
        reconciling: makes the nightly comparisons; without it there are none.
        retention: how long what a consent brought stays after its end.
        astray: sees to consents that were asked for and of which nothing is held (`Authorizer.astray`).
    """

    def __init__(
        self,
        store: Store,
        lifecycle: Lifecycle,
        revoking: Revoking,
        *,
        cadence: Cadence,
        retention: Retention,
        subscribing: Subscribing | None = None,
        reconciling: Reconciling | None = None,
        astray: Astray | None = None,
    ) -> None:
        self._astray = astray
        self._subscribing = subscribing
        self._reconciling = reconciling
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
            return (None, "erased") if self._astray is None else await self._astray(consent_id)
        if held.terminal:
            return await self._kept(held), "ended"
        if now >= held.expires_at and await self._lifecycle.end_overdue(consent_id):
            held, now = await self._held(consent_id)
            return None if held is None else await self._kept(held), "ended_by_clock"
        if held.revoke_asked_at is not None:
            return await self._revoke(held, now)
        if await self._not_held(held):
            return now, "not_held"
        if abandoned(held, now=now, cadence=self._cadence):
            await self._store.atomically(partial(self._abandon, held))
            return None, ABANDONED
        if held.webhook_wanted is not None and self._subscribing is not None:
            return await self._after(await self._subscribing.send(held), now, "subscription_told")
        if self._reconciling is not None and now >= next_comparison(held, cadence=self._cadence):
            return await self._compare(held, now, self._reconciling)
        due = self._next(held, now)
        if due is not None and due > now and not claim.asked:
            return due, "fresh"
        before = held.status
        held = await self._lifecycle.ask(consent_id)
        return await self._after(held, now, "asked" if held.status == before else "moved")

    async def _revoke(self, held: StoredConsent, now: datetime) -> tuple[datetime | None, str]:
        """Tell the Hub; what it has not known for a day, and nobody decided about, has ended without it."""
        try:
            return await self._after(await self._revoking.send(held), now, "revoked")
        except RefusedError as error:
            asked_at = held.revoke_asked_at or now
            undecided = held.status == Status.AwaitingAuthorization and now >= asked_at + REVOKING_FIRST_FOR
            if error.status != NOT_FOUND or not undecided:
                raise
        await self._store.atomically(partial(self._end_unknown, held.consent_id))
        return now, "unknown_there"

    async def _end_unknown(self, consent_id: ConsentId, unit: UnitOfWork) -> None:
        held = await unit.consents.get(consent_id, lock=True)
        if held is not None and held.status == Status.AwaitingAuthorization:
            await ended_unknown(unit, held, at=await unit.now())

    async def _not_held(self, held: StoredConsent) -> bool:
        """Have a consent in use revoked whose tokens never came home; says whether it was."""
        async with self._store.reading() as unit:
            if await not_held(unit, held) is None:
                return False
        return await self._store.atomically(partial(give_up_not_held, consent_id=held.consent_id))

    async def patience(self, claim: Claim) -> timedelta:
        """How long a look that failed may wait for the next try: what the consent's state deserves.

        A revocation the Hub has not heard of is urgent, for a day; what has not worked by then will take a person.
        """
        held, now = await self._held(ConsentId(claim.subject))
        if held is None or held.terminal:
            return self._cadence.compared
        if held.revoke_asked_at is not None and now < held.revoke_asked_at + REVOKING_FIRST_FOR:
            return REVOKING_FIRST
        return _every(held, now=now, cadence=self._cadence)

    async def _compare(self, held: StoredConsent, now: datetime, by: Reconciling) -> tuple[datetime | None, str]:
        """The comparison of the consent's whole connection; its other consents are done with it for the night."""
        found = await by.connection(held.connection_id, ended=False)
        if found.unanswered:
            raise found.unanswered[0].error
        after, _ = await self._held(held.consent_id)
        if after is None:
            return None, "erased"
        return await self._after(after, now, "drifted" if found.differences else "compared")

    async def _after(self, held: StoredConsent, now: datetime, outcome: str) -> tuple[datetime | None, str]:
        """The end of a look that asked: counted from now, also where the Hub's word was older than ours."""
        if held.terminal:
            return await self._kept(held), outcome
        return self._next(replace(held, status_seen_at=max(held.status_seen_at, now)), now), outcome

    def _next(self, held: StoredConsent, now: datetime) -> datetime | None:
        look = next_look(held, now=now, cadence=self._cadence)
        if look is None or self._reconciling is None:
            return look
        return min(look, next_comparison(held, cadence=self._cadence))

    async def _kept(self, held: StoredConsent) -> datetime | None:
        """Destroy what an ended consent's data stayed long enough; when more of it will have."""
        return await self._store.atomically(partial(keep_no_longer, held=held, retention=self._retention))

    async def _held(self, consent_id: ConsentId) -> tuple[StoredConsent | None, datetime]:
        async with self._store.reading() as unit:
            return await unit.consents.get(consent_id), await unit.now()

    async def _abandon(self, held: StoredConsent, unit: UnitOfWork) -> None:
        at = await unit.now()
        await unit.consents.set_needs_consent(held.consent_id, ABANDONED)
        await unit.consents.note(ABANDONED, subject=held.consent_id, facts={}, at=at)
        await rest(unit, consent_id=held.consent_id, connection_id=held.connection_id, lfi=held.lfi)
