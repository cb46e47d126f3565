"""The token side over real mTLS: what is sent, how often, and what each answer means."""

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from syncworker.errors import (
    ClientRejectedError,
    GrantLostError,
    LFIRateLimitedError,
    LFIUnavailableError,
    RefusedError,
    SetupError,
    StandardViolationError,
    SyncWorkerError,
)
from syncworker.lfi.api import LFIClient
from syncworker.lfi.jose import verify
from syncworker.lfi.keys import SigningKey
from syncworker.lfi.oauth import TokenAnswer
from syncworker.lfi.transport import Call, NoAnswerError
from syncworker.standard.values import ConsentId
from tests.lfi.conftest import ClientMaker, MovableClock
from tests.lfi.raw_bank import (
    BASE_PATH,
    CLIENT_ID,
    REDIRECT_URI,
    Identities,
    RawBank,
    Request,
    cuts,
    hangs,
    http,
    json_of,
    says,
)

pytestmark = pytest.mark.live

DISCOVERY = "/.well-known/openid-configuration"
CONSENT = f"{BASE_PATH}/account-access-consents/c-1"
TOKENS = {"access_token": "at-1", "refresh_token": "rt-2", "token_type": "Bearer", "expires_in": 600}
VIEW = {"Data": {"ConsentId": "c-1", "Status": "Authorized", "ExpirationDateTime": "2027-01-01T00:00:00Z"}}


def _claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    read: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return read


async def test_a_refresh_sends_one_form_with_a_fresh_assertion(
    bank: RawBank, client: LFIClient, calls: list[Call], config: Any
) -> None:
    """Escaped once (trap 5), `client_id` beside the assertion, an interaction id, and a signature that holds."""
    bank.replies["/token"] = says(http(body=json_of(TOKENS)))

    answer = await client.refresh(SecretStr("rt+/= &1"), calls=calls.append)

    (request,) = bank.heard("/token")
    form = request.form
    assertion = form.pop("client_assertion")
    assert (request.method, request.headers["content-type"], form) == (
        "POST",
        "application/x-www-form-urlencoded",
        {
            "grant_type": "refresh_token",
            "refresh_token": "rt+/= &1",
            "client_id": CLIENT_ID,
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        },
    )
    assert b"client_assertion_type=urn%3Aietf%3Aparams" in request.body
    assert verify(SecretStr(assertion), {"sig-1": config.signing_key.jwk})["aud"] == bank.origin
    assert answer.expires_at == answer.received_at + timedelta(seconds=600)
    assert request.headers["x-fapi-interaction-id"] == calls[-1].interaction_id


NO_ANSWERS = [
    pytest.param(cuts, id="cut after the request"),
    pytest.param(hangs, id="hangs"),
    pytest.param(says(http(500)), id="500"),
    pytest.param(says(http(503, retry_after="1")), id="503"),
    pytest.param(says(http(body=b"<html>", content_type="text/html")), id="HTML with 200"),
    pytest.param(says(http(body=b"x" * 11_000_000)), id="too large"),
    pytest.param(says(b"nonsense\r\n\r\n"), id="no HTTP"),
    pytest.param(says(http(302, location="/elsewhere")), id="redirect"),
]


@pytest.mark.parametrize("reply", NO_ANSWERS)
async def test_a_refresh_without_a_definite_answer_is_in_doubt_and_sent_once(
    reply: Callable[[Request, asyncio.StreamWriter], Awaitable[None]],
    bank: RawBank,
    client_of: ClientMaker,
    calls: list[Call],
) -> None:
    """Rule 20: nobody knows whether the token was rotated, so only the vault may try again."""
    bank.replies["/token"] = reply
    with pytest.raises(LFIUnavailableError):
        await client_of(token_timeout=0.5).refresh(SecretStr("rt"), calls=calls.append)

    token_calls = [call for call in calls if call.operation == "CreateAccessTokenRequest"]
    assert (len(bank.heard("/token")), len(token_calls), token_calls[0].price_class) == (1, 1, "free")
    assert token_calls[0].status == 200 or token_calls[0].error_code


