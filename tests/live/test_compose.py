"""Dockerfile and docker-compose.yml: what stands in them is true, and works on this host.

No container engine is needed: every command and every health check is run as it stands there, with the paths of the
containers led to folders of the test, against a PostgreSQL of ours and a Valkey started by the file's own command.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import yaml

from syncworker.processes import broker_binary
from syncworker.settings import (
    CONFIG_VARIABLE,
    ENVIRONMENT_PREFIX,
    SECRET_FIELDS,
    SECRETS_VARIABLE,
    Settings,
    WebSettings,
)
from syncworker.store.keyring import KeyRing
from tests.ground.postgres import PostgresServer, free_port
from tests.ground.processes import Nursery, Spawned

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

PROJECT: Final = Path(__file__).resolve().parents[2]
DOCKERFILE: Final = (PROJECT / "Dockerfile").read_text()
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
OURS: Final = ("migrate", "worker", "beat", "web")


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction of the Dockerfile, continued lines joined."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    return [line.split(None, 1)[1] for line in lines if line.startswith(f"{name} ")]


# -- as written --------------------------------------------------------------------------------------------------------


@pytest.mark.unit
def test_every_variable_is_a_setting() -> None:
    """A misspelt one would be ignored in silence."""
    named = set(re.findall(rf"\b{ENVIRONMENT_PREFIX}[A-Z_]+\b", DOCKERFILE))
    for service in OURS:
        named |= SERVICES[service]["environment"].keys()
    settings = {ENVIRONMENT_PREFIX + field.upper() for field in Settings.model_fields}
    settings |= {f"{ENVIRONMENT_PREFIX}WEB__{field.upper()}" for field in WebSettings.model_fields}

    assert named <= settings | {CONFIG_VARIABLE, SECRETS_VARIABLE}


@pytest.mark.unit
def test_no_image_names_a_registry() -> None:
    """Where images come from is the engine's setting."""
    images = [service["image"] for service in SERVICES.values()]
    images += [line.split()[0] for line in instructions("FROM")]

    assert [image for image in images if "/" in image and re.search(r"[.:]|localhost", image.split("/")[0])] == []


@pytest.mark.unit
def test_the_image_runs_as_nobody_special_and_installs_by_hash() -> None:
    """A user with a number, so that an engine can check it; nothing is installed that the lock does not name."""
    runs = instructions("RUN")

    assert instructions("USER") == ["10001:10001"] == [SERVICES["worker"]["user"]]
    assert any("--require-hashes" in run and "requirements.lock" in run for run in runs)
    assert all("--no-index" in run for run in runs if "pip install" in run)


@pytest.mark.unit
def test_everything_that_is_copied_exists_and_reaches_the_build() -> None:
    """`.dockerignore` lets in nothing but what the Dockerfile names."""
    copied = {
        source.removeprefix("./")
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    let_in = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}

    assert copied == let_in
    assert [name for name in copied if not (PROJECT / name).exists()] == []


@pytest.mark.unit
def test_who_waits_for_health_waits_for_somebody_who_tells_it() -> None:
    """Each dependency is there; a service that must be healthy has a check, one that must be done ends by itself."""
    for service in SERVICES.values():
        for name, asked in service.get("depends_on", {}).items():
            needed = SERVICES[name]
            match asked["condition"]:
                case "service_healthy":
                    assert needed["healthcheck"]["test"][0] == "CMD"
                case "service_completed_successfully":
                    assert needed["restart"] == "no"
                case other:
                    pytest.fail(other)


@pytest.mark.unit
def test_secrets_are_files() -> None:
    """No password stands in the file or in an environment; each secret a service names is declared."""
    assert {name for service in SERVICES.values() for name in service["secrets"]} == COMPOSE["secrets"].keys()
    assert SECRET_FIELDS.isdisjoint(name.removeprefix(ENVIRONMENT_PREFIX).lower() for name in _environment("worker"))
    assert [value for value in _environment("postgres").values() if "password" in value] == [
        "/run/secrets/postgres_password"
    ]


def _environment(service: str) -> Mapping[str, str]:
    found: Mapping[str, str] = SERVICES[service]["environment"]
    return found


