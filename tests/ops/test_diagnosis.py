"""What a status is judged to be: each cause by itself, their order and numbers, and which cause a symptom has."""

from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from syncworker.errors import SyncWorkerError
from syncworker.ops import upkeep
from syncworker.ops.advice import ADVICE, OTHERWISE, advice_of
from syncworker.ops.cause import CauseKind, Side
from syncworker.ops.certificates import CertificateFinding
from syncworker.ops.diagnosis import SymptomKind, as_json, diagnose
from syncworker.ops.status import (
    BrokerFact,
    BrokerState,
    DatabaseFact,
    DatabaseState,
    ExportFact,
    FeedFact,
    Status,
)
from syncworker.standard.values import ConsentId
from syncworker.store.changes import Blocker
from syncworker.store.clocks import DATABASE, ClockOffset
from syncworker.store.findings import Finding
from syncworker.store.lfis import Gate
from syncworker.store.overview import Backlog, Inbox, OddConsent, OpenedCause, Timing, Usual
from syncworker.store.standings import Troubled
from syncworker.store.work import WorkKind
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
    traffic,
    work,
)

pytestmark = pytest.mark.unit

K = CauseKind
UNTIL = "until 2026-03-01 03:01:00Z"
HELD_BACK = (
    "the feed of changes is held back for 2 min by a transaction of process 7 (psql) open since 2026-03-01 02:57:00Z"
)
AGAIN = "nothing yet: it is tried again by itself"


def causes(status: Status) -> list[tuple[int, str]]:
    return [(one.number, one.key) for one in diagnose(status).causes]


def a_finding(**changes: Any) -> Finding:
    facts: dict[str, Any] = {
        "lfi": NOOR, "operation": "GetAccountsAccountIdBalances", "code": "refused_403", "first_seen_at": NOW - HOUR,
        "last_seen_at": NOW, "times": 3, "connection_id": ConsentId("c"), "consent_id": ConsentId("c"),
        "interaction_id": None, "reason": None, "resolved_at": None,
    }  # fmt: skip
    return Finding(**facts | changes)


def a_clock(host: str = "w1", peer: str = "noor", seconds: float = -60) -> ClockOffset:
    return ClockOffset(
        host=host, peer=peer, offset=timedelta(seconds=seconds), within=timedelta(seconds=1), measured_at=NOW
    )


def a_certificate(left: timedelta | None = None, field: str = "lfis.noor.transport_certificate", **changes: Any) -> Any:
    end = None if left is None else NOW + left
    return CertificateFinding(**{"lfi": NOOR, "field": field, "expires_at": end, **changes})


def a_backlog(**changes: Any) -> Backlog:
    facts: dict[str, Any] = {
        "endpoint_id": "end_1", "url": "https://shop.example/hooks/secret", "failing_since": None, "disabled_at": None,
        "disabled_why": None, "waiting": 7, "oldest": NOW - HOUR,
    }  # fmt: skip
    return Backlog(**facts | changes)


