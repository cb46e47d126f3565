"""The bank's signed answers, read with another library than the one it signs with."""

import json
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from syncworker.simulator.books import Books
from syncworker.simulator.identity import thumbprint_of
from syncworker.simulator.sandbox import Sandbox
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.live

JWT = "application/jwt"


async def _get(tpp: TPP, tokens: Tokens, path: str, accept: str | None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {tokens.access}"} | ({"Accept": accept} if accept else {})
    return await tpp.http.get(tpp.sandbox.resource_base_url + path, headers=headers)


async def _opened(tpp: TPP, answer: httpx.Response) -> dict[str, Any]:
    jwks = (await tpp.http.get(f"{tpp.sandbox.issuer}/jwks")).json()
    token = jwt.decode(answer.text, KeySet.import_key_set(jwks), algorithms=["PS256"])
    return {"header": dict(token.header), "claims": dict(token.claims)}


async def test_a_caller_that_accepts_jwt_alone_gets_it(sandbox: Sandbox, tpp: TPP, tokens: Tokens) -> None:
    """Signed with the key of the JWKS, around the very bytes of the plain answer."""
    plain = await _get(tpp, tokens, "/accounts", "application/json")
    answer = await _get(tpp, tokens, "/accounts", JWT)

    opened = await _opened(tpp, answer)
    claims = opened["claims"]
    assert (answer.status_code, answer.headers["content-type"]) == (200, JWT)
    assert (claims.pop("message"), claims["iss"], claims["aud"]) == (
        plain.json(),
        sandbox.issuer,
        [sandbox.client.client_id],
    )
    assert set(claims) == {"iss", "aud", "iat", "nbf", "exp"}


@pytest.mark.parametrize(
    ("mode", "accept", "status", "content_type"),
    [
        ("asked", "application/json", 200, "application/json"),
        ("asked", "application/json, application/jwt", 200, "application/json"),
        ("asked", None, 200, "application/json"),
        ("always", "application/json", 200, JWT),
        ("never", JWT, 406, None),
        ("never", "application/json", 200, "application/json"),
        ("asked", "text/html", 406, None),
    ],
)
async def test_the_form_follows_the_mode_and_the_accept_header(
    mode: str, accept: str | None, status: int, content_type: str | None, sandbox: Sandbox, tpp: TPP, tokens: Tokens
) -> None:
    """JSON unless something else is asked for, or the bank knows nothing else."""
    sandbox.bank.configure(signed_answers=mode)
    answer = await _get(tpp, tokens, "/accounts", accept)

    assert (answer.status_code, answer.headers.get("content-type")) == (status, content_type)


async def test_a_refusal_with_a_body_is_signed_too(sandbox: Sandbox, tpp: TPP, tokens: Tokens) -> None:
    """403 has a signed form; 401 and 404 have no body to sign."""
    sandbox.bank.configure(signed_answers="always")
    sandbox.bank.revoke(tokens.consent_id)
    gone = await _get(tpp, tokens, "/accounts", None)
    sandbox.bank.answers(403, times=1, operation="accounts", code="Consent.AccountTemporarilyBlocked")
    refused = await _get(tpp, tokens, "/accounts", None)

    assert (gone.status_code, gone.content, refused.status_code) == (401, b"", 403)
    assert (await _opened(tpp, refused))["claims"]["message"]["Errors"][0]["Code"] == (
        "Consent.AccountTemporarilyBlocked"
    )


async def test_a_forged_answer_has_a_signature_that_does_not_hold(sandbox: Sandbox, tpp: TPP, tokens: Tokens) -> None:
    """Once, as ordered; what is not signed cannot be forged."""
    sandbox.bank.forged("accounts", times=2)
    plain = await _get(tpp, tokens, "/accounts", None)
    forged = await _get(tpp, tokens, "/accounts", JWT)
    good = await _get(tpp, tokens, "/accounts", JWT)

    assert json.loads(plain.content)["Data"]["Account"]
    assert (await _opened(tpp, good))["claims"]["message"] == plain.json()
    with pytest.raises(Exception, match="bad_signature"):
        await _opened(tpp, forged)


async def test_a_renewed_certificate_is_good_beside_the_old_one(bank_dir: Any, tmp_path: Any) -> None:
    """Tokens stay bound to the one they were asked for with; refresh tokens to none."""
    async with Sandbox(tmp_path, customers=1) as sandbox:
        old = TPP(sandbox)
        tokens = await old.consent()
        async with Books(sandbox.books_url, sandbox.books_key) as books:
            told = await books.do("renew_certificate")
        async with old, TPP(sandbox) as new:
            stays = await _get(old, tokens, "/accounts", None)
            foreign = await _get(new, tokens, "/accounts", None)
            renewed = await new.token(grant_type="refresh_token", refresh_token=tokens.refresh)
            tokens.access = renewed.json()["access_token"]
            mine = await _get(new, tokens, "/accounts", None)

        assert told == thumbprint_of(sandbox.client.transport_certificate)
        assert [one.status_code for one in (stays, foreign, renewed, mine)] == [200, 401, 200, 200]