# -- as run ------------------------------------------------------------------------------------------------------------


@dataclass
class Stack:
    """The services on this host."""

    folder: Path
    nursery: Nursery
    database_url: str
    valkey_port: int
    more: dict[str, str] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """A path of the containers as one of this test."""
        for inside, outside in (
            ("/run/secrets", "secrets"),
            ("/etc/syncworker", "config"),
            ("/var/lib/syncworker", "data"),
        ):
            text = text.replace(inside, str(self.folder / outside))
        return text

    @property
    def env(self) -> dict[str, str]:
        return {name: self.here(value) for name, value in _environment("worker").items()} | self.more

    def start(self, service: str, *, said: str) -> Spawned:
        """A service of ours, by its own command."""
        command = SERVICES[service]["command"]
        return self.nursery.syncworker(
            *command, env=self.env, cwd=self.folder, ready=lambda child: said in child.output(), timeout=60
        )

    def here_listens(self) -> None:
        """Let the web process listen on loopback alone, where nobody else does."""
        self.more = {"SYNCWORKER_WEB__HOST": "127.0.0.1", "SYNCWORKER_WEB__PORT": str(free_port())}
        assert self.more.keys() <= _environment("web").keys()

    def check(self, service: str) -> int:
        """The status of a service's health check."""
        kind, *command = SERVICES[service]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(command)

    def run(self, command: Sequence[str]) -> int:
        match command:
            case ["syncworker", *arguments]:
                child = self.nursery.syncworker(*arguments, env=self.env, cwd=self.folder)
                return child.wait(timeout=60)
            case ["valkey-cli", "ping"]:
                return self._ping()
            case ["pg_isready", *arguments]:
                parts = urlsplit(self.database_url)
                where = [f"--host={parts.hostname}", f"--port={parts.port}"]
                program = shutil.which("pg_isready")
                assert program is not None, "pg_isready is not installed"
                return subprocess.run([program, *arguments, *where], check=False, timeout=30).returncode
        pytest.fail(f"nobody knows this command: {command}")

    def _ping(self) -> int:
        """What `valkey-cli ping` does: as the default user, without a password."""
        try:
            with redis.Redis(port=self.valkey_port, socket_timeout=5) as client:
                return 0 if client.ping() else 1
        except redis.RedisError:
            return 1

    def freeze(self, worker: Spawned) -> None:
        """Stop a worker between two of its transactions, and let its last progress have been long ago."""
        for _ in range(50):
            worker.signal(signal.SIGSTOP)
            try:
                self.sql("UPDATE worker SET progress_at = progress_at - %s", timedelta(hours=1))
            except psycopg.errors.LockNotAvailable:  # it was stopped with the row in its hands
                worker.signal(signal.SIGCONT)
                time.sleep(0.1)
            else:
                return
        pytest.fail("the worker never let go of its row")

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True, options="-c lock_timeout=500") as connection:
            done = connection.execute(statement, values)
            return done.fetchall() if done.description else []


