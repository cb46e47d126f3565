"""The machine's PgBouncer before a PostgreSQL of the tests; a test that needs one is skipped where there is none."""

import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tests.ground.postgres import free_port
from tests.ground.processes import account_for_servers, die_with_parent, folder_for

_PLACES: Final = ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin")


def pgbouncer_program() -> str | None:
    """Where the machine's PgBouncer is; `None` where it has none."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path=":".join(_PLACES))


class PgBouncer:
    """A running pooler.  `close()` ends it and removes its folder.

    Args:
        server: URL of PostgreSQL, which lets its user in without a password.
        mode: `session` or `transaction`.
        pool_size: sessions of the server for each database.
    """

    def __init__(self, server: str, mode: str, *, pool_size: int = 4) -> None:
        program = pgbouncer_program()
        assert program is not None, "no PgBouncer is installed"
        self._server = urlsplit(server)
        account = account_for_servers()
        self.folder: Path = folder_for(account, "swpb")
        self.port = free_port()
        self._write(mode, pool_size)
        options = {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                [program, self.folder / "pgbouncer.ini"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGINT),
                cwd=self.folder,
                **options,  # type: ignore[call-overload]  # a user or none
            )
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    def url(self, database: str | None = None, **query: str) -> str:
        """The same database through the pooler."""
        path = self._server.path if database is None else f"/{database}"
        text = "&".join(f"{name}={value}" for name, value in query.items())
        user = self._server.username or ""
        return urlunsplit(("postgresql", f"{user}@127.0.0.1:{self.port}", path, text, ""))

    def command(self, text: str) -> None:
        """A command of its console, such as `PAUSE`, `RESUME`, `RECONNECT`."""
        with psycopg.connect(self.url("pgbouncer"), autocommit=True, connect_timeout=5) as console:
            console.pgconn.exec_(text.encode())

    def close(self) -> None:
        """End it at once and leave no file."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, mode: str, pool_size: int) -> None:
        user = self._server.username
        users = self.folder / "users.txt"
        users.write_text(f'"{user}" ""\n')
        users.chmod(0o644)
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text(
            f"""[databases]
* = host={self._server.hostname} port={self._server.port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
admin_users = {user}
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 200
server_login_retry = 1
"""
        )
        configuration.chmod(0o644)

    def _await(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url("pgbouncer"), autocommit=True, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self.folder / "output").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"PgBouncer did not start: {said}") from error
                time.sleep(0.02)
            else:
                return
