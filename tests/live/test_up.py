"""`syncworker up`: one machine, one command; the dead and the hung are started again, the end is in order."""

import os
import re
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from syncworker.store.keyring import KeyRing
from tests.ground.processes import Nursery, Spawned, alive
from tests.ground.valkey import ValkeyServer

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of settings: SQLite, a broker of our own, three workers wanted."""
    KeyRing.generate(tmp_path / "keyring")
    (tmp_path / "syncworker.toml").write_text('keyring = "keyring"\nworkers = 3\ntick_seconds = 1\n')
    return tmp_path


def children(up: Spawned, name: str) -> list[int]:
    """Process ids by which a program's workers have called themselves, oldest first."""
    return [int(pid) for pid in re.findall(rf"up: .*\b{name} (\d+)", up.output())]


def freeze(pid: int, database: Path) -> None:
    """Stop a worker between two of its transactions, and let its last progress have been long ago."""
    for _ in range(50):
        os.kill(pid, signal.SIGSTOP)
        try:
            with closing(sqlite3.connect(database, timeout=0.2)) as connection, connection:
                connection.execute("UPDATE worker SET progress_at = '2026-01-01T00:00:00.000000Z'")
        except sqlite3.OperationalError:  # it was stopped with the lock in its hands
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.1)
        else:
            return
    pytest.fail("the worker never let go of the database")


def test_sqlite_means_one_worker_and_up_says_why(worker_process: Nursery, folder: Path) -> None:
    """Every line of output carries its origin; SIGTERM ends all of them in order."""
    up = worker_process.syncworker("up", cwd=folder, ready=lambda child: "worker | " in child.output(), timeout=60)
    up.until(lambda child: " ready." in child.output() and "beat | " in child.output(), timeout=60)
    status = up.stop(grace=60)

    assert "workers: 1 instead of 3: SQLite takes one writer at a time; use PostgreSQL for more" in up.output()
    assert (status, worker_process.processes_left_behind()) == (0, []), up.output()


def test_workers_as_many_as_asked_for_and_a_dead_one_is_started_again(
    worker_process: Nursery, folder: Path, postgresql_url: str, valkey: ValkeyServer
) -> None:
    """The command line wins over the settings; a killed worker comes back under its own name."""
    valkey.flush()
    env = {"SYNCWORKER_DATABASE_URL": postgresql_url, "SYNCWORKER_BROKER_URL": valkey.url}
    up = worker_process.syncworker("up", "--workers", "2", cwd=folder, env=env)
    up.until(lambda child: child.output().count(" ready.") == 2, timeout=90)
    (victim,) = children(up, "worker-2")
    os.kill(victim, signal.SIGKILL)
    up.until(lambda child: child.output().count(" ready.") == 3, timeout=90)

    assert "supervisor | worker-2 ended with status -9, starting it again in 1 s" in up.output()
    assert up.stop(grace=60) == 0


@pytest.mark.long
def test_a_worker_that_hangs_is_ended_and_started_again(worker_process: Nursery, folder: Path) -> None:
    """It lives, and does nothing: no death to notice.  Its row does not move, and it does not answer its canary."""
    up = worker_process.syncworker("up", "--workers", "1", cwd=folder)
    up.until(lambda child: " ready." in child.output(), timeout=90)
    (victim,) = children(up, "worker")
    freeze(victim, folder / "syncworker.db")
    up.until(lambda child: "supervisor | worker hangs (no progress for" in child.output(), timeout=90)
    os.kill(victim, signal.SIGCONT)  # so that it can obey, which a worker whose loop stands still does by itself
    up.until(lambda child: child.output().count(" ready.") == 2, timeout=90)

    assert not alive(victim)
    assert up.stop(grace=60) == 0
