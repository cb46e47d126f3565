"""`syncworker status`: what is wrong, from one screen: causes first, each with its next step."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

import typer

from syncworker import wiring
from syncworker.cli import frame, show
from syncworker.clock import SystemClock, in_time
from syncworker.ops.advice import advice_of
from syncworker.ops.banks import Hold, holds, why_late
from syncworker.ops.cause import Cause, Side
from syncworker.ops.diagnosis import Diagnosis, Part, as_json, diagnose
from syncworker.ops.looking import look
from syncworker.ops.machinery import BEAT, alive
from syncworker.ops.status import TRAFFIC_OVER, DatabaseFact, DatabaseState, Status
from syncworker.ops.words import several, span
from syncworker.schedule.breaker import RETRY_SHARE
from syncworker.settings import Settings
from syncworker.store.overview import Overview
from syncworker.store.workers import WORKER
from syncworker.sync.reports import NEEDS_A_PERSON

LOOK_S: Final = 90.0
"""Most seconds of a look at the whole database: far more than one takes, and an end for one that goes silent."""

SIDES: Final[Mapping[Side, str]] = {
    Side.US: "our side", Side.LFI: "the LFI's side", Side.HUB: "the Hub's side", Side.PRODUCT: "the product's side",
}  # fmt: skip


def status(as_json: frame.AsJson = False) -> None:
    """What is wrong and what to do, then what is stale, failing, expiring, spent and alive; exit 1 for a cause."""
    config = frame.settings()
    seen = looked(config)
    found = diagnose(seen)
    if as_json:
        show.value(_members(config, seen, found))
    else:
        _print(config, seen, found)
    if found.causes:
        raise typer.Exit(frame.FAILED)


def looked(config: Settings) -> Status:
    """A look that ends when the database goes silent meanwhile."""
    try:
        return in_time(lambda: frame.run(look(config)), within=LOOK_S)
    except TimeoutError:
        said = f"database_url: the database did not answer within {LOOK_S:.0f} s"
        fact = DatabaseFact(state=DatabaseState.AWAY, said=said)
        return Status(at=SystemClock().now(), tenant=config.tenant, database=fact)


# -- JSON --------------------------------------------------------------------------------------------------------------


def _members(config: Settings, seen: Status, found: Diagnosis) -> dict[str, Any]:
    wrong = {"wrong": [one.line for one in found.causes], "todo": [one.step for one in found.causes]}
    judged = as_json(found)
    if seen.overview is None:
        return {"at": seen.at, **judged, **wrong}
    return {**_facts(config, seen, seen.overview), **judged, **wrong}


def _facts(config: Settings, seen: Status, overview: Overview) -> dict[str, Any]:
    held = holds(overview.gates, overview.breakers, now=seen.at)
    syncs = [one for one in overview.work if one.kind.value == "sync"]
    parked, failing = sum(one.parked for one in syncs), sum(one.failing for one in syncs)
    return {
        "at": seen.at,
        "workers": len(alive(seen, WORKER)),
        "beats": len(alive(seen, BEAT)),
        "complete": sum(one.rows for one in syncs) - parked - failing,
        "retry": sum(one.retry for one in syncs),
        NEEDS_A_PERSON: len(overview.findings) + parked,
        "consents": {one.word: one.consents for one in overview.consents},
        "paused": sum(one.paused for one in overview.consents),
        "revocations_pending": sum(one.revocations for one in overview.consents),
        "subscriptions_pending": sum(one.subscriptions for one in overview.consents),
        "drifted": sum(one.drifted for one in overview.consents),
        "expiring_in_30_days": sum(one.expiring for one in overview.consents),
        "calls_24h": seen.calls_24h,
        "cost_24h_fils": seen.cost_24h_millifils / 1000,
        "cost_today": _cost_today(seen),
        "feed_lag": seen.feed.lag,
        "last_sync_at": overview.last_run_at,
        "allowed": _allowed(config),
        "directory": list(seen.directory),
        "limits_kept_in": wiring.limits_kept_in(config),
        "work": _work(seen, overview, held),
        "findings": _findings(overview),
        "limits": _limits(held),
        "traffic": _traffic(seen),
        "processes": _processes(seen, overview),
        "filling": _filling(seen),
        "exports": [
            {"name": one.name, "due": one.due_at, "going": one.going, "last": one.last_at, "error": one.error}
            for one in seen.exports
        ],
        "feed_held_by": [
            {"pid": one.pid, "application": one.application, "since": one.since} for one in seen.feed.held_by
        ],
        "clocks": [
            {"host": one.host, "peer": one.peer, "offset": one.offset, "wrong": one.wrong} for one in overview.clocks
        ],
        "usual": [one._asdict() for one in overview.usual],
    }


def _cost_today(seen: Status) -> list[dict[str, Any]]:
    """What calls cost since 00:00 in Dubai, by LFI."""
    return [
        {"lfi": one.lfi, "day": one.day, "calls": one.calls, "fils": one.millifils / 1000} for one in seen.spent_today
    ]


def _work(seen: Status, overview: Overview, held: Sequence[Hold]) -> list[dict[str, Any]]:
    working = bool(alive(seen, WORKER) and alive(seen, BEAT))
    return [
        {
            "lfi": one.lfi,
            "kind": one.kind.value,
            "rows": one.rows,
            "due": one.due,
            "late": one.late,
            "why": why_late(one, held, slots=seen.slots, declared=seen.declared, working=working) if one.due else None,
            "leased": one.leased,
            "failing": one.failing,
            "retry": one.retry,
            "parked": one.parked,
            "next_due": one.next_due,
        }
        for one in overview.work
    ]


def _findings(overview: Overview) -> list[dict[str, Any]]:
    return [
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
        for one in overview.findings
    ]


def _limits(held: Sequence[Hold]) -> list[dict[str, Any]]:
    return [
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
    ]


def _traffic(seen: Status) -> list[dict[str, Any]]:
    return [
        {
            "lfi": one.lfi,
            "calls": one.calls,
            "unanswered": one.unanswered,
            "rate_limited": one.rate_limited,
            "retried": one.retried,
            "retry_share": round(one.retried / one.calls, 3),
            "retry_budget": RETRY_SHARE,
        }
        for one in seen.traffic
    ]


def _processes(seen: Status, overview: Overview) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "progress": seen.at - one.progress_at,
            "since": one.started_at,
            "observers_failed": one.observers_failed,
        }
        for one in overview.workers
    ]


def _filling(seen: Status) -> list[dict[str, Any]]:
    return [
        {"table": one.table.name, "done": one.done, "about": one.about, "skipped": one.skipped, "since": one.since}
        for one in seen.filling
    ]


def _allowed(config: Settings) -> str:
    """The allow-lists in a line: while one is set, work outside it waits."""
    lfis, user_refs = config.allow.lfis, config.allow.user_refs
    said = ([f"LFIs {', '.join(sorted(lfis)) or 'none'}"] if lfis is not None else []) + (
        [f"{len(user_refs)} customers"] if user_refs is not None else []
    )
    return f"only {' and '.join(said)}; the work of others waits" if said else "everybody"


# -- the screen --------------------------------------------------------------------------------------------------------


def _print(config: Settings, seen: Status, found: Diagnosis) -> None:
    for one in found.causes:
        for line in lines_of(one, seen):
            show.OUT.print(line, markup=False)
    if not found.causes:
        last = found.last_cause
        ended = (
            "" if last is None or last.ended_at is None else f"; {last.key} ended {span(seen.at - last.ended_at)} ago"
        )
        show.OUT.print(f"✓ nothing needs you{ended}", markup=False)
    for warning in seen.directory:
        show.OUT.print(f"! {warning}", markup=False)
    if seen.overview is None:
        return
    show.OUT.print()
    show.facts(_five(seen, found), as_json=False)
    show.OUT.print()
    facts = _facts(config, seen, seen.overview)
    plain = {name: value for name, value in facts.items() if name not in _TABLES}
    shown = {name: value for name, value in plain.items() if value or name not in _CONSENT_FACTS}
    show.facts({**shown, "consents": states(facts["consents"])}, as_json=False)
    if listed := as_json(found)["stale"] + as_json(found)["failing"]:
        show.rows(listed, as_json=False, title="\nIn trouble, and no cause explains it", empty="")
    show.rows(facts["work"], as_json=False, title="\nWork", empty="no work yet")
    for name, title in _TABLES.items():
        if title and facts[name]:
            show.rows(facts[name], as_json=False, title=f"\n{title}", empty="")


_CONSENT_FACTS: Final = frozenset({"feed_lag", "paused", "revocations_pending", "subscriptions_pending", "drifted"})
"""Counts that take a line of the screen only where there is something to count."""

_TABLES: Final[Mapping[str, str]] = {
    "work": "",
    "directory": "",
    "feed_held_by": "",
    "clocks": "",
    "usual": "",
    "cost_today": "",
    "findings": "Needs a person",
    "limits": "Kept back",
    "traffic": f"Calls of the last {span(TRAFFIC_OVER)}",
    "filling": "Columns of rows held, being filled by the workers",
    "exports": "Exports",
    "processes": "Processes",
}
"""Members that are tables, and the titles of those that are shown by themselves."""


def lines_of(cause: Cause, seen: Status) -> list[str]:
    """A cause on the screen: what and what to do; since when, what it hits, whose side, the command."""
    effect = cause.effect
    hits = [
        f"{count:,} {word}"
        for count, word in (
            (effect.stale, "stale"),
            (effect.failing, "failing"),
            (effect.waiting, "waiting"),
        )
        if count
    ]
    if not hits and effect.connections:
        hits = [f"{several(effect.connections, 'connection')} {'from then on' if not cause.grave else 'in reach'}"]
    since = [] if cause.since is None else [f"for {span(max(seen.at - cause.since, timedelta()))}"]
    by_itself = ["mends by itself"] if cause.by_itself else []
    facts = "; ".join([*since, ", ".join(hits) or "nothing hit yet", SIDES[cause.side], *by_itself])
    command = "" if cause.command is None else f": {cause.command}"
    return [f"{'✗' if cause.grave else '!'} {cause.number} {cause.line} → {cause.step}", f"    {facts}{command}"]


def _five(seen: Status, found: Diagnosis) -> dict[str, Any]:
    """The five questions: stale, failing, expiring, cost, alive."""
    counts = found.counts
    out = {name: count for name, count in counts.left_out.items() if count}
    without = f", without {', '.join(f'{count:,} {name}' for name, count in out.items())}" if out else ""
    unjudged = f", {counts.unjudged:,} not judged yet" if counts.unjudged else ""
    spent = Decimal(sum(one.millifils for one in seen.spent_today)) / 100_000
    return {
        "stale": f"{counts.stale:,} of {counts.connections:,} connections{without}{unjudged}",
        "failing": f"{counts.failing:,} connections, {counts.needs_customer:,} need their customer (the product asks"
        f" them), {counts.parked:,} parked",
        "expiring": f"{counts.ends_7:,} in 7 d, {counts.ends_30:,} in 30 d",
        "cost": f"AED {spent:.2f} today",
        "alive": alive_words(found.parts),
    }


def alive_words(parts: Sequence[Part]) -> str:
    """How many parts get on, and which do not: with the number of the cause, or not started, which is none."""
    bad = [part for part in parts if part.good is False]
    caused = [f"{part.name} ({part.cause})" for part in bad if part.cause is not None]
    others = [part.name for part in bad if part.cause is None]
    said = [f"{len(parts) - len(bad)} of {several(len(parts), 'part')}"]
    said += [f"not: {', '.join(caused)}"] if caused else []
    return "; ".join([*said, *([f"not started: {', '.join(others)}"] if others else [])])


def states(counts: Mapping[str, int]) -> str:
    """Consents by state in a line."""
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"
