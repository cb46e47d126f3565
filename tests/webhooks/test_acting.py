"""An event is a hint: what a worker does with one, from delivery to the bank and back."""

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from syncworker import webhooks
from syncworker.consents.allowed import Allowed
from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.polling import Cadence
from syncworker.errors import RequestError
from syncworker.lfi.api import LFIClient
from syncworker.schedule.claims import Dispatcher
from syncworker.standard.consents import ConsentView
from syncworker.standard.values import ConsentId, Slug
from syncworker.store import inbox
from syncworker.store.inbox import EventState
from syncworker.store.work import Claim, WorkKind
from syncworker.webhooks import Acting, replay
from tests.consents.house import LFI, House, config_of, request
from tests.webhooks.conftest import HUB, RETENTION, PostOffice, Work, consented, reads
from tests.webhooks.sender import EventSender, consent_message

pytestmark = pytest.mark.flow


@pytest.fixture
def office(hub_office: PostOffice) -> PostOffice:
    """A receiver that trusts the sandbox' Hub to speak of the sandbox' consents."""
    return hub_office


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


class Unhurried(LFIClient):
    """A client that has its answer and hands it over when the test says so.

    Attributes:
        answered: the Hub has answered.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.answered, self.handed_over = asyncio.Event(), asyncio.Event()

    async def read_consent(self, *arguments: Any, **options: Any) -> ConsentView:
        view = await super().read_consent(*arguments, **options)
        self.answered.set()
        await self.handed_over.wait()
        return view


async def until_done(house: House, work: Work) -> list[dict[str, int]]:
    """What workers do within two minutes and a half, looked at every five seconds; turns without work left out."""
    turns = []
    for _ in range(31):
        turns.append(await work())
        house.clock.advance(seconds=5)
    return [turn for turn in turns if turn]


async def test_an_event_that_lies_changes_nothing(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Signed all right, and the bank itself says otherwise, also 5, 30 and 120 seconds later: its word counts."""
    consent_id = (await consented(house)).consent_id
    before = await house.consent(consent_id)
    event_id = await office.take(sender.event(consent_message(consent_id, "Revoked", at=house.clock.now())))
    assert isinstance(event_id, int)

    turns = await until_done(house, work)

    held = await house.consent(consent_id)
    assert turns == [{"confirmation_awaited": 1}] * 3 + [{"not_confirmed": 1}]
    assert ((await office.event(event_id)).outcome, reads(house)) == ("not_confirmed", 4)
    assert replace(held, status_seen_at=before.status_seen_at) == before


@pytest.mark.parametrize(("hub_late_by", "questions"), [(3, 2), (20, 3), (100, 4)])
async def test_an_event_ahead_of_the_hubs_own_view_is_asked_about_again(
    house: House, office: PostOffice, sender: EventSender, work: Work, hub_late_by: int, questions: int
) -> None:
    """The Hub still says Authorized when it is asked first: the revocation is known minutes before the next poll."""
    consent_id = (await consented(house)).consent_id
    event_id = await office.take(sender.event(consent_message(consent_id, at=house.clock.now())))
    assert isinstance(event_id, int)
    first = await work()
    for _ in range(hub_late_by):
        house.clock.advance(seconds=1)
        await work()
    house.bank.bank.revoke(consent_id)

    turns = await until_done(house, work)

    assert (first, turns[-1], reads(house)) == ({"confirmation_awaited": 1}, {"moved": 1}, questions)
    assert ((await house.consent(consent_id)).status, (await office.event(event_id)).outcome) == ("Revoked", "moved")


@pytest.mark.parametrize("hub_moves", [True, False])
async def test_an_event_that_names_no_status_is_asked_about_until_the_hub_shows_a_move(
    house: House, office: PostOffice, sender: EventSender, work: Work, hub_moves: bool
) -> None:
    """v2.0 leaves `Data` to the sender, and v2.1 leaves it out of a deletion: such an event may be ahead too."""
    consent_id = (await consented(house)).consent_id
    message = consent_message(consent_id, at=house.clock.now())
    await office.take(sender.event({"Data": {"ConsentId": consent_id}, "Meta": message["Meta"]}))
    first = await work()
    if hub_moves:
        house.bank.bank.revoke(consent_id)
    house.clock.advance(seconds=5)

    turns = await until_done(house, work)

    awaited = {"confirmation_awaited": 1}
    assert (first, turns) == (awaited, [{"moved": 1}] if hub_moves else [awaited, awaited, {"unmoved": 1}])


