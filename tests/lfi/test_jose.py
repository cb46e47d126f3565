"""JOSE: what we sign to the letter, what we accept, and a vector that is not ours."""

import base64
import contextlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_der_public_key
from freezegun import freeze_time
from joserfc import jwt
from joserfc.errors import ClaimError
from joserfc.jwk import RSAKey
from joserfc.jws import JWSRegistry
from pydantic import SecretStr

from syncworker.errors import StandardViolationError
from syncworker.lfi.jose import (
    UnknownKeyError,
    check_id_token,
    client_assertion,
    code_challenge,
    new_code_verifier,
    read_keys,
    request_object,
    verify,
)
from syncworker.lfi.keys import SigningKey
from tests.lfi.raw_bank import CLIENT_ID, REDIRECT_URI, Identities, new_key

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 10, 0, 0, 900_000, tzinfo=UTC)
SECOND = int(NOW.timestamp())
ISSUER = "https://auth1.bank.example"


def _part(token: str, index: int) -> Any:
    text = token.split(".")[index]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


@pytest.fixture
def key(identities: Identities) -> SigningKey:
    return SigningKey.load(identities.signing_key, "sig-1")


def test_the_code_challenge_meets_the_published_vector() -> None:
    """RFC 7636, appendix B."""
    verifier = SecretStr("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")

    assert code_challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_code_verifiers_are_fresh_and_of_a_permitted_length() -> None:
    """43 to 128 characters, never the same twice."""
    verifiers = {new_code_verifier().get_secret_value() for _ in range(50)}

    assert (len(verifiers), {len(verifier) for verifier in verifiers}) == (50, {64})


def test_the_request_object_has_exactly_the_claims_of_the_schema(key: SigningKey) -> None:
    """No `iat`, `jti` or `sub`; audience a single string; 300 s between `nbf` and `exp`."""
    details = [{"type": "urn:openfinanceuae:account-access-consent:v2.1", "consent": {"ConsentId": "1"}}]
    token = request_object(
        details,
        key=key,
        client_id=CLIENT_ID,
        issuer=ISSUER,
        redirect_uri=REDIRECT_URI,
        state="state-1",
        nonce="nonce-1",
        code_challenge="challenge-1",
        now=NOW,
    )

    assert (_part(token, 0), _part(token, 1)) == (
        {"alg": "PS256", "kid": "sig-1", "typ": "JWT"},
        {
            "aud": ISSUER,
            "iss": CLIENT_ID,
            "client_id": CLIENT_ID,
            "nbf": SECOND - 10,
            "exp": SECOND + 290,
            "response_type": "code",
            "scope": "accounts openid",
            "redirect_uri": REDIRECT_URI,
            "state": "state-1",
            "nonce": "nonce-1",
            "code_challenge": "challenge-1",
            "code_challenge_method": "S256",
            "authorization_details": details,
        },
    )


def test_the_client_assertion_names_us_and_the_issuer(key: SigningKey) -> None:
    """Two minutes long, for the issuer and not for an endpoint (trap 4)."""
    token = client_assertion(key=key, client_id=CLIENT_ID, issuer=ISSUER, now=NOW).get_secret_value()
    claims = _part(token, 1)
    jti = claims.pop("jti")

    assert (_part(token, 0), claims, len(jti)) == (
        {"alg": "PS256", "kid": "sig-1", "typ": "JWT"},
        {"iss": CLIENT_ID, "sub": CLIENT_ID, "aud": ISSUER, "iat": SECOND, "nbf": SECOND - 10, "exp": SECOND + 120},
        36,
    )


def test_no_two_assertions_share_a_jti(key: SigningKey) -> None:
    """Trap 3: a bank refuses a `jti` it has seen, also on a retry."""
    tokens = [client_assertion(key=key, client_id=CLIENT_ID, issuer=ISSUER, now=NOW) for _ in range(20)]

    assert len({_part(token.get_secret_value(), 1)["jti"] for token in tokens}) == 20


