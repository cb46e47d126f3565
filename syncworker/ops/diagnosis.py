"""Judge a status: what is wrong, numbered, and which cause each symptom belongs to.

In: a `Status`.  Out: a `Diagnosis`.  No I/O.

Causes come first.  A symptom (a stale connection, a sync that failed, late work, an endpoint's backlog, a silent
process) carries the number of its cause, or none: those without one are what is left to look at one by one.  Of several
causes that would explain a symptom the one counts that began first.

Connections that cannot be fresh are not stale: ended, paused, suspended ones are left out and counted apart.
Customers who must consent again are work of the product: they count as failing, and are no cause for the operator.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from syncworker.ops.banks import banks, late_rows, place
from syncworker.ops.cause import Cause, CauseKind, Effect, Side, key_of
from syncworker.ops.machinery import BEAT, alive, machinery
from syncworker.ops.status import BrokerState, DatabaseState, ExportFact, Status, stale_since
from syncworker.ops.upkeep import late_export, upkeep
from syncworker.ops.words import several, span
from syncworker.schedule.claims import OPERATIONS
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store.overview import OpenedCause
from syncworker.store.standings import LIVE, NEEDS_CONSENT, Troubled
from syncworker.store.workers import WORKER

SLACK: Final = timedelta(minutes=10)
"""A cause may be noticed so long after it began to work."""

_ORDER: Final = {kind: place for place, kind in enumerate(CauseKind)}


class SymptomKind(StrEnum):
    """What shows."""

    STALE = "stale"
    FAILING = "failing"
    NEEDS_CUSTOMER = "needs_customer"
    LATE = "late"
    DELIVERIES = "deliveries"
    FEED = "feed"
    EXPORT = "export"
    PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptom:
    """Things of a kind that share a cause.

    Attributes:
        about: an LFI, an LFI and a kind of work, an endpoint, a process.
        count: connections, rows, messages.
        since: when the oldest of them began; `None`: not known.
        cause: number of its cause; `None`: no cause explains it.
    """

    kind: SymptomKind
    about: str
    count: int
    since: datetime | None = None
    cause: int | None = None
    side: Side | None = None


@dataclass(frozen=True, slots=True)
class Traced:
    """A connection in trouble.

    Attributes:
        since: when it went stale, or its last sync ended badly.
        cause: number of its cause; `None`: no cause explains it.
    """

    row: Troubled
    since: datetime
    cause: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Connections, counted.

    Attributes:
        connections: that can be fresh.
        stale, failing, parked: of them.
        needs_customer: customers who must consent again; they count as failing too.
        left_out: connections that cannot be fresh, by why.
        unjudged: whether they are stale is not known yet: housekeeping is on the way.
        ends_7, ends_30: connections whose consent ends within so many days.
    """

    connections: int = 0
    stale: int = 0
    failing: int = 0
    parked: int = 0
    needs_customer: int = 0
    left_out: Mapping[str, int]
    unjudged: int = 0
    ends_7: int = 0
    ends_30: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the machinery.

    Attributes:
        good: it gets on; `None`: not known.
        cause: number of the cause that names its trouble.
    """

    name: str
    kind: str
    good: bool | None
    said: str
    cause: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is wrong.

    Attributes:
        causes: by number.
        stale, failing: every such connection, the longest first.
        parts: of the machinery.
        last_cause: the cause that ended last.
    """

    at: datetime
    causes: tuple[Cause, ...]
    symptoms: tuple[Symptom, ...]
    stale: tuple[Traced, ...]
    failing: tuple[Traced, ...]
    counts: Counts
    parts: tuple[Part, ...]
    last_cause: OpenedCause | None

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.causes:
            return "nothing needs you"
        return f"{several(len(self.causes), 'cause needs', 'causes need')} you"

    def unexplained(self, kind: SymptomKind, *, most: int = 10) -> list[Traced]:
        """Connections that no cause explains, the longest in trouble first."""
        those = self.stale if kind is SymptomKind.STALE else self.failing
        return [one for one in those if one.cause is None][:most]


