"""Values of metrics from statuses made by hand: each metric has one here, and no label says more than it may."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

import syncworker
from syncworker.ops.certificates import CertificateFinding
from syncworker.ops.diagnosis import diagnose
from syncworker.ops.measuring import AGE_BOUNDS_S, Sheet, aged, measure
from syncworker.ops.metrics import BY_NAME, METRICS, MetricType, page
from syncworker.ops.status import BrokerFact, BrokerState, DatabaseFact, DatabaseState, ExportFact, FeedFact
from syncworker.standard.operations import OperationClass
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import Slug
from syncworker.store import ages, tally
from syncworker.store.clocks import ClockOffset
from syncworker.store.findings import Finding
from syncworker.store.lfis import Gate
from syncworker.store.overview import Backlog, Inbox
from syncworker.store.standings import NEEDS_CONSENT
from syncworker.store.tally import Key
from syncworker.web.metrics import exposition
from tests.ops.seen import (
    HILAL,
    HOUR,
    LIVING,
    MINUTE,
    NOOR,
    NOW,
    TOKEN,
    breaker,
    breakers,
    connection,
    counted,
    lost,
    process,
    seen,
    work,
)

pytestmark = pytest.mark.unit

DAY: Final = timedelta(days=1)
COUNTERS: Final[dict[Key, int]] = {
    ("runs", "noor", "ok"): 7,
    ("walks", "noor", "balances", "unchanged"): 40,
    ("rows", "noor", "balances", "added"): 3,
    ("erased",): 11,
    ("calls", "noor", "GetAccounts", "429", "true"): 5,
    ("call_time", "noor", "GetAccounts", "250"): 4,
    ("call_time", "noor", "GetAccounts", "inf"): 1,
    ("call_ms", "noor", "GetAccounts"): 45_500,
    ("price", "noor"): 250_000,
    ("ended", "noor", "token", "good"): 9,
    ("refreshes", "partial"): 2,
    ("deliveries", "given_up"): 1,
    ("events", "again"): 6,
}


def finding(**changes: Any) -> Finding:
    facts: dict[str, Any] = dict.fromkeys(Finding.__slots__)
    facts |= {"lfi": NOOR, "operation": "GetAccounts", "code": "item.key_missing", "times": 1}
    facts |= {"first_seen_at": NOW - HOUR, "last_seen_at": NOW, "connection_id": "c", "consent_id": "c"}
    return Finding(**facts | changes)


def everything() -> Sheet:
    """A status in which everything is to be seen."""
    status = seen(
        status={
            "broker": BrokerFact(state=BrokerState.ANSWERS),
            "certificates": (
                CertificateFinding(lfi=NOOR, field="lfis.noor.transport_certificate", expires_at=NOW + 20 * DAY),
                CertificateFinding(lfi=HILAL, field="client.signing_certificate", fault="no such file"),
            ),
            "exports": (ExportFact(name="daily", due_at=NOW - HOUR),),
            "feed": FeedFact(lag=timedelta(seconds=90)),
            "clock_offset": timedelta(seconds=-2),
        },
        counts=(counted(10, ends_7=1, ends_30=3), counted(2, NEEDS_CONSENT), counted(4, "paused", HILAL)),
        troubled=(
            connection("a", stale_for=2 * HOUR),
            connection("b", error="lfi_unavailable", stale_for=HOUR),
            connection("p", parked=True),
            lost("l"),
        ),
        work=(work(due=6, late=10 * MINUTE, leased=2, parked=1, failing=3), work(lfi=HILAL, due=1, late=MINUTE)),
        breakers=breakers(breaker(), breaker(TOKEN, closed_at=NOW - HOUR)),
        gates={HILAL: Gate(until=NOW + MINUTE, closed_at=NOW - MINUTE)},
        workers=(*LIVING, process("host/3", quiet=HOUR, observers_failed=2)),
        clocks=(ClockOffset(host="host", peer="noor", offset=timedelta(seconds=3), within=MINUTE, measured_at=NOW),),
        findings=(finding(),),
        openings=(1, 2),
        last_run_at=NOW - MINUTE,
        looked_at=NOW - timedelta(seconds=8),
        inbox=Inbox(3, NOW - 20 * MINUTE, 4),
        backlogs=(
            Backlog("ep_1", "https://product.example/a", None, None, None, 0, None),
            Backlog("ep_2", "https://product.example/b", NOW - HOUR, None, None, 5, NOW - HOUR),
            Backlog("ep_3", "https://product.example/c", NOW - HOUR, NOW, "gone", 2, NOW - MINUTE),
        ),
    )  # fmt: skip
    packed = ages.pack({ResourceName.BALANCES: NOW - 2 * HOUR, ResourceName.ACCOUNTS: NOW - 30 * DAY})
    return measure(
        status,
        diagnose(status),
        counters=COUNTERS,
        ages=aged([(NOOR, packed), (NOOR, packed)], at=NOW),
        version="1.2.3",
        took_s=0.05,
    )


EXPECTED: Final[dict[str, dict[tuple[str, ...], float]]] = {
    "connections": {("noor", "live"): 10, ("noor", "needs_consent"): 2, ("hilal", "paused"): 4},
    "connections_stale": {("noor",): 2, ("hilal",): 0},
    "connections_failing": {("noor",): 2, ("hilal",): 0},
    "connections_parked": {("noor",): 1, ("hilal",): 0},
    "connections_unexplained": {("stale",): 2, ("failing",): 1},
    "consents_ending": {("noor", "7d"): 1, ("noor", "30d"): 3},
    "work_rows": {("noor", "sync"): 100, ("hilal", "sync"): 100},
    "work_due": {("noor", "sync"): 6, ("hilal", "sync"): 1},
    "work_late": {("noor", "sync"): 6, ("hilal", "sync"): 0},
    "work_oldest_due_seconds": {("noor", "sync"): 600, ("hilal", "sync"): 60},
    "work_claimed": {("noor", "sync"): 2, ("hilal", "sync"): 0},
    "work_parked": {("noor", "sync"): 1, ("hilal", "sync"): 0},
    "work_failing": {("noor", "sync"): 3, ("hilal", "sync"): 0},
    "work_ended_total": {("noor", "token", "good"): 9},
    "syncs_total": {("noor", "ok"): 7},
    "walks_total": {("noor", "balances", "unchanged"): 40},
    "rows_total": {("noor", "balances", "added"): 3},
    "rows_erased_total": {(): 11},
    "refreshes_total": {("partial",): 2},
    "last_sync_age_seconds": {(): 60},
    "calls_total": {("noor", "GetAccounts", "429", "true"): 5},
    "price_aed_total": {("noor",): 2.5},
    "gate_closed": {("noor",): 0, ("hilal",): 1},
    "findings": {("noor",): 1, ("hilal",): 0},
    "certificate_days": {("noor", "transport"): 20},
    "certificate_unusable": {("noor", "transport"): 0, ("hilal", "signing"): 1},
    "build_info": {("1.2.3",): 1},
    "database_state": {("ok",): 1, ("away",): 0, ("read_only",): 0, ("full",): 0},
    "broker_state": {("answers",): 1, ("silent",): 0, ("foreign",): 0, ("unasked",): 0},
    "processes": {("worker", "alive"): 1, ("worker", "silent"): 1, ("beat", "alive"): 1, ("beat", "silent"): 0},
    "process_quiet_seconds": {("worker",): 2, ("beat",): 2},
    "canary_seconds": {(): 2},
    "observers_failed": {(): 2},
    "clock_offset_seconds": {(): 3},
    "housekeeping_age_seconds": {(): 8},
    "collect_seconds": {(): 0.05},
    "inbox_events": {("filed",): 3, ("quarantined",): 4},
    "inbox_oldest_seconds": {(): 1_200},
    "events_total": {("again",): 6},
    "deliveries_waiting": {(): 7},
    "deliveries_oldest_seconds": {(): 3_600},
    "endpoints": {("good",): 1, ("failing",): 1, ("disabled",): 1},
    "deliveries_total": {("given_up",): 1},
    "feed_lag_seconds": {(): 90},
    "exports_late": {(): 1},
    "openings": {("unknown",): 1, ("overdue",): 2},
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_metric_says_what_there_is_to_see(name: str) -> None:
    """Each label with its value, and no other."""
    assert everything().values[f"syncworker_{name}"] == pytest.approx(EXPECTED[name])


def test_every_metric_has_a_value_here() -> None:
    """A metric that is added and never filled in is found."""
    sheet = everything()
    others = {f"syncworker_{name}" for name in ("cause", "cause_age_seconds", "cause_stale_connections",
              "cause_failing_connections", "causes", "admission_share", "breaker_open")}  # fmt: skip
    histograms = {one.name for one in BY_NAME.values() if "istogram" in one.type.value}

    assert {*sheet.values, *sheet.buckets} == set(BY_NAME)
    assert {f"syncworker_{name}" for name in EXPECTED} | others | histograms == set(BY_NAME)


def test_what_keeps_calls_back_shows_by_class() -> None:
    """A breaker that is open, and a gate that is closed for all classes."""
    sheet = everything()
    shares = sheet.values["syncworker_admission_share"]
    broken = sheet.values["syncworker_breaker_open"]

    assert {labels for labels, share in shares.items() if share == 0} == {
        ("noor", "data"),
        *(("hilal", one.value) for one in OperationClass),
    }
    assert {labels for labels, value in broken.items() if value} == {("noor", "data")}


def test_a_cause_shows_while_it_lasts_with_what_it_hits() -> None:
    """The bank that is down, by its slug; what is our side's has no LFI."""
    sheet = everything()
    down = ("lfi_down", "lfi", "noor")

    assert sheet.values["syncworker_cause"][down] == 1
    assert sheet.values["syncworker_cause_age_seconds"][down] == 120
    assert sheet.values["syncworker_cause_failing_connections"][down] == 1
    assert sheet.values["syncworker_cause"][("feed_held", "us", "")] == 1
    assert sheet.values["syncworker_cause"][("export_late", "us", "")] == 1
    assert sheet.values["syncworker_causes"][("product",)] == 2