def test_where_all_is_well_nothing_needs_anyone() -> None:
    """Also while a little is due, a message waits for its turn, and consents end soon."""
    status = seen(
        work=(work(due=3, late=timedelta(seconds=4)),),
        backlogs=[a_backlog()],
        counts=[counted(10, ends_7=2, ends_30=5), counted(3, "ended"), counted(2, "paused")],
        last_cause=OpenedCause("lfi_down", "lfi_down:noor", NOW - 2 * HOUR, NOW - HOUR, NOW - HOUR, 5, 3, 0),
    )
    found = diagnose(status)

    assert (found.causes, found.verdict) == ((), "nothing needs you")
    assert found.last_cause is not None
    assert found.last_cause.ended_at == NOW - HOUR
    assert (found.counts.connections, found.counts.stale, found.counts.left_out) == (10, 0, {"ended": 3, "paused": 2})
    assert (found.counts.ends_7, found.counts.ends_30) == (2, 5)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param(
            seen(workers=[process(quiet=HOUR), LIVING[1]]),
            (K.WORKERS_DEAD, "", "no worker lives", NOW - HOUR, Side.US, False),
            id="dead worker",
        ),
        pytest.param(
            seen(workers=[LIVING[0], process("host/2", "beat", quiet=MINUTE)]),
            (K.BEAT_DEAD, "", "no beat lives", NOW - MINUTE, Side.US, False),
            id="dead beat",
        ),
        pytest.param(
            seen(workers=[*LIVING, process("ops-2/4182", quiet=6 * MINUTE, canary_asked_at=NOW - 5 * MINUTE)]),
            (K.WORKER_HANGS, "ops-2/4182", "worker ops-2/4182 hangs", NOW - 6 * MINUTE, Side.US, False),
            id="one worker hangs",
        ),
        pytest.param(
            seen(
                workers=[*LIVING, process("host/9", quiet=timedelta(seconds=9))], status={"gone": frozenset({"host/9"})}
            ),
            (K.WORKER_HANGS, "host/9", "worker host/9 is gone", NOW - timedelta(seconds=9), Side.US, False),
            id="one worker is gone from this host",
        ),
        pytest.param(
            seen(status={"broker": BrokerFact(state=BrokerState.SILENT, said="no answer")}),
            (K.BROKER_SILENT, "", "the broker does not answer", NOW, Side.US, True),
            id="silent broker",
        ),
        pytest.param(
            seen(status={"broker": BrokerFact(state=BrokerState.FOREIGN, said="speaks otherwise")}),
            (K.BROKER_FOREIGN, "", "what answers at broker_url is not our broker", NOW, Side.US, False),
            id="foreign broker",
        ),
        pytest.param(
            Status(at=NOW, database=DatabaseFact(state=DatabaseState.AWAY, said="connection refused")),
            (K.DATABASE_AWAY, "", "the database does not answer", None, Side.US, True),
            id="database away",
        ),
        pytest.param(
            seen(status={"database": DatabaseFact(state=DatabaseState.FULL, said="53100")}),
            (K.DATABASE_FULL, "", "the database is full", NOW, Side.US, False),
            id="full database",
        ),
        pytest.param(
            seen(status={"database": DatabaseFact(state=DatabaseState.READ_ONLY, said="25006")}),
            (K.DATABASE_READ_ONLY, "", "the database takes no writes", NOW, Side.US, False),
            id="read-only database",
        ),
        pytest.param(
            seen(status={"keyring_fault": "keyring: no such file"}),
            (K.KEYRING, "", "the key ring cannot be used", NOW, Side.US, False),
            id="key ring",
        ),
        pytest.param(
            seen(breakers=breakers(breaker())),
            (K.LFI_DOWN, "noor", "noor does not answer data calls", NOW - 2 * MINUTE, Side.LFI, True),
            id="bank down",
        ),
        pytest.param(
            seen(breakers=breakers(breaker(), breaker(TOKEN, opened_at=NOW - HOUR))),
            (K.LFI_DOWN, "noor", "noor does not answer data and token calls", NOW - HOUR, Side.LFI, True),
            id="bank down for two classes is one cause",
        ),
        pytest.param(
            seen(troubled=[connection(error="lfi_unavailable")]),
            (K.LFI_DOWN, "noor", "noor does not answer data calls", NOW - MINUTE, Side.LFI, True),
            id="bank down before the breaker trips",
        ),
        pytest.param(
            seen(breakers=breakers(breaker(TOKEN, reason="client_rejected:invalid_client"))),
            (
                K.LFI_REJECTS,
                "noor",
                "noor token calls: not activated or keys wrong (client_rejected:invalid_client)",
                NOW - 2 * MINUTE,
                Side.US,
                False,
            ),
            id="bank does not accept us",
        ),
        pytest.param(
            seen(gates={NOOR: Gate(NOW - MINUTE, NOW + MINUTE)}),
            (K.LFI_GATED, "noor", "noor all calls: the LFI said 429", NOW - MINUTE, Side.LFI, True),
            id="gated",
        ),
        pytest.param(
            seen(
                timings=[Timing(NOOR, "GetAccountsAccountIdBalances", 5_000)] * 3,
                usual=[Usual(NOOR, "balances", 90, 50)],
            ),
            (K.LFI_SLOW, "noor", "noor is slow", NOW, Side.LFI, True),
            id="slow by its answers",
        ),
        pytest.param(
            seen(in_work=[(NOOR, NOW - 2 * MINUTE)], usual=[Usual(NOOR, "", 900, 50)]),
            (K.LFI_SLOW, "noor", "noor is slow", NOW, Side.LFI, True),
            id="slow by the syncs in work",
        ),
        pytest.param(
            seen(status={"certificates": [a_certificate(timedelta(days=6, hours=4))]}),
            (
                K.CERTIFICATE_ENDS,
                "lfis.noor.transport_certificate",
                "transport certificate for noor ends in 6 d 4 h",
                NOW,
                Side.US,
                False,
            ),
            id="certificate ends",
        ),
        pytest.param(
            seen(status={"certificates": [a_certificate(-HOUR)]}),
            (
                K.CERTIFICATE_ENDED,
                "lfis.noor.transport_certificate",
                "transport certificate for noor has ended",
                NOW - HOUR,
                Side.US,
                False,
            ),
            id="certificate ended",
        ),
        pytest.param(
            seen(status={"certificates": [a_certificate(fault="client.key: no such file")]}),
            (
                K.CERTIFICATE_UNFIT,
                "lfis.noor.transport_certificate",
                "lfis.noor.transport_certificate cannot be used",
                NOW,
                Side.US,
                False,
            ),
            id="certificate unfit",
        ),
        pytest.param(
            seen(clocks=[a_clock()]),
            (K.CLOCK_APART, "w1", "clock of w1 is 1 min from noor", NOW, Side.US, False),
            id="clock apart",
        ),
        pytest.param(
            seen(status={"clock_offset": timedelta(seconds=-90), "host": "h"}),
            (K.CLOCK_APART, "h", "clock of h is 1 min 30 s from database", NOW, Side.US, False),
            id="this host's clock apart",
        ),
        pytest.param(
            seen(status={"traffic": [traffic(retried=11, unanswered=11)]}),
            (K.BUDGET_SPENT, "noor", "noor: 11 of 100 calls were short retries", NOW, Side.LFI, True),
            id="budget of retries spent",
        ),
        pytest.param(
            seen(work=(work(due=7, late=12 * MINUTE, leased=50),)),
            (
                K.SLOTS_SPENT,
                "noor:sync",
                "noor sync: 7 due, the oldest for 12 min",
                NOW - 12 * MINUTE,
                Side.US,
                False,
            ),
            id="slots spent",
        ),
        pytest.param(
            seen(work=(work(due=7, late=12 * MINUTE),)),
            (K.CAPACITY, "noor:sync", "noor sync: 7 due, the oldest for 12 min", NOW - 12 * MINUTE, Side.US, False),
            id="too few workers",
        ),
        pytest.param(
            seen(work=(work(due=7, late=12 * MINUTE),), status={"declared": frozenset()}),
            (
                K.LFI_UNDECLARED,
                "noor",
                "noor is not declared any more, and has work",
                NOW - 12 * MINUTE,
                Side.US,
                False,
            ),
            id="an LFI that is not declared",
        ),
        pytest.param(
            seen(work=(work(parked=2, failing=3),)),
            (K.PARKED, "noor:sync", "noor sync: 2 parked after crashes", NOW, Side.US, False),
            id="parked; what is to be retried is no alarm",
        ),
        pytest.param(
            seen(work=(work(WorkKind.TOKEN, failing=3),)),
            (K.WORK_FAILING, "noor:token", "noor token: 3 of 100 ended badly", NOW, Side.US, False),
            id="work that is no sync",
        ),
        pytest.param(
            seen(findings=[a_finding()]),
            (
                K.FINDING,
                "noor:refused_403",
                "noor GetAccountsAccountIdBalances: needs a person: refused_403, 3 times since 2026-03-01 02:00:00Z",
                NOW - HOUR,
                Side.LFI,
                False,
            ),
            id="a finding",
        ),
        pytest.param(
            seen(findings=[a_finding(), a_finding(operation="Parties_read", first_seen_at=NOW - 2 * HOUR)]),
            (
                K.FINDING,
                "noor:refused_403",
                "noor 2 operations: needs a person: refused_403, 6 times since 2026-03-01 01:00:00Z",
                NOW - 2 * HOUR,
                Side.LFI,
                False,
            ),
            id="a finding at two operations is one cause",
        ),
        pytest.param(
            seen(
                status={
                    "feed": FeedFact(
                        lag=2 * MINUTE, held_by=[Blocker(pid=7, application="psql", since=NOW - 3 * MINUTE)]
                    )
                }
            ),
            (
                K.FEED_HELD,
                "",
                HELD_BACK,
                NOW - 2 * MINUTE,
                Side.US,
                False,
            ),
            id="feed held back",
        ),
        pytest.param(
            seen(backlogs=[a_backlog(failing_since=NOW - 2 * HOUR)]),
            (
                K.DELIVERIES_STUCK,
                "end_1",
                "deliveries to end_1 (shop.example) are stuck",
                NOW - 2 * HOUR,
                Side.PRODUCT,
                True,
            ),
            id="deliveries stuck",
        ),
        pytest.param(
            seen(backlogs=[a_backlog(disabled_at=NOW - HOUR, disabled_why="gone")]),
            (
                K.DELIVERIES_STUCK,
                "end_1",
                "deliveries to end_1 (shop.example) are stuck",
                NOW - HOUR,
                Side.PRODUCT,
                False,
            ),
            id="deliveries to an endpoint that was disabled",
        ),
        pytest.param(
            seen(status={"exports": (ExportFact(name="nightly", due_at=NOW - HOUR, error="target_refused"),)}),
            (K.EXPORT_LATE, "nightly", "export nightly failed (target_refused)", NOW - HOUR, Side.US, False),
            id="export late",
        ),
        pytest.param(
            seen(inbox=Inbox(4, NOW - HOUR, 0)),
            (K.INBOX_STUCK, "", "4 events of the Hub wait", NOW - HOUR, Side.US, True),
            id="events that wait",
        ),
        pytest.param(
            seen(openings=(1, 0)),
            (
                K.OPENINGS_UNKNOWN,
                "",
                "1 account opening is unknown: the LFI may have it or not",
                NOW,
                Side.LFI,
                False,
            ),
            id="openings unknown",
        ),
        pytest.param(
            seen(openings=(0, 2)),
            (K.OPENINGS_OVERDUE, "", "2 account openings are overdue", NOW, Side.LFI, False),
            id="openings overdue",
        ),
        pytest.param(
            seen(workers=[replace(LIVING[0], observers_failed=3), LIVING[1]]),
            (
                K.OBSERVERS,
                "",
                "observers of calls failed 3 times; the calls themselves stand",
                NOW,
                Side.US,
                False,
            ),
            id="observers",
        ),
    ],
)
def test_each_cause_is_named_as_itself_and_once(
    status: Status, expected: tuple[CauseKind, str, str, datetime | None, Side, bool]
) -> None:
    """Kind, what it is about, in words, since when, whose side, whether it mends by itself; and what to do."""
    (found,) = diagnose(status).causes
    kind, about, what, since, side, by_itself = expected

    assert (found.number, found.kind, found.key) == (1, kind, f"{kind.value}:{about}" if about else kind.value)
    assert (found.what, found.since, found.side, found.by_itself) == (what, since, side, by_itself)
    assert found.step
    assert found.command is None or found.command.startswith(("syncworker ", "timedatectl"))


