"""What there is to see: the database's tables, its state, the broker, this host; collected into one plain value.

Nothing is judged here.  What cannot be asked says so and the rest is collected all the same: while the database is away
the broker and the certificates are still looked at, and a broker that is silent costs seconds and nothing more.
"""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from syncworker import broker as brokers
from syncworker import opening
from syncworker.clock import SystemClock, monotonic
from syncworker.declarations import facts_of
from syncworker.errors import SetupError, SyncWorkerError
from syncworker.ops.certificates import CertificateFinding, certificate_findings
from syncworker.ops.targets import judged, targets_of
from syncworker.processes import host_name
from syncworker.schedule.health import process_runs
from syncworker.settings import EMBEDDED, Settings
from syncworker.standard.calendar import UAE, as_utc, at_time, local_date, shifted
from syncworker.standard.interaction import mark_of
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.causes import Judged
from syncworker.store.changes import Blocker
from syncworker.store.failures import StoreRefusedError, StoreUnavailableError
from syncworker.store.filling import Progress
from syncworker.store.overview import Overview
from syncworker.store.runs import TrafficRow
from syncworker.store.standings import FIRST_READ, Troubled
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind
from syncworker.sync.decode import COLUMNS_VERSION

TRAFFIC_OVER: Final = timedelta(minutes=10)
FEED_LAGS: Final = timedelta(seconds=60)
"""The feed waits for every transaction that writes; most last far less than this."""

FEED_LAGS_IDLE: Final = timedelta(seconds=5)
"""The same, where the transaction that holds it back does nothing for so long: it was left open."""

JUDGED_AT_ONCE: Final = 500
"""Most connections that one look judges itself: those whose sync ended since housekeeping looked."""

ROOM_MIN: Final = 32 * 2**20
"""Bytes below which the disk of an SQLite file counts as full: its log needs room before the file does."""

GONE_AFTER_S: Final = 7.5
"""A process of this host that does not run and gave no sign of life for so long is gone: beat gives one every 5 s."""

FULL: Final = frozenset({"53100", "SQLITE_FULL"})
READ_ONLY: Final = ("25006", "SQLITE_READONLY")
STATUS: Final = "status"


class DatabaseState(StrEnum):
    """How the database stands."""

    OK = "ok"
    AWAY = "away"
    READ_ONLY = "read_only"
    FULL = "full"


class BrokerState(StrEnum):
    """How the broker stands."""

    ANSWERS = "answers"
    SILENT = "silent"
    FOREIGN = "foreign"
    """Something answers at its address, and is not the broker of the settings."""
    UNASKED = "unasked"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFact:
    """How the database stands, in a word and in its own words."""

    state: DatabaseState = DatabaseState.OK
    said: str = ""
    took_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerFact:
    """How the broker stands.

    Attributes:
        embedded: it is part of `syncworker up`.
    """

    state: BrokerState = BrokerState.UNASKED
    said: str = ""
    took_ms: float = 0.0
    embedded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedFact:
    """How long the oldest committed change waits for an open transaction, and which transactions hold it back."""

    lag: timedelta = timedelta()
    held_by: Sequence[Blocker] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFact:
    """A series of exports that is set.

    Attributes:
        due_at: when the next is due; `None`: no worker has seen the series yet.
        going: one is being made.
        last_at: snapshot of the newest that came to be; `None`: none did.
        error: stable code of why the last try failed; `None`: it did not.
    """

    name: str
    due_at: datetime | None
    going: bool = False
    last_at: datetime | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the calls to an LFI cost on a day, which begins at 00:00 in Dubai."""

    lfi: Slug
    day: date
    calls: int
    millifils: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What there was to see at one instant.

    Attributes:
        at: by the database's clock; by this host's while the database is away.
        ages: when connections go stale that were judged by this look, since housekeeping has not yet.
        unjudged: connections that were not judged at all yet: too many at once.
        declared: LFIs we can call; `allowed_lfis`: those that may be called, `None` for all.
        directory: what the participants directory says that an operator should know.
        gone: processes of this host that are in the tables and do not run.
        clock_offset: the database's clock less this host's; `None`: not known, or measured too loosely to say.
        slots: `consents_at_once`.
        alive_within: a process that made no progress for longer counts as dead.
    """

    at: datetime
    tenant: str = "default"
    host: str = ""
    database: DatabaseFact = DatabaseFact()
    broker: BrokerFact = BrokerFact()
    keyring_fault: str = ""
    overview: Overview | None = None
    ages: Mapping[ConsentId, Judged] = field(default_factory=dict)
    unjudged: int = 0
    feed: FeedFact = FeedFact()
    traffic: Sequence[TrafficRow] = ()
    spent_today: Sequence[Spent] = ()
    calls_24h: int = 0
    cost_24h_millifils: int = 0
    declared: frozenset[Slug] = frozenset()
    allowed_lfis: frozenset[str] | None = None
    directory: Sequence[str] = ()
    certificates: Sequence[CertificateFinding] = ()
    filling: Sequence[Progress] = ()
    exports: Sequence[ExportFact] = ()
    gone: frozenset[str] = frozenset()
    clock_offset: timedelta | None = None
    slots: int = 50
    alive_within: timedelta = timedelta(seconds=15)


