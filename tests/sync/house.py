"""A product syncing from the sandbox bank: what the flow tests stand on."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import msgspec

from syncworker.audit import AuditedRow, Difference, RowName, compare
from syncworker.consents.authorize import Authorizer
from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.tokens import Vault
from syncworker.lfi.api import LFIClient, Page
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.consents import ConsentRequest
from syncworker.standard.permissions import Permission, in_words_of
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import AccountId, ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.changes import Op
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.records import StoredRecord
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind, WorkRow
from syncworker.sync.decode import whole_columns
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.plan import PlanSettings
from syncworker.sync.reports import BatchReport, RunReport
from syncworker.sync.run import SyncSettings
from tests.ground.clock import ManualClock
from tests.ground.feed import name_of, whole_feed

LFI = Slug("sandbox")
POOL = 10
"""Connections of a store."""

_JSON = msgspec.json.Encoder(decimal_format="number")
EVERYTHING = (
    Permission.ReadAccountsDetail,
    Permission.ReadBalances,
    Permission.ReadTransactionsDetail,
    Permission.ReadBeneficiariesDetail,
    Permission.ReadStandingOrdersDetail,
    Permission.ReadDirectDebits,
    Permission.ReadScheduledPaymentsDetail,
    Permission.ReadStatements,
    Permission.ReadProduct,
    Permission.ReadProductFinanceRates,
    Permission.ReadParty,
    Permission.ReadPartyUser,
)
CADENCE = dict.fromkeys(ResourceName, timedelta(days=7)) | {
    ResourceName.ACCOUNTS: timedelta(hours=24),
    ResourceName.SCHEDULED_PAYMENTS: timedelta(hours=24),
    ResourceName.BALANCES: timedelta(hours=6),
    ResourceName.TRANSACTIONS: timedelta(hours=12),
}


def retry_after(attempts: int) -> timedelta:
    """A minute for each attempt."""
    return timedelta(minutes=max(attempts, 1))


class Between:
    """An LFI's client that lets a test act behind the first page of each listing."""

    def __init__(self, client: LFIClient, act: Callable[[ResourceName, int], Awaitable[None]]) -> None:
        self._client = client
        self._act = act
        self.config = client.config

    @property
    def certificate(self) -> TransportCertificate:
        return self._client.certificate

    async def pages(self, resource: Any, account_id: AccountId | None, **options: Any) -> AsyncIterator[Page]:
        async for page in self._client.pages(resource, account_id, **options):
            yield page
            await self._act(resource.name, page.number)