@pytest.mark.parametrize(
    ("status", "why"),
    [
        pytest.param(seen(breakers=breakers(breaker(closed_at=NOW))), "on the way back", id="breaker closed"),
        pytest.param(
            seen(gates={NOOR: Gate(NOW - HOUR, NOW - 5 * MINUTE)}), "it opened five minutes ago", id="gate open"
        ),
        pytest.param(
            seen(troubled=[connection(error="lfi_unavailable")], counts=[counted(5, good_at=NOW)]),
            "another sync there ended well since",
            id="one failure among many",
        ),
        pytest.param(
            seen(timings=[Timing(NOOR, "Parties_read", 300)] * 9, usual=[Usual(NOOR, "parties", 9, 50)]),
            "a tenth of a second more is nothing",
            id="slow by little",
        ),
        pytest.param(
            seen(
                timings=[Timing(NOOR, "Parties_read", 5_000)] * 9
                + [Timing(NOOR, "GetAccountsAccountIdBalances", 9), Timing(NOOR, "GetAccounts", 9)] * 9,
                usual=[Usual(NOOR, "parties", 9, 50), Usual(NOOR, "balances", 9, 50), Usual(NOOR, "accounts", 9, 50)],
            ),
            "one resource of three",
            id="slow for one resource",
        ),
        pytest.param(
            seen(status={"certificates": [a_certificate(timedelta(days=31))]}), "far off", id="certificate good"
        ),
        pytest.param(
            seen(workers=[*LIVING, process("host/7", quiet=2 * MINUTE), process("host/8", started_at=NOW - MINUTE)]),
            "another of its host began since",
            id="worker replaced",
        ),
        pytest.param(seen(workers=[*LIVING, process("old/7", quiet=HOUR)]), "given up", id="worker given up"),
        pytest.param(
            seen(workers=[], work=(), status={"broker": BrokerFact(state=BrokerState.SILENT, embedded=True)}),
            "the embedded broker ends with `up`",
            id="nothing was begun yet",
        ),
        pytest.param(seen(clocks=[a_clock(seconds=-3)]), "within bounds", id="clocks together"),
        pytest.param(seen(backlogs=[a_backlog(disabled_at=NOW, disabled_why="operator")]), "on purpose", id="disabled"),
        pytest.param(
            seen(work=(work(due=7, late=HOUR),), status={"allowed_lfis": frozenset({"hilal"})}),
            "its work waits on purpose",
            id="outside the allow-list",
        ),
        pytest.param(
            seen(odd=[OddConsent(ConsentId("c"), NOOR, "Authorized", None, NOW - 5 * MINUTE, None)]),
            "the Hub is being told",
            id="a revocation on its way",
        ),
        pytest.param(
            seen(odd=[OddConsent(ConsentId("c"), NOOR, "Consumed", NOW - timedelta(days=8), None, None)]),
            "told for a week",
            id="consumed long ago",
        ),
        pytest.param(seen(status={"feed": FeedFact(lag=MINUTE)}), "a minute is usual", id="feed a minute behind"),
    ],
)
def test_what_is_no_cause(status: Status, why: str) -> None:
    """Nothing is told that needs nothing."""
    assert [one.key for one in diagnose(status).causes] == [], why


