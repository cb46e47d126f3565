"""Commands that ask a worker to hurry send their tick after the commit of what they asked for, and never without it."""

from datetime import UTC, datetime

import pytest
import redis

from syncworker.settings import ENVIRONMENT_PREFIX
from tests.cli.conftest import Prepared
from tests.cli.house import Ended, House
from tests.ground.commits import refuse_commits, take_commits

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

OPENING = "0b0e0f52-6f1a-4b8e-9b53-1c6f0e7c9a11"


def ticks(broker_url: str) -> int:
    """Ticks that wait in the broker."""
    client = redis.Redis.from_url(broker_url)
    waiting = client.llen("tick")
    client.close()
    assert isinstance(waiting, int)
    return waiting


@pytest.fixture
def busy(house: House, broker_url: str) -> House:
    """A folder in which a worker was seen just now."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    values = ("host/1", "worker", now, now)
    house.sql("INSERT INTO worker (name, kind, started_at, progress_at) VALUES (?, ?, ?, ?)", *values)
    return house


def ask(house: House, broker_url: str, *arguments: str) -> Ended:
    return house.run(*arguments, env={f"{ENVIRONMENT_PREFIX}BROKER_URL": broker_url})


def test_a_sync_that_was_asked_for_is_hurried_after_its_commit(
    busy: House, prepared: Prepared, broker_url: str
) -> None:
    """`consents sync`: the commit fails, no tick goes out; it succeeds, and one does."""
    url = f"sqlite:///{busy.database}"
    refuse_commits(url, "work", when="NEW.asked_at IS NOT NULL")
    failed = ask(busy, broker_url, "consents", "sync", prepared.consent_id)
    sent_without = ticks(broker_url)
    take_commits(url, "work")
    asked = ask(busy, broker_url, "consents", "sync", prepared.consent_id)

    assert (failed.code, sent_without, "store_refused" in failed.stderr) == (1, 0, True), failed.said
    assert (asked.code, ticks(broker_url)) == (0, 1), asked.said
    assert busy.sql("SELECT count(*) FROM work WHERE kind = 'sync' AND asked_at IS NOT NULL") == [(1,)]


def test_an_opening_that_is_watched_is_hurried_after_its_commit(busy: House, broker_url: str) -> None:
    """`openings watch`: the same."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    columns = {
        "tenant": "default", "opening_id": OPENING, "lfi": "sandbox", "version": "v2.1", "user_ref": "customer-7",
        "state": "pending", "state_since": now, "created_at": now,
    }  # fmt: skip
    marks = ", ".join("?" * len(columns))
    busy.sql(f"INSERT INTO opening ({', '.join(columns)}) VALUES ({marks})", *columns.values())
    row = ("default", "opening", OPENING, "sandbox", now)
    busy.sql("INSERT INTO work (tenant, kind, subject, lfi, due_at) VALUES (?, ?, ?, ?, ?)", *row)
    url = f"sqlite:///{busy.database}"
    watch = ("openings", "watch", OPENING, "--timeout", "0")
    refuse_commits(url, "work", when="NEW.asked_at IS NOT NULL")
    failed = ask(busy, broker_url, *watch)
    sent_without = ticks(broker_url)
    take_commits(url, "work")
    asked = ask(busy, broker_url, *watch)

    assert (failed.code, sent_without, "store_refused" in failed.stderr) == (1, 0, True), failed.said
    assert (asked.code, ticks(broker_url)) == (3, 1), asked.said
    assert busy.sql("SELECT count(*) FROM work WHERE kind = 'opening' AND asked_at IS NOT NULL") == [(1,)]
