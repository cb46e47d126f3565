"""What `status` says is wrong, and what to do: from values."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncworker.cli.diagnosis import (
    ADVICE,
    OTHERWISE,
    ConsentCounts,
    Hold,
    advice_of,
    consent_troubles,
    counted,
    feed_troubles,
    holds,
    troubles,
)
from syncworker.errors import SyncWorkerError
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.breakers import Breaker
from syncworker.store.changes import Blocker
from syncworker.store.clocks import ClockOffset
from syncworker.store.consents import StoredConsent
from syncworker.store.lfis import Gate
from syncworker.store.runs import TrafficRow
from syncworker.store.work import WorkKind, WorkSummary

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 3, tzinfo=UTC)
NOOR = Slug("noor")
DATA, TOKEN = OperationClass.DATA, OperationClass.TOKEN
MINUTE = timedelta(minutes=1)


def a_breaker(operations: OperationClass = DATA, **changes: Any) -> Breaker:
    facts: dict[str, Any] = {
        "lfi": NOOR,
        "operations": operations,
        "opened_at": NOW - 2 * MINUTE,
        "until": NOW + MINUTE,
        "trips": 3,
        "reason": "lfi_unavailable:timeout",
        "closed_at": None,
    }
    return Breaker(**facts | changes)


def work(kind: WorkKind = WorkKind.SYNC, **changes: Any) -> WorkSummary:
    facts: dict[str, Any] = {"lfi": NOOR, "kind": kind, "rows": 100, "due": 0, "late": timedelta(), "leased": 0}
    return WorkSummary(**facts | {"parked": 0} | changes)


def said(**changes: Any) -> list[tuple[str, str]]:
    facts: dict[str, Any] = {
        "now": NOW,
        "workers": 2,
        "beats": 1,
        "work": [work()],
        "held": [],
        "traffic": [],
        "lost": 0,
        "clocks": [],
        "slots": 50,
        "declared": {NOOR},
    }
    return [(one.what, one.do) for one in troubles(**facts | changes)]


def held(*breakers: Breaker, gate: Gate | None = None) -> list[Hold]:
    gates = {} if gate is None else {NOOR: gate}
    return holds(gates, {(NOOR, one.operations): one for one in breakers}, now=NOW)


LATE = work(due=7, late=timedelta(minutes=12))
GONE = "the LFI does not answer (lfi_unavailable:timeout), kept back"
REJECTED = "not activated or keys wrong (client_rejected:invalid_client), kept back"
UNTIL = "until 2026-03-01 03:01:00Z"


def test_failing_observers_of_calls_are_told() -> None:
    """The calls stand; it is a bug all the same."""
    assert said(observers=3) == [
        (
            "observers of calls failed 3 times; the calls themselves stand",
            "a bug: the log names observer and error once; report it",
        )
    ]


def test_nothing_wrong_says_nothing() -> None:
    """Also while a little is due."""
    assert said(work=[work(due=3, late=timedelta(seconds=4))]) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(
            {"workers": 0, "beats": 0},
            [
                ("no worker lives", "run `syncworker up` or `syncworker worker`"),
                ("no beat lives", "run `syncworker up` or `syncworker beat`"),
            ],
            id="nobody works",
        ),
        pytest.param(
            {"held": held(a_breaker()), "work": [LATE]},
            [
                (
                    f"noor data calls: the LFI does not answer (lfi_unavailable:timeout), kept back {UNTIL}",
                    "nothing yet: it is tried again by itself",
                ),
                (
                    f"noor sync: 7 due, the oldest for 12 min: {GONE} {UNTIL}",
                    "see above",
                ),
            ],
            id="an outage",
        ),
        pytest.param(
            {"held": held(a_breaker(opened_at=NOW - timedelta(hours=1), until=NOW))},
            [("noor data calls: one trial at a time after lfi_unavailable:timeout", "ask the LFI")],
            id="an outage that lasts",
        ),
        pytest.param(
            {"held": held(a_breaker(TOKEN, reason="client_rejected:invalid_client"))},
            [
                (
                    f"noor token calls: {REJECTED} {UNTIL}",
                    ADVICE["client_rejected"],
                )
            ],
            id="not activated",
        ),
        pytest.param(
            {"held": held(gate=Gate(NOW - MINUTE, NOW + MINUTE))},
            [
                (
                    f"noor all calls: the LFI said 429, gate closed {UNTIL}",
                    "nothing; if it repeats, lower calls_per_second for this LFI",
                )
            ],
            id="429, told once for all classes",
        ),
        pytest.param({"held": held(a_breaker(closed_at=NOW))}, [], id="on the way back"),
        pytest.param(
            {"work": [work(due=7, late=timedelta(minutes=12), leased=50)]},
            [
                (
                    "noor sync: 7 due, the oldest for 12 min: all 50 slots are in work",
                    "the LFI is slow or calls_per_second low; raise consents_at_once if it allows more",
                )
            ],
            id="no slots",
        ),
        pytest.param(
            {"work": [LATE]},
            [
                (
                    "noor sync: 7 due, the oldest for 12 min: more is due than the workers get done",
                    "add workers, or raise the LFI's calls_per_second",
                )
            ],
            id="too few workers",
        ),
        pytest.param(
            {"work": [LATE], "declared": set()},
            [
                (
                    "noor sync: 7 due, the oldest for 12 min: the LFI is not declared any more",
                    "declare it again, or end its consents",
                )
            ],
            id="an LFI nobody declares",
        ),
        pytest.param(
            {"work": [work(parked=2, failing=3)]},
            [
                ("noor sync: 2 parked after crashes", "`syncs failed` names them; `consents sync` puts one back"),
            ],
            id="parked; what is to be retried is no alarm",
        ),
        pytest.param(
            {
                "traffic": [
                    TrafficRow(lfi=NOOR, calls=100, retried=11, unanswered=11, rate_limited=0, price_millifils=0)
                ]
            },
            [
                (
                    "noor: 11 of 100 calls were short retries",
                    "the budget is spent: failures are final until the row's next try",
                )
            ],
            id="the retry budget",
        ),
        pytest.param(
            {
                "clocks": [
                    ClockOffset(
                        host="w1",
                        peer="noor",
                        offset=timedelta(seconds=-60),
                        within=timedelta(seconds=1),
                        measured_at=NOW,
                    )
                ]
            },
            [("clock of w1 is 1 min from noor", "set the clock (NTP): assertions and leases depend on it")],
            id="a clock",
        ),
        pytest.param(
            {"lost": 2}, [("2 consents need the user again", "`syncworker consents list` says why")], id="grants"
        ),
    ],
)
def test_what_is_wrong_and_what_to_do(facts: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """One line each: what, since when, why → what to do."""
    assert said(**facts) == expected


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
    """Whoever adds an error says what to do about it."""
    without = {"error", "transient", "consent", "bad_request", "authorization_failed"}  # never a run's own end
    without |= {"cursor_too_old", "cursor_unknown", "cursor_filter"}  # of readers of the feed
    codes: set[str] = set()
    kinds = [SyncWorkerError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if kind.__module__.startswith(("syncworker.errors", "syncworker.store", "syncworker.sync")):
            codes.add(kind.code)

    assert {code for code in codes - without if advice_of(code) == OTHERWISE} == set()


def consent(name: str = "c-1", **changes: Any) -> StoredConsent:
    facts: dict[str, Any] = {
        "consent_id": ConsentId(name), "connection_id": ConsentId(name), "lfi": NOOR, "user_ref": "u",
        "version": Version.V2_1, "status": "Authorized", "status_updated_at": NOW, "status_seen_at": NOW,
        "permissions": (), "expires_at": NOW, "user_type": "Retail", "purpose": "AccountAggregation",
        "created_at": NOW,
    }  # fmt: skip
    return StoredConsent(**facts | changes)


def test_consents_in_order_say_nothing() -> None:
    """A pause, a suspension, a revocation the Hub is being told of: nobody has to look."""
    consents = [
        consent(paused_at=NOW),
        consent(status="Suspended"),
        consent(revoke_asked_at=NOW - 5 * MINUTE),
        consent(status="Revoked", revoke_asked_at=NOW - 90 * MINUTE),
    ]

    assert consent_troubles(consents, now=NOW) == []


def test_consents_that_need_a_person_are_told_of_with_what_to_do() -> None:
    """A data consent that was consumed, for a week; a revocation that does not reach the Hub; drift."""
    consents = [
        consent("used", status="Consumed", ended_at=NOW - timedelta(days=6)),
        consent("long ago", status="Consumed", ended_at=NOW - timedelta(days=8)),
        consent(revoke_asked_at=NOW - 90 * MINUTE),
        consent(drift="base unknown_there"),
        consent(drift="unknown_there"),
    ]

    assert [one.what for one in consent_troubles(consents, now=NOW)] == [
        "1 data consents are Consumed, as only payments may be (used)",
        "1 revocations are not at the Hub, the oldest for 1 h 30 min",
        "2 consents are not as the Hub has them (base, unknown_there)",
    ]


def test_consents_are_counted_by_what_an_operator_asks() -> None:
    """By state; what is ours alone counts for living ones."""
    consents = [
        consent(),
        consent(paused_at=NOW),
        consent(status="Suspended", webhook_wanted=True),
        consent(needs_consent="grant_lost", revoke_asked_at=NOW),
        consent(status="Revoked", paused_at=NOW, revoke_asked_at=NOW, drift="base"),
    ]

    assert counted(consents) == ConsentCounts(
        states={"Authorized": 2, "Suspended": 1, "grant_lost": 1, "Revoked": 1},
        paused=1,
        revocations=1,
        subscriptions=1,
        drifted=1,
    )


@pytest.mark.parametrize(
    ("seconds", "held_by", "said"),
    [
        (60, [Blocker(pid=1, application="psql", since=NOW)], None),
        (
            61,
            [Blocker(pid=7, application="psql", since=NOW), Blocker(pid=8, application=None, since=None)],
            "process 7 (psql)",
        ),
        (61, [Blocker(pid=7, application=None, since=None)], "process 7 (an unnamed program)"),
        (61, [Blocker(pid=None, application="prepared transaction", since=NOW)], "pg_prepared_xacts"),
        (61, [], "pg_stat_activity"),
    ],
)
def test_what_holds_the_feed_back_is_told_once(seconds: int, held_by: list[Blocker], said: str | None) -> None:
    """The oldest transaction alone: the others wait in its shadow; nothing below a minute."""
    found = feed_troubles(timedelta(seconds=seconds), held_by)
    assert (len(found), said is None or said in str(found[0])) == (0 if said is None else 1, True)