def test_consents_that_need_a_person_are_told_of_with_what_to_do() -> None:
    """A data consent that was consumed; a revocation that does not reach the Hub; drift."""
    odd = [
        OddConsent(ConsentId("used"), NOOR, "Consumed", NOW - timedelta(days=6), None, None),
        OddConsent(ConsentId("told"), NOOR, "Authorized", None, NOW - 90 * MINUTE, None),
        OddConsent(ConsentId("base"), NOOR, "Authorized", None, None, "base unknown_there"),
        OddConsent(ConsentId("gone"), NOOR, "Authorized", None, None, "unknown_there"),
    ]

    assert [(one.what, one.side) for one in diagnose(seen(odd=odd)).causes] == [
        ("1 revocation is not at the Hub for 1 h 30 min", Side.HUB),
        ("1 data consent is Consumed, as only payments may be (used)", Side.LFI),
        ("2 consents are not as the Hub has them (base, unknown_there)", Side.HUB),
    ]


@pytest.mark.parametrize(
    ("opened", "step"),
    [(2 * MINUTE, AGAIN), (HOUR, "ask the LFI, with the interaction ids of its runs")],
)
def test_a_bank_that_is_down_for_long_is_worth_a_call(opened: timedelta, step: str) -> None:
    """Most come back by themselves within half an hour."""
    (found,) = diagnose(seen(breakers=breakers(breaker(opened_at=NOW - opened)))).causes

    assert (found.step, found.command) == (step, "syncworker syncs failed --lfi noor")
    assert found.why == f"lfi_unavailable:timeout, kept back {UNTIL}"


