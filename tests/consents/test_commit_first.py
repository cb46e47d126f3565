"""What leaves the house leaves it after the commit that says so: a call that was not written down is not made.

A refresh token is good once, a code is good once, and an access token that is not stored is lost with its process.
Here the statement succeeds and the commit fails, so that whatever acts before its commit is seen to act.
"""

import pytest

from syncworker.consents.authorize import Ending
from syncworker.store.failures import StoreRefusedError
from tests.consents.house import LFI, House, request
from tests.ground.commits import refuse_commits, take_commits

pytestmark = pytest.mark.flow


async def test_no_refresh_is_sent_whose_intent_was_not_committed(house: House, database_url: str) -> None:
    """The bank hears nothing, and the stored token is still the one it would take."""
    consent_id = (await house.consented()).consent_id
    refuse_commits(database_url, "token")

    with pytest.raises(StoreRefusedError):
        await (await house.vault()).refresh(consent_id, reason="asked")

    assert house.refreshes(consent_id) == []
    take_commits(database_url, "token")
    await (await house.vault()).refresh(consent_id, reason="asked")
    assert await house.stored_is_current(consent_id)


async def test_no_access_token_is_given_out_that_was_not_committed(house: House, database_url: str) -> None:
    """The bank rotated, the answer cannot be stored: who waits gets the fault and no token."""
    consent_id = (await house.consented()).consent_id
    before = await house.token(consent_id)
    house.clock.advance(seconds=590)
    refuse_commits(database_url, "token", when="NEW.version > OLD.version")
    vault = await house.vault()

    with pytest.raises(StoreRefusedError):
        await vault.access_token(consent_id)

    assert len(house.refreshes(consent_id)) == 1
    after = await house.token(consent_id)
    assert (after.version, after.access_token) == (before.version, before.access_token)


async def test_no_code_is_sent_whose_use_was_not_committed(house: House, database_url: str) -> None:
    """The authorisation stays unused, and the same redirect brings the consent home later."""
    authorizer = await house.authorizer()
    started = await authorizer.begin(LFI, request(house.clock))
    redirect = await house.bank.approve(started.url, user=house.bank.users[0])
    refuse_commits(database_url, "authorization")

    with pytest.raises(StoreRefusedError):
        await authorizer.complete(redirect)

    codes = [entry for entry in house.bank.bank.log.tokens() if entry.grant_type == "authorization_code"]
    assert codes == []
    take_commits(database_url, "authorization")
    assert (await authorizer.complete(redirect)).status == "Authorized"
    async with house.store.reading() as unit:
        row = await unit.authorizations.of(started.consent_id)
    assert row is not None
    assert row.outcome == Ending.AUTHORIZED


async def test_no_address_is_given_out_that_was_not_committed(house: House, database_url: str) -> None:
    """A user is not sent to a bank whose redirect could not be checked."""
    refuse_commits(database_url, "authorization", on="INSERT")

    with pytest.raises(StoreRefusedError):
        await (await house.authorizer()).begin(LFI, request(house.clock))
