"""Calls to banks whose TLS handshakes stall or are reset, many at once, beside calls to a healthy bank.

    python -m tests.lfi.storm [--rounds 10] [--each 200]

`storm` runs on the event loop it is called on; what it measured comes back as `Told`.  As a script it gives the banks a
process of their own, runs calm rounds and stormy ones by turns, on uvloop and on asyncio's own loop, prints a line for
each loop, and ends with exit code 1 when a call failed in another way than it should, when a descriptor is left open,
or when the healthy bank was read at less than `KEPT_MIN` of its calm rate.  On a machine too busy to read it at
`CALM_MIN` of the rate its latency allows, rates are printed and not judged.
"""

import argparse
import asyncio
import dataclasses
import gc
import itertools
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

from syncworker.cli import logs
from syncworker.errors import TransientError
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.lfi.transport import Attempts, Call, Lane, Lines, Request
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version
from tests.ground.handshakes import FailingHandshakes, Fault
from tests.lfi import raw_bank
from tests.lfi.raw_bank import CLIENT_ID, REDIRECT_URI, Identities, RawBank, http

LOOPS: Final[Mapping[str, Callable[[], asyncio.AbstractEventLoop]]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
KEPT_MIN: Final = 0.8
"""Share of its calm rate at which the healthy bank is read in a storm, at least."""

CALM_MIN: Final = 0.8
LATENCY_S: Final = 0.05
"""How long the healthy bank takes for an answer, when it has a process of its own."""

PATIENCE_S: Final = 30.0
"""Deadline of every call, and connect timeout of those that are not to end by it."""

CALLERS: Final = 8
"""How many calls to the healthy bank are under way at once."""

CLOSED_EVERY: Final = 5
"""One answer of the healthy bank in so many ends its connection, so that new sockets are made all the time."""

LEFT: Final = "left"
"""Name of the stalled calls that their caller cancels."""

_DESCRIPTORS: Final = Path("/proc/self/fd")


class Now:
    """A clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


@dataclass
class Told:
    """What a storm left.

    Attributes:
        failed: calls to the failing banks, by name and by the `error_code` of their `Call`.
        unexpected: by its text, what a call to a failing bank raised that was neither a `TransientError` nor the
            cancellation asked for, and everything but 200 of the healthy bank.
        strays: what the loop's exception handler was told.
        healthy: answers of the healthy bank.
        seconds: how long the rounds took.
        processor_seconds: what they took of the processor, in this process.
        left_open: descriptors of this process that were opened and not closed.
    """

    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    strays: list[str] = field(default_factory=list)
    healthy: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    left_open: int = 0

    @property
    def rate(self) -> float:
        """Answers of the healthy bank a second."""
        return self.healthy / self.seconds


@dataclass
class Sick:
    """Calls of one round to one failing bank: how many, and how they are made."""

    name: str
    origin: str
    calls: int
    attempts: Attempts


def config_of(bank: str, base_url: str, identities: Identities) -> LFIConfig:
    """A bank on loopback."""
    return LFIConfig(
        slug=Slug("healthy"),
        issuer=bank,
        discovery_url=f"{bank}/.well-known/openid-configuration",
        base_urls={Version.V2_1: base_url},
        client_id=CLIENT_ID,
        redirect_uri=REDIRECT_URI,
        signing_key=SigningKey.load(identities.signing_key, "sig-1"),
        transport=TransportCertificate.load(
            identities.client_certificate, identities.client_key, now=datetime.now(UTC)
        ),
        ca_bundle=identities.ca_bundle,
        allow_private_hosts=True,
    )


def often_closed(*, latency: float = 0.0) -> raw_bank.Reply:
    """Answers of the healthy bank; every `CLOSED_EVERY`-th one ends its connection."""
    turn = itertools.cycle([http(body=b"{}")] * (CLOSED_EVERY - 1) + [http(body=b"{}", connection="close")])

    async def reply(_request: raw_bank.Request, writer: asyncio.StreamWriter) -> None:
        if latency:
            await asyncio.sleep(latency)
        answer = next(turn)
        writer.write(answer)
        if b"close" in answer:
            writer.close()

    return reply


async def storm(
    config: LFIConfig,
    url: str,
    sick: Mapping[Fault, str],
    *,
    rounds: int,
    each: int,
    left: int = 20,
    connect_timeout: float,
    connections: int,
) -> Told:
    """Send `each` calls into a stall and `each` into a reset, round after round, while the healthy bank is read.

    Args:
        config: of the healthy bank.
        url: what is read there.
        sick: origins of the failing banks.
        left: how many more calls a round stall until their caller cancels them.
        connect_timeout: at which the stalled calls end, in seconds.
        connections: of each lane of each failing bank.
    """
    told = Told()
    loop = asyncio.get_running_loop()
    kept_handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _loop, context: told.strays.append(_text(context)))
    await _first_stream(url)
    gc.collect()
    before = _descriptors()
    try:
        async with AsyncExitStack() as stack:

            def attempts(name: str, connections: int, timeout: float) -> Attempts:
                changed = dataclasses.replace(config, slug=Slug(name), connections=connections, connect_timeout=timeout)
                lines = Lines(changed, clock=Now())
                stack.push_async_callback(lines.close)
                return Attempts(name, lines, clock=Now())

            def of(fault: Fault, calls: int, timeout: float, name: str = "") -> Sick:
                name = name or fault.name.lower()
                return Sick(name, sick[fault], calls, attempts(name, connections, timeout))

            healthy = attempts("healthy", CALLERS, PATIENCE_S)
            failing = [
                of(Fault.STALL, each, connect_timeout),
                of(Fault.AT_ACCEPT, each // 2, PATIENCE_S),
                of(Fault.IN_HANDSHAKE, each // 2, PATIENCE_S),
            ]
            leaving = of(Fault.STALL, left, PATIENCE_S, LEFT)
            await asyncio.gather(*(_made(healthy, url, lane, [], Told()) for lane in Lane))
            began, began_processor = time.perf_counter(), time.process_time()
            for _ in range(rounds):
                over = asyncio.Event()
                readers = [asyncio.create_task(_read(healthy, url, told, over)) for _ in range(CALLERS)]
                await _strike(failing, leaving, told, at_least=connect_timeout)
                over.set()
                await asyncio.gather(*readers)
            told.seconds = time.perf_counter() - began
            told.processor_seconds = time.process_time() - began_processor
    finally:
        loop.set_exception_handler(kept_handler)
    told.left_open = await _left_open(before)
    return told


async def _strike(failing: Sequence[Sick], leaving: Sick, told: Told, *, at_least: float) -> None:
    """One round, at least so many seconds long."""
    lanes = itertools.cycle(Lane)
    waits = asyncio.create_task(asyncio.sleep(at_least))

    def calls(sick: Sick) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(_fail(sick, next(lanes), told)) for _ in range(sick.calls)]

    left = calls(leaving)
    await asyncio.gather(waits, *(call for sick in failing for call in calls(sick)))
    for call in left:
        call.cancel()
    for end in await asyncio.gather(*left, return_exceptions=True):
        if not isinstance(end, asyncio.CancelledError):
            told.unexpected[f"{LEFT}: {end!r}"] += 1


async def _fail(sick: Sick, lane: Lane, told: Told) -> None:
    calls: list[Call] = []
    try:
        await sick.attempts.make(_request(f"{sick.origin}/x", lane, calls))
    except TransientError:
        pass
    except Exception as error:  # noqa: BLE001  it is told
        told.unexpected[f"{sick.name}: {error!r}"] += 1
    finally:
        told.failed[sick.name, calls[0].error_code] += 1


async def _read(attempts: Attempts, url: str, told: Told, over: asyncio.Event) -> None:
    """Read the healthy bank until the round is over."""
    for lane in itertools.cycle(Lane):
        if over.is_set():
            return
        await _made(attempts, url, lane, [], told)


async def _made(attempts: Attempts, url: str, lane: Lane, calls: list[Call], told: Told) -> None:
    try:
        answer = await attempts.make(_request(url, lane, calls))
    except Exception as error:  # noqa: BLE001  it is told
        told.unexpected[f"healthy: {error!r} from {error.__cause__!r}"] += 1
    else:
        if answer.status != 200:
            told.unexpected[f"healthy: {answer.status}"] += 1
        told.healthy += 1


def _request(url: str, lane: Lane, calls: list[Call]) -> Request:
    return Request(
        operation="GetAccounts",
        method="GET",
        url=url,
        lane=lane,
        deadline=PATIENCE_S,
        calls=calls.append,
        code_of=lambda _answer: "",
    )


def _text(context: dict[str, Any]) -> str:
    return f"{context.get('message')}: {context.get('exception')!r}"


async def _first_stream(url: str) -> None:
    """Open and close one connection: with its first stream, libuv opens a descriptor that its loop keeps."""
    parts = urlsplit(url)
    _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.close()
    await writer.wait_closed()


def _descriptors() -> int:
    """How many this process has open."""
    return sum(1 for _ in _DESCRIPTORS.iterdir())


async def _left_open(before: int) -> int:
    """How many more are open than before, once the servers of this process have read that their clients left."""
    for _ in range(200):
        gc.collect()
        if _descriptors() <= before:
            return 0
        await asyncio.sleep(0.01)
    return _descriptors() - before


def _serve(folder: str, ready: Connection) -> None:
    """The banks' process: tells their addresses, then answers until it is ended."""

    async def serve() -> None:
        bank = RawBank(Identities(Path(folder)))
        bank.replies["/x"] = often_closed(latency=LATENCY_S)
        await bank.start()
        async with AsyncExitStack() as stack:
            failing = {fault: await stack.enter_async_context(FailingHandshakes(fault)) for fault in Fault}
            ready.send((bank.origin, bank.base_url, {fault.name: one.origin for fault, one in failing.items()}))
            await asyncio.Event().wait()

    uvloop.run(serve())


async def _compare(config: LFIConfig, url: str, sick: Mapping[Fault, str], rounds: int, each: int) -> bool:
    """Calm rounds and stormy ones by turns; prints, and gives whether all is well."""
    calm, stormy = Told(), Told()
    for _ in range(rounds):
        for total, calls in ((calm, 0), (stormy, each)):
            left = 20 if calls else 0
            told = await storm(config, url, sick, rounds=1, each=calls, left=left, connect_timeout=1.0, connections=40)
            for name in ("failed", "unexpected", "strays", "healthy", "seconds", "processor_seconds", "left_open"):
                setattr(total, name, getattr(total, name) + getattr(told, name))
    kept = stormy.rate / calm.rate
    say(
        f"healthy bank {calm.rate:.0f}/s calm, {stormy.rate:.0f}/s in the storm: {kept:.0%}; "
        f"{dict(stormy.failed)}; unexpected {dict(stormy.unexpected + calm.unexpected)}; "
        f"strays {stormy.strays + calm.strays}; descriptors left open {stormy.left_open + calm.left_open}; "
        f"processor {stormy.processor_seconds / stormy.seconds:.0%} of one"
    )
    codes = {("stall", "timeout"), ("at_accept", "lost"), ("in_handshake", "lost"), (LEFT, "cancelled")}
    fine = set(stormy.failed) == codes and not (stormy.unexpected or calm.unexpected or stormy.strays or calm.strays)
    if calm.rate < CALM_MIN * CALLERS / LATENCY_S:
        say("the machine is too busy: the rates are not judged")
        kept = 1.0
    return fine and not stormy.left_open and kept >= KEPT_MIN


def say(line: str) -> None:
    """Print at once."""
    print(line, flush=True)  # noqa: T201  a script's output


def main() -> int:
    """Run it on both loops; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--each", type=int, default=200)
    options = parser.parse_args()
    logs.configure("CRITICAL")
    spawn = multiprocessing.get_context("spawn")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="syncworker-storm-") as folder:
        hears, tells = spawn.Pipe(duplex=False)
        server = spawn.Process(target=_serve, args=(folder, tells), daemon=True)
        server.start()
        try:
            origin, base_url, names = hears.recv()
            config = config_of(origin, base_url, _Written(Path(folder)))
            sick = {Fault[name]: address for name, address in names.items()}
            for name, factory in LOOPS.items():
                with asyncio.Runner(loop_factory=factory) as runner:
                    say(f"{name}:")
                    failed += not runner.run(_compare(config, f"{origin}/x", sick, options.rounds, options.each))
        finally:
            server.terminate()
            server.join()
    return 1 if failed else 0


class _Written(Identities):
    """The files another process has written."""

    def __init__(self, folder: Path) -> None:
        self.ca_bundle = folder / "ca.pem"
        self.client_certificate, self.client_key = folder / "client.pem", folder / "client.key"
        self.signing_key = folder / "signing.key"


if __name__ == "__main__":
    sys.exit(main())
