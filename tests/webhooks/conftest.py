"""Fixtures of the events' tests: a sender LFI noor trusts us to know, and a post office that takes its events."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc.jwk import RSAKey
from pydantic import SecretStr

from syncworker.consents.authorize import Completed
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.revoking import Revoking
from syncworker.errors import LFIUnavailableError
from syncworker.lfi import jose
from syncworker.lfi.api import LFIClient
from syncworker.lfi.keys import EncryptionKey
from syncworker.lfi.senders import Published, Sender, SenderKeys
from syncworker.schedule.handlers import Ended, Handlers
from syncworker.standard.consents import Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.inbox import Refused, StoredEvent
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind
from syncworker.webhooks import Acting, Delivery, EventHeldBackError, EventRefusedError, EventRules, Receiver
from tests.consents.conftest import bank_identity, house, keyring, keyring_file, sandbox
from tests.consents.house import LFI, House
from tests.ground.clock import ManualClock
from tests.webhooks.sender import CLIENT_ID, ISSUER, URL, EventSender, new_key

__all__ = ["bank_identity", "house", "keyring", "keyring_file", "sandbox"]  # fixtures of the consents' tests

NOOR = Slug("noor")
JWKS_URL = "https://keystore.example/noor.jwks"


def private(key: rsa.RSAPrivateKey, kid: str) -> EncryptionKey:
    """A private key as `EncryptionKey.load` gives it."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return EncryptionKey(kid, RSAKey.import_key(pem))


@dataclass(frozen=True)
class Keys:
    """Keys of the whole run: making one takes longer than most tests."""

    sender: rsa.RSAPrivateKey
    stranger: rsa.RSAPrivateKey
    ours: rsa.RSAPrivateKey
    ours_new: rsa.RSAPrivateKey


@pytest.fixture(scope="session")
def keys() -> Keys:
    return Keys(*(new_key() for _ in range(4)))


