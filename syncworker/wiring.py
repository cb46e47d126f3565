"""The composition root: the only place where parts are built and joined, and the only one that sees all settings.

`open_store` is enough for commands that only look; `build_application` builds everything a worker needs.
"""

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from syncworker.clock import Clock, SystemClock
from syncworker.consents.authorize import Authorizer
from syncworker.consents.erasing import Retention
from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.revoking import Revoking
from syncworker.consents.tokens import TokenBatchReport, Vault
from syncworker.errors import SettingsError, SyncWorkerError
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import EncryptionKey, SigningKey, TransportCertificate
from syncworker.lfi.senders import KeyFetcher, Sender, SenderKeys
from syncworker.lfi.transport import Call
from syncworker.openings import OpeningCadence, Openings
from syncworker.processes import EmbeddedBroker
from syncworker.schedule import due
from syncworker.schedule.claims import Batch, Dispatcher
from syncworker.schedule.handlers import Ended, HandledReport, Handler, Handlers
from syncworker.schedule.limits import Admission, admission
from syncworker.settings import EMBEDDED, LFISettings, Settings, faults_of
from syncworker.standard.values import ConsentId, Slug
from syncworker.store import migrate
from syncworker.store.erasure import DataClass
from syncworker.store.keyring import KeyRing
from syncworker.store.lfis import DeclaredLFI
from syncworker.store.runs import CallRow
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.plan import PlanSettings
from syncworker.sync.reports import BatchReport, RunReport
from syncworker.sync.run import SyncSettings
from syncworker.webhooks import Acting, Receiver, Refusals, Rules

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
JOURNAL_ROWS_MAX: Final = 10_000

log = structlog.stdlib.get_logger(__name__)


async def open_store(settings: Settings, *, sealed: bool = False, clock: Clock | None = None) -> Store:
    """The store of the settings, its schema checked.

    Args:
        sealed: whether sealed columns will be opened or written; then the key ring must be there.

    Raises:
        SettingsError: database URL or key ring.
        SetupError: the schema is not the newest; names the command to run.
    """
    keyring = load_keyring(settings) if sealed or settings.keyring else None
    migrate.check(settings.database_url)
    return Store(settings.database_url, tenant=settings.tenant, keyring=keyring, clock=clock)


def load_keyring(settings: Settings) -> KeyRing:
    """The key ring of the settings, for the settings' tenant.

    Raises:
        SettingsError: none is set, or its file cannot be used.
    """
    if settings.keyring is None:
        raise SettingsError(
            "keyring: is not set, and tokens are never stored unsealed; "
            "run `syncworker keys generate --keyring-only` and set keyring to the file it names"
        )
    return KeyRing.load(settings.resolved(settings.keyring)).for_tenant(settings.tenant)


async def declared_lfis(settings: Settings, store: Store) -> Mapping[Slug, tuple[LFISettings, str]]:
    """Every declared LFI with where it is declared; the settings win over the database."""
    async with store.reading() as unit:
        added = {entry.slug: (_declaration(entry), "database") for entry in await unit.lfis.list()}
    return added | {Slug(slug): (entry, "settings") for slug, entry in settings.lfis.items()}


def _declaration(entry: DeclaredLFI) -> LFISettings:
    try:
        return LFISettings.model_validate(entry.declared)
    except ValidationError as error:
        faults = "; ".join(faults_of(error))
        raise SettingsError(f"lfis.{entry.slug}: as `lfis add` put it into the database: {faults}") from None


