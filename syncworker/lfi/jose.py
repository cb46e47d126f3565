"""Sign, verify and decrypt JWTs: PS256 in both directions, RSA-OAEP-256 with A256GCM inwards, and nothing else.

Out: the request object of a PAR and the client assertion of a token call, each made for one HTTP attempt; what we
answer to an event we refuse.
In: ID tokens and signed answers (`application/jwt`), verified against the keys the LFI publishes, and event
notifications, against those of their sender.  Keys come from the discovery document or the settings alone; `jku`, `jwk`
and `x5u` of a header are never followed.

Sources: RFC 7515, 7516, 7519, 7523, 7636, 9101; FAPI 2.0 Security Profile §5.3; Account Information API v2.1-errata2,
`Jwt`; `domain.md` §2.1, §2.2, §2.6, §5.1 (content types), §7, traps 3 and 4.
"""

import binascii
import contextlib
import json
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec
from authlib.oauth2.rfc7523 import private_key_jwt_sign  # type: ignore[import-untyped]  # Authlib ships no types
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]  # the same
from joserfc import jwe, jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from joserfc.util import urlsafe_b64decode
from pydantic import SecretStr

from syncworker.errors import StandardViolationError
from syncworker.lfi.bounds import BODY_BYTES_MAX, nests_too_deep
from syncworker.lfi.keys import KEY_BITS_MIN, EncryptionKey, SigningKey
from syncworker.lfi.splitting import members
from syncworker.standard.json_text import json_bytes

ALGORITHM: Final = "PS256"
SCOPE: Final = "accounts openid"
BACKDATING: Final = timedelta(seconds=10)
REQUEST_LIFETIME: Final = timedelta(seconds=300)
ASSERTION_LIFETIME: Final = timedelta(seconds=120)
SKEW: Final = timedelta(seconds=30)
NUMBER_MAX: Final = 2**53
KEY_BITS_MAX: Final = 8192
TOKEN_CHARACTERS_MAX: Final = 64 * 1024
KEY_ENCRYPTION: Final = "RSA-OAEP-256"
CONTENT_ENCRYPTION: Final = "A256GCM"
HEADER_CHARACTERS_MAX: Final = 8 * 1024
REFUSAL_LIFETIME: Final = timedelta(seconds=60)


class _Registry(jws.JWSRegistry):
    """PS256 alone, with room for the certificate members some servers put into the header."""

    max_header_length = 8 * 1024
    max_payload_length = TOKEN_CHARACTERS_MAX


class _AnswerRegistry(_Registry):
    """The same with room for a page: the base64 of all that fits into a body."""

    max_payload_length = BODY_BYTES_MAX


_REGISTRY: Final = _Registry(algorithms=[ALGORITHM], strict_check_header=False)
_ANSWER_REGISTRY: Final = _AnswerRegistry(algorithms=[ALGORITHM], strict_check_header=False)


class _SignedAnswer(msgspec.Struct):
    """`Jwt` of the standard and the `message` beside it."""

    message: msgspec.Raw
    iss: Any = None
    aud: Any = None
    exp: Any = None
    nbf: Any = None


_SIGNED_ANSWER: Final = msgspec.json.Decoder(_SignedAnswer)


@dataclass(frozen=True, slots=True)
class OpenedAnswer:
    """What was inside a signed answer whose signature and claims hold.

    Attributes:
        message: the JSON the LFI would have sent unsigned, byte for byte as it stood in the token.
        issuer: `iss`; which of its names an LFI puts there is not published.
    """

    message: bytes = field(repr=False)
    issuer: str


class _Decryption(jwe.JWERegistry):
    """One pair of algorithms and no compression; a header may be as long as that of a signature."""

    max_protected_header_length = HEADER_CHARACTERS_MAX


_DECRYPTION: Final = _Decryption(algorithms=[KEY_ENCRYPTION, CONTENT_ENCRYPTION], strict_check_header=False)


class UnknownKeyError(StandardViolationError):
    """A token names a `kid` the LFI's published keys do not hold (yet): worth one fresh look at them."""


