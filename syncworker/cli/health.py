"""`syncworker status` and `syncworker doctor`: what is wrong, from one screen."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import typer

from syncworker import opening, tasks, wiring
from syncworker import settings as settings_module
from syncworker.cli import frame, show
from syncworker.clock import SystemClock
from syncworker.declarations import facts_of
from syncworker.errors import SyncWorkerError
from syncworker.settings import Settings
from syncworker.standard.consents import Status
from syncworker.store import migrate
from syncworker.store.lfis import DeclaredLFI
from syncworker.store.unit_of_work import Store

CERTIFICATE_DAYS_WARNED: Final = 30
EXPIRY_DAYS_SHOWN: Final = 30
LATE: Final = timedelta(minutes=5)


def status(as_json: frame.AsJson = False) -> None:
    """What is due, late, parked or failing, and which processes live; exit 1 when a person should look."""
    config = frame.settings()

    async def read(store: Store) -> dict[str, Any]:
        within = timedelta(seconds=max(3 * config.tick_seconds, 15))
        async with store.reading() as unit:
            now = await unit.now()
            consents = await unit.consents.find()
            summary = await unit.work.summary()
            calls, cost = await unit.runs.cost(since=now - timedelta(days=1))
            workers, beats = (
                await unit.work.alive("worker", within=within),
                await unit.work.alive("beat", within=within),
            )
            runs = await unit.runs.latest(limit=1)
            declared = await unit.lfis.list()
        by_state: dict[str, int] = {}
        for one in consents:
            by_state[one.needs_consent or one.status] = by_state.get(one.needs_consent or one.status, 0) + 1
        soon = [
            one
            for one in consents
            if one.status == Status.Authorized and one.expires_at - now < timedelta(days=EXPIRY_DAYS_SHOWN)
        ]
        return {
            "at": now,
            "workers": workers,
            "beats": beats,
            "consents": by_state,
            "expiring_in_30_days": len(soon),
            "calls_24h": calls,
            "cost_24h_fils": cost / 1000,
            "last_sync_at": runs[0].ended_at if runs else None,
            "allowed": _allowed(config),
            "directory": _directory_warnings(declared),
            "work": [
                {
                    "lfi": one.lfi,
                    "kind": one.kind.value,
                    "rows": one.rows,
                    "due": one.due,
                    "late": one.late,
                    "leased": one.leased,
                    "parked": one.parked,
                }
                for one in summary
            ],
        }

    found = frame.with_store(read)
    wrong = _wrong(found)
    if as_json:
        show.value(found | {"wrong": wrong})
    else:
        _print_status(found, wrong)
    if wrong:
        raise typer.Exit(frame.FAILED)


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


def _wrong(found: dict[str, Any]) -> list[str]:
    """What a person should look at, worst first."""
    wrong = []
    if found["work"] and not found["workers"]:
        wrong.append("no worker lives: run `syncworker up` or `syncworker worker`")
    if found["work"] and not found["beats"]:
        wrong.append("no tick came lately: run `syncworker beat`")
    for row in found["work"]:
        if row["late"] > LATE:
            wrong.append(f"{row['lfi']} {row['kind']}: the oldest due row waits since {show.span(row['late'])}")
        if row["parked"]:
            wrong.append(
                f"{row['lfi']} {row['kind']}: {row['parked']} parked after crashes; `consents sync` unparks one"
            )
    known = {*Status}
    lost = sum(count for state, count in found["consents"].items() if state not in known)
    if lost:
        wrong.append(f"{lost} consents need the user again: `syncworker consents list` says why")
    return wrong


def _print_status(found: dict[str, Any], wrong: list[str]) -> None:
    for line in wrong:
        show.OUT.print(f"✗ {line}", markup=False)
    if not wrong:
        show.OUT.print("✓ nothing needs you", markup=False)
    for warning in found["directory"]:
        show.OUT.print(f"! {warning}", markup=False)
    plain = {name: value for name, value in found.items() if name not in {"work", "consents", "directory"}}
    states = ", ".join(f"{count} {state}" for state, count in sorted(found["consents"].items())) or "none"
    show.facts({**plain, "consents": states}, as_json=False)
    show.rows(found["work"], as_json=False, title="\nWork", empty="no work yet")


@dataclass(frozen=True, slots=True)
class _Finding:
    what: str
    good: bool
    said: str


def doctor(as_json: frame.AsJson = False) -> None:
    """Check settings, keys, database, broker and each LFI's discovery document; exit 1 when something is wrong."""
    config = frame.settings()
    findings = [
        _check("database schema", lambda: migrate.check(config.database_url), "newest"),
        _check("key ring", lambda: opening.load_keyring(config), "readable"),
        _check("broker", lambda: tasks.check_broker(wiring.broker_url(config)), "answers"),
    ]
    if all(finding.good for finding in findings[:2]):
        findings += frame.run(_check_lfis(config))
    origins = [
        {"setting": name, "value": value, "from": origin} for name, value, origin in settings_module.origins(config)
    ]
    if as_json:
        checks = [{"check": one.what, "good": one.good, "said": one.said} for one in findings]
        show.value({"settings": origins, "checks": checks})
    else:
        show.rows(origins, as_json=False, title="Settings", empty="")
        show.OUT.print()
        for one in findings:
            show.OUT.print(f"{'✓' if one.good else '✗'} {one.what}: {one.said}", markup=False)
    if not all(one.good for one in findings):
        raise typer.Exit(frame.FAILED)


def _check(what: str, check: Any, good: str) -> _Finding:
    try:
        check()
    except SyncWorkerError as error:
        return _Finding(what, False, str(error))
    return _Finding(what, True, good)


async def _check_lfis(config: Settings) -> list[_Finding]:
    findings = []
    now = SystemClock().now()
    async with frame.open_application(config) as application:
        for slug, (declared, _) in sorted((await opening.declared_lfis(config, application.store)).items()):
            what = f"LFI {slug}"
            certificates = wiring.certificate_findings(config, {slug: declared}, now=now)
            findings += [_certificate(one, now) for one in certificates]
            try:
                wiring.lfi_config(config, slug, declared, now=now)
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
