"""The values of all metrics, from what there is to see.

In: a `Status` with its `Diagnosis`, the counters, the ages of data.  Out: samples, plain values.  No I/O.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Final

from syncworker.ops.banks import LATE, holds
from syncworker.ops.cause import Side
from syncworker.ops.diagnosis import Diagnosis
from syncworker.ops.machinery import BEAT, alive
from syncworker.ops.metrics import BY_NAME, MetricType
from syncworker.ops.status import BrokerState, DatabaseState, Status
from syncworker.ops.upkeep import late_export
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store import tally
from syncworker.store.ages import seconds
from syncworker.store.overview import Overview
from syncworker.store.standings import LIVE
from syncworker.store.tally import Counted, Key
from syncworker.store.workers import WORKER

MILLIFILS: Final = 100_000
DAY_S: Final = 24 * 3600.0
AGE_BOUNDS_S: Final = tuple(
    hours * 3600.0 for hours in (0.25, 1, 3, 6, 7.5, 9, 12, 24, 30, 36, 48, 72, 7 * 24, 8.75 * 24, 14 * 24)
)
"""Upper bounds of the buckets of an age; 7.5 h, 30 h and 8.75 d are the usual cadences with the usual margin."""

_COUNTERS: Final[Mapping[Counted, str]] = {
    Counted.RUNS: "syncs_total",
    Counted.WALKS: "walks_total",
    Counted.ROWS: "rows_total",
    Counted.ERASED: "rows_erased_total",
    Counted.CALLS: "calls_total",
    Counted.PRICE: "price_aed_total",
    Counted.ENDED: "work_ended_total",
    Counted.REFRESHES: "refreshes_total",
    Counted.DELIVERIES: "deliveries_total",
    Counted.EVENTS: "events_total",
}
_WORDS: Final[Mapping[str, frozenset[str]]] = {
    "operation": tally.OPERATIONS,
    "resource": tally.RESOURCES,
    "status": frozenset(tally.STATUSES),
    "attended": frozenset(("true", "false")),
}
"""What labels of counters may say; a row that says anything else was written by another version."""

Labels = tuple[str, ...]


@dataclass(slots=True)
class Buckets:
    """A histogram of one set of labels.

    Attributes:
        bounds: upper bounds; the last bucket has none.
        counts: of each bucket alone, one more than bounds.
        total: sum of all values.
    """

    bounds: Sequence[float]
    counts: list[int]
    total: float = 0.0

    def cumulated(self) -> list[tuple[str, float]]:
        """Upper bound and count of what lies below it, the way Prometheus takes them."""
        names = [*(f"{bound:g}" if bound < 1e6 else f"{bound:.0f}" for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(map(float, self.counts)), strict=True))


@dataclass(slots=True)
class Ages:
    """How many connections have data of which age, by LFI and resource.

    Attributes:
        at: instant they were counted for.
    """

    at: datetime
    of: dict[tuple[Slug, str], Buckets] = field(default_factory=dict)


def aged(rows: Iterable[tuple[Slug, bytes]], *, at: datetime) -> Ages:
    """Count ages.

    Args:
        rows: LFI and `staleness.ages` of connections.
    """
    found, now = Ages(at), at.timestamp()
    for lfi, packed in rows:
        for resource, second in seconds(packed):
            place = (lfi, resource)
            if place not in found.of:
                found.of[place] = Buckets(AGE_BOUNDS_S, [0] * (len(AGE_BOUNDS_S) + 1))
            age = max(now - second, 0.0)
            buckets = found.of[place]
            buckets.counts[bisect_left(AGE_BOUNDS_S, age)] += 1
            buckets.total += age
    return found


class Sheet:
    """Samples, filled in metric by metric; what has the same labels is added up, or the largest of it counts."""

    def __init__(self, known: Iterable[Slug]) -> None:
        """Empty.

        Args:
            known: LFIs that may be a label.
        """
        self._known = frozenset(known)
        self.values: dict[str, dict[Labels, float]] = {}
        self.buckets: dict[str, dict[Labels, Buckets]] = {}

    def lfi(self, slug: str | None) -> str:
        """The label for an LFI."""
        return "" if slug is None else slug if slug in self._known else tally.OTHER

    def add(self, name: str, *labels: str, value: float = 1.0) -> None:
        """Add to a sample."""
        of = self._of(name, labels)
        of[labels] = of.get(labels, 0.0) + value

    def most(self, name: str, *labels: str, value: float) -> None:
        """Give a sample, the largest of those given."""
        of = self._of(name, labels)
        of[labels] = max(value, of.get(labels, value))

    def least(self, name: str, *labels: str, value: float) -> None:
        """Give a sample, the smallest of those given."""
        of = self._of(name, labels)
        of[labels] = min(value, of.get(labels, value))

    def histogram(self, name: str, *labels: str, bounds: Sequence[float]) -> Buckets:
        """A histogram to add to; begun where there is none."""
        metric = BY_NAME[f"syncworker_{name}"]
        assert len(metric.labels) == len(labels), name
        of = self.buckets.setdefault(metric.name, {})
        if labels not in of:
            of[labels] = Buckets(bounds, [0] * (len(bounds) + 1))
        return of[labels]

    def _of(self, name: str, labels: Labels) -> dict[Labels, float]:
        metric = BY_NAME[f"syncworker_{name}"]
        assert len(metric.labels) == len(labels), name
        assert metric.type in (MetricType.GAUGE, MetricType.COUNTER), name
        return self.values.setdefault(metric.name, {})


def measure(
    status: Status,
    diagnosis: Diagnosis,
    *,
    counters: Mapping[Key, int],
    ages: Ages | None,
    version: str,
    took_s: float,
) -> Sheet:
    """Every metric's value.

    Args:
        counters: as `store.tally` has them.
        ages: `None`: not counted yet.
        took_s: how long collecting took.
    """
    sheet = Sheet(status.declared)
    sheet.add("build_info", version)
    sheet.add("collect_seconds", value=took_s)
    for state in DatabaseState:
        sheet.add("database_state", state.value, value=float(status.database.state is state))
    for broker in BrokerState:
        sheet.add("broker_state", broker.value, value=float(status.broker.state is broker))
    _causes(sheet, diagnosis)
    _certificates(sheet, status)
    sheet.add("exports_late", value=sum(late_export(one, at=status.at) is not None for one in status.exports))
    if status.overview is None:
        return sheet
    _connections(sheet, status.overview, diagnosis)
    _work(sheet, status.overview)
    _limits(sheet, status, status.overview)
    _processes(sheet, status, status.overview)
    _in_and_out(sheet, status, status.overview)
    _counters(sheet, counters)
    if ages is not None:
        for (lfi, resource), buckets in ages.of.items():
            one = sheet.histogram("data_age_seconds", sheet.lfi(lfi), resource, bounds=buckets.bounds)
            one.counts = [count + other for count, other in zip(one.counts, buckets.counts, strict=True)]
            one.total += buckets.total
    return sheet


def _causes(sheet: Sheet, diagnosis: Diagnosis) -> None:
    for side in Side:
        sheet.add("causes", side.value, value=0)
    for one in diagnosis.causes:
        labels = (one.kind.value, one.side.value, sheet.lfi(one.lfi))
        sheet.add("causes", one.side.value)
        sheet.most("cause", *labels, value=1)
        age = 0.0 if one.since is None else max((diagnosis.at - one.since).total_seconds(), 0.0)
        sheet.most("cause_age_seconds", *labels, value=age)
        sheet.add("cause_stale_connections", *labels, value=one.effect.stale)
        sheet.add("cause_failing_connections", *labels, value=one.effect.failing)


def _certificates(sheet: Sheet, status: Status) -> None:
    for one in status.certificates:
        labels = (sheet.lfi(one.lfi), one.field.rpartition(".")[2].removesuffix("_certificate"))
        sheet.most("certificate_unusable", *labels, value=float(one.expires_at is None))
        if one.expires_at is not None:
            sheet.least("certificate_days", *labels, value=(one.expires_at - status.at).total_seconds() / DAY_S)


def _connections(sheet: Sheet, overview: Overview, diagnosis: Diagnosis) -> None:
    for one in overview.counts:
        lfi = sheet.lfi(one.lfi)
        sheet.add("connections", lfi, one.state, value=one.connections)
        if one.state == LIVE:
            sheet.add("consents_ending", lfi, "7d", value=one.ends_7)
            sheet.add("consents_ending", lfi, "30d", value=one.ends_30)
        for name in ("stale", "failing", "parked"):
            sheet.add(f"connections_{name}", lfi, value=0)
    for name, those in (("stale", diagnosis.stale), ("failing", diagnosis.failing)):
        sheet.add("connections_unexplained", name, value=sum(traced.cause is None for traced in those))
        for traced in those:
            sheet.add(f"connections_{name}", sheet.lfi(traced.row.lfi))
    for row in overview.troubled:
        if row.state == LIVE:
            sheet.add("connections_parked", sheet.lfi(row.lfi), value=row.parked)


def _work(sheet: Sheet, overview: Overview) -> None:
    for one in overview.work:
        labels = (sheet.lfi(one.lfi), one.kind.value)
        sheet.add("work_rows", *labels, value=one.rows)
        sheet.add("work_due", *labels, value=one.due)
        sheet.add("work_late", *labels, value=one.due if one.late > LATE else 0)
        sheet.most("work_oldest_due_seconds", *labels, value=one.late.total_seconds())
        sheet.add("work_claimed", *labels, value=one.leased)
        sheet.add("work_parked", *labels, value=one.parked)
        sheet.add("work_failing", *labels, value=one.failing)


def _limits(sheet: Sheet, status: Status, overview: Overview) -> None:
    for lfi in sorted(status.declared):
        sheet.add("gate_closed", lfi, value=0)
        sheet.add("findings", lfi, value=0)
        for operations in OperationClass:
            sheet.add("admission_share", lfi, operations.value)
            sheet.add("breaker_open", lfi, operations.value, value=0)
    for one in holds(overview.gates, overview.breakers, now=status.at):
        labels = (sheet.lfi(one.lfi), one.operations.value)
        sheet.least("admission_share", *labels, value=one.share)
        if one.state == "gated":
            sheet.most("gate_closed", labels[0], value=1)
        else:
            sheet.most("breaker_open", *labels, value=float(one.state != "ramp"))
    for finding in overview.findings:
        sheet.add("findings", sheet.lfi(finding.lfi))


def _processes(sheet: Sheet, status: Status, overview: Overview) -> None:
    for kind in (WORKER, BEAT):
        living = alive(status, kind)
        those = [one for one in overview.workers if one.kind == kind]
        sheet.add("processes", kind, "alive", value=len(living))
        sheet.add("processes", kind, "silent", value=len(those) - len(living))
        if those:
            last = max(one.progress_at for one in those)
            sheet.add("process_quiet_seconds", kind, value=_since(last, status.at))
        if kind == WORKER and living:
            came = [one.canary_at or one.started_at for one in living]
            sheet.add("canary_seconds", value=_since(min(came), status.at))
    sheet.add("observers_failed", value=sum(one.observers_failed for one in overview.workers))
    offsets = [abs(one.offset.total_seconds()) for one in overview.clocks]
    if status.clock_offset is not None:
        offsets.append(abs(status.clock_offset.total_seconds()))
    if offsets:
        sheet.add("clock_offset_seconds", value=max(offsets))
    for name, at in (("housekeeping_age_seconds", overview.looked_at), ("last_sync_age_seconds", overview.last_run_at)):
        if at is not None:
            sheet.add(name, value=_since(at, status.at))


def _in_and_out(sheet: Sheet, status: Status, overview: Overview) -> None:
    inbox = overview.inbox
    sheet.add("inbox_events", "filed", value=inbox.waiting)
    sheet.add("inbox_events", "quarantined", value=inbox.quarantined)
    sheet.add("inbox_oldest_seconds", value=_since(inbox.oldest, status.at))
    sheet.add("deliveries_waiting", value=sum(one.waiting for one in overview.backlogs))
    oldest = min((one.oldest for one in overview.backlogs if one.oldest is not None), default=None)
    sheet.add("deliveries_oldest_seconds", value=_since(oldest, status.at))
    for state in ("good", "failing", "disabled"):
        sheet.add("endpoints", state, value=0)
    for one in overview.backlogs:
        state = "disabled" if one.disabled_at is not None else "failing" if one.failing_since is not None else "good"
        sheet.add("endpoints", state)
    sheet.add("feed_lag_seconds", value=status.feed.lag.total_seconds())
    for state, count in zip(("unknown", "overdue"), overview.openings, strict=True):
        sheet.add("openings", state, value=count)


def _since(at: datetime | None, now: datetime) -> float:
    return 0.0 if at is None else max((now - at).total_seconds(), 0.0)


def _counters(sheet: Sheet, counters: Mapping[Key, int]) -> None:
    bounds = [bound / 1000 for bound in tally.BOUNDS_MS]
    places = {**{str(bound): place for place, bound in enumerate(tally.BOUNDS_MS)}, tally.BEYOND: len(bounds)}
    for (name, *values), value in counters.items():
        what = Counted(name)
        labels = [_label(sheet, *pair) for pair in zip(tally.LABELS[what], values, strict=True)]
        if what in _COUNTERS:
            scale = MILLIFILS if what is Counted.PRICE else 1
            sheet.add(_COUNTERS[what], *labels, value=value / scale)
            continue
        one = sheet.histogram("call_duration_seconds", *labels[:2], bounds=bounds)
        if what is Counted.CALL_MS:
            one.total += value / 1000
        elif values[2] in places:
            one.counts[places[values[2]]] += value


def _label(sheet: Sheet, name: str, value: str) -> str:
    if name == "lfi":
        return sheet.lfi(value)
    return tally.word_or_other(value, _WORDS[name]) if name in _WORDS else value
