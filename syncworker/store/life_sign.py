"""One row that says a process lives, written by the database's driver alone.

Beat needs nothing else of the database, and SQLAlchemy would be half of its memory.  The row is the one that
`store.workers` reads; both databases write their own time into it.
"""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

_WAIT_S: Final = 5

_POSTGRESQL: Final = """
INSERT INTO worker (name, kind, started_at, progress_at) VALUES (%s, %s, clock_timestamp(), clock_timestamp())
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, progress_at = excluded.progress_at
"""
_SQLITE_NOW: Final = "strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')"
_SQLITE: Final = f"""
INSERT INTO worker (name, kind, started_at, progress_at) VALUES (?, ?, {_SQLITE_NOW}, {_SQLITE_NOW})
ON CONFLICT (name) DO UPDATE SET kind = excluded.kind, progress_at = excluded.progress_at
"""  # noqa: S608  a constant


class LifeSign:
    """Writes the row of one process.  Not for several threads at once.

    Args:
        database_url: as in the settings.
        name: host and process, at most 128 characters.
        kind: what the process is, as `worker` and `beat`.
    """

    def __init__(self, database_url: str, name: str, kind: str) -> None:
        self._url = database_url
        self._row = (name, kind)
        self._connection: Any = None

    def write(self) -> None:
        """Note that the process lives.  A connection that fails is closed; the next call opens another.

        Raises:
            psycopg.Error, sqlite3.Error: as the driver has it.
        """
        try:
            if self._connection is None:
                self._connection = self._open()
            self._connection.execute(_SQLITE if self._is_sqlite else _POSTGRESQL, self._row)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    @property
    def _is_sqlite(self) -> bool:
        return urlsplit(self._url).scheme.partition("+")[0] == "sqlite"

    def _open(self) -> Any:
        if self._is_sqlite:
            path = Path(unquote(self._url.partition("://")[2].removeprefix("/").partition("?")[0]))
            return sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
        import psycopg  # an extra: an installation on SQLite has none

        scheme, _, rest = self._url.partition("://")
        return psycopg.connect(
            f"{scheme.partition('+')[0]}://{rest}",
            autocommit=True,
            connect_timeout=_WAIT_S,
            options=f"-c statement_timeout={_WAIT_S * 1000} -c lock_timeout={_WAIT_S * 1000}",
        )
