"""What the Hub says about a consent, and what follows from it.

The status comes from three sides: we ask (`Lifecycle.ask`, client-credentials, free of charge), each token answer
carries it, and the clock ends a consent whose status lags (trap 16).  All three go through `noted` and
`ended_by_clock`, which write the status and its consequences in one transaction:

    a terminal status   destroys the tokens and takes the consent's work out of the schedule
    Authorized          makes token and sync due at once, and a look at its end (`renewal`)
    any other           stops token refresh and sync, and keeps everything (Suspended: trap 15)

Each move is followed by a look of `polling`, which knows how often a state deserves one, and what an end starts.

Source: Consent, "Consent States"; `domain.md` §4; `design.md` §7 "Consent life".
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.hindrance import NEEDS_CONSENT, hindrance
from syncworker.errors import RequestError
from syncworker.lfi.api import LFIClient
from syncworker.lfi.transport import Call
from syncworker.standard.consents import TERMINAL, ConsentView, Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.consents import Moved, StoredConsent
from syncworker.store.messages import MessageType
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind

Clients = Callable[[Slug], Awaitable[LFIClient]]
"""Gives the one client of an LFI that this process keeps; raises `SetupError` when the LFI is not known."""

OnCall = Callable[[Slug, ConsentId, Call], None]
"""Is told each HTTP call made for a consent."""

NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""Due time of work that nothing but a change of the consent will want again."""

CONSUMED: Final = "data_consent_consumed"
"""Audit: an alarm.  Only payments consume a consent; a data-sharing one never is (`domain.md` §4.1)."""

ABANDONED: Final = "authorization_abandoned"
"""Why a consent nobody decided about for a day is not asked for any more, until somebody does after all."""

UNKNOWN_THERE: Final = "consent_ended_unknown"
"""Audit: revoked here while nobody had decided, and the Hub does not know it: it ended on our word alone."""

TOKENS_DESTROYED: Final = "tokens_destroyed"
"""Why the user has to consent again where the Hub shows a consent in use that it had shown as ended."""

log = structlog.stdlib.get_logger(__name__)


def untold(_lfi: Slug, _consent_id: ConsentId, _call: Call) -> None:
    """An `OnCall` for those who keep no record of calls."""


class Lifecycle:
    """Asks the Hub about consents.

    Args:
        on_call: is told each call made.
    """

    def __init__(
        self, store: Store, clients: Clients, *, on_call: OnCall = untold, allowed: Allowed = EVERYBODY
    ) -> None:
        self._store = store
        self._clients = clients
        self._on_call = on_call
        self._allowed = allowed

    async def ask(self, consent_id: ConsentId) -> StoredConsent:
        """Ask the Hub for a consent, file what it says with all consequences, and give the consent as it stands now.

        Raises:
            RequestError: no consent of that id is held.
            NotAllowedError: the LFI or the customer is outside the allow-lists.
            TransientError, RefusedError, StandardViolationError, SetupError: the Hub gave no answer we could file.
        """
        async with self._store.reading() as unit:
            held = await unit.consents.get(consent_id)
        if held is None:
            raise RequestError("consent_id: no consent of that id is held")
        self._allowed.check(held.lfi, held.user_ref)
        client = await self._clients(held.lfi)
        view = await client.read_consent(
            consent_id, version=held.version, calls=lambda call: self._on_call(held.lfi, consent_id, call)
        )
        return await self._store.atomically(lambda unit: self._file(unit, view))

    async def end_overdue(self, consent_id: ConsentId) -> bool:
        """End a consent whose `ExpirationDateTime` has passed, without asking; says whether it was ended now."""

        async def step(unit: UnitOfWork) -> bool:
            held = await unit.consents.get(consent_id, lock=True)
            return held is not None and await ended_by_clock(unit, held, at=await unit.now())

        return await self._store.atomically(step)

    async def _file(self, unit: UnitOfWork, view: ConsentView) -> StoredConsent:
        at = await unit.now()
        await noted(unit, view, at=at)
        held = await unit.consents.get(view.consent_id, lock=True)
        if held is not None and await ended_by_clock(unit, held, at=at):
            held = await unit.consents.get(view.consent_id)
        if held is None:
            raise RequestError("consent_id: the consent was erased meanwhile")
        return held


async def noted(unit: UnitOfWork, view: ConsentView, *, at: datetime) -> Moved | None:
    """File a view of a consent and what follows from a move; commits nothing."""
    moved = await unit.consents.observe(view, at=at)
    if moved is not None:
        log.info("consent moved", consent_id=moved.consent_id, lfi=moved.lfi, before=moved.before, after=moved.after)
        await _follow(unit, moved, at=at)
    return moved


async def ended_by_clock(unit: UnitOfWork, held: StoredConsent, *, at: datetime) -> bool:
    """End a consent in use that is past its end while the Hub's status lags; commits nothing.

    One that was revoked here ends so from any state: a Hub that will not hear of it must not keep it alive with us.
    """
    if at < held.expires_at or held.terminal:
        return False
    if held.status not in {Status.Authorized, Status.Suspended} and held.revoke_asked_at is None:
        return False
    await unit.consents.expire(held.consent_id, at=at)
    moved = Moved(
        consent_id=held.consent_id,
        connection_id=held.connection_id,
        lfi=held.lfi,
        before=held.status,
        after=Status.Expired.value,
        surprising=False,
    )
    await unit.consents.note("consent_ended_by_clock", subject=held.consent_id, facts={"before": held.status}, at=at)
    await _follow(unit, moved, at=at)
    return True


