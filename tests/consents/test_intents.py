"""What a user is to be asked for is pushed when they open it, and not before."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from syncworker.consents.authorize import INTENT_LIFE, OPENINGS_MAX, AuthorizationStarted, Authorizer, Ending
from syncworker.errors import AuthorizationFailedError, RequestError
from syncworker.standard.values import ConsentId
from syncworker.store.authorizations import StoredIntent
from tests.consents.house import LFI, House, request

pytestmark = pytest.mark.flow


def pushed(house: House) -> int:
    """Requests the bank took."""
    return int(house.bank.bank.log.counters.get("par 201", 0)) + int(house.bank.bank.log.counters.get("par 200", 0))


async def stored(house: House, intent_id: str) -> StoredIntent:
    async with house.store.reading() as unit:
        intent = await unit.intents.get(intent_id)
    assert intent is not None
    return intent


async def cause_of(authorizer: Authorizer, intent_id: str) -> str | None:
    with pytest.raises(AuthorizationFailedError) as failed:
        await authorizer.open(intent_id)
    return failed.value.cause


async def home(house: House, authorizer: Authorizer, started: AuthorizationStarted) -> ConsentId:
    return (await authorizer.complete(await house.bank.approve(started.url, user=house.bank.users[0]))).consent_id


async def test_nothing_is_sent_before_the_user_opens_it(house: House) -> None:
    """The bank hears of it with the first opening, in the terms that were intended; then its consent comes home."""
    authorizer = await house.authorizer()
    asked = request(house.clock, from_date=house.clock.now().date())
    intended = await authorizer.intend(LFI, asked, user_ref="customer-0", return_url="https://shop.example/back?id=7")
    before = pushed(house)
    house.clock.advance(hours=23)

    started = await authorizer.open(intended.intent_id)
    consent = await house.consent(await home(house, authorizer, started))

    async with house.store.reading() as unit:
        found = await unit.intents.of_state(started.state)
    assert (before, pushed(house)) == (0, 1)
    assert consent.consent_id != asked.consent_id
    assert (consent.permissions, consent.expires_at, consent.from_date, consent.user_ref) == (
        asked.permissions,
        asked.expires_at,
        asked.from_date,
        "customer-0",
    )
    assert found is not None
    assert (found.intent_id, found.return_url, found.consent_id, found.completed_at) == (
        intended.intent_id,
        "https://shop.example/back?id=7",
        consent.consent_id,
        house.clock.now(),
    )


async def test_a_double_click_is_one_request(house: House) -> None:
    """The second opening within seconds gets the address of the first."""
    authorizer = await house.authorizer()
    intended = await authorizer.intend(LFI, request(house.clock))
    first = await authorizer.open(intended.intent_id)
    house.clock.advance(seconds=5)

    assert (await authorizer.open(intended.intent_id), pushed(house)) == (first, 1)


async def test_a_user_who_comes_back_gets_a_new_request(house: House) -> None:
    """A `request_uri` is good for one visit of the bank's page; the one that is completed counts."""
    authorizer = await house.authorizer()
    intended = await authorizer.intend(LFI, request(house.clock))
    first = await authorizer.open(intended.intent_id)
    house.clock.advance(minutes=1)

    second = await authorizer.open(intended.intent_id)
    consent_id = await home(house, authorizer, second)

    assert (first.consent_id != second.consent_id, pushed(house), consent_id) == (True, 2, second.consent_id)
    assert (await stored(house, intended.intent_id)).opened == 2


async def test_who_declined_may_open_it_again(house: House) -> None:
    """Nothing came home, so the intent stands."""
    authorizer = await house.authorizer()
    intended = await authorizer.intend(LFI, request(house.clock))
    started = await authorizer.open(intended.intent_id)
    redirect = await house.bank.decide(started.url, user=house.bank.users[0], approve=False)
    with pytest.raises(AuthorizationFailedError):
        await authorizer.complete(redirect)

    assert (await authorizer.open(intended.intent_id)).consent_id != started.consent_id


async def test_an_intent_that_cannot_be_opened_says_why(house: House) -> None:
    """Unknown, completed and too late have names of their own, and the bank hears of none."""
    authorizer = await house.authorizer()
    done = await authorizer.intend(LFI, request(house.clock))
    waiting = await authorizer.intend(LFI, request(house.clock))
    await home(house, authorizer, await authorizer.open(done.intent_id))
    asked = pushed(house)
    causes: Sequence[Any] = [await cause_of(authorizer, one) for one in (done.intent_id, "nobody", "\x00", "x" * 65)]
    house.clock.advance(hours=INTENT_LIFE / timedelta(hours=1))

    assert [*causes, await cause_of(authorizer, waiting.intent_id), pushed(house)] == [
        Ending.INTENT_COMPLETED,
        *[Ending.UNKNOWN_INTENT] * 3,
        Ending.INTENT_EXPIRED,
        asked,
    ]


async def test_a_link_cannot_keep_a_bank_busy(house: House) -> None:
    """It can be opened only so often."""
    authorizer = await house.authorizer()
    intended = await authorizer.intend(LFI, request(house.clock))
    async with house.store.writing() as unit:
        for _ in range(OPENINGS_MAX):
            await unit.intents.pushed(intended.intent_id, consent_id=ConsentId("c"))
        await unit.commit()

    assert (await cause_of(authorizer, intended.intent_id), pushed(house)) == (Ending.OPENED_TOO_OFTEN, 0)


@pytest.mark.parametrize(
    ("changes", "options", "field"),
    [
        pytest.param({"permissions": ()}, {}, "permissions", id="no permission"),
        pytest.param({"base_consent_id": ConsentId("nobody")}, {}, "base_consent_id", id="a root we do not hold"),
        pytest.param({}, {"user_ref": ""}, "user_ref", id="an empty user_ref"),
        pytest.param({}, {"return_url": "https://x.example/" + "y" * 2048}, "return_url", id="a return URL too long"),
    ],
)
async def test_what_no_hub_would_take_is_not_intended(
    house: House, changes: dict[str, Any], options: dict[str, Any], field: str
) -> None:
    """The product hears it, not the user who clicks tomorrow."""
    with pytest.raises(RequestError, match=rf"^{field}: "):
        await (await house.authorizer()).intend(LFI, request(house.clock, **changes), **options)


async def test_another_product_opens_nothing_of_ours(house: House) -> None:
    """Intents belong to their tenant, and their ids tell nobody anything in a log."""
    intended = await (await house.authorizer()).intend(LFI, request(house.clock))
    async with house.store.reading() as unit:
        unit.tenant = "another"
        found = await unit.intents.get(intended.intent_id)

    assert (found, intended.intent_id in repr(intended)) == (None, False)
