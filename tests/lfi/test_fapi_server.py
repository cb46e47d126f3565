"""Against a FAPI 2.0 server that nobody here wrote (Authlib's), as `docs/fapi-server.md` says it."""

import dataclasses
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from syncworker.errors import ClientRejectedError, GrantLostError, SettingsError
from syncworker.lfi.api import LFIClient, TokenAnswer, read_redirect
from syncworker.lfi.checkup import Verdict, walk
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.jose import code_challenge, new_code_verifier
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.lfi.transport import Call, no_log
from syncworker.standard.consents import ConsentRequest, authorization_details
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from tests.lfi.authlib_server import EXPIRES_IN, OUR_KID, SERVER_KID, FapiServer
from tests.lfi.conftest import MovableClock
from tests.lfi.raw_bank import CLIENT_ID, REDIRECT_URI, Identities, new_key

pytestmark = pytest.mark.live


@pytest.fixture
async def server(identities: Identities) -> AsyncIterator[FapiServer]:
    server = FapiServer(identities)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def settings(server: FapiServer, identities: Identities) -> LFIConfig:
    """What the guide says to set, and nothing else."""
    return LFIConfig(
        slug=Slug("own-server"),
        issuer=server.issuer,
        discovery_url=server.discovery_url,
        base_urls={Version.V2_1: server.base_url},
        client_id=CLIENT_ID,
        redirect_uri=REDIRECT_URI,
        signing_key=SigningKey.load(identities.signing_key, OUR_KID),
        transport=TransportCertificate.load(
            identities.client_certificate, identities.client_key, now=datetime.now(UTC)
        ),
        ca_bundle=identities.ca_bundle,
        allow_private_hosts=True,
        par_client_id=True,
    )


@pytest.fixture
async def client(settings: LFIConfig, clock: MovableClock) -> AsyncIterator[LFIClient]:
    client = LFIClient(settings, clock=clock)
    yield client
    await client.close()


async def consented(client: LFIClient, identities: Identities) -> TokenAnswer:
    """PAR, the user's visit, the redirect, the code's exchange with a verified ID token."""
    verifier, state, nonce = new_code_verifier(), "state-1", "nonce-1"
    request = ConsentRequest(permissions=("ReadAccountsBasic",), expires_at=datetime.now(UTC) + timedelta(days=30))
    pushed = await client.push_authorization(
        authorization_details(request, version=Version.V2_1),
        state=state,
        nonce=nonce,
        code_challenge=code_challenge(verifier),
        calls=no_log,
    )
    browser = ssl.create_default_context(cafile=str(identities.ca_bundle))
    async with httpx.AsyncClient(verify=browser, trust_env=False) as user:
        answer = await user.get(await client.authorization_url(pushed.request_uri))
    redirect = read_redirect(answer.headers["location"])
    assert redirect.code is not None
    assert (redirect.state, redirect.issuer) == (state, client.config.issuer)
    return await client.exchange_code(redirect.code, code_verifier=verifier, nonce=nonce, calls=no_log)


async def test_a_consent_comes_home_and_its_data_is_read(
    client: LFIClient, server: FapiServer, identities: Identities
) -> None:
    """PAR answered 201, a login page with a query, tokens that do not tell of the consent, data without Links.Next."""
    tokens = await consented(client, identities)

    async def token(*, rejected: SecretStr | None = None) -> SecretStr:
        return tokens.access_token

    pages = [
        page
        async for page in client.pages(
            BY_NAME[ResourceName.ACCOUNTS], None, version=Version.V2_1, params={}, token=token, calls=no_log
        )
    ]
    (asked,) = (details[0]["consent"]["ConsentId"] for details in server.details)
    consent = await client.read_consent(ConsentId(asked), calls=no_log)

    assert (tokens.expires_in, tokens.id_token is not None, tokens.consent) == (EXPIRES_IN, True, None)
    assert (consent.consent_id, consent.status) == (asked, "Authorized")
    assert [page.data for page in pages] == [b'{"Account": [{"AccountId": "a-1"}]}']
    assert [one[0]["type"] for one in server.details] == ["urn:openfinanceuae:account-access-consent:v2.1"]


async def test_refresh_tokens_rotate_and_an_old_one_is_lost(client: LFIClient, identities: Identities) -> None:
    """The new one works, the old one is `invalid_grant`."""
    first = await consented(client, identities)
    assert first.refresh_token is not None
    second = await client.refresh(first.refresh_token, calls=no_log)

    assert second.refresh_token not in (None, first.refresh_token)
    with pytest.raises(GrantLostError):
        await client.refresh(first.refresh_token, calls=no_log)


async def test_the_check_finds_nothing_wrong(settings: LFIConfig, clock: MovableClock) -> None:
    """Four ports, one name, a private CA: every host is looked at once."""
    findings = [finding async for finding in walk(settings, clock=clock)]

    assert [one for one in findings if one.verdict is Verdict.BAD] == []
    said = {one.check: one.said for one in findings}
    assert {"discovery host", "token host", "PAR host", "data host v2.1"} <= said.keys()
    assert said["published keys"] == f"1 for signatures: kid {SERVER_KID}"
    assert said["client-credentials token"] == f"given, good for {EXPIRES_IN} s: the LFI knows us"


@pytest.mark.parametrize("wrong", ["client_id", "key"])
async def test_a_registration_that_does_not_fit_is_named(
    wrong: str, settings: LFIConfig, clock: MovableClock, tmp_path: Path
) -> None:
    """Another client id, or another key under the registered kid: refused by Authlib, told as what to compare."""
    other = {"client_id": {"client_id": "somebody-else"}, "key": {"signing_key": SigningKey.of(new_key(), OUR_KID)}}
    client = LFIClient(dataclasses.replace(settings, **other[wrong]), clock=clock)  # type: ignore[arg-type]  # either
    try:
        with pytest.raises(ClientRejectedError, match="check client id, signing key and its kid"):
            await client.prove_registration()
    finally:
        await client.close()


def test_loopback_is_refused_until_it_is_said(settings: LFIConfig) -> None:
    """The message names the setting."""
    with pytest.raises(SettingsError, match="allow_private_hosts = true"):
        dataclasses.replace(settings, allow_private_hosts=False)


async def test_each_call_carries_the_interaction_id(settings: LFIConfig, clock: MovableClock) -> None:
    """The operator's log names what the server saw."""
    calls: list[Call] = []
    client = LFIClient(settings, clock=clock, log=calls.append)
    await client.prove_registration()
    await client.close()

    assert [call.operation for call in calls] == ["GetOpenIdConfiguration", "CreateAccessTokenRequest"]
    assert len({call.interaction_id for call in calls}) == 2