def lfi_config(settings: Settings, slug: Slug, declared: LFISettings, *, now: datetime | None = None) -> LFIConfig:
    """One LFI's declaration completed with `[client]`, its keys and certificate read.

    Raises:
        SettingsError: a field is missing or wrong, a key or certificate cannot be used; names the field and the fix.
    """

    def given(name: str) -> object:
        value = getattr(declared, name) or getattr(settings.client, name)
        if value is None:
            raise SettingsError(f"lfis.{slug}.{name}: is not set; give it there or once for all as client.{name}")
        return value

    def path(name: str) -> Path:
        return settings.resolved(Path(str(given(name))))

    def where(name: str) -> str:
        return f"lfis.{slug}.{name}" if getattr(declared, name) else f"client.{name}"

    ca_bundle = declared.ca_bundle or settings.client.ca_bundle
    return LFIConfig(
        slug=slug,
        issuer=declared.issuer,
        discovery_url=declared.discovery_url or declared.issuer.rstrip("/") + DISCOVERY_PATH,
        base_urls=declared.base_urls,
        client_id=str(given("client_id")),
        redirect_uri=str(given("redirect_uri")),
        signing_key=SigningKey.load(path("signing_key"), str(given("signing_kid")), field=where("signing_key")),
        transport=TransportCertificate.load(
            path("transport_certificate"),
            path("transport_key"),
            now=now or SystemClock().now(),
            certificate_field=where("transport_certificate"),
            key_field=where("transport_key"),
        ),
        ca_bundle=settings.resolved(ca_bundle) if ca_bundle else None,
        allow_private_hosts=declared.allow_private_hosts,
        connections=declared.connections,
        calls_per_second=declared.calls_per_second,
        published=declared.published,
        openings=declared.openings,
        openings_urls=declared.openings_urls,
        openings_iss=declared.openings_iss,
        openings_aud=declared.openings_aud,
        connect_timeout=settings.connect_timeout,
        call_timeout=settings.call_timeout,
        token_timeout=settings.token_timeout,
    )


def broker_url(settings: Settings) -> str:
    """The broker as Celery spells it; the embedded one listens in the data folder."""
    return EmbeddedBroker(settings.data_folder).url if settings.broker_url == EMBEDDED else settings.broker_url


class Clients:
    """The one client of each LFI that this process keeps.  Built at first use, on the loop that uses it."""

    def __init__(self, settings: Settings, store: Store, admissions: Admission, journal: "Journal") -> None:
        self._settings = settings
        self._store = store
        self._admissions = admissions
        self._journal = journal
        self._clients: dict[Slug, LFIClient] = {}
        self._building = asyncio.Lock()

    async def __call__(self, slug: Slug) -> LFIClient:
        """The client of an LFI.

        Raises:
            SettingsError: no such LFI is declared, or its declaration cannot be used.
        """
        async with self._building:
            if slug not in self._clients:
                self._clients[slug] = await self._build(slug)
            return self._clients[slug]

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.close()

    async def _build(self, slug: Slug) -> LFIClient:
        declared = await declared_lfis(self._settings, self._store)
        if slug not in declared:
            known = ", ".join(sorted(declared)) or "none"
            raise SettingsError(
                f"lfis.{slug}: is not declared (known: {known}); declare it in syncworker.toml or with `lfis add`"
            )
        return LFIClient(
            lfi_config(self._settings, slug, declared[slug][0]),
            clock=SystemClock(),
            log=lambda call: self._journal.note(slug, ConsentId(""), call),
            admit=lambda: self._admissions.admit(slug),
        )


class Journal:
    """Calls that belong to no sync run (tokens, PAR, consents), kept until the next `flush` files them together."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rows: list[CallRow] = []

    def note(self, lfi: Slug, consent_id: ConsentId, call: Call) -> None:
        """Remember one call; all of them are free of charge."""
        self._rows.append(
            CallRow(
                lfi=lfi,
                consent_id=consent_id,
                operation=call.operation,
                status=call.status,
                error=call.error_code or None,
                interaction_id=call.interaction_id,
                started_at=call.started_at,
                duration_ms=call.duration_ms,
                bytes_in=call.bytes_in,
                attended=call.attended,
                price_millifils=0,
            )
        )

    async def flush(self) -> None:
        """File what was noted.  While the database is away it is kept, up to a bound, and filed with the next."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        try:
            await self._store.atomically(lambda unit: unit.runs.add_calls(rows))
        except SyncWorkerError as error:
            self._rows = [*rows, *self._rows][-JOURNAL_ROWS_MAX:]
            log.warning("calls not filed yet", error=error.code, rows=len(self._rows))


