"""What the tests of `consents` stand on: a bank, a client of it, vaults as several processes would have them."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from syncworker.clock import Clock
from syncworker.consents.authorize import Authorizer, Completed
from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.tokens import Vault
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.consents import ConsentRequest
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import StoredConsent
from syncworker.store.tokens import StoredToken
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock

LFI = Slug("sandbox")
TOKEN_TIMEOUT_S = 3.0
LEASE_S = 24.0
"""Eight call deadlines."""


def config_of(facts: dict[str, Any], *, token_timeout: float = TOKEN_TIMEOUT_S) -> LFIConfig:
    """The declaration of a sandbox, from its facts."""
    client = facts["client"]
    clock = ManualClock()
    return LFIConfig(
        slug=LFI,
        issuer=facts["issuer"],
        discovery_url=facts["discovery_url"],
        base_urls={Version.V2_1: facts["resource_base_url"]},
        client_id=client["client_id"],
        redirect_uri=client["redirect_uri"],
        signing_key=SigningKey.load(Path(client["signing_key"]), client["signing_kid"]),
        transport=TransportCertificate.load(
            Path(client["transport_certificate"]), Path(client["transport_key"]), now=clock.now()
        ),
        ca_bundle=Path(facts["ca_bundle"]),
        allow_private_hosts=True,
        token_timeout=token_timeout,
    )


def token_due(consent_id: ConsentId, issued_at: datetime, expires_at: datetime) -> datetime:
    """Three quarters of the life."""
    return issued_at + (expires_at - issued_at) * 0.75


def retry_after(attempts: int) -> timedelta:
    return timedelta(minutes=attempts)


def sha256(secret: SecretStr | None) -> str:
    """A secret's hash: what a test may compare and print."""
    assert secret is not None
    return hashlib.sha256(secret.get_secret_value().encode()).hexdigest()


def request(clock: Clock, **changes: Any) -> ConsentRequest:
    """A consent for accounts and balances, good for ninety days."""
    asked: dict[str, Any] = {
        "permissions": (Permission.ReadAccountsBasic, Permission.ReadBalances),
        "expires_at": clock.now() + timedelta(days=90),
    }
    return ConsentRequest(**asked | changes)


@dataclass
class Gate:
    """A checkpoint at which the refresh waits until the test opens it."""

    name: str
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, name: str) -> None:
        if name == self.name:
            self.reached.set()
            await self.opened.wait()


@dataclass
class House:
    """One product's view of one bank, in as many processes as a test wants.

    Attributes:
        clock: the one hand on everybody's time: bank, client, database.
    """

    bank: Sandbox
    store: Store
    clock: ManualClock
    stack: contextlib.AsyncExitStack

    async def client(self) -> LFIClient:
        """A client as one process has it."""
        client = LFIClient(config_of(self.bank.facts()), clock=self.clock)
        self.stack.push_async_callback(client.close)
        return client

    async def vault(self, store: Store | None = None, *, holder: str = "worker", **changes: Any) -> Vault:
        """A vault as one process has it; sleeping moves the clock."""
        client = await self.client()

        async def clients(_: Slug) -> LFIClient:
            return client

        options: dict[str, Any] = {
            "holder": holder,
            "token_due": token_due,
            "retry_after": retry_after,
            "sleep": self.sleep,
            "elapsed": self.elapsed,
        }
        vault = Vault(store or self.store, clients, self.clock, **options | changes)
        self.stack.push_async_callback(vault.drain)
        return vault

    async def authorizer(self, **changes: Any) -> Authorizer:
        """An authorizer as one process has it."""
        client = await self.client()

        async def clients(_: Slug) -> LFIClient:
            return client

        options: dict[str, Any] = {"token_due": token_due, "sleep": self.sleep}
        return Authorizer(self.store, clients, self.clock, **options | changes)

    async def lifecycle(self) -> Lifecycle:
        """A lifecycle as one process has it."""
        client = await self.client()

        async def clients(_: Slug) -> LFIClient:
            return client

        return Lifecycle(self.store, clients)

    async def consented(self, *, user: int = 0, **changes: Any) -> Completed:
        """A consent given by the bank's n-th customer, its tokens stored."""
        authorizer = await self.authorizer()
        started = await authorizer.begin(LFI, request(self.clock, **changes), user_ref=f"customer-{user}")
        return await authorizer.complete(await self.bank.approve(started.url, user=self.bank.users[user]))

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds=seconds)
        await asyncio.sleep(0)

    def elapsed(self) -> float:
        return self.clock.now().timestamp()

    async def token(self, consent_id: ConsentId) -> StoredToken:
        """The stored token."""
        async with self.store.reading() as unit:
            token = await unit.tokens.read(consent_id)
        assert token is not None
        return token

    async def consent(self, consent_id: ConsentId) -> StoredConsent:
        """The stored consent."""
        async with self.store.reading() as unit:
            consent = await unit.consents.get(consent_id)
        assert consent is not None
        return consent

    async def notes(self, consent_id: ConsentId) -> list[tuple[str, Any]]:
        """What the audit says about a consent."""
        async with self.store.reading() as unit:
            return [(note["what"], note["facts"]) for note in await unit.consents.notes(subject=consent_id)]

    def refreshes(self, consent_id: ConsentId | None = None) -> list[str]:
        """How the bank judged each refresh it processed, oldest first."""
        return [
            entry.outcome
            for entry in self.bank.bank.log.tokens()
            if entry.grant_type == "refresh_token" and consent_id in (None, entry.consent_id)
        ]

    async def stored_is_current(self, consent_id: ConsentId) -> bool:
        """Whether the stored refresh token is the one the bank would take next."""
        token = await self.token(consent_id)
        return self.bank.bank.is_current(consent_id, sha256(token.refresh_token))


Sleep = Callable[[float], Awaitable[None]]
