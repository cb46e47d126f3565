"""What the tests of openings stand on: a bank and a store on one clock, a request, and a desk that works on claims."""

import contextlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa

from syncworker.consents.allowed import EVERYBODY, Allowed
from syncworker.consents.authorize import Authorizer
from syncworker.consents.lifecycle import Clients
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.lfi.traffic import Traffic
from syncworker.lfi.transport import Call
from syncworker.openings import OpeningOrder, Openings
from syncworker.schedule.handlers import Ended, Handlers
from syncworker.simulator.openings import Openings as BankOpenings
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.openings import OpeningState, OpeningVersion
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.openings import OpeningContents, StoredOpening
from syncworker.store.tables import opening, opening_history
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind, WorkRow
from tests.ground.clock import ManualClock

LFI: Final = Slug("sandbox")
PERSONAL: Final = ("Noor Al Farsi", "784-1990-7654321-1", "Palm Street 12", "54321.5")
"""What a request says about its person: must lie nowhere readable."""


def body(**claims: Any) -> dict[str, Any]:
    """A request every version takes; keywords change claims of its person."""
    name, emirates_id, street, salary = PERSONAL
    person = {
        "IdentityType": "Person",
        "FullName": name,
        "GivenName": "Noor",
        "Surname": "Al Farsi",
        "EmiratesId": emirates_id,
        "EmiratesIdExpiryDate": "2032-05-05",
        "Salary": Decimal(salary),
        "ResidentialAddress": {"AddressLine": [street], "Country": "AE"},
    }
    return {"Data": {"Account": {"SchemeName": "IBAN"}, "Party": {"Claims": person | claims}}}


def guide_body() -> dict[str, Any]:
    """A request as the account-opening guide of v2.0 lays it out, with every part of its `message`.

    `AnnualTransactionVolume` stands in no file of v2.0-errata1, and its quote has an id of the LFI's own form.
    """
    asked = body()
    return {
        "Data": {
            "LinkedOperations": {"FxQuoteId": "FXQ-2026-11-30-0001"},
            "Account": {"SchemeName": "IBAN", "Identification": "AE070331234567890123456", "Name": "Noor Al Farsi"},
            "AnnualTransactionVolume": 120_000,
            "Party": asked["Data"]["Party"],
            "DataSharingAudit": [
                {"JSONPath": "$.Data.Party.Claims.MaritalStatus", "Action": "Updated", "OriginalValue": "Single"}
            ],
        },
        "Subscription": {"Webhook": {"Url": "https://tpp.example/events", "IsActive": True}},
    }


@dataclass
class House:
    """One product's view of one bank that opens accounts.

    Attributes:
        clock: the one hand on everybody's time: bank, client, database.
    """

    bank: Sandbox
    store: Store
    clock: ManualClock
    stack: contextlib.AsyncExitStack
    calls: list[Call] = field(default_factory=list)
    authorizer: Authorizer = field(init=False)
    clients: Clients = field(init=False)

    @property
    def desk(self) -> BankOpenings:
        """The bank's own side."""
        assert self.bank.bank.openings is not None
        return self.bank.bank.openings

    def config(self, version: OpeningVersion | None = OpeningVersion.V2_1, **changes: Any) -> LFIConfig:
        client = self.bank.client
        config = LFIConfig(
            slug=LFI,
            issuer=self.bank.issuer,
            discovery_url=self.bank.discovery_url,
            base_urls={Version.V2_1: self.bank.resource_base_url},
            client_id=client.client_id,
            redirect_uri=client.redirect_uri,
            signing_key=SigningKey.load(client.signing_key, client.signing_kid),
            transport=TransportCertificate.load(
                client.transport_certificate, client.transport_key, now=self.clock.now()
            ),
            ca_bundle=self.bank.ca_bundle,
            allow_private_hosts=True,
            openings=version,
            openings_urls={OpeningVersion(one): url for one, url in self.bank.opening_base_urls.items()},
        )
        return replace(config, **changes)

    async def openings(
        self,
        version: OpeningVersion | None = OpeningVersion.V2_1,
        *,
        config: dict[str, Any] | None = None,
        kind: type[LFIClient] = LFIClient,
        traffic: Traffic | None = None,
        allowed: Allowed = EVERYBODY,
        **parts: Any,
    ) -> Openings:
        """Openings as one process has them; `authorizer` and `clients` are theirs."""
        if version is not None and version is not OpeningVersion.V2_1:
            self.desk.configure(v2_0=version.value)

        async def no_wait(_seconds: float) -> None:
            return None

        client = kind(self.config(version, **(config or {})), clock=self.clock, sleep=no_wait, traffic=traffic)
        self.stack.push_async_callback(client.close)

        async def clients(_: Slug) -> LFIClient:
            return client

        self.clients = clients

        def told(_lfi: Slug, _consent: ConsentId, call: Call) -> None:
            self.calls.append(call)

        self.authorizer = Authorizer(self.store, clients, self.clock, token_due=None, allowed=allowed)
        return Openings(self.store, clients, self.authorizer, on_call=told, allowed=allowed, **parts)

    async def stored(self, opening_id: str) -> StoredOpening:
        async with self.store.reading() as unit:
            opening = await unit.openings.get(opening_id)
        assert opening is not None
        return opening

    async def only(self) -> StoredOpening:
        """The one opening there is."""
        async with self.store.reading() as unit:
            (opening,) = await unit.openings.find()
        return opening

    async def rows(self) -> bytes:
        """Everything the tables of openings hold, as whoever reads the disk would find it."""
        found = b""
        async with self.store.reading() as unit:
            for table in (opening, opening_history):
                for row in await unit.connection.execute(sa.select(table)):
                    found += b" ".join(one if isinstance(one, bytes) else str(one).encode() for one in row) + b"\n"
        return found

    async def contents(self, opening_id: str) -> OpeningContents:
        async with self.store.reading() as unit:
            return await unit.openings.contents(opening_id)

    async def history(self, opening_id: str) -> list[tuple[OpeningState, str | None, str]]:
        async with self.store.reading() as unit:
            return [(one.state, one.status, one.source) for one in await unit.openings.history(opening_id)]

    async def notes(self, opening_id: str) -> list[str]:
        async with self.store.reading() as unit:
            return [note["what"] for note in await unit.consents.notes(subject=opening_id)]

    async def work(self, opening_id: str) -> WorkRow:
        async with self.store.reading() as unit:
            row = await unit.work.find(WorkKind.OPENING, opening_id)
        assert row is not None
        return row

    async def ask_now(self, opening_id: str) -> None:
        """What an event does."""
        async with self.store.writing() as unit:
            assert await unit.work.ask_now(WorkKind.OPENING, opening_id)
            await unit.commit()

    async def turn(self, openings: Openings) -> dict[str, int]:
        """One tick's worth of work, through claims and handlers: what became of each claim."""

        async def follow(claim: Claim) -> Ended:
            return Ended(*await openings.follow(claim))

        handlers = Handlers(self.store, {WorkKind.OPENING: follow}, retry_after=lambda n: timedelta(minutes=n))
        async with self.store.writing() as unit:
            claims = await unit.work.claim(WorkKind.OPENING, slots={LFI: 100})
            await unit.commit()
        report = await handlers.batch(WorkKind.OPENING, [(claim.id, claim.gen) for claim in claims])
        return dict(report.outcomes)

    def posts(self) -> int:
        """How many creations reached the bank."""
        return sum(one.operation == "opening_create" for one in self.bank.bank.log.served())

    def order(self, **changes: Any) -> OpeningOrder:
        """An order for an account."""
        return OpeningOrder(**{"body": body()} | changes)