class Application:
    """All parts of one process, joined.  Lives on one event loop; `close()` it there.

    Attributes:
        store, clients, vault, authorize, lifecycle, engine, dispatcher: the parts, for commands.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        clock = SystemClock()
        name = process_name()
        limits = settings.limits_url or broker_url(settings)
        self._rates: dict[Slug, float] = {Slug(slug): one.calls_per_second for slug, one in settings.lfis.items()}
        self._admissions = admission(limits, self._rates, tenant=settings.tenant)
        self._journal = Journal(store)
        self.clients = Clients(settings, store, self._admissions, self._journal)
        token_headroom = timedelta(seconds=2 * settings.tick_seconds)

        def token_due(consent_id: ConsentId, issued_at: datetime, expires_at: datetime) -> datetime:
            return due.token_due_at(consent_id, issued_at, expires_at, headroom=token_headroom)

        self.vault = Vault(
            store,
            self.clients,
            clock,
            holder=name,
            token_due=token_due,
            retry_after=due.retry_delay,
            on_call=self._journal.note,
        )
        self.authorize = Authorizer(store, self.clients, clock, token_due=token_due, on_call=self._journal.note)
        self.lifecycle = Lifecycle(store, self.clients, on_call=self._journal.note)
        self.engine = Engine(
            Parts(
                store=store,
                clients=self.clients,
                tokens=self.vault.source,
                ask=self.lifecycle.ask,
            ),
            sync_settings(settings),
        )
        self.revoking = Revoking(store, self.clients, self.lifecycle, on_call=self._journal.note)
        polling = Polling(
            store, self.lifecycle, self.revoking, cadence=cadence(settings), retention=retention(settings)
        )

        acting = Acting(store, self.lifecycle, retention=timedelta(days=settings.events.retention_days))

        async def act(claim: Claim) -> Ended:
            return Ended(*await acting.act(claim))

        async def look(claim: Claim) -> Ended:
            return Ended(*await polling.look(claim))

        self.openings = Openings(
            store,
            self.clients,
            self.authorize,
            cadence=opening_cadence(settings),
            retention=retention(settings).get(DataClass.PERSONAL),
            on_call=self._journal.note,
        )

        async def follow(claim: Claim) -> Ended:
            return Ended(*await self.openings.follow(claim))

        handlers: dict[WorkKind, Handler] = {WorkKind.CONSENT: look, WorkKind.EVENT: act, WorkKind.OPENING: follow}
        self._handlers = Handlers(store, handlers, retry_after=due.retry_delay)
        lease = timedelta(seconds=settings.lease_seconds)
        self.dispatcher = Dispatcher(store, name=name, batch_size=settings.batch_size, lease=lease)

    async def tick(self) -> list[Batch]:
        """Claim what is due at every LFI we can call, and commit."""
        declared = await declared_lfis(self.settings, self.store)
        self._rates.update({slug: entry.calls_per_second for slug, (entry, _) in declared.items()})
        return await self.dispatcher.tick(dict.fromkeys(declared, self.settings.consents_at_once))

    async def sync_batch(self, claims: Sequence[tuple[int, int]]) -> BatchReport:
        """Sync the claimed connections."""
        try:
            return await self.engine.sync_batch(claims)
        finally:
            await self._journal.flush()

    async def token_batch(self, claims: Sequence[tuple[int, int]]) -> TokenBatchReport:
        """Refresh the claimed consents' tokens."""
        try:
            return await self.vault.token_batch(claims)
        finally:
            await self._journal.flush()

    async def small_batch(self, kind: WorkKind, claims: Sequence[tuple[int, int]]) -> HandledReport:
        """Work on claims of a small kind: polls, flags, events, account openings."""
        try:
            return await self._handlers.batch(kind, claims)
        finally:
            await self._journal.flush()

    async def sync_now(self, connection_id: ConsentId) -> RunReport | None:
        """Sync one connection in this process; `None` when a worker is at it, or it has no schedule."""

        async def claimed(unit: UnitOfWork) -> Claim | None:
            if not await unit.work.ask_now(WorkKind.SYNC, connection_id):
                return None
            return await unit.work.claim_one(WorkKind.SYNC, connection_id, lease=lease)

        lease = timedelta(seconds=self.settings.lease_seconds)
        claim = await self.store.atomically(claimed)
        if claim is None:
            return None
        report = await self.sync_batch([(claim.id, claim.gen)])
        return report.runs[0] if report.runs else None

    async def progress(self) -> None:
        """Note that this worker gets on."""
        await self.dispatcher.progress()

    async def give_back(self, claims: Sequence[tuple[int, int]]) -> int:
        """Free claims nobody will begin."""
        return await self.dispatcher.give_back(claims)

    async def leave(self) -> None:
        """Note that this worker ends in order."""
        await self.dispatcher.leave()

    async def close(self) -> None:
        """Finish what must be finished, then give every connection back."""
        await self.vault.drain()
        await self.authorize.drain()
        await self.openings.drain()
        await self._journal.flush()
        await self.clients.close()
        await self._admissions.close()
        await self.store.close()