@dataclass
class PostOffice:
    """A receiver on a store, with the place its sender's keys are published.

    Attributes:
        documents: JWKS by URL; a missing one does not answer.
        fetched: when each was read.
    """

    store: Store
    clock: ManualClock
    rules: EventRules
    documents: dict[str, Mapping[str, Any]]
    fetched: list[tuple[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.receiver = self.with_rules(self.rules)

    def with_rules(self, rules: EventRules) -> Receiver:
        """Another receiver of the same house."""
        self.receiver = Receiver(self.store, rules, SenderKeys(self.fetch, clock=self.clock))
        return self.receiver

    async def fetch(self, url: str) -> Published:
        self.fetched.append((url, self.clock.now()))
        if url not in self.documents:
            raise LFIUnavailableError("no answer")
        return Published(jose.read_keys(self.documents[url]))

    def delivery(
        self, body: bytes | str, *, bearer: str | None = None, media_type: str = "application/jwe"
    ) -> Delivery:
        return Delivery(
            body=body.encode() if isinstance(body, str) else body,
            media_type=media_type,
            bearer=None if bearer is None else SecretStr(bearer),
            address="192.0.2.7",
            interaction_id="1c1a1d50-0000-4000-8000-000000000001",
            received_at=self.clock.now(),
        )

    async def take(self, body: bytes | str, **options: Any) -> int | str:
        """The id of the filed event, or the word for why it was refused or held back."""
        delivery = self.delivery(body, **options)
        try:
            return await self.receiver.receive(delivery)
        except (EventRefusedError, EventHeldBackError) as refused:
            await self.receiver.quarantine(delivery, refused)
            return refused.why.value

    async def events(self) -> list[StoredEvent]:
        async with self.store.reading() as unit:
            return list(reversed(await unit.inbox.list(limit=10_000)))

    async def event(self, event_id: int) -> StoredEvent:
        async with self.store.reading() as unit:
            event = await unit.inbox.get(event_id)
        assert event is not None
        return event

    async def refused(self) -> list[Refused]:
        async with self.store.reading() as unit:
            return list(await unit.inbox.refused(limit=10_000))

    async def due(self) -> list[str]:
        """Ids of the events a worker would act on."""
        async with self.store.writing() as unit:
            return [claim.subject for claim in await unit.work.claim(WorkKind.EVENT, slots={NOOR: 10_000})]


@pytest.fixture
def sender(clock: ManualClock, keys: Keys) -> EventSender:
    """The Hub of the LFI noor."""
    return EventSender(clock, keys.sender, keys.ours.public_key())


@pytest.fixture
def forger(clock: ManualClock, keys: Keys) -> EventSender:
    """Somebody who knows everything public: the issuer, the `kid`, our encryption key.  He has a key of his own."""
    return EventSender(clock, keys.stranger, keys.ours.public_key())


def trusting(keys: Keys, **changes: Any) -> EventRules:
    """EventRules that trust noor's Hub to speak of noor's consents."""
    rules: dict[str, Any] = {
        "senders": {ISSUER: Sender(issuer=ISSUER, jwks_url=JWKS_URL, lfis=frozenset({NOOR}))},
        "encryption_keys": {"enc-1": private(keys.ours, "enc-1")},
        "audiences": frozenset({CLIENT_ID}),
        "url": URL,
    }
    return EventRules(**rules | changes)


@pytest.fixture
def office(store: Store, clock: ManualClock, keys: Keys, sender: EventSender) -> PostOffice:
    """A receiver on each database."""
    return PostOffice(store, clock, trusting(keys), {JWKS_URL: sender.jwks()})


async def hold(store: Store, clock: ManualClock, *consent_ids: str, lfi: Slug = NOOR, **changes: Any) -> None:
    """Authorized consents, each a connection of its own."""
    now = clock.now()
    async with store.writing() as unit:
        for one in map(ConsentId, consent_ids):
            await unit.consents.add_connection(Connection(connection_id=one, lfi=lfi, user_ref=one, created_at=now))
            facts: dict[str, Any] = {
                "consent_id": one, "connection_id": one, "lfi": lfi, "user_ref": one, "version": Version.V2_1,
                "status": Status.Authorized.value, "status_updated_at": now, "status_seen_at": now,
                "permissions": ("ReadAccountsBasic",), "expires_at": now + timedelta(days=90),
                "user_type": "Retail", "purpose": "AccountAggregation", "created_at": now,
            }  # fmt: skip
            await unit.consents.add(StoredConsent(**facts | changes))
        await unit.commit()


RETENTION = timedelta(days=90)
HUB: dict[str, Sender] = {ISSUER: Sender(issuer=ISSUER, jwks_url=JWKS_URL, lfis=frozenset({LFI}))}
Work = Callable[..., Awaitable[dict[str, int]]]


@pytest.fixture
def hub_office(house: House, keys: Keys, sender: EventSender) -> PostOffice:
    """A receiver that trusts the sandbox' Hub to speak of the sandbox' consents."""
    return PostOffice(house.store, house.clock, trusting(keys, senders=HUB), {JWKS_URL: sender.jwks()})


@pytest.fixture
async def work(house: House) -> Work:
    """What a tick and a worker do: claim what is due of a kind, act, end; says with which outcomes."""
    lifecycle = await house.lifecycle()
    client = await house.client()

    async def clients(_: Slug) -> LFIClient:
        return client

    acting = Acting(house.store, lifecycle, retention=RETENTION)
    revoking = Revoking(house.store, clients, lifecycle)
    polling = Polling(house.store, lifecycle, revoking, cadence=Cadence(), retention={})

    async def act(claim: Claim) -> Ended:
        return Ended(*await acting.act(claim))

    async def look(claim: Claim) -> Ended:
        return Ended(*await polling.look(claim))

    handlers = Handlers(
        house.store, {WorkKind.EVENT: act, WorkKind.CONSENT: look}, retry_after=lambda n: timedelta(minutes=n)
    )

    async def due(kind: WorkKind = WorkKind.EVENT) -> dict[str, int]:
        async with house.store.writing() as unit:
            claims = await unit.work.claim(kind, slots={LFI: 10_000})
            await unit.commit()
        return dict((await handlers.batch(kind, [(claim.id, claim.gen) for claim in claims])).outcomes)

    return due


def reads(house: House) -> int:
    """GETs of consents the bank has served."""
    return sum(entry.operation == "consent" for entry in house.bank.bank.log.served())


async def consented(house: House, **changes: Any) -> Completed:
    """A consent whose status was last heard of a minute ago."""
    completed = await house.consented(**changes)
    house.clock.advance(minutes=1)
    return completed
