"""Compact JWS with PS256, signed and checked by the bank's own few lines over `cryptography`.

Nothing here knows joserfc or Authlib: what we send with those is judged by other code.

Source: RFC 7515, RFC 7518 §3.5; `domain.md` §2.1 ("anything else rejected").
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

SIZE_MAX: Final = 64 * 1024
_BASE64URL: Final = re.compile(r"^[A-Za-z0-9_-]+$")


class JoseError(Exception):
    """A token that is not a PS256 JWS of the expected signer; the message says which check failed."""


def encode(content: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Read base64url without padding, strictly.

    Raises:
        JoseError: another alphabet, padding, or an impossible length.
    """
    if not _BASE64URL.fullmatch(text):
        raise JoseError("not base64url without padding")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise JoseError("not base64url without padding") from None


def sign(claims: Mapping[str, Any], key: rsa.RSAPrivateKey, kid: str) -> str:
    """A compact JWS over `claims`."""
    return sign_payload(json.dumps(claims, separators=(",", ":")).encode(), key, kid)


def sign_payload(payload: bytes, key: rsa.RSAPrivateKey, kid: str) -> str:
    """A compact JWS over bytes as they are."""
    header = {"alg": "PS256", "typ": "JWT", "kid": kid}
    signed = f"{encode(json.dumps(header, separators=(',', ':')).encode())}.{encode(payload)}"
    return f"{signed}.{encode(key.sign(signed.encode(), _padding(), hashes.SHA256()))}"


def verify(token: str, keys: Mapping[str, rsa.RSAPublicKey]) -> dict[str, Any]:
    """The claims of a compact JWS signed by the one of `keys` that its `kid` names.

    Raises:
        JoseError: too large, malformed, another algorithm or `kid`, a critical header, or a wrong signature.
    """
    parts = token.split(".")
    if len(token) > SIZE_MAX or len(parts) != 3:
        raise JoseError("not a compact JWS")
    header = _object(parts[0])
    if header.get("alg") != "PS256":
        raise JoseError("alg must be PS256")
    key = keys.get(str(header.get("kid")))
    if key is None:
        raise JoseError("kid is not a registered signing key")
    if "crit" in header or "b64" in header:
        raise JoseError("critical headers are not understood")
    try:
        key.verify(decode(parts[2]), f"{parts[0]}.{parts[1]}".encode(), _padding(), hashes.SHA256())
    except InvalidSignature:
        raise JoseError("the signature does not verify") from None
    return _object(parts[1])


def jwk(key: rsa.RSAPublicKey, kid: str) -> dict[str, str]:
    """The public key as a member of a JWKS."""
    numbers = key.public_numbers()
    size = (key.key_size + 7) // 8
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": "PS256",
        "kid": kid,
        "n": encode(numbers.n.to_bytes(size, "big")),
        "e": encode(numbers.e.to_bytes(3, "big")),
    }


def _padding() -> padding.PSS:
    return padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)


def _object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(decode(part), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise JoseError("a part is not JSON") from None
    if not isinstance(value, dict):
        raise JoseError("a part is not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise ValueError("a member occurs twice")
    return dict(pairs)
