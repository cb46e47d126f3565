"""LFIs: the list, and one: may we call it, since when not, and what to hand to it."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

from fastapi import Response

from syncworker.declarations import facts_of
from syncworker.schedule.breaker import standing
from syncworker.standard.calendar import shifted
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store.breakers import Breaker
from syncworker.store.calls import CallRow
from syncworker.store.lfis import DeclaredLFI, Gate
from syncworker.store.ops_traffic import HourOfCalls, share
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import WorkKind, WorkSummary
from syncworker.web.dashboard import charts, words
from syncworker.web.dashboard.door import Visit, not_found
from syncworker.web.dashboard.frame import Frame
from syncworker.web.dashboard.looking import day_began
from syncworker.web.dashboard.words import Shown

DAY: Final = timedelta(hours=24)
IDS_SHOWN: Final = 10
CHANGES_SHOWN: Final = 5
PARTS: Final = 96
"""Columns of the charts of latency and answers: a quarter of an hour each."""

CLASSES: Final[Mapping[OperationClass, tuple[str, frozenset[WorkKind]]]] = {
    OperationClass.DATA: ("Data", frozenset({WorkKind.SYNC})),
    OperationClass.TOKEN: ("Tokens", frozenset({WorkKind.TOKEN})),
    OperationClass.CONSENT: ("Consents", frozenset({WorkKind.CONSENT, WorkKind.FLAG})),
}
"""Classes of calls by the words of the page, with the work that needs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Whether one class of calls is let through.

    Attributes:
        until: when it is let through again or tried.
        since: since when it is held back; `None`: it is let through.
    """

    name: str
    shown: Shown
    since: datetime | None = None
    until: datetime | None = None
    reason: str | None = None
    trips: int = 0
    due: int = 0
    late: timedelta = timedelta()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """The calls of one operation, of those whose calls were looked at."""

    name: str
    calls: int
    attended: int
    half: int | None
    most: int | None
    rate_limited: int
    unanswered: int
    retried: int
    millifils: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One LFI in the list."""

    slug: str
    name: str
    declared: bool
    may: Sequence[Allowed]
    connections: int
    calls: int
    unanswered: int
    rate_limited: int
    today: int
    calls_today: int
    failing: int
    parked: int
    late: timedelta
    missing_since: datetime | None
    migrate_before: date | None

    @property
    def worst(self) -> Allowed | None:
        """What holds calls back."""
        return next((one for one in self.may if one.since is not None or one.until is not None), None)


@dataclass(frozen=True, slots=True)
class Held:
    """What the tables say about calling LFIs, read once."""

    gates: Mapping[Slug, Gate]
    breakers: Mapping[tuple[Slug, OperationClass], Breaker]
    work: Mapping[str, list[WorkSummary]] = field(default_factory=dict)