@dataclass
class Product:
    """One product with one store, one client of one bank, and an engine on them; all on one clock.

    Attributes:
        between: is awaited behind each page that was read: (resource, page number).
    """

    bank: Sandbox
    store: Store
    clock: ManualClock
    client: LFIClient
    stack: contextlib.AsyncExitStack
    settings: SyncSettings
    between: Callable[[ResourceName, int], Awaitable[None]] | None = None
    consents: list[ConsentId] = field(default_factory=list)

    def __post_init__(self) -> None:
        async def clients(_: Slug) -> LFIClient:
            if self.between is None:
                return self.client
            return Between(self.client, self.between)  # type: ignore[return-value]  # what a run reads of a client

        async def plain(_: Slug) -> LFIClient:
            return self.client

        self.clients = clients
        self.authorizer = Authorizer(self.store, plain, self.clock, token_due=None)
        self.vault = Vault(
            self.store,
            plain,
            self.clock,
            holder="test",
            token_due=None,
            retry_after=retry_after,
            elapsed=lambda: self.clock.now().timestamp(),
        )
        self.lifecycle = Lifecycle(self.store, plain)
        self.stack.push_async_callback(self.vault.drain)
        self.engine = Engine(
            Parts(store=self.store, clients=clients, tokens=self.vault.source, ask=self.lifecycle.ask), self.settings
        )

    async def consented(self, user: int = 0, *, version: Version | None = None, **changes: Any) -> ConsentId:
        """The bank's n-th customer consents to everything a version has, for ninety days."""
        everything = in_words_of(version or self.bank.versions[-1], EVERYTHING)
        asked: dict[str, Any] = {"permissions": everything, "expires_at": self.clock.now() + timedelta(days=90)}
        request = ConsentRequest(**asked | changes)
        started = await self.authorizer.begin(LFI, request, user_ref=f"customer-{user}", version=version)
        completed = await self.authorizer.complete(await self.bank.approve(started.url, user=self.bank.users[user]))
        self.consents.append(completed.consent_id)
        return completed.consent_id

    async def claimed(self, *connections: ConsentId, asked: bool = True) -> list[Claim]:
        """Claims on the syncs of these connections, as the dispatcher makes them."""
        async with self.store.writing() as unit:
            for connection in connections:
                if asked:
                    await unit.work.ask_now(WorkKind.SYNC, connection)
            claims = await unit.work.claim(WorkKind.SYNC, slots={LFI: 1000})
            await unit.commit()
        return [claim for claim in claims if claim.subject in connections]

    async def sync_all(self, *connections: ConsentId, asked: bool = True) -> BatchReport:
        """Sync connections as one batch."""
        claims = await self.claimed(*connections, asked=asked)
        return await self.engine.sync_batch([(claim.id, claim.gen) for claim in claims])

    async def sync(self, connection: ConsentId, *, asked: bool = True) -> RunReport:
        """Sync one connection."""
        (report,) = (await self.sync_all(connection, asked=asked)).runs
        return report

    async def report_statistics(self) -> None:
        """Make every idle session of PostgreSQL report what it wrote, which they do late by themselves."""
        if not self.store.dialect.is_postgresql:
            return
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(POOL):
                unit = await stack.enter_async_context(self.store.reading())
                await unit.connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")

    # -- looking ------------------------------------------------------------------------------------------------------

    async def differences(self) -> tuple[Difference, ...]:
        """The audit: every consent's rows against the bank's own books, both ways."""
        books = [
            AuditedRow(
                RowName(consent["consent_id"], row["account_id"], resource, "|".join(row["key"])),
                _JSON.encode(row["item"]),
                row["columns"],
            )
            for consent in self.bank.bank.books()["consents"]
            for resource, rows in consent["resources"].items()
            for row in rows
        ]
        tables = [
            AuditedRow(RowName(row.connection_id, row.account_id, row.resource, row.key), row.item, whole_columns(row))
            for row in await self.rows()
        ]
        assert books
        return compare(books, tables).differences

    def listed(self) -> set[tuple[str, str, str, str]]:
        """What the bank shows now: (consent, account, resource, key) of every item."""
        return {
            (consent["consent_id"], row["account_id"], resource, "|".join(row["key"]))
            for consent in self.bank.bank.books()["consents"]
            for resource, rows in consent["resources"].items()
            for row in rows
        }

    async def buried(self) -> set[tuple[str, str, str, str]]:
        """Tombstones, named as in `listed`."""
        return {
            (row.connection_id, row.account_id, row.resource.value, row.key)
            for row in await self.rows(gone=True)
            if row.gone_at is not None
        }

    async def replayed(self) -> set[tuple[str, str, str, str]]:
        """What a reader of the feed believes to be live, named as in `listed`."""
        live: set[tuple[str, str, str, str]] = set()
        async with self.store.reading() as unit:
            feed = await whole_feed(unit)
        for row in feed:
            name = name_of(row)
            if row.change.op is Op.REMOVED:
                live.remove(name)
            else:
                assert (name in live) == (row.change.op is Op.MODIFIED)
                live.add(name)
        return live

    async def rows(self, connection: ConsentId | None = None, *, gone: bool = False) -> list[StoredRecord]:
        async with self.store.reading() as unit:
            return [row async for row in unit.records.all_rows(connection, gone=gone)]

    async def row(self, key: str) -> StoredRecord:
        (found,) = [row for row in await self.rows(gone=True) if row.key == key]
        return found

    async def cursors(self, connection: ConsentId) -> dict[Listing, Cursor]:
        async with self.store.reading() as unit:
            return await unit.cursors.of(connection)

    async def work(self, connection: ConsentId) -> WorkRow:
        async with self.store.reading() as unit:
            row = await unit.work.find(WorkKind.SYNC, connection)
        assert row is not None
        return row

    def gets(self, since: int = 0) -> "Counter[tuple[str, str | None]]":
        """Data requests the bank answered behind a point of its log, by operation and account."""
        entries = self.bank.bank.log.served(since)
        return Counter((entry.operation, entry.account_id) for entry in entries if entry.token_age_s is not None)

    def answered(self, since: int = 0) -> "Counter[tuple[str, str | None]]":
        """Those of them that brought data."""
        entries = self.bank.bank.log.served(since)
        return Counter(
            (entry.operation, entry.account_id)
            for entry in entries
            if entry.token_age_s is not None and entry.status == 200
        )

    async def asked_for_data(self) -> None:
        """Wait until the first data request is at the bank."""
        while not self.bank.bank.log.max_data_in_flight:  # noqa: ASYNC110 - the bank's log has no event
            await asyncio.sleep(0.01)

    def mark(self) -> int:
        """A point in the bank's log."""
        entries = self.bank.bank.log.served()
        return entries[-1].seq if entries else 0


def config_of(bank: Sandbox, *, connections: int) -> LFIConfig:
    """The declaration of the sandbox."""
    client = bank.client
    return LFIConfig(
        slug=LFI,
        issuer=bank.issuer,
        discovery_url=bank.discovery_url,
        base_urls=bank.resource_base_urls,
        client_id=client.client_id,
        redirect_uri=client.redirect_uri,
        signing_key=SigningKey.load(client.signing_key, client.signing_kid),
        transport=TransportCertificate.load(
            client.transport_certificate, client.transport_key, now=ManualClock().now()
        ),
        ca_bundle=bank.ca_bundle,
        allow_private_hosts=True,
        connections=connections,
    )


SETTINGS = SyncSettings(plan=PlanSettings(cadence=CADENCE), retry_after=retry_after)