async def test_a_hub_that_is_behind_by_two_moves_is_asked_again(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """It shows a move, but not yet the one the event tells: the event is not done with it."""
    consent_id = (await consented(house)).consent_id
    await office.take(sender.event(consent_message(consent_id, at=house.clock.now() + timedelta(seconds=2))))
    house.bank.bank.suspend(consent_id)
    first, status = await work(), (await house.consent(consent_id)).status
    house.clock.advance(seconds=4)
    house.bank.bank.revoke(consent_id)
    house.clock.advance(seconds=2)

    assert (first, status, await work()) == ({"confirmation_awaited": 1}, "Suspended", {"moved": 1})
    assert (await house.consent(consent_id)).status == "Revoked"


async def test_an_event_overtaken_by_a_later_status_is_not_waited_for(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Suspended, and lifted before we asked: the Hub's status is younger than the event's."""
    consent_id = (await consented(house)).consent_id
    await office.take(sender.event(consent_message(consent_id, "Suspended", at=house.clock.now())))
    house.clock.advance(seconds=2)
    house.bank.bank.suspend(consent_id)
    house.bank.bank.lift(consent_id)

    assert (await work(), reads(house)) == ({"older": 1}, 1)


async def test_one_answer_serves_every_event_of_a_consent_that_waits(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Fifty at once, half of them of another consent, are two questions; those that came later are a third."""
    ids = [(await consented(house, user=number)).consent_id for number in (0, 1)]
    for one in ids:
        house.bank.bank.revoke(one)
        at = house.clock.now()
        for number in range(25):
            await office.take(sender.event(consent_message(one, at=at + timedelta(seconds=number))))
    house.clock.advance(seconds=1)

    await work()

    assert [(one.state.value, one.outcome) for one in await office.events()] == [("done", "moved")] * 50
    assert reads(house) == 2


async def test_one_answer_serves_also_the_batches_that_come_after_it(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Whatever process takes them: the answer stands with the events, also where it confirms none of them."""
    consent_id = (await consented(house)).consent_id
    at = house.clock.now()
    for number in range(20):
        await office.take(sender.event(consent_message(consent_id, at=at + timedelta(seconds=number))))
    house.clock.advance(seconds=1)
    lifecycle = await house.lifecycle()
    outcomes = []
    for event in await office.events():
        acting = Acting(house.store, lifecycle, retention=RETENTION)  # as another process has it
        outcomes.append((await acting.act(Claim(1, WorkKind.EVENT, str(event.id), LFI, 1)))[1])

    assert (outcomes, reads(house)) == (["confirmation_awaited"] * 20, 1)


async def test_an_answer_under_way_does_not_serve_what_came_after_its_question(
    house: House, office: PostOffice, sender: EventSender
) -> None:
    """The Hub may have looked before that event happened: it is asked once more, for all that came meanwhile."""
    consent_id = (await consented(house)).consent_id
    client = Unhurried(config_of(house.bank.facts()), clock=house.clock)
    house.stack.push_async_callback(client.close)

    async def clients(_: Slug) -> LFIClient:
        return client

    acting = Acting(house.store, Lifecycle(house.store, clients), retention=RETENTION)
    early = await office.take(sender.event(consent_message(consent_id, "Suspended", at=house.clock.now())))
    first = asyncio.create_task(acting.act(Claim(1, WorkKind.EVENT, str(early), LFI, 1)))
    await client.answered.wait()
    house.clock.advance(seconds=1)
    house.bank.bank.revoke(consent_id)
    late = await office.take(sender.event(consent_message(consent_id, at=house.clock.now())))
    second = asyncio.create_task(acting.act(Claim(2, WorkKind.EVENT, str(late), LFI, 1)))
    while not second.done() and reads(house) < 2:
        client.handed_over.set()
        await asyncio.sleep(0)
    outcomes = [(await one)[1] for one in (first, second)]

    assert (outcomes, reads(house)) == (["confirmation_awaited", "moved"], 2)


async def test_a_bank_that_fails_fails_once_for_all_that_wait(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """Ten events of one consent share the question, and so its failure; each comes back by the ladder."""
    consent_id = (await consented(house)).consent_id
    at = house.clock.now()
    for number in range(10):
        await office.take(sender.event(consent_message(consent_id, at=at + timedelta(seconds=number))))
    house.bank.bank.answers(500, operation="consent", times=1_000)

    outcomes = await work()

    assert (outcomes, reads(house) <= 4) == ({"failed": 10}, True)


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
        await house.store.atomically(lambda unit: replay(unit, event_id, HUB))
        again.append(await work())

    assert (first, again, reads(house)) == ({"known": 1}, [{"unmoved": 1}] * 2, 2)


async def test_an_event_may_overtake_the_users_way_back(
    house: House, office: PostOffice, sender: EventSender, work: Work
) -> None:
    """The bank is faster than the browser: the event waits for the consent, and acts when it is there."""
    authorizer = await house.authorizer()
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
    house.bank.bank.answers(503, operation="consent", times=20)
    await office.take(sender.event(consent_message(consent_id, at=house.clock.now())))

    first = await work()
    house.bank.bank.clear_faults()
    house.clock.advance(minutes=2)

    assert (first, await work(), (await house.consent(consent_id)).status) == ({"failed": 1}, {"moved": 1}, "Revoked")


async def test_an_event_about_a_customer_outside_the_allow_list_costs_no_call(
    house: House, office: PostOffice, sender: EventSender
) -> None:
    """It is claimed, since nobody knows yet whose it is, and ends with a word of its own."""
    consent_id = (await consented(house)).consent_id
    event_id = await office.take(sender.event(consent_message(consent_id, at=house.clock.now())))
    assert isinstance(event_id, int)
    client = await house.client()

    async def clients(_: Slug) -> LFIClient:
        return client

    dispatcher = Dispatcher(house.store, name="here", user_refs=frozenset({"somebody-else"}))
    strict = Lifecycle(house.store, clients, allowed=Allowed(user_refs=frozenset({"somebody-else"})))
    batches = [one for one in await dispatcher.tick({LFI: 10}) if one.kind is WorkKind.EVENT]
    acting = Acting(house.store, strict, retention=RETENTION)
    ends = [await acting.act(Claim(1, WorkKind.EVENT, str(event_id), LFI, 1)) for _ in range(2)]

    assert ([len(one.claims) for one in batches], ends, reads(house)) == (
        [1], [(None, "not_allowed"), (None, "done")], 0,
    )  # fmt: skip


async def test_everything_leaves_after_its_retention(house: House, office: PostOffice, sender: EventSender) -> None:
    """Not a day before, whatever became of it, and looked for at most once an hour; its row of work goes with it."""
    acting = Acting(house.store, await house.lifecycle(), retention=RETENTION)
    consent_id = (await consented(house)).consent_id
    at = house.clock.now()
    payment = {"Data": {"PaymentId": "p"}, "Meta": {"EventDateTime": "2026-11-21T10:00:00Z", "ConsentId": "c"}}
    event_id = await office.take(sender.event(consent_message(consent_id, at=at)))
    for body in (sender.event(consent_message("nobodys", at=at)), sender.event(payment), b"junk"):
        await office.take(body)

    left = []
    for days in (0, 89.98, 0.03, 0.03):
        house.clock.advance(days=days)
        await acting.prune()
        left.append((len(await office.events()), len(await office.refused())))

    async with house.store.reading() as unit:
        row = await unit.work.find(WorkKind.EVENT, str(event_id))
    assert (left, row) == ([(3, 1), (3, 1), (3, 1), (0, 0)], None)


async def test_a_prune_that_did_not_come_to_its_end_goes_on_at_the_next_tick(
    house: House, office: PostOffice, sender: EventSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many events a sender sends: the hour begins when nothing is left."""
    monkeypatch.setattr(webhooks, "PRUNE_STEPS_MAX", 1)
    monkeypatch.setattr(webhooks, "PRUNED_MAX", 2)
    monkeypatch.setattr(inbox, "PRUNED_MAX", 2)
    at = house.clock.now()
    for number in range(5):
        await office.take(sender.event(consent_message("nobodys", f"S{number}", at=at)))
    acting = Acting(house.store, await house.lifecycle(), retention=RETENTION)
    house.clock.advance(days=91)
    left = []
    for _ in range(3):
        await acting.prune()
        left.append(len(await office.events()))

    assert left == [3, 1, 0]


async def test_what_nothing_follows_from_is_not_replayed(house: House, office: PostOffice, sender: EventSender) -> None:
    """The message says why."""
    event_id = await office.take(sender.event(consent_message("nobodys", at=house.clock.now())))
    assert isinstance(event_id, int)

    with pytest.raises(RequestError, match=r"nothing follows from event \d+ \(unknown_subject\)"):
        await house.store.atomically(lambda unit: replay(unit, event_id, HUB))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_lost_and_forged_events_leave_nothing_wrong_for_longer_than_a_poll(
    house: House, office: PostOffice, sender: EventSender, forger: EventSender, work: Work
) -> None:
    """30 % of the events are dropped, and in a tenth of the ticks a forged one comes; seeded.  Nothing forged acts, and
    every revocation is known within one polling interval, most of them at the next tick."""
    dice = random.Random(20261121)
    ids = [(await house.consented(user=number % 3)).consent_id for number in range(14)]
    revoked_at: dict[ConsentId, Any] = {}
    known_after: dict[ConsentId, timedelta] = {}
    by_event, tick = 0, timedelta(minutes=2)

    def untouched() -> list[ConsentId]:
        return [one for one in ids if one not in revoked_at]

    for _ in range(75):
        house.clock.advance(seconds=tick.total_seconds())
        if untouched()[4:] and dice.random() < 0.4:
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
    assert len(revoked_at) / 2 < by_event < len(revoked_at)
    assert office.receiver.counts["signature"] > 5
