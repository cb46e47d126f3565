"""`syncworker status` and `syncworker doctor`: what is wrong, from one screen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import typer

from syncworker import broker, opening, wiring
from syncworker import settings as settings_module
from syncworker.cli import frame, show
from syncworker.cli.diagnosis import (
    FEED_LAGS,
    ConsentCounts,
    Hold,
    Series,
    Trouble,
    advice_of,
    consent_troubles,
    counted,
    export_troubles,
    feed_troubles,
    finding_troubles,
    holds,
    opening_troubles,
    troubles,
    why_late,
)
from syncworker.clock import SystemClock, in_time
from syncworker.declarations import facts_of
from syncworker.errors import SetupError, SyncWorkerError
from syncworker.exports.extras import require
from syncworker.schedule.breaker import RETRY_SHARE
from syncworker.settings import Settings
from syncworker.standard.consents import Status
from syncworker.standard.operations import OperationClass
from syncworker.store import grants, migrate
from syncworker.store.changes import Blocker
from syncworker.store.consents import StoredConsent
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.grants import Standing
from syncworker.store.lfis import DeclaredLFI
from syncworker.store.roles import Kind
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import WorkKind
from syncworker.sync.decode import COLUMNS_VERSION
from syncworker.sync.reports import NEEDS_A_PERSON

T = TypeVar("T")

CERTIFICATE_DAYS_WARNED: Final = 30
EXPIRY_DAYS_SHOWN: Final = 30
CHECK_S: Final = 20.0
"""Most seconds of one check of `doctor`."""

LOOK_S: Final = 90.0
"""Most seconds of a look at the whole database: far more than one takes, and an end for one that goes silent."""

TRAFFIC_OVER: Final = timedelta(minutes=10)
CLOCKS_OVER: Final = timedelta(hours=3)
"""Comparisons come hourly; what is older speaks of hosts that are gone."""


def status(as_json: frame.AsJson = False) -> None:
    """What is due, late, parked, gated or failing, why, and what to do; exit 1 when a person should look."""
    config = frame.settings()
    found, wrong = _asked(lambda: frame.with_store(lambda store: _look(config, store)))
    if as_json:
        show.value(found | {"wrong": [one.what for one in wrong], "todo": [one.do for one in wrong]})
    else:
        _print_status(found, wrong)
    if wrong:
        raise typer.Exit(frame.FAILED)


async def _look(config: Settings, store: Store) -> tuple[dict[str, Any], list[Trouble]]:
    within = timedelta(seconds=max(3 * config.tick_seconds, 15))
    declared = await opening.declared_lfis(config, store)
    async with store.reading() as unit:
        now = await unit.now()
        consents = await unit.consents.find()
        summary = await unit.work.summary()
        calls, cost = await unit.runs.cost(since=now - timedelta(days=1))
        workers = await unit.work.alive("worker", within=within)
        beats = await unit.work.alive("beat", within=within)
        processes = await unit.workers.list()
        runs = await unit.runs.latest(limit=1)
        entries = await unit.lfis.list()
        traffic = await unit.runs.traffic(since=now - TRAFFIC_OVER)
        held = holds(await unit.lfis.gates_known(), await unit.breakers.all(), now=now)
        clocks = await unit.clocks.list(since=now - CLOCKS_OVER)
        openings = await unit.openings.troubled()
        findings = await unit.findings.all()
        filling = await unit.fillings.open(COLUMNS_VERSION)
        lag, held_by = await _feed_lag(unit)
        series = await _series(config, unit)
    counts = counted(consents)
    soon = [
        one
        for one in consents
        if one.status == Status.Authorized and one.expires_at - now < timedelta(days=EXPIRY_DAYS_SHOWN)
    ]
    wrong = troubles(
        now=now,
        workers=workers,
        beats=beats,
        work=summary,
        held=held,
        traffic=traffic,
        lost=sum(one.needs_consent is not None and not one.terminal for one in consents),
        clocks=clocks,
        slots=config.consents_at_once,
        declared=declared,
        observers=sum(one.observers_failed for one in processes),
    )
    wrong += finding_troubles(findings)
    wrong += consent_troubles(consents, now=now) + opening_troubles(openings) + feed_troubles(lag, held_by)
    wrong += export_troubles(series, now=now)
    syncs = [one for one in summary if one.kind is WorkKind.SYNC]
    parked, failing = sum(one.parked for one in syncs), sum(one.failing for one in syncs)
    working = workers > 0 and beats > 0
    found = {
        "at": now,
        "workers": workers,
        "beats": beats,
        "complete": sum(one.rows for one in syncs) - parked - failing,
        "retry": sum(one.retry for one in syncs),
        NEEDS_A_PERSON: len(findings) + parked,
        "consents": dict(counts.states),
        "paused": counts.paused,
        "revocations_pending": counts.revocations,
        "subscriptions_pending": counts.subscriptions,
        "drifted": counts.drifted,
        "expiring_in_30_days": len(soon),
        "calls_24h": calls,
        "cost_24h_fils": cost / 1000,
        "feed_lag": lag,
        "last_sync_at": runs[0].ended_at if runs else None,
        "allowed": _allowed(config),
        "directory": _directory_warnings(entries),
        "limits_kept_in": wiring.limits_kept_in(config),
        "work": [
            {
                "lfi": one.lfi,
                "kind": one.kind.value,
                "rows": one.rows,
                "due": one.due,
                "late": one.late,
                "why": why_late(one, held, slots=config.consents_at_once, declared=declared, working=working)
                if one.due
                else None,
                "leased": one.leased,
                "failing": one.failing,
                "retry": one.retry,
                "parked": one.parked,
                "next_due": one.next_due,
            }
            for one in summary
        ],
        "findings": [
            {
                "lfi": one.lfi,
                "operation": one.operation or None,
                "code": one.code,
                "first_seen": one.first_seen_at,
                "last_seen": one.last_seen_at,
                "times": one.times,
                "consent": one.consent_id,
                "interaction_id": one.interaction_id,
                "reason": one.reason,
                "todo": advice_of(one.code),
            }
            for one in findings
        ],
        "limits": [
            {
                "lfi": one.lfi,
                "calls": one.operations.value,
                "state": one.state,
                "until": one.until,
                "why": one.why,
                "share": round(one.share, 2),
                "since": one.since,
            }
            for one in held
        ],
        "traffic": [
            {
                "lfi": one.lfi,
                "calls": one.calls,
                "unanswered": one.unanswered,
                "rate_limited": one.rate_limited,
                "retried": one.retried,
                "retry_share": round(one.retried / one.calls, 3),
                "retry_budget": RETRY_SHARE,
            }
            for one in traffic
        ],
        "processes": [
            {
                "name": one.name,
                "kind": one.kind,
                "progress": now - one.progress_at,
                "since": one.started_at,
                "observers_failed": one.observers_failed,
            }
            for one in processes
        ],
        "filling": [
            {"table": one.table.name, "done": one.done, "about": one.about, "skipped": one.skipped, "since": one.since}
            for one in filling
        ],
        "exports": [
            {"name": one.name, "due": one.due_at, "going": one.going, "last": one.last_at, "error": one.error}
            for one in series
        ],
        "feed_held_by": [{"pid": one.pid, "application": one.application, "since": one.since} for one in held_by],
        "clocks": [{"host": one.host, "peer": one.peer, "offset": one.offset, "wrong": one.wrong} for one in clocks],
    }
    return found, wrong


async def _series(config: Settings, unit: UnitOfWork) -> list[Series]:
    """The series of exports that are set, as they stand."""
    now, found = await unit.now(), []
    for name in sorted(config.exports):
        row, last = await unit.work.find(WorkKind.EXPORT, name), await unit.exports.last_good(name)
        found.append(
            Series(
                name=name,
                due_at=None if row is None else row.due_at,
                going=row is not None and row.lease_until is not None and row.lease_until > now,
                last_at=None if last is None else last.as_of,
                error=None if row is None else row.last_error,
            )
        )
    return found


async def _feed_lag(unit: UnitOfWork) -> tuple[timedelta, Sequence[Blocker]]:
    """How long the feed is held back, and by which transactions where that is long."""
    line = await unit.changes.line()
    return line.lag, await unit.changes.blockers() if line.lag > FEED_LAGS else ()


def _directory_warnings(declared: Sequence[DeclaredLFI]) -> list[str]:
    """What the participants directory says that an operator should know: retirements, and who left."""
    known = [(entry.slug, facts_of(entry)) for entry in declared]
    return [f"{slug}: {warning}" for slug, facts in known if facts is not None for warning in facts.warnings()]


def _allowed(config: Settings) -> str:
    """The allow-lists in a line: while one is set, work outside it waits."""
    lfis, user_refs = config.allow.lfis, config.allow.user_refs
    said = ([f"LFIs {', '.join(sorted(lfis)) or 'none'}"] if lfis is not None else []) + (
        [f"{len(user_refs)} customers"] if user_refs is not None else []
    )
    return f"only {' and '.join(said)}; the work of others waits" if said else "everybody"


def _print_status(found: dict[str, Any], wrong: Sequence[Trouble]) -> None:
    for line in wrong:
        show.OUT.print(f"✗ {line}", markup=False)
    if not wrong:
        show.OUT.print("✓ nothing needs you", markup=False)
    tables = {"work", "findings", "limits", "traffic", "processes", "clocks", "filling", "exports", "feed_held_by"}
    for warning in found["directory"]:
        show.OUT.print(f"! {warning}", markup=False)
    plain = {name: value for name, value in found.items() if name not in {*tables, "directory"}}
    shown = {name: value for name, value in plain.items() if value or name not in _CONSENT_FACTS}
    show.facts({**shown, "consents": _states(found["consents"])}, as_json=False)
    show.rows(found["work"], as_json=False, title="\nWork", empty="no work yet")
    if found["findings"]:
        show.rows(found["findings"], as_json=False, title="\nNeeds a person", empty="")
    if found["limits"]:
        show.rows(found["limits"], as_json=False, title="\nKept back", empty="")
    if found["traffic"]:
        show.rows(found["traffic"], as_json=False, title=f"\nCalls of the last {show.span(TRAFFIC_OVER)}", empty="")
    if found["filling"]:
        show.rows(
            found["filling"], as_json=False, title="\nColumns of rows held, being filled by the workers", empty=""
        )
    if found["exports"]:
        show.rows(found["exports"], as_json=False, title="\nExports", empty="")
    if found["processes"]:
        show.rows(found["processes"], as_json=False, title="\nProcesses", empty="")


_CONSENT_FACTS: Final = frozenset({"feed_lag", "paused", "revocations_pending", "subscriptions_pending", "drifted"})
"""Counts that take a line of the screen only where there is something to count."""


def _states(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"


@dataclass(frozen=True, slots=True)
class _Finding:
    what: str
    good: bool
    said: str
    warning: bool = False
    """Worth a look, and no reason to fail."""


def doctor(as_json: frame.AsJson = False) -> None:
    """Check settings, keys, database, broker and each LFI's discovery document; exit 1 when something is wrong."""
    config = frame.settings()
    findings = [
        _check("database schema", lambda: migrate.check(config.database), "newest", within=LOOK_S),
        _check("key ring", lambda: opening.load_keyring(config), "readable"),
        _check("broker", lambda: broker.check(broker.broker_of(config)), "answers"),
    ]
    if all(finding.good for finding in findings[:2]):
        findings.append(_check("database", lambda: _database(config), str, within=LOOK_S))
        findings.append(_check("database views", lambda: _views(config), str, within=LOOK_S))
        findings += _check_roles(config)
        findings += frame.run(_check_lfis(config))
        findings += _check_consents(config)
        findings += _check_feed(config)
        findings += _check_exports(config)
    findings += _warnings(config)
    origins = [
        {"setting": name, "value": value, "from": origin} for name, value, origin in settings_module.origins(config)
    ]
    if as_json:
        checks = [{"check": one.what, "good": one.good, "said": one.said, "warning": one.warning} for one in findings]
        show.value({"settings": origins, "checks": checks})
    else:
        show.rows(origins, as_json=False, title="Settings", empty="")
        show.OUT.print()
        for one in findings:
            mark = "!" if one.warning else "✓" if one.good else "✗"
            show.OUT.print(f"{mark} {one.what}: {one.said}", markup=False)
    if not all(one.good for one in findings):
        raise typer.Exit(frame.FAILED)


