"""Following an opening to its end: by polls and events, through claims; and the hand-over of an opened account."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from syncworker.consents.allowed import Allowed
from syncworker.consents.lifecycle import Lifecycle
from syncworker.errors import NotAllowedError, RefusedError, RequestError
from syncworker.lfi.senders import Sender
from syncworker.openings import NOT_HANDED_OVER, Openings
from syncworker.schedule.handlers import Ended, Handlers
from syncworker.standard.consents import OnBehalfOf, Purpose
from syncworker.standard.openings import OpeningState, OpeningVersion
from syncworker.store.inbox import EventState
from syncworker.store.openings import ShareWish, StoredOpening
from syncworker.store.work import Claim, WorkKind
from syncworker.webhooks import Acting
from tests.openings.house import LFI, House
from tests.webhooks.conftest import JWKS_URL, Keys, PostOffice, keys, sender, trusting
from tests.webhooks.sender import ISSUER, EventSender, opening_message

__all__ = ["keys", "sender"]  # fixtures of the events' tests

pytestmark = pytest.mark.flow

S, V = OpeningState, OpeningVersion
WISH = ShareWish(
    permissions=("ReadAccountsBasic", "ReadBalances"),
    days=90,
    purpose=Purpose.Onboarding,
    account_types=("Retail", "SME"),
    on_behalf_of=OnBehalfOf(legal_name="Al Waha LLC"),
)
DONE = {V.V2_0: "Created", V.V2_0_ERRATA1: "Created", V.V2_1: "Completed"}
WAITS = {V.V2_0: "AwaitingPartyData", V.V2_0_ERRATA1: "AwaitingPartyData", V.V2_1: "AwaitingUserInput"}


async def opened(house: House, openings: Openings, **changes: Any) -> StoredOpening:
    """An opening the bank has, heard of a minute ago."""
    opening = await openings.create(LFI, house.order(**{"user_ref": "customer-7"} | changes))
    house.clock.advance(minutes=1)
    return opening


def move(house: House, opening: StoredOpening, status: str, **facts: Any) -> None:
    """A person at the bank decides."""
    house.desk.move(str(opening.account_id), status, **facts)


def looks(house: House) -> int:
    """How often the bank was asked how an opening stands."""
    return sum(one.operation in ("opening", "opening_status") for one in house.bank.bank.log.served())


@pytest.mark.parametrize("signed", [False, True], ids=["json", "jws"])
@pytest.mark.parametrize("version", V)
async def test_a_whole_life_in_every_version(house: House, version: OpeningVersion, signed: bool) -> None:
    """Asked at the path of its version, read in its words, kept in ours; at its end nothing is due any more."""
    openings = await house.openings(version)
    house.desk.configure(signed=signed)
    opening = await opened(house, openings)

    outcomes = []
    for status in (WAITS[version], DONE[version]):
        move(house, opening, status)
        house.clock.advance(hours=1)
        outcomes.append(await house.turn(openings))

    end = await house.stored(opening.opening_id)
    contents = await house.contents(opening.opening_id)
    assert outcomes == [{"moved": 1}, {"ended": 1}]
    assert (end.state, end.status, end.ended_at) == (S.COMPLETED, DONE[version], house.clock.now())
    assert [state for state, _, _ in await house.history(opening.opening_id)] == [
        S.SENDING, S.PENDING, S.USER_ACTION, S.COMPLETED,
    ]  # fmt: skip
    assert contents.raw is not None
    assert contents.raw["AccountIdentifiers"][0]["SchemeName"] == "IBAN"
    house.clock.advance(days=400)
    assert await house.turn(openings) in ({}, {"ended": 1})
    assert looks(house) == 2


async def test_a_whole_life_on_each_database(house_on_each: House) -> None:
    """What the others show on one."""
    house = house_on_each
    openings = await house.openings(retention=timedelta(days=30))
    opening = await opened(house, openings, share=WISH)
    move(house, opening, "Rejected", information="No")
    house.clock.advance(hours=1)

    outcomes = [await house.turn(openings)]
    house.clock.advance(days=30)
    outcomes.append(await house.turn(openings))

    assert outcomes == [{"ended": 1}, {"ended": 1}]
    assert await house.notes(opening.opening_id) == [
        "opening_noted", "opening_moved", "opening_moved", "opening_contents_destroyed",
    ]  # fmt: skip


@pytest.mark.parametrize(("asked", "served"), [(V.V2_0, V.V2_0_ERRATA1), (V.V2_0_ERRATA1, V.V2_0)])
async def test_the_other_path_is_tried_where_the_first_is_not_there(
    house: House, asked: OpeningVersion, served: OpeningVersion
) -> None:
    """Documents of v2.0 disagree: 404 or 405 at the one, then the other."""
    openings = await house.openings(asked)
    opening = await opened(house, openings)
    house.desk.configure(v2_0=served.value)
    house.clock.advance(hours=1)

    assert await house.turn(openings) == {"asked": 1}
    assert [one.status for one in house.calls if one.operation == "Account_read"] in ([404, 200], [405, 200])
    assert (await house.stored(opening.opening_id)).heard_at == house.clock.now()


async def test_before_it_is_time_nobody_is_asked(house: House) -> None:
    """A claim that comes early costs no call."""
    openings = await house.openings()
    opening = await opened(house, openings)
    async with house.store.writing() as unit:
        await unit.work.schedule(WorkKind.OPENING, opening.opening_id, lfi=LFI, due_at=house.clock.now())
        await unit.commit()

    assert await house.turn(openings) == {"fresh": 1}
    assert looks(house) == 0


async def test_an_event_has_it_asked_about_at_once(house: House) -> None:
    """The event is a hint; the answer is what counts."""
    openings = await house.openings()
    opening = await opened(house, openings)
    move(house, opening, "AwaitingLFIProcesses")
    await house.ask_now(opening.opening_id)

    assert await house.turn(openings) == {"moved": 1}
    assert (await house.stored(opening.opening_id)).state is S.LFI_PROCESSING


async def test_an_event_of_the_hub_leads_to_the_end(house: House, keys: Keys, sender: EventSender) -> None:
    """From the delivery to the answer of the bank; the event itself moves nothing."""
    openings = await house.openings()
    opening = await opened(house, openings)
    move(house, opening, "Rejected")
    senders = {ISSUER: Sender(issuer=ISSUER, jwks_url=JWKS_URL, lfis=frozenset({LFI}))}
    office = PostOffice(house.store, house.clock, trusting(keys, senders=senders), {JWKS_URL: sender.jwks()})
    acting = Acting(house.store, Lifecycle(house.store, house.clients), retention=timedelta(days=90))

    message = opening_message(str(opening.account_id), "Rejected", at=house.clock.now())
    event_id = await office.take(sender.event(message))
    acted = await act(house, acting)
    between = await house.stored(opening.opening_id)
    turn = await house.turn(openings)
    house.clock.advance(seconds=5)

    assert isinstance(event_id, int)
    assert (acted, between.state, turn) == (["confirmation_awaited"], S.PENDING, {"ended": 1})
    assert (await act(house, acting), (await office.event(event_id)).outcome) == (["followed"], "followed")
    assert (await house.stored(opening.opening_id)).state is S.REJECTED


async def act(house: House, acting: Acting) -> list[str]:
    """What a worker does about the events that are due, and how each ends."""

    async def acted(claim: Claim) -> Ended:
        return Ended(*await acting.act(claim))

    handlers = Handlers(house.store, {WorkKind.EVENT: acted}, retry_after=lambda n: timedelta(minutes=n))
    async with house.store.writing() as unit:
        claims = await unit.work.claim(WorkKind.EVENT, slots={LFI: 10})
        await unit.commit()
    report = await handlers.batch(WorkKind.EVENT, [(claim.id, claim.gen) for claim in claims])
    return sorted(Counter(report.outcomes).elements())


@pytest.fixture
def office(house: House, keys: Keys, sender: EventSender) -> PostOffice:
    """A receiver that trusts the sandbox' Hub to speak of the sandbox' openings."""
    senders = {ISSUER: Sender(issuer=ISSUER, jwks_url=JWKS_URL, lfis=frozenset({LFI}))}
    return PostOffice(house.store, house.clock, trusting(keys, senders=senders), {JWKS_URL: sender.jwks()})


async def lived(house: House, openings: Openings, acting: Acting, *, seconds: int) -> list[str]:
    """How events ended, one after the other, while workers looked every five seconds."""
    ends = []
    for _ in range(seconds // 5):
        ends += await act(house, acting)
        await house.turn(openings)
        house.clock.advance(seconds=5)
    return ends


async def test_an_event_ahead_of_the_lfis_own_view_is_asked_about_again(
    house: House, office: PostOffice, sender: EventSender
) -> None:
    """It still says Pending when it is asked first: the end is known half a minute later, not at the next look."""
    openings = await house.openings()
    opening = await opened(house, openings)
    house.desk.configure(by_hand=True)
    acting = Acting(house.store, Lifecycle(house.store, house.clients), retention=timedelta(days=90))
    await office.take(sender.event(opening_message(str(opening.account_id), "Rejected", at=house.clock.now())))

    early = await lived(house, openings, acting, seconds=20)
    move(house, opening, "Rejected")
    late = await lived(house, openings, acting, seconds=140)

    assert (early, late) == (["confirmation_awaited"] * 2, ["confirmation_awaited", "followed"])
    assert (await house.stored(opening.opening_id)).state is S.REJECTED


async def test_an_event_the_lfi_never_confirms_ends_as_that(
    house: House, office: PostOffice, sender: EventSender
) -> None:
    """After four questions in two minutes; the opening stands as the LFI shows it."""
    openings = await house.openings()
    opening = await opened(house, openings)
    house.desk.configure(by_hand=True)
    acting = Acting(house.store, Lifecycle(house.store, house.clients), retention=timedelta(days=90))
    await office.take(sender.event(opening_message(str(opening.account_id), "Completed", at=house.clock.now())))
    before = looks(house)

    ends = await lived(house, openings, acting, seconds=160)

    assert (ends, looks(house) - before) == (["confirmation_awaited"] * 4 + ["not_confirmed"], 4)
    assert (await house.stored(opening.opening_id)).state is S.PENDING


async def test_an_event_may_overtake_the_answer_that_names_its_account(
    house: House, office: PostOffice, sender: EventSender
) -> None:
    """The LFI tells of the opening before we have filed its answer to the POST: the event waits for that."""
    told: list[Any] = []

    async def checkpoint(name: str) -> None:
        if name == "answered":
            (asked,) = house.desk.facts()
            told.append(await office.take(sender.event(opening_message(asked["account_id"], at=house.clock.now()))))
            told.append(await act(house, acting))

    openings = await house.openings(checkpoint=checkpoint)
    acting = Acting(house.store, Lifecycle(house.store, house.clients), retention=timedelta(days=90))
    opening = await opened(house, openings)
    house.clock.advance(seconds=31)

    later = await act(house, acting)

    assert (told[1], later) == (["answer_awaited"], ["confirmation_awaited"])
    assert (await office.event(told[0])).subject == opening.account_id


async def test_an_event_of_an_opening_that_never_got_an_answer_goes_into_the_quarantine(
    house: House, office: PostOffice, sender: EventSender
) -> None:
    """A quarter of an hour later: its subject may be the AccountId a person looks for."""
    told: list[Any] = []

    async def checkpoint(name: str) -> None:
        if name == "noted":
            told.append(await office.take(sender.event(opening_message("acc-9", at=house.clock.now()))))

    openings = await house.openings(checkpoint=checkpoint)
    acting = Acting(house.store, Lifecycle(house.store, house.clients), retention=timedelta(days=90))
    await opened(house, openings)
    early = await act(house, acting)
    house.clock.advance(minutes=16)

    assert (early, await act(house, acting)) == (["answer_awaited"], ["unknown_subject"])
    assert (await office.event(told[0])).state is EventState.QUARANTINED


async def test_a_status_nobody_knows_is_followed(house: House) -> None:
    """Unknown values are kept, and an end may still come."""
    openings = await house.openings()
    opening = await opened(house, openings)
    held = house.desk.held(str(opening.account_id))
    held.status, held.updated_at = "OnHold", house.clock.now()
    house.clock.advance(hours=1)

    assert await house.turn(openings) == {"moved": 1}
    seen = await house.stored(opening.opening_id)
    assert (seen.state, seen.status) == (S.OTHER, "OnHold")


async def test_an_older_view_moves_nothing_and_is_not_asked_for_again_at_once(house: House) -> None:
    """A bank whose replicas lag must not be asked at every tick."""
    openings = await house.openings()
    opening = await opened(house, openings)
    move(house, opening, "AwaitingUserInput")
    opening = await openings.ask(opening)
    held = house.desk.held(str(opening.account_id))
    held.status, held.updated_at = "Pending", house.clock.now() - timedelta(minutes=30)
    house.clock.advance(hours=1)

    assert await house.turn(openings) == {"asked": 1}
    assert (await house.stored(opening.opening_id)).state is S.USER_ACTION
    assert await house.turn(openings) == {}


async def test_nothing_leaves_an_end(house: House) -> None:
    """Whatever the bank says later."""
    openings = await house.openings()
    opening = await opened(house, openings)
    move(house, opening, "Rejected")
    opening = await openings.ask(opening)
    held = house.desk.held(str(opening.account_id))
    house.clock.advance(hours=1)
    held.status, held.updated_at = "Pending", house.clock.now()

    assert (await openings.ask(opening)).state is S.REJECTED


# -- late --------------------------------------------------------------------------------------------------------------


async def test_a_state_that_lasts_too_long_is_overdue_once(house: House) -> None:
    """Noted, shown, and asked about less often; the next move takes it back."""
    openings = await house.openings()
    opening = await opened(house, openings)

    house.clock.advance(days=1)
    outcomes = [await house.turn(openings)]
    due = (await house.work(opening.opening_id)).due_at
    late = await house.stored(opening.opening_id)
    house.clock.advance(hours=6)
    outcomes.append(await house.turn(openings))
    move(house, opening, "AwaitingUserInput")
    house.clock.advance(hours=6)
    outcomes.append(await house.turn(openings))

    assert outcomes == [{"overdue": 1}, {"overdue": 1}, {"moved": 1}]
    assert late.overdue_at is not None
    assert due - late.overdue_at > timedelta(hours=5)
    assert (await house.stored(opening.opening_id)).overdue_at is None
    assert (await house.notes(opening.opening_id)).count("opening_overdue") == 1


async def test_it_is_overdue_also_while_the_bank_does_not_answer(house: House) -> None:
    """A person should hear of it all the more."""
    openings = await house.openings()
    opening = await opened(house, openings)
    house.bank.bank.answers(500, operation="opening_status")
    house.clock.advance(days=1)

    assert await house.turn(openings) == {"failed": 1}
    assert (await house.stored(opening.opening_id)).overdue_at == house.clock.now()
    assert (await house.work(opening.opening_id)).last_error == "lfi_unavailable"


async def test_after_ninety_days_nobody_asks_but_an_event_is_still_heard(house: House) -> None:
    """Abandoned is said once."""
    openings = await house.openings()
    opening = await opened(house, openings)
    house.clock.advance(days=89)
    outcomes = [await house.turn(openings)]
    house.clock.advance(days=1)

    outcomes.append(await house.turn(openings))
    abandoned = await house.stored(opening.opening_id)
    await house.ask_now(opening.opening_id)
    move(house, opening, "Completed")
    outcomes.append(await house.turn(openings))

    assert outcomes == [{"overdue": 1}, {"abandoned": 1}, {"ended": 1}]
    assert abandoned.overdue_at is None
    assert (await house.notes(opening.opening_id)).count("opening_abandoned") == 1
    assert (await house.stored(opening.opening_id)).state is S.COMPLETED


async def test_what_is_personal_is_destroyed_when_its_time_is_over(house: House) -> None:
    """Also of one that was abandoned; states and history stay."""
    openings = await house.openings(retention=timedelta(days=30))
    ended, abandoned = await opened(house, openings), await opened(house, openings)
    move(house, ended, "Rejected")
    await openings.ask(ended)
    house.clock.advance(days=95)
    await house.ask_now(abandoned.opening_id)  # an event, after nobody hoped any more
    await house.turn(openings)

    house.clock.advance(days=26)
    while await house.turn(openings):
        pass

    for one in (ended, abandoned):
        contents = await house.contents(one.opening_id)
        assert (contents.request, contents.raw, contents.information) == (None, None, None)
        assert await house.history(one.opening_id) != []


# -- events switched ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [V.V2_0, V.V2_1])
async def test_events_are_switched_at_the_path_of_the_version(house: House, version: OpeningVersion) -> None:
    """PATCH, 204; the address only where it changes."""
    openings = await house.openings(version)
    opening = await opened(house, openings, webhook="https://tpp.example/events")

    switched = await openings.subscribe(opening.opening_id, active=False)

    (held,) = house.desk.facts()
    assert (opening.webhook_active, switched.webhook_active) == (True, False)
    assert held["subscription"] == {"Webhook": {"Url": "https://tpp.example/events", "IsActive": False}}


async def test_a_version_that_cannot_switch_events_says_so(house: House) -> None:
    """v2.0-errata1 publishes no way."""
    openings = await house.openings(V.V2_0_ERRATA1)
    opening = await opened(house, openings)

    with pytest.raises(RequestError, match=r"subscription: v2\.0-errata1 has no way"):
        await openings.subscribe(opening.opening_id, active=True, url="https://tpp.example/events")


async def test_a_refused_switch_changes_nothing(house: House) -> None:
    """The bank wants an address the first time."""
    openings = await house.openings()
    opening = await opened(house, openings)

    with pytest.raises(RefusedError):
        await openings.subscribe(opening.opening_id, active=True)

    assert (await house.stored(opening.opening_id)).webhook_active is None


# -- handed over -------------------------------------------------------------------------------------------------------


async def test_an_opened_account_becomes_a_consent(house: House) -> None:
    """Prepared with the permissions wished for, linked, and completed by its user at the bank's page."""
    openings = await house.openings()
    opening = await opened(house, openings, share=WISH)
    move(house, opening, "Completed", user=house.bank.users[0])
    house.clock.advance(hours=1)

    outcomes = await house.turn(openings)
    handed = await house.stored(opening.opening_id)
    assert handed.intent_id is not None
    started = await house.authorizer.open(handed.intent_id)
    completed = await house.authorizer.complete(await house.bank.approve(started.url, user=house.bank.users[0]))

    async with house.store.reading() as unit:
        connection = await unit.consents.connection(completed.connection_id)
        consent = await unit.consents.get(completed.consent_id)
    assert outcomes == {"ended": 1}
    assert (await house.stored(opening.opening_id)).consent_id == completed.consent_id
    assert connection is not None
    assert (connection.lfi, connection.user_ref) == (LFI, "customer-7")
    assert consent is not None
    assert (consent.permissions, consent.purpose, consent.account_types, consent.on_behalf_of) == (
        WISH.permissions,
        WISH.purpose,
        WISH.account_types,
        WISH.on_behalf_of,
    )
    assert handed.intent_id not in repr(handed)