def diagnose(status: Status) -> Diagnosis:
    """Judge."""
    known = {one.key: one.began_at for one in status.overview.open_causes} if status.overview is not None else {}
    every = [_dated(one, known, status) for one in (*machinery(status), *banks(status), *upkeep(status))]
    found = [one for one in every if not _is_symptom(status, one, every)]
    found.sort(key=lambda one: (_ORDER[one.kind], one.key))
    stale, failing = _stale(status, found), _failing(status, found)
    symptoms = [*_of_connections(status, stale, failing), *_others(status, found)]
    causes = _numbered(status, found, symptoms)
    number = {one.key: one.number for one in causes}
    return Diagnosis(
        at=status.at,
        causes=tuple(causes),
        symptoms=tuple(replace(one, cause=number.get(key or "")) for one, key in symptoms),
        stale=_traced(stale, number),
        failing=_traced(failing, number),
        counts=_counts(status, stale, failing),
        parts=tuple(_parts(status, causes)),
        last_cause=status.overview.last_cause if status.overview is not None else None,
    )


def _key_of(export: ExportFact) -> str:
    return key_of(CauseKind.EXPORT_LATE, export.name)


_NO_PROGRESS: Final = {
    CauseKind.WORKERS_DEAD: WORKER,
    CauseKind.BEAT_DEAD: BEAT,
    CauseKind.WORKER_HANGS: WORKER,
}
_KEEP_STILL: Final = frozenset({
    CauseKind.DATABASE_AWAY, CauseKind.DATABASE_FULL, CauseKind.DATABASE_READ_ONLY,
    CauseKind.BROKER_SILENT, CauseKind.BROKER_FOREIGN,
})  # fmt: skip
"""Without these no process gets on, or none can note that it does."""


def _is_symptom(status: Status, cause: Cause, every: Sequence[Cause]) -> bool:
    """Late work, and an export that is late, has a cause of its own only where nothing else keeps it back.

    Nor is a process that makes no progress one, while what all of them stand on is broken; one that is known not to run
    any more is.
    """
    if cause.kind in _NO_PROGRESS:
        kept_still = any(one.kind in _KEEP_STILL for one in every)
        return kept_still and not _is_gone(status, _NO_PROGRESS[cause.kind])
    if cause.kind is CauseKind.EXPORT_LATE:
        failed = any(cause.key == _key_of(export) and export.error is not None for export in status.exports)
        return not failed and any(one.stops_all for one in every)
    if cause.kind not in (CauseKind.CAPACITY, CauseKind.SLOTS_SPENT):
        return False
    others = [one for one in every if one.kind not in (CauseKind.CAPACITY, CauseKind.SLOTS_SPENT)]
    return any(one.stops_all or (one.lfi == cause.lfi and bool(one.operations & cause.operations)) for one in others)


def _is_gone(status: Status, kind: str) -> bool:
    """Whether a process of a kind does not run any more; the last to give a sign of life counts."""
    rows = [one for one in status.overview.workers if one.kind == kind] if status.overview is not None else []
    last = max(rows, key=lambda one: one.progress_at, default=None)
    return last is None or last.name in status.gone


def _dated(cause: Cause, known: Mapping[str, datetime], status: Status) -> Cause:
    """Since when: by the fact itself, or by the look that saw it first, whichever is earlier."""
    seen = known.get(cause.key)
    since = min((one for one in (cause.since, seen) if one is not None), default=None)
    if since is None and status.database.state is not DatabaseState.AWAY:
        since = status.at
    return replace(cause, since=since)


# -- which cause explains what -----------------------------------------------------------------------------------------

_Trace = tuple[Troubled, datetime, str | None]
"""A connection, since when, the key of its cause."""


def _first(causes: Sequence[Cause], at: datetime) -> str | None:
    """The key of the cause that began first; of two of one instant the root."""
    best = min(causes, key=lambda one: (one.since or at, _ORDER[one.kind], one.key), default=None)
    return None if best is None else best.key


def _began_before(cause: Cause, since: datetime) -> bool:
    return cause.since is None or cause.since - since <= SLACK