async def test_waiting_for_a_connection_takes_nothing_from_a_calls_deadline(
    bank: RawBank, client_of: ClientMaker, calls: list[Call]
) -> None:
    """Two slow answers, one connection: the second call is whole or was never sent, and both end in time."""

    async def slowly(_request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.7)
        writer.write(http(body=json_of(TOKENS)))

    bank.replies["/token"] = slowly
    client = client_of(connections=1, token_timeout=1.0)
    await client.discovery()
    async with asyncio.timeout(2.0):
        outcomes = await asyncio.gather(
            *(client.refresh(SecretStr("rt-1"), calls=calls.append) for _ in range(2)), return_exceptions=True
        )

    assert [type(outcome) for outcome in outcomes] == [TokenAnswer, NoAnswerError]
    assert len(bank.heard("/token")) == 1


async def test_a_refresh_on_a_connection_that_died_is_sent_once(
    bank: RawBank, client: LFIClient, calls: list[Call]
) -> None:
    """Also when the connection was kept from an earlier call."""
    turns = [says(http(body=json_of(TOKENS))), cuts, says(http(body=json_of(TOKENS)))]

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        await turns.pop(0)(request, writer)

    bank.replies["/token"] = reply
    await client.refresh(SecretStr("rt-1"), calls=calls.append)
    with pytest.raises(LFIUnavailableError):
        await client.refresh(SecretStr("rt-2"), calls=calls.append)

    assert [request.form["refresh_token"] for request in bank.heard("/token")] == ["rt-1", "rt-2"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(http(400, json_of({"error": "invalid_grant"})), GrantLostError, id="invalid_grant"),
        pytest.param(http(401, json_of({"error": "invalid_client"})), ClientRejectedError, id="invalid_client"),
        pytest.param(http(400, json_of({"error": "invalid_request"})), RefusedError, id="invalid_request"),
        pytest.param(http(429, retry_after="9"), LFIRateLimitedError, id="429"),
    ],
)
async def test_a_definite_refusal_is_told_by_its_kind(
    answer: bytes, error: type[SyncWorkerError], bank: RawBank, client: LFIClient, calls: list[Call]
) -> None:
    """After one request."""
    bank.replies["/token"] = says(answer)
    with pytest.raises(error):
        await client.refresh(SecretStr("rt"), calls=calls.append)

    assert len(bank.heard("/token")) == 1


async def test_no_assertion_is_sent_twice(bank: RawBank, client: LFIClient, calls: list[Call]) -> None:
    """Trap 3: a `jti` of its own for each attempt, on both endpoints."""
    bank.replies["/token"] = says(http(500))
    bank.replies["/par"] = says(http(500))
    for _ in range(3):
        with pytest.raises(LFIUnavailableError):
            await client.refresh(SecretStr("rt"), calls=calls.append)
        with pytest.raises(LFIUnavailableError):
            await client.push_authorization([{}], state="s", nonce="n", code_challenge="c", calls=calls.append)

    sent = [*bank.heard("/token"), *bank.heard("/par")]
    assert len({_claims(request.form["client_assertion"])["jti"] for request in sent}) == 6


