"""The composition root: the only place where parts are built and joined, and the only one that sees all settings.

What commands need that only look lies in `opening`; `build_application` builds everything a worker needs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import structlog

from syncworker.broker import limits_of
from syncworker.clock import Clock, SystemClock, monotonic
from syncworker.consents.allowed import Allowed
from syncworker.consents.authorize import Authorizer
from syncworker.consents.erasing import Retention
from syncworker.consents.filing import announced, free_call
from syncworker.consents.import_file import KnownLFI
from syncworker.consents.importing import Importer
from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.polling import Cadence, Polling
from syncworker.consents.reconciling import Comparison, Reconciling
from syncworker.consents.renewal import Flagging, Renewals
from syncworker.consents.revoking import Revoking
from syncworker.consents.subscribing import Subscribing
from syncworker.consents.sweeping import Sweeping
from syncworker.consents.tokens import TokenBatchReport, TokenDue, Vault
from syncworker.declarations import Follower
from syncworker.delivery.job import OUT, Delivering
from syncworker.delivery.sending import Posting
from syncworker.errors import SettingsError, SyncWorkerError
from syncworker.feed import read as feed
from syncworker.feed.cursor import Filter
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import LFIConfig, SignedAnswers
from syncworker.lfi.keys import EncryptionKey, SigningKey, TransportCertificate
from syncworker.lfi.observing import Observer, Observing
from syncworker.lfi.participants import Rules, fetch
from syncworker.lfi.senders import KeyFetcher, Sender, SenderKeys
from syncworker.lfi.transport import Call
from syncworker.opening import declared_lfis, open_store
from syncworker.openings import OpeningCadence, Openings
from syncworker.ops.certificates import CertificateFinding as CertificateFinding
from syncworker.ops.certificates import certificate_findings as certificate_findings
from syncworker.ops.recording import Recording
from syncworker.processes import host_name, process_name
from syncworker.schedule import due
from syncworker.schedule.claims import Batch, Dispatcher
from syncworker.schedule.clocks import ClockWatch
from syncworker.schedule.handlers import Ended, HandledReport, Handler, Handlers
from syncworker.schedule.limits import admission, keeps_counts
from syncworker.schedule.stopping import Door, LastCalls
from syncworker.schedule.traffic import TrafficControl
from syncworker.settings import LFISettings, RefreshMode, SenderSettings, Settings
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.calls import CallRow
from syncworker.store.changes import Place
from syncworker.store.erasure import DataClass
from syncworker.store.runs import ANNOUNCED_WITHIN
from syncworker.store.tokens import TOKEN_CALL
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.filling import Filling
from syncworker.sync.plan import PlanSettings
from syncworker.sync.reports import BatchReport, RunReport
from syncworker.sync.run import SyncSettings
from syncworker.webhooks import Acting, EventRules, Receiver, Refusals

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
JOURNAL_ROWS_MAX: Final = 10_000
NO_CONSENT: Final = ConsentId("")
"""Of a call that belongs to no consent."""

LIMITS_IN_REDIS: Final = "redis"
LIMITS_IN_DATABASE: Final = "database"
DECLARATIONS_EVERY_S: Final = 60.0
"""How old what a process knows of the declarations may be: the directory is followed by one process for all."""

CERTIFICATES_EVERY: Final = timedelta(hours=1)
"""How often a worker looks at when its certificates end."""

ENDPOINTS_AT_ONCE: Final = 20
"""Endpoints of the product that are sent webhooks at once."""

log = structlog.stdlib.get_logger(__name__)


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
        signing_key=_signing_key(settings, slug, declared, str(given("signing_kid"))),
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
        published=_published(declared),
        account_types=declared.account_types,
        account_sub_types=declared.account_sub_types,
        par_client_id=declared.par_client_id,
        signed_answers=SignedAnswers(declared.signed_answers),
        openings=declared.openings,
        openings_urls=declared.openings_urls,
        openings_iss=declared.openings_iss,
        openings_aud=declared.openings_aud,
        connect_timeout=settings.connect_timeout,
        call_timeout=settings.call_timeout,
        token_timeout=settings.token_timeout,
    )


def signing_files(settings: Settings, slug: Slug, declared: LFISettings) -> Mapping[str, tuple[Path, str]]:
    """Every signing key declared for an LFI by kid: its file, and the setting that names it.

    What the LFI's own declaration says wins over `[client]` as a whole.

    Raises:
        SettingsError: none is declared, or one without a kid.
    """
    for group, at in ((declared, f"lfis.{slug}"), (settings.client, "client")):
        if group.signing_keys:
            return {
                kid: (settings.resolved(file), f"{at}.signing_keys.{kid}") for kid, file in group.signing_keys.items()
            }
        if group.signing_key is not None:
            kid = declared.signing_kid or settings.client.signing_kid
            if not kid:
                raise SettingsError(f"{at}.signing_kid: is not set; give the key id the directory shows")
            return {kid: (settings.resolved(group.signing_key), f"{at}.signing_key")}
    raise SettingsError(f"lfis.{slug}.signing_key: is not set; give it there or once for all as client.signing_key")


def _signing_key(settings: Settings, slug: Slug, declared: LFISettings, kid: str) -> SigningKey:
    """The key that signs, of perhaps several."""
    files = signing_files(settings, slug, declared)
    if kid not in files:
        at = f"lfis.{slug}" if declared.signing_kid else "client"
        raise SettingsError(f"{at}.signing_kid: names none of the signing_keys ({', '.join(sorted(files))})")
    file, field = files[kid]
    return SigningKey.load(file, kid, field=field)


def _published(declared: LFISettings) -> Mapping[Version, frozenset[str]] | None:
    """The published path templates of each version."""
    if declared.published is None or isinstance(declared.published, Mapping):
        return declared.published
    return dict.fromkeys(declared.base_urls, declared.published)


def _followed(declared: LFISettings) -> dict[str, Any]:
    """What of a declaration the directory may change while we run: base URLs, endpoints, kinds of account."""
    return {
        "base_urls": declared.base_urls,
        "published": _published(declared),
        "account_types": declared.account_types,
        "account_sub_types": declared.account_sub_types,
    }


async def cursor_of_connection(unit: UnitOfWork, connection_id: ConsentId, place: Place) -> str:
    """The cursor with which `GET /v1/changes?connection_id=…` gives the change at a place and what follows it."""
    return await feed.before(unit, place, only=Filter(connections=frozenset({connection_id})))


def token_schedule(settings: Settings) -> TokenDue | None:
    """When a token is refreshed by schedule: early enough for the ticks between due and begun; `None`: on demand."""
    if settings.tokens.refresh is not RefreshMode.SCHEDULED:
        return None
    headroom = timedelta(seconds=2 * settings.tick_seconds)

    def token_due(consent_id: ConsentId, issued_at: datetime, expires_at: datetime) -> datetime:
        return due.token_due_at(consent_id, issued_at, expires_at, headroom=headroom)

    return token_due


async def importer(settings: Settings, store: Store, *, spread: timedelta, replace_tokens: bool) -> Importer:
    """What takes over the consents of another system; their first syncs are spread over `spread`.

    Args:
        store: opened for sealing.
    """
    declared = await declared_lfis(settings, store)

    @cache
    def known(slug: Slug) -> KnownLFI:
        if slug not in declared:
            others = ", ".join(sorted(declared)) or "none"
            raise SettingsError(f"is not declared (known: {others}); declare it in syncworker.toml first")
        config = lfi_config(settings, slug, declared[slug][0])
        return KnownLFI(versions=frozenset(config.base_urls), certificate=config.transport.thumbprint)

    return Importer(
        store,
        known,
        sync_due=lambda connection_id, at: due.spread(at, connection_id, over=spread),
        token_due=token_schedule(settings),
        replace_tokens=replace_tokens,
    )


def allowed(settings: Settings) -> Allowed:
    """The allow-lists of live proving."""
    return Allowed(lfis=settings.allow.lfis, user_refs=settings.allow.user_refs)


def directory_rules(settings: Settings, *, allow_private_hosts: bool = False) -> Rules:
    """What an address of the participants directory must be.

    Args:
        allow_private_hosts: said at the prompt, beside what the settings say.
    """
    private = allow_private_hosts or settings.directory.allow_private_hosts
    return Rules(hosts=settings.directory.hosts, allow_private_hosts=private)


async def fetch_public(settings: Settings, url: str, *, rules: Rules) -> object:
    """A public document of the directory or of an LFI it names; roots as `[directory]` or `[client]` give them.

    Raises:
        as `participants.fetch`.
    """
    ca_bundle = settings.directory.ca_bundle or settings.client.ca_bundle
    return await fetch(url, rules=rules, ca_bundle=settings.resolved(ca_bundle) if ca_bundle else None)


def follower(settings: Settings, store: Store) -> Follower:
    """What follows the participants directory of the settings."""
    rules, url = directory_rules(settings), settings.directory.url

    async def fetched() -> object:
        assert url is not None
        return await fetch_public(settings, url, rules=rules)

    return Follower(
        store,
        fetched if url else None,
        rules=rules,
        every=timedelta(seconds=settings.directory.refresh),
        retry_after=due.retry_delay,
        now=SystemClock().now,
    )


def limits_kept_in(settings: Settings) -> str:
    """Where all workers' counts of calls are kept."""
    return LIMITS_IN_REDIS if keeps_counts(limits_of(settings).url) else LIMITS_IN_DATABASE


