"""A user agreed and nothing came home: the consent is filed, and revoked at the Hub."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from syncworker.consents.authorize import (
    ASTRAY_FOR,
    NOT_HELD,
    SETTLED_WITHIN,
    Authorizer,
    Ending,
)
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.revoking import Revoking
from syncworker.errors import (
    AuthorizationFailedError,
    GateClosedError,
    LFIRateLimitedError,
    SyncWorkerError,
    TransientError,
)
from syncworker.lfi.api import LFIClient
from syncworker.lfi.traffic import FreeTraffic
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind, WorkRow
from tests.consents.house import LFI, House, config_of, request, token_due

pytestmark = pytest.mark.flow

Looking = Callable[[ConsentId], Awaitable[tuple[datetime | None, str]]]


@pytest.fixture
def store(sqlite_url: str, open_store: Callable[..., Store]) -> Store:
    """What is decided here is decided above the databases: one is enough."""
    return open_store(sqlite_url)


@pytest.fixture
async def look(house: House) -> Looking:
    """One look at a consent, as the claim of its row makes it."""
    lifecycle, client = await house.lifecycle(), await house.client()

    async def clients(_: Slug) -> LFIClient:
        return client

    polling = Polling(
        house.store,
        lifecycle,
        Revoking(house.store, clients, lifecycle),
        cadence=Cadence(),
        retention={},
        astray=(await house.authorizer()).astray,
    )
    return lambda consent_id: polling.look(Claim(1, WorkKind.CONSENT, consent_id, LFI, 1))


async def row(house: House, consent_id: ConsentId) -> WorkRow:
    async with house.store.reading() as unit:
        found = await unit.work.find(WorkKind.CONSENT, consent_id)
    assert found is not None
    return found


async def agreed(house: House, authorizer: Authorizer) -> tuple[ConsentId, str]:
    """A consent the user agreed to at the bank, and the redirect that says so."""
    started = await authorizer.begin(LFI, request(house.clock), user_ref="customer-0")
    return started.consent_id, await house.bank.approve(started.url, user=house.bank.users[0])


async def at_the_hub(house: House, consent_id: ConsentId) -> str:
    client = await house.client()
    return (await client.read_consent(consent_id, calls=lambda _: None)).status


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        pytest.param(lambda house: house.clock.advance(minutes=11), Ending.TOO_OLD, id="too old"),
        pytest.param(lambda house: house.clock.advance(minutes=5), Ending.CODE_REFUSED, id="code refused"),
        pytest.param(
            lambda house: house.bank.bank.drop_response("token.authorization_code"), Ending.CODE_UNANSWERED, id="cut"
        ),
        pytest.param(
            lambda house: house.bank.bank.answers(429, operation="token.authorization_code", times=1),
            Ending.FAILED,
            id="429",
        ),
    ],
)
async def test_what_the_user_agreed_to_and_nobody_holds_is_revoked(
    house: House, look: Looking, trouble: Callable[[House], object], cause: Ending
) -> None:
    """Whatever went wrong: the row is there with its reason, and the next look tells the Hub."""
    authorizer = await house.authorizer()
    consent_id, redirect = await agreed(house, authorizer)
    trouble(house)

    with pytest.raises(SyncWorkerError):
        await authorizer.complete(redirect)
    held = await house.consent(consent_id)
    due = (await row(house, consent_id)).due_at
    await look(consent_id)

    async with house.store.reading() as unit:
        begun = await unit.authorizations.of(consent_id)
    assert begun is not None
    assert (begun.outcome, held.revoke_by, due) == (cause, "TPP", house.clock.now())
    assert (NOT_HELD, {"ending": cause.value}) in await house.notes(consent_id)
    assert await at_the_hub(house, consent_id) == "Revoked"


async def test_a_process_that_dies_in_the_exchange_leaves_nothing_behind(house: House, look: Looking) -> None:
    """Its row is filed before the code is sent; once no exchange can be under way, the consent is revoked."""

    class DiedError(Exception):
        pass

    def die(name: str) -> None:
        if name == "answer-received":
            raise DiedError

    consent_id, redirect = await agreed(house, await house.authorizer())
    with pytest.raises(DiedError):
        await (await house.authorizer(checkpoint=die)).complete(redirect)
    house.clock.advance(minutes=2)
    first = await look(consent_id)
    early = await house.consent(consent_id)
    house.clock.advance(minutes=SETTLED_WITHIN / timedelta(minutes=1))

    second = await look(consent_id)
    await look(consent_id)

    assert (first[1], early.status, early.revoke_asked_at) == ("moved", "Authorized", None)
    assert (second, await at_the_hub(house, consent_id)) == ((house.clock.now(), "not_held"), "Revoked")


async def test_a_user_who_agreed_and_never_came_back_holds_no_consent(house: House, look: Looking) -> None:
    """Nothing is filed while they may still come; after that the Hub says whether they agreed."""
    consent_id, _ = await agreed(house, await house.authorizer())
    due = (await row(house, consent_id)).due_at
    early = await look(consent_id)
    house.clock.set(due)

    seen = await look(consent_id)
    await look(consent_id)

    assert (early, seen) == ((due, "under_way"), (due, "not_held"))
    assert (NOT_HELD, {"ending": "astray"}) in await house.notes(consent_id)
    assert ((await house.consent(consent_id)).status, await at_the_hub(house, consent_id)) == ("Revoked", "Revoked")


async def test_a_request_nobody_decided_about_leaves_no_row(house: House, look: Looking) -> None:
    """It is looked at once more after a day, since the user may have decided late, and then no more."""
    started = await (await house.authorizer()).begin(LFI, request(house.clock))
    begun = house.clock.now()
    house.clock.advance(hours=1)
    once = await look(started.consent_id)
    house.clock.set(begun + ASTRAY_FOR)
    twice = await look(started.consent_id)

    async with house.store.reading() as unit:
        held = await unit.consents.get(started.consent_id)
    assert (once, twice, held) == ((begun + ASTRAY_FOR, "never_came"), (None, "never_came"), None)


async def test_a_declined_consent_is_looked_at_though_the_hub_was_silent(house: House, look: Looking) -> None:
    """The refusal is filed at once; what the Hub makes of it is found out by a look."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    redirect = await house.bank.decide(started.url, user=house.bank.users[0], approve=False)
    house.bank.bank.answers(403, operation="consent", times=1)
    with pytest.raises(AuthorizationFailedError):
        await authorizer.complete(redirect)
    filed, due = await house.consent(started.consent_id), (await row(house, started.consent_id)).due_at
    house.clock.set(due)

    await look(started.consent_id)

    assert (filed.status, (await house.consent(started.consent_id)).status) == ("AwaitingAuthorization", "Rejected")


