"""Bring a database to the newest schema, or say that it is old, or not fit for us.

The migrations lie beside the package in a checkout and inside it in a wheel.  Everything here is synchronous: it runs
in a command, before any loop.  Only `demo` and `up` on SQLite migrate by themselves; everything else refuses an old
schema with the command to run.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from syncworker import private
from syncworker.clock import in_time
from syncworker.errors import SettingsError, SetupError
from syncworker.store import grants, view_maker
from syncworker.store.address import Address, address_of
from syncworker.store.engines import NO_DRIVER, set_in_transactions
from syncworker.store.failures import StoreUnavailableError, translated
from syncworker.store.statistics import gather_all

if TYPE_CHECKING:
    import psycopg

UPGRADE: Final = "syncworker db upgrade"
LOCK: Final = 7_310_579_012_026
"""A number of our own among PostgreSQL's advisory locks."""

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_LOCK_TIMEOUT_MS: Final = 10_000  # a migration that waits for a lock makes everybody behind it wait too
_SETTINGS: Final = {"lock_timeout": str(_LOCK_TIMEOUT_MS), "timezone": "UTC"}
_CHECKED: Final = "host, port, name, user and that it runs"
CHECK_S: Final = 12.0
"""Seconds after which a check of the database gives up: something may take the connection and say nothing."""

_MARGIN_S: Final = 2.0

_ROUNDS: Final = 5
_POOLER_S: Final = 3.0

FAULTS: Final = (
    ("server does not support SSL", "sslmode asks for TLS, and the server offers none"),
    ("invalid response to SSL negotiation", "what listens there does not speak PostgreSQL: correct the port"),
    ("certificate verify failed", "the server's certificate is not trusted; name its authority in sslrootcert"),
    ("root certificate file", "the server's certificate cannot be verified; name its authority in sslrootcert"),
    ("does not match host name", "the server's certificate names another host; write the host as the certificate does"),
    ("password authentication failed", "the password is wrong"),
    ("SASL authentication failed", "the password is wrong"),
    ("no password supplied", "a password is asked for; write it into database_url"),
    ("no pg_hba.conf entry", "the server's pg_hba.conf does not let us in from here"),
    ("session is read-only", "no host takes writes (target_session_attrs)"),
    ("server is in hot standby mode", "no host takes writes (target_session_attrs)"),
    ("the database system is", "the server is starting or stopping"),
    ("too many clients", "it has no connection left"),
    ("remaining connection slots", "it has no connection left"),
    ("too many connections", "it has no connection left"),
    ("no such database", "the pooler knows no such database"),
    ("no such user", "the pooler knows no such user"),
    ("does not exist", "no such database or user"),
    ("not known", "the host's name is not known"),
    ("resolution", "the host's name cannot be resolved"),
    ("Connection refused", "nothing listens at that port"),
    ("timeout expired", "no answer in time"),
    ("invalid connection option", "the installed libpq does not know a parameter of the URL; remove it"),
)
"""Parts of libpq's and PostgreSQL's messages when a connection fails, and what we say; the first that is found."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a database says of itself.

    Attributes:
        schema: its revision; `None` when it was never migrated.
        server: kind and version.
        encoding: of the database.
        writable: whether it takes writes now.
        pooler: whether something stands between us and the server: `none`, `session` or `transaction`.
    """

    schema: str | None
    server: str
    encoding: str = "UTF8"
    writable: bool = True
    pooler: str = "none"


def fault_of(text: str) -> str:
    """What a failed connection's message says, in words of ours; empty when it is not known.  Repeats none of it."""
    return next((said for part, said in FAULTS if part in text), "")


def upgrade(database: str | Address, revision: str = "head") -> None:
    """Run the missing migrations, all or none, and make the views; a database that has them all is left alone.

    The views (`store.sql_views`) are dropped before the first migration and made behind the last, and made anew where
    their definition is another, in the same transaction.  On PostgreSQL the roles that `db roles apply` made get their
    rights on what is new there (`store.grants`), and the statistics of the tables that hold rows are gathered then
    (`store.statistics`).

    Raises:
        StoreUnavailableError: the database cannot be reached.
        StoreRefusedError: it refused a statement.
        SetupError: its encoding is not UTF8, a pooler in transaction mode that no setting names, or a view of others
            that is in the way of ours.
        SettingsError: not a URL of a database we know.
    """
    address = address_of(database)
    if address.file is None:
        _refuse_encoding(facts(address))
    before = current(address)
    _run(address, lambda config: command.upgrade(config, revision), up=True)
    if address.file is None and before != current(address) == head():
        with _connected(address, begin="BEGIN") as connection:
            gather_all(connection)
            connection.commit()