def _asked(look: Callable[[], T]) -> T:
    """A look at the database that ends when the database goes silent meanwhile.

    Raises:
        StoreUnavailableError: no answer in time.
    """
    try:
        return in_time(look, within=LOOK_S)
    except TimeoutError:
        raise StoreUnavailableError(f"database_url: the database did not answer within {LOOK_S:.0f} s") from None


def _database(config: Settings) -> str:
    """What the database says of itself.

    Raises:
        StoreUnavailableError: it takes no writes.
    """
    found = migrate.facts(config.database)
    if not found.writable:
        raise StoreUnavailableError(
            "database_url: the database takes no writes now (a standby, or default_transaction_read_only);"
            " work waits until it does, or name the host that takes them"
        )
    pooler = "" if found.pooler == "none" else f", through a pooler in {found.pooler} mode"
    return f"{found.server}, {found.encoding}{pooler}"


def _views(config: Settings) -> str:
    """Whether the views for readers of the database are there.

    Raises:
        SetupError: a view is missing, or not ours.
    """
    found = migrate.views(config.database)
    if found.faults:
        raise SetupError("; ".join(found.faults))
    in_the_way = f"; views of others, which `db upgrade` meets: {', '.join(found.others)}" if found.others else ""
    return f"as they should be{in_the_way}"