def _by_code(causes: Sequence[Cause], lfi: Slug, error: str | None) -> list[Cause]:
    """Causes that explain an error of a sync at an LFI; those of that LFI before those of all."""
    if not error:
        return []
    those = [one for one in causes if one.codes and error.startswith(one.codes) and one.lfi in (None, lfi)]
    return [one for one in those if one.lfi is not None] or those


def _keeps_back(cause: Cause, lfi: Slug, operations: OperationClass | None) -> bool:
    return cause.stops_all or (cause.lfi == lfi and operations in cause.operations)


def _stale(status: Status, causes: Sequence[Cause]) -> list[_Trace]:
    found: list[_Trace] = []
    for row in status.overview.troubled if status.overview is not None else ():
        since = stale_since(status, row) if row.state == LIVE else None
        if since is None or not _allowed(status, row.lfi):
            continue
        those = [one for one in causes if _keeps_back(one, row.lfi, OperationClass.DATA)]
        if row.failing or row.parked:
            those += _by_code(causes, row.lfi, row.error)
        found.append((row, since, _first([one for one in those if _began_before(one, since)], status.at)))
    return sorted(found, key=lambda one: (one[1], one[0].connection_id))


def _failing(status: Status, causes: Sequence[Cause]) -> list[_Trace]:
    found: list[_Trace] = []
    for row in status.overview.troubled if status.overview is not None else ():
        if row.state != LIVE or not (row.failing or row.parked) or not _allowed(status, row.lfi):
            continue
        since = row.good_at or row.created_at
        found.append((row, since, _first(_by_code(causes, row.lfi, row.error), status.at)))
    return sorted(found, key=lambda one: (one[1], one[0].connection_id))


def _allowed(status: Status, lfi: Slug) -> bool:
    return status.allowed_lfis is None or lfi in status.allowed_lfis


def _of_connections(
    status: Status, stale: Sequence[_Trace], failing: Sequence[_Trace]
) -> list[tuple[Symptom, str | None]]:
    """Stale and failing connections, by LFI and cause: a bank that is down is one line."""
    found: list[tuple[Symptom, str | None]] = []
    for kind, those in ((SymptomKind.STALE, stale), (SymptomKind.FAILING, failing)):
        groups: dict[tuple[Slug, str | None], list[datetime]] = {}
        for row, since, key in those:
            groups.setdefault((row.lfi, key), []).append(since)
        for (lfi, key), each in sorted(groups.items(), key=lambda one: (-len(one[1]), one[0][0], one[0][1] or "")):
            found.append((Symptom(kind=kind, about=lfi, count=len(each), since=min(each)), key))
    rows = status.overview.troubled if status.overview is not None else ()
    for lfi, count in sorted(Counter(row.lfi for row in rows if row.state == NEEDS_CONSENT).items()):
        found.append((Symptom(kind=SymptomKind.NEEDS_CUSTOMER, about=lfi, count=count, side=Side.PRODUCT), None))
    return found


def _others(status: Status, causes: Sequence[Cause]) -> list[tuple[Symptom, str | None]]:
    if status.overview is None:
        return []
    found: list[tuple[Symptom, str | None]] = []
    for row in late_rows(status.overview):
        since = status.at - row.late
        those = [
            one for one in causes if place(row) in one.kinds or _keeps_back(one, row.lfi, OPERATIONS.get(row.kind))
        ]
        symptom = Symptom(kind=SymptomKind.LATE, about=f"{row.lfi} {row.kind.value}", count=row.due, since=since)
        found.append((symptom, _first(those, status.at)))
    keys = {one.key: one for one in causes}
    for backlog in status.overview.backlogs:
        if backlog.waiting:
            key = f"{CauseKind.DELIVERIES_STUCK.value}:{backlog.endpoint_id}"
            symptom = Symptom(
                kind=SymptomKind.DELIVERIES, about=backlog.endpoint_id, count=backlog.waiting, since=backlog.oldest
            )
            stopped = _first([one for one in causes if one.stops_all], status.at)
            found.append((symptom, key if key in keys else stopped))
    if CauseKind.FEED_HELD.value in keys:
        since = status.at - status.feed.lag
        found.append((Symptom(kind=SymptomKind.FEED, about="feed", count=1, since=since), CauseKind.FEED_HELD.value))
    for export in status.exports:
        if late_export(export, at=status.at) is None:
            continue
        symptom = Symptom(kind=SymptomKind.EXPORT, about=export.name, count=1, since=export.due_at)
        key = _key_of(export)
        found.append((symptom, key if key in keys else _first([one for one in causes if one.stops_all], status.at)))
    return found