@pytest.mark.parametrize(("par_client_id", "more"), [(False, {}), (True, {"client_id": CLIENT_ID})])
async def test_a_push_sends_the_request_object_and_nothing_beside_it(
    par_client_id: bool, more: dict[str, str], bank: RawBank, client_of: ClientMaker, calls: list[Call]
) -> None:
    """D-9: no `client_id` field unless the LFI wants one."""
    bank.replies["/par"] = says(http(201, json_of({"request_uri": "urn:ietf:x", "expires_in": 90})))
    client = client_of(par_client_id=par_client_id)

    pushed = await client.push_authorization(
        [{"type": "t"}], state="s-1", nonce="n-1", code_challenge="ch", calls=calls.append
    )

    form = bank.heard("/par")[0].form
    request = _claims(form.pop("request"))
    assert form.pop("client_assertion")
    assert form == {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"} | more
    assert (request["aud"], request["state"], request["redirect_uri"]) == (bank.origin, "s-1", REDIRECT_URI)
    assert await client.authorization_url(pushed.request_uri) == (
        f"{bank.origin}/authorize?client_id={CLIENT_ID}&response_type=code&scope=openid&request_uri=urn%3Aietf%3Ax"
    )


def _id_claims(bank: RawBank, **changes: Any) -> dict[str, Any]:
    now = int(datetime.now(UTC).timestamp())
    return {"iss": bank.origin, "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": "n-1", "sub": "u"} | changes


async def _exchange(client: LFIClient, calls: list[Call]) -> Any:
    return await client.exchange_code(
        SecretStr("code"), code_verifier=SecretStr("verifier"), nonce="n-1", calls=calls.append
    )


async def test_a_code_is_traded_with_its_verifier(
    bank: RawBank, identities: Identities, client: LFIClient, calls: list[Call]
) -> None:
    """And an ID token that holds passes."""
    bank.replies["/token"] = says(http(body=json_of(TOKENS | {"id_token": identities.id_token(_id_claims(bank))})))

    answer = await _exchange(client, calls)

    form = bank.heard("/token")[0].form
    assert {name: form[name] for name in ("grant_type", "code", "redirect_uri", "code_verifier", "client_id")} == {
        "grant_type": "authorization_code",
        "code": "code",
        "redirect_uri": REDIRECT_URI,
        "code_verifier": "verifier",
        "client_id": CLIENT_ID,
    }
    assert answer.refresh_token == SecretStr("rt-2")


async def test_an_exchange_without_an_id_token_passes(bank: RawBank, client: LFIClient, calls: list[Call]) -> None:
    """It is optional in the schema."""
    bank.replies["/token"] = says(http(body=json_of(TOKENS)))

    assert (await _exchange(client, calls)).id_token is None


@pytest.mark.parametrize("changes", [{"nonce": "other"}, {"aud": "other"}, {"iss": "https://o.example"}, {"exp": 1}])
async def test_a_wrong_id_token_fails_the_exchange(
    changes: dict[str, Any], bank: RawBank, identities: Identities, client: LFIClient, calls: list[Call]
) -> None:
    """Tokens beside it are not believed either."""
    id_token = identities.id_token(_id_claims(bank, **changes))
    bank.replies["/token"] = says(http(body=json_of(TOKENS | {"id_token": id_token})))

    with pytest.raises(StandardViolationError, match=r"^id_token: "):
        await _exchange(client, calls)


async def test_a_new_key_of_the_bank_is_fetched_once_a_minute_at_most(
    bank: RawBank, identities: Identities, client: LFIClient, clock: MovableClock, calls: list[Call]
) -> None:
    """An unknown kid is worth one look, but not one for each token (rule 38)."""
    id_token = identities.id_token(_id_claims(bank), kid="bank-2")
    bank.replies["/token"] = says(http(body=json_of(TOKENS | {"id_token": id_token})))
    bank.replies["/jwks"] = says(
        http(body=json_of(identities.jwks("bank-1"))), http(body=json_of(identities.jwks("bank-1", "bank-2")))
    )
    for _ in range(3):
        with pytest.raises(StandardViolationError):
            await _exchange(client, calls)
    before = len(bank.heard("/jwks"))
    clock.advance(seconds=61)
    await _exchange(client, calls)

    assert (before, len(bank.heard("/jwks"))) == (1, 2)


async def test_keys_nobody_can_fetch_do_not_cost_the_code(bank: RawBank, client: LFIClient, calls: list[Call]) -> None:
    """They are looked up before the code is spent."""
    bank.replies["/jwks"] = says(http(500))
    with pytest.raises(LFIUnavailableError):
        await _exchange(client, calls)

    assert bank.heard("/token") == []


async def test_keys_that_vanish_during_the_exchange_do_not_cost_its_answer(
    bank: RawBank, identities: Identities, client: LFIClient, calls: list[Call]
) -> None:
    """Keys that may not be kept are good for the exchange they were fetched for."""
    bank.replies["/jwks"] = says(
        http(body=json_of(identities.jwks("bank-1")), cache_control="no-store"), http(500), http(500), http(500)
    )
    id_token = identities.id_token(_id_claims(bank))
    bank.replies["/token"] = says(http(body=json_of(TOKENS | {"id_token": id_token})))

    assert (await _exchange(client, calls)).refresh_token == SecretStr("rt-2")


async def test_a_document_not_to_be_kept_does_not_come_between_two_calls(
    bank: RawBank, client: LFIClient, clock: MovableClock
) -> None:
    """A fetch there would eat the time of a refresh that has written its intent."""
    bank.replies[DISCOVERY] = says(http(body=json_of(bank.discovery()), cache_control="no-store"))
    for _ in range(3):
        await client.discovery()
    before = len(bank.heard(DISCOVERY))
    clock.advance(seconds=61)
    await client.discovery()

    assert (before, len(bank.heard(DISCOVERY))) == (1, 2)


async def test_discovery_is_kept_for_its_max_age(bank: RawBank, client: LFIClient, clock: MovableClock) -> None:
    """50 callers at once read it once; a minute later it is read again."""
    bank.replies[DISCOVERY] = says(http(body=json_of(bank.discovery()), cache_control="public, max-age=60"))
    await asyncio.gather(*(client.discovery() for _ in range(50)))
    clock.advance(seconds=59)
    await client.discovery()
    first = len(bank.heard(DISCOVERY))
    clock.advance(seconds=2)
    await client.discovery()

    assert (first, len(bank.heard(DISCOVERY))) == (1, 2)


async def test_callers_who_wait_share_a_failure(bank: RawBank, client: LFIClient) -> None:
    """A bank that is down costs each of 50 waiting calls one wait, not fifty."""
    bank.replies[DISCOVERY] = says(http(503))
    outcomes = await asyncio.gather(*(client.discovery() for _ in range(50)), return_exceptions=True)

    assert ({type(outcome) for outcome in outcomes}, len(bank.heard(DISCOVERY))) == ({LFIUnavailableError}, 3)


async def test_a_caller_that_leaves_does_not_take_the_others_along(bank: RawBank, client: LFIClient) -> None:
    """The shared fetch goes on when the one who started it is cancelled."""
    first = asyncio.create_task(client.discovery())
    await asyncio.sleep(0)
    second = asyncio.create_task(client.discovery())
    await asyncio.sleep(0)
    first.cancel()

    assert ((await second).issuer, len(bank.heard(DISCOVERY))) == (bank.origin, 1)


async def test_a_document_serves_on_while_the_issuer_is_down(
    bank: RawBank, client: LFIClient, clock: MovableClock
) -> None:
    """For a day, asked for again once a minute; after that its absence is an error."""
    document = await client.discovery()
    bank.replies[DISCOVERY] = says(http(503))
    clock.advance(minutes=16)
    served = [await client.discovery() for _ in range(3)]
    asked = len(bank.heard(DISCOVERY)) - 1
    clock.advance(days=1)

    with pytest.raises(LFIUnavailableError):
        await client.discovery()
    assert ({found.token_endpoint for found in served}, asked) == ({document.token_endpoint}, 3)


async def test_a_document_of_another_issuer_stops_everything_before_a_secret_is_sent(
    bank: RawBank, client: LFIClient, calls: list[Call]
) -> None:
    """The error names the setting and the fix."""
    bank.replies[DISCOVERY] = says(http(body=json_of(bank.discovery(issuer="https://other.example"))))
    with pytest.raises(SetupError, match=r"^lfis\.raw\.issuer: .*compare both with the directory"):
        await client.refresh(SecretStr("rt"), calls=calls.append)

    assert bank.heard("/token") == []


async def test_a_redirected_discovery_is_not_followed(bank: RawBank, client: LFIClient) -> None:
    """Endpoints come from the declared document alone."""
    bank.replies[DISCOVERY] = says(http(302, location=f"{bank.origin}/other"))
    with pytest.raises(StandardViolationError, match="redirects are not followed"):
        await client.discovery()

    assert bank.heard("/other") == []


async def test_a_consent_is_read_with_a_token_of_our_own_and_the_token_kept(
    bank: RawBank, client: LFIClient, clock: MovableClock, calls: list[Call]
) -> None:
    """Trap 12: client credentials; one token for many reads, until its margin of 15 % at most a minute."""
    bank.replies["/token"] = says(http(body=json_of({"access_token": "cc", "token_type": "Bearer", "expires_in": 100})))
    bank.replies[CONSENT] = says(http(body=json_of(VIEW)))
    views = await asyncio.gather(*(client.read_consent(ConsentId("c-1"), calls=calls.append) for _ in range(10)))
    clock.advance(seconds=80)
    await client.read_consent(ConsentId("c-1"), calls=calls.append)
    kept = len(bank.heard("/token"))
    clock.advance(seconds=6)
    await client.read_consent(ConsentId("c-1"), calls=calls.append)

    form = bank.heard("/token")[0].form
    assert (form["grant_type"], form["scope"], kept, len(bank.heard("/token"))) == (
        "client_credentials",
        "openid accounts",
        1,
        2,
    )
    assert {(view.consent_id, view.status) for view in views} == {("c-1", "Authorized")}
    assert {request.headers["authorization"] for request in bank.heard(CONSENT)} == {"Bearer cc"}


async def test_an_own_token_that_is_refused_is_replaced_once(
    bank: RawBank, client: LFIClient, calls: list[Call]
) -> None:
    """A 401 drops it; the second 401 is the answer."""
    tokens = [http(body=json_of({"access_token": f"cc-{n}", "expires_in": 600})) for n in (1, 2, 3)]
    bank.replies["/token"] = says(*tokens)
    bank.replies[CONSENT] = says(http(401), http(body=json_of(VIEW)), http(401))

    await client.read_consent(ConsentId("c-1"), calls=calls.append)
    with pytest.raises(RefusedError) as caught:
        await client.read_consent(ConsentId("c-1"), calls=calls.append)

    assert (caught.value.status, [request.headers["authorization"] for request in bank.heard(CONSENT)]) == (
        401,
        ["Bearer cc-1", "Bearer cc-2", "Bearer cc-2", "Bearer cc-3"],
    )


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(http(404), RefusedError, id="404"),
        pytest.param(http(body=json_of([])), StandardViolationError, id="list"),
        pytest.param(http(body=json_of({"Data": {"ConsentId": "c-1"}})), StandardViolationError, id="no status"),
        pytest.param(
            http(body=json_of({"Data": {"ConsentId": "c-2", "Status": "Authorized"}})),
            StandardViolationError,
            id="another consent",
        ),
    ],
)
async def test_a_consent_that_cannot_be_read_says_why(
    answer: bytes, error: type[SyncWorkerError], bank: RawBank, client: LFIClient, calls: list[Call]
) -> None:
    """The answer must be about the consent that was asked for."""
    bank.replies["/token"] = says(http(body=json_of({"access_token": "cc", "expires_in": 600})))
    bank.replies[CONSENT] = says(answer)
    with pytest.raises(error):
        await client.read_consent(ConsentId("c-1"), calls=calls.append)