async def test_it_is_handed_over_once_also_when_the_process_dies_in_between(house: House) -> None:
    """Whoever sees it completed next does it; who comes after that does nothing."""
    openings = await house.openings()
    opening = await opened(house, openings, share=WISH)
    move(house, opening, "Completed")
    await openings.ask(opening)  # filed, and nobody there to hand it over

    outcomes = await house.turn(openings)
    intent = (await house.stored(opening.opening_id)).intent_id
    await house.ask_now(opening.opening_id)
    await house.turn(openings)

    assert outcomes == {"ended": 1}
    assert intent is not None
    assert (await house.stored(opening.opening_id)).intent_id == intent
    assert (await house.notes(opening.opening_id)).count("opening_handed_over") == 1


async def test_one_that_was_rejected_or_not_wished_for_is_not_handed_over(house: House) -> None:
    """There is nothing to share, or nobody asked."""
    openings = await house.openings()
    rejected, unwished = await opened(house, openings, share=WISH), await opened(house, openings)
    move(house, rejected, "Rejected")
    move(house, unwished, "Completed")
    house.clock.advance(hours=1)

    assert await house.turn(openings) == {"ended": 2}
    assert {(await house.stored(one.opening_id)).intent_id for one in (rejected, unwished)} == {None}


async def test_a_wish_the_hub_would_refuse_is_said_once_and_holds_nothing_up(house: House) -> None:
    """Written by an older version, say: the account is open all the same."""
    openings = await house.openings()
    opening = await opened(house, openings, share=WISH)
    async with house.store.writing() as unit:
        await unit.openings.set_share(opening.opening_id, ShareWish(permissions=("ReadBalances",), days=900))
        await unit.commit()
    move(house, opening, "Completed")
    house.clock.advance(hours=1)

    outcomes = [await house.turn(openings)]
    await house.ask_now(opening.opening_id)
    outcomes.append(await house.turn(openings))

    assert outcomes == [{"ended": 1}, {"ended": 1}]
    assert (await house.notes(opening.opening_id)).count(NOT_HANDED_OVER) == 1