class Clients:
    """The one client of each LFI that this process keeps.  Built at first use, on the loop that uses it."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        traffic: TrafficControl,
        door: Door,
        journal: "Journal",
        observing: Observing,
    ) -> None:
        self._settings = settings
        self._store = store
        self._traffic = traffic
        self._door = door
        self._journal = journal
        self._observing = observing
        self._allowed = allowed(settings)
        self._clients: dict[Slug, LFIClient] = {}
        self._declared: dict[Slug, LFISettings] = {}
        self._looked_at = monotonic()
        self._building = asyncio.Lock()

    async def __call__(self, slug: Slug) -> LFIClient:
        """The client of an LFI.

        Raises:
            NotAllowedError: it is outside the allow-lists.
            SettingsError: no such LFI is declared, or its declaration cannot be used.
        """
        self._allowed.check(slug)
        async with self._building:
            await self._follow()
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
        self._declared[slug] = declared[slug][0]
        return LFIClient(
            lfi_config(self._settings, slug, declared[slug][0]),
            clock=SystemClock(),
            log=partial(self._journal.note, slug, NO_CONSENT),
            announce=partial(self._journal.announce, slug),
            traffic=LastCalls(self._traffic.of(slug), self._door),
            observing=self._observing,
        )

    async def _follow(self) -> None:
        """Take over what of `_followed` changed in the database since; at most once a minute."""
        if monotonic() - self._looked_at < DECLARATIONS_EVERY_S:
            return
        self._looked_at = monotonic()
        try:
            known = await declared_lfis(self._settings, self._store)
        except SyncWorkerError as error:  # what we know serves on
            log.warning("declarations not read anew", error=error.code)
            return
        for slug, client in self._clients.items():
            fresh = known[slug][0] if slug in known else self._declared[slug]
            if _followed(fresh) == _followed(self._declared[slug]):
                continue
            self._declared[slug] = fresh
            try:
                client.config = replace(client.config, **_followed(fresh))
            except SettingsError as error:
                log.warning("declaration changed and cannot be used", lfi=slug, why=str(error))
            else:
                log.info("declaration changed", lfi=slug, versions=sorted(fresh.base_urls))


class CertificateWatch:
    """Says in the log that a certificate ends soon: once for each of `EXPIRY_DAYS`, and once that a file is unfit."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._looked_at: datetime | None = None
        self._told: dict[str, tuple[datetime | None, int | None, str]] = {}

    async def look(self) -> None:
        """Look at the files, at most once an hour; never fails."""
        now = self._clock.now()
        if self._looked_at is not None and timedelta(0) <= now - self._looked_at < CERTIFICATES_EVERY:
            return
        self._looked_at = now
        try:
            known = await declared_lfis(self._settings, self._store)
        except SyncWorkerError as error:
            log.warning("certificates not looked at", error=error.code)
            return
        declared = {slug: entry for slug, (entry, _) in known.items()}
        for finding in certificate_findings(self._settings, declared, now=now):
            self._tell(finding)

    def _tell(self, finding: CertificateFinding) -> None:
        said = (finding.expires_at, finding.days, finding.fault)
        if self._told.get(finding.field) == said:
            return
        self._told[finding.field] = said
        if finding.fault:
            log.error("certificate cannot be used", lfi=finding.lfi, field=finding.field, why=finding.fault)
        elif finding.days is not None and finding.expires_at is not None:
            log.warning(
                "certificate ends soon",
                lfi=finding.lfi,
                field=finding.field,
                expires_at=finding.expires_at.isoformat(),
                days=finding.days,
            )


