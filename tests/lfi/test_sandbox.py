"""The whole way at the sandbox bank, which checks everything with its own code: PAR to pages, refresh and consent."""

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from syncworker.errors import GrantLostError, LFIUnavailableError, RefusedError, StandardViolationError
from syncworker.lfi.api import LFIClient, TokenAnswer, read_redirect
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.jose import code_challenge, new_code_verifier
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.lfi.transport import Call
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.consents import ConsentRequest, Status, authorization_details
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import AccountId, ConsentId, Slug
from syncworker.standard.versions import Version
from tests.lfi.conftest import MovableClock

pytestmark = pytest.mark.live

PERMISSIONS = (
    "ReadAccountsBasic",
    "ReadAccountsDetail",
    "ReadBalances",
    "ReadTransactionsBasic",
    "ReadTransactionsDetail",
)


@pytest.fixture(scope="module")
def keys_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set of keys for all sandboxes of this module."""
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture
def options() -> dict[str, Any]:
    """Of the sandbox, beside what all tests take."""
    return {}


@pytest.fixture
async def sandbox(keys_folder: Path, options: dict[str, Any]) -> AsyncIterator[Sandbox]:
    async with Sandbox(keys_folder, customers=2, page_size=50, **options) as sandbox:
        yield sandbox


@pytest.fixture
async def client(sandbox: Sandbox, clock: MovableClock, calls: list[Call]) -> AsyncIterator[LFIClient]:
    us = sandbox.client

    async def no_wait(_seconds: float) -> None:
        return None

    client = LFIClient(
        LFIConfig(
            slug=Slug("sandbox"),
            issuer=sandbox.issuer,
            discovery_url=sandbox.discovery_url,
            base_urls={Version.V2_1: sandbox.resource_base_url},
            client_id=us.client_id,
            redirect_uri=us.redirect_uri,
            signing_key=SigningKey.load(us.signing_key, us.signing_kid),
            transport=TransportCertificate.load(us.transport_certificate, us.transport_key, now=clock.now()),
            ca_bundle=sandbox.ca_bundle,
            allow_private_hosts=True,
        ),
        clock=clock,
        log=calls.append,
        sleep=no_wait,
    )
    yield client
    await client.close()


class Held:
    """One consent at the sandbox: its id and what its tokens are now."""

    def __init__(self, consent_id: ConsentId, tokens: TokenAnswer) -> None:
        self.consent_id = consent_id
        self.tokens = tokens

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        return self.tokens.access_token

    @property
    def refresh_token(self) -> SecretStr:
        assert self.tokens.refresh_token is not None
        return self.tokens.refresh_token


async def _consent(client: LFIClient, sandbox: Sandbox, calls: list[Call]) -> Held:
    request = ConsentRequest(permissions=PERMISSIONS, expires_at=datetime.now(UTC) + timedelta(days=90))
    verifier, state, nonce = new_code_verifier(), str(uuid.uuid4()), str(uuid.uuid4())
    pushed = await client.push_authorization(
        authorization_details(request, version=Version.V2_1),
        state=state,
        nonce=nonce,
        code_challenge=code_challenge(verifier),
        calls=calls.append,
    )
    url = await client.authorization_url(pushed.request_uri)
    redirect = read_redirect(await sandbox.approve(url, user=sandbox.users[0]))
    assert (redirect.state, redirect.issuer) == (state, sandbox.issuer)
    assert redirect.code is not None
    tokens = await client.exchange_code(redirect.code, code_verifier=verifier, nonce=nonce, calls=calls.append)
    return Held(request.consent_id, tokens)


@pytest.fixture
async def held(client: LFIClient, sandbox: Sandbox, calls: list[Call]) -> Held:
    return await _consent(client, sandbox, calls)


async def _accounts(client: LFIClient, held: Held, calls: list[Call]) -> list[AccountId]:
    walk = client.pages(
        BY_NAME[ResourceName.ACCOUNTS], None, version=Version.V2_1, params={}, token=held, calls=calls.append
    )
    return [AccountId(item["AccountId"]) async for page in walk for item in json.loads(page.data)["Account"]]


async def _transactions(client: LFIClient, held: Held, account: AccountId, calls: list[Call]) -> tuple[int, list[str]]:
    """How many pages there were, and the ids on them."""
    walk = client.pages(
        BY_NAME[ResourceName.TRANSACTIONS], account, version=Version.V2_1, params={}, token=held, calls=calls.append
    )
    pages = [json.loads(page.data)["Transaction"] async for page in walk]
    return len(pages), [item["TransactionId"] for page in pages for item in page]


async def test_a_consent_is_given_and_its_tokens_tell_its_state(held: Held) -> None:
    """The strict bank accepted PAR, assertion, PKCE and redirect; the ID token held."""
    consent = held.tokens.consent
    assert consent is not None
    assert held.tokens.id_token is not None
    assert (consent.consent_id, consent.status, consent.permissions) == (
        held.consent_id,
        Status.Authorized,
        PERMISSIONS,
    )


async def test_a_declined_consent_comes_back_as_an_error(
    client: LFIClient, sandbox: Sandbox, calls: list[Call]
) -> None:
    """With the state it belongs to."""
    request = ConsentRequest(permissions=PERMISSIONS, expires_at=datetime.now(UTC) + timedelta(days=90))
    pushed = await client.push_authorization(
        authorization_details(request, version=Version.V2_1),
        state="state-1",
        nonce="nonce-1",
        code_challenge=code_challenge(new_code_verifier()),
        calls=calls.append,
    )
    url = await client.authorization_url(pushed.request_uri)

    redirect = read_redirect(await sandbox.decide(url, user=sandbox.users[0], approve=False))

    assert (redirect.code, redirect.state, redirect.issuer, redirect.error) == (
        None,
        "state-1",
        sandbox.issuer,
        "access_denied",
    )


async def test_every_transaction_of_the_bank_arrives(
    client: LFIClient, sandbox: Sandbox, held: Held, calls: list[Call]
) -> None:
    """Over as many pages as it takes, compared with the bank's own ledger."""
    read = {
        account: await _transactions(client, held, account, calls) for account in await _accounts(client, held, calls)
    }

    (books,) = sandbox.bank.books(held.consent_id)["consents"]
    truth: dict[str, list[str]] = {account: [] for account in books["account_ids"]}
    for row in books["resources"]["transactions"]:
        truth[row["account_id"]] += row["key"]
    assert {account: sorted(ids) for account, (_, ids) in read.items()} == {a: sorted(ids) for a, ids in truth.items()}
    assert max(pages for pages, _ in read.values()) > 1