def _check_roles(config: Settings) -> list[_Finding]:
    """As whom the processes come to PostgreSQL, and whether row level security keeps tenants apart."""
    if config.database.file is not None:
        return []
    what = "database roles"

    def look(settings: Settings) -> Standing:
        with migrate.connected(settings.database) as own:
            return grants.standing(own)

    try:
        ours = in_time(lambda: look(config), within=CHECK_S)
        web = in_time(lambda: look(config.for_web()), within=CHECK_S) if config.web_database_url else ours
    except SyncWorkerError as error:
        return [_Finding(what, False, str(error))]
    except TimeoutError:
        return [_Finding(what, False, f"no answer within {CHECK_S:.0f} s")]
    if not ours.roles:
        said = f"none: every process is {ours.user}, and only our own statements keep tenants apart"
        return [_Finding(what, True, f"{said}; `syncworker db roles plan` shows how to part them", warning=True)]
    said = f"row level security on {ours.secured} of {ours.tables} tables; workers are {_whose(ours)}"
    found = [_Finding(what, True, f"{said}, the web process is {_whose(web)}", warning=ours.secured < ours.tables)]
    if web.kind is not Kind.WEB:
        name = next((role.name for role in ours.roles if role.kind is Kind.WEB), "of the web process")
        said = f"the web process is {_whose(web)}; set web_database_url to a URL of role {name}"
        found.append(_Finding(what, True, said, warning=True))
    if ours.pending:
        said = f"{ours.pending} statements are missing; run `syncworker db roles apply --yes` as the owner"
        found.append(_Finding(what, True, said, warning=True))
    return found + [_Finding(what, True, note, warning=True) for note in ours.notes]