def downgrade(database: str | Address, revision: str) -> None:
    """Undo migrations down to `revision`; `base` leaves no table of ours.  Data goes with its tables.

    Raises:
        as `upgrade`.
    """
    _run(address_of(database), lambda config: command.downgrade(config, revision), up=False)


def head() -> str:
    """The newest revision this syncworker knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current(database: str | Address) -> str | None:
    """The revision a database is at; `None` when nobody migrated it, or when it is an SQLite file not made yet.

    Raises:
        StoreUnavailableError: the database cannot be reached.
        SettingsError: not a URL of a database we know.
    """
    address = address_of(database)
    if _absent(address):
        return None
    with _connected(address, begin="BEGIN") as connection:
        return _revision(connection)


def check(database: str | Address, *, within: float = CHECK_S) -> Facts:
    """Refuse a schema that is not the newest, and a database that is not fit for us.

    Args:
        within: seconds; more where the URL names several hosts or a longer `connect_timeout`.

    Raises:
        SetupError: an old, absent or newer schema, another encoding than UTF8, a pooler in transaction mode that no
            setting names; says what to do.
        StoreUnavailableError: the database cannot be reached, or does not answer in time.
    """
    address = address_of(database)
    within = max(within, address.connecting_max_s + _MARGIN_S)
    try:
        found = in_time(lambda: facts(address), within=within)
    except TimeoutError:
        raise StoreUnavailableError(
            f"database_url: the database took the connection and did not answer within {within:.0f} s;"
            f" check {_CHECKED}, and whether a pooler before it has a session left"
        ) from None
    _refuse_encoding(found)
    newest = head()
    if found.schema == newest:
        return found
    if found.schema is None:
        raise SetupError(f"database_url: the database has no schema yet; run: {UPGRADE}")
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if found.schema in known:
        raise SetupError(
            f"database_url: the database schema is old ({found.schema}, newest is {newest}); run: {UPGRADE}"
        )
    raise SetupError(
        f"database_url: the database schema ({found.schema}) is newer than this syncworker's ({newest});"
        " update syncworker"
    )


def _refuse_encoding(found: Facts) -> None:
    if found.encoding != "UTF8":
        raise SetupError(
            f"database_url: the database's encoding is {found.encoding}, and what banks send needs UTF8; make another:"
            " CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def views(database: str | Address) -> view_maker.Found:
    """What the views of a database at the newest schema are like (`check` says whether it is).

    Raises:
        StoreUnavailableError: the database cannot be reached.
    """
    with _connected(address_of(database), begin="BEGIN") as connection:
        return view_maker.found(connection)


def facts(database: str | Address) -> Facts:
    """What a database says of itself; changes nothing there, in no session either.

    Raises:
        SetupError: a pooler in transaction mode that no setting names.
        StoreUnavailableError: the database cannot be reached.
    """
    address = address_of(database)
    if address.file is not None:
        return Facts(current(address), f"SQLite {sqlite3.sqlite_version}")
    with _connected(address, begin="BEGIN") as connection:
        own = _driver(connection)
        _refuse_undeclared_pooler(address, own)
        backend, encoding, read_only, version = connection.exec_driver_sql(
            "SELECT pg_backend_pid(), current_setting('server_encoding'), current_setting('transaction_read_only'),"
            " current_setting('server_version')"
        ).one()
        pooled = address.pooler.value if address.shares_sessions else "session"
        return Facts(
            schema=_revision(connection),
            server=f"PostgreSQL {version.split()[0]}",
            encoding=encoding,
            writable=read_only == "off",
            pooler="none" if own.info.backend_pid == backend else pooled,
        )


def _driver(connection: sa.Connection) -> "psycopg.Connection[Any]":
    import psycopg

    own = connection.connection.driver_connection
    assert isinstance(own, psycopg.Connection)
    return own


def _refuse_undeclared_pooler(address: Address, connection: "psycopg.Connection[Any]") -> None:
    """A pooler in transaction mode would break prepared statements and settings later, with errors far from the cause.

    A pooler gives itself away: the process id told at the start is not that of the server's process.
    """
    if address.shares_sessions or _pid(connection) == connection.info.backend_pid:
        return
    try:
        shares = in_time(lambda: _shares_sessions(address), within=_POOLER_S)
    except TimeoutError:  # its sessions are all taken: each client has one of its own
        return
    if shares:
        raise SetupError(
            "database_url: leads to a pooler in transaction mode (PgBouncer's pool_mode);"
            ' set database_pooler = "transaction", or let it pool sessions'
        )


def _shares_sessions(address: Address) -> bool:
    """Whether a client's session is another's as soon as its transaction has ended."""
    with closing(_opened(address)) as one, closing(_opened(address)) as other:
        for _ in range(_ROUNDS):
            free = _pid(one)
            with other.transaction():
                if _pid(other) == free or _pid(one) != free:
                    return True
    return False


def _pid(connection: "psycopg.Connection[Any]") -> int:
    ((pid,),) = connection.execute("SELECT pg_backend_pid()").fetchall()
    assert isinstance(pid, int)
    return pid


@contextmanager
def connected(database: str | Address) -> Iterator[sa.Connection]:
    """A connection for a command that looks at the database itself or changes it; nothing commits by itself.

    Raises:
        as `upgrade`.
    """
    with _connected(address_of(database), begin="BEGIN") as connection:
        yield connection


def _run(address: Address, step: Callable[[Config], None], *, up: bool) -> None:
    """Run a step of Alembic without views of ours, which are there again where it ends at the newest schema.

    On PostgreSQL one such run at a time: others wait, and then find nothing to do.

    Args:
        up: the step adds migrations, so that it has nothing to do at the newest schema.
    """
    if address.file is not None:
        _make_folder(address.file.parent)
    with _connected(address, begin="BEGIN IMMEDIATE") as connection, connection.begin():
        if address.file is None:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        if up and _revision(connection) == head():
            view_maker.renew(connection)
            grants.renew(connection)
            return
        kept = view_maker.drop(connection)
        config = _config()
        config.attributes["connection"] = connection
        step(config)
        if _revision(connection) == head():
            view_maker.make(connection, kept)
        else:
            view_maker.put_back(connection, kept)
        if up:
            grants.renew(connection)


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


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


def _absent(address: Address) -> bool:
    return address.file is not None and not address.file.exists()


@contextmanager
def _connected(address: Address, *, begin: str) -> Iterator[sa.Connection]:
    engine = _engine(address, begin)
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        refused = translated(error)
        if getattr(error.orig, "sqlite_errorname", "") == "SQLITE_NOTADB":
            raise SettingsError(f"database_url: {address.file} is no SQLite database; give another file") from None
        if isinstance(refused, StoreUnavailableError):
            check = _CHECKED if address.file is None else "the file and that we may write it and its folder"
            code = getattr(error.orig, "sqlite_errorname", None) or type(error.orig).__name__
            said = fault_of(str(error.orig)) if address.file is None else ""
            raise StoreUnavailableError(
                f"database_url: the database cannot be reached, or does not let us in"
                f" ({code}{': ' if said else ''}{said}); check {check}"
            ) from None
        raise refused from None
    finally:
        engine.dispose()


def _close_to_others(database: Path) -> None:
    with contextlib.suppress(OSError):  # SQLite says better what is wrong with the file
        private.close_database(database, make=True)


def _engine(address: Address, begin: str) -> sa.Engine:
    file = address.file
    if file is not None:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(file)),
            poolclass=sa.NullPool,
            hide_parameters=True,
            connect_args={"isolation_level": None, "timeout": _LOCK_TIMEOUT_MS / 1000},
        )
        sa.event.listen(engine, "do_connect", lambda *_: _close_to_others(file))
        sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine
    try:
        engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=lambda: _opened(address, autocommit=False),
            poolclass=sa.NullPool,
            hide_parameters=True,
        )
    except ModuleNotFoundError as error:
        raise SetupError(NO_DRIVER) from error
    set_in_transactions(engine, address, _SETTINGS)
    return engine


def _opened(address: Address, *, autocommit: bool = True) -> "psycopg.Connection[Any]":
    """A session that nothing is left in: no setting and no prepared statement."""
    import psycopg

    return psycopg.connect(**{**address.arguments(), "autocommit": autocommit, "prepare_threshold": None})