class LFIs:
    """The two pages."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def every(self, visit: Visit, unit: UnitOfWork) -> Response:
        """Every LFI that is declared, or has connections."""
        now = visit.now
        declared = await self._frame.lfis()
        held, counts = await _held(unit), await unit.ops_connections.counts()
        entries = {one.slug: one for one in await unit.lfis.list()}
        day = _by_lfi(await unit.ops_traffic.calls_by_hour(since=shifted(now, -DAY)))
        today = _by_lfi(await unit.ops_traffic.calls_by_hour(since=day_began(now)))
        lines = [
            _line(Slug(slug), slug in declared, held, counts, entries.get(Slug(slug)), day, today, now)
            for slug in sorted({*declared, *counts})
        ]
        return await self._frame.page(visit, unit, "lfis.html", here="lfis", lines=lines)

    async def one(self, visit: Visit, unit: UnitOfWork) -> Response:
        """One LFI."""
        slug = Slug(str(visit.request.path_params["slug"]))
        declared = await self._frame.lfis()
        counts = await unit.ops_connections.counts() if len(slug) <= 64 else {}
        if slug not in declared and slug not in counts:
            raise not_found("LFI")
        now, since = visit.now, shifted(visit.now, -DAY)
        held = await _held(unit)
        hours = await unit.ops_traffic.calls_by_hour(since=since, lfi=slug)
        today = await unit.ops_traffic.calls_by_hour(since=day_began(now), lfi=slug)
        sample = await unit.ops_traffic.sample(slug, since=since)
        entry = await unit.lfis.get(slug)
        findings = await unit.findings.all(lfi=slug, limit=20)
        kept = [one for one in held.work.get(slug, []) if one.kind is WorkKind.SYNC]
        return await self._frame.page(
            visit,
            unit,
            "lfi.html",
            here="lfis",
            slug=slug,
            name=_name(entry, slug),
            settings=declared.get(slug),
            entry=entry,
            may=_allowed(slug, held, now),
            connections=counts.get(slug, 0),
            calls=sum(one.calls for one in hours),
            attended=sum(one.attended for one in hours),
            unanswered=sum(one.unanswered for one in hours),
            rate_limited=sum(one.rate_limited for one in hours),
            millifils=sum(one.millifils for one in hours),
            today=sum(one.millifils for one in today),
            calls_today=sum(one.calls for one in today),
            work=kept[0] if kept else None,
            latency=_latency(sample, now),
            answers=_answers(hours, now),
            hours=[f"{one:%H}" for one in charts.hours(now)],
            operations=_operations(sample),
            all=_all(sample),
            sampled=len(sample),
            ids=await unit.ops_traffic.unanswered(slug, since=since, limit=IDS_SHOWN),
            findings=findings,
            changes=await unit.lfis.changes(slug, limit=CHANGES_SHOWN),
            clocks=[one for one in await unit.clocks.list(since=since) if one.peer == slug],
            versions=sorted(one.value for one in declared[slug].base_urls) if slug in declared else [],
            migrate_before=_leave_before(entry),
            cause=await self._frame.cause_of(lfi=slug),
            retry=any(one.since is not None and one.reason for one in _allowed(slug, held, now)),
            allowed=self._frame.allowed(slug),
        )


async def _held(unit: UnitOfWork) -> Held:
    work: dict[str, list[WorkSummary]] = defaultdict(list)
    for one in await unit.work.summary():
        work[one.lfi].append(one)
    return Held(await unit.lfis.gates_known(), await unit.breakers.all(), work)


def _allowed(slug: Slug, held: Held, now: datetime) -> list[Allowed]:
    """Whether each class of calls is let through."""
    found = []
    gate = held.gates.get(slug)
    for operations, (name, kinds) in CLASSES.items():
        breaker = held.breakers.get((slug, operations))
        stands = standing(gate, breaker, now=now)
        work = [one for one in held.work.get(slug, []) if one.kind in kinds]
        facts: dict[str, Any] = {
            "name": name,
            "due": sum(one.due for one in work),
            "late": max((one.late for one in work), default=timedelta()),
        }
        if stands.gated:
            shown = Shown("held", "held", "held back: 429")
            facts |= {"since": None if gate is None else gate.closed_at, "until": stands.until, "reason": None}
        elif stands.until is not None and breaker is not None:
            shown = Shown("held", "held", "held back")
            facts |= {
                "since": breaker.opened_at,
                "until": stands.until,
                "reason": breaker.reason,
                "trips": breaker.trips,
            }
        elif stands.trial and breaker is not None:
            shown = Shown("run", "run", "one trial is let through")
            facts |= {"since": breaker.opened_at, "reason": breaker.reason, "trips": breaker.trips}
        elif stands.share < 1:
            shown = Shown("run", "run", f"let through, {words.percent(round(100 * stands.share), 100)} of the rate")
        else:
            shown = Shown("ok", "", "let through")
        found.append(Allowed(shown=shown, **facts))
    return found


def _line(
    slug: Slug,
    declared: bool,
    held: Held,
    counts: Mapping[str, int],
    entry: DeclaredLFI | None,
    day: Mapping[str, Counter[str]],
    today: Mapping[str, Counter[str]],
    now: datetime,
) -> Line:
    work = held.work.get(slug, [])
    sums = day.get(slug, Counter())
    return Line(
        slug=slug,
        name=_name(entry, slug),
        declared=declared,
        may=_allowed(slug, held, now),
        connections=counts.get(slug, 0),
        calls=sums["calls"],
        unanswered=sums["unanswered"],
        rate_limited=sums["rate_limited"],
        today=today.get(slug, Counter())["millifils"],
        calls_today=today.get(slug, Counter())["calls"],
        failing=sum(one.failing for one in work if one.kind is WorkKind.SYNC),
        parked=sum(one.parked for one in work),
        late=max((one.late for one in work if one.kind is WorkKind.SYNC), default=timedelta()),
        missing_since=None if entry is None else entry.missing_since,
        migrate_before=_leave_before(entry),
    )


def _by_lfi(hours: Sequence[HourOfCalls]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for one in hours:
        for name in ("calls", "unanswered", "rate_limited", "attended", "millifils"):
            found[one.lfi][name] += getattr(one, name)
    return found


def _name(entry: DeclaredLFI | None, slug: str) -> str:
    """What customers call it."""
    return str(((entry.directory if entry else None) or {}).get("name") or slug)


def _leave_before(entry: DeclaredLFI | None) -> date | None:
    """The day by which nothing may depend on the LFI's server any more."""
    facts = None if entry is None else facts_of(entry)
    return None if facts is None else facts.migrate_before