def test_ages_and_durations_are_buckets() -> None:
    """Cumulated as Prometheus takes them, with their sum."""
    sheet = everything()
    balances = sheet.buckets["syncworker_data_age_seconds"][("noor", "balances")]
    accounts = sheet.buckets["syncworker_data_age_seconds"][("noor", "accounts")]
    calls = sheet.buckets["syncworker_call_duration_seconds"][("noor", "GetAccounts")]

    assert dict(balances.cumulated())["3600"] == 0
    assert dict(balances.cumulated())["10800"] == 2
    assert (balances.total, accounts.cumulated()[-2:]) == (4 * 3600, [("1209600", 0.0), ("+Inf", 2.0)])
    assert (dict(calls.cumulated())["0.25"], calls.cumulated()[-1], calls.total) == (4, ("+Inf", 5.0), 45.5)


def test_a_database_that_is_away_is_told_and_nothing_else_is_claimed() -> None:
    """No connections, no work, no counters that would begin anew."""
    status = seen(status={"overview": None, "database": DatabaseFact(state=DatabaseState.AWAY, said="refused")})
    sheet = measure(status, diagnose(status), counters={}, ages=None, version="1", took_s=0)

    assert sheet.values["syncworker_cause"] == {("database_away", "us", ""): 1}
    assert sheet.values["syncworker_database_state"][("away",)] == 1
    assert not {one.name for one in BY_NAME.values() if one.type is MetricType.COUNTER} & set(sheet.values)