# -- symptoms ----------------------------------------------------------------------------------------------------------


def a_night(connections: int) -> list[Troubled]:
    """Connections of a bank that went down two hours ago: stale since, and some whose sync failed."""
    return [
        connection(
            f"c-{number}", stale_for=HOUR, error="lfi_unavailable" if number % 14 == 0 else None, ended_at=NOW - HOUR
        )
        for number in range(connections)
    ]


def test_a_bank_that_is_down_is_one_line() -> None:
    """1,388 stale connections are one symptom with one cause; those that no cause explains are listed."""
    older = connection("lonely", stale_for=9 * HOUR, lfi=HILAL)
    before = connection("long before", stale_for=30 * HOUR)
    status = seen(
        troubled=[*a_night(1_388), older, before],
        counts=[counted(5_000), counted(4_000, lfi=HILAL)],
        breakers=breakers(breaker(opened_at=NOW - 2 * HOUR)),
    )
    found = diagnose(status)
    stale = [(one.about, one.count, one.cause) for one in found.symptoms if one.kind is SymptomKind.STALE]

    assert [(one.number, one.key, one.effect.stale, one.effect.failing) for one in found.causes] == [
        (1, "lfi_down:noor", 1_388, 100)
    ]
    assert stale == [("noor", 1_388, 1), ("hilal", 1, None), ("noor", 1, None)]
    assert [one.row.connection_id for one in found.unexplained(SymptomKind.STALE)] == ["long before", "lonely"]
    assert (found.counts.stale, found.counts.connections, found.counts.failing) == (1_390, 9_000, 100)