# -- charts ------------------------------------------------------------------------------------------------------


def _place(at: datetime, now: datetime) -> int:
    """Which quarter of an hour of the last day an instant lies in."""
    return PARTS - 1 - min(PARTS - 1, max(0, (now - at) // (DAY / PARTS)))


def _latency(sample: Sequence[CallRow], now: datetime) -> Mapping[str, Any]:
    """The median and 95 % of durations by quarter of an hour, as points of two lines."""
    parts: dict[int, list[int]] = defaultdict(list)
    for one in sample:
        if one.status is not None:
            parts[_place(one.started_at, now)].append(one.duration_ms)
    half = {place: share(values, 0.5) or 0 for place, values in parts.items()}
    most = {place: share(values, 0.95) or 0 for place, values in parts.items()}
    top = max(most.values(), default=0) or 1
    every = [one.duration_ms for one in sample if one.status is not None]
    middle, high = share(every, 0.5), share(every, 0.95)

    def points(values: Mapping[int, int]) -> str:
        return " ".join(f"{place + 0.5:.1f},{100 - value / top * 96:.1f}" for place, value in sorted(values.items()))

    said = "no call was answered in the last 24 hours"
    if every:
        said = f"Latency over the last 24 hours: half of the calls within {middle} ms, 95 % within {high} ms"
    return {
        "half": points(half), "most": points(most), "top": top, "p50": middle, "p95": high, "said": said,
        "parts": PARTS, "some": bool(every),
    }  # fmt: skip


def _answers(hours: Sequence[HourOfCalls], now: datetime) -> charts.Chart:
    by_hour = {one.hour: one for one in hours}
    columns = []
    for hour in charts.hours(now):
        one = by_hour.get(hour)
        good = 0 if one is None else one.calls - one.unanswered - one.rate_limited
        bad, limited = (0, 0) if one is None else (one.unanswered, one.rate_limited)
        columns.append(((good, "f-bar"), (limited, "f-held"), (bad, "f-bad")))
    calls, bad = sum(one.calls for one in hours), sum(one.unanswered for one in hours)
    return charts.stacked(
        columns, said=f"Calls by the hour, last 24 hours: {calls:,}, of them {bad:,} without a good answer"
    )


def _operations(sample: Collection[CallRow]) -> list[Operation]:
    by_name: dict[str, list[CallRow]] = defaultdict(list)
    for one in sample:
        by_name[one.operation].append(one)
    return sorted((_operation(name, calls) for name, calls in by_name.items()), key=lambda one: -one.calls)


def _all(sample: Collection[CallRow]) -> Operation | None:
    return _operation("all", list(sample)) if sample else None


def _operation(name: str, calls: Sequence[CallRow]) -> Operation:
    took = [one.duration_ms for one in calls if one.status is not None]
    return Operation(
        name=name,
        calls=len(calls),
        attended=sum(one.attended for one in calls),
        half=share(took, 0.5),
        most=share(took, 0.95),
        rate_limited=sum(one.status == 429 for one in calls),
        unanswered=sum(one.status is None or one.status >= 500 for one in calls),
        retried=sum(one.attempt > 1 for one in calls),
        millifils=sum(one.price_millifils for one in calls),
    )
