"""How old a listing is, whether that is too old, and why: by table."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from syncworker.views.freshness import ConnectionState, StaleReason, freshness

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
TARGET = 6 * HOUR
OLD = NOW - 2 * TARGET
R = StaleReason


def listing(**changes: Any) -> dict[str, Any]:
    """A row of `v_listing` that is older than its target."""
    facts = {
        "checked_at": OLD, "changed_at": OLD - HOUR, "due_at": NOW + HOUR, "error": None, "refused_until": None,
        "complete_from": date(2026, 1, 1), "history_complete": True,
    }  # fmt: skip
    return facts | changes


def state(**changes: Any) -> ConnectionState:
    """An authorised consent that nothing keeps back."""
    facts: dict[str, Any] = {"status": "Authorized", "expires_at": NOW + 9 * HOUR}
    return ConnectionState(**facts | changes)


REASONS: list[tuple[dict[str, Any], dict[str, Any], StaleReason]] = [
    # what keeps the connection back            the listing                                why
    ({},                                        {},                                        R.LATE),
    ({},                                        {"error": "unavailable"},                  R.LATE),
    ({},                                        {"checked_at": None},                      R.NEVER_SYNCED),
    ({"lfi_down": True},                        {},                                        R.LFI_DOWN),
    ({"lfi_down": True},                        {"checked_at": None},                      R.LFI_DOWN),
    ({"gated": True},                           {},                                        R.GATED),
    ({"gated": True, "lfi_down": True},         {},                                        R.GATED),
    ({},                                        {"refused_until": NOW + HOUR},             R.REFUSED),
    ({},                                        {"refused_until": NOW},                    R.LATE),
    ({"gated": True},                           {"refused_until": NOW + HOUR},             R.REFUSED),
    ({"status": "Suspended"},                   {},                                        R.SUSPENDED),
    ({"status": "Suspended", "gated": True},    {"refused_until": NOW + HOUR},             R.SUSPENDED),
    ({"paused": True},                          {},                                        R.PAUSED),
    ({"paused": True, "status": "Suspended"},   {},                                        R.PAUSED),
    ({"needs_consent": True, "paused": True},   {},                                        R.NEEDS_CONSENT),
    ({"status": "Expired", "paused": True},     {},                                        R.EXPIRED),
    ({"expires_at": NOW, "paused": True},       {},                                        R.EXPIRED),
    ({"status": "Revoked", "expires_at": NOW},  {},                                        R.REVOKED),
    ({"status": "Rejected"},                    {"checked_at": None},                      R.REVOKED),
    ({"status": "Consumed"},                    {},                                        R.REVOKED),
    ({"status": None},                          {},                                        R.REVOKED),
    ({"status": "SomethingNew"},                {},                                        R.LATE),
]  # fmt: skip


@pytest.mark.parametrize(("held", "row", "reason"), REASONS)
def test_the_reason_is_the_first_that_holds(held: dict[str, Any], row: dict[str, Any], reason: StaleReason) -> None:
    """From what only the user can mend to what time mends."""
    found = freshness(listing(**row), state(**held), now=NOW, target=TARGET)
    assert (found.stale, found.stale_reason) == (True, reason)


def test_every_reason_is_in_the_table() -> None:
    """A new one is decided about."""
    assert {reason for _, _, reason in REASONS} == set(StaleReason)


@pytest.mark.parametrize("held", [held for held, _, _ in REASONS])
def test_what_is_young_has_no_reason(held: dict[str, Any]) -> None:
    """Paused, refused or ended: what was seen within the target is no older than it should be."""
    found = freshness(listing(checked_at=NOW - TARGET), state(**held), now=NOW, target=TARGET)
    assert (found.stale, found.stale_reason, found.age_seconds) == (False, None, 6 * 3600)


@pytest.mark.parametrize(
    ("age", "stale"),
    [
        (TARGET, False),
        (TARGET + timedelta(seconds=1), True),
        (-HOUR, False),
        (None, True),
    ],
)
def test_a_listing_is_stale_beyond_its_target(age: timedelta | None, stale: bool) -> None:
    """A sync takes its turn and may be retried; one that was never read is stale at once."""
    found = freshness(listing(checked_at=None if age is None else NOW - age), state(), now=NOW, target=TARGET)
    assert found.stale is stale
    assert found.age_seconds == (None if age is None else max(0, int(age.total_seconds())))


@pytest.mark.parametrize(
    ("held", "due"),
    [
        ({}, True),
        ({"gated": True}, True),
        ({"status": "Suspended"}, True),
        ({"paused": True}, False),
        ({"needs_consent": True}, False),
        ({"status": "Revoked"}, False),
        ({"status": None}, False),
    ],
)
def test_what_is_not_read_any_more_is_not_due(held: dict[str, Any], due: bool) -> None:
    """Until the user or the product does something."""
    found = freshness(listing(), state(**held), now=NOW, target=TARGET)
    assert found.next_due_at == (NOW + HOUR if due else None)


def test_freshness_keeps_the_three_times_apart() -> None:
    """As doors show it: every member, none made up."""
    found = freshness(listing(error="refused", history_complete=0), state(), now=NOW, target=TARGET).as_json()
    assert found == {
        "checked_at": OLD,
        "changed_at": OLD - HOUR,
        "age_seconds": 12 * 3600,
        "stale": True,
        "stale_reason": "late",
        "next_due_at": NOW + HOUR,
        "complete_from": date(2026, 1, 1),
        "history_complete": False,
        "error": "refused",
    }