CHAIN = f"{BASE_PATH}/account-access-consents"
ROOT = {"Data": {"ConsentId": "c-1", "Status": "Revoked"}}
NEXT = {"Data": {"ConsentId": "c-2", "BaseConsentId": "c-1", "Status": "Authorized"}}
BARE = {"ConsentId": "c-2", "Status": "Authorized"}
CHAINS = [
    pytest.param(json_of([ROOT, NEXT]), ["c-1", "c-2"], id="bare array, as the standard has it"),
    pytest.param(b"\xef\xbb\xbf" + json_of([ROOT]), ["c-1"], id="behind a byte order mark"),
    pytest.param(json_of({"Data": [ROOT["Data"], NEXT["Data"]], "Links": {}}), ["c-1", "c-2"], id="wrapped once"),
    pytest.param(json_of({"Data": [ROOT, NEXT]}), ["c-1", "c-2"], id="wrapped twice"),
    pytest.param(json_of([BARE]), ["c-2"], id="without BaseConsentId, which is optional"),
    pytest.param(json_of(ROOT), ["c-1"], id="a single one"),
    pytest.param(json_of([]), [], id="none"),
]


@pytest.mark.parametrize(("body", "ids"), CHAINS)
async def test_the_consents_of_a_chain_are_read_in_whatever_wrapping(
    body: bytes, ids: list[str], bank: RawBank, client: LFIClient, calls: list[Call]
) -> None:
    """D-33; asked with a token of our own and the root in the query, encoded."""
    bank.replies["/token"] = says(http(body=json_of({"access_token": "cc", "expires_in": 600})))
    bank.replies[CHAIN] = says(http(body=body))

    views = await client.consents_of_base(ConsentId("c-1"), calls=calls.append)

    (request,) = bank.heard(CHAIN)
    assert [view.consent_id for view in views] == ids
    assert (request.target, request.headers["authorization"], calls[-1].operation, calls[-1].price_class) == (
        f"{CHAIN}?baseConsentId=c-1",
        "Bearer cc",
        "GetAccountAccessConsentsByBaseConsentId",
        "free",
    )


