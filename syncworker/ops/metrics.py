"""Every metric of `GET /metrics`: name, type, labels and meaning; docs/metrics.md is made of this list.

Labels are LFIs that are declared, operations, resources, kinds of work and constant words, each of a bounded number: an
LFI that is not declared is `other`, so is an operation that the standard does not name.  No label holds an id, a
customer or a word of a bank.

`ops.measuring` gives the values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class MetricType(StrEnum):
    """What Prometheus is told of a metric."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    """Of what was counted since the installation began."""
    GAUGE_HISTOGRAM = "gauge histogram"
    """Of what there is now: its buckets go up and down."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: as queries have it; a counter ends with `_total`.
        labels: in the order in which values are given.
        means: a sentence.
    """

    name: str
    type: MetricType
    labels: tuple[str, ...]
    means: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries may ask for."""
        match self.type:
            case MetricType.HISTOGRAM:
                return tuple(f"{self.name}_{one}" for one in ("bucket", "count", "sum"))
            case MetricType.GAUGE_HISTOGRAM:
                return tuple(f"{self.name}_{one}" for one in ("bucket", "gcount", "gsum"))
            case _:
                return (self.name,)


_TYPES: Final = {
    "g": MetricType.GAUGE,
    "c": MetricType.COUNTER,
    "h": MetricType.HISTOGRAM,
    "a": MetricType.GAUGE_HISTOGRAM,
}


def _metrics(*rows: tuple[str, str, str, str]) -> tuple[Metric, ...]:
    return tuple(Metric(f"syncworker_{name}", _TYPES[type_], tuple(labels.split()), means)
                 for name, type_, labels, means in rows)  # fmt: skip