VECTOR = (
    "eyJhbGciOiJQUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiYWRtaW4iOnRydWUsImlhdCI6"
    "MTUxNjIzOTAyMn0.iOeNU4dAFFeBwNj6qdhdvm-IvDQrTa6R22lQVJVuWJxorJfeQww5Nwsra0PjaOYhAMj9jNMO5YLmud8U7iQ5gJK2zYyepeSuXh"
    "fSi8yjFZfRiSkelqSkU19I-Ja8aQBDbqXf2SAWA8mHF8VS3F08rgEaLCyv98fLLH4vSvsJGf6ueZSLKDVXz24rZRXGWtYYk_OYYTVgR1cg0BLCsuCvqZ"
    "vHleImJKiWmtS0-CymMO4MMjCy_FIl6I56NqLE9C87tUVpo1mT-kbg5cHDD8I7MjCW5Iii5dethB4Vid3mZ6emKjVYgXrtkOQ-JyGMh6fnQxEFN1ft33"
    "GX2eRHluK9eg"
)
VECTOR_KEY = (
    "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAu1SU1LfVLPHCozMxH2Mo4lgOEePzNm0tRgeLezV6ffAt0gunVTLw7onLRnrq0/IzW7yWR7QkrmBL"
    "7jTKEn5u+qKhbwKfBstIs+bMY2Zkp18gnTxKLxoS2tFczGkPLPgizskuemMghRniWaoLcyehkd3qqGElvW/VDL5AaWTg0nLVkjRo9z+40RQzuVaE8AkAFmxZ"
    "zow3x+VJYKdjykkJ0iT9wCS0DRTXu269V264Vf/3jvredZiKRkgwlL9xNAwxXFg0x/XFw005UWVRIkdgcKWTjpBP2dPwVZ4WWC+9aGVd+Gyn1o0CLelf4rEj"
    "GoXbAAEgAqeGUxrcIlbjXfbcmwIDAQAB"
)


def _vector_keys() -> dict[str, RSAKey]:
    public = load_der_public_key(base64.b64decode(VECTOR_KEY))
    numbers = public.public_numbers()  # type: ignore[union-attr]  # it is an RSA key

    def encoded(number: int) -> str:
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    entry = {"kty": "RSA", "kid": "vector", "use": "sig", "n": encoded(numbers.n), "e": encoded(numbers.e)}  # type: ignore[union-attr]
    return read_keys({"keys": [entry]})


def test_a_published_ps256_signature_holds() -> None:
    """The PS256 sample token of jwt.io, made by other hands than ours; its header has no kid, so it is checked bare."""
    claims = jwt.decode(VECTOR, _vector_keys()["vector"], algorithms=["PS256"]).claims

    assert claims == {"sub": "1234567890", "name": "John Doe", "admin": True, "iat": 1516239022}


def test_a_token_without_a_kid_is_refused() -> None:
    """Keys are picked by kid, never tried one after another."""
    with pytest.raises(UnknownKeyError):
        verify(SecretStr(VECTOR), _vector_keys())


def _signed(key: Any, claims: dict[str, Any], **header: str) -> SecretStr:
    algorithm = header.get("alg", "PS256")
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    return SecretStr(jwt.encode({"alg": algorithm, "kid": "k"} | header, claims, key, registry=registry))