# -- numbers -----------------------------------------------------------------------------------------------------------


def _numbered(status: Status, found: Sequence[Cause], symptoms: Sequence[tuple[Symptom, str | None]]) -> list[Cause]:
    """Causes with what they hit, in the order of that: what stops all first, what only will hit last."""
    hit: dict[str, Counter[SymptomKind]] = {}
    for symptom, key in symptoms:
        if key is not None:
            hit.setdefault(key, Counter())[symptom.kind] += symptom.count
    waits = (SymptomKind.LATE, SymptomKind.DELIVERIES, SymptomKind.EXPORT)
    causes = []
    for one in found:
        counts = hit.get(one.key, Counter())
        effect = Effect(
            stale=counts[SymptomKind.STALE],
            failing=counts[SymptomKind.FAILING],
            waiting=sum(counts[kind] for kind in waits),
            connections=_reach(status, one),
        )
        causes.append(replace(one, effect=effect))
    causes.sort(key=_place)
    return [replace(one, number=number) for number, one in enumerate(causes, 1)]


def _place(cause: Cause) -> tuple[object, ...]:
    """Where a cause stands: of those that stop all the root first, of the others the one that hits most."""
    kind = _ORDER[cause.kind]
    return (not cause.grave, not cause.stops_all, kind if cause.stops_all else -cause.effect.weight, kind, cause.key)


def _reach(status: Status, cause: Cause) -> int:
    """Connections that a cause hits or will hit: those of its LFI, or all."""
    if status.overview is None:
        return 0
    everywhere = cause.stops_all or (cause.kind is CauseKind.CERTIFICATE_ENDS and cause.lfi is None)
    return sum(
        one.connections for one in status.overview.counts if one.state == LIVE and (everywhere or one.lfi == cause.lfi)
    )


def _traced(those: Sequence[_Trace], number: Mapping[str, int]) -> tuple[Traced, ...]:
    return tuple(Traced(row, since, number.get(key or "")) for row, since, key in those)


def _counts(status: Status, stale: Sequence[_Trace], failing: Sequence[_Trace]) -> Counts:
    overview = status.overview
    if overview is None:
        return Counts(left_out={})
    live = [one for one in overview.counts if one.state == LIVE and _allowed(status, one.lfi)]
    left_out: Counter[str] = Counter()
    for one in overview.counts:
        if one.state != LIVE:
            left_out[one.state] += one.connections
        elif not _allowed(status, one.lfi):
            left_out["not_allowed"] += one.connections
    return Counts(
        connections=sum(one.connections for one in live),
        stale=len(stale),
        failing=len(failing) + left_out[NEEDS_CONSENT],
        parked=sum(row.parked for row, _, _ in failing),
        needs_customer=left_out[NEEDS_CONSENT],
        left_out=dict(sorted(left_out.items())),
        unjudged=status.unjudged,
        ends_7=sum(one.ends_7 for one in live),
        ends_30=sum(one.ends_30 for one in live),
    )


# -- is the machinery alive --------------------------------------------------------------------------------------------


