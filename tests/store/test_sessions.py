"""Sessions that are no good leave the pool: with real servers that fail over, restart, take rights away or move."""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql

from syncworker.consents.storing import Storing
from syncworker.store import migrate
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.statements import Statement
from syncworker.store.tables import worker
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.postgres import PostgresServer
from tests.ground.processes import account_for_servers, folder_for
from tests.ground.proxy import FaultProxy

pytestmark = pytest.mark.store

_PUT = Statement(
    lambda dialect: sa.insert(worker).values(
        name=sa.bindparam("name", type_=worker.c.name.type, required=True),
        kind="worker",
        started_at=dialect.now(),
        progress_at=dialect.now(),
    )
)


async def put(store: Store, name: str) -> None:
    """A row and its commit in one trip, by the way that a worker's statements take."""

    async def step(unit: UnitOfWork) -> None:
        unit.with_commit([(_PUT, {"name": name})])

    await store.atomically(step)


async def names(store: Store) -> list[str]:
    async with store.reading() as unit:
        return list(await unit.connection.scalars(sa.select(worker.c.name).order_by(worker.c.name)))


async def warm(store: Store, sessions: int = 3) -> None:
    """Several sessions stand in the pool."""
    met = asyncio.Barrier(sessions)

    async def hold() -> None:
        async with store.reading() as unit:
            await unit.now()
            await met.wait()

    await asyncio.gather(*(hold() for _ in range(sessions)))


class Storm:
    """What `Storing` waits by: it goes through these acts, one a wait, so that no test sleeps."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        self.acts = list(acts)
        self.waits = 0

    async def __call__(self, _seconds: float) -> None:
        self.waits += 1
        assert self.waits < 20, "the database is well again, and the session is not"
        if self.acts:
            self.acts.pop(0)()


async def stored(store: Store, name: str, storm: Storm) -> None:
    """Store as a new token is stored: tried again until the database takes it."""
    await Storing(sleep=storm).until_done(lambda: put(store, name))


@pytest.fixture
def admin(postgresql_url: str) -> Iterator[Callable[..., None]]:
    """`admin(statement, *names)` as the superuser, whatever a transaction may do there."""
    with psycopg.connect(postgresql_url, autocommit=True, options="-c default_transaction_read_only=off") as connection:

        def run(statement: str, *names: str) -> None:
            text = sql.SQL(statement).format(*map(sql.Identifier, names))
            connection.execute(text)

        yield run


@pytest.fixture
def plain(postgresql_url: str, open_store: Callable[..., Store]) -> Store:
    """A store that takes the database's own time, as a worker does."""
    return open_store(postgresql_url, clock=None)


async def test_sessions_of_a_server_that_was_read_only_are_given_up(
    plain: Store, postgresql_url: str, admin: Callable[..., None]
) -> None:
    """After a failover the sessions in the pool may stay read-only for ever; a token is stored by a new one."""
    database = urlsplit(postgresql_url).path[1:]
    admin("ALTER DATABASE {} SET default_transaction_read_only = on", database)
    await warm(plain)
    storm = Storm(lambda: admin("ALTER DATABASE {} RESET default_transaction_read_only", database))

    await stored(plain, "w1", storm)
    await asyncio.gather(*(put(plain, f"w{number}") for number in range(2, 5)))

    assert await names(plain) == ["w1", "w2", "w3", "w4"]


async def test_a_read_only_session_is_given_up_on_the_ordinary_way_too(
    plain: Store, postgresql_url: str, admin: Callable[..., None]
) -> None:
    """The same for a statement that SQLAlchemy sends: one failure, then a session that writes."""
    database = urlsplit(postgresql_url).path[1:]
    admin("ALTER DATABASE {} SET default_transaction_read_only = on", database)

    async def write() -> None:
        async with plain.writing() as unit:
            await unit.connection.execute(sa.update(worker).values(kind="worker"))
            await unit.commit()

    with pytest.raises(StoreUnavailableError, match="25006: it takes no writes now"):
        await write()
    admin("ALTER DATABASE {} RESET default_transaction_read_only", database)

    await write()


async def test_sessions_the_server_ended_are_replaced(plain: Store, admin: Callable[..., None]) -> None:
    """`pg_terminate_backend` ends idle sessions and one in the middle of a transaction: only that one is heard of."""
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await warm(plain)

    with pytest.raises(StoreUnavailableError):  # noqa: PT012  the session must be in a transaction when it is ended
        async with plain.writing() as unit:
            await unit.now()
            admin(end)
            await unit.now()
    await asyncio.gather(*(put(plain, f"w{number}") for number in range(3)))

    assert await names(plain) == ["w0", "w1", "w2"]


