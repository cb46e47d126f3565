"""Who may talk to the authorisation server: the registered certificate with a fresh assertion."""

import ssl
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from syncworker.simulator.sandbox import Sandbox
from tests.simulator.tpp import ABSENT, TPP

pytestmark = pytest.mark.flow

NOW = int(datetime.now(UTC).timestamp())


@pytest.mark.parametrize(
    ("bent", "because"),
    [
        pytest.param({"iss": "x"}, "iss must be the client id", id="another iss"),
        pytest.param({"sub": "x"}, "sub must be the client id", id="another sub"),
        pytest.param({"sub": ABSENT}, "sub is missing", id="no sub"),
        pytest.param({"aud": "https://127.0.0.1/token"}, "aud must be the issuer", id="aud is an endpoint"),
        pytest.param({"aud": ["x"]}, "aud must be the issuer", id="aud as a list"),
        pytest.param({"iat": NOW, "exp": NOW + 301}, "at most 300 seconds", id="lives longer than 300 s"),
        pytest.param({"iat": NOW - 400, "exp": NOW - 200}, "not valid now", id="expired"),
        pytest.param({"iat": NOW + 3600, "exp": NOW + 3700}, "not valid now", id="from the future"),
        pytest.param({"iat": ABSENT}, "iat is missing", id="no iat"),
        pytest.param({"nbf": NOW + 3600}, "nbf lies in the future", id="nbf in the future"),
        pytest.param({"jti": "1"}, "jti must be a UUID", id="jti is no UUID"),
        pytest.param({"jti": ABSENT}, "jti is missing", id="no jti"),
    ],
)
async def test_a_bent_assertion_is_refused(tpp: TPP, bent: dict[str, Any], because: str) -> None:
    """invalid_client, and the description names the claim."""
    fields = tpp.assertion(**bent)
    answer = await tpp.token(grant_type="client_credentials", scope="accounts", **fields)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client")
    assert because in answer.json()["error_description"]


async def test_an_assertion_is_good_for_one_request(tpp: TPP) -> None:
    """A retry that sends the same assertion fails (trap 3)."""
    fields = tpp.assertion() | {"grant_type": "client_credentials", "scope": "accounts"}
    assert (await tpp.token(**fields)).status_code == 200
    again = await tpp.token(**fields)
    assert again.json() == {"error": "invalid_client", "error_description": "client_assertion.jti was used before"}


async def test_a_used_assertion_stays_used_after_a_restart(bank_dir: Path) -> None:
    """The bank writes down which ids it has seen."""
    jti = str(uuid.uuid4())
    answers = []
    for _ in range(2):
        async with Sandbox(bank_dir, customers=1) as sandbox, TPP(sandbox) as tpp:
            fields = tpp.assertion(jti=jti)
            answers.append(await tpp.token(grant_type="client_credentials", scope="accounts", **fields))
    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[1].json()["error_description"] == "client_assertion.jti was used before"


async def test_without_a_certificate_there_is_no_connection(sandbox: Sandbox) -> None:
    """as1 and rs1 want one in the handshake; auth1 does not, a browser comes there."""
    context = ssl.create_default_context(cafile=str(sandbox.ca_bundle))
    async with httpx.AsyncClient(verify=context, trust_env=False) as bare:
        assert (await bare.get(sandbox.discovery_url)).status_code == 200
        for host in (sandbox.addresses.tokens, sandbox.addresses.resources):
            with pytest.raises(httpx.TransportError):
                await bare.get(host)


async def test_another_clients_certificate_is_refused(sandbox: Sandbox) -> None:
    """Certified by the same authority, but not the registered one."""
    now = datetime.now(UTC)
    stranger = sandbox.identity.issue_client_certificate(
        "stranger",
        common_name=str(uuid.uuid4()),
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(hours=1),
    )
    async with TPP(sandbox, certificate=stranger) as tpp:
        answer = await tpp.token(grant_type="client_credentials", scope="accounts")
    assert answer.json() == {
        "error": "invalid_client",
        "error_description": "the TLS client certificate is not the registered one",
    }


async def test_private_files_are_for_their_owner_alone(sandbox: Sandbox) -> None:
    """Keys, and the key to the books."""
    modes = {path.name: path.stat().st_mode & 0o777 for path in sandbox.data_dir.glob("*.key")}
    assert set(modes.values()) == {0o600}
    assert {
        "tpp-signing.key",
        "tpp-transport.key",
        "lfi-signing.key",
        "server.key",
        "ca.key",
        "books.key",
    } <= modes.keys()


async def test_a_restarted_bank_keeps_its_identity(bank_dir: Path) -> None:
    """The same client id, keys and authority."""
    first, second = (Sandbox(bank_dir, customers=1) for _ in range(2))
    assert first.client == second.client
    assert first.identity.client_thumbprint == second.identity.client_thumbprint
    assert first.identity.lfi_kid == second.identity.lfi_kid