def _confused(public_pem: bytes) -> SecretStr:
    """HS256 with our public key as the shared secret: the oldest trick against verifiers."""
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg":"HS256","kid":"k"}', b'{"sub":"a"}')]
    mac = hmac.digest(public_pem, b".".join(parts), "sha256")
    return SecretStr(b".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode())


@pytest.fixture
def foreign() -> RSAKey:
    return SigningKey.of(new_key(), "k").jwk


def test_a_token_of_the_bank_is_read(identities: Identities) -> None:
    """Its header may carry members we do not know."""
    keys = read_keys(identities.jwks("k"))

    assert verify(_signed(identities.bank_signing, {"sub": "a"}, foo="bar"), keys) == {"sub": "a"}


def test_another_key_another_algorithm_and_no_algorithm_are_refused(identities: Identities, foreign: RSAKey) -> None:
    """PS256 with the key of that kid, and nothing else."""
    keys = read_keys(identities.jwks("k"))
    unsigned = "eyJhbGciOiJub25lIiwia2lkIjoiayJ9.eyJzdWIiOiJhIn0."
    tampered = _signed(identities.bank_signing, {"sub": "a"}).get_secret_value().split(".")
    tampered[1] = base64.urlsafe_b64encode(b'{"sub":"b"}').rstrip(b"=").decode()
    tokens = [
        _signed(foreign, {"sub": "a"}),
        _signed(identities.bank_signing, {"sub": "a"}, alg="RS256"),
        _confused(identities.bank_signing.as_pem(private=False)),
        SecretStr(unsigned),
        SecretStr(".".join(tampered)),
        SecretStr("no token"),
        SecretStr("a.b.c"),
        SecretStr("é.é.é"),
        SecretStr("x" * 70_000),
    ]

    refusals = []
    for token in tokens:
        with pytest.raises(StandardViolationError) as caught:
            verify(token, keys)
        refusals.append(type(caught.value))
    assert refusals == [StandardViolationError] * len(tokens)


def test_only_fit_signature_keys_are_taken_from_a_jwks(identities: Identities) -> None:
    """Encryption keys, keys of other kinds, small, broken and nameless ones are left out."""
    good = identities.jwks("good")["keys"][0]
    small = base64.urlsafe_b64encode(new_key(1024).public_key().public_numbers().n.to_bytes(128)).rstrip(b"=").decode()
    entries = [
        good,
        good | {"kid": "enc", "use": "enc"},
        {"kty": "EC", "kid": "ec", "crv": "P-256", "x": "a", "y": "b"},
        {"kty": "RSA", "kid": "small", "n": small, "e": "AQAB"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "RSA", "kid": "empty", "n": "", "e": ""},
        {member: value for member, value in good.items() if member != "kid"},
        "text",
    ]

    assert list(read_keys({"keys": entries})) == ["good"]


@pytest.mark.parametrize("document", [None, [], {}, {"keys": None}, {"keys": {}}])
def test_what_is_no_jwks_is_refused(document: object) -> None:
    """By the name of the place it came from."""
    with pytest.raises(StandardViolationError, match="jwks_uri"):
        read_keys(document)


GOOD = {"iss": ISSUER, "aud": CLIENT_ID, "exp": SECOND + 60, "iat": SECOND, "nonce": "n", "sub": "user"}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="plain"),
        pytest.param({"aud": [CLIENT_ID]}, id="audience as list"),
        pytest.param({"aud": [CLIENT_ID, "other"], "azp": CLIENT_ID}, id="several audiences with azp"),
        pytest.param({"exp": SECOND - 29}, id="a second before its end and the skew"),
        pytest.param({"iat": SECOND + 30}, id="from a clock slightly ahead"),
    ],
)
def test_a_good_id_token_passes(changes: dict[str, Any]) -> None:
    """With 30 s for clocks that differ."""
    check_id_token(GOOD | changes, issuer=ISSUER, client_id=CLIENT_ID, nonce="n", now=NOW)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"iss": "https://other.example"}, "iss", id="issuer"),
        pytest.param({"aud": "other"}, "aud", id="audience"),
        pytest.param({"aud": None}, "aud", id="no audience"),
        pytest.param({"aud": [CLIENT_ID, "other"]}, "azp", id="several audiences without azp"),
        pytest.param({"azp": "other"}, "azp", id="azp of another"),
        pytest.param({"nonce": "m"}, "nonce", id="nonce"),
        pytest.param({"nonce": None}, "nonce", id="no nonce"),
        pytest.param({"exp": SECOND - 31}, "exp", id="a second after its end and the skew"),
        pytest.param({"exp": None}, "exp", id="without end"),
        pytest.param({"exp": "2099"}, "exp", id="end as text"),
        pytest.param({"exp": float("inf")}, "exp", id="endless"),
        pytest.param({"exp": float("nan")}, "exp", id="no number"),
        pytest.param({"iat": SECOND + 60}, "iat", id="from the future"),
        pytest.param({"iat": True}, "iat", id="truth as time"),
    ],
)
def test_a_wrong_id_token_is_refused_by_claim(changes: dict[str, Any], says: str) -> None:
    """The message names the claim and no value."""
    with pytest.raises(StandardViolationError, match=f"^id_token: {says} "):
        check_id_token(GOOD | changes, issuer=ISSUER, client_id=CLIENT_ID, nonce="n", now=NOW)


@pytest.mark.parametrize("library_ahead", [timedelta(days=-400), timedelta(days=400)])
def test_the_clock_that_judges_an_id_token_is_the_one_given(library_ahead: timedelta) -> None:
    """Were the library asked, it would look at the computer's own, which is moved here."""
    with freeze_time(NOW + library_ahead):
        check_id_token(GOOD, issuer=ISSUER, client_id=CLIENT_ID, nonce="n", now=NOW)
        with pytest.raises(StandardViolationError, match="exp"):
            check_id_token(GOOD, issuer=ISSUER, client_id=CLIENT_ID, nonce="n", now=NOW + timedelta(seconds=91))


@pytest.mark.parametrize(
    ("seconds", "good"),
    [
        pytest.param(-1, False, id="a second before it is issued"),
        pytest.param(0, True, id="when it is sent"),
        pytest.param(119, True, id="a second before its end"),
        pytest.param(121, False, id="a second after its end"),
    ],
)
def test_an_assertion_is_good_for_two_minutes_by_the_clock_of_a_library(
    key: SigningKey, identities: Identities, seconds: int, good: bool
) -> None:
    """joserfc, as a server uses it, reads the computer's clock by itself."""
    assertion = client_assertion(key=key, client_id=CLIENT_ID, issuer=ISSUER, now=NOW)
    public = RSAKey.import_key(identities.signing_key.read_bytes())
    claims = jwt.decode(assertion.get_secret_value(), public, algorithms=["PS256"]).claims
    essential: dict[str, Any] = {name: {"essential": True} for name in ("exp", "nbf", "iat")}

    refused = contextlib.nullcontext() if good else pytest.raises(ClaimError)
    with freeze_time(datetime.fromtimestamp(SECOND + seconds, UTC)), refused:
        jwt.JWTClaimsRegistry(**essential).validate(claims)