class Journal:
    """Calls that belong to no sync run (PAR, consents, documents), kept until the next `flush` files them together.

    A token call is filed before it is sent, in doubt, so that it is on record if this process is killed with its
    answer; `flush` puts how it went in that row's place.  Calls with refresh tokens are not among them: they are filed
    with what becomes of the token (`consents.tokens`).
    """

    def __init__(self, store: Store, observing: Observing) -> None:
        self._store = store
        self._observing = observing
        self._rows: list[CallRow] = []

    def note(self, lfi: Slug, consent_id: ConsentId, call: Call) -> None:
        """Remember one call; all of them are free of charge."""
        self._rows.append(free_call(lfi, consent_id, call))

    async def announce(self, lfi: Slug, _operation: str, interaction_id: str, at: datetime) -> None:
        """File a call for a token of our own that is about to be sent, as `lfi.api.Announce` has it.

        Raises:
            StoreUnavailableError, StoreRefusedError: it is not filed, and must not be sent.
        """
        row = announced(lfi, NO_CONSENT, interaction_id=interaction_id, at=at)
        await self._store.atomically(lambda unit: unit.runs.add_calls([row]))

    async def flush(self) -> None:
        """File what was noted.  While the database is away it is kept, up to a bound, and filed with the next.

        Never fails: what was done does not depend on what is noted about it.
        """
        await self._observing.wait(Observer.JOURNAL, self._flush())

    async def _flush(self) -> None:
        rows, self._rows = self._rows, []
        if not rows:
            return
        tokens = [row for row in rows if row.operation == TOKEN_CALL]

        async def step(unit: UnitOfWork) -> None:
            for lfi in sorted({row.lfi for row in tokens}):
                await unit.runs.settle([row for row in tokens if row.lfi == lfi], apart=ANNOUNCED_WITHIN)
            await unit.runs.add_calls([row for row in rows if row.operation != TOKEN_CALL])

        try:
            await self._store.atomically(step)
        except SyncWorkerError as error:
            self._rows = [*rows, *self._rows][-JOURNAL_ROWS_MAX:]
            log.warning("calls not filed yet", error=error.code, rows=len(self._rows))


