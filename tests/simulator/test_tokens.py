"""Codes and tokens: what is given out, what is honoured, what ends a grant."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from syncworker.simulator.books import Books
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.permissions import Permission
from tests.simulator.conftest import HandClock
from tests.simulator.tpp import TPP, Tokens

pytestmark = pytest.mark.flow


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]


async def test_a_code_becomes_tokens_and_the_consent(tpp: TPP, sandbox: Sandbox) -> None:
    """The answer carries the wrapped consent, Authorized, and an ID token for our nonce."""
    draft = tpp.draft()
    back = await tpp.code(draft, user=sandbox.users[0])
    body = (await tpp.exchange(back["code"], draft)).json()
    [detail] = body["authorization_details"]
    keys = KeySet.import_key_set((await tpp.http.get(f"{sandbox.issuer}/jwks")).json())
    claims = jwt.decode(body["id_token"], keys, algorithms=["PS256"]).claims
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 600, "accounts openid")
    assert detail["consent"]["Data"] | {"Status": "Authorized"} == detail["consent"]["Data"]
    assert detail["consent"]["Data"]["ConsentId"] == draft.consent["ConsentId"]
    assert (claims["iss"], claims["aud"]) == (sandbox.issuer, sandbox.client.client_id)
    assert claims["nonce"] == draft.claims["nonce"]


@pytest.mark.parametrize(
    ("bent", "because"),
    [
        pytest.param({"code": "x"}, "the code is unknown", id="an unknown code"),
        pytest.param({"code_verifier": "y" * 43}, "code_verifier does not match", id="another verifier"),
        pytest.param({"redirect_uri": "https://x.example"}, "redirect_uri is not that", id="another redirect URI"),
    ],
)
async def test_a_bent_exchange_is_refused(tpp: TPP, sandbox: Sandbox, bent: dict[str, str], because: str) -> None:
    """invalid_grant, with the cause."""
    draft = tpp.draft()
    back = await tpp.code(draft, user=sandbox.users[0])
    answer = await tpp.exchange(back["code"], draft, **bent)
    assert error(answer) == (400, "invalid_grant")
    assert because in answer.json()["error_description"]


async def test_a_code_used_twice_ends_what_came_of_it(tpp: TPP, sandbox: Sandbox) -> None:
    """The second use may be a thief's: both lose."""
    draft = tpp.draft()
    back = await tpp.code(draft, user=sandbox.users[0])
    first = (await tpp.exchange(back["code"], draft)).json()
    assert error(await tpp.exchange(back["code"], draft)) == (400, "invalid_grant")
    assert (await tpp.get("/accounts", first["access_token"])).status_code == 401


async def test_a_code_lives_two_minutes(tpp: TPP, sandbox: Sandbox) -> None:
    """Then it is invalid_grant."""
    draft = tpp.draft()
    back = await tpp.code(draft, user=sandbox.users[0])
    sandbox.bank.advance(121)
    assert (await tpp.exchange(back["code"], draft)).json()["error_description"] == "the code has expired"


async def test_rotation_always_uses_a_refresh_token_up(tpp: TPP, tokens: Tokens) -> None:
    """Strict: the old one ends the whole grant, the new one and its access token included."""
    fresh = (await tpp.refresh(tokens.refresh)).json()
    assert fresh["refresh_token"] != tokens.refresh
    reused = await tpp.refresh(tokens.refresh)
    assert error(reused) == (400, "invalid_grant")
    assert error(await tpp.refresh(fresh["refresh_token"])) == (400, "invalid_grant")
    assert (await tpp.get("/accounts", fresh["access_token"])).status_code == 401


async def test_a_lost_grant_leaves_the_consent_authorized(tpp: TPP, tokens: Tokens) -> None:
    """The Hub knows tokens and consents apart."""
    await tpp.refresh(tokens.refresh)
    await tpp.refresh(tokens.refresh)
    answer = await tpp.get(f"/account-access-consents/{tokens.consent_id}", await tpp.own_token())
    assert answer.json()["Data"]["Status"] == "Authorized"


