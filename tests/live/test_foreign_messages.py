"""Messages that are not ours: a real worker with the real logs refuses each, and prints nothing of what it held.

The broker is a door: whatever can write into it could make a worker print personal data or secrets it was sent.  Every
part of a message that Celery and kombu print somewhere is marked, the worker runs at DEBUG and at INFO, and all it said
is searched.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import kombu
import pytest
import redis

from tests.cli.conftest import bank, house, prepared
from tests.cli.house import House
from tests.ground.processes import Nursery, Spawned

__all__ = ["bank", "house", "prepared"]  # fixtures of the commands' tests

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

MARK = "AE07-marked-4d1f"
"""Stands in every part of every message, with a word for the place."""

Send = Callable[..., None]
EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def marked(place: str) -> str:
    return f"{MARK}-{place}"


def headers(task: str, **more: Any) -> dict[str, Any]:
    """Headers of Celery's protocol 2, marked wherever text is free."""
    return {
        "lang": "py", "task": task, "id": "11111111-1111-4111-8111-111111111111", "root_id": None, "parent_id": None,
        "argsrepr": marked("argsrepr"), "kwargsrepr": marked("kwargsrepr"), "origin": marked("origin"),
        "shadow": None, "group": None, "retries": 0, "eta": None, "expires": None, "timelimit": [None, None],
        **more,
    }  # fmt: skip


def call(*args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs, EMBED]


FOREIGN: dict[str, Callable[[Send], None]] = {
    "an unknown task": lambda send: send(call(marked("args"), x=marked("kwargs")), headers("steal")),
    "a task whose name is the secret": lambda send: send(call(), headers(marked("name"))),
    "no task at all": lambda send: send({"surprise": marked("body")}, {}),
    "pickle": lambda send: send(call(marked("pickled")), headers("sync_batch"), serializer="pickle"),
    "no JSON": lambda send: send(
        f'["{marked("broken")}"', headers("sync_batch"), content_type="application/json", content_encoding="utf-8"
    ),
    "an unknown content": lambda send: send(
        marked("text"), headers("sync_batch"), content_type=f"text/{MARK}", content_encoding="utf-8"
    ),
    "an unknown encoding": lambda send: send(
        marked("coded").encode(), headers("sync_batch"), content_type="application/json", content_encoding=f"x-{MARK}"
    ),
    "arguments that are no list": lambda send: send([marked("args"), marked("kwargs"), EMBED], headers("sync_batch")),
    "a body of another shape": lambda send: send(marked("shape"), headers("sync_batch")),
    "claims that are no numbers": lambda send: send(call([[marked("claim"), 1]]), headers("sync_batch")),
    "claims that are no claims": lambda send: send(call({marked("key"): marked("value")}), headers("token_batch")),
    "an argument too many": lambda send: send(call([], "noor", 0, marked("fourth")), headers("sync_batch")),
    "no argument": lambda send: send(call(), headers("flag_batch")),
    "a keyword we do not know": lambda send: send(call([], **{marked("keyword"): marked("given")}), headers("tick")),
    "an LFI that is none": lambda send: send(call([], lfi=marked("lfi")), headers("sync_batch")),
    "a time that is none": lambda send: send(call([]), headers("sync_batch", eta=marked("eta"))),
    "a time there is not": lambda send: send(call([]), headers("sync_batch", eta="0001-01-01T00:00:00+14:00")),
    "an expiry that is none": lambda send: send(call([]), headers("sync_batch", expires=marked("expires"))),
    "retries that are no number": lambda send: send(call([]), headers("sync_batch", retries=marked("retries"))),
    "a shadow": lambda send: send(call([]), headers("sync_batch", shadow=marked("shadow"))),
    "a callback": lambda send: send([[[]], {}, {**EMBED, "callbacks": [marked("callback")]}], headers("sync_batch")),
    "a chain": lambda send: send([[[]], {}, {**EMBED, "chain": [{"task": marked("next")}]}], headers("sync_batch")),
    "a group": lambda send: send(call([]), headers("sync_batch", group=marked("group"))),
    "an id that is the secret": lambda send: send(call([]), headers("steal", id=marked("id"))),
    "an id of a known task that is the secret": lambda send: send(call([]), headers("sync_batch", id=marked("id"))),
    "a reply wanted": lambda send: send(call([]), headers("sync_batch"), reply_to=marked("reply")),
}


@pytest.mark.parametrize("level", ["debug", "info"])
async def test_nothing_of_a_foreign_message_is_printed(
    house: House, worker_process: Nursery, broker_url: str, level: str
) -> None:
    """Each kind is taken off the queue, the worker goes on, and no mark is in anything it said."""
    worker = worker_process.syncworker(
        "worker",
        "--log-level",
        level,
        cwd=house.folder,
        env=house.environment(SYNCWORKER_BROKER_URL=broker_url),
        ready=lambda child: bool(house.sql("SELECT 1 FROM worker WHERE kind = 'worker'")),
    )
    with kombu.Connection(broker_url) as connection:
        producer = connection.Producer()
        queue = kombu.Queue("sync", kombu.Exchange("sync"), "sync")

        def send(body: Any, of: dict[str, Any], **options: Any) -> None:
            how = {"serializer": "json"} | options
            if "content_type" in how:
                how.pop("serializer")
            producer.publish(body, exchange="sync", routing_key="sync", declare=[queue], headers=of, **how)

        for one in FOREIGN.values():
            one(send)
    with redis.Redis.from_url(broker_url) as client:  # an entry that Celery did not even write
        client.lpush("sync", marked("no message"), b"\xff\xfe")
    await asyncio.to_thread(_until_taken, broker_url, worker)
    before = house.sql("SELECT progress_at FROM worker WHERE kind = 'worker'")
    with kombu.Connection(broker_url) as connection:
        ours = {"exchange": "sync", "routing_key": "sync", "headers": {**headers("sync_batch"), "argsrepr": "[]"}}
        connection.Producer().publish(call([]), serializer="json", **ours)
    await asyncio.to_thread(_until, lambda: house.sql("SELECT progress_at FROM worker WHERE kind = 'worker'") != before)
    lived = worker.running()
    code = await asyncio.to_thread(worker.stop, grace=40)

    said = [line for line in worker.output().splitlines() if MARK in line]
    assert (lived, code) == (True, 0), worker.output()
    assert said == []
    assert [json.loads(line) for line in worker.output().splitlines() if line.startswith("{")]
    left = [
        path for path in (house.folder / "data").rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()
    ]
    assert left == []


def _until_taken(broker_url: str, worker: Spawned) -> None:
    client = redis.Redis.from_url(broker_url)
    _until(lambda: not client.llen("sync") and not client.zcard("unacked_index"), worker)
    client.close()


def _until(ready: Callable[[], Any], worker: Spawned | None = None, *, within: float = 40) -> None:
    deadline = time.monotonic() + within
    while not ready():
        assert time.monotonic() < deadline, "not in time" if worker is None else worker.output()
        time.sleep(0.1)