class _Closed(FreeTraffic):
    """An LFI that asked us to wait."""

    async def admit(self, operations: OperationClass) -> None:
        raise GateClosedError("not now", retry_after=60)


async def test_what_fails_before_the_code_is_sent_costs_nothing(house: House) -> None:
    """The LFI's keys cannot be fetched, its gate is closed: the same redirect brings the consent home afterwards."""
    authorizer = await house.authorizer()
    _, redirect = await agreed(house, authorizer)
    waits = LFIClient(config_of(house.bank.facts()), clock=house.clock, traffic=_Closed())
    house.stack.push_async_callback(waits.close)

    async def clients(_: Slug) -> LFIClient:
        return waits

    closed = Authorizer(house.store, clients, house.clock, token_due=token_due)
    with pytest.raises(LFIRateLimitedError):
        await closed.complete(redirect)
    house.bank.bank.drop_response("jwks", times=None)
    with pytest.raises(TransientError):
        await (await house.authorizer()).complete(redirect)
    house.bank.bank.clear_faults()

    assert (await authorizer.complete(redirect)).status == "Authorized"


async def test_one_link_brings_one_consent(house: House, look: Looking) -> None:
    """Opened twice and agreed to twice: the second consent is revoked, before its code is even sent."""
    authorizer = await house.authorizer()
    intended = await authorizer.intend(LFI, request(house.clock), user_ref="customer-0")
    first = await authorizer.open(intended.intent_id)
    house.clock.advance(minutes=1)
    second = await authorizer.open(intended.intent_id)
    redirects = [await house.bank.approve(one.url, user=house.bank.users[0]) for one in (first, second)]
    await authorizer.complete(redirects[0])
    codes = len(house.bank.bank.log.tokens())

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(redirects[1])
    sent = len(house.bank.bank.log.tokens()) - codes
    await look(second.consent_id)

    async with house.store.reading() as unit:
        intent = await unit.intents.get(intended.intent_id)
    assert intent is not None
    assert (failed.value.cause, sent, intent.consent_id) == (Ending.INTENT_COMPLETED, 0, first.consent_id)
    assert [await at_the_hub(house, one.consent_id) for one in (first, second)] == ["Authorized", "Revoked"]


async def test_of_two_exchanges_of_one_link_the_second_is_given_up(house: House) -> None:
    """Both redirects were taken before either came home: the table decides, and no tokens of the other are kept."""
    others: list[Any] = []

    async def overtaken(name: str) -> None:
        if name == "answer-received" and others:
            await (await house.authorizer()).complete(others.pop())

    authorizer = await house.authorizer(checkpoint=overtaken)
    intended = await authorizer.intend(LFI, request(house.clock), user_ref="customer-0")
    slow = await authorizer.open(intended.intent_id)
    house.clock.advance(minutes=1)
    quick = await authorizer.open(intended.intent_id)
    redirect, other = [await house.bank.approve(one.url, user=house.bank.users[0]) for one in (slow, quick)]
    others.append(other)

    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.complete(redirect)

    async with house.store.reading() as unit:
        held = [await unit.tokens.exists(one.consent_id) for one in (slow, quick)]
    revoked = [(await house.consent(one.consent_id)).revoke_by for one in (slow, quick)]
    assert (failed.value.cause, held, revoked) == (Ending.INTENT_COMPLETED, [False, True], ["TPP", None])


async def test_events_are_asked_for_with_the_consent(house: House) -> None:
    """Where an address for events is set, the request carries it, and the bank has it."""
    authorizer = await house.authorizer(events_url="https://tpp.example/events")
    consent_id, redirect = await agreed(house, authorizer)
    await authorizer.complete(redirect)

    assert (await house.consent(consent_id)).webhook_active is True
