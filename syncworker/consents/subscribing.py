"""Switch a consent's event notifications on or off, at the Hub.

`ordered` writes down what is wanted; a look at the consent (`polling`) tells the Hub by a PATCH, as often as it takes.
A PATCH that was taken is the end of it; what became of one without an answer is read from the consent.

Source: Account Information API, `PatchAccountAccessConsentsConsentId`, `Subscription`; `domain.md` §4.2.
"""

from typing import Final

import structlog

from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.lifecycle import Clients, Lifecycle, OnCall, untold
from syncworker.errors import LFIUnavailableError, RefusedError, RequestError, SyncWorkerError
from syncworker.standard.consents import subscription_change
from syncworker.standard.values import ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind

ORDERED: Final = "subscription_ordered"
"""Audit: somebody here wants events of a consent, or wants them no more."""

TOLD: Final = "subscription_told"
"""Audit: the Hub has it."""

log = structlog.stdlib.get_logger(__name__)


class Subscribing:
    """Tells the Hub.  Lives on one event loop.

    Args:
        url: where our events go, sent with each switching on; `None` leaves the one the consent was made with.
    """

    def __init__(
        self,
        store: Store,
        clients: Clients,
        lifecycle: Lifecycle,
        *,
        url: str | None = None,
        on_call: OnCall = untold,
        allowed: Allowed = EVERYBODY,
    ) -> None:
        self._store = store
        self._clients = clients
        self._lifecycle = lifecycle
        self._url = url
        self._on_call = on_call
        self._allowed = allowed

    async def send(self, held: StoredConsent) -> StoredConsent:
        """Tell the Hub what is wanted of a consent, and give the consent as it stands afterwards.

        Raises:
            NotAllowedError: the LFI or the customer is outside the allow-lists.
            RefusedError: the Hub refuses.
            TransientError, StandardViolationError, SetupError: to be tried again.
        """
        wanted = held.webhook_wanted
        if wanted is None:
            return held
        self._allowed.check(held.lfi, held.user_ref)
        client = await self._clients(held.lfi)
        fault: SyncWorkerError | None = None
        try:
            await client.patch_consent(
                held.consent_id,
                subscription_change(is_active=wanted, url=self._url if wanted else None),
                version=held.version,
                calls=lambda call: self._on_call(held.lfi, held.consent_id, call),
            )
        except (LFIUnavailableError, RefusedError) as error:
            log.warning("subscription in doubt", consent_id=held.consent_id, error=error.code)
            fault = error
        else:
            await self._store.atomically(lambda unit: _told(unit, held.consent_id, active=wanted))
        seen = await self._lifecycle.ask(held.consent_id)
        if fault is not None and not seen.terminal:
            if seen.webhook_active is not wanted:
                raise fault
            await self._store.atomically(lambda unit: _told(unit, held.consent_id, active=wanted))
        return seen


async def ordered(unit: UnitOfWork, consent_id: ConsentId, *, active: bool) -> StoredConsent:
    """Have a consent's event notifications switched; harmless the second time; commits nothing.

    Raises:
        RequestError: no such consent is held, or it has ended.
    """
    held = await unit.consents.get(consent_id, lock=True)
    if held is None:
        raise RequestError("consent_id: no consent of that id is held")
    if held.terminal or held.revoke_asked_at is not None:
        state = held.status if held.terminal else "being revoked"
        raise RequestError(f"consent_id: the consent is {state}; its events can no longer be switched")
    at = await unit.now()
    if held.webhook_wanted is not active:
        await unit.consents.want_webhook(consent_id, active=active)
        await unit.consents.note(ORDERED, subject=consent_id, facts={"active": active}, at=at)
    await unit.work.schedule(WorkKind.CONSENT, consent_id, lfi=held.lfi, due_at=at)
    return await unit.consents.get(consent_id) or held


async def _told(unit: UnitOfWork, consent_id: ConsentId, *, active: bool) -> None:
    if await unit.consents.webhook_told(consent_id, active=active):
        await unit.consents.note(TOLD, subject=consent_id, facts={"active": active}, at=await unit.now())
