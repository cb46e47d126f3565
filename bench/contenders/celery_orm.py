"""A Celery task per consent, httpx and ORM upserts: what the documentation of the three recommends.

Prefork, one process a core; a client and an engine per process, made after the fork; SQLAlchemy's ORM bulk
`INSERT … ON CONFLICT DO UPDATE` for each listing, one commit per consent; results through the Redis backend.
"""

import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import sqlalchemy as sa
import xxhash
from celery import Celery, group, signals
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

if len(sys.argv) < 2 or not sys.argv[1].endswith(".json"):  # a worker: Celery's own arguments stand there
    sys.argv[1:] = [os.environ["BENCH_JOB"]]
from bench.contenders.naive import JOB, MODELS, listing
from bench.contenders.program import serve
from syncworker.bench.books import columns_of, compared_columns, key_of
from syncworker.standard.resources import RESOURCES
from syncworker.store.tables import RECORD_TABLES

app = Celery("celery_orm", broker=JOB.broker_url, backend=JOB.broker_url)
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)
PROCESS: dict[str, Any] = {}


@signals.worker_process_init.connect  # type: ignore[untyped-decorator]  # Celery ships no types
def begin(**_: object) -> None:
    """Connections of this process's own."""
    PROCESS["client"] = httpx.Client(verify=JOB.tls(), timeout=60)
    PROCESS["engine"] = sa.create_engine(JOB.database_url.replace("postgresql:", "postgresql+psycopg:"))


@app.task(name="sync_consent")  # type: ignore[untyped-decorator]  # Celery ships no types
def sync_consent(name: str, token: str) -> None:
    """Read everything of one consent and upsert it."""
    accounts: list[str] = []
    with Session(PROCESS["engine"]) as session:
        for resource in (one for one in RESOURCES if one.repeats is None):
            for account_id in accounts if resource.per_account else [""]:
                items = list(listing(PROCESS["client"], token, resource, account_id))
                if not resource.per_account:
                    accounts += [item["AccountId"] for item in items if "AccountId" in item]
                upsert(session, name, resource, account_id, items)
        session.commit()


def upsert(session: Session, name: str, resource: Any, account_id: str, items: list[dict[str, Any]]) -> None:
    """One listing's items in one statement."""
    table, now = RECORD_TABLES[resource.name], datetime.now(UTC)
    typed, rows = compared_columns(table), []
    for number, item in enumerate(items, start=1):
        raw, key = msgspec.json.encode(item), key_of(resource.name, item, number)
        row = {"tenant": "default", "connection_id": name, "account_id": account_id, "key": key, "gen": 1}
        row |= dict(zip(typed, columns_of(resource.name, item), strict=True))
        frame = {"raw": b"\0" + raw, "digest": xxhash.xxh3_128_digest(raw), "first_seen_at": now, "changed_at": now}
        rows.append(row | frame)
    fresh = insert(MODELS[table.name]).values(rows)
    moved = {column: fresh.excluded[column] for column in (*typed, "raw", "digest", "changed_at", "gen")}
    place = ["tenant", "connection_id", "account_id", "key"]
    session.execute(fresh.on_conflict_do_update(index_elements=place, set_=moved))


def main() -> None:
    """Start the workers, then hand out a task per consent whenever told to."""
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "bench.contenders.celery_orm",
        "worker",
        "-P",
        "prefork",
        "-c",
        str(os.cpu_count()),
    ]
    environment = os.environ | {"BENCH_JOB": sys.argv[1], "PYTHONWARNINGS": "ignore"}
    log = (JOB.folder / "celery_orm.log").open("wb")
    worker = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    try:
        while not app.control.ping(timeout=1):
            assert worker.poll() is None, "the Celery worker ended"
        serve(lambda: group(sync_consent.s(*one) for one in JOB.consents)().get(disable_sync_subtasks=False))
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    main()