class Application:
    """All parts of one process, joined.  Lives on one event loop; `close()` it there.

    Attributes:
        store, clients, vault, authorize, lifecycle, engine, dispatcher: the parts, for commands.
        allowed: whom we may call at all; commands that act for a consent ask it first.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        clock = self._clock = SystemClock()
        name = self._name = process_name()
        self._door = Door()
        self.clocks = ClockWatch(host_name())
        self.observing = Observing()
        self._observers_failed = 0
        self._comparing: asyncio.Task[None] | None = None
        limits = limits_of(settings)
        self._rates: dict[Slug, float] = {Slug(slug): one.calls_per_second for slug, one in settings.lfis.items()}
        self.traffic = TrafficControl(
            store,
            admission(limits.url, self._rates, store, tenant=settings.tenant, tls=limits.redis_options()),
            heard=self._heard,
            observing=self.observing,
        )
        self._journal = Journal(store, self.observing)
        self.clients = Clients(settings, store, self.traffic, self._door, self._journal, self.observing)
        self.allowed = allowed(settings)
        self._follower = follower(settings, store)
        self._certificates = CertificateWatch(settings, store, clock)
        token_due = token_schedule(settings)
        self.vault = Vault(
            store,
            self.clients,
            clock,
            holder=name,
            token_due=token_due,
            keep_warm=settings.tokens.keep_warm,
            retry_after=due.retry_delay,
            lease=timedelta(seconds=settings.lease_seconds),
            on_call=self._journal.note,
            allowed=self.allowed,
        )
        self.authorize = Authorizer(
            store,
            self.clients,
            clock,
            token_due=token_due,
            on_call=self._journal.note,
            allowed=self.allowed,
            events_url=settings.events.url,
        )
        self.lifecycle = Lifecycle(store, self.clients, on_call=self._journal.note, allowed=self.allowed)
        self.engine = Engine(
            Parts(
                store=store,
                clients=self.clients,
                tokens=self.vault.source,
                ask=self.lifecycle.ask,
                stopping=self._door.shut,
            ),
            sync_settings(settings),
        )
        self.revoking = Revoking(store, self.clients, self.lifecycle, on_call=self._journal.note, allowed=self.allowed)
        self.reconciling = Reconciling(store, self.clients, on_call=self._journal.note, allowed=self.allowed)
        polling = Polling(
            store,
            self.lifecycle,
            self.revoking,
            cadence=cadence(settings),
            retention=retention(settings),
            subscribing=Subscribing(
                store,
                self.clients,
                self.lifecycle,
                url=settings.events.url,
                on_call=self._journal.note,
                allowed=self.allowed,
            ),
            reconciling=self.reconciling,
            astray=self.authorize.astray,
        )
        self._sweeping = Sweeping(
            store,
            retention=retention(settings),
            openings_followed_for=opening_cadence(settings).follow_for,
            feed_kept=timedelta(days=settings.feed.kept_days),
        )
        lease = timedelta(seconds=settings.lease_seconds)
        self._recording = Recording(settings, store)
        self._filling = Filling(store, retry_after=due.retry_delay, lease=lease)

        self._events = Acting(store, self.lifecycle, retention=timedelta(days=settings.events.retention_days))

        async def act(claim: Claim) -> Ended:
            return Ended(*await self._events.act(claim))

        async def look(claim: Claim) -> Ended:
            return Ended(*await polling.look(claim))

        self.openings = Openings(
            store,
            self.clients,
            self.authorize,
            cadence=opening_cadence(settings),
            retention=retention(settings).get(DataClass.PERSONAL),
            on_call=self._journal.note,
            allowed=self.allowed,
        )

        webhooks = settings.webhooks
        self._posting = Posting(
            clock=clock,
            timeout_s=webhooks.timeout,
            allow_private_hosts=webhooks.allow_private_hosts,
            ca_bundle=None if webhooks.ca_bundle is None else settings.resolved(webhooks.ca_bundle),
        )
        self._delivering = Delivering(
            store,
            self._posting,
            give_up=timedelta(days=webhooks.give_up_days),
            keep=timedelta(days=webhooks.keep_days),
            places=cursor_of_connection,
        )

        async def deliver(claim: Claim) -> Ended:
            return Ended(*await self._delivering.deliver(claim))

        async def follow(claim: Claim) -> Ended:
            return Ended(*await self.openings.follow(claim))

        self.renewals = Renewals(store, self.clients, self.authorize, life=timedelta(hours=settings.renewal.link_hours))
        flagging = Flagging(store, thresholds=settings.renewal.thresholds)

        async def flag(claim: Claim) -> Ended:
            return Ended(*await flagging.flag(claim))

        handlers: dict[WorkKind, Handler] = {
            WorkKind.CONSENT: look,
            WorkKind.FLAG: flag,
            WorkKind.EVENT: act,
            WorkKind.OPENING: follow,
            WorkKind.DELIVERY: deliver,
        }
        self._handlers = Handlers(
            store, handlers, retry_after=due.retry_delay, patience={WorkKind.CONSENT: polling.patience}
        )
        self.dispatcher = Dispatcher(
            store, name=name, batch_size=settings.batch_size, lease=lease, user_refs=settings.allow.user_refs
        )

    async def tick(self) -> list[Batch]:
        """Claim what is due at every LFI we may call, and commit.

        Begins to read the directory when that is due, and to fill columns while some are to be filled.  Notes what is
        wrong, for an operator to see.
        """
        await self._follower.look()
        await self._events.prune()
        await self._sweeping.look()
        await self._filling.look()
        await self._delivering.look()
        await self._recording.look()
        slots = {**await self._slots(), OUT: ENDPOINTS_AT_ONCE}
        return await self._kept(await self.dispatcher.tick(slots, rates=dict(self._rates)))

    async def refill(self, kind: WorkKind, lfi: Slug) -> list[Batch]:
        """Claim what else is due of a kind at an LFI, when a batch of it ended, and commit."""
        if self._door.shut.is_set():
            return []
        slots = {slug: most for slug, most in (await self._slots()).items() if slug == lfi}
        return await self._kept(await self.dispatcher.refill(kind, slots, rates=dict(self._rates)))

    async def _slots(self) -> dict[Slug, int]:
        """Most consents in work at once, of each LFI we may call; notes their rates on the way."""
        declared = await declared_lfis(self.settings, self.store)
        self._rates.update({slug: entry.calls_per_second for slug, (entry, _) in declared.items()})
        return dict.fromkeys(self.allowed.within(declared), self.settings.consents_at_once)

    async def _kept(self, batches: list[Batch]) -> list[Batch]:
        """The batches to publish: none, when we were told to stop meanwhile.

        What this process just gave back must not wait in a lease for a worker to come.
        """
        if not self._door.shut.is_set():
            return batches
        await self.give_back([claim for batch in batches for claim in batch.claims])
        return []

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

    async def reconcile(
        self, *, lfi: Slug | None = None, progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> Comparison:
        """Compare every consent with the Hub, in this process; as `Reconciling.every`."""
        try:
            return await self.reconciling.every(lfi=lfi, progress=progress)
        finally:
            await self._journal.flush()

    async def file_calls(self) -> None:
        """File the calls noted so far, for a process that works on no batches."""
        await self._journal.flush()

    async def sync_now(self, connection_id: ConsentId) -> RunReport | None:
        """Sync one connection in this process; `None` when a worker is at it, or it has no schedule.

        Raises:
            NotAllowedError: it is outside the allow-lists.
        """
        async with self.store.reading() as unit:
            held = await unit.consents.connection(connection_id)
        if held is not None:
            self.allowed.check(held.lfi, held.user_ref)

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

    async def arrive(self) -> None:
        """Note that this worker begins."""
        await self.dispatcher.arrive()

    async def progress(self) -> None:
        """Note that this worker gets on; now and then also look at when its certificates end."""
        await self.dispatcher.progress()
        await self._tell_observers()
        await self._certificates.look()

    async def _tell_observers(self) -> None:
        """File how many observers failed in this process, when more did."""
        failed = self.observing.caught.total()
        if failed != self._observers_failed:
            await self.store.atomically(lambda unit: unit.workers.observers_failed(self._name, failed))
            self._observers_failed = failed

    async def canaries(self) -> Sequence[str]:
        """Names of the workers to send a canary to."""
        return await self.dispatcher.canaries()

    async def canary(self) -> None:
        """Note that this worker's canary came round."""
        await self.dispatcher.canary()

    async def pulse(self, *, busy: bool) -> None:
        """What a worker does for itself now and then: its progress when no canary can come, its clock's comparison."""
        if busy:
            await self.dispatcher.progress()
        if self._comparing is None or self._comparing.done():
            self._comparing = asyncio.create_task(self._compare_clocks(), name="compare clocks")

    async def _compare_clocks(self) -> None:
        """Compare our clock with the database's and each LFI's, where that is due."""
        try:
            declared = await declared_lfis(self.settings, self.store)
            for slug in self.clocks.unheard(declared, now=self._clock.now()):
                await self._hear(Slug(slug))
            sent = self._clock.now()
            async with self.store.reading() as unit:
                database = await unit.now()
            filing = self.clocks.file(self.store, now=self._clock.now(), sent=sent, database=database)
            await self.observing.wait(Observer.CLOCKS, filing)
        except SyncWorkerError as error:
            log.debug("clocks not compared", error=error.code)

    def _heard(self, slug: Slug, call: Call, headers: Mapping[str, str]) -> None:
        self.clocks.note(slug, sent=call.started_at, took_s=call.duration_ms / 1000, headers=headers)

    async def _hear(self, slug: Slug) -> None:
        """Have an LFI say its time: its discovery document is free, and fetched for every token call anyway."""
        try:
            await (await self.clients(slug)).discovery()
        except SyncWorkerError as error:
            log.debug("clock not compared", lfi=slug, error=error.code)

    async def give_back(self, claims: Sequence[tuple[int, int]]) -> int:
        """Free claims nobody will begin."""
        return await self.dispatcher.give_back(claims)

    def stop(self) -> None:
        """Begin no consent, page or refresh any more: the process is to end."""
        self._door.close()
        self.vault.stop()

    async def leave(self) -> None:
        """Note that this worker ends in order."""
        await self.dispatcher.leave()

    async def close(self) -> None:
        """Finish what must be finished, then give every connection back."""
        if self._comparing is not None:
            self._comparing.cancel()
            await asyncio.gather(self._comparing, return_exceptions=True)
        await self._follower.close()
        await self._filling.close()
        await self.vault.drain()
        await self.authorize.drain()
        await self.openings.drain()
        await self._posting.close()
        await self._journal.flush()
        await self.clients.close()
        await self.traffic.close()
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


