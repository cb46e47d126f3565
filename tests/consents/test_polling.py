"""How often the Hub is asked about a consent, and what one look does."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncworker.consents.lifecycle import ABANDONED, NEVER
from syncworker.consents.pausing import pause, resume
from syncworker.consents.polling import SPREAD, Cadence, Polling, next_look
from syncworker.consents.revoking import Revoking, ordered
from syncworker.errors import LFIUnavailableError, RequestError
from syncworker.standard.consents import ConsentView, Revoker, Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import StoredConsent
from syncworker.store.erasure import DataClass
from syncworker.store.work import Claim, WorkKind
from tests.consents.house import House

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def consent(**changes: Any) -> StoredConsent:
    """An Authorized consent of ninety days, heard of just now."""
    plain = StoredConsent(
        consent_id=ConsentId("c-1"), connection_id=ConsentId("c-1"), lfi=Slug("noor"), user_ref="u",
        version=Version.V2_1, status="Authorized", status_updated_at=NOW - DAY, status_seen_at=NOW,
        permissions=("ReadAccountsBasic",),
        expires_at=NOW + 90 * DAY, user_type="Retail", purpose="AccountAggregation", created_at=NOW - 2 * DAY,
    )  # fmt: skip
    return replace(plain, **changes)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("held", "every"),
    [
        pytest.param(consent(), HOUR, id="Authorized"),
        pytest.param(consent(paused_at=NOW), HOUR, id="paused: the Hub may revoke it all the same"),
        pytest.param(consent(status="Suspended", status_updated_at=NOW - HOUR), 15 * MINUTE, id="just suspended"),
        pytest.param(consent(status="Suspended", status_updated_at=NOW - 2 * DAY), HOUR, id="suspended for long"),
        pytest.param(consent(status="AwaitingAuthorization", created_at=NOW), 2 * MINUTE, id="the user is at the page"),
        pytest.param(consent(status="AwaitingAuthorization", created_at=NOW - HOUR), HOUR, id="others are asked"),
        pytest.param(consent(status="OnHold", status_updated_at=NOW - HOUR), 15 * MINUTE, id="a state nobody knows"),
        pytest.param(consent(status="AwaitingAuthorization", created_at=NOW - DAY), None, id="abandoned"),
        *(pytest.param(consent(status=one), None, id=one) for one in ("Rejected", "Revoked", "Expired", "Consumed")),
    ],
)
def test_each_state_deserves_its_own_cadence(held: StoredConsent, every: timedelta | None) -> None:
    """A little early, by the ConsentId; never for what has ended."""
    look = next_look(held, now=NOW, cadence=Cadence())

    assert (look is None) == (every is None)
    if look is not None and every is not None:
        assert every * (1 - SPREAD) <= look - NOW <= every


@pytest.mark.unit
def test_no_look_comes_after_the_end() -> None:
    """At `ExpirationDateTime` the clock ends it."""
    assert next_look(consent(expires_at=NOW + MINUTE), now=NOW, cadence=Cadence()) == NOW + MINUTE


RETENTION = {DataClass.PERSONAL: 10 * DAY, DataClass.DATA: 30 * DAY}
Looking = Callable[..., Awaitable[tuple[datetime | None, str]]]


@pytest.fixture
async def look(house: House) -> Looking:
    """One look at a consent, as the claim of its row makes it."""
    lifecycle = await house.lifecycle()
    client = await house.client()

    async def clients(_: Slug) -> Any:
        return client

    polling = Polling(
        house.store, lifecycle, Revoking(house.store, clients, lifecycle), cadence=Cadence(), retention=RETENTION
    )

    async def one(consent_id: ConsentId, *, asked: bool = False) -> tuple[datetime | None, str]:
        return await polling.look(Claim(1, WorkKind.CONSENT, consent_id, Slug("sandbox"), 1, asked=asked))

    return one


def reads(house: House) -> int:
    """GETs of consents the bank has served."""
    return sum(entry.operation == "consent" for entry in house.bank.bank.log.served())


@pytest.mark.flow
async def test_a_consent_heard_of_lately_costs_no_call(house: House, look: Looking) -> None:
    """The token answer carried it; an hour later the Hub is asked."""
    consent_id = (await house.consented()).consent_id
    due, first = await look(consent_id)
    calls = reads(house)
    house.clock.advance(hours=1)

    _, second = await look(consent_id)

    assert due is not None
    assert due > house.clock.now() - HOUR
    assert (first, second, calls, reads(house)) == ("fresh", "asked", 0, 1)


@pytest.mark.flow
async def test_a_revocation_nobody_told_us_of_is_found(house: House, look: Looking) -> None:
    """And ends everything of it; the retention clock runs from then on."""
    consent_id = (await house.consented()).consent_id
    house.clock.advance(hours=1)
    house.bank.bank.revoke(consent_id)

    assert await look(consent_id) == (house.clock.now() + 10 * DAY, "moved")
    held = await house.consent(consent_id)
    assert (held.status, held.ended_at) == ("Revoked", house.clock.now())


@pytest.mark.flow
async def test_our_revocation_ends_everything_at_once_and_reaches_the_hub(house: House, look: Looking) -> None:
    """The tokens are gone before the Hub is told; the PATCH needs none of them."""
    consent_id = (await house.consented()).consent_id
    async with house.store.reading() as unit:
        assert await unit.tokens.exists(consent_id)
    lifecycle = await house.lifecycle()
    client = await house.client()

    async def clients(_: Slug) -> Any:
        return client

    revoking = Revoking(house.store, clients, lifecycle)
    held = await revoking.order(consent_id, by=Revoker.TPP_USER)
    async with house.store.reading() as unit:
        gone = not await unit.tokens.exists(consent_id)
        rows = [await unit.work.find(kind, consent_id) for kind in (WorkKind.TOKEN, WorkKind.SYNC, WorkKind.CONSENT)]
    before = house.bank.bank.consents.get(consent_id).status

    ended = await look(consent_id)

    after = house.bank.bank.consents.get(consent_id)
    assert (held.callable_at(house.clock.now()), gone, before) == (False, True, Status.Authorized)
    assert [row and row.due_at for row in rows] == [NEVER, NEVER, house.clock.now()]
    assert (ended[1], after.status, after.revoked_by) == ("revoked", Status.Revoked, "TPP.InitiatedByUser")


@pytest.mark.flow
async def test_a_revocation_the_hub_does_not_answer_is_sent_again(house: House, look: Looking) -> None:
    """The first PATCH meets a bank that is away: nothing of ours comes back, and the next look sends it again."""
    consent_id = (await house.consented()).consent_id
    async with house.store.writing() as unit:
        await ordered(unit, consent_id, by=Revoker.TPP)
        await unit.commit()
    house.bank.bank.answers(503, operation="consent_patch", times=3)

    with pytest.raises(LFIUnavailableError):
        await look(consent_id)

    assert (await look(consent_id))[1] == "revoked"


@pytest.mark.flow
async def test_what_nobody_decided_about_is_given_up(house: House, look: Looking) -> None:
    """After a day; a person sees why."""
    consent_id = (await house.consented()).consent_id
    held = await house.consent(consent_id)
    async with house.store.writing() as unit:
        await unit.consents.observe(_view(held, "AwaitingAuthorization"), at=house.clock.now())
        await unit.commit()
    house.clock.advance(days=1)

    assert await look(consent_id) == (None, ABANDONED)
    assert (await house.consent(consent_id)).needs_consent == ABANDONED


@pytest.mark.flow
async def test_a_pause_is_ours_alone(house: House) -> None:
    """No PATCH, tokens stay, work rests; to resume makes both due at once; twice is harmless."""
    consent_id = (await house.consented()).consent_id

    async def act(step: Callable[..., Awaitable[StoredConsent]]) -> list[object]:
        async with house.store.writing() as unit:
            for _ in range(2):
                held = await step(unit, consent_id)
            rows = [await unit.work.find(kind, consent_id) for kind in (WorkKind.TOKEN, WorkKind.SYNC)]
            kept = await unit.tokens.exists(consent_id)
            await unit.commit()
        return [held.callable_at(house.clock.now()), kept, [row and row.due_at for row in rows]]

    paused, resumed = await act(pause), await act(resume)

    now = house.clock.now()
    assert (paused, resumed) == ([False, True, [NEVER, NEVER]], [True, True, [now, now]])
    assert not [entry for entry in house.bank.bank.log.served() if entry.operation == "consent_patch"]


@pytest.mark.flow
async def test_what_has_ended_cannot_be_paused_or_revoked(house: House, look: Looking) -> None:
    """Each refusal says why."""
    consent_id = (await house.consented()).consent_id
    house.bank.bank.revoke(consent_id)
    house.clock.advance(hours=1)
    await look(consent_id)

    async with house.store.writing() as unit:
        with pytest.raises(RequestError, match="is Revoked; only an Authorized one can be paused"):
            await pause(unit, consent_id)
        with pytest.raises(RequestError, match="is Revoked already"):
            await ordered(unit, consent_id, by=Revoker.TPP)


def _view(held: StoredConsent, status: str) -> ConsentView:

    return ConsentView(consent_id=held.consent_id, status=status, status_updated_at=None)
