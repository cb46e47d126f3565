"""Causes at LFIs, and in the work that is done for them.

In: a `Status`.  Out: causes without number and effect.  No I/O.

An LFI that is down is one cause, whatever tells it: a breaker that is open, or syncs that all failed since some
instant.  What is late at an LFI is a symptom where something keeps its calls back, and a cause of its own only where
nothing does.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from syncworker.ops.advice import ADVICE, OURS, advice_of
from syncworker.ops.cause import Cause, CauseKind, Side, key_of
from syncworker.ops.status import TRAFFIC_OVER, Status
from syncworker.ops.targets import slow
from syncworker.ops.words import instant, several, span
from syncworker.schedule.breaker import RETRY_SHARE, standing
from syncworker.schedule.claims import OPERATIONS
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store.breakers import Breaker
from syncworker.store.findings import Finding
from syncworker.store.lfis import Gate
from syncworker.store.overview import Overview
from syncworker.store.standings import LIVE, Troubled
from syncworker.store.work import WorkKind, WorkSummary

LATE: Final = timedelta(minutes=5)
LASTING: Final = timedelta(minutes=30)
"""An LFI that is away for longer is worth a call to it; before that most come back by themselves."""

RETRIES_TOLD_FROM: Final = 50
"""Calls in the time looked at; of fewer a tenth is a few."""

GATED_LATELY: Final = timedelta(seconds=30)
"""A gate that opened so short ago may close with the next calls."""

IN_WORK_FACTOR: Final = 5.0
IN_WORK_MIN: Final = timedelta(seconds=30)
"""A sync in work is slow after so many times what a run of its LFI usually takes, and so long at least."""

UNAVAILABLE: Final = ("lfi_unavailable", "lfi_breaker_open")
GATED: Final = ("lfi_rate_limited", "lfi_gate_closed")
TIMED_OUT: Final = ("deadline_exceeded", "consent_deadline")
REJECTED: Final = "client_rejected"

OF_KIND: Final[Mapping[WorkKind, tuple[str, str]]] = {
    WorkKind.CONSENT: (
        "`consents show` says why; the Hub is asked again by itself", "syncworker consents list",
    ),
    WorkKind.EVENT: (
        "`events list` says why; an event is asked about again by itself", "syncworker events list",
    ),
    WorkKind.OPENING: ("`openings list` says why", "syncworker openings list"),
    WorkKind.DIRECTORY: ("`doctor` looks at the directory's address", "syncworker doctor"),
    WorkKind.EXPORT: ("`export list` says why", "syncworker export list"),
    WorkKind.FILL: (
        "the workers' logs say why; the columns of rows held are filled later, syncs go on", "syncworker status",
    ),
}  # fmt: skip
"""Where rows of a kind that ended badly say why; the others are tokens."""

OF_NO_LFI: Final = frozenset({WorkKind.DIRECTORY, WorkKind.FILL, WorkKind.DELIVERY, WorkKind.EXPORT})
"""Kinds whose rows belong to no LFI: a tick does them, and no slot of an LFI."""

NAMED_APART: Final = frozenset({WorkKind.SYNC, WorkKind.EXPORT})
"""Kinds whose rows that ended badly are named one by one elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why one class of calls at one LFI gets less than all of it.

    Attributes:
        state: `gated`, `open`, `trial` or `ramp`.
        until: when it is let through again, or tried; `None` on the ramp.
        why: stable code of what tripped the breaker; `rate_limited` behind a gate, `recovering` on the ramp.
        share: of rate and slots.
        since: when the trouble began.
    """

    lfi: Slug
    operations: OperationClass
    state: str
    until: datetime | None
    why: str
    share: float
    since: datetime | None


def holds(
    gates: Mapping[Slug, Gate], breakers: Mapping[tuple[Slug, OperationClass], Breaker], *, now: datetime
) -> list[Hold]:
    """Every class of calls that gets less than all now; by LFI and class."""
    keys = {(slug, operations) for slug in gates for operations in OperationClass} | set(breakers)
    found = []
    for slug, operations in sorted(keys):
        gate, breaker = gates.get(slug), breakers.get((slug, operations))
        held = standing(gate, breaker, now=now)
        if held.share >= 1.0:
            continue
        is_open = breaker is not None and breaker.closed_at is None and not held.gated
        found.append(
            Hold(
                lfi=slug,
                operations=operations,
                state="gated" if held.gated else "open" if held.until else "trial" if held.trial else "ramp",
                until=held.until,
                why=breaker.reason if is_open and breaker else "rate_limited" if held.gated else "recovering",
                share=held.share,
                since=breaker.opened_at if is_open and breaker else gate.closed_at if held.gated and gate else None,
            )
        )
    return found


def banks(status: Status) -> list[Cause]:
    """Every cause at an LFI or in the work."""
    if status.overview is None:
        return []
    held = holds(status.overview.gates, status.overview.breakers, now=status.at)
    return [
        *_held_back(status, held),
        *_gated(status, held),
        *_slow(status, status.overview),
        *_undeclared(status, status.overview),
        *_late(status, status.overview, held),
        *_retries(status),
        *_parked(status.overview),
        *_failing(status.overview),
        *_findings(status.overview.findings),
    ]


# -- calls that are kept back ------------------------------------------------------------------------------------------


def _held_back(status: Status, held: Sequence[Hold]) -> Iterator[Cause]:
    """LFIs that do not accept us, and those that do not answer."""
    kept: dict[tuple[Slug, bool], list[Hold]] = {}
    for one in held:
        if one.state in ("open", "trial"):
            kept.setdefault((one.lfi, one.why.startswith(REJECTED)), []).append(one)
    for (lfi, rejected), those in sorted(kept.items()):
        yield (_rejects if rejected else _down)(status, lfi, those)
    for lfi, since, error in _unanswered(status):
        if (lfi, False) not in kept and (lfi, True) not in kept:
            yield _down_by_syncs(status, lfi, since, error)


def _until(status: Status, those: Sequence[Hold]) -> str:
    at = max((one.until for one in those if one.until is not None), default=None)
    return "one trial at a time now" if at is None else f"kept back until {instant(at)}"


def _classes(operations: Collection[OperationClass]) -> str:
    return " and ".join(sorted(one.value for one in operations))


def _since(those: Sequence[Hold]) -> datetime | None:
    return min((one.since for one in those if one.since is not None), default=None)


def _rejects(status: Status, lfi: Slug, those: Sequence[Hold]) -> Cause:
    operations = frozenset(one.operations for one in those)
    return Cause(
        kind=CauseKind.LFI_REJECTS,
        key=key_of(CauseKind.LFI_REJECTS, lfi),
        what=f"{lfi} {_classes(operations)} calls: not activated or keys wrong ({those[0].why})",
        why=_until(status, those),
        since=_since(those),
        step=ADVICE[REJECTED],
        command="syncworker doctor",
        lfi=lfi,
        operations=_of_syncs(operations),
        codes=(REJECTED, *UNAVAILABLE),
    )


def _down(status: Status, lfi: Slug, those: Sequence[Hold]) -> Cause:
    operations, since = frozenset(one.operations for one in those), _since(those)
    at_hub = operations == {OperationClass.CONSENT}
    return Cause(
        kind=CauseKind.LFI_DOWN,
        key=key_of(CauseKind.LFI_DOWN, lfi),
        what=f"{lfi} does not answer {_classes(operations)} calls",
        why=f"{those[0].why}, {_until(status, those)}",
        since=since,
        side=Side.HUB if at_hub else Side.LFI,
        step=_about_away(status, since),
        command=f"syncworker syncs failed --lfi {lfi}",
        by_itself=True,
        lfi=lfi,
        operations=_of_syncs(operations),
        codes=UNAVAILABLE,
    )


def _about_away(status: Status, since: datetime | None) -> str:
    lasting = since is not None and status.at - since >= LASTING
    return (
        "ask the LFI, with the interaction ids of its runs" if lasting else "nothing yet: it is tried again by itself"
    )


def _of_syncs(operations: frozenset[OperationClass]) -> frozenset[OperationClass]:
    """What of an LFI stands still: without tokens no data is read either."""
    return operations | {OperationClass.DATA} if OperationClass.TOKEN in operations else operations


def _unanswered(status: Status) -> Iterator[tuple[Slug, datetime, str]]:
    """LFIs at which each sync failed for want of an answer since some instant; since when, and with which code."""
    assert status.overview is not None
    good: dict[Slug, datetime] = {}
    for count in status.overview.counts:
        if count.good_at is not None:
            good[count.lfi] = max(count.good_at, good.get(count.lfi, count.good_at))
    first: dict[Slug, Troubled] = {}
    for one in status.overview.troubled:
        unanswered = one.failing and one.state == LIVE and (one.error or "").startswith(UNAVAILABLE)
        if not unanswered or one.ended_at is None or status.at - one.ended_at > TRAFFIC_OVER:
            continue
        if one.lfi in good and one.ended_at <= good[one.lfi]:
            continue
        if one.lfi not in first or one.ended_at < (first[one.lfi].ended_at or status.at):
            first[one.lfi] = one
    for lfi, one in sorted(first.items()):
        yield lfi, one.ended_at or status.at, one.error or ""


def _down_by_syncs(status: Status, lfi: Slug, since: datetime, error: str) -> Cause:
    return Cause(
        kind=CauseKind.LFI_DOWN,
        key=key_of(CauseKind.LFI_DOWN, lfi),
        what=f"{lfi} does not answer data calls",
        why=f"{error}: no sync there ended well since",
        since=since,
        side=Side.LFI,
        step=_about_away(status, since),
        command=f"syncworker syncs failed --lfi {lfi}",
        by_itself=True,
        lfi=lfi,
        operations=frozenset({OperationClass.DATA}),
        codes=UNAVAILABLE,
    )


def _gated(status: Status, held: Sequence[Hold]) -> Iterator[Cause]:
    """LFIs that asked for fewer calls: a gate is closed for all classes, and told once."""
    assert status.overview is not None
    closed = {one.lfi: one for one in held if one.state == "gated"}
    for lfi, gate in sorted(status.overview.gates.items()):
        if lfi in closed:
            until = f"gate closed until {instant(gate.until)}"
        elif status.at - gate.until < GATED_LATELY:
            until = f"gate opened {span(status.at - gate.until)} ago, the rate grows again"
        else:
            continue
        counts = next((one for one in status.traffic if one.lfi == lfi), None)
        share = (
            ""
            if counts is None or not counts.rate_limited
            else f"; 429 to {counts.rate_limited} of {counts.calls} calls"
        )
        yield Cause(
            kind=CauseKind.LFI_GATED,
            key=key_of(CauseKind.LFI_GATED, lfi),
            what=f"{lfi} all calls: the LFI said 429",
            why=f"{until}{share}",
            since=gate.closed_at,
            side=Side.LFI,
            step="nothing; if it repeats, lower calls_per_second for this LFI",
            command=f"syncworker lfis show {lfi}",
            by_itself=True,
            lfi=lfi,
            operations=frozenset(OperationClass),
            codes=GATED,
        )


# -- calls that take long ----------------------------------------------------------------------------------------------


def _slow(status: Status, overview: Overview) -> Iterator[Cause]:
    answers = {one.lfi: one for one in slow(overview.timings, overview.usual)}
    usual = {one.lfi: one.median_ms for one in overview.usual if one.resource == ""}
    in_work: dict[Slug, list[timedelta]] = {}
    for lfi, begun in overview.in_work:
        if lfi in usual:
            in_work.setdefault(lfi, []).append(status.at - begun)
    for lfi in sorted(answers.keys() | in_work.keys()):
        why = ""
        if lfi in answers:
            one = answers[lfi]
            took, before = timedelta(milliseconds=one.median_ms), timedelta(milliseconds=one.usual_ms)
            why = f"{one.resource} takes {span(took)}, usually {span(before)}"
        else:
            run = timedelta(milliseconds=usual[lfi])
            over = [age for age in in_work[lfi] if age > max(IN_WORK_MIN, run * IN_WORK_FACTOR)]
            if over and 2 * len(over) >= len(in_work[lfi]):
                those = f"{len(over)} of {several(len(in_work[lfi]), 'sync')} in work"
                why = f"{those} take longer than usual ({span(run)}), the oldest {span(max(over))}"
        if why:
            yield Cause(
                kind=CauseKind.LFI_SLOW,
                key=key_of(CauseKind.LFI_SLOW, lfi),
                what=f"{lfi} is slow",
                why=why,
                side=Side.LFI,
                step="nothing yet; if data goes stale by it, ask the LFI",
                command=f"syncworker syncs list --lfi {lfi}",
                by_itself=True,
                grave=False,
                lfi=lfi,
                operations=frozenset({OperationClass.DATA}),
                codes=TIMED_OUT,
            )


# -- work that is late -------------------------------------------------------------------------------------------------


def place(row: WorkSummary) -> str:
    """An LFI's work of a kind, as `Cause.kinds` names it."""
    return f"{row.lfi}:{row.kind.value}"


