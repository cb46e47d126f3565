"""Celery as people know it: `celery -A syncworker …` with real processes, and variables of other programs set."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from syncworker import environment
from tests.ground.processes import Nursery, Spawned
from tests.ground.valkey import ValkeyServer

pytestmark = pytest.mark.live

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "redis://127.0.0.1:1/7"
DECOYS = {
    "CELERY_BROKER_URL": NOWHERE,
    "CELERY_BROKER_READ_URL": NOWHERE,
    "CELERY_BROKER_WRITE_URL": NOWHERE,
    "CELERY_RESULT_BACKEND": NOWHERE,
    "PGHOST": "127.0.0.2",
    "PGPORT": "1",
    "PGUSER": "no-such-user",
    "PGPASSWORD": "decoy",
    "PGOPTIONS": "-c statement_timeout=1",
    "PGSERVICE": "no-such-service",
    "PGSSLMODE": "verify-full",
    "PGTZ": "Asia/Dubai",
    "http_proxy": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "ALL_PROXY": "socks5://127.0.0.1:1",
}


class Installation:
    """A folder with settings, a migrated database and a broker."""

    def __init__(
        self, folder: Path, nursery: Nursery, *, database: str, broker: str, keyring: Path, **more: str
    ) -> None:
        self.folder = folder
        self._nursery = nursery
        self.env = {"PYTHONPATH": str(ROOT), "SYNCWORKER_CONFIG": str(folder / "syncworker.toml"), **DECOYS}
        values = {"database_url": database, "broker_url": broker, "keyring": str(keyring), "data_dir": "data", **more}
        lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        (folder / "syncworker.toml").write_text("\n".join([*lines, "tick_seconds = 0.5", "threads = 5"]) + "\n")

    def celery(self, *arguments: str, ready: str | None = None) -> Spawned:
        """Start `celery -A syncworker …`, and wait until it says so."""
        argv = (sys.executable, "-m", "celery", "-A", "syncworker", *arguments)
        said: Callable[[Spawned], bool] | None = (lambda child: ready in child.output()) if ready else None
        return self._nursery.spawn(argv, env=self.env, cwd=self.folder, ready=said)

    def worker(self, *options: str) -> Spawned:
        return self.celery("worker", "--loglevel=INFO", *options, ready=" ready.")

    def beat(self) -> Spawned:
        return self.celery("beat", "--loglevel=INFO", ready="maxinterval")

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `syncworker …` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "syncworker", *arguments],
            env={**os.environ, **self.env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def status(self) -> Any:
        return json.loads(self.run("status", "--json")[1])


@pytest.fixture
def install(worker_process: Nursery, keyring_path: Path, tmp_path: Path) -> Callable[..., Installation]:
    def one(database: str, broker: str, **more: str) -> Installation:
        return Installation(tmp_path, worker_process, database=database, broker=broker, keyring=keyring_path, **more)

    return one


def seen(site: Installation) -> Callable[[Spawned], bool]:
    """Whether `status` sees a worker and a beat, and `health` both alive."""

    def both(_child: Spawned) -> bool:
        found = site.status()
        return (found["workers"], found["beats"]) == (1, 1)

    return both


def test_plain_celery_runs_our_processes(
    install: Callable[..., Installation], postgresql_url: str, broker_url: str
) -> None:
    """Worker and beat by Celery's own commands, whatever the variables of other programs say; `health` sees both."""
    site = install(postgresql_url, broker_url)
    worker, beat = site.worker(), site.beat()

    worker.until(seen(site))

    health = {whose: site.run("health", whose, "--json") for whose in ("--this-host", "--beat")}
    assert [code for code, _, _ in health.values()] == [0, 0], health
    verdicts = [one["verdict"] for _, said, _ in health.values() for one in json.loads(said)["processes"]]
    assert verdicts == ["alive", "alive"]
    assert "> concurrency: 5" in worker.output() or "concurrency: 5 (thread" in worker.output()
    codes = [child.stop(grace=20) for child in (beat, worker)]
    assert codes == [0, 0], worker.output()


