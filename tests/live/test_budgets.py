"""Budgets of time that stand in different files and must fit into each other."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from syncworker import broker, processes, runtime, tasks
from syncworker.consents.storing import ATTEMPT_TIMEOUT_S
from syncworker.consents.tokens import CALLS_MAX, RETRY_WAITS_S, lease_of
from syncworker.lfi.transport import SLOT_SHARE
from syncworker.schedule.health import CANARY_WAIT_S, QUIET_MIN, quiet_max
from syncworker.settings import Settings
from syncworker.store.work import LEASE
from syncworker.store.workers import CANARY_AGAIN
from syncworker.sync.engine import RENEWALS

pytestmark = pytest.mark.unit

PROJECT = Path(__file__).resolve().parents[2]
DEFAULTS = {name: field.default for name, field in Settings.model_fields.items()}
TOKEN_CALL_S = DEFAULTS["token_timeout"] * (1 + SLOT_SHARE)
"""The longest token call: the wait for a connection, then the call."""

STOP_S = tasks.STOP_PATIENCE_S + tasks.STOP_GRACE_S
"""The longest orderly end of a worker's runs."""

EXIT_S = STOP_S + tasks.EXIT_MARGIN_S
"""After which the process is gone, whatever happened."""


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    return found


def seconds(text: str) -> float:
    """`45s` of a compose file."""
    assert text.endswith("s")
    return float(text.removesuffix("s"))


def test_a_token_call_fits_under_its_lease_with_every_retry() -> None:
    """Nobody else may begin while an answer can still come; the lease is looked at before each call."""
    calls = CALLS_MAX * 2 * DEFAULTS["token_timeout"] + sum(RETRY_WAITS_S)

    assert TOKEN_CALL_S < 2 * DEFAULTS["token_timeout"] < lease_of(DEFAULTS["token_timeout"]).total_seconds()
    assert calls < lease_of(DEFAULTS["token_timeout"]).total_seconds()


def test_a_token_call_under_way_and_its_commit_fit_into_an_orderly_end() -> None:
    """SIGTERM at the call's very first moment: the answer comes, is stored, and only then the process ends."""
    assert TOKEN_CALL_S < STOP_S
    assert DEFAULTS["token_timeout"] + ATTEMPT_TIMEOUT_S < STOP_S


def test_batches_return_within_20_seconds_of_sigterm() -> None:
    """What does not end by itself is cancelled then."""
    assert tasks.STOP_PATIENCE_S <= 20


def test_who_stops_a_worker_waits_for_its_end() -> None:
    """SIGKILL comes after the longest orderly end: from the supervisor, and from the container's engine."""
    graces = {name: seconds(service["stop_grace_period"]) for name, service in compose()["services"].items()}

    assert EXIT_S < processes.STOP_GRACE_S
    assert graces["worker"] >= processes.STOP_GRACE_S
    assert tasks.app.conf.worker_soft_shutdown_timeout > DEFAULTS["token_timeout"]


def test_a_run_ends_before_its_batch_and_a_batch_before_its_message_comes_again() -> None:
    """A consent's deadline, the batch's, the watchdog's, the broker's visibility timeout: in this order."""
    visibility = tasks.app.conf.broker_transport_options["visibility_timeout"]

    assert DEFAULTS["call_timeout"] < DEFAULTS["consent_deadline"] < DEFAULTS["batch_deadline"]
    assert DEFAULTS["batch_deadline"] == tasks.BATCH_DEADLINE_S
    assert visibility > tasks.BATCH_DEADLINE_S + runtime.HARD_LIMIT_S


def test_a_lease_outlives_two_renewals_that_failed() -> None:
    """And a tick, so that a claim that waits in the queue is still good when it is begun."""
    assert timedelta(seconds=DEFAULTS["lease_seconds"]) == LEASE
    assert LEASE.total_seconds() / RENEWALS > DEFAULTS["tick_seconds"] + tasks.SYNC_WAIT_S


def test_a_worker_reconnects_before_it_is_called_hung() -> None:
    """What the transport notices by itself must not cost a restart; the watchdog comes last."""
    options = tasks.app.conf.broker_transport_options
    notices = options["socket_timeout"] + options["health_check_interval"] + options["socket_connect_timeout"]

    assert timedelta(seconds=notices) < QUIET_MIN <= quiet_max(DEFAULTS["tick_seconds"])
    assert CANARY_AGAIN <= QUIET_MIN
    assert QUIET_MIN.total_seconds() + CANARY_WAIT_S < tasks.SHORT_DEADLINE_S + runtime.HARD_LIMIT_S


def test_a_container_s_check_has_the_time_it_needs() -> None:
    """The check itself waits for a canary; a container gets as long to begin as `up` gives a worker."""
    check = compose()["services"]["worker"]["healthcheck"]

    assert seconds(check["timeout"]) > CANARY_WAIT_S + broker.CONNECT_S
    assert seconds(check["start_period"]) >= 30