async def build_application(settings: Settings) -> Application:
    """All parts of the settings, on the running loop.

    Raises:
        SetupError: settings, key ring or schema.
    """
    return Application(settings, await open_store(settings, sealed=True))


def sync_settings(settings: Settings) -> SyncSettings:
    """What the engine needs of the settings."""
    return SyncSettings(
        plan=PlanSettings(
            cadence=settings.cadence.as_mapping(),
            overlap=timedelta(days=settings.overlap_days),
            first_sync=timedelta(days=settings.first_sync_days),
            backfill_slice=timedelta(days=settings.backfill_slice_days),
            backfill_max=timedelta(days=settings.backfill_max_days),
            rewalk=timedelta(days=settings.rewalk_days),
            rewalk_every=timedelta(seconds=settings.rewalk_every),
        ),
        retry_after=due.retry_delay,
        consent_deadline_s=settings.consent_deadline,
        consents_at_once=settings.consents_at_once,
        lease_s=settings.lease_seconds,
        seal_raw=settings.seal_raw,
        account_details=settings.account_details,
        data_get_millifils=settings.prices.data_get,
    )


def senders(settings: Settings) -> Mapping[str, Sender]:
    """Whose events are taken, by issuer.

    Raises:
        SettingsError: a `jwks_url` nobody may be asked at.
    """
    return {
        issuer: Sender(
            issuer=issuer,
            jwks_url=one.jwks_url,
            lfis=None if one.lfis is None else frozenset(map(Slug, one.lfis)),
            bearer=one.bearer,
            allow_private_hosts=one.allow_private_hosts,
        )
        for issuer, one in settings.events.senders.items()
    }


def event_rules(settings: Settings, client_ids: Iterable[str | None] = ()) -> Rules:
    """What events are taken, our encryption keys read.

    Args:
        client_ids: as whom LFIs know us, beside `client.client_id`.

    Raises:
        SettingsError: a key or a sender cannot be used; names the field and the fix.
    """
    given = settings.events
    return Rules(
        senders=senders(settings),
        encryption_keys={
            kid: EncryptionKey.load(settings.resolved(path), kid, field=f"events.encryption_keys.{kid}")
            for kid, path in given.encryption_keys.items()
        },
        audiences=frozenset(filter(None, (settings.client.client_id, *client_ids, *given.audiences, given.url))),
        url=given.url,
        accept_unencrypted=given.accept_unencrypted,
    )


@asynccontextmanager
async def open_receiver(settings: Settings, store: Store) -> AsyncIterator[Receiver]:
    """What takes events in, for a web process or a command; on the loop that uses it.

    Raises:
        SettingsError: as `event_rules`, or a CA bundle that cannot be used.
    """
    clock = SystemClock()
    declared = await declared_lfis(settings, store)
    rules = event_rules(settings, (entry.client_id for entry, _ in declared.values()))
    ca_bundle = settings.client.ca_bundle
    async with KeyFetcher(ca_bundle=settings.resolved(ca_bundle) if ca_bundle else None, clock=clock) as fetch:
        yield Receiver(store, rules, SenderKeys(fetch, clock=clock))


def event_refusals(settings: Settings) -> Refusals | None:
    """What signs our answers to refused events; `None` without a signing key in `[client]`: they have no body then.

    Raises:
        SettingsError: the key cannot be used.
    """
    client = settings.client
    if client.signing_key is None or client.client_id is None:
        return None
    key = SigningKey.load(settings.resolved(client.signing_key), client.signing_kid or "", field="client.signing_key")
    return Refusals(key, issuer=client.client_id, clock=SystemClock())


def cadence(settings: Settings) -> Cadence:
    """How often the Hub is asked about a consent."""
    return Cadence(**{name: timedelta(seconds=value) for name, value in settings.lifecycle.model_dump().items()})


def opening_cadence(settings: Settings) -> OpeningCadence:
    """How often an LFI is asked about an account opening."""
    values = settings.openings.model_dump()
    return OpeningCadence(**{name: timedelta(seconds=value) for name, value in values.items()})


def retention(settings: Settings) -> Retention:
    """How long what a consent brought stays after its end."""
    days = {DataClass.DATA: settings.retention.data_days, DataClass.PERSONAL: settings.retention.personal_days}
    return {kind: None if stays is None else timedelta(days=stays) for kind, stays in days.items()}


def process_name() -> str:
    """This process among all of the installation: host and process id."""
    return f"{platform.node()[:100]}/{os.getpid()}"
