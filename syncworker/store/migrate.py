"""Bring a database to the newest schema, or say that it is old.

The migrations lie beside the package in a checkout and inside it in a wheel.  Everything here is synchronous: it runs
in a command, before any loop.  Only `demo` and `up` on SQLite migrate by themselves; everything else refuses an old
schema with the command to run.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from syncworker import private
from syncworker.errors import SettingsError, SetupError
from syncworker.store.dialect import database_url as parse_url
from syncworker.store.failures import StoreUnavailableError, translated
from syncworker.store.statistics import gather_all

UPGRADE: Final = "syncworker db upgrade"
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_LOCK_TIMEOUT_MS: Final = 10_000  # a migration that waits for a lock makes everybody behind it wait too
_CONNECT_TIMEOUT_S: Final = 5
_CHECKED: Final = "host, port, name, user and that it runs"


def upgrade(database_url: str, revision: str = "head") -> None:
    """Run the missing migrations, all or none; a database that has them all is left alone.

    On PostgreSQL the statistics of the tables that hold rows are gathered then (`store.statistics`).

    Raises:
        StoreUnavailableError: the database cannot be reached.
        StoreRefusedError: it refused a statement.
        SettingsError: not a URL of a database we know.
    """
    before = current(database_url)
    _run(database_url, lambda config: command.upgrade(config, revision))
    url = parse_url(database_url)
    if current(database_url) != before and not _is_sqlite(url):
        with _connected(url, begin="BEGIN") as connection:
            gather_all(connection)
            connection.commit()


def downgrade(database_url: str, revision: str) -> None:
    """Undo migrations down to `revision`; `base` leaves no table of ours.  Data goes with its tables.

    Raises:
        as `upgrade`.
    """
    _run(database_url, lambda config: command.downgrade(config, revision))


def head() -> str:
    """The newest revision this syncworker knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current(database_url: str) -> str | None:
    """The revision a database is at; `None` when nobody migrated it, or when it is an SQLite file not made yet.

    Raises:
        StoreUnavailableError: the database cannot be reached.
        SettingsError: not a URL of a database we know.
    """
    url = parse_url(database_url)
    if _absent(url):
        return None
    with _connected(url, begin="BEGIN") as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check(database_url: str) -> None:
    """Let nobody work on a schema that is not the newest.

    Raises:
        SetupError: old, absent or newer; names the command.
        StoreUnavailableError: the database cannot be reached.
    """
    found, newest = current(database_url), head()
    if found == newest:
        return
    if found is None:
        raise SetupError(f"database_url: the database has no schema yet; run: {UPGRADE}")
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found in known:
        raise SetupError(f"database_url: the database schema is old ({found}, newest is {newest}); run: {UPGRADE}")
    raise SetupError(
        f"database_url: the database schema ({found}) is newer than this syncworker ({newest}); update syncworker"
    )


def _run(database_url: str, step: Callable[[Config], None]) -> None:
    url = parse_url(database_url)
    if _is_sqlite(url):
        _make_folder(Path(str(url.database)).parent)
    with _connected(url, begin="BEGIN IMMEDIATE") as connection:
        config = _config()
        config.attributes["connection"] = connection
        step(config)


def _make_folder(folder: Path) -> None:
    try:
        private.make_folder(folder)
    except OSError as error:
        raise SettingsError(
            f"database_url: the folder {folder} cannot be made ({error.strerror}); give another place"
        ) from None


def _config() -> Config:
    for folder in (_PACKAGE / "migrations", _PACKAGE.parent / "migrations"):
        if (folder / "env.py").is_file():
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            config.set_main_option("path_separator", "os")
            return config
    raise SetupError("the migrations are missing from this installation; install syncworker again")


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _absent(url: URL) -> bool:
    return _is_sqlite(url) and not Path(str(url.database)).exists()


@contextmanager
def _connected(url: URL, *, begin: str) -> Iterator[sa.Connection]:
    engine = _engine(url, begin)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        refused = translated(error)
        if getattr(error.orig, "sqlite_errorname", "") == "SQLITE_NOTADB":
            raise SettingsError(f"database_url: {url.database} is no SQLite database; give another file") from None
        if isinstance(refused, StoreUnavailableError):
            check = "the file and that we may write it and its folder" if _is_sqlite(url) else _CHECKED
            raise StoreUnavailableError(
                "database_url: the database cannot be reached, or does not let us in"
                f" ({getattr(error.orig, 'sqlite_errorname', type(error.orig).__name__)}); check {check}"
            ) from None
        raise refused from None
    finally:
        engine.dispose()


def _close_to_others(database: Path) -> None:
    with contextlib.suppress(OSError):  # SQLite says better what is wrong with the file
        private.close_database(database)


def _engine(url: URL, begin: str) -> sa.Engine:
    if _is_sqlite(url):
        engine = sa.create_engine(
            url.set(drivername="sqlite"),
            poolclass=sa.NullPool,
            hide_parameters=True,
            connect_args={"isolation_level": None, "timeout": _LOCK_TIMEOUT_MS / 1000},
        )
        sa.event.listen(engine, "do_connect", lambda *_: _close_to_others(Path(str(url.database))))
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine
    options = f"-c lock_timeout={_LOCK_TIMEOUT_MS} -c timezone=UTC"
    try:
        return sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            poolclass=sa.NullPool,
            hide_parameters=True,
            connect_args={"options": options, "connect_timeout": _CONNECT_TIMEOUT_S},
        )
    except ModuleNotFoundError as error:
        raise SetupError("database_url: PostgreSQL needs psycopg; install syncworker[postgres]") from error