async def test_a_token_is_stored_once_a_right_is_given_back(
    postgresql_url: str, open_store: Callable[..., Store], admin: Callable[..., None]
) -> None:
    """REVOKE under a running worker: what was answered is kept and tried again until an operator has mended it."""
    parts = urlsplit(postgresql_url)
    role = f"limited_{parts.path[1:]}"
    admin("CREATE ROLE {} LOGIN", role)
    try:
        admin("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {}", role)
        store = open_store(parts._replace(netloc=f"{role}@{parts.hostname}:{parts.port}").geturl(), clock=None)
        await put(store, "w1")
        admin("REVOKE INSERT ON worker FROM {}", role)

        await stored(store, "w2", Storm(lambda: None, lambda: admin("GRANT INSERT ON worker TO {}", role)))

        assert await names(store) == ["w1", "w2"]
        await store.close()
    finally:
        admin("DROP OWNED BY {}", role)
        admin("DROP ROLE {}", role)


async def test_a_time_limit_left_in_a_session_goes_with_it(
    postgresql_url: str, open_store: Callable[..., Store]
) -> None:
    """A session whose limit is not ours cancels statement after statement; after the first it is another session."""
    store = open_store(postgresql_url, clock=None, connections=1)
    slow = sa.text("SELECT pg_sleep(0.2)")
    async with store.looking() as unit:
        await unit.connection.execute(sa.text("SET statement_timeout = 20"))

    with pytest.raises(StoreUnavailableError, match="57014: the statement was cancelled"):
        async with store.reading() as unit:
            await unit.connection.execute(slow)

    async with store.reading() as unit:
        await unit.connection.execute(slow)


async def test_an_immediate_restart_of_the_server_is_outlived(open_store: Callable[..., Store]) -> None:
    """A crash in the middle: the answer being stored is tried again, and idle sessions are replaced unheard."""
    server = PostgresServer(settings={"fsync": "on", "synchronous_commit": "on"})
    try:
        migrate.upgrade(server.make_template())
        store = open_store(server.url(server.clone()), clock=None)
        await warm(store)
        await put(store, "w1")
        server.restart_at_once()

        await stored(store, "w2", Storm())
        await asyncio.gather(*(put(store, f"w{number}") for number in range(3, 6)))

        assert await names(store) == ["w1", "w2", "w3", "w4", "w5"]
        await store.close()
    finally:
        server.close()


async def test_a_list_of_hosts_finds_the_one_that_takes_writes(
    postgresql_url: str,
    open_store: Callable[..., Store],
    admin: Callable[..., None],
    fault_proxy: Callable[[str | int], Awaitable[FaultProxy]],
) -> None:
    """The first host is away and the second serves; a session that takes no writes is not begun at all."""
    parts = urlsplit(postgresql_url)
    gone = await fault_proxy(postgresql_url)
    await gone.refuse()
    hosts = f"{parts.username}@127.0.0.1:{gone.port},127.0.0.1:{parts.port}"
    url = f"postgresql://{hosts}{parts.path}?target_session_attrs=read-write&connect_timeout=5"
    store = open_store(url, clock=None)
    await put(store, "w1")
    admin("ALTER DATABASE {} SET default_transaction_read_only = on", parts.path[1:])

    with pytest.raises(StoreUnavailableError, match=r"no host takes writes \(target_session_attrs\)"):
        await asyncio.to_thread(migrate.check, url)
    admin("ALTER DATABASE {} RESET default_transaction_read_only", parts.path[1:])
    await put(store, "w2")

    assert (await names(store), migrate.check(url).writable) == (["w1", "w2"], True)


async def test_options_of_the_url_hold_in_each_session(postgresql_url: str, open_store: Callable[..., Store]) -> None:
    """`options=-c …` stands beside our own settings, in transactions and outside of them."""
    store = open_store(f"{postgresql_url}?options=-c work_mem=7MB&application_name=mine", clock=None)
    shown = []
    for opened in (store.reading, store.looking, store.writing):
        async with opened() as unit:
            for name in ("work_mem", "application_name", "statement_timeout"):
                value = await unit.connection.scalar(sa.text(f"SHOW {name}"))
                shown.append(value)

    assert shown == ["7MB", "mine", "30s"] * 3