# -- labels ------------------------------------------------------------------------------------------------------------

HOSTILE: Final = tuple(
    Slug(word) for word in ("customer-1", 'x"} 1\nsyncworker_cause{kind="y"', "a\\", "x" * 300, "مصرف", "")
)


def test_lfis_that_are_not_declared_are_one_label() -> None:
    """However many slugs the tables hold, and whatever they say, in gauges, counters and ages alike."""
    many = [*HOSTILE, *(Slug(f"made-up-{number}") for number in range(2_000))]
    status = seen(
        counts=tuple(counted(1, lfi=slug) for slug in many),
        work=tuple(work(lfi=slug, due=1, late=HOUR) for slug in many),
        troubled=tuple(connection(f"c{number}", lfi=slug, stale_for=HOUR) for number, slug in enumerate(many)),
        findings=tuple(finding(lfi=slug) for slug in many),
        breakers=breakers(*(breaker(lfi=slug) for slug in many)),
    )
    counters: dict[Key, int] = {("runs", slug, "ok"): 1 for slug in many}
    counters |= {("calls", "noor", word, word, word): 1 for word in HOSTILE}
    packed = ages.pack({ResourceName.BALANCES: NOW})
    sheet = measure(
        status,
        diagnose(status),
        counters=counters,
        ages=aged([(slug, packed) for slug in many], at=NOW),
        version="1",
        took_s=0,
    )
    text = exposition(sheet)[0].decode()

    assert sheet.values["syncworker_connections"] == {("other", "live"): len(many)}
    assert sheet.values["syncworker_syncs_total"] == {("other", "ok"): len(many)}
    assert sheet.values["syncworker_calls_total"] == {("noor", "other", "other", "other"): len(HOSTILE)}
    assert [word for word in (*many, "user-c1") if word and word in text.replace("other", "")] == []
    assert len([line for line in text.splitlines() if not line.startswith("#")]) < 250


