"""Fixtures every test folder shares: databases, broker, clock, keys, processes.  They start what they need."""

import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from syncworker.store import migrate
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from tests.ground.clock import ManualClock
from tests.ground.loopback import forbid_other_networks
from tests.ground.postgres import PostgresServer
from tests.ground.processes import Nursery
from tests.ground.proxy import FaultProxy
from tests.ground.valkey import ValkeyServer

HERE = Path(__file__).parent
DATABASES = ("postgresql", "sqlite")
ABOVE_THE_STORE = ("sync/", "web/", "webhooks/", "consents/", "openings/")
ON_BOTH = (
    "sync/test_apply",
    "sync/test_filling",
    "sync/test_account_references",
    "sync/test_sql_views",
    "consents/test_repositories",
    "consents/test_vault",
    "consents/test_commit_first",
    "consents/test_ends",
    "openings/test_commit_first",
    "webhooks/test_commit_first",
    "consents/test_foreign_roots",
    "openings/test_table",
)


def pytest_configure() -> None:
    forbid_other_networks()
    os.environ["SSL_CERT_FILE"] = os.devnull  # the machine's own roots: no test meets them, and each context reads all


@pytest.fixture
def clock() -> ManualClock:
    """Stands still at the present second; `clock.advance(hours=6)`."""
    return ManualClock()


@pytest.fixture(scope="session")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    """A key ring from its file; the file is `keyring_path`."""
    return KeyRing.generate(tmp_path_factory.mktemp("keys") / "keyring")


@pytest.fixture
def keyring_path(tmp_path: Path) -> Path:
    """A key ring's file, as a setting names it."""
    path = tmp_path / "keyring"
    KeyRing.generate(path)
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """PostgreSQL on loopback, with a migrated template; fails where it cannot start."""
    server = PostgresServer()
    try:
        migrate.upgrade(server.make_template())
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An own, migrated, empty PostgreSQL database."""
    database = postgres_server.clone()
    yield postgres_server.url(database)
    postgres_server.drop(database)


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """An own, migrated, empty SQLite database."""
    path = tmp_path / "syncworker.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all-databases`: every test that has a database runs on both."""
    parser.addoption("--all-databases", action="store_true", help="run what builds on the store on SQLite too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes long, and shows in one more way what another test shows, waits for `--all-databases`."""
    if not config.getoption("all_databases"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The store, the schedule and the way of a sync run on both databases; what builds on them, on PostgreSQL.

    `--all-databases` (`make test-all`) runs everything on both.
    """
    chosen = any("database_url" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "database_url" in metafunc.fixturenames and not chosen:
        whole = metafunc.config.getoption("all_databases")
        place = metafunc.definition.path.relative_to(HERE).as_posix()
        above = place.startswith(ABOVE_THE_STORE) and not place.startswith(ON_BOTH)
        metafunc.parametrize("database_url", DATABASES[:1] if above and not whole else DATABASES, indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """An own, migrated, empty database."""
    url = request.getfixturevalue(f"{request.param}_url")
    assert isinstance(url, str)
    return url


@pytest.fixture
async def open_store(clock: ManualClock, keyring: KeyRing) -> AsyncIterator[Callable[..., Store]]:
    """`open_store(url, **changes)`: more stores, as other processes have; closed at the end."""
    async with AsyncExitStack() as stack:

        def opened(url: str, **changes: object) -> Store:
            options: dict[str, object] = {"keyring": keyring, "clock": clock, **changes}
            store = Store(url, **options)  # type: ignore[arg-type]  # tests name what they change
            stack.push_async_callback(store.close)
            return store

        yield opened


@pytest.fixture
def store(database_url: str, open_store: Callable[..., Store]) -> Store:
    """The store on `database_url`, its time on `clock`, its seals with `keyring`."""
    return open_store(database_url)


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """Valkey on loopback; fails where it cannot start."""
    server = ValkeyServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def broker_url(valkey: ValkeyServer) -> str:
    """An empty broker."""
    valkey.flush()
    return valkey.url


@pytest.fixture
async def fault_proxy() -> AsyncIterator[Callable[[str | int], Awaitable[FaultProxy]]]:
    """`proxy = await fault_proxy(url or port)`: a proxy before that target, gone at the end."""
    async with AsyncExitStack() as stack:

        async def before(target: str | int) -> FaultProxy:
            port = target if isinstance(target, int) else urlsplit(target).port
            assert port is not None, "the URL names no port"
            return await stack.enter_async_context(FaultProxy(port))

        yield before


@pytest.fixture
def worker_process(tmp_path: Path) -> Iterator[Nursery]:
    """Starts processes (`worker_process.syncworker("worker", env=…, ready=…)`) and kills every one at the end."""
    folder = tmp_path / "processes"
    folder.mkdir()
    nursery = Nursery(folder)
    yield nursery
    nursery.clear()
