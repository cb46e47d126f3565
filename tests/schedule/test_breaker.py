"""How much of an LFI may be used: after a 429, after failures, on the way back."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncworker.lfi.transport import Call
from syncworker.schedule.breaker import (
    BREAKER_RAMP,
    IN_A_ROW,
    LAST_ATTEMPTS,
    RETRIES_MIN,
    STEADY,
    WINDOW_S,
    RetryBudget,
    Standing,
    Verdict,
    Window,
    healed,
    reason_of,
    standing,
    tripped,
    verdict,
)
from syncworker.standard.operations import OperationClass, class_of
from syncworker.store.breakers import Breaker
from syncworker.store.lfis import Gate

pytestmark = pytest.mark.unit

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATA, TOKEN = OperationClass.DATA, OperationClass.TOKEN
DOWN = "lfi_unavailable:timeout"
REJECTED = "client_rejected:invalid_client"


def seconds(length: float) -> timedelta:
    return timedelta(seconds=length)


def a_call(operation: str = "GetAccounts", **changes: Any) -> Call:
    facts: dict[str, Any] = {
        "operation": operation,
        "method": "POST" if operation.startswith("Create") else "GET",
        "status": 200,
        "interaction_id": "i-1",
        "started_at": NOW,
        "duration_ms": 5,
        "bytes_in": 10,
        "attended": False,
        "error_code": "",
        "price_class": "data",
    }
    return Call(**facts | changes)


def a_breaker(**changes: Any) -> Breaker:
    facts: dict[str, Any] = {
        "lfi": "noor",
        "operations": DATA,
        "opened_at": NOW,
        "until": NOW + seconds(15),
        "trips": 1,
        "reason": DOWN,
        "closed_at": None,
    }
    return Breaker(**facts | changes)


def trip(held: Breaker | None, *, now: datetime, reason: str = DOWN) -> Breaker | None:
    return tripped(held, slug="noor", operations=DATA, reason=reason, now=now)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("GetAccounts", DATA),
        ("CreateAccessTokenRequest", TOKEN),
        ("CreatePushedAuthorizationRequest", TOKEN),
        ("GetOpenIdConfiguration", TOKEN),
        ("GetAccountAccessConsentsConsentId", OperationClass.CONSENT),
        ("PatchAccountAccessConsentsConsentId", OperationClass.CONSENT),
        ("GetSomethingNew", DATA),
    ],
)
def test_the_class_of_an_operation(operation: str, expected: OperationClass) -> None:
    """By its operationId; one nobody knows is data."""
    assert class_of(operation) is expected


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(a_call(), Verdict.ANSWERED, id="an answer"),
        pytest.param(a_call(status=403, error_code="Consent.Suspended"), Verdict.ANSWERED, id="a consent's 4xx"),
        pytest.param(
            a_call(status=401, error_code="http_401"), Verdict.ANSWERED, id="a data 401 is the token's matter"
        ),
        pytest.param(a_call(status=503, error_code="http_503"), Verdict.UNAVAILABLE, id="5xx"),
        pytest.param(a_call(status=None, error_code="timeout"), Verdict.UNAVAILABLE, id="timeout"),
        pytest.param(a_call(status=200, error_code="lost"), Verdict.UNAVAILABLE, id="cut in the middle of the body"),
        pytest.param(a_call(status=None, error_code="untrusted"), Verdict.UNAVAILABLE, id="not the LFI's server"),
        pytest.param(a_call(status=429, error_code="http_429"), Verdict.RATE_LIMITED, id="429"),
        pytest.param(a_call(status=200, error_code="unfit"), Verdict.UNTOLD, id="nonsense with 200"),
        pytest.param(a_call(status=None, error_code="cancelled"), Verdict.UNTOLD, id="we left"),
        pytest.param(
            a_call("CreateAccessTokenRequest", status=400, error_code="invalid_client"), Verdict.REJECTED, id="rejected"
        ),
        pytest.param(
            a_call("CreateAccessTokenRequest", status=400, error_code="unauthorized_client"),
            Verdict.REJECTED,
            id="not activated",
        ),
        pytest.param(
            a_call("CreateAccessTokenRequest", status=401, error_code="http_401"), Verdict.REJECTED, id="bare 401"
        ),
        pytest.param(
            a_call("CreateAccessTokenRequest", status=400, error_code="invalid_grant"), Verdict.ANSWERED, id="a grant"
        ),
    ],
)
def test_what_one_attempt_says_about_the_lfi(call: Call, expected: Verdict) -> None:
    """Unavailable, waiting, rejecting us; or an answer, whatever it said to this consent."""
    assert verdict(call) is expected


def test_the_reason_names_the_error_and_what_was_seen() -> None:
    """Stable code first, as `errors` has it."""
    gone = a_call(status=None, error_code="timeout")
    rejected = a_call("CreateAccessTokenRequest", status=400, error_code="invalid_client")

    assert (reason_of(gone), reason_of(rejected)) == (DOWN, REJECTED)


def fed(*attempts: bool, every: float = 0.1) -> list[bool]:
    """What a window says to each attempt; `True` is a failure."""
    window = Window()
    return [window.add(at=number * every, failed=failed) for number, failed in enumerate(attempts)]


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        pytest.param([True] * (IN_A_ROW - 1), False, id="a load balancer's restart"),
        pytest.param([True] * IN_A_ROW, True, id="in a row"),
        pytest.param([True] * (IN_A_ROW - 1) + [False, True], False, id="an answer ends the row"),
        pytest.param([True, False] * (LAST_ATTEMPTS // 2 - 2) + [False] * 3 + [True], False, id="less than half"),
        pytest.param([False, True] * (LAST_ATTEMPTS // 2), True, id="half of the last ones"),
        pytest.param([False] * 1000 + [True] * IN_A_ROW, True, id="after a long good time"),
    ],
)
def test_when_a_window_is_full_of_failures(attempts: list[bool], expected: bool) -> None:
    """Ten in a row, or half of forty."""
    assert fed(*attempts)[-1] is expected


def test_accidents_over_hours_are_no_outage() -> None:
    """Failures older than the window count no more."""
    assert not any(fed(*[True] * 50, every=WINDOW_S / 5))


def test_waits_grow_with_each_trial_that_fails() -> None:
    """15 s, 30 s, 1, 2, 5, 5 minutes; the first trip stays the beginning."""
    held, now, waits = trip(None, now=NOW), NOW, []
    for _ in range(6):
        assert held is not None
        waits.append((held.until - now).total_seconds())
        now = held.until
        held = trip(held, now=now)

    assert waits == [15, 30, 60, 120, 300, 300]
    assert (held.opened_at, held.trips) == (NOW, 7) if held else False


def test_who_does_not_know_us_is_asked_slowly() -> None:
    """1, 5, 15, 30 minutes: a person has to act."""
    held, now, waits = trip(None, now=NOW, reason=REJECTED), NOW, []
    for _ in range(5):
        assert held is not None
        waits.append((held.until - now) / timedelta(minutes=1))
        now = held.until
        held = trip(held, now=now, reason=REJECTED)

    assert waits == [1, 5, 15, 30, 30]


def test_what_fails_while_calls_are_kept_back_was_on_its_way() -> None:
    """Neither does it prolong the wait, nor does a late success end it."""
    held = a_breaker()

    assert (trip(held, now=NOW + seconds(14)), healed(held, now=NOW + seconds(14))) == (None, None)


def test_a_good_trial_closes_it_and_a_second_success_changes_nothing() -> None:
    """Closed at that instant."""
    closed = healed(a_breaker(), now=NOW + seconds(15))

    assert closed == a_breaker(closed_at=NOW + seconds(15))
    assert healed(closed, now=NOW + seconds(16)) is None


@pytest.mark.parametrize(
    ("after", "trips"),
    [
        pytest.param(STEADY - seconds(1), 4, id="soon again: not recovered"),
        pytest.param(STEADY, 1, id="after a steady time: a new trouble"),
    ],
)
def test_a_breaker_that_flutters_waits_longer(after: timedelta, trips: int) -> None:
    """Its closing forgives only after five steady minutes."""
    again = trip(a_breaker(trips=3, closed_at=NOW), now=NOW + after)

    assert again is not None
    assert (again.trips, again.opened_at) == (trips, NOW + after)


GATE = Gate(NOW - seconds(60), NOW)


@pytest.mark.parametrize(
    ("gate", "breaker", "after", "expected"),
    [
        pytest.param(None, None, 0, Standing(), id="nothing happened"),
        pytest.param(GATE, None, -1, Standing(share=0.0, until=NOW, gated=True), id="gate closed"),
        pytest.param(GATE, None, 0, Standing(share=0.1), id="gate opens"),
        pytest.param(GATE, None, 30, Standing(share=0.55), id="half way: as long as it was closed"),
        pytest.param(GATE, None, 60, Standing(), id="gate open"),
        pytest.param(Gate(None, NOW), None, 5, Standing(share=0.55), id="an old gate: over ten seconds"),
        pytest.param(Gate(NOW - timedelta(hours=1), NOW), None, 300, Standing(), id="never over more than 5 minutes"),
        pytest.param(
            None, a_breaker(), 14, Standing(share=0.0, until=NOW + seconds(15), reason=DOWN), id="breaker open"
        ),
        pytest.param(None, a_breaker(), 15, Standing(share=0.1, trial=True, reason=DOWN), id="trial"),
        pytest.param(None, a_breaker(closed_at=NOW), 0, Standing(share=0.1), id="closed a moment ago"),
        pytest.param(None, a_breaker(closed_at=NOW), BREAKER_RAMP.total_seconds(), Standing(), id="closed"),
        pytest.param(
            GATE, a_breaker(), -5, Standing(share=0.0, until=NOW, gated=True), id="the LFI's word before ours"
        ),
    ],
)
def test_how_an_lfi_stands(gate: Gate | None, breaker: Breaker | None, after: float, expected: Standing) -> None:
    """From nothing over a ramp to everything."""
    found = standing(gate, breaker, now=NOW + seconds(after))

    assert found == expected


@pytest.mark.parametrize(
    ("standing", "most", "expected"),
    [
        pytest.param(Standing(), 50, 50, id="all"),
        pytest.param(Standing(share=0.55), 50, 27, id="on the ramp"),
        pytest.param(Standing(share=0.1), 5, 1, id="never none on the ramp"),
        pytest.param(Standing(share=0.1, trial=True), 50, 1, id="one in a trial"),
        pytest.param(Standing(share=0.0, until=NOW), 50, 0, id="none while calls are kept back"),
        pytest.param(Standing(), 0, 0, id="none of none"),
    ],
)
def test_slots_of_an_lfi(standing: Standing, most: int, expected: int) -> None:
    """How many rows may be in work."""
    assert standing.slots(most) == expected


def test_a_tenth_of_the_calls_may_be_retries() -> None:
    """After 1,000 calls a hundred retries; a minute later what was long ago counts no more."""
    budget = RetryBudget()
    for _ in range(1000):
        budget.count(1000.0)

    granted = sum(budget.spend(1001.0) for _ in range(500))
    later = sum(budget.spend(1100.0) for _ in range(500))

    assert (granted, later) == (100, RETRIES_MIN)


def test_a_small_installation_may_retry_too() -> None:
    """Ten a minute, however few calls there were."""
    budget = RetryBudget()
    budget.count(0.0)

    assert sum(budget.spend(1.0) for _ in range(50)) == RETRIES_MIN
