"""`syncworker doctor`: check settings, keys, database, broker and each LFI, in some ten lines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final, TypeVar

import typer

from syncworker import broker, opening, wiring
from syncworker import settings as settings_module
from syncworker.cli import frame, show
from syncworker.cli.status import LOOK_S, looked, states
from syncworker.clock import SystemClock, in_time
from syncworker.errors import SetupError, SyncWorkerError
from syncworker.ops import upkeep
from syncworker.ops.banks import Hold, holds
from syncworker.ops.cause import Cause
from syncworker.ops.certificates import CertificateFinding, certificate_findings
from syncworker.ops.diagnosis import diagnose
from syncworker.ops.machinery import CERTIFICATE_ENDS_WITHIN
from syncworker.ops.status import Status
from syncworker.ops.words import instant, span
from syncworker.settings import Settings
from syncworker.standard.operations import OperationClass
from syncworker.store import grants, migrate
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.grants import Standing
from syncworker.store.overview import Overview
from syncworker.store.roles import Kind

T = TypeVar("T")

CHECK_S: Final = 20.0
"""Most seconds of one check."""


@dataclass(frozen=True, slots=True)
class _Finding:
    what: str
    good: bool
    said: str
    warning: bool = False
    """Worth a look, and no reason to fail."""


def doctor(
    settings: Annotated[bool, typer.Option("--settings", help="Print every setting, and where it is set.")] = False,
    as_json: frame.AsJson = False,
) -> None:
    """Check settings, keys, database, broker and each LFI's discovery document; exit 1 when something is wrong."""
    config = frame.settings()
    findings = [
        _check("database schema", lambda: migrate.check(config.database), "newest", within=LOOK_S),
        _check("key ring", lambda: opening.load_keyring(config), "readable"),
        _check("broker", lambda: broker.check(broker.broker_of(config)), "answers"),
    ]
    causes: Sequence[Cause] = ()
    if all(finding.good for finding in findings[:2]):
        seen = looked(config)
        causes = diagnose(seen).causes
        findings.append(_check("database", lambda: _database(config), str, within=LOOK_S))
        findings.append(_check("database views", lambda: _views(config), str, within=LOOK_S))
        findings += _check_roles(config)
        findings += frame.run(_check_lfis(config, seen))
        findings += _check_consents(seen)
        findings += _check_feed(seen)
    findings += _warnings(config)
    origins = [
        {"setting": name, "value": value, "from": origin} for name, value, origin in settings_module.origins(config)
    ]
    if as_json:
        checks = [{"check": one.what, "good": one.good, "said": one.said, "warning": one.warning} for one in findings]
        show.value({"settings": origins, "checks": checks, "causes": [one.as_json() for one in causes]})
    else:
        if settings:
            show.rows(origins, as_json=False, title="Settings", empty="")
            show.OUT.print()
        _print(findings, causes)
    if not all(one.good for one in findings):
        raise typer.Exit(frame.FAILED)


def _print(findings: Sequence[_Finding], causes: Sequence[Cause]) -> None:
    """What is wrong, what is worth a look, what is good in short; then how many causes `status` tells of."""
    for good in (False, True):
        for one in findings:
            if one.good is good and (not good or one.warning):
                show.OUT.print(f"{'!' if one.warning else '✗'} {one.what}: {one.said}", markup=False)
    for one in findings:
        if one.good and not one.warning:
            show.OUT.print(f"✓ {one.what}: {one.said}", markup=False)
    if causes:
        names = ", ".join(one.key for one in causes)
        show.OUT.print(f"  `syncworker status` names {len(causes)} causes: {names}", markup=False)


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


async def _check_lfis(config: Settings, seen: Status) -> list[_Finding]:
    findings = []
    now = SystemClock().now()
    overview = seen.overview or Overview(now=seen.at)
    held = holds(overview.gates, overview.breakers, now=seen.at)
    async with frame.open_application(config) as application:
        for slug, (declared, _) in sorted((await opening.declared_lfis(config, application.store)).items()):
            what = f"LFI {slug}"
            certificates = certificate_findings(config, {slug: declared}, now=now)
            findings += [_certificate(one, now) for one in certificates]
            try:
                wiring.lfi_config(config, slug, declared, now=now)
                findings += _kept_back(slug, what, held)
                discovery = await (await application.clients(slug)).discovery()
                findings.append(_Finding(what, True, f"discovery read, token endpoint {discovery.token_endpoint}"))
            except SyncWorkerError as error:
                findings.append(_Finding(what, False, str(error)))
        findings += [_Finding("directory", True, warning) for warning in seen.directory]
    return findings or [
        _Finding("LFIs", False, "none is declared; add one to syncworker.toml or with `syncworker lfis add`")
    ]


def _away(what: str, seen: Status) -> list[_Finding]:
    return [_Finding(what, False, seen.database.said)]


def _check_consents(seen: Status) -> list[_Finding]:
    """How consents stand, and what is wrong with some."""
    if seen.overview is None:
        return _away("consents", seen)
    counts = seen.overview.consents
    more = (
        (sum(one.paused for one in counts), "paused"),
        (sum(one.revocations for one in counts), "revocations pending at the Hub"),
        (sum(one.subscriptions for one in counts), "subscriptions pending at the Hub"),
    )
    said = [states({one.word: one.consents for one in counts}), *(f"{count} {what}" for count, what in more if count)]
    found = [_Finding("consents", True, "; ".join(said))]
    return found + [_Finding("consents", False, _told(one)) for one in upkeep.consents(seen.overview.odd, at=seen.at)]


def _check_feed(seen: Status) -> list[_Finding]:
    """Whether a transaction that stays open keeps readers of the feed from what is committed."""
    if seen.overview is None:
        return _away("feed", seen)
    lag = seen.feed.lag
    return [_Finding("feed", False, _told(one)) for one in upkeep.feed(seen.feed, at=seen.at)] or [
        _Finding("feed", True, "up to date" if not lag else f"{span(lag)} behind")
    ]


def _told(cause: Cause) -> str:
    return f"{cause.line} → {cause.step}"


def _kept_back(slug: str, what: str, held: Sequence[Hold]) -> list[_Finding]:
    """What is known of an LFI's trouble, as `status` has it."""
    found = []
    for one in held:
        if one.lfi != slug or (one.state == "gated" and one.operations is not OperationClass.DATA):
            continue
        calls = "all" if one.state == "gated" else one.operations.value  # a gate is closed for all of them
        until = f", until {instant(one.until)}" if one.until else ""
        said = f"{calls} calls: {one.state} ({one.why}), {one.share:.0%} of the rate{until}"
        found.append(_Finding(what, one.state == "ramp", said, warning=one.state == "ramp"))
    return found


def _certificate(found: CertificateFinding, now: datetime) -> _Finding:
    what = f"LFI {found.lfi}"
    if found.expires_at is None:
        return _Finding(what, False, f"{found.fault} (workers that run keep what they loaded)")
    left = found.expires_at - now
    end = f"ends {instant(found.expires_at)}, in {span(left)}" if left > timedelta(0) else "has ended"
    said = f"{found.field} {end}"
    if found.days is not None:
        said += "; request a new one from the directory and put it over the old files, no restart is needed"
    return _Finding(what, left > CERTIFICATE_ENDS_WITHIN, said)