# -- what is not in the tables -----------------------------------------------------------------------------------------


def ask_broker(settings: Settings) -> BrokerFact:
    """Whether the broker of the settings answers; takes `broker.CHECK_S` seconds at most."""
    embedded, begun = settings.broker_url == EMBEDDED, monotonic()
    state, said = BrokerState.ANSWERS, ""
    try:
        brokers.check(brokers.broker_of(settings))
    except brokers.ForeignBrokerError as error:
        state, said = BrokerState.FOREIGN, str(error)
    except SyncWorkerError as error:
        state, said = BrokerState.SILENT, str(error)
    return BrokerFact(state=state, said=said, took_ms=(monotonic() - begun) * 1000, embedded=embedded)


def database_fact(error: SyncWorkerError) -> DatabaseFact:
    """What an error of the store says of the database."""
    code = getattr(error, "reported", "")
    state = DatabaseState.AWAY
    if code in FULL:
        state = DatabaseState.FULL
    elif code.startswith(READ_ONLY):
        state = DatabaseState.READ_ONLY
    return DatabaseFact(state=state, said=str(error))


def _room(settings: Settings) -> DatabaseFact | None:
    """A full disk below an SQLite file; `None` where there is room, or the database is no file."""
    file = settings.database.file
    if file is None:
        return None
    with suppress(OSError):
        free = shutil.disk_usage(file.parent).free
        if free < ROOM_MIN:
            said = f"the disk of {file.name} has {free // 2**20} MiB left"
            return DatabaseFact(state=DatabaseState.FULL, said=said)
    return None


async def _probed(store: Store) -> DatabaseFact:
    """Whether the database takes a write: the one that notes this look."""
    begun = monotonic()
    try:
        await store.atomically(_note_look, attempts=1)
    except StoreUnavailableError as error:
        found = database_fact(error)
        if found.state is not DatabaseState.AWAY:
            return found  # a wait for a lock, or a missing right to this table, is an answer all the same
    except StoreRefusedError as error:
        return DatabaseFact(said=str(error))
    return DatabaseFact(took_ms=(monotonic() - begun) * 1000)


async def _note_look(unit: UnitOfWork) -> None:
    await unit.causes.look(STATUS, at=await unit.now())


def keyring_fault(settings: Settings) -> str:
    """Why the key ring of the settings cannot be used; empty when it can, or none is set."""
    if settings.keyring is None:
        return ""
    try:
        opening.load_keyring(settings)
    except SetupError as error:
        return str(error)
    return ""


# -- the whole ---------------------------------------------------------------------------------------------------------


async def collect(
    settings: Settings,
    store: Store | None,
    *,
    asks_broker: bool = True,
    probes: bool = True,
    costs: bool = True,
    whole_day: bool = False,
    away: SyncWorkerError | None = None,
    ask: Callable[[Settings], BrokerFact] = ask_broker,
) -> Status:
    """Collect everything; fails for nothing that is away.

    Args:
        store: open; `None`: the database could not be reached, `away` says why.
        asks_broker: ask the broker; a process that was just reached through it need not.
        probes: see whether the database takes a write; a process whose role may not write says no.
        costs: sum up what calls cost today.
        whole_day: sum up the calls of the last 24 hours too, which takes as long as all else.
    """
    asked = asyncio.create_task(asyncio.to_thread(ask, settings)) if asks_broker else None
    try:
        found = await _from_database(settings, store, away=away, wanted=_Wanted(probes, costs, whole_day))
    finally:
        broker = BrokerFact(embedded=settings.broker_url == EMBEDDED) if asked is None else await asked
    return replace(found, broker=broker, keyring_fault=keyring_fault(settings))


def _bare(settings: Settings, database: DatabaseFact) -> Status:
    now = SystemClock().now()
    declared = {Slug(slug): entry for slug, entry in settings.lfis.items()}
    return Status(
        at=now,
        tenant=settings.tenant,
        host=host_name(),
        database=database,
        declared=frozenset(declared),
        certificates=tuple(certificate_findings(settings, declared, now=now)),
    )


class _Wanted(NamedTuple):
    """What of it is wanted: see `collect`."""

    probes: bool
    costs: bool
    whole_day: bool


async def _from_database(
    settings: Settings, store: Store | None, *, away: SyncWorkerError | None, wanted: _Wanted
) -> Status:
    if store is None:
        return _bare(settings, database_fact(away or SetupError("database_url: not asked")))
    try:
        return await _read(settings, store, wanted)
    except StoreUnavailableError as error:
        return _bare(settings, database_fact(error))