async def test_sharing_may_begin_at_once(house: House) -> None:
    """For a user who sits before the screen; again for one who was too slow."""
    openings = await house.openings()
    opening = await opened(house, openings)
    with pytest.raises(RequestError, match="data is shared once it is completed"):
        await openings.share(opening.opening_id, wish=WISH)
    move(house, opening, "Completed")
    await openings.ask(opening)
    with pytest.raises(RequestError, match="no wish was kept"):
        await openings.share(opening.opening_id)

    first = await openings.share(opening.opening_id, wish=WISH)
    second = await openings.share(opening.opening_id)

    assert first.consent_id != second.consent_id
    assert (await house.stored(opening.opening_id)).consent_id == second.consent_id


# -- allow-lists -------------------------------------------------------------------------------------------------------


async def test_outside_the_allow_lists_no_opening_is_asked_about_or_switched(house: House) -> None:
    """Whatever was begun before the lists were set."""
    opening = await opened(house, await house.openings())
    shut = await house.openings(allowed=Allowed(user_refs=frozenset({"customer-8"})))

    for call in (shut.ask(opening), shut.subscribe(opening.opening_id, active=True)):
        with pytest.raises(NotAllowedError):
            await call

    assert looks(house) == 0


async def test_the_dispatcher_claims_openings_of_listed_customers_alone(house: House) -> None:
    """The others wait in the table."""
    openings = await house.openings()
    mine, _ = await opened(house, openings), await opened(house, openings, user_ref="customer-8")
    house.clock.advance(hours=1)

    async with house.store.writing() as unit:
        claims = await unit.work.claim(WorkKind.OPENING, slots={LFI: 10}, user_refs={"customer-7"})

    assert [claim.subject for claim in claims] == [mine.opening_id]