@pytest.fixture
def stack(worker_process: Nursery, postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Stack]:
    """What `deploy/prepare` makes, an empty database, and Valkey by the file's own command."""
    subprocess.run([PROJECT / "deploy" / "prepare", tmp_path], check=True, capture_output=True, timeout=30)
    database = postgres_server.clone("template0")
    found = Stack(tmp_path, worker_process, postgres_server.url(database), free_port())
    prepared = (tmp_path / "secrets" / "broker_url").read_text()
    _replace(tmp_path / "secrets" / "broker_url", prepared.replace("valkey:6379", f"127.0.0.1:{found.valkey_port}"))
    _replace(tmp_path / "secrets" / "database_url", found.database_url)
    program, *arguments = [found.here(part) for part in SERVICES["valkey"]["command"]]
    assert program == "valkey-server"
    here = ["--port", str(found.valkey_port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    worker_process.spawn((str(broker_binary()), *arguments, *here), ready=lambda _: found.check("valkey") == 0)
    yield found
    worker_process.clear()
    postgres_server.drop(database)


def _replace(file: Path, content: str) -> None:
    file.chmod(0o600)
    file.write_text(content)


def test_what_prepare_makes_is_what_the_file_mounts(stack: Stack) -> None:
    """Each secret lies where the file looks for it; the key ring opens; a second run changes nothing."""
    files = {name: stack.folder / secret["file"] for name, secret in COMPOSE["secrets"].items()}
    before = {name: file.read_bytes() for name, file in files.items()}
    subprocess.run([PROJECT / "deploy" / "prepare", stack.folder], check=True, capture_output=True, timeout=30)

    assert {name: file.read_bytes() for name, file in files.items()} == before
    assert (stack.folder / "secrets").stat().st_mode & 0o777 == 0o700
    assert len(KeyRing.load(files["keyring"]).kids) == 1
    assert before["postgres_password"].decode() in (stack.folder / "secrets" / "postgres_password").read_text()


def test_the_services_start_tell_their_health_and_end(stack: Stack) -> None:
    """Migration, worker and beat by their commands; every check passes; each fails once its service is dead."""
    migrated = stack.nursery.syncworker(*SERVICES["migrate"]["command"], env=stack.env, cwd=stack.folder)
    assert migrated.wait(timeout=60) == 0, migrated.output()
    before = stack.check("worker"), stack.check("beat")
    worker = stack.start("worker", said=" ready.")
    beat = stack.start("beat", said="is starting")
    worker.until(lambda _: bool(stack.sql("SELECT 1 FROM worker WHERE kind = 'beat'")), timeout=60)

    alive = {name: stack.check(name) for name in ("postgres", "valkey", "worker", "beat")}
    worker.kill()
    beat.kill()
    dead = stack.check("worker"), stack.check("beat")

    assert (before, alive, dead) == ((1, 1), dict.fromkeys(("postgres", "valkey", "worker", "beat"), 0), (1, 1))


@pytest.mark.long
def test_the_check_of_a_worker_that_hangs_ends_it(stack: Stack) -> None:
    """It lives and does nothing; its restart policy has something to act on."""
    assert stack.nursery.syncworker("db", "upgrade", env=stack.env, cwd=stack.folder).wait(timeout=60) == 0
    worker = stack.start("worker", said=" ready.")
    worker.until(lambda _: bool(stack.sql("SELECT 1 FROM worker WHERE kind = 'worker'")), timeout=30)
    stack.freeze(worker)

    status = stack.check("worker")
    worker.signal(signal.SIGCONT)

    assert (status, worker.wait(timeout=60)) == (1, 0)


@pytest.mark.long
def test_the_web_process_tells_its_health_and_is_ended_when_it_hangs(stack: Stack) -> None:
    """By `/healthz`; one that stands still is killed by its own check, so that its restart policy acts."""
    stack.here_listens()
    assert stack.nursery.syncworker("db", "upgrade", env=stack.env, cwd=stack.folder).wait(timeout=60) == 0
    before = stack.check("web")
    web = stack.start("web", said="web: listens at")
    alive = stack.check("web")
    web.signal(signal.SIGSTOP)
    hangs = stack.check("web")

    assert (before, alive, hangs, web.wait(timeout=60)) == (1, 0, 1, -signal.SIGKILL)


@pytest.mark.unit
def test_the_web_process_is_off_by_default_and_in_the_image() -> None:
    """Only a profile starts it, on loopback of the machine; the image has its extra."""
    web = SERVICES["web"]

    assert (web["profiles"], web["ports"]) == (["web"], ["127.0.0.1:8080:8080"])
    assert [name for name, one in SERVICES.items() if "profiles" in one] == ["web"]
    assert any(".[postgres,web]" in run for run in instructions("RUN"))


def test_nobody_is_blamed_while_the_database_is_away(stack: Stack) -> None:
    """The check of a worker passes, and says why: a restart would lose what it holds."""
    _replace(stack.folder / "secrets" / "database_url", f"postgresql://syncworker@127.0.0.1:{free_port()}/none")
    child = subprocess.run(
        [sys.executable, "-m", "syncworker", "health", "--this-host", "--json"],
        env={**os.environ, **stack.env},
        cwd=stack.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )

    (found,) = json.loads(child.stdout)["processes"]
    assert (child.returncode, found["verdict"], found["said"]) == (0, "unknown", "the database is away")