async def _exports(settings: Settings, unit: UnitOfWork, *, now: datetime) -> tuple[ExportFact, ...]:
    """The series of exports that are set, as they stand."""
    found = []
    for name in sorted(settings.exports):
        row, last = await unit.work.find(WorkKind.EXPORT, name), await unit.exports.last_good(name)
        found.append(
            ExportFact(
                name=name,
                due_at=None if row is None else row.due_at,
                going=row is not None and row.lease_until is not None and row.lease_until > now,
                last_at=None if last is None else last.as_of,
                error=None if row is None else row.last_error,
            )
        )
    return tuple(found)


async def _read(settings: Settings, store: Store, wanted: _Wanted) -> Status:
    clock, targets = SystemClock(), targets_of(settings)
    database = _room(settings) or (await _probed(store) if wanted.probes else DatabaseFact())
    async with store.looking() as unit:
        sent = clock.now()
        recent = mark_of(shifted(sent if store.dialect.clock is None else store.dialect.clock.now(), -TRAFFIC_OVER))
        overview = await unit.overviews.read(rule=targets.rule, recent_mark=recent, user_refs=settings.allow.user_refs)
        took = clock.now() - sent
        those = [(one.connection_id, one.ended_at) for one in overview.troubled if not one.judged and one.ended_at]
        ages = {one.connection_id: one for one in await judged(unit, those[:JUDGED_AT_ONCE], targets)}
        line = await unit.changes.line()
        held_by = await unit.changes.blockers() if line.lag > FEED_LAGS_IDLE else ()
        traffic = await unit.runs.traffic(since=overview.now - TRAFFIC_OVER)
        day = local_date(overview.now)
        today = await unit.runs.traffic(since=as_utc(at_time(day, zone=UAE))) if wanted.costs else []
        calls, cost = await unit.runs.cost(since=overview.now - timedelta(days=1)) if wanted.whole_day else (0, 0)
        filling = await unit.fillings.open(COLUMNS_VERSION) if wanted.costs else []
        exports = await _exports(settings, unit, now=overview.now)
        entries = await unit.lfis.list()
    declared = {slug: entry for slug, (entry, _) in opening.declared_of(settings, entries).items()}
    known = [(entry.slug, facts_of(entry)) for entry in entries]
    return Status(
        at=overview.now,
        tenant=settings.tenant,
        host=host_name(),
        database=database,
        overview=overview,
        ages=ages,
        unjudged=max(len(those) - JUDGED_AT_ONCE, 0),
        feed=FeedFact(lag=line.lag, held_by=tuple(held_by)),
        traffic=tuple(traffic),
        spent_today=tuple(Spent(lfi=one.lfi, day=day, calls=one.calls, millifils=one.price_millifils) for one in today),
        calls_24h=calls,
        cost_24h_millifils=cost,
        declared=frozenset(declared),
        allowed_lfis=settings.allow.lfis,
        directory=tuple(f"{slug}: {warning}" for slug, facts in known if facts for warning in facts.warnings()),
        certificates=tuple(certificate_findings(settings, declared, now=clock.now())),
        filling=tuple(filling),
        exports=exports,
        gone=_gone(overview, within=timedelta(seconds=max(1.5 * settings.tick_seconds, GONE_AFTER_S))),
        clock_offset=_offset(overview.now, sent, took) if store.dialect.clock is None else None,
        slots=settings.consents_at_once,
        alive_within=timedelta(seconds=max(3 * settings.tick_seconds, 15)),
    )


def _gone(overview: Overview, *, within: timedelta) -> frozenset[str]:
    """Processes of this host in the tables that do not run and gave no sign of life lately.

    A container that shares this host's name shows none of its processes here, but its signs of life come.
    """
    found = set()
    for one in overview.workers:
        host, _, pid = one.name.rpartition("/")
        silent = overview.now - one.progress_at > within
        if silent and host == host_name() and pid.isdigit() and not process_runs(int(pid)):
            found.add(one.name)
    return frozenset(found)


def _offset(database: datetime, sent: datetime, took: timedelta) -> timedelta | None:
    """The database's clock less ours, where the exchange was short enough to say."""
    return shifted(database, -took / 2) - sent if took < timedelta(seconds=1) else None


def stale_since(status: Status, one: Troubled) -> datetime | None:
    """When a connection went stale; `None`: it is fresh, or not judged yet."""
    if one.connection_id in status.ages:
        at: datetime | None = status.ages[one.connection_id].stale_at
    elif one.judged:
        at = one.stale_at
    else:
        return None
    if at is None:  # never read: it is here because that lasts too long, or because its first sync fails
        at = shifted(one.created_at, FIRST_READ)
    return at if at < status.at else None
