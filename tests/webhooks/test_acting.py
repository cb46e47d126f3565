"""An event is a hint: what a worker does with one, from delivery to the bank and back."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from syncworker.consents.authorize import Completed
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.revoking import Revoking
from syncworker.errors import RequestError
from syncworker.lfi.senders import Sender
from syncworker.schedule.handlers import Ended, Handlers
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.inbox import EventState
from syncworker.store.work import Claim, WorkKind
from syncworker.webhooks import Acting, replay
from tests.consents.house import LFI, House
from tests.webhooks.conftest import JWKS_URL, Keys, PostOffice, trusting
from tests.webhooks.sender import ISSUER, EventSender, consent_message

pytestmark = pytest.mark.flow

RETENTION = timedelta(days=90)
SENDERS = {ISSUER: Sender(issuer=ISSUER, jwks_url=JWKS_URL, lfis=frozenset({LFI}))}
Work = Callable[..., Awaitable[dict[str, int]]]


@pytest.fixture
def office(house: House, keys: Keys, sender: EventSender) -> PostOffice:
    """A receiver that trusts the sandbox' Hub to speak of the sandbox' consents."""
    return PostOffice(house.store, house.clock, trusting(keys, senders=SENDERS), {JWKS_URL: sender.jwks()})


@pytest.fixture
async def work(house: House) -> Work:
    """What a tick and a worker do: claim what is due of a kind, act, end; says with which outcomes."""
    lifecycle = await house.lifecycle()
    client = await house.client()

    async def clients(_: Slug) -> Any:
        return client

    acting = Acting(house.store, lifecycle, retention=RETENTION)
    revoking = Revoking(house.store, clients, lifecycle)
    polling = Polling(house.store, lifecycle, revoking, cadence=Cadence(), retention={})

    async def act(claim: Claim) -> Ended:
        return Ended(*await acting.act(claim))

    async def look(claim: Claim) -> Ended:
        return Ended(*await polling.look(claim))

    handlers = Handlers(
        house.store, {WorkKind.EVENT: act, WorkKind.CONSENT: look}, retry_after=lambda n: timedelta(minutes=n)
    )

    async def due(kind: WorkKind = WorkKind.EVENT) -> dict[str, int]:
        async with house.store.writing() as unit:
            claims = await unit.work.claim(kind, slots={LFI: 10_000})
            await unit.commit()
        return dict((await handlers.batch(kind, [(claim.id, claim.gen) for claim in claims])).outcomes)

    return due


def reads(house: House) -> int:
    """GETs of consents the bank has served."""
    return sum(entry.operation == "consent" for entry in house.bank.bank.log.served())


async def consented(house: House, **changes: Any) -> Completed:
    """A consent whose status was last heard of a minute ago."""
    completed = await house.consented(**changes)
    house.clock.advance(minutes=1)
    return completed


async def test_a_revocation_is_acted_on_after_the_bank_said_so_itself(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """The event brings us to ask; the answer ends the consent and destroys its tokens."""
    consent_id = (await consented(house)).consent_id
    house.bank.bank.revoke(consent_id)
    event_id = await office.take(sender.event(consent_message(consent_id, at=house.clock.now())))

    outcomes = await work()

    assert isinstance(event_id, int)
    event = await office.event(event_id)
    async with house.store.reading() as unit:
        tokens = await unit.tokens.exists(consent_id)
    assert (outcomes, (await house.consent(consent_id)).status, tokens, event.state, event.outcome, reads(house)) == (
        {"moved": 1}, "Revoked", False, EventState.DONE, "moved", 1,
    )  # fmt: skip


async def test_an_event_that_lies_changes_nothing(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Signed all right, and the bank itself says otherwise: its word counts."""
    consent_id = (await consented(house)).consent_id
    before = await house.consent(consent_id)
    await office.take(sender.event(consent_message(consent_id, "Revoked", at=house.clock.now())))

    outcomes = await work()

    held = await house.consent(consent_id)
    assert (outcomes, replace(held, status_seen_at=before.status_seen_at)) == ({"not_confirmed": 1}, before)


