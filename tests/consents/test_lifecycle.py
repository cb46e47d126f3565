"""What the Hub says about a consent is followed, with its consequences."""

from datetime import timedelta

import pytest

from syncworker.consents.lifecycle import NEVER
from syncworker.errors import RequestError
from syncworker.standard.values import ConsentId
from syncworker.store.work import WorkKind
from tests.consents.house import House

pytestmark = pytest.mark.flow


async def due(house: House, kind: WorkKind, subject: str) -> object:
    async with house.store.reading() as unit:
        row = await unit.work.find(kind, subject)
    return row and row.due_at


async def test_a_revocation_at_the_bank_destroys_the_tokens(house: House) -> None:
    """And writes down that it did, and takes the work out of the schedule."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.revoke(consent_id)

    consent = await (await house.lifecycle()).ask(consent_id)

    async with house.store.reading() as unit:
        assert await unit.tokens.read(consent_id) is None
    assert (consent.status, consent.revoked_by) == ("Revoked", "LFI.InitiatedByUser")
    assert [await due(house, kind, consent_id) for kind in (WorkKind.SYNC, WorkKind.TOKEN)] == [NEVER, NEVER]
    assert await house.notes(consent_id) == [
        ("consent_ended", {"before": "Authorized", "after": "Revoked", "tokens_destroyed": True})
    ]


async def test_a_suspension_keeps_everything_and_its_end_wakes_it(house: House) -> None:
    """Trap 15: tokens stay; the refresh rests until the block is lifted."""
    consent_id = (await house.consented()).consent_id
    before = await house.token(consent_id)
    lifecycle = await house.lifecycle()
    house.clock.advance(minutes=1)
    house.bank.bank.suspend(consent_id)

    assert (await lifecycle.ask(consent_id)).status == "Suspended"
    assert await house.token(consent_id) == before
    assert await due(house, WorkKind.TOKEN, consent_id) == NEVER

    house.clock.advance(hours=1)
    house.bank.bank.lift(consent_id)
    assert (await lifecycle.ask(consent_id)).status == "Authorized"
    assert [await due(house, kind, consent_id) for kind in (WorkKind.SYNC, WorkKind.TOKEN)] == [house.clock.now()] * 2


async def test_the_end_of_a_predecessor_leaves_the_connections_sync_alone(house: House) -> None:
    """Another consent of the chain carries it on."""
    first = await house.consented()
    house.clock.advance(minutes=1)
    await house.consented(base_consent_id=first.consent_id)
    scheduled = await due(house, WorkKind.SYNC, first.connection_id)
    house.bank.bank.revoke(first.consent_id)

    await (await house.lifecycle()).ask(first.consent_id)

    assert await due(house, WorkKind.SYNC, first.connection_id) == scheduled
    assert await due(house, WorkKind.TOKEN, first.consent_id) == NEVER


async def test_a_consent_past_its_end_is_ended_without_asking(house: House) -> None:
    """The clock is enough; a second time there is nothing left to do."""
    completed = await house.consented(expires_at=house.clock.now() + timedelta(hours=2))
    lifecycle = await house.lifecycle()
    assert not await lifecycle.end_overdue(completed.consent_id)
    house.clock.advance(hours=2)

    assert [await lifecycle.end_overdue(completed.consent_id) for _ in range(2)] == [True, False]

    async with house.store.reading() as unit:
        assert await unit.tokens.read(completed.consent_id) is None
    assert (await house.consent(completed.consent_id)).status == "Expired"


async def test_a_consent_nobody_holds_cannot_be_asked_for(house: House) -> None:
    """The Hub is not asked for ids from outside."""
    with pytest.raises(RequestError, match=r"^consent_id: "):
        await (await house.lifecycle()).ask(ConsentId("nobody"))
