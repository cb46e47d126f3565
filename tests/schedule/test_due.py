"""When something is due: pure tables."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.schedule.due import (
    next_run_at,
    phase,
    retry_at,
    retry_delay,
    spread,
    token_due_at,
    token_margin,
)

pytestmark = pytest.mark.unit

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("last_run_at", "expected"),
    [
        pytest.param(None, NOON, id="never ran: at once"),
        pytest.param(
            NOON - timedelta(minutes=20), NOON + timedelta(minutes=40), id="ran lately: a whole cadence later"
        ),
        pytest.param(NOON - 5 * HOUR, NOON, id="overdue: now, never in the past"),
    ],
)
def test_next_run(last_run_at: datetime | None, expected: datetime) -> None:
    """A step runs one cadence after its last run."""
    assert next_run_at(last_run_at=last_run_at, every=HOUR, now=NOON) == expected


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        (0, timedelta(minutes=1)),
        (1, timedelta(minutes=1)),
        (2, timedelta(minutes=5)),
        (3, timedelta(minutes=30)),
        (4, timedelta(hours=2)),
        (5, timedelta(hours=6)),
        (500, timedelta(hours=6)),
    ],
)
def test_retry_ladder(attempts: int, expected: timedelta) -> None:
    """1, 5, 30 minutes, 2, 6 hours, then every 6 hours."""
    assert retry_delay(attempts) == expected


@pytest.mark.parametrize(
    ("retry_after", "at_least", "at_most"),
    [
        pytest.param(None, timedelta(seconds=54), timedelta(seconds=66), id="the ladder, give or take 10 %"),
        pytest.param(20.0, timedelta(seconds=54), timedelta(seconds=66), id="a shorter Retry-After changes nothing"),
        pytest.param(900.0, timedelta(seconds=900), timedelta(seconds=900), id="a longer one is obeyed"),
        pytest.param(1e9, timedelta(hours=6), timedelta(hours=6), id="and capped"),
    ],
)
def test_retry_obeys_the_lfi(retry_after: float | None, at_least: timedelta, at_most: timedelta) -> None:
    """The wait is the longer of our ladder and the LFI's own word."""
    wait = retry_at(1, subject="connection-1", now=NOON, retry_after=retry_after) - NOON

    assert at_least <= wait <= at_most


@pytest.mark.parametrize(
    ("life", "expected"),
    [
        (timedelta(seconds=600), timedelta(seconds=60)),
        (timedelta(seconds=300), timedelta(seconds=45)),
        (timedelta(seconds=20), timedelta(seconds=3)),
        (timedelta(days=5), timedelta(seconds=60)),
        (timedelta(seconds=-5), timedelta()),
    ],
)
def test_token_margin(life: timedelta, expected: timedelta) -> None:
    """60 s, or 15 % of a short life."""
    assert token_margin(life) == expected


@given(consent_id=st.text(min_size=1, max_size=128), life_s=st.integers(min_value=0, max_value=10**7))
def test_a_refresh_is_due_well_before_expiry(consent_id: str, life_s: int) -> None:
    """Whatever the id and the life: between 65 % and 85 % of it, and before the margin begins."""
    life = timedelta(seconds=life_s)
    due_at = token_due_at(consent_id, NOON, NOON + life)
    tolerance = timedelta(microseconds=2)

    assert life * 0.65 - tolerance <= due_at - NOON <= life * 0.85 + tolerance
    assert due_at <= NOON + life - token_margin(life) + tolerance


def test_headroom_moves_a_short_life_forward() -> None:
    """With a life of 20 s and a tick of 5 s, nothing is due so late that the tick finds it expired."""
    expires_at = NOON + timedelta(seconds=20)
    latest = max(token_due_at(f"consent-{n}", NOON, expires_at, headroom=timedelta(seconds=5)) for n in range(1000))

    assert latest == expires_at - timedelta(seconds=8)


def test_a_token_that_is_already_over_is_due_at_once() -> None:
    """`expires_in` of zero or less never puts the refresh before the answer."""
    assert token_due_at("consent-1", NOON, NOON - HOUR) == NOON


def test_consents_spread_evenly() -> None:
    """10,000 tokens issued in the same second: no hundredth of the spread holds more than twice its share."""
    width = 20
    counts = [0] * 100
    for n in range(10_000):
        share = (token_due_at(f"urn:consent:{n}", NOON, NOON + timedelta(seconds=100)) - NOON).total_seconds()
        counts[min(99, int((share - 65) / width * 100))] += 1

    assert max(counts) < 200
    assert min(counts) > 0


def test_a_consents_place_never_moves() -> None:
    """The same on every machine and in every version: a change would shift every refresh at once."""
    assert (round(phase("consent-1"), 9), round(phase(""), 9)) == (-0.13108218, -0.648239133)
    assert all(-1 <= phase(str(n)) < 1 for n in range(1000))


def test_spread_starts_at_the_common_instant() -> None:
    """After an outage nobody runs before the instant, and everybody within the window."""
    moments = [spread(NOON, f"connection-{n}", over=HOUR) for n in range(1000)]

    assert NOON <= min(moments) < NOON + HOUR / 50
    assert NOON + HOUR * 49 / 50 < max(moments) < NOON + HOUR
