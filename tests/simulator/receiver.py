"""A TPP's address for events, over TLS on loopback; reads what comes with joserfc, which knows nothing of the bank."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from joserfc import jwe, jws
from joserfc.jwk import KeySet, RSAKey

from syncworker.simulator.asgi import Answer, Receive, Scope, Send, deliver, read_body
from syncworker.simulator.identity import Identity
from syncworker.simulator.jose import jwk
from syncworker.simulator.sandbox import Sandbox
from syncworker.simulator.servers import HOST, Listener, bind, tls

ALGORITHMS = ["RSA-OAEP-256", "A256GCM"]


@dataclass
class Delivered:
    """One request."""

    headers: dict[str, str]
    body: str


@dataclass
class Receiver:
    """Takes events down.

    Attributes:
        statuses: of the next answers, in order; 202 when there is none left.
    """

    sandbox: Sandbox
    url: str
    delivered: list[Delivered] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.delivered.append(Delivered(headers, (body or b"").decode()))
        await deliver(Answer(self.statuses.pop(0) if self.statuses else 202), None, scope, receive, send)

    @property
    def keys(self) -> KeySet:
        """What the bank publishes."""
        identity = self.sandbox.identity
        return KeySet.import_key_set({"keys": [jwk(identity.lfi_signing_key.public_key(), identity.lfi_kid)]})  # type: ignore[list-item]  # a plain dict

    def signed(self, one: Delivered) -> str:
        """The JWS inside a JWE to our key."""
        private = RSAKey.import_key(self.sandbox.identity.encryption_key.read_bytes())
        opened = jwe.decrypt_compact(one.body, private, algorithms=ALGORITHMS)
        assert opened.plaintext is not None
        return opened.plaintext.decode()

    def claims(self, one: Delivered) -> dict[str, Any]:
        """What a delivery says, its signature checked.

        Raises:
            joserfc.errors.JoseError: it does not verify.
        """
        verified = jws.deserialize_compact(self.signed(one), self.keys, algorithms=["PS256"])
        claims: dict[str, Any] = json.loads(verified.payload)
        return claims

    def statuses_told(self) -> list[str]:
        """What the events said, in the order they came."""
        return [self.claims(one)["message"]["Data"]["Status"] for one in self.delivered]


@asynccontextmanager
async def receiving(sandbox: Sandbox, *, certified_by: Identity | None = None) -> AsyncIterator[Receiver]:
    """An address the bank can reach; its certificate is the bank's own authority's unless told."""
    bound = bind(0)
    receiver = Receiver(sandbox, f"https://{HOST}:{bound.getsockname()[1]}/events")
    identity = certified_by or sandbox.identity
    listener = Listener(receiver, bound, tls(identity, clients=False))
    await listener.start()
    try:
        yield receiver
    finally:
        await listener.stop()