def senders(settings: Settings, versions: Mapping[Slug, Collection[Version]]) -> Mapping[str, Sender]:
    """Whose events are taken, by issuer.

    Args:
        versions: which each declared LFI serves: they say whether a sender must bring a bearer JWT where its settings
            do not.

    Raises:
        SettingsError: a `jwks_url` nobody may be asked at.
    """
    return {
        issuer: Sender(
            issuer=issuer,
            jwks_url=one.jwks_url,
            lfis=None if one.lfis is None else frozenset(map(Slug, one.lfis)),
            bearer=demands_bearer(one, versions) if one.bearer is None else one.bearer,
            allow_private_hosts=one.allow_private_hosts,
        )
        for issuer, one in settings.events.senders.items()
    }


def demands_bearer(sender: SenderSettings, versions: Mapping[Slug, Collection[Version]]) -> bool:
    """Whether every LFI a sender may speak of is of a version that demands a bearer JWT with each event.

    The Webhook Template of v2.1-errata2 declares no security scheme; those of v1.2 and v2.0 declare the bearer JWT.
    """
    served = {one for lfi, known in versions.items() if sender.lfis is None or lfi in sender.lfis for one in known}
    return bool(served) and Version.V2_1 not in served


def event_rules(
    settings: Settings,
    client_ids: Iterable[str | None] = (),
    versions: Mapping[Slug, Collection[Version]] = MappingProxyType({}),
) -> EventRules:
    """What events are taken, our encryption keys read.

    Args:
        client_ids: as whom LFIs know us, beside `client.client_id`.
        versions: as in `senders`.

    Raises:
        SettingsError: a key or a sender cannot be used; names the field and the fix.
    """
    given = settings.events
    return EventRules(
        senders=senders(settings, versions),
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
    versions = {slug: entry.base_urls.keys() for slug, (entry, _) in declared.items()}
    rules = event_rules(settings, (entry.client_id for entry, _ in declared.values()), versions)
    ca_bundle = settings.client.ca_bundle
    private = {one.jwks_url for one in rules.senders.values() if one.allow_private_hosts}
    roots = settings.resolved(ca_bundle) if ca_bundle else None
    async with KeyFetcher(ca_bundle=roots, clock=clock, private=private) as fetch:
        yield Receiver(store, rules, SenderKeys(fetch, clock=clock))


def event_refusals(settings: Settings) -> Refusals | None:
    """What signs our answers to refused events; `None` without a signing key in `[client]`: they have no body then.

    Raises:
        SettingsError: the key cannot be used.
    """
    client = settings.client
    kid = client.signing_kid or ""
    file, field = client.signing_key, "client.signing_key"
    if client.signing_keys:
        file, field = client.signing_keys.get(kid), f"client.signing_keys.{kid}"
    if file is None or client.client_id is None:
        return None
    key = SigningKey.load(settings.resolved(file), kid, field=field)
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
