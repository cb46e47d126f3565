"""The allow-lists of live proving: outside them nothing is sent, and the refusal has a name."""

from datetime import timedelta
from typing import Any

import pytest

from syncworker.consents.allowed import Allowed
from syncworker.errors import NotAllowedError, SyncWorkerError
from syncworker.store.work import Claim, WorkKind
from tests.consents.house import LFI, House, request

pytestmark = pytest.mark.flow

NOBODY = Allowed(user_refs=frozenset({"somebody-else"}))
NO_LFI = Allowed(lfis=frozenset({"another-bank"}))


@pytest.mark.parametrize(
    ("lists", "says"), [(NOBODY, r"^allow\.user_refs: .*nothing was sent"), (NO_LFI, r"^allow\.lfis: does not name")]
)
async def test_no_authorisation_is_begun_outside_the_lists(lists: Allowed, says: str, house: House) -> None:
    """The refusal names the list, not the customer, and the bank hears nothing."""
    authorizer = await house.authorizer(allowed=lists)
    with pytest.raises(NotAllowedError, match=says) as refused:
        await authorizer.begin(LFI, request(house.clock), user_ref="customer-0")

    assert ("customer-0" in str(refused.value), refused.value.code) == (False, "not_allowed")
    assert house.bank.bank.log.facts(0)["entries"] == []


async def test_a_redirect_waits_until_its_customer_is_allowed(house: House) -> None:
    """Nothing is used up by the refusal: the same redirect brings the consent home afterwards."""
    started = await (await house.authorizer()).begin(LFI, request(house.clock), user_ref="customer-0")
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    with pytest.raises(NotAllowedError):
        await (await house.authorizer(allowed=NOBODY)).complete(redirect)

    completed = await (await house.authorizer()).complete(redirect)
    assert completed.status == "Authorized"


@pytest.mark.parametrize("lists", [NOBODY, NO_LFI])
async def test_no_token_is_given_or_refreshed_outside_the_lists(lists: Allowed, house: House) -> None:
    """Not even one that is stored and good: without a token there is no data call."""
    completed = await house.consented()
    before = await house.token(completed.consent_id)
    vault = await house.vault(allowed=lists)
    with pytest.raises(NotAllowedError):
        await vault.access_token(completed.consent_id)
    outcome = await vault.refresh(completed.consent_id, reason="test")

    assert (outcome.value, house.refreshes(), await house.token(completed.consent_id)) == ("refused", [], before)


async def test_work_outside_the_lists_waits_in_the_table(house: House) -> None:
    """Of two customers whose work is due, only the allowed one's is claimed, of every kind."""
    one, other = await house.consented(user=0), await house.consented(user=1)
    house.clock.advance(hours=1)

    async def claimed(**lists: Any) -> list[Claim]:
        async with house.store.writing() as unit:
            sync = await unit.work.claim(WorkKind.SYNC, slots={LFI: 10}, lease=timedelta(seconds=1), **lists)
            token = await unit.work.claim(WorkKind.TOKEN, slots={LFI: 10}, lease=timedelta(seconds=1), **lists)
            await unit.commit()
        house.clock.advance(seconds=2)
        return [*sync, *token]

    proving = await claimed(user_refs=["customer-1"])
    live = await claimed()

    assert {claim.subject for claim in proving} == {other.consent_id}
    assert {claim.kind for claim in proving} == {WorkKind.SYNC, WorkKind.TOKEN}
    assert {claim.subject for claim in live} == {one.consent_id, other.consent_id}


def test_an_empty_list_allows_nobody() -> None:
    """It is not the same as no list."""
    with pytest.raises(SyncWorkerError):
        Allowed(lfis=frozenset()).check(LFI)
    assert Allowed().within([LFI]) == [LFI]