async def test_rotation_never_gives_the_same_token_again(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """And goes on taking it."""
    sandbox.bank.configure(rotation="never")
    answers = [(await tpp.refresh(tokens.refresh)).json()["refresh_token"] for _ in range(2)]
    assert answers == [tokens.refresh, tokens.refresh]


async def test_rotation_omit_gives_none_and_takes_the_old(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """As the published schema of the refresh answer says (D-5)."""
    sandbox.bank.configure(rotation="omit")
    answers = [(await tpp.refresh(tokens.refresh)).json() for _ in range(2)]
    assert ["refresh_token" in answer for answer in answers] == [False, False]
    assert answers[0]["access_token"] != answers[1]["access_token"]


async def test_within_grace_an_old_token_brings_the_current_ones(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """So an answer that was lost can be asked for again."""
    sandbox.bank.configure(reuse="grace:30")
    lost = (await tpp.refresh(tokens.refresh)).json()
    again = (await tpp.refresh(tokens.refresh)).json()
    assert (again["access_token"], again["refresh_token"]) == (lost["access_token"], lost["refresh_token"])


async def test_after_grace_an_old_token_ends_the_grant(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """Thirty seconds are thirty seconds."""
    sandbox.bank.configure(reuse="grace:30")
    fresh = (await tpp.refresh(tokens.refresh)).json()
    sandbox.bank.advance(31)
    assert error(await tpp.refresh(tokens.refresh)) == (400, "invalid_grant")
    assert error(await tpp.refresh(fresh["refresh_token"])) == (400, "invalid_grant")


async def test_of_many_refreshes_at_once_one_wins(tpp: TPP, tokens: Tokens) -> None:
    """A strict bank then ends the grant: why we let one worker refresh at a time."""
    answers = await asyncio.gather(*(tpp.refresh(tokens.refresh) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7


async def test_the_bank_knows_the_live_refresh_token_without_telling_it(tpp: TPP, books: Books, tokens: Tokens) -> None:
    """By its SHA-256, through the other door."""
    fresh = (await tpp.refresh(tokens.refresh)).json()["refresh_token"]
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (tokens.refresh, fresh)]
    told = [
        await books.do("is_current", consent_id=tokens.consent_id, refresh_token_sha256=digest) for digest in digests
    ]
    assert told == [False, True]


async def test_a_refresh_after_revocation_is_invalid_grant(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """Tokens end with the consent."""
    sandbox.bank.revoke(tokens.consent_id)
    assert error(await tpp.refresh(tokens.refresh)) == (400, "invalid_grant")


async def test_a_suspended_consent_is_refreshed_and_says_so(tpp: TPP, sandbox: Sandbox, tokens: Tokens) -> None:
    """Suspended keeps its tokens; the answer carries the status."""
    sandbox.bank.suspend(tokens.consent_id)
    body = (await tpp.refresh(tokens.refresh)).json()
    assert body["authorization_details"][0]["consent"]["Data"]["Status"] == "Suspended"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"grant_type": "password"}, "unsupported_grant_type", id="an unknown grant"),
        pytest.param({}, "invalid_request", id="no grant type"),
        pytest.param({"grant_type": "client_credentials", "scope": "payments"}, "invalid_scope", id="a scope not ours"),
        pytest.param({"grant_type": "client_credentials"}, "invalid_request", id="no scope"),
        pytest.param({"grant_type": "refresh_token"}, "invalid_request", id="no refresh token"),
        pytest.param(
            {"grant_type": "refresh_token", "refresh_token": "x", "resource": "y"},
            "invalid_request",
            id="a field too many",
        ),
    ],
)
async def test_a_bent_token_request_is_refused(tpp: TPP, fields: dict[str, str], expected: str) -> None:
    """With the word OAuth has for it."""
    assert error(await tpp.token(**fields)) == (400, expected)


async def test_client_credentials_bring_no_consent(tpp: TPP) -> None:
    """The token is the client's own."""
    body = (await tpp.token(grant_type="client_credentials", scope="openid accounts")).json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "scope"}


@pytest.fixture
def hand() -> HandClock:
    return HandClock()


@pytest.fixture
async def short(bank_dir: Path, hand: HandClock) -> AsyncIterator[Sandbox]:
    """A bank by a hand-moved clock, with tokens of five seconds."""
    async with Sandbox(bank_dir, customers=1, access_token_seconds=5, now=hand) as sandbox:
        yield sandbox


async def test_an_access_token_ends_on_time_and_the_log_says_so(short: Sandbox, hand: HandClock) -> None:
    """401 at its end, not before; the log tells an expired token from an unknown one."""
    async with TPP(short) as tpp, Books(short.books_url, short.books_key) as books:
        tokens = await tpp.consent((Permission.ReadAccountsBasic,))
        hand.moment += timedelta(seconds=4)
        in_time = await tpp.get("/accounts", tokens.access)
        hand.moment += timedelta(seconds=1)
        too_late = await tpp.get("/accounts", tokens.access)
        await tpp.get("/accounts", "unknown")
        entries = [one for one in (await books.log())["entries"] if one["operation"] == "accounts"]
    assert (tokens.body["expires_in"], in_time.status_code, too_late.status_code) == (5, 200, 401)
    assert [(one["status"], one["token_expired"], one["token_age_s"]) for one in entries] == [
        (200, False, 4),
        (401, True, 5),
        (401, False, None),
    ]


async def test_the_token_log_proves_how_early_a_refresh_came(short: Sandbox, hand: HandClock) -> None:
    """By the end of the access token it replaces."""
    async with TPP(short) as tpp, Books(short.books_url, short.books_key) as books:
        tokens = await tpp.consent()
        issued = hand.moment
        hand.moment += timedelta(seconds=3)
        await tpp.refresh(tokens.refresh)
        entries = (await books.tokens())["entries"]
    [exchange, refresh] = entries
    assert (exchange["grant_type"], exchange["early_s"]) == ("authorization_code", None)
    assert refresh | {"grant_type": "refresh_token", "outcome": "issued", "version": 2, "early_s": 2} == refresh
    assert refresh["consent_id"] == tokens.consent_id
    assert datetime.fromisoformat(refresh["replaced_expires_at"]) == (issued + timedelta(seconds=5)).astimezone(UTC)
