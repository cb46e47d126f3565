"""An LFI that sends events, and forgers beside it: JWS by the bank's own code, JWE by a few lines over `cryptography`.

Nothing here knows joserfc, which is what judges it.
"""

import hashlib
import hmac
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from syncworker.clock import Clock
from syncworker.simulator import jose
from syncworker.standard.values import write_instant

ISSUER: Final = "https://auth1.noor.example"
URL: Final = "https://app.example/events"
CLIENT_ID: Final = "3f1c0000-0000-4000-8000-000000000001"
KID: Final = "noor-1"
ABSENT: Final = object()
"""A member to leave out."""


def new_key() -> rsa.RSAPrivateKey:
    """An RSA key of the standard's least size."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def consent_message(
    consent_id: str, status: str = "Revoked", *, at: datetime, updated_at: datetime | None = None, **data: Any
) -> dict[str, Any]:
    """A message about a data-sharing consent, as v2.1-errata2 has it."""
    moment = write_instant(updated_at or at)
    return {
        "Data": {
            "ConsentId": consent_id,
            "CreationDateTime": moment,
            "Status": status,
            "StatusUpdateDateTime": moment,
            "Permissions": ["ReadAccountsBasic", "ReadBalances"],
            "ExpirationDateTime": write_instant(at + timedelta(days=90)),
            "OpenFinanceBilling": {"UserType": "Retail", "Purpose": "AccountAggregation"},
            **data,
        },
        "Meta": {
            "EventDateTime": write_instant(at),
            "EventResource": f"/account-access-consents/{consent_id}",
            "EventType": "Resource.Updated",
            "ConsentId": consent_id,
        },
    }


def opening_message(account_id: str, status: str = "Completed", *, at: datetime) -> dict[str, Any]:
    """A message about an account opening, as v2.1-errata2 has it."""
    return {
        "Data": {"AccountId": account_id, "OpeningStatus": status, "OpeningStatusUpdateDateTime": write_instant(at)},
        "Meta": {
            "EventDateTime": write_instant(at),
            "EventResource": f"/accounts/{account_id}/status",
            "EventType": "Resource.Updated",
            "AccountId": account_id,
        },
    }


@dataclass
class EventSender:
    """One sender: its signing key and the public half of our encryption key.  Every member can be bent.

    Attributes:
        encryption: our public encryption key, and the `kid` it has in the directory.
    """

    clock: Clock
    key: rsa.RSAPrivateKey
    encryption: rsa.RSAPublicKey
    encryption_kid: str = "enc-1"
    kid: str = KID
    issuer: str = ISSUER

    def jwks(self) -> dict[str, Any]:
        """What its JWKS endpoint answers."""
        return {"keys": [jose.jwk(self.key.public_key(), self.kid)]}

    def claims(self, message: Mapping[str, Any], /, **changes: Any) -> dict[str, Any]:
        """The signed envelope of a message."""
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": self.issuer, "aud": [CLIENT_ID], "iat": now, "nbf": now - 10, "exp": now + 300,
            "jti": str(uuid.uuid4()), "message": dict(message),
        } | changes  # fmt: skip
        return {name: value for name, value in claims.items() if value is not ABSENT}

    def signed(self, message: Mapping[str, Any], /, **changes: Any) -> str:
        """A JWS of it."""
        return jose.sign(self.claims(message, **changes), self.key, self.kid)

    def event(self, message: Mapping[str, Any], /, **changes: Any) -> bytes:
        """A JWE around a JWS of it: the body of a delivery."""
        return self.encrypted(self.signed(message, **changes))

    def encrypted(self, plain: str, **header: Any) -> bytes:
        """A JWE to our key.  Source: RFC 7516 §5.1, RFC 7518 §4.3 and §5.3."""
        parts = {"alg": "RSA-OAEP-256", "enc": "A256GCM", "kid": self.encryption_kid, "cty": "JWT"} | header
        protected = jose.encode(json.dumps(parts).encode())
        content_key, nonce = os.urandom(32), os.urandom(12)
        oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
        sealed = AESGCM(content_key).encrypt(nonce, plain.encode(), protected.encode())
        parts_of_body = (self.encryption.encrypt(content_key, oaep), nonce, sealed[:-16], sealed[-16:])
        return ".".join((protected, *map(jose.encode, parts_of_body))).encode()

    def bearer(self, **changes: Any) -> str:
        """The self-signed bearer JWT of older versions; lives thirty seconds."""
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": self.issuer, "sub": str(uuid.uuid4()), "aud": URL, "iat": now, "nbf": now, "exp": now + 30,
            "jti": str(uuid.uuid4()),
        } | changes  # fmt: skip
        return jose.sign({name: value for name, value in claims.items() if value is not ABSENT}, self.key, self.kid)

    # -- what a forger sends -----------------------------------------------------------------------------------------

    def with_header(self, message: Mapping[str, Any], header: Mapping[str, Any], /, **changes: Any) -> bytes:
        """A JWE around a JWS with another header: `alg` decides how it is signed."""
        whole = {"alg": "PS256", "kid": self.kid, "typ": "JWT", **header}
        claims = self.claims(message, **changes)
        signed = ".".join(jose.encode(json.dumps(part).encode()) for part in (whole, claims))
        return self.encrypted(f"{signed}.{jose.encode(self._signature(whole['alg'], signed.encode()))}")

    def _signature(self, algorithm: str, signed: bytes) -> bytes:
        if algorithm == "none":
            return b"none"
        if algorithm == "HS256":  # with the public key as the secret: the classic confusion
            secret = json.dumps(self.jwks()).encode()
            return hmac.new(secret, signed, hashlib.sha256).digest()
        if algorithm == "RS256":
            return self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
        return self.key.sign(signed, pss, hashes.SHA256())
