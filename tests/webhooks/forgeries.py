"""What no receiver may take, each with the check it must fail."""

import json
from dataclasses import replace
from typing import Any

from tests.webhooks.sender import ABSENT, EventSender


def forgeries(sender: EventSender, forger: EventSender, message: dict[str, Any]) -> dict[str, tuple[str, bytes | str]]:
    """What no receiver may take, each with the check it must fail."""
    now = int(sender.clock.now().timestamp())
    jwks = forger.jwks()["keys"][0]
    stranger = replace(forger, kid="stranger-1")
    signed = sender.signed(message)
    header, claims, signature = signed.split(".")
    other = sender.signed({**message, "Meta": {"ConsentId": "other"}}).split(".")[1]
    return {
        "another key under the sender's kid": ("signature", forger.event(message)),
        "a kid nobody published": ("unknown_key", stranger.event(message)),
        "jwk in the header": ("signature", forger.with_header(message, {"jwk": jwks})),
        "jku in the header": ("unknown_key", stranger.with_header(message, {"jku": "https://evil.example/jwks"})),
        "x5u in the header": ("unknown_key", stranger.with_header(message, {"x5u": "https://evil.example/x5u"})),
        "alg none": ("jws_header", sender.with_header(message, {"alg": "none"})),
        "alg none, no signature": ("unencrypted", f"{header}.{claims}."),
        "alg HS256 with the public key": ("jws_header", sender.with_header(message, {"alg": "HS256"})),
        "alg RS256 with the right key": ("jws_header", sender.with_header(message, {"alg": "RS256"})),
        "critical header": ("jws_header", sender.with_header(message, {"crit": ["b64"], "b64": False})),
        "no kid": ("jws_header", sender.with_header(message, {"kid": None})),
        "claims exchanged": ("signature", sender.encrypted(f"{header}.{other}.{signature}")),
        "issuer nobody trusts": ("untrusted_sender", forger_of(forger, "https://evil.example").event(message)),
        "no issuer": ("untrusted_sender", sender.event(message, iss=ABSENT)),
        "not for us": ("audience", sender.event(message, aud=["somebody-else"])),
        "aud empty": ("audience", sender.event(message, aud=[])),
        "expired": ("lifetime", sender.event(message, exp=now - 60)),
        "no exp": ("lifetime", sender.event(message, exp=ABSENT)),
        "exp as text": ("lifetime", sender.event(message, exp=str(now + 300))),
        "not valid yet": ("lifetime", sender.event(message, nbf=now + 300)),
        "no nbf": ("lifetime", sender.event(message, nbf=ABSENT)),
        "made in the future": ("lifetime", sender.event(message, iat=now + 300)),
        "message is a text": ("message", sender.event(message, message="Revoked")),
        "neither Data nor Meta": ("message", sender.event({"Something": 1})),
        "not encrypted": ("unencrypted", signed),
        "RSA1_5": ("jwe_header", sender.encrypted(signed, alg="RSA1_5")),
        "RSA-OAEP with SHA-1": ("jwe_header", sender.encrypted(signed, alg="RSA-OAEP")),
        "A128CBC-HS256": ("jwe_header", sender.encrypted(signed, enc="A128CBC-HS256")),
        "compressed": ("jwe_header", sender.encrypted(signed, zip="DEF")),
        "critical JWE header": ("jwe_header", sender.encrypted(signed, crit=["exp"], exp=1)),
        "a kid that is not ours": ("unknown_encryption_key", sender.encrypted(signed, kid="enc-9")),
        "cipher text changed": ("decryption", tampered(sender.encrypted(signed))),
        "JWE in a JWE": ("jws_malformed", sender.encrypted(sender.event(message).decode())),
        "JWE around JSON": ("jws_malformed", sender.encrypted(json.dumps({"message": message}))),
        "JSON": ("malformed", json.dumps(message)),
        "nothing": ("malformed", b""),
        "dots": ("malformed", b"...."),
        "too large": ("too_large", b"a" * (64 * 1024 + 1)),
        "nested deep": ("jws_malformed", sender.event({"Data": nested(60)})),
    }  # fmt: skip


def forger_of(forger: EventSender, issuer: str) -> EventSender:
    return replace(forger, issuer=issuer)


def tampered(body: bytes) -> bytes:
    parts = body.split(b".")
    parts[3] = (b"B" if parts[3][:1] == b"A" else b"A") + parts[3][1:]
    return b".".join(parts)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value