def _parts(status: Status, causes: Sequence[Cause]) -> list[Part]:
    number: dict[CauseKind, int] = {}
    for one in reversed(causes):
        number[one.kind] = one.number
    still = next((number[kind] for kind in CauseKind if kind in _KEEP_STILL and kind in number), None)
    hanging = {one.key: one.number for one in causes if one.kind is CauseKind.WORKER_HANGS}
    found = []
    living = {one.name for kind in (WORKER, BEAT) for one in alive(status, kind)}
    for row in status.overview.workers if status.overview is not None else ():
        dead = CauseKind.WORKERS_DEAD if row.kind == WORKER else CauseKind.BEAT_DEAD
        good = row.name in living
        cause = None if good else hanging.get(f"{CauseKind.WORKER_HANGS.value}:{row.name}", number.get(dead, still))
        if not good and cause is None:
            continue  # replaced, or given up
        said = f"progress {span(max(status.at - row.progress_at, timedelta()))} ago"
        found.append(Part(name=row.name, kind=row.kind, good=good, said=said, cause=cause))
    for kind, dead in ((WORKER, CauseKind.WORKERS_DEAD), (BEAT, CauseKind.BEAT_DEAD)):
        if status.overview is not None and not any(one.kind == kind for one in found):
            found.append(Part(name=kind, kind=kind, good=False, said="none", cause=number.get(dead, still)))
    found.append(_of_broker(status, number))
    database = status.database
    kinds = (CauseKind.DATABASE_AWAY, CauseKind.DATABASE_FULL, CauseKind.DATABASE_READ_ONLY)
    found.append(
        Part(
            name="database",
            kind="database",
            good=database.state is DatabaseState.OK,
            said=database.said or f"{database.took_ms:.0f} ms",
            cause=next((number[kind] for kind in kinds if kind in number), None),
        )
    )
    if status.overview is not None:
        apart = number.get(CauseKind.CLOCK_APART)
        found.append(Part(name="clocks", kind="clocks", good=apart is None, said="apart" if apart else "together",
                          cause=apart))  # fmt: skip
        inbox = status.overview.inbox
        stuck = number.get(CauseKind.INBOX_STUCK)
        found.append(
            Part(name="event inbox", kind="inbox", good=stuck is None, said=f"{inbox.waiting} waiting", cause=stuck)
        )
    return found


def _of_broker(status: Status, number: Mapping[CauseKind, int]) -> Part:
    broker = status.broker
    good = None if broker.state is BrokerState.UNASKED else broker.state is BrokerState.ANSWERS
    said = f"{broker.took_ms:.0f} ms" if good else broker.said or "not asked"
    cause = number.get(CauseKind.BROKER_FOREIGN, number.get(CauseKind.BROKER_SILENT))
    return Part(name="broker", kind="broker", good=good, said=said, cause=cause)


# -- as every view shows it --------------------------------------------------------------------------------------------


def as_json(diagnosis: Diagnosis, *, most: int = 10) -> dict[str, Any]:
    """Plain members: `verdict`, `causes`, `symptoms`, `counts`, `stale`, `failing`, `alive`, `last_cause`.

    Args:
        most: connections listed of those that no cause explains.
    """
    counts = diagnosis.counts
    return {
        "verdict": diagnosis.verdict,
        "causes": [one.as_json() for one in diagnosis.causes],
        "symptoms": [
            {
                "kind": one.kind.value,
                "about": one.about,
                "count": one.count,
                "since": one.since,
                "cause": one.cause,
                "side": None if one.side is None else one.side.value,
            }
            for one in diagnosis.symptoms
        ],
        "counts": {name: getattr(counts, name) for name in Counts.__slots__},
        "stale": [_connection(one) for one in diagnosis.unexplained(SymptomKind.STALE, most=most)],
        "failing": [_connection(one) for one in diagnosis.unexplained(SymptomKind.FAILING, most=most)],
        "alive": [
            {"name": one.name, "kind": one.kind, "good": one.good, "said": one.said, "cause": one.cause}
            for one in diagnosis.parts
        ],
        "last_cause": None if diagnosis.last_cause is None else diagnosis.last_cause._asdict(),
    }


def _connection(one: Traced) -> dict[str, Any]:
    row = one.row
    return {
        "connection": row.connection_id,
        "user_ref": row.user_ref,
        "lfi": row.lfi,
        "since": one.since,
        "resource": row.resource,
        "error": row.error,
        "cause": one.cause,
    }
