"""A bank and a web process of its own, over TLS on loopback, and a product with a page to return to."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from syncworker.cli import bank_settings
from syncworker.simulator.sandbox import Sandbox
from tests.cli.house import House
from tests.ground.postgres import free_port
from tests.ground.processes import Nursery, Spawned


@dataclass
class Product:
    """The page users are sent back to.

    Attributes:
        visits: path and query of each visit.
    """

    url: str = ""
    visits: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.visits.append(head.split(b" ")[1].decode())
        body = b"<!doctype html><title>App</title><h1>Welcome back</h1>"
        lines = (
            b"HTTP/1.1 200 OK",
            b"content-type: text/html",
            b"connection: close",
            b"content-length: %d" % len(body),
        )
        writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        await writer.drain()
        writer.close()


@dataclass
class Town:
    """Everything that runs.

    Attributes:
        url: where browsers reach the web process.
    """

    house: House
    bank: Sandbox
    product: Product
    process: Spawned
    url: str


@asynccontextmanager
async def town(folder: Path, nursery: Nursery, *, settings: str = "") -> AsyncIterator[Town]:
    """A bank in this process, `syncworker web` in another with the bank's server certificate, a product's page.

    Args:
        settings: more of them, above the first table.
    """
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    product = Product()
    server = await asyncio.start_server(product.serve, "127.0.0.1", 0)
    product.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/banks"
    bank = Sandbox(folder / "bank", customers=2, strays=False, redirect_uri=f"{url}/callback")
    async with server, bank:
        home = folder / "home"
        home.mkdir()
        identity = bank.identity
        web = f"""{settings}
[web]
key_per_second = 1000
port = {port}
certificate = "{identity.server_certificate}"
key = "{identity.server_key}"
return_urls = ["{product.url}"]
"""
        bank_settings.write(home, bank.facts(), own=web)
        house = House(home)
        upgraded = await asyncio.to_thread(house.run, "db", "upgrade")
        assert upgraded.code == 0, upgraded.said
        process = nursery.syncworker("web", "--log-level", "debug", cwd=home, env=house.environment())
        await process.soon(lambda child: bool(re.search("web: listens at", child.output())), timeout=60)
        yield Town(house, bank, product, process, url)
