"""Take a consent back: at once on our side, and at the Hub as often as it takes.

`order` writes down who wants it and ends everything of ours in one transaction: no call of the consent is made after
it, its tokens are destroyed, its work rests.  Its row of work is due at once, and `send` tells the Hub by a PATCH with
a client-credentials token, which needs none of the destroyed ones.  What became of a PATCH is read from the consent,
whatever was answered to it; while the consent still stands, that is an error which a person sees, and it is tried
again (D-11).

Source: Account Information API, `PatchAccountAccessConsentsConsentId`; `domain.md` §4.2.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.lifecycle import Clients, Lifecycle, OnCall, rest, untold
from syncworker.errors import (
    LFIUnavailableError,
    RefusedError,
    RequestError,
    StandardViolationError,
    SyncWorkerError,
)
from syncworker.standard.consents import Revoker, revocation
from syncworker.standard.values import ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind

REVOKED_BY_US: Final = "revoked_by_us"
"""Audit: a person or the product took the consent back here."""

log = structlog.stdlib.get_logger(__name__)


class Revoking:
    """Revokes consents.  Lives on one event loop."""

    def __init__(
        self,
        store: Store,
        clients: Clients,
        lifecycle: Lifecycle,
        *,
        on_call: OnCall = untold,
        allowed: Allowed = EVERYBODY,
    ) -> None:
        self._allowed = allowed
        self._store = store
        self._clients = clients
        self._lifecycle = lifecycle
        self._on_call = on_call

    async def order(self, consent_id: ConsentId, *, by: Revoker) -> StoredConsent:
        """Revoke a consent here, at once; the Hub is told by the worker.  Harmless the second time.

        Raises:
            RequestError: no such consent is held, or it has ended already.
        """
        return await self._store.atomically(lambda unit: ordered(unit, consent_id, by=by))

    async def send(self, held: StoredConsent) -> StoredConsent:
        """Tell the Hub of an ordered revocation, and give the consent, which has ended then.

        Raises:
            NotAllowedError: the LFI or the customer is outside the allow-lists.
            RefusedError: the Hub refuses, and the consent still stands there.
            StandardViolationError: the Hub took it, and the consent still stands there.
            TransientError, SetupError: to be tried again.
        """
        self._allowed.check(held.lfi, held.user_ref)
        client = await self._clients(held.lfi)
        body = revocation(Revoker(held.revoke_by or Revoker.TPP))
        fault: SyncWorkerError = StandardViolationError("revocation: was taken, and the consent still stands")
        try:
            await client.patch_consent(
                held.consent_id,
                body,
                version=held.version,
                calls=lambda call: self._on_call(held.lfi, held.consent_id, call),
            )
        except LFIUnavailableError as error:  # it may have arrived: the consent says so
            log.warning("revocation in doubt", consent_id=held.consent_id, error=error.code)
            fault = error
        except RefusedError as error:
            fault = error
        seen = await self._lifecycle.ask(held.consent_id)
        if not seen.terminal:
            raise fault
        return seen


async def ordered(unit: UnitOfWork, consent_id: ConsentId, *, by: Revoker) -> StoredConsent:
    """`Revoking.order` inside a transaction of the caller's; commits nothing."""
    held = await unit.consents.get(consent_id, lock=True)
    if held is None:
        raise RequestError("consent_id: no consent of that id is held")
    if held.terminal:
        raise RequestError(f"consent_id: the consent is {held.status} already; there is nothing to revoke")
    at = await unit.now()
    if held.revoke_asked_at is None:
        await unit.consents.order_revocation(consent_id, by=by.value, at=at)
        destroyed = await unit.tokens.destroy(consent_id)
        facts = {"by": by.value, "tokens_destroyed": destroyed}
        await unit.consents.note(REVOKED_BY_US, subject=consent_id, facts=facts, at=at)
        await rest(unit, consent_id=consent_id, connection_id=held.connection_id, lfi=held.lfi)
    await unit.work.schedule(WorkKind.CONSENT, consent_id, lfi=held.lfi, due_at=at)
    return await unit.consents.get(consent_id) or held


async def ordered_all(unit: UnitOfWork, connection_id: ConsentId, *, by: Revoker) -> Sequence[ConsentId]:
    """`ordered` for every consent of a connection that has not ended; commits nothing.

    Nobody adds a consent to the connection meanwhile; one whose user comes home later is that user's later word.

    Raises:
        RequestError: all of them have ended.
    """
    chain = await unit.consents.chain_locked(connection_id, closed=True)
    alive = [one.consent_id for one in chain if not one.terminal]
    if not alive:
        raise RequestError("connection_id: every consent of the connection has ended already")
    for consent_id in alive:
        await ordered(unit, consent_id, by=by)
    return alive
