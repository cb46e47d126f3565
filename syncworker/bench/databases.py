"""Fresh databases for a measurement: made, migrated, thrown away.

On PostgreSQL one template is migrated and every database is a copy of it; on SQLite each is a file in the folder.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from syncworker.errors import SetupError
from syncworker.store import migrate

_PREFIX: Final = "syncworker_bench"


class Databases:
    """Makes databases on one server, or files in one folder."""

    def __init__(self, folder: Path, server_url: str | None = None) -> None:
        """Makes nothing yet.

        Args:
            server_url: of any database of a PostgreSQL whose user may create databases; `None`: SQLite files.
        """
        self._folder = folder
        self._server_url = server_url
        self._numbers = count(1)
        self._template: str | None = None

    @property
    def kind(self) -> str:
        """For people."""
        return "PostgreSQL" if self._server_url else "SQLite"

    def server_pids(self) -> list[int]:
        """The server's first process, when it runs on this machine; nothing otherwise, or on SQLite.

        Its children are the sessions, so that what it costs can be measured.
        """
        if self._server_url is None:
            return []
        with self._admin() as run:
            pid = run("SELECT pg_backend_pid()")
            try:
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                mine = Path(f"/proc/{parent}/comm").read_text().startswith("postgres")
            except (OSError, ValueError):
                return []
            return [parent] if mine else []

    @contextmanager
    def fresh(self) -> Iterator[str]:
        """A migrated, empty database while the block lasts.  Its URL."""
        name = f"{_PREFIX}_{os.getpid()}_{next(self._numbers)}"
        if self._server_url is None:
            file = self._folder / f"{name}.db"
            migrate.upgrade(f"sqlite:///{file}")
            try:
                yield f"sqlite:///{file}"
            finally:
                for path in self._folder.glob(f"{file.name}*"):
                    path.unlink()
            return
        with self._admin() as run:
            run(f'CREATE DATABASE "{name}" TEMPLATE "{self._migrated()}" STRATEGY FILE_COPY')
        try:
            yield self._url(name)
        finally:
            with self._admin() as run:
                run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def close(self) -> None:
        """Drop the template."""
        if self._template is not None:
            with self._admin() as run:
                run(f'DROP DATABASE IF EXISTS "{self._template}" WITH (FORCE)')
            self._template = None

    def _migrated(self) -> str:
        if self._template is None:
            name = f"{_PREFIX}_{os.getpid()}_template"
            with self._admin() as run:
                run(f'CREATE DATABASE "{name}"')
            self._template = name
            migrate.upgrade(self._url(name))
        return self._template

    def _url(self, database: str) -> str:
        assert self._server_url is not None
        return urlsplit(self._server_url)._replace(path=f"/{database}").geturl()

    @contextmanager
    def _admin(self) -> "Iterator[_Run]":
        try:
            import psycopg  # an extra
        except ModuleNotFoundError as error:
            raise SetupError("database_url: PostgreSQL needs psycopg; install syncworker[postgres]") from error

        assert self._server_url is not None
        try:
            with psycopg.connect(self._server_url, autocommit=True, connect_timeout=10) as connection:
                yield _Run(connection)
        except psycopg.Error as error:
            code = error.sqlstate or type(error).__name__
            raise SetupError(
                f"database_url: cannot make a database there ({code}); give a PostgreSQL whose user may"
            ) from None


class _Run:
    def __init__(self, connection: object) -> None:
        self._connection = connection

    def __call__(self, statement: str) -> object:
        """Execute one statement; its first value, if it gives one."""
        cursor = self._connection.execute(statement.encode())  # type: ignore[attr-defined]  # psycopg is an extra
        return cursor.fetchone()[0] if cursor.description else None