async def test_a_chain_nobody_knows_is_empty(bank: RawBank, client: LFIClient, calls: list[Call]) -> None:
    """404 is listed for it; an id is encoded, never pasted."""
    bank.replies["/token"] = says(http(body=json_of({"access_token": "cc", "expires_in": 600})))

    assert await client.consents_of_base(ConsentId("c 1&x=/"), calls=calls.append) == ()
    assert bank.heard(CHAIN)[0].target == f"{CHAIN}?baseConsentId=c%201%26x%3D%2F"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(json_of({"Data": {}}), id="empty object"),
        pytest.param(json_of("c-1"), id="text"),
        pytest.param(json_of([ROOT, 7]), id="a number among them"),
        pytest.param(json_of([{"Data": {"ConsentId": "c-3"}}]), id="without status"),
        pytest.param(json_of([{"ConsentId": "c-3", "BaseConsentId": "c-9", "Status": "Authorized"}]), id="of another"),
    ],
)
async def test_a_chain_that_cannot_be_read_is_a_violation(
    body: bytes, bank: RawBank, client: LFIClient, calls: list[Call]
) -> None:
    """Half a chain would look like a whole one."""
    bank.replies["/token"] = says(http(body=json_of({"access_token": "cc", "expires_in": 600})))
    bank.replies[CHAIN] = says(http(body=body))

    with pytest.raises(StandardViolationError, match=r"^GetAccountAccessConsentsByBaseConsentId: "):
        await client.consents_of_base(ConsentId("c-1"), calls=calls.append)


