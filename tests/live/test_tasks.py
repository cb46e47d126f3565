"""The Celery app as it is configured: asserted on the app, not on the file."""

import inspect
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery.worker.request import Request
from celery.worker.state import revoked
from freezegun import freeze_time
from kombu import Message

from syncworker import tasks
from syncworker.broker import TICK_EXPIRES_S, Broker
from syncworker.store.work import WorkKind

pytestmark = pytest.mark.unit

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
SMALL = ("consent_batch", "delivery_batch", "event_batch", "flag_batch", "opening_batch")
OURS = tuple(sorted(("canary", *SMALL, "sync_batch", "tick", "token_batch")))


def test_the_tasks_are_these() -> None:
    """Names are a public format: a renamed task discards the messages of an older producer."""
    assert tuple(sorted(name for name in tasks.app.tasks if not name.startswith("celery."))) == OURS


@pytest.mark.parametrize("name", OURS)
def test_no_task_is_a_coroutine_function(name: str) -> None:
    """Celery reports success for an `async def` task and never runs it."""
    run = tasks.app.tasks[name].run

    assert not inspect.iscoroutinefunction(inspect.unwrap(run))
    assert not inspect.isasyncgenfunction(inspect.unwrap(run))


@pytest.mark.parametrize("name", OURS)
def test_every_task_ignores_keywords_it_does_not_know(name: str) -> None:
    """A newer producer may say more than we understand."""
    kinds = {parameter.kind for parameter in inspect.signature(tasks.app.tasks[name].run).parameters.values()}

    assert inspect.Parameter.VAR_KEYWORD in kinds


@pytest.mark.parametrize("name", OURS)
def test_delivery_of_every_task(name: str) -> None:
    """Acknowledged after the work, back in the queue when the worker is lost, no result kept, no broker-side delays."""
    task = tasks.app.tasks[name]

    assert (task.acks_late, task.reject_on_worker_lost, task.ignore_result, task.rate_limit) == (True, True, True, None)


def test_each_kind_of_work_has_its_queue() -> None:
    """A token refresh never stands behind a sync, nor a tick behind either; a worker consumes all three."""
    routes = {name: tasks.app.amqp.router.route({}, name)["queue"].name for name in OURS if name != "canary"}

    assert routes == {"sync_batch": "sync", "tick": "tick", **dict.fromkeys(("token_batch", *SMALL), "token")}
    assert sorted(tasks.app.amqp.queues.consume_from) == ["sync", "tick", "token"]
    assert set(tasks.TASKS) == set(WorkKind) - {WorkKind.DIRECTORY, WorkKind.FILL, WorkKind.EXPORT}  # a tick does them


@pytest.mark.parametrize("scheme", ["amqp", "amqps", "pyamqp"])
def test_rabbitmq_gets_options_of_its_own(scheme: str, tmp_path: Path) -> None:
    """Those of Redis mean nothing to an AMQP connection, which would wait for ever without a timeout."""
    before = {name: tasks.app.conf[name] for name in ("broker_url", "broker_transport_options", "beat_schedule")}
    try:
        tasks.configure(Broker(url=f"{scheme}://127.0.0.1:9//"), 5, tmp_path / "data")
        options = tasks.app.conf.broker_transport_options
    finally:
        tasks.app.conf.update(before)

    assert (sorted(options), options["confirm_publish"]) == (
        ["confirm_publish", "connect_timeout", "read_timeout", "write_timeout"],
        True,
    )


def test_values_of_the_worker() -> None:
    """Those of `reliability.md` §2, as the app has them."""
    conf = tasks.app.conf
    options = conf.broker_transport_options

    assert conf.accept_content == ["json"]
    assert (conf.worker_pool, conf.worker_prefetch_multiplier) == ("threads", 1)
    assert conf.worker_cancel_long_running_tasks_on_connection_loss is False
    assert conf.worker_enable_remote_control is False
    assert conf.broker_connection_retry_on_startup is True
    assert conf.worker_soft_shutdown_timeout > 15
    assert options["visibility_timeout"] > tasks.BATCH_DEADLINE_S
    assert (options["socket_timeout"], options["health_check_interval"]) == (10, 5)


def test_settings_reach_the_app(tmp_path: Path) -> None:
    """Broker, tick and threads; a tick outlives a clock that is minutes off."""
    before = {name: tasks.app.conf[name] for name in ("broker_url", "worker_concurrency", "beat_schedule")}
    try:
        tasks.configure(Broker(url="redis+socket:///run/broker.sock"), 2.5, tmp_path / "data", threads=12)
        conf = tasks.app.conf
        found = (conf.broker_url, conf.worker_concurrency, conf.beat_schedule)
    finally:
        tasks.app.conf.update(before)

    assert found == (
        "redis+socket:///run/broker.sock",
        12,
        {"tick": {"task": "tick", "schedule": 2.5, "options": {"expires": 7200.0}}},
    )
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("later", "expired"),
    [
        pytest.param(timedelta(hours=2, seconds=-1), False, id="a second before"),
        pytest.param(timedelta(hours=2, seconds=1), True, id="a second after"),
    ],
)
@pytest.mark.parametrize("by", ["beat", "publish_tick"])
def test_a_tick_that_waited_two_hours_is_thrown_away(by: str, later: timedelta, expired: bool) -> None:
    """Celery reads the computer's clock by itself, when it sends and when a worker takes the message."""
    expires = tasks.app.conf.beat_schedule["tick"]["options"]["expires"] if by == "beat" else TICK_EXPIRES_S
    task_id = f"tick-{by}-{later}"
    with freeze_time(NOON) as wall:
        sent = tasks.app.amqp.as_task_v2(task_id, "tick", (), {}, expires=expires)
        message = Message(
            body=json.dumps(sent.body),
            headers=sent.headers,
            properties=sent.properties,
            content_type="application/json",
            content_encoding="utf-8",
        )
        wall.tick(later)
        request = Request(message, app=tasks.app, task=tasks.app.tasks["tick"])

        assert bool(request.maybe_expire()) is expired
    revoked.discard(task_id)
