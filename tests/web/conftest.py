"""Fixtures of the web tests."""

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from syncworker import settings as settings_module
from syncworker.cli import bank_settings
from syncworker.settings import CONFIG_VARIABLE
from syncworker.simulator.sandbox import Sandbox
from syncworker.store import grants, migrate
from syncworker.store.roles import Kind, role_name
from syncworker.store.unit_of_work import Store
from syncworker.web.app import opened
from tests.ground.postgres import PostgresServer, as_role
from tests.web.house import PUBLIC_URL, WEB, Opener, WebHouse


@pytest.fixture(scope="session")
def bank_identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates of a bank that redirects to us, made once."""
    folder = tmp_path_factory.mktemp("bank")
    Sandbox(folder, customers=1, redirect_uri=f"{PUBLIC_URL}/callback")
    return folder


@pytest.fixture(scope="session")
def secured_template(postgres_server: PostgresServer) -> str:
    """A migrated database with roles, to copy."""
    name = postgres_server.clone()
    with migrate.connected(postgres_server.url(name)) as own, own.begin():
        grants.apply(own, tenants=["default"])
    return name


@pytest.fixture
def postgresql_url(postgres_server: PostgresServer, secured_template: str) -> Iterator[str]:
    """An own database with roles: on PostgreSQL the web process of these tests runs as its own."""
    database = postgres_server.clone(secured_template)
    yield postgres_server.url(database)
    postgres_server.drop(database)


@pytest.fixture
async def open_house(
    bank_identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_store: Callable[..., Store]
) -> AsyncIterator[Opener]:
    """`await open_house(url, more=…)`: a bank, and the web application on a database, closed at the end."""
    async with AsyncExitStack() as stack:

        async def opened_house(database_url: str, *, own: str = "", web: str = WEB, timer: Any = None) -> WebHouse:
            folder = tmp_path / "bank"
            shutil.copytree(bank_identity, folder)
            heard: list[Any] = []
            bank = await stack.enter_async_context(
                Sandbox(
                    folder,
                    customers=2,
                    strays=False,
                    redirect_uri=f"{PUBLIC_URL}/callback",
                    witness=lambda _, request: heard.append(request),
                )
            )
            home = tmp_path / "home"
            home.mkdir()
            if database_url.startswith("postgresql"):
                own = f'web_database_url = "{as_role(database_url, role_name(Kind.WEB))}"\n{own}'
            file = bank_settings.write(home, bank.facts(), database_url=database_url, own=own + web)
            monkeypatch.setenv(CONFIG_VARIABLE, str(file))
            settings = settings_module.load()
            app = await stack.enter_async_context(
                opened(settings.for_web(), **({} if timer is None else {"timer": timer}))
            )

            def client(**options: Any) -> httpx.AsyncClient:
                transport = httpx.ASGITransport(app, client=("192.0.2.1", 50_000))
                made = httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL, **options)
                stack.push_async_callback(made.aclose)
                return made

            keyring = None
            store = open_store(database_url, keyring=keyring, clock=None)
            house = WebHouse(settings, bank, app, store, client(), client(), client, heard)
            house.product.headers["authorization"] = f"Bearer {await house.key()}"
            return house

        yield opened_house


@pytest.fixture
async def web(open_house: Opener, database_url: str) -> WebHouse:
    """The web application on each database."""
    return await open_house(database_url)


@pytest.fixture
async def small_web(open_house: Opener, sqlite_url: str) -> WebHouse:
    """The web application where one database is enough."""
    return await open_house(sqlite_url)