async def test_cookies_of_the_token_side_are_not_kept(bank: RawBank, client: LFIClient, calls: list[Call]) -> None:
    """One customer's would go out with the next one's call."""
    bank.replies["/token"] = says(http(body=json_of(TOKENS), set_cookie="session=1; Path=/"))
    for _ in range(2):
        await client.refresh(SecretStr("rt"), calls=calls.append)

    assert ["cookie" in request.headers for request in bank.heard("/token")] == [False, False]


SECRETS = ("marked-rt", "marked-at", "marked-new", "marked-code", "marked-verifier", "marked-mr-smith")


async def test_no_secret_reaches_a_log_a_repr_or_an_exception(
    bank: RawBank, client: LFIClient, calls: list[Call], caplog: pytest.LogCaptureFixture
) -> None:
    """Marked secrets go through refusals, violations and successes; every output is searched for them."""
    caplog.set_level(logging.DEBUG)
    outputs: list[str] = []
    with structlog.testing.capture_logs() as events:
        for answer in (
            http(body=json_of(TOKENS | {"access_token": "marked-at", "refresh_token": "marked-new"})),
            http(400, json_of({"error": "invalid_grant", "error_description": "marked-mr-smith"})),
            http(400, json_of({"error": "marked-mr-smith is unknown"})),
            http(body=b'{"access_token": "marked-at", "refresh'),
        ):
            bank.replies["/token"] = says(answer)
            try:
                outputs.append(repr(await client.refresh(SecretStr("marked-rt"), calls=calls.append)))
                await client.exchange_code(
                    SecretStr("marked-code"), code_verifier=SecretStr("marked-verifier"), nonce="n", calls=calls.append
                )
            except SyncWorkerError as error:
                outputs += [repr(error), str(error), repr(error.__cause__)]
    outputs += [repr(calls), repr(events), caplog.text]

    assert [secret for secret in SECRETS for output in outputs if secret in output] == []


async def test_httpx_tells_no_addresses(bank: RawBank, client: LFIClient, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO it prints full URLs (rule 37)."""
    caplog.set_level(logging.INFO)
    await client.discovery()

    assert (caplog.text, logging.getLogger("httpx").level) == ("", logging.WARNING)


async def test_a_client_can_be_closed_before_its_first_call(client: LFIClient) -> None:
    """Nothing was opened yet."""
    await client.close()


def test_the_repr_of_a_loaded_key_is_short(identities: Identities) -> None:
    """Beside the tokens, the keys stay silent too."""
    assert "RSAKey" not in repr(SigningKey.load(identities.signing_key, "sig-1"))
