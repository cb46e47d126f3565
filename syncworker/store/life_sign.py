"""One row that says a process lives, written by the database's driver alone.

Beat needs nothing else of the database, and SQLAlchemy would be half of its memory.  The row is the one that
`store.workers` reads; both databases write their own time into it.
"""

import sqlite3
from contextlib import suppress
from typing import Any, Final

from syncworker.store.address import Address, address_of

_WAIT_S: Final = 5
_SETTINGS: Final = {"statement_timeout": str(_WAIT_S * 1000), "lock_timeout": str(_WAIT_S * 1000)}

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
        database: as in the settings.
        name: host and process, at most 128 characters.
        kind: what the process is, as `worker` and `beat`.
    """

    def __init__(self, database: str | Address, name: str, kind: str) -> None:
        """Opens nothing yet.

        Raises:
            SettingsError: not a URL of a database we know.
        """
        self._address = address_of(database)
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
            if self._address.file is not None:
                self._connection.execute(_SQLITE, self._row)
                return
            with self._connection.transaction():  # a pooler in between may share the session: leave nothing in it
                self._connection.execute(*self._address.setting(_SETTINGS, local=True))
                self._connection.execute(_POSTGRESQL, self._row)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _open(self) -> Any:
        file = self._address.file
        if file is not None:
            return sqlite3.connect(
                f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S, isolation_level=None,
                check_same_thread=False,
            )  # fmt: skip
        import psycopg  # an extra: an installation on SQLite has none

        return psycopg.connect(**{**self._address.arguments(), "prepare_threshold": None})
