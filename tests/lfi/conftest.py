"""What the tests of `lfi` stand on: made-up identities, a raw bank, and a client that talks to it."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.lfi.transport import Call
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version
from tests.lfi.raw_bank import CLIENT_ID, REDIRECT_URI, Identities, RawBank


class MovableClock:
    """The computer's time, plus what a test added."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.offset

    def advance(self, **by: float) -> None:
        self.offset += timedelta(**by)


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return Identities(tmp_path_factory.mktemp("identities"))


@pytest.fixture
async def bank(identities: Identities) -> AsyncIterator[RawBank]:
    bank = RawBank(identities)
    await bank.start()
    yield bank
    await bank.stop()


@pytest.fixture
def config(bank: RawBank, identities: Identities) -> LFIConfig:
    return LFIConfig(
        slug=Slug("raw"),
        issuer=bank.origin,
        discovery_url=f"{bank.origin}/.well-known/openid-configuration",
        base_urls={Version.V2_1: bank.base_url},
        client_id=CLIENT_ID,
        redirect_uri=REDIRECT_URI,
        signing_key=SigningKey.load(identities.signing_key, "sig-1"),
        transport=TransportCertificate.load(
            identities.client_certificate, identities.client_key, now=datetime.now(UTC)
        ),
        ca_bundle=identities.ca_bundle,
        allow_private_hosts=True,
    )


ClientMaker = Callable[..., LFIClient]


@pytest.fixture
async def client_of(config: LFIConfig, clock: MovableClock, calls: list[Call]) -> AsyncIterator[ClientMaker]:
    """Makes clients of the raw bank; keywords change the configuration.  Waits between attempts are skipped."""
    clients: list[LFIClient] = []

    async def no_wait(_seconds: float) -> None:
        await asyncio.sleep(0)

    def make(**changes: Any) -> LFIClient:
        client = LFIClient(dataclasses.replace(config, **changes), clock=clock, log=calls.append, sleep=no_wait)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def calls() -> list[Call]:
    return []


@pytest.fixture
def client(client_of: ClientMaker) -> LFIClient:
    return client_of()