def test_the_number_of_series_has_a_bound() -> None:
    """With a hundred LFIs and everything that may be counted of them, what counters alone could give."""
    per_lfi = 1
    for what, names in tally.LABELS.items():
        if "lfi" in names:
            words = {"operation": len(tally.OPERATIONS) + 1, "status": len(tally.STATUSES) + 1, "attended": 2,
                     "resource": len(tally.RESOURCES) + 1, "outcome": len(tally.WALK_OUTCOMES) + 1, "change": 3,
                     "le": len(tally.BOUNDS_MS) + 1, "kind": 12, "lfi": 1}  # fmt: skip
            size = 1
            for name in names:
                size *= words[name]
            assert size < 700, what
            per_lfi += size
    assert per_lfi < 1_500


# -- the list ----------------------------------------------------------------------------------------------------------


def test_the_page_is_the_list() -> None:
    """Make it again with `syncworker metrics list > docs/metrics.md`."""
    docs = Path(syncworker.__file__).parent.parent / "docs"

    assert (docs / "metrics.md").read_text(encoding="utf-8") == page()


def test_metrics_are_named_as_prometheus_asks() -> None:
    """Once each; counters end with `_total` and nothing else does; each says what it means."""
    every = [one for those in METRICS.values() for one in those]

    assert len({one.name for one in every}) == len(every)
    assert [one.name for one in every if one.name.endswith("_total") != (one.type is MetricType.COUNTER)] == []
    assert [one.name for one in every if not one.means.endswith((".", ")", "report"))] == []


# -- ages as they are kept ---------------------------------------------------------------------------------------------


def test_ages_come_back_as_they_were_packed() -> None:
    """To the second; resources that were walked together take a byte each."""
    oldest = dict.fromkeys(ResourceName, NOW)
    oldest[ResourceName.BALANCES] = NOW - HOUR
    packed = ages.pack(oldest)

    assert ages.unpack(packed) == {one.value: at for one, at in oldest.items()}
    assert set(ages.NUMBERED) == {one.value for one in ResourceName}
    assert len(packed) < 32
    assert tuple(sorted(AGE_BOUNDS_S)) == AGE_BOUNDS_S