def late_rows(overview: Overview) -> list[WorkSummary]:
    """Work whose oldest row has been due for too long."""
    return [one for one in overview.work if one.late > LATE and one.kind is not WorkKind.EXPORT]


def _undeclared(status: Status, overview: Overview) -> Iterator[Cause]:
    lost: dict[Slug, list[WorkSummary]] = {}
    for row in overview.work:
        if row.kind not in OF_NO_LFI and row.lfi not in status.declared and row.late > LATE:
            lost.setdefault(row.lfi, []).append(row)
    for lfi, rows in sorted(lost.items()):
        yield Cause(
            kind=CauseKind.LFI_UNDECLARED,
            key=key_of(CauseKind.LFI_UNDECLARED, lfi),
            what=f"{lfi} is not declared any more, and has work",
            why=", ".join(f"{row.kind.value}: {row.due} due" for row in rows),
            since=status.at - max(row.late for row in rows),
            step="declare it again, or end its consents",
            command="syncworker lfis list",
            lfi=lfi,
            operations=frozenset(OperationClass),
            kinds=frozenset(place(row) for row in rows),
        )


def _late(status: Status, overview: Overview, held: Sequence[Hold]) -> Iterator[Cause]:
    """Where nothing keeps work back, and it is late all the same."""
    kept = {(one.lfi, one.operations) for one in held}
    for row in late_rows(overview):
        if row.kind not in OF_NO_LFI and (
            row.lfi not in status.declared
            or (status.allowed_lfis is not None and row.lfi not in status.allowed_lfis)
            or (row.lfi, OPERATIONS.get(row.kind)) in kept
        ):
            continue
        spent = row.leased >= status.slots
        kind = CauseKind.SLOTS_SPENT if spent else CauseKind.CAPACITY
        full = "the LFI is slow or calls_per_second low; raise consents_at_once if it allows more"
        yield Cause(
            kind=kind,
            key=key_of(kind, row.lfi, row.kind.value),
            what=f"{row.lfi} {row.kind.value}: {row.due} due, the oldest for {span(row.late)}",
            why=f"all {status.slots} slots are in work" if spent else "more is due than the workers get done",
            since=status.at - row.late,
            step=full if spent else "add workers, or raise the LFI's calls_per_second",
            command="syncworker status",
            lfi=row.lfi,
            operations=frozenset({OPERATIONS[row.kind]}) if row.kind in OPERATIONS else frozenset(),
            kinds=frozenset({place(row)}),
        )