# -- SQLite -----------------------------------------------------------------------------------------------------------


async def test_a_file_put_in_the_place_of_the_database_is_used(
    sqlite_url: str, sqlite_template: Path, tmp_path: Path, open_store: Callable[..., Store]
) -> None:
    """A restored backup: sessions that hold the old file would write where nothing is read any more."""
    store = open_store(sqlite_url, clock=None)
    await put(store, "before")
    _move(tmp_path / "syncworker.db", tmp_path / "old.db")
    shutil.copyfile(sqlite_template, tmp_path / "syncworker.db")

    await put(store, "after")

    assert await names(store) == ["after"]


async def test_a_file_that_was_moved_away_is_waited_for(
    sqlite_url: str, tmp_path: Path, open_store: Callable[..., Store]
) -> None:
    """No empty database is made in its place; once it is back, what was to be stored is stored."""
    file, away = tmp_path / "syncworker.db", tmp_path / "away.db"
    store = open_store(sqlite_url, clock=None)
    await put(store, "w1")
    _move(file, away)
    with pytest.raises(StoreUnavailableError, match="SQLITE_CANTOPEN"):
        await names(store)
    made = file.exists()

    await stored(store, "w2", Storm(lambda: None, lambda: _move(away, file)))

    assert (made, await names(store)) == (False, ["w1", "w2"])


async def test_a_full_disk_is_waited_for(sqlite_url: str, open_store: Callable[..., Store]) -> None:
    """The answer is stored once there is room; the session is the same."""
    store = open_store(sqlite_url, clock=None)
    async with store.writing() as unit:
        pages = await unit.connection.scalar(sa.text("PRAGMA page_count"))
        await unit.connection.execute(sa.text(f"PRAGMA max_page_count = {pages}"))
    room: list[Callable[[], Awaitable[None]]] = []

    async def grow() -> None:
        async with store.writing() as unit:
            await unit.connection.execute(sa.text("PRAGMA max_page_count = 1000000"))

    room.append(grow)

    async def fill() -> None:
        puts = [put(store, f"{number:03}{'x' * 120}") for number in range(300)]
        for ended in await asyncio.gather(*puts, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    with pytest.raises(StoreUnavailableError, match="SQLITE_FULL"):
        await fill()
    before = await names(store)

    async def wait(_seconds: float) -> None:
        await room.pop()()

    await Storing(sleep=wait).until_done(lambda: _fill_up(store))

    assert len(await names(store)) == len(before) + 300


async def _fill_up(store: Store) -> None:
    async def step(unit: UnitOfWork) -> None:
        unit.with_commit([(_PUT, {"name": f"{number:03}{'y' * 120}"}) for number in range(300)])

    await store.atomically(step)


async def test_a_file_made_read_only_is_waited_for(sqlite_template: Path, open_store: Callable[..., Store]) -> None:
    """New sessions cannot write: once they may, what was to be stored is stored."""
    account = account_for_servers()
    folder = folder_for(account, "swro")
    file = folder / "syncworker.db"
    shutil.copyfile(sqlite_template, file)
    try:
        with _as_user(None if account is None else account.uid, [file]):
            file.chmod(0o444)
            store = open_store(f"sqlite:///{file}", clock=None)
            with pytest.raises(StoreUnavailableError, match=r"SQLITE_(READONLY|CANTOPEN)"):
                await put(store, "w1")

            await stored(store, "w1", Storm(lambda: None, lambda: file.chmod(0o644)))

            assert await names(store) == ["w1"]
            await store.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _as_user:  # noqa: N801  used as a statement
    """Act as another user where we are root, whom no file's mode keeps out."""

    def __init__(self, uid: int | None, files: Sequence[Path]) -> None:
        self._uid = uid
        self._files = files

    def __enter__(self) -> None:
        if self._uid is not None:
            for file in self._files:
                os.chown(file, self._uid, -1)
            os.seteuid(self._uid)

    def __exit__(self, *_: object) -> None:
        if self._uid is not None:
            os.seteuid(0)


def _move(file: Path, to: Path) -> None:
    """A database with the files beside it."""
    for ending in ("-wal", "-shm", ""):
        part = file.with_name(file.name + ending)
        if part.exists():
            part.rename(to.with_name(to.name + ending))
