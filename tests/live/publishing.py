"""A process that publishes once, and writes down what another connection sees of the claims at that very moment.

Run as `python -m tests.live.publishing tick|refill`; the environment is that of `tests.live.tiny`, whose application it
has.  For each message that goes out it writes a line of JSON to the notes: the task's name, and whether each claim (or
canary) the message names was there for a connection of its own.  The last line says how the act ended.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from celery import signals

from syncworker import tasks
from syncworker.broker import Broker
from syncworker.errors import SyncWorkerError
from syncworker.standard.values import Slug
from syncworker.store.tables import work, worker
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.ground.commits import engine_of
from tests.live import tiny

NOTES = Path(os.environ["TINY_NOTES"])
DATABASE_URL = os.environ["TINY_DATABASE_URL"]
FIRST = 5
"""Claims that the refilling batch works on."""


def note(**facts: Any) -> None:
    with NOTES.open("a") as notes:
        notes.write(json.dumps(facts) + "\n")


def look(sender: str, body: Any, routing_key: str, **_: Any) -> None:
    """Celery is about to send a message: look at what it names through another connection."""
    engine = engine_of(DATABASE_URL)
    with engine.connect() as connection:
        if sender == tasks.canary.name:
            asked = sa.select(worker.c.canary_asked_at).where(worker.c.name == routing_key.removeprefix("worker."))
            seen = [connection.scalar(asked) is not None]
        else:
            claims = [(int(claim), int(gen)) for claim, gen in body[0][0]]
            held = sa.select(work.c.id, work.c.gen).where(work.c.lease_until.is_not(None))
            there = {(row.id, row.gen) for row in connection.execute(held)}
            seen = [claim in there for claim in claims]
    engine.dispose()
    note(task=sender, seen=seen)


async def claimed() -> list[list[int]]:
    """The first due claims, committed."""
    store = Store(DATABASE_URL)
    async with store.writing() as unit:
        claims = await unit.work.claim(WorkKind.SYNC, slots={Slug("noor"): FIRST})
        await unit.commit()
    await store.close()
    return [[claim.id, claim.gen] for claim in claims]


def main(act: str) -> None:
    tasks.configure(Broker(url=os.environ["TINY_BROKER_URL"]), 5, NOTES.parent / "data", build=tiny.build)
    signals.before_task_publish.connect(look)
    claims = asyncio.run(claimed()) if act == "refill" else []
    if act == "refill" and "PUBLISHING_REFUSED" in os.environ:
        from tests.ground.commits import refuse_commits

        refuse_commits(DATABASE_URL, "work", when=os.environ["PUBLISHING_REFUSED"])
    try:
        if act == "tick":
            tasks.tick()
        else:
            tasks.sync_batch(claims, lfi="noor")
        note(ended="well")
    except SyncWorkerError as error:
        note(ended=error.code)
    tasks.runtime.stop(5)


if __name__ == "__main__":
    main(sys.argv[1])