# fmt: off
METRICS: Final[Mapping[str, Sequence[Metric]]] = {
    "What is wrong": _metrics(
        ("cause", "g", "kind side lfi", "1 for each cause of trouble that `syncworker status` names now; absent once it is over. `side`: where it is mended (`us`, `lfi`, `hub`, `product`). `lfi`: the LFI it is about, empty where it is about none."),
        ("cause_age_seconds", "g", "kind side lfi", "How long that cause lasts; of several of one kind the longest."),
        ("cause_stale_connections", "g", "kind side lfi", "Connections that are stale by it."),
        ("cause_failing_connections", "g", "kind side lfi", "Connections whose last sync ended badly by it."),
        ("causes", "g", "side", "Causes that last, counted."),
    ),
    "Connections": _metrics(
        ("connections", "g", "lfi state", "Connections by state. `live` ones can be fresh; `needs_consent`, `ended`, `revoked`, `paused`, `suspended`, `pending`, `not_allowed` and `other` ones count nowhere as stale."),
        ("connections_stale", "g", "lfi", "Live connections of which a listing is older than its cadence and the margin allow."),
        ("connections_failing", "g", "lfi", "Live connections whose last sync ended badly, parked ones too."),
        ("connections_parked", "g", "lfi", "Live connections that no worker syncs before a person acts."),
        ("connections_unexplained", "g", "symptom", "Live connections that are `stale` or `failing`, and that no cause explains."),
        ("consents_ending", "g", "lfi within", "Live connections whose consent ends within `7d` and `30d`."),
        ("data_age_seconds", "a", "lfi resource", "Live connections by the age of a resource: the time since the last complete walk of its listings, the oldest of its accounts counts. Noted after each run of a connection; collected at most once a minute."),
    ),
    "Work": _metrics(
        ("work_rows", "g", "lfi kind", "Rows of work."),
        ("work_due", "g", "lfi kind", "The queue: rows that are due and that no worker has claimed."),
        ("work_late", "g", "lfi kind", "Rows that are due, where the oldest has been for more than 5 minutes."),
        ("work_oldest_due_seconds", "g", "lfi kind", "For how long the oldest row has been due; 0 where none is."),
        ("work_claimed", "g", "lfi kind", "Rows that a worker has claimed."),
        ("work_parked", "g", "lfi kind", "Rows that no worker claims before a person acts."),
        ("work_failing", "g", "lfi kind", "Rows whose last end was a bad one."),
        ("work_ended_total", "c", "lfi kind outcome", "Ends of work. `outcome`: `good`, `retry` (time mends it), `bad`. Kind `token` are refreshes of tokens."),
    ),
    "Syncs": _metrics(
        ("syncs_total", "c", "lfi outcome", "Runs: `ok`, `unchanged`, `partial`, `failed`, `lease_lost`."),
        ("walks_total", "c", "lfi resource outcome", "Walks of listings: `ok`, `unchanged`, `absent`, `refused`, `failed`, `truncated`, `skipped`."),
        ("rows_total", "c", "lfi resource change", "Rows that syncs `added`, `modified` and `removed`; removed ones are proved absent and buried: they stay as tombstones."),
        ("rows_erased_total", "c", "", "Rows of customers' data that were destroyed, by retention or on request."),
        ("refreshes_total", "c", "outcome", "Connections of refreshes that your product asked for, ended `complete`, `partial` or `failed`."),
        ("last_sync_age_seconds", "g", "", "Time since a run last ended; absent before the first."),
    ),
    "Calls to LFIs": _metrics(
        ("calls_total", "c", "lfi operation status attended", "HTTP attempts. `status`: its class, `429` by itself, `none` without an answer. `attended`: made with the customer present."),
        ("call_duration_seconds", "h", "lfi operation", "How long they took."),
        ("price_aed_total", "c", "lfi", "What they cost, in AED."),
        ("admission_share", "g", "lfi operations", "Share of an LFI's rate and slots that a class of calls gets now: 1 all, 0 none."),
        ("gate_closed", "g", "lfi", "1 while an LFI gets no call because it said 429."),
        ("breaker_open", "g", "lfi operations", "1 while a class of calls is kept back, or tried one at a time, because it fails."),
        ("findings", "g", "lfi", "What an LFI or a bug of ours does that a person has to look at (`syncworker items`, `syncworker status`)."),
        ("certificate_days", "g", "lfi use", "Days until the certificate for an LFI ends, below 0 once it has. `use`: `transport` or `signing`."),
        ("certificate_unusable", "g", "lfi use", "1 where the certificate cannot be read or does not match."),
    ),
    "Processes": _metrics(
        ("build_info", "g", "version", "1; the version of the process that answers."),
        ("database_state", "g", "state", "1 for the state of the database: `ok`, `away`, `read_only`, `full`. The web process answers no scrape while it cannot check the key."),
        ("broker_state", "g", "state", "1 for the state of the broker: `answers`, `silent`, `foreign`; `unasked` before the first answer."),
        ("processes", "g", "kind state", "Workers and beats of the last day: `alive` or `silent`."),
        ("process_quiet_seconds", "g", "kind", "Time since the last sign of life of any process of a kind."),
        ("canary_seconds", "g", "", "Of the living workers the longest time since a message to one alone came round."),
        ("observers_failed", "g", "", "Failures of what watches calls (log, journal, clocks) in processes that run: a bug to report."),
        ("clock_offset_seconds", "g", "", "Largest offset between clocks of hosts, LFIs and the database."),
        ("housekeeping_age_seconds", "g", "", "Time since a tick last looked for causes."),
        ("collect_seconds", "g", "", "How long the collection of these values took."),
    ),
    "What goes out and comes in": _metrics(
        ("inbox_events", "g", "state", "Events of the Hub that wait (`filed`) and that concern nothing known (`quarantined`)."),
        ("inbox_oldest_seconds", "g", "", "For how long the oldest event has waited; 0 where none does."),
        ("events_total", "c", "outcome", "Events of the Hub that verified: `new`, `again` (a retry), `jti_used` (refused)."),
        ("deliveries_waiting", "g", "", "Messages that wait for your product's endpoints."),
        ("deliveries_oldest_seconds", "g", "", "For how long the oldest message has waited; 0 where none does."),
        ("endpoints", "g", "state", "Webhook endpoints: `good`, `failing`, `disabled`."),
        ("deliveries_total", "c", "outcome", "Messages: `delivered`, `put_off` (an attempt failed), `folded` (into one), `given_up`."),
        ("feed_lag_seconds", "g", "", "How long the oldest committed change waits to be seen in the feed."),
        ("exports_late", "g", "", "Exports that should have been made."),
        ("openings", "g", "state", "Account openings that are `unknown` or `overdue`."),
    ),
}
# fmt: on

BY_NAME: Final[Mapping[str, Metric]] = {one.name: one for those in METRICS.values() for one in those}
SERIES: Final = frozenset(name for one in BY_NAME.values() for name in one.series)
"""Every name that a query may ask for."""


def page() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Generated by `syncworker metrics list`; a test compares it with the code.",
        "",
        "`GET /metrics` of the web process, for a key of scope `metrics:read`, one target for each tenant; how to scrape it",
        "stands in [operations](operations.md#metrics).  Labels are LFIs that are declared, operations, resources and",
        "constant words; everything else is `other`.  No label holds an id, a customer or a word of a bank.",
        "",
        "Counters go on over restarts and upgrades and do not depend on how long rows are kept.  A process that is killed",
        "loses the counts of its last 5 seconds.",
    ]
    for about, those in METRICS.items():
        lines += ["", f"## {about}", "", "| metric | type | labels | what it means |", "|---|---|---|---|"]
        lines += [
            f"| `{one.name}` | {one.type.value} | {', '.join(f'`{name}`' for name in one.labels)} | {one.means} |"
            for one in those
        ]
    return "\n".join(lines) + "\n"
