"""Answers as signed JWTs: what the resource server says, in the form the standard offers beside plain JSON.

The body of an answer becomes the `message` of a JWT, byte for byte, signed with the key the LFI publishes in its JWKS.
A caller asks for it by `Accept`; an LFI may also send nothing else, or not know the form.

Source: Account Information API v2.1-errata2, `Jwt`, `AEReadAccountSigned`; `domain.md` §5.1 (content types).
"""

from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from syncworker.simulator.asgi import JSON, Answer, Request
from syncworker.simulator.clock import BankClock
from syncworker.simulator.jose import sign_payload
from syncworker.simulator.render import ENCODER

JWT: Final = "application/jwt"
LIFE: Final = timedelta(minutes=5)
SIGNED: Final = frozenset({200, 400, 403, 500})
"""Statuses whose bodies have a signed form."""


class Signing(StrEnum):
    """When answers are signed."""

    ASKED = "asked"
    """When the caller accepts `application/jwt` and no JSON."""
    ALWAYS = "always"
    """Whatever the caller accepts, as an LFI that knows nothing else."""
    NEVER = "never"
    """The form is not known: 406 for those who accept nothing else."""


class Signer:
    """Signs what one host answers.

    Args:
        issuer: `iss` of every JWT.
        audience: `aud`: the client id of the registered TPP.

    Attributes:
        mode: may be changed at run time.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        key: rsa.RSAPrivateKey,
        kid: str,
        clock: BankClock,
        mode: Signing = Signing.ASKED,
    ) -> None:
        self.mode = mode
        self._issuer = issuer
        self._audience = audience
        self._key = key
        self._kid = kid
        self._clock = clock

    def signed(self, request: Request, answer: Answer) -> Answer:
        """The answer in the form this caller gets."""
        accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")}
        asked = JWT in accepted and JSON not in accepted
        if self.mode is Signing.NEVER:
            return Answer(406, headers=answer.headers) if asked and answer.status in SIGNED else answer
        if not (asked or self.mode is Signing.ALWAYS) or answer.status not in SIGNED or not answer.body:
            return answer
        if answer.content_type.partition(";")[0] != JSON or "content-encoding" in answer.headers:
            return answer  # bent by a fault into something no signature would help
        return replace(answer, body=self._jwt(answer.body), content_type=JWT)

    def _jwt(self, message: bytes) -> bytes:
        readings = self._clock.readings()
        begins = int(min(readings).timestamp())
        claims = ENCODER.encode(
            {
                "iss": self._issuer,
                "aud": [self._audience],
                "iat": begins,
                "nbf": begins,
                "exp": int((max(readings) + LIFE).timestamp()),
            }
        )
        return sign_payload(claims[:-1] + b',"message":' + message + b"}", self._key, self._kid).encode()