def why_late(row: WorkSummary, held: Sequence[Hold], *, slots: int, declared: Collection[str], working: bool) -> str:
    """Why due rows of a kind at an LFI wait; the first reason that holds."""
    if row.kind not in OF_NO_LFI and row.lfi not in declared:
        return "the LFI is not declared any more"
    for hold in held:
        if hold.lfi == row.lfi and hold.operations is OPERATIONS.get(row.kind):
            return held_words(hold)
    if not working:
        return "nobody works"
    if row.leased >= slots:
        return f"all {slots} slots are in work"
    return "more is due than the workers get done" if row.late > LATE else "its turn comes"


def held_words(hold: Hold) -> str:
    """Why a class of calls is kept back, in words."""
    until = "" if hold.until is None else f" until {instant(hold.until)}"
    match hold.state:
        case "gated":
            return f"the LFI said 429, gate closed{until}"
        case "open" if hold.why.startswith(REJECTED):
            return f"not activated or keys wrong ({hold.why}), kept back{until}"
        case "open":
            return f"the LFI does not answer ({hold.why}), kept back{until}"
        case "trial":
            return f"one trial at a time after {hold.why}"
    return f"on the way back, {hold.share:.0%} of its rate"


def _retries(status: Status) -> Iterator[Cause]:
    for one in status.traffic:
        if one.retried > max(one.calls * RETRY_SHARE, 1) and one.calls >= RETRIES_TOLD_FROM:
            yield Cause(
                kind=CauseKind.BUDGET_SPENT,
                key=key_of(CauseKind.BUDGET_SPENT, one.lfi),
                what=f"{one.lfi}: {one.retried} of {one.calls} calls were short retries",
                side=Side.LFI,
                step="the budget is spent: failures are final until the row's next try",
                command=f"syncworker syncs failed --lfi {one.lfi}",
                by_itself=True,
                grave=False,
                lfi=one.lfi,
            )