def _whose(stands: Standing) -> str:
    """A session's user, and what it is."""
    if stands.kind is not None:
        return f"{stands.user} ({stands.kind.value})"
    return f"{stands.user} ({'a stranger to the roles' if stands.bound else 'the owner, or exempt'})"


def _check(what: str, check: Callable[[], T], good: str | Callable[[T], str], *, within: float = CHECK_S) -> _Finding:
    """One check with a deadline of its own: what hangs says so, and the others still run.

    Args:
        good: what to say when it is good, or what makes that of the answer.
    """
    try:
        found = in_time(check, within=within)
    except SyncWorkerError as error:
        return _Finding(what, False, str(error))
    except TimeoutError:
        return _Finding(what, False, f"no answer within {within:.0f} s")
    return _Finding(what, True, good if isinstance(good, str) else good(found))


def _warnings(config: Settings) -> list[_Finding]:
    """What would be ignored in silence, and what an operator may not expect."""
    found = []
    for name, meant in settings_module.variables_unknown():
        hint = f"; did you mean {meant}?" if meant else ""
        found.append(_Finding(f"environment {name}", True, f"is no setting and is ignored{hint}", warning=True))
    if wiring.limits_kept_in(config) == wiring.LIMITS_IN_DATABASE:
        said = (
            "calls per second are counted in the database, since the broker keeps no counts; set limits_url to a Redis"
        )
        found.append(_Finding("limits", True, said, warning=True))
    return found


async def _check_lfis(config: Settings) -> list[_Finding]:
    findings = []
    now = SystemClock().now()
    async with frame.open_application(config) as application:
        async with application.store.reading() as unit:
            at = await unit.now()
            held = holds(await unit.lfis.gates_known(), await unit.breakers.all(), now=at)
        for slug, (declared, _) in sorted((await opening.declared_lfis(config, application.store)).items()):
            what = f"LFI {slug}"
            certificates = wiring.certificate_findings(config, {slug: declared}, now=now)
            findings += [_certificate(one, now) for one in certificates]
            try:
                wiring.lfi_config(config, slug, declared, now=now)
                findings += _kept_back(slug, what, held)
                discovery = await (await application.clients(slug)).discovery()
                findings.append(_Finding(what, True, f"discovery read, token endpoint {discovery.token_endpoint}"))
            except SyncWorkerError as error:
                findings.append(_Finding(what, False, str(error)))
        async with application.store.reading() as unit:
            warnings = _directory_warnings(await unit.lfis.list())
        findings += [_Finding("directory", True, warning) for warning in warnings]
    return findings or [
        _Finding("LFIs", False, "none is declared; add one to syncworker.toml or with `syncworker lfis add`")
    ]


