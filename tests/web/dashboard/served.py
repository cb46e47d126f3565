"""The web process on loopback over filled tables, for a browser."""

import asyncio
import socket
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from syncworker import settings as settings_module
from syncworker.cli.web import SERVING, listening
from syncworker.settings import ExportSettings, Settings, WebSettings
from syncworker.store import migrate
from syncworker.store.api_keys import Scope
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from syncworker.web.app import opened
from tests.web.dashboard.filled import Filled, fill
from tests.web.dashboard.filled_exports import EXPORTS


@dataclass(frozen=True)
class Served:
    """A web process in this one.

    Attributes:
        key: may act.
    """

    url: str
    key: str
    filled: Filled


def settings_of(folder: Path, database_url: str) -> Settings:
    """Settings of a web process on loopback without any bank of its own."""
    keyring = folder / "keyring"
    if not keyring.exists():
        KeyRing.generate(keyring)
    return settings_module.Settings(
        database_url=database_url,
        keyring=keyring,
        data_dir=folder / "data",
        web=WebSettings(port=0, key_per_second=1000, address_per_second=1000),
        exports={name: ExportSettings(**set_) for name, set_ in tomllib.loads(EXPORTS)["exports"].items()},
    )


@asynccontextmanager
async def served(
    folder: Path, *, database_url: str = "", customers: int = 60, hostile: bool = True, broker_url: str = ""
) -> AsyncIterator[Served]:
    """Fill tables and serve them; an own SQLite file unless a database is named."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    url = database_url or f"sqlite:///{folder / 'filled.db'}"
    settings = settings_of(folder, url)
    if broker_url:
        settings = settings.with_values(broker_url=broker_url)
    await asyncio.to_thread(migrate.upgrade, settings.database)
    store = Store(url, keyring=KeyRing.load(folder / "keyring"))
    try:
        filled = await fill(store, customers=customers, runs_each=10, declares_all=True, hostile=hostile)
        async with store.writing() as unit:
            at = await unit.now()
            _, key = await unit.api_keys.create("ops-night", [Scope.OPS_WRITE], at=at)
            await unit.commit()
    finally:
        await store.close()
    bound = listening(settings)
    port = bound.getsockname()[1]
    settings = settings.with_values(web=settings.web.model_copy(update={"port": port}))
    async with opened(settings) as application:
        begun = asyncio.Event()
        server = _Server(uvicorn.Config(application, **SERVING), begun)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        living = asyncio.create_task(_alive(url))
        try:
            await begun.wait()
            yield Served(f"http://127.0.0.1:{port}", key.get_secret_value(), filled)
        finally:
            living.cancel()
            server.should_exit = True
            await asyncio.gather(serving, living, return_exceptions=True)
            bound.close()


async def _alive(url: str) -> None:
    """The processes that the tables call alive go on."""
    store = Store(url)
    try:
        while True:
            async with store.writing() as unit:
                await unit.work.beat("ops-1/41", "worker")
                await unit.work.beat("ops-1/40", "beat")
                await unit.commit()
            await asyncio.sleep(2)
    finally:
        await store.close()


class _Server(uvicorn.Server):
    """Says when it has begun, and leaves the process's signals alone."""

    def __init__(self, config: uvicorn.Config, begun: asyncio.Event) -> None:
        super().__init__(config)
        self._begun = begun

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begun.set()