async def test_a_refresh_rotates_and_the_old_token_is_dead(client: LFIClient, held: Held, calls: list[Call]) -> None:
    """The strict bank revokes the grant when it sees the old one again."""
    renewed = await client.refresh(held.refresh_token, calls=calls.append)
    with pytest.raises(GrantLostError) as caught:
        await client.refresh(held.refresh_token, calls=calls.append)

    assert (renewed.refresh_token != held.refresh_token, caught.value.cause) == (True, "invalid_grant")


async def test_a_refreshed_token_reads(client: LFIClient, held: Held, calls: list[Call]) -> None:
    """And the one before it, too, until it expires."""
    held.tokens = await client.refresh(held.refresh_token, calls=calls.append)

    assert await _accounts(client, held, calls)


async def test_a_consent_is_read_by_client_credentials(
    client: LFIClient, sandbox: Sandbox, held: Held, calls: list[Call]
) -> None:
    """Also after the customer revoked it at the bank."""
    before = await client.read_consent(held.consent_id, calls=calls.append)
    sandbox.bank.revoke(held.consent_id)
    after = await client.read_consent(held.consent_id, calls=calls.append)

    assert (before.status, after.status, after.revoked_by) == (
        Status.Authorized,
        Status.Revoked,
        "LFI.InitiatedByUser",
    )


async def test_a_revoked_consent_gives_no_data(
    client: LFIClient, sandbox: Sandbox, held: Held, calls: list[Call]
) -> None:
    """A definite refusal, after at most one newer token was asked for."""
    sandbox.bank.revoke(held.consent_id)

    with pytest.raises(RefusedError):
        await _accounts(client, held, calls)


async def test_a_refresh_whose_answer_is_lost_is_in_doubt(
    client: LFIClient, sandbox: Sandbox, held: Held, calls: list[Call]
) -> None:
    """The bank rotated, we do not know: one call, no definite answer."""
    sandbox.bank.drop_response("token")

    with pytest.raises(LFIUnavailableError):
        await client.refresh(held.refresh_token, calls=calls.append)

    assert [call.error_code for call in calls if call.operation == "CreateAccessTokenRequest"] == ["", "lost"]


async def test_the_faults_of_the_sandbox_are_told_apart(
    client: LFIClient, sandbox: Sandbox, held: Held, calls: list[Call]
) -> None:
    """HTML with 200, a link to another path: violations; a truncated body: tried again and healed."""
    account = max([(await _transactions(client, held, a, calls), a) for a in await _accounts(client, held, calls)])[1]
    sandbox.bank.html("transactions", times=1)
    with pytest.raises(StandardViolationError, match="Content-Type is not JSON"):
        await _transactions(client, held, account, calls)
    sandbox.bank.foreign_link("transactions", times=1)
    with pytest.raises(StandardViolationError, match="another path"):
        await _transactions(client, held, account, calls)
    sandbox.bank.truncated("transactions", times=1)

    assert (await _transactions(client, held, account, calls))[1]


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        pytest.param({"mtls_aliases": True}, {"mtls"}, id="aliases"),
        pytest.param({}, {"as"}, id="none"),
    ],
)
async def test_calls_with_a_certificate_go_to_the_addresses_for_mutual_tls(
    client: LFIClient, sandbox: Sandbox, held: Held, calls: list[Call], hosts: set[str]
) -> None:
    """PAR, code exchange, refresh and client credentials, at the port the document names beside the plain one."""
    await client.refresh(held.refresh_token, calls=calls.append)
    await client.read_consent(held.consent_id, calls=calls.append)

    served = [one for one in sandbox.bank.log.served() if one.operation == "par" or one.operation.startswith("token")]
    operations = ["par", "token.authorization_code", "token.refresh_token", "token.client_credentials"]
    assert [one.operation for one in served] == operations
    assert {one.host for one in served} == hosts
    assert {one.status for one in served} <= {200, 201}