async def ended_unknown(unit: UnitOfWork, held: StoredConsent, *, at: datetime) -> None:
    """End a consent that was revoked here before anybody decided, and that the Hub does not know; commits nothing."""
    await unit.consents.end_unknown(held.consent_id, at=at)
    moved = Moved(
        consent_id=held.consent_id,
        connection_id=held.connection_id,
        lfi=held.lfi,
        before=held.status,
        after=Status.Revoked.value,
        surprising=False,
    )
    await unit.consents.note(UNKNOWN_THERE, subject=held.consent_id, facts={"before": held.status}, at=at)
    await _follow(unit, moved, at=at)


async def rest(unit: UnitOfWork, *, consent_id: ConsentId, connection_id: ConsentId, lfi: Slug) -> None:
    """Stop a consent's token refresh, and its connection's sync unless another consent of it is callable.

    Refreshes that wait for that sync end with the reason.

    Whoever makes a consent callable schedules the sync in the same transaction.  So the sync's row is held before the
    others are looked at: a consent that is on its way in is either seen, or its sync is scheduled after this.
    """
    if await unit.work.hold(WorkKind.TOKEN, consent_id):
        await unit.work.schedule(WorkKind.TOKEN, consent_id, lfi=lfi, due_at=NEVER)
    if not await unit.work.hold(WorkKind.SYNC, connection_id):
        return
    now = await unit.now()
    others = await unit.consents.find(connection_id=connection_id)
    if not any(other.callable_at(now) for other in others if other.consent_id != consent_id):
        await unit.work.schedule(WorkKind.SYNC, connection_id, lfi=lfi, due_at=NEVER)
        rested = next((other for other in others if other.consent_id == consent_id), None)
        reason = hindrance(rested, now=now) or NEEDS_CONSENT
        await unit.refreshes.end_open(connection_id, reason=reason, at=now)


_TOLD: Final = {
    Status.Suspended.value: MessageType.CONSENT_SUSPENDED,
    Status.Revoked.value: MessageType.CONSENT_REVOKED,
    Status.Expired.value: MessageType.CONSENT_EXPIRED,
}


def _tell(unit: UnitOfWork, moved: Moved, *, at: datetime) -> None:
    """Tell the product of a move that it has to know."""
    what = _TOLD.get(moved.after)
    if moved.before == Status.Suspended and moved.after == Status.Authorized:
        what = MessageType.CONSENT_RESUMED
    if what is not None:
        facts = {"consent_id": moved.consent_id, "status": moved.after}
        unit.messages.tell(what, facts, connection_id=moved.connection_id, at=at)


def tell_needs_consent(unit: UnitOfWork, held: StoredConsent, cause: str, *, at: datetime) -> None:
    """Tell the product that the user has to consent again, and why."""
    facts = {"consent_id": held.consent_id, "cause": cause}
    unit.messages.tell(MessageType.NEEDS_CONSENT, facts, connection_id=held.connection_id, at=at)


async def _follow(unit: UnitOfWork, moved: Moved, *, at: datetime) -> None:
    _tell(unit, moved, at=at)
    if moved.ended:
        destroyed = await unit.tokens.destroy(moved.consent_id)
        facts = {"before": moved.before, "after": moved.after, "tokens_destroyed": destroyed}
        await unit.consents.note("consent_ended", subject=moved.consent_id, facts=facts, at=at)
        await rest(unit, consent_id=moved.consent_id, connection_id=moved.connection_id, lfi=moved.lfi)
        if moved.after == Status.Consumed:
            log.error("data consent consumed", consent_id=moved.consent_id, lfi=moved.lfi)
            await unit.consents.note(CONSUMED, subject=moved.consent_id, facts={"before": moved.before}, at=at)
    elif moved.after == Status.Authorized:
        await _wake(unit, moved, at=at)
        await unit.work.schedule(WorkKind.FLAG, moved.consent_id, lfi=moved.lfi, due_at=at)
    else:
        await rest(unit, consent_id=moved.consent_id, connection_id=moved.connection_id, lfi=moved.lfi)
    await unit.work.schedule(WorkKind.CONSENT, moved.consent_id, lfi=moved.lfi, due_at=at)


async def _wake(unit: UnitOfWork, moved: Moved, *, at: datetime) -> None:
    """Make token and sync due, if the consent may be called for now."""
    held = await unit.consents.get(moved.consent_id)
    with_tokens = await unit.tokens.exists(moved.consent_id)
    if held is not None and held.needs_consent == ABANDONED:
        await unit.consents.set_needs_consent(moved.consent_id, None)
        held = await unit.consents.get(moved.consent_id)
    if moved.before in TERMINAL and not with_tokens:
        await unit.consents.set_needs_consent(moved.consent_id, TOKENS_DESTROYED)
        if held is not None:
            tell_needs_consent(unit, held, TOKENS_DESTROYED, at=at)
    if held is None or not held.callable_at(at) or not with_tokens:
        return
    await unit.work.schedule(WorkKind.TOKEN, moved.consent_id, lfi=moved.lfi, due_at=at)
    await unit.work.schedule(WorkKind.SYNC, moved.connection_id, lfi=moved.lfi, due_at=at)