def test_queues_of_celery_s_option_keep_the_worker_s_own(
    install: Callable[..., Installation], sqlite_url: str, broker_url: str
) -> None:
    """`-Q token` and `-c 3`: canaries still reach the worker, and three threads do the work."""
    site = install(sqlite_url, broker_url)
    worker, beat = site.worker("-Q", "tick,token", "-c", "3"), site.beat()

    worker.until(seen(site))
    worker.until(lambda _: _canary_came(sqlite_url))

    assert "concurrency: 3 (thread" in worker.output()
    assert [child.stop(grace=20) for child in (beat, worker)] == [0, 0], worker.output()


def test_another_pool_is_refused(install: Callable[..., Installation], sqlite_url: str, broker_url: str) -> None:
    """One event loop per process does the work; a pool without threads cannot hold it."""
    ended = install(sqlite_url, broker_url).celery("worker", "--pool=solo")

    assert (ended.wait(), "--pool: only threads" in ended.output()) == (1, True), ended.output()


@pytest.mark.parametrize("role", ["worker", "beat"])
def test_what_is_wrong_ends_it_with_one_line(role: str, install: Callable[..., Installation], sqlite_url: str) -> None:
    """No broker answers: exit 1, one line that names the setting, no traceback."""
    ended = install(sqlite_url, NOWHERE).celery(role)

    assert ended.wait() == 1
    assert "error [setup]: broker_url: no broker answers" in ended.output()
    assert "Traceback" not in ended.output()


def test_beat_alone_is_seen_to_live(install: Callable[..., Installation], sqlite_url: str, broker_url: str) -> None:
    """Without a worker no tick comes round; beat's own sign of life says that beat is not to blame."""
    site = install(sqlite_url, broker_url)
    beat = site.beat()

    beat.until(lambda _: site.status()["beats"] == 1)

    assert site.status()["workers"] == 0
    beat.kill()


def _canary_came(sqlite_url: str) -> bool:
    import sqlite3

    with sqlite3.connect(sqlite_url.partition(":///")[2]) as database:
        return bool(database.execute("SELECT 1 FROM worker WHERE canary_at IS NOT NULL").fetchall())


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A server of this test alone, which may turn it into a replica."""
    server = ValkeyServer()
    yield server
    server.close()


def test_a_broker_that_turns_read_only_is_waited_for(
    install: Callable[..., Installation], sqlite_url: str, own_valkey: ValkeyServer
) -> None:
    """A failover makes the server a replica: worker and beat go on once it takes writes again; neither ends."""
    site = install(sqlite_url, own_valkey.url)
    worker, beat = site.worker(), site.beat()
    worker.until(seen(site))
    with redis.Redis(port=own_valkey.port) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        for child in (worker, beat):
            child.until(lambda child: "replica" in child.output(), timeout=60)
        client.execute_command("REPLICAOF", "NO", "ONE")
        client.flushall()

    started = _ticks(site, sqlite_url)
    worker.until(lambda _: _ticks(site, sqlite_url) > started, timeout=60)

    assert (worker.running(), beat.running()) == (True, True)
    assert [child.stop(grace=20) for child in (beat, worker)] == [0, 0], worker.output()


def _ticks(site: Installation, sqlite_url: str) -> str:
    import sqlite3

    with sqlite3.connect(sqlite_url.partition(":///")[2]) as database:
        return str(database.execute("SELECT max(canary_at) FROM worker").fetchone()[0])


# -- variables of other programs ---------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize("name", [*DECOYS, "SSLKEYLOGFILE", "PGSYSCONFDIR", "no_proxy"])
def test_variables_of_other_programs_are_forgotten(name: str) -> None:
    """Each is removed before a library can read it; ours and the system's stay."""
    ours = {"SYNCWORKER_DATABASE_URL": "sqlite:///x.db", "PATH": "/bin", "SSL_CERT_FILE": "/etc/ssl/cert.pem"}
    found = {**ours, name: "decoy"}

    assert environment.forget_foreign(found) == [name]
    assert found == ours