def test_connections_that_cannot_be_fresh_are_left_out_and_counted() -> None:
    """Ended, paused, suspended, outside the allow-list: none of them is stale, however old."""
    status = seen(
        troubled=[connection("other bank", stale_for=HOUR, lfi=HILAL)],
        counts=[
            counted(7), counted(4, "ended"), counted(3, "paused"), counted(2, "suspended"), counted(9, lfi=HILAL),
        ],
        status={"allowed_lfis": frozenset({"noor"})},
    )  # fmt: skip
    counts = diagnose(status).counts

    assert (counts.connections, counts.stale) == (7, 0)
    assert counts.left_out == {"ended": 4, "not_allowed": 9, "paused": 3, "suspended": 2}


def test_customers_who_must_consent_again_are_the_product_s_work() -> None:
    """They count as failing; no cause asks the operator for them, and they are not stale."""
    status = seen(
        troubled=[lost("a"), lost("b"), connection("c", error="refused_403")],
        counts=[counted(5), counted(2, "needs_consent")],
    )
    found = diagnose(status)

    assert found.causes == ()
    assert (found.counts.failing, found.counts.needs_customer, found.counts.stale) == (3, 2, 0)
    assert [(one.kind, one.count, one.side, one.cause) for one in found.symptoms] == [
        (SymptomKind.FAILING, 1, None, None),
        (SymptomKind.NEEDS_CUSTOMER, 2, Side.PRODUCT, None),
    ]


@pytest.mark.parametrize(
    ("bank_down_for", "worker_dead_for", "expected"),
    [
        pytest.param(3 * HOUR, 2 * HOUR, {"lfi_down:noor": 1, "workers_dead": 1}, id="the bank first"),
        pytest.param(2 * HOUR, 3 * HOUR, {"lfi_down:noor": 0, "workers_dead": 2}, id="the worker first"),
    ],
)
def test_of_two_causes_the_one_counts_that_began_first(
    bank_down_for: timedelta, worker_dead_for: timedelta, expected: dict[str, int]
) -> None:
    """A bank down and no worker: both are told, the root of all first, and each connection belongs to one."""
    status = seen(
        troubled=[connection("a", stale_for=HOUR), connection("b", stale_for=HOUR, lfi=HILAL)],
        workers=[process(quiet=worker_dead_for), LIVING[1]],
        breakers=breakers(breaker(opened_at=NOW - bank_down_for)),
        work=(work(due=5, late=HOUR), work(lfi=HILAL, due=4, late=HOUR)),
    )
    found = diagnose(status)

    assert causes(status) == [(1, "workers_dead"), (2, "lfi_down:noor")]
    assert {one.key: one.effect.stale for one in found.causes} == expected
    assert {one.about: one.cause for one in found.symptoms if one.kind is SymptomKind.LATE} == {
        "noor sync": 2 if bank_down_for > worker_dead_for else 1,
        "hilal sync": 1,
    }


def test_late_work_behind_a_closed_gate_is_no_cause_of_its_own() -> None:
    """The gate is."""
    status = seen(work=(work(due=7, late=12 * MINUTE),), gates={NOOR: Gate(NOW - 20 * MINUTE, NOW + MINUTE)})

    assert causes(status) == [(1, "lfi_gated:noor")]
    assert diagnose(status).causes[0].effect.waiting == 7


def test_failing_syncs_belong_to_the_finding_that_names_their_code() -> None:
    """Of their own LFI."""
    status = seen(
        troubled=[connection("a", error="truncated"), connection("b", error="truncated", lfi=HILAL)],
        findings=[a_finding(code="truncated")],
    )

    assert [(one.about, one.cause) for one in diagnose(status).symptoms] == [("hilal", None), ("noor", 1)]


def test_a_grave_cause_comes_before_one_that_only_will_hit() -> None:
    """What stops all, then by what is hit, then what is to come."""
    status = seen(
        troubled=[connection(f"c{number}", stale_for=MINUTE, lfi=HILAL) for number in range(5)]
        + [connection("n", stale_for=MINUTE)],
        counts=[counted(40), counted(60, lfi=HILAL)],
        breakers=breakers(breaker(), breaker(lfi=HILAL)),
        workers=[LIVING[0]],
        status={"certificates": [a_certificate(timedelta(days=2))]},
    )
    found = diagnose(status)

    assert causes(status) == [
        (1, "beat_dead"),
        (2, "lfi_down:hilal"),
        (3, "lfi_down:noor"),
        (4, "certificate_ends:lfis.noor.transport_certificate"),
    ]
    assert [one.effect.connections for one in found.causes] == [100, 60, 40, 40]


