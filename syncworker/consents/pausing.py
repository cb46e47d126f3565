"""Pause and resume a consent: ours alone, the Hub never hears of it (trap 15).

A paused consent makes no call for data and no token call; everything stays, and the Hub is still asked about it.

Source: `domain.md` §4.1 *Paused*, §4.5.
"""

from syncworker.consents.lifecycle import rest
from syncworker.errors import RequestError
from syncworker.standard.consents import Status
from syncworker.standard.values import ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.messages import MessageType
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import WorkKind


async def pause(unit: UnitOfWork, consent_id: ConsentId) -> StoredConsent:
    """Stop all calls of an Authorized consent; harmless the second time; commits nothing.

    Raises:
        RequestError: no such consent is held, or its state cannot be paused.
    """
    held = await _held(unit, consent_id)
    if held.paused_at is not None:
        return held
    if held.status != Status.Authorized or held.revoke_asked_at is not None:
        raise RequestError(f"consent_id: the consent is {held.status}; only an Authorized one can be paused")
    at = await unit.now()
    await unit.consents.set_paused(consent_id, at)
    await unit.consents.note("consent_paused", subject=consent_id, facts={}, at=at)
    facts = {"consent_id": consent_id}
    unit.messages.tell(MessageType.CONSENT_PAUSED, facts, connection_id=held.connection_id, at=at)
    await rest(unit, consent_id=consent_id, connection_id=held.connection_id, lfi=held.lfi)
    return await _held(unit, consent_id)


async def resume(unit: UnitOfWork, consent_id: ConsentId) -> StoredConsent:
    """Let a paused consent go on, without asking the user again; harmless the second time; commits nothing.

    Raises:
        RequestError: no such consent is held.
    """
    held = await _held(unit, consent_id)
    if held.paused_at is None:
        return held
    at = await unit.now()
    await unit.consents.set_paused(consent_id, None)
    await unit.consents.note("consent_resumed", subject=consent_id, facts={}, at=at)
    facts = {"consent_id": consent_id}
    unit.messages.tell(MessageType.CONSENT_RESUMED, facts, connection_id=held.connection_id, at=at)
    held = await _held(unit, consent_id)
    if held.callable_at(at) and await unit.tokens.exists(consent_id):
        await unit.work.schedule(WorkKind.TOKEN, consent_id, lfi=held.lfi, due_at=at)
        await unit.work.schedule(WorkKind.SYNC, held.connection_id, lfi=held.lfi, due_at=at)
        if held.follows:  # what it follows may have waited for it (`renewal`)
            await unit.work.schedule(WorkKind.FLAG, consent_id, lfi=held.lfi, due_at=at)
    return held


async def pause_all(unit: UnitOfWork, connection_id: ConsentId) -> None:
    """Pause every consent of a connection that data is asked with; commits nothing.

    Raises:
        RequestError: there is none.
    """
    chain = await unit.consents.chain_locked(connection_id, closed=True)
    pausable = [one for one in chain if one.status == Status.Authorized and one.revoke_asked_at is None]
    if not pausable:
        raise RequestError("connection_id: no consent of the connection is in use")
    for one in pausable:
        await pause(unit, one.consent_id)


async def resume_all(unit: UnitOfWork, connection_id: ConsentId) -> None:
    """Let every paused consent of a connection go on; commits nothing.

    Raises:
        RequestError: none of them is paused and alive.
    """
    chain = await unit.consents.chain_locked(connection_id, closed=True)
    paused = [one for one in chain if one.paused_at is not None and not one.terminal and one.revoke_asked_at is None]
    if not paused:
        raise RequestError("connection_id: no consent of the connection is paused")
    for one in paused:
        await resume(unit, one.consent_id)


async def _held(unit: UnitOfWork, consent_id: ConsentId) -> StoredConsent:
    held = await unit.consents.get(consent_id, lock=True)
    if held is None:
        raise RequestError("consent_id: no consent of that id is held")
    return held