def new_code_verifier() -> SecretStr:
    """A PKCE code verifier: 64 characters of 384 random bits."""
    return SecretStr(secrets.token_urlsafe(48))


def code_challenge(code_verifier: SecretStr) -> str:
    """The S256 code challenge: base64url of the verifier's SHA-256, without padding.  Source: RFC 7636 §4.2."""
    challenge: str = create_s256_code_challenge(code_verifier.get_secret_value())
    return challenge


def request_object(
    details: Sequence[Mapping[str, Any]],
    *,
    key: SigningKey,
    client_id: str,
    issuer: str,
    redirect_uri: str,
    state: str,
    nonce: str,
    code_challenge: str,
    now: datetime,
) -> str:
    """Sign the request object of a PAR: exactly the claims the published schema lists, so no `iat`, `jti` or `sub`."""
    not_before = int((now - BACKDATING).timestamp())
    claims = {
        "aud": issuer,
        "iss": client_id,
        "client_id": client_id,
        "nbf": not_before,
        "exp": not_before + int(REQUEST_LIFETIME.total_seconds()),
        "response_type": "code",
        "scope": SCOPE,
        "redirect_uri": redirect_uri,
        "state": state,
        "nonce": nonce,
        "code_challenge": code_challenge,
        "code_challenge_method": "S256",
        "authorization_details": [dict(detail) for detail in details],
    }
    header = {"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}
    return jwt.encode(header, claims, key.jwk, algorithms=[ALGORITHM])


def client_assertion(*, key: SigningKey, client_id: str, issuer: str, now: datetime) -> SecretStr:
    """Sign a `private_key_jwt` client assertion with a `jti` of its own: one for each HTTP attempt, never sent twice.

    The audience is the issuer, as a single string, never an endpoint.
    """
    issued_at = int(now.timestamp())
    assertion: str = private_key_jwt_sign(
        key.jwk,
        client_id,
        issuer,  # Authlib calls this argument the token endpoint; it becomes `aud`
        alg=ALGORITHM,
        claims={"jti": str(uuid.uuid4()), "nbf": issued_at - int(BACKDATING.total_seconds())},
        header={"kid": key.kid},
        issued_at=issued_at,
        expires_in=int(ASSERTION_LIFETIME.total_seconds()),
    )
    return SecretStr(assertion)


def signed_message(
    message: bytes, *, key: SigningKey, issuer: str, audience: str, now: datetime, lifetime: timedelta
) -> str:
    """Sign a JSON body, as it is, as the `message` of a JWT: the claims the published schema lists and no others.

    The body is taken as bytes, so that a number keeps every digit it was written with.
    """
    not_before = now - BACKDATING
    claims = {
        "iss": issuer,
        "aud": [audience],
        "iat": int(now.timestamp()),
        "nbf": int(not_before.timestamp()),
        "exp": int((not_before + lifetime).timestamp()),
        "message": msgspec.Raw(message),
    }
    header = {"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}
    return jws.serialize_compact(header, json_bytes(claims), key.jwk, algorithms=[ALGORITHM])


def read_keys(document: object) -> dict[str, RSAKey]:
    """The signature keys of a JWKS by `kid`; entries of other kinds or uses, weak or broken ones are left out.

    Raises:
        StandardViolationError: the document is not a JWKS.
    """
    entries = document.get("keys") if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise StandardViolationError("jwks_uri: the document is not a JWKS")
    keys: dict[str, RSAKey] = {}
    for entry in entries:
        if not isinstance(entry, Mapping) or entry.get("kty") != "RSA" or entry.get("use", "sig") != "sig":
            continue
        kid = entry.get("kid")
        if not isinstance(kid, str) or not KEY_BITS_MIN <= _modulus_bits(entry.get("n")) <= KEY_BITS_MAX:
            continue
        with contextlib.suppress(JoseError, ValueError, TypeError):
            keys[kid] = RSAKey.import_key({"kty": "RSA", "n": entry["n"], "e": entry["e"]})
    return keys


def verify(token: SecretStr, keys: Mapping[str, RSAKey]) -> dict[str, Any]:
    """The claims of a PS256 JWT whose signature holds; the claims themselves are not judged here.

    Raises:
        UnknownKeyError: its `kid` is not among `keys`.
        StandardViolationError: not a JWT, another algorithm, or a signature that does not hold.
    """
    text = token.get_secret_value()
    if len(text) > TOKEN_CHARACTERS_MAX:
        raise StandardViolationError(f"JWT: longer than {TOKEN_CHARACTERS_MAX} characters")
    try:
        kid = jws.extract_compact(text.encode(), registry=_REGISTRY).headers().get("kid")
        if not isinstance(kid, str) or kid not in keys:
            raise UnknownKeyError("JWT: its kid is not among the LFI's published keys")
        claims = jwt.decode(text, keys[kid], algorithms=[ALGORITHM], registry=_REGISTRY).claims
    except (JoseError, ValueError, RecursionError):
        raise StandardViolationError("JWT: not signed with PS256 by the LFI") from None  # the cause may quote claims
    return dict(claims)


class Fault(StrEnum):
    """What is wrong with an event's envelope: error codes of the Webhook Template, `AEError400Codes`."""

    JWS_MALFORMED = "JWS.Malformed"
    JWS_HEADER = "JWS.InvalidHeader"
    JWS_SIGNATURE = "JWS.InvalidSignature"
    JWE_HEADER = "JWE.InvalidHeader"
    JWE_DECRYPTION = "JWE.DecryptionError"


class EnvelopeError(StandardViolationError):
    """An envelope that does not open; `fault` is the standard's code for it."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


class UnknownEncryptionKeyError(EnvelopeError):
    """A JWE names a `kid` we hold no private key for (any more, or yet)."""


def protected_header(token: str) -> dict[str, Any]:
    """The first part of a compact JWS or JWE, read and not believed.

    Raises:
        StandardViolationError: it is not base64url of a JSON object, or too long.
    """
    part = token.partition(".")[0]
    if len(part) > HEADER_CHARACTERS_MAX:
        raise StandardViolationError("header: too long")
    return _json_object(part)


def unverified_claims(token: str) -> dict[str, Any]:
    """The second part of a compact JWS: only good for finding out whose keys to hold against it.

    Raises:
        StandardViolationError: it is not base64url of a JSON object.
    """
    return _json_object(token.split(".")[1])


def decrypt(token: str, keys: Mapping[str, EncryptionKey]) -> str:
    """What a compact JWE holds, opened with the key its `kid` names: during a rotation there are several.

    Raises:
        UnknownEncryptionKeyError: its `kid` is none of ours.
        EnvelopeError: other algorithms, compression, or it does not open.
    """
    try:
        header = protected_header(token)
    except StandardViolationError as error:
        raise EnvelopeError(Fault.JWE_HEADER, f"JWE: {error}") from None
    if header.get("alg") != KEY_ENCRYPTION or header.get("enc") != CONTENT_ENCRYPTION:
        raise EnvelopeError(Fault.JWE_HEADER, f"JWE: not {KEY_ENCRYPTION} with {CONTENT_ENCRYPTION}")
    if "zip" in header or "crit" in header:
        raise EnvelopeError(Fault.JWE_HEADER, "JWE: compressed, or with critical headers")
    key = keys.get(str(header.get("kid")))
    if key is None:
        raise UnknownEncryptionKeyError(Fault.JWE_HEADER, "JWE: its kid is none of our encryption keys")
    try:
        plain = jwe.decrypt_compact(token, key.jwk, registry=_DECRYPTION).plaintext
        return (plain or b"").decode("ascii")
    except (JoseError, ValueError, TypeError):  # one answer for every cause: which one it was helps an attacker alone
        raise EnvelopeError(Fault.JWE_DECRYPTION, "JWE: does not open") from None


def check_signature_header(token: str) -> str:
    """The `kid` of a compact JWS whose header may be considered at all: PS256, nothing critical.

    Raises:
        EnvelopeError: another algorithm, a critical or detached payload, or no `kid`.
    """
    try:
        header = protected_header(token)
    except StandardViolationError as error:
        raise EnvelopeError(Fault.JWS_MALFORMED, f"JWS: {error}") from None
    if header.get("alg") != ALGORITHM:
        raise EnvelopeError(Fault.JWS_HEADER, f"JWS: not signed with {ALGORITHM}")
    if "crit" in header or "b64" in header:
        raise EnvelopeError(Fault.JWS_HEADER, "JWS: with critical headers")
    kid = header.get("kid")
    if not isinstance(kid, str) or not kid:
        raise EnvelopeError(Fault.JWS_HEADER, "JWS: its header has no kid")
    return kid


def verified_payload(token: str, key: RSAKey) -> bytes:
    """The payload of a compact JWS whose signature holds.

    Raises:
        EnvelopeError: it does not hold.
    """
    try:
        return jws.deserialize_compact(token.encode(), key, registry=_REGISTRY).payload
    except (JoseError, ValueError, TypeError):
        raise EnvelopeError(Fault.JWS_SIGNATURE, "JWS: the signature does not hold") from None


def signed_refusal(errors: Sequence[Mapping[str, str]], *, key: SigningKey, issuer: str, now: datetime) -> str:
    """The body of a refused event's answer.

    It can be nothing else: without `sub`, `aud` and `jti` no server takes it for a client assertion of ours.
    Source: Webhook Template v2.1-errata2, `AEError400ResponseBodySigned`.
    """
    not_before = int((now - BACKDATING).timestamp())
    claims = {
        "iss": issuer,
        "nbf": not_before,
        "exp": not_before + int(REFUSAL_LIFETIME.total_seconds()),
        "message": {"Errors": [dict(error) for error in errors]},
    }
    return jwt.encode({"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}, claims, key.jwk, algorithms=[ALGORITHM])


def read_claims(payload: bytes) -> dict[str, Any]:
    """The claims in a payload, within bounds.

    Raises:
        StandardViolationError: not a JSON object, or nested too deep.
    """
    if nests_too_deep(payload):
        raise StandardViolationError("claims: nested too deep")
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        raise StandardViolationError("claims: not JSON") from None
    if not isinstance(claims, dict):
        raise StandardViolationError("claims: not a JSON object")
    return claims


def fault_of_lifetime(claims: Mapping[str, Any], *, now: datetime) -> str | None:
    """Which of `exp`, `nbf` (both must be there) and `iat` (may be) keeps claims from being good now; `None`: none."""
    moment, skew = now.timestamp(), SKEW.total_seconds()
    if not _is_number(claims.get("exp")) or moment >= claims["exp"] + skew:
        return "exp"
    if not _is_number(claims.get("nbf")) or claims["nbf"] > moment + skew:
        return "nbf"
    if "iat" in claims and (not _is_number(claims["iat"]) or claims["iat"] > moment + skew):
        return "iat"
    return None


def audiences_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Every audience named; `aud` may be one text or several."""
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    return frozenset(one for one in named if isinstance(one, str))


def open_answer(
    body: bytes, keys: Mapping[str, RSAKey], *, client_id: str, now: datetime, complete: bool
) -> OpenedAnswer:
    """Verify a signed answer and take the message out of it.

    The signature must be PS256 of the key its `kid` names.  `exp`, `nbf` and `aud` must hold where they are given;
    `aud` may be text instead of a list.  The message is not looked at: whoever reads it bounds it.

    Args:
        complete: whether `iss`, `exp` and `nbf` must be there, as the schema has it.  Not asked of an LFI that may
            just as well answer unsigned.

    Raises:
        UnknownKeyError: its `kid` is not among `keys`.
        StandardViolationError: names what does not hold.

    Source: Account Information API v2.1-errata2, `Jwt`, `AEReadAccountSigned`.
    """
    payload = _verified_payload(body, keys)
    try:
        claims = _SIGNED_ANSWER.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        claims = _claims_beside(payload)
    _check_answer_claims(claims, client_id=client_id, now=now, complete=complete)
    return OpenedAnswer(bytes(claims.message), claims.iss if isinstance(claims.iss, str) else "")


def _claims_beside(payload: bytes) -> _SignedAnswer:
    """The claims where a strict reader refused the payload: all but the message must be readable.

    Raises:
        StandardViolationError: they are not, or there is no message.
    """
    try:
        found = members(payload)
        message = found.pop("message")
        rest = b",".join(json_bytes(name) + b":" + value for name, value in found.items())
        claims = _SIGNED_ANSWER.decode(b'{"message":null' + (b"," + rest if rest else b"") + b"}")
    except (KeyError, msgspec.MsgspecError, ValueError, RecursionError):
        raise StandardViolationError("signed answer: holds no message") from None
    claims.message = msgspec.Raw(message)
    return claims


def _verified_payload(body: bytes, keys: Mapping[str, RSAKey]) -> bytes:
    try:
        token = jws.extract_compact(body.strip(), registry=_ANSWER_REGISTRY)
        kid = token.headers().get("kid")
        if not isinstance(kid, str) or kid not in keys:
            raise UnknownKeyError("signed answer: its kid is not among the LFI's published keys")
        if not jws.validate_compact(token, keys[kid], algorithms=[ALGORITHM], registry=_ANSWER_REGISTRY):
            raise StandardViolationError("signed answer: the signature does not hold")
    except (JoseError, ValueError, RecursionError):
        raise StandardViolationError("signed answer: not signed with PS256 by the LFI") from None
    return token.payload or b""


def _check_answer_claims(claims: _SignedAnswer, *, client_id: str, now: datetime, complete: bool) -> None:
    moment, skew = now.timestamp(), SKEW.total_seconds()
    for name in ("iss", "exp", "nbf") if complete else ():
        if getattr(claims, name) is None:
            raise StandardViolationError(f"signed answer: {name} is missing")
    if claims.exp is not None and not (_is_number(claims.exp) and moment < claims.exp + skew):
        raise StandardViolationError("signed answer: exp has passed")
    if claims.nbf is not None and not (_is_number(claims.nbf) and claims.nbf <= moment + skew):
        raise StandardViolationError("signed answer: nbf lies in the future")
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if audiences and not (isinstance(audiences, list) and client_id in audiences):
        raise StandardViolationError("signed answer: aud does not contain our client id")


def check_id_token(claims: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str | None, now: datetime) -> None:
    """Judge the claims of an ID token whose signature holds.

    Args:
        nonce: the one sent with the request; `None` after a refresh, where it need not be present.

    Raises:
        StandardViolationError: names the claim that is wrong.

    Source: OpenID Connect Core 1.0 §3.1.3.7; `domain.md` §2.6.
    """
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if claims.get("iss") != issuer:
        raise StandardViolationError("id_token: iss is not the LFI's issuer")
    if not isinstance(audiences, list) or client_id not in audiences:
        raise StandardViolationError("id_token: aud does not contain our client id")
    if (len(audiences) > 1 or "azp" in claims) and claims.get("azp") != client_id:
        raise StandardViolationError("id_token: azp is not our client id")
    if nonce is not None and claims.get("nonce") != nonce:
        raise StandardViolationError("id_token: nonce is not the one we sent")
    moment, skew = now.timestamp(), SKEW.total_seconds()
    if not _is_number(claims.get("exp")) or moment >= claims["exp"] + skew:
        raise StandardViolationError("id_token: exp has passed")
    if not _is_number(claims.get("iat")) or claims["iat"] > moment + skew:
        raise StandardViolationError("id_token: iat lies in the future")


def _json_object(part: str) -> dict[str, Any]:
    try:
        return read_claims(urlsafe_b64decode(part.encode()))
    except (ValueError, binascii.Error):
        raise StandardViolationError("not base64url") from None


def _modulus_bits(encoded: object) -> int:
    """Size of a published modulus; 0 when it cannot be read."""
    try:
        return int.from_bytes(urlsafe_b64decode(str(encoded).encode())).bit_length()
    except ValueError:
        return 0


def _is_number(value: object) -> bool:
    """Whether it may be an instant: a number a double holds exactly; JSON may bring integers of hundreds of digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < NUMBER_MAX