async def test_an_event_older_than_what_we_hold_costs_no_call(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Out of order: Suspended arrives after it was lifted; and news we have already are no news."""
    consent_id = (await consented(house)).consent_id
    held = await house.consent(consent_id)
    assert held.status_updated_at is not None
    at = house.clock.now()
    late = consent_message(consent_id, "Suspended", at=at, updated_at=held.status_updated_at - timedelta(seconds=5))
    known = consent_message(consent_id, "Authorized", at=at, updated_at=held.status_updated_at)
    for message in (late, known):
        await office.take(sender.event(message))

    assert (await work(), reads(house)) == ({"older": 1, "known": 1}, 0)


async def test_a_replay_asks_again_and_is_harmless(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """As often as a person wants, also of an event that said nothing new."""
    consent_id = (await consented(house)).consent_id
    held = await house.consent(consent_id)
    message = consent_message(consent_id, "Authorized", at=house.clock.now(), updated_at=held.status_updated_at)
    event_id = await office.take(sender.event(message))
    assert isinstance(event_id, int)
    first = await work()

    again = []
    for _ in range(2):
        await house.store.atomically(lambda unit: replay(unit, event_id, SENDERS))
        again.append(await work())

    assert (first, again, reads(house)) == ({"known": 1}, [{"unmoved": 1}] * 2, 2)


async def test_an_event_may_overtake_the_users_way_back(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """The bank is faster than the browser: the event waits for the consent, and acts when it is there."""
    authorizer = await house.authorizer()
    from tests.consents.house import request

    asked = request(house.clock)
    started = await authorizer.begin(LFI, asked, user_ref="u")
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    house.clock.advance(seconds=1)
    await office.take(sender.event(consent_message(asked.consent_id, "Authorized", at=house.clock.now())))

    early = await work()
    await authorizer.complete(redirect)
    house.clock.advance(seconds=31)

    assert (early, await work()) == ({"callback_awaited": 1}, {"unmoved": 1})


async def test_a_consent_that_never_came_goes_into_the_quarantine(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """The user never returned: a quarter of an hour later nobody waits any more."""
    from tests.consents.house import request

    asked = request(house.clock)
    await (await house.authorizer()).begin(LFI, asked, user_ref="u")
    event_id = await office.take(sender.event(consent_message(asked.consent_id, "Rejected", at=house.clock.now())))
    assert isinstance(event_id, int)
    await work()
    house.clock.advance(minutes=16)

    outcomes = await work()

    event = await office.event(event_id)
    assert (outcomes, event.state, event.outcome) == (
        {"unknown_subject": 1}, EventState.QUARANTINED, "unknown_subject",
    )  # fmt: skip


async def test_a_bank_that_does_not_answer_is_asked_again(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """The event stays filed, its row waits by the ladder, and acts once the bank is back."""
    consent_id = (await consented(house)).consent_id
    house.bank.bank.revoke(consent_id)
    house.bank.faults.answers(503, on="consent", times=20)
    await office.take(sender.event(consent_message(consent_id, at=house.clock.now())))

    first = await work()
    house.bank.faults.clear()
    house.clock.advance(minutes=2)

    assert (first, await work(), (await house.consent(consent_id)).status) == ({"failed": 1}, {"moved": 1}, "Revoked")


async def test_an_acted_event_leaves_with_its_row_after_its_retention(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Not a day before."""
    consent_id = (await consented(house)).consent_id
    event_id = await office.take(sender.event(consent_message(consent_id, at=house.clock.now())))
    await work()
    house.clock.advance(days=89)
    early = await work()
    house.clock.advance(days=1)
    late = await work()

    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.EVENT, str(event_id))
    assert (early, late, await office.events(), row) == ({}, {"pruned": 1}, [], None)


async def test_what_nothing_follows_from_is_not_replayed(house: House, office: PostOffice, sender: EventSender) -> None:
    """The message says why."""
    event_id = await office.take(sender.event(consent_message("nobodys", at=house.clock.now())))
    assert isinstance(event_id, int)

    with pytest.raises(RequestError, match=r"nothing follows from event \d+ \(unknown_subject\)"):
        await house.store.atomically(lambda unit: replay(unit, event_id, SENDERS))


async def test_lost_and_forged_events_leave_nothing_wrong_for_longer_than_a_poll(
    house: House, office: PostOffice, sender: EventSender, forger: EventSender, work: Work
) -> None:
    """30 % of the events are dropped and 10 % more are forged, seeded: nothing forged acts, and every revocation is
    known within one polling interval, most of them at the next tick."""
    dice = random.Random(20261121)
    ids = [(await house.consented(user=number % 3)).consent_id for number in range(20)]
    revoked_at: dict[ConsentId, Any] = {}
    known_after: dict[ConsentId, timedelta] = {}
    start, by_event = house.clock.now(), 0

    def untouched() -> list[ConsentId]:
        return [one for one in ids if one not in revoked_at]

    for _minute in range(150):
        house.clock.advance(minutes=1)
        if untouched()[5:] and dice.random() < 0.3:
            chosen = dice.choice(untouched())
            house.bank.bank.revoke(chosen)
            revoked_at[chosen] = house.clock.now()
            if dice.random() >= 0.3:
                await office.take(sender.event(consent_message(chosen, at=house.clock.now())))
        if dice.random() < 0.1:  # a forger speaks of those nobody touched
            target = dice.choice(untouched())
            assert await office.take(forger.event(consent_message(target, at=house.clock.now()))) == "signature"
        by_event += (await work()).get("moved", 0)
        await work(WorkKind.CONSENT)
        for one, at in revoked_at.items():
            if one not in known_after and (await house.consent(one)).status == "Revoked":
                known_after[one] = house.clock.now() - at

    assert {one for one in ids if (await house.consent(one)).status == "Revoked"} == set(revoked_at)
    assert set(known_after) == set(revoked_at)
    assert max(known_after.values()) <= Cadence().authorized
    assert 0 < by_event < len(revoked_at)
    assert office.receiver.counts["signature"] > 5
    assert house.clock.now() - start == timedelta(minutes=150)