def test_numbers_do_not_depend_on_the_order_of_what_is_seen() -> None:
    """The same status gives the same numbers, whatever came first out of the tables."""
    those = [breaker(), breaker(lfi=HILAL), breaker(TOKEN, reason="client_rejected:x")]
    rows = [connection("a", stale_for=MINUTE), connection("b", stale_for=MINUTE, lfi=HILAL)]

    found = {
        tuple(causes(seen(breakers=breakers(*order), troubled=troubled)))
        for order in permutations(those)
        for troubled in permutations(rows)
    }
    assert len(found) == 1


def test_a_cause_that_was_seen_before_is_as_old_as_the_first_look_at_it() -> None:
    """A gate that closes anew every minute began an hour ago; what has no beginning of its own began with that look."""
    known = [
        OpenedCause("lfi_gated", "lfi_gated:noor", NOW - HOUR, NOW, None, 0, 0, 0),
        OpenedCause("parked", "parked:noor:sync", NOW - 5 * HOUR, NOW, None, 0, 0, 0),
    ]
    status = seen(open_causes=known, gates={NOOR: Gate(NOW - MINUTE, NOW + MINUTE)}, work=(work(parked=1),))

    assert {one.key: one.since for one in diagnose(status).causes} == {
        "lfi_gated:noor": NOW - HOUR,
        "parked:noor:sync": NOW - 5 * HOUR,
    }


def test_a_clock_that_is_apart_from_several_peers_is_one_cause() -> None:
    """Told by the database, where that is one of them."""
    clocks = [a_clock("h", "hilal"), a_clock("h", DATABASE, 70), a_clock("h", "noor")]

    (found,) = diagnose(seen(clocks=clocks)).causes
    assert found.what == "clock of h is 1 min 10 s from database"


def test_one_certificate_of_many_lfis_is_one_cause() -> None:
    """It stops all of them when it ends."""
    shared = [a_certificate(-HOUR, "client.transport_certificate", lfi=lfi) for lfi in (NOOR, HILAL)]

    (found,) = diagnose(seen(status={"certificates": shared})).causes
    assert (found.what, found.stops_all) == ("transport certificate for 2 LFIs has ended", True)


def test_parts_of_the_machinery_carry_the_number_of_their_cause() -> None:
    """A worker that hangs, and those that go on."""
    hung = process("ops-2/4182", quiet=6 * MINUTE)
    parts = {one.name: (one.good, one.cause) for one in diagnose(seen(workers=[*LIVING, hung])).parts}

    assert parts == {
        "host/1": (True, None),
        "host/2": (True, None),
        "ops-2/4182": (False, 1),
        "broker": (None, None),
        "database": (True, None),
        "clocks": (True, None),
        "event inbox": (True, None),
    }


def test_the_views_get_plain_members_and_no_url_of_an_endpoint() -> None:
    """An endpoint's URL may hold a secret: its host is enough."""
    told = as_json(diagnose(seen(backlogs=[a_backlog(failing_since=NOW - HOUR)], troubled=a_night(3))))

    assert told.keys() == {
        *("verdict", "causes", "symptoms", "counts", "stale", "failing", "alive", "last_cause"),
    }
    assert told["causes"][0].keys() == {
        *("number", "kind", "key", "what", "why", "since", "effect", "side", "next", "command", "by_itself", "grave"),
        "lfi",
    }
    assert "secret" not in str(told)


# -- advice ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("refused_403:Consent.Suspended", "refused", id="with what a run adds"),
        pytest.param("lfi_breaker_open", "lfi_breaker_open", id="the longest name wins"),
        pytest.param("grant_lost:reused", "grant_lost", id="a cause"),
    ],
)
def test_the_advice_for_a_code(code: str, expected: str) -> None:
    """By the code's first part."""
    assert advice_of(code) == ADVICE[expected]