# -- work that ended badly ---------------------------------------------------------------------------------------------


def _parked(overview: Overview) -> Iterator[Cause]:
    for row in overview.work:
        if row.parked:
            yield Cause(
                kind=CauseKind.PARKED,
                key=key_of(CauseKind.PARKED, row.lfi, row.kind.value),
                what=f"{row.lfi} {row.kind.value}: {row.parked} parked after crashes",
                step="`syncs failed` names them; `consents sync` puts one back",
                command="syncworker syncs failed",
                lfi=row.lfi,
                codes=("crashed",),
            )


def _failing(overview: Overview) -> Iterator[Cause]:
    """Of syncs the findings say what needs a person, of exports the series that is late."""
    for row in overview.work:
        if row.failing and row.kind not in NAMED_APART and not _time_mends(row):
            step, command = OF_KIND.get(row.kind, ("`tokens status`", "syncworker tokens status"))
            yield Cause(
                kind=CauseKind.WORK_FAILING,
                key=key_of(CauseKind.WORK_FAILING, row.lfi, row.kind.value),
                what=f"{row.lfi} {row.kind.value}: {row.failing} of {row.rows} ended badly",
                step=step,
                command=command,
                grave=False,
                lfi=row.lfi,
            )


def _time_mends(row: WorkSummary) -> bool:
    """Deliveries are told by their endpoints."""
    return row.kind is WorkKind.DELIVERY


def _findings(findings: Sequence[Finding]) -> Iterator[Cause]:
    """What needs a person, once for each LFI and code, however many consents and operations meet it."""
    by_code: dict[tuple[Slug, str], list[Finding]] = {}
    for one in findings:
        by_code.setdefault((one.lfi, one.code), []).append(one)
    for (lfi, code), those in sorted(by_code.items()):
        since = min(one.first_seen_at for one in those)
        times = sum(one.times for one in those)
        where = those[0].operation or "runs" if len(those) == 1 else f"{len(those)} operations"
        yield Cause(
            kind=CauseKind.FINDING,
            key=key_of(CauseKind.FINDING, lfi, code),
            what=f"{lfi} {where}: needs a person: {code}, {several(times, 'time')} since {instant(since)}",
            since=since,
            side=Side.US if code.startswith(OURS) else Side.LFI,
            step=advice_of(code),
            command=f"syncworker syncs failed --lfi {lfi}",
            lfi=lfi,
            codes=(code,),
        )