def _check_consents(config: Settings) -> list[_Finding]:
    """How consents stand, and what is wrong with some."""

    async def read() -> tuple[Sequence[StoredConsent], datetime]:
        async with frame.open_store(config) as store, store.reading() as unit:
            return await unit.consents.find(), await unit.now()

    try:
        consents, now = _asked(lambda: frame.run(read()))
    except SyncWorkerError as error:
        return [_Finding("consents", False, str(error))]
    found = [_Finding("consents", True, _standing(counted(consents)))]
    return found + [_Finding("consents", False, str(one)) for one in consent_troubles(consents, now=now)]


def _check_feed(config: Settings) -> list[_Finding]:
    """Whether a transaction that stays open keeps readers of the feed from what is committed."""

    async def read() -> tuple[timedelta, Sequence[Blocker]]:
        async with frame.open_store(config) as store, store.looking() as unit:
            return await _feed_lag(unit)

    try:
        lag, held_by = _asked(lambda: frame.run(read()))
    except SyncWorkerError as error:
        return [_Finding("feed", False, str(error))]
    return [_Finding("feed", False, str(one)) for one in feed_troubles(lag, held_by)] or [
        _Finding("feed", True, "up to date" if not lag else f"{show.span(lag)} behind")
    ]


def _check_exports(config: Settings) -> list[_Finding]:
    """Whether each series that is set can be made and is made in time."""

    async def read() -> tuple[list[Series], datetime]:
        async with frame.open_store(config) as store, store.looking() as unit:
            return await _series(config, unit), await unit.now()

    if not config.exports:
        return []
    found = [_check(f"export {name}", lambda name=name: _target(config, name), str) for name in sorted(config.exports)]  # type: ignore[misc]
    try:
        series, now = _asked(lambda: frame.run(read()))
    except SyncWorkerError as error:
        return [*found, _Finding("exports", False, str(error))]
    return found + [_Finding("exports", False, str(one)) for one in export_troubles(series, now=now)]


def _target(config: Settings, name: str) -> str:
    """That a series' libraries are installed and its target answers."""
    require("exports")
    if config.exports[name].format == "delta":
        require("delta")
    from syncworker.exports.layout import LATEST
    from syncworker.exports.plans import wanted_of

    wanted = wanted_of(name, config.exports[name], config)
    made = "holds exports" if wanted.target.exists(f"{name}/{LATEST}") else "holds no export yet"
    return f"{wanted.target.text} {made}"


def _standing(counts: ConsentCounts) -> str:
    more = (
        (counts.paused, "paused"),
        (counts.revocations, "revocations pending at the Hub"),
        (counts.subscriptions, "subscriptions pending at the Hub"),
    )
    return "; ".join([_states(counts.states), *(f"{count} {what}" for count, what in more if count)])


def _kept_back(slug: str, what: str, held: Sequence[Hold]) -> list[_Finding]:
    """What is known of an LFI's trouble, as `status` has it."""
    found = []
    for one in held:
        if one.lfi != slug or (one.state == "gated" and one.operations is not OperationClass.DATA):
            continue
        calls = "all" if one.state == "gated" else one.operations.value  # a gate is closed for all of them
        until = f", until {show.cell(one.until)}" if one.until else ""
        said = f"{calls} calls: {one.state} ({one.why}), {one.share:.0%} of the rate{until}"
        found.append(_Finding(what, one.state == "ramp", said, warning=one.state == "ramp"))
    return found


def _certificate(found: wiring.CertificateFinding, now: datetime) -> _Finding:
    what = f"LFI {found.lfi}"
    if found.expires_at is None:
        return _Finding(what, False, f"{found.fault} (workers that run keep what they loaded)")
    left = found.expires_at - now
    end = f"ends {show.cell(found.expires_at)}, in {show.span(left)}" if left > timedelta(0) else "has ended"
    said = f"{found.field} {end}"
    if found.days is not None:
        said += "; request a new one from the directory and put it over the old files, no restart is needed"
    return _Finding(what, left > timedelta(days=CERTIFICATE_DAYS_WARNED), said)