def test_every_error_a_run_may_end_with_has_an_advice() -> None:
    """A new error says what to do about it."""
    without = {"error", "transient", "consent", "bad_request", "authorization_failed"}  # never a run's own end
    without |= {"cursor_too_old", "cursor_unknown", "cursor_filter"}  # of readers of the feed
    codes: set[str] = set()
    kinds = [SyncWorkerError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if kind.__module__.startswith(("syncworker.errors", "syncworker.store", "syncworker.sync")):
            codes.add(kind.code)

    assert {code for code in codes - without if advice_of(code) == OTHERWISE} == set()


@pytest.mark.parametrize(
    ("held_by", "said"),
    [
        ([Blocker(pid=7, application=None, since=None)], "process 7 (an unnamed program)"),
        ([Blocker(pid=None, application="prepared transaction", since=NOW)], "pg_prepared_xacts"),
        ([], "pg_stat_activity"),
    ],
)
def test_what_holds_the_feed_back_is_told_by_the_oldest_transaction(held_by: list[Blocker], said: str) -> None:
    """The others wait in its shadow."""
    (found,) = diagnose(seen(status={"feed": FeedFact(lag=61 * MINUTE / 60, held_by=held_by)})).causes
    assert said in f"{found.what} {found.step}"


@pytest.mark.parametrize(
    ("lag", "idle", "told"),
    [
        (MINUTE / 10, MINUTE / 10, True),
        (MINUTE / 10, MINUTE / 60, False),
        (MINUTE / 10, None, False),
        (MINUTE / 60, HOUR, False),
        (2 * MINUTE, MINUTE / 60, True),
    ],
)
def test_a_transaction_that_was_left_open_is_told_within_seconds(
    lag: timedelta, idle: timedelta | None, told: bool
) -> None:
    """One that is at work may take a minute; and nothing is told before changes wait."""
    since = None if idle is None else NOW - idle
    held_by = [Blocker(pid=7, application="psql", since=NOW - HOUR, idle_since=since)]
    causes = diagnose(seen(status={"feed": FeedFact(lag=lag, held_by=held_by)})).causes
    assert [one.kind for one in causes] == [K.FEED_HELD] * told
    assert all(idle is None or one.what.endswith("which does nothing") for one in causes)


@pytest.mark.parametrize(
    ("unknown", "overdue", "said"),
    [
        (1, 0, "1 account opening is unknown: the LFI may have it or not"),
        (2, 0, "2 account openings are unknown: the LFI may have them or not"),
        (0, 1, "1 account opening is overdue"),
        (0, 1_200, "1,200 account openings are overdue"),
    ],
)
def test_one_is_told_in_the_singular(unknown: int, overdue: int, said: str) -> None:
    """A line is a sentence."""
    (found,) = upkeep.openings(unknown, overdue)
    assert found.what == said


SILENT_BROKER = BrokerFact(state=BrokerState.SILENT, said="no broker answers")
READ_ONLY = DatabaseFact(state=DatabaseState.READ_ONLY, said="it takes no writes")


@pytest.mark.parametrize(
    ("broken", "root"), [({"broker": SILENT_BROKER}, K.BROKER_SILENT), ({"database": READ_ONLY}, K.DATABASE_READ_ONLY)]
)
def test_processes_that_get_on_no_more_without_broker_or_database_are_no_cause(
    broken: dict[str, Any], root: CauseKind
) -> None:
    """What they stand on is the one cause; each silent process carries its number."""
    quiet = [process(quiet=MINUTE), process("host/2", "beat", quiet=MINUTE)]
    found = diagnose(seen(workers=quiet, status=broken))
    assert [one.kind for one in found.causes] == [root]
    assert {(one.kind, one.good, one.cause) for one in found.parts if one.kind in ("worker", "beat")} == {
        ("worker", False, 1), ("beat", False, 1),
    }  # fmt: skip


def test_a_worker_that_does_not_run_any_more_is_a_cause_beside_a_silent_broker() -> None:
    """It does not come back with the broker; the broker is first, for it is the root."""
    quiet = [process(quiet=MINUTE), process("host/2", "beat", quiet=MINUTE)]
    status = {"broker": SILENT_BROKER, "gone": frozenset({"host/1"})}
    found = diagnose(seen(workers=quiet, status=status))
    assert [one.kind for one in found.causes] == [K.BROKER_SILENT, K.WORKERS_DEAD]


@pytest.mark.parametrize(
    ("error", "kinds"), [(None, [K.WORKERS_DEAD]), ("export_target", [K.WORKERS_DEAD, K.EXPORT_LATE])]
)
def test_an_export_that_is_late_for_want_of_workers_is_no_cause(error: str | None, kinds: list[CauseKind]) -> None:
    """It waits for them; one whose last try failed is mended on its own."""
    export = ExportFact(name="nightly", due_at=NOW - HOUR, error=error)
    found = diagnose(seen(workers=[process(quiet=HOUR), LIVING[1]], status={"exports": (export,)}))
    assert [one.kind for one in found.causes] == kinds
    assert [one.cause for one in found.symptoms if one.kind is SymptomKind.EXPORT] == [len(kinds)]
