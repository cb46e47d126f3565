"""What one call costs beside a bare aiohttp GET: microseconds of this process's processor time.

    python -m bench.calls [--consents 30] [--rounds 20] [--in-flight 64]

The bench bank answers from a process of its own.  *Bare* is what the leanest program does: `ClientSession.get` and
`read`, nothing decoded, nothing noted.  *Ours* is `LFIClient.pages` as a worker uses it: bounds, deadline, limits on a
ledger in Valkey, breaker, clock comparison, a `Call` for each attempt, the envelope taken off each page.  Both walk the
same listings side by side, by turns; the best round of each counts, and the difference is what a call costs us.
"""

import argparse
import asyncio
import gc
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import uvloop
from pydantic import SecretStr

from syncworker import settings as settings_module
from syncworker import wiring
from syncworker.bench.bank import Bank, access_token
from syncworker.bench.books import World, listings, pages
from syncworker.bench.drive import environment_for
from syncworker.bench.ground import LFI, Load, write_settings
from syncworker.bench.product import only
from syncworker.lfi.transport import Call
from syncworker.processes import EmbeddedBroker
from syncworker.standard.resources import BY_NAME, Resource, ResourceName
from syncworker.standard.values import AccountId
from syncworker.standard.versions import Version
from syncworker.store import migrate

CASES: Final = {
    "balances, 1 page of 0.5 kB": frozenset({ResourceName.BALANCES}),
    "transactions, 2 pages of 100": frozenset({ResourceName.TRANSACTIONS}),
    "every resource, 22 pages a consent": frozenset(ResourceName),
}
CALLS_A_ROUND: Final = 600
"""At least: a case with fewer is read several times.  Rounds are short, so that some meet a quiet moment."""

WARM_ROUNDS: Final = 1
"""Not counted: connections are opened, caches filled."""


class Walk(NamedTuple):
    """One listing to be read, and the URLs of its pages."""

    token: str
    resource: Resource
    account_id: AccountId | None
    urls: tuple[str, ...]


class Token:
    """A token source whose token never ends."""

    def __init__(self, token: str) -> None:
        self._token = SecretStr(token)

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        assert rejected is None
        return self._token


Read = Callable[[Walk], Awaitable[None]]


def walks(bank: Bank, names: frozenset[ResourceName]) -> Iterator[Walk]:
    """Every listing of these resources, of every consent."""
    for consent in range(bank.world.consents):
        for one in listings(bank.world, consent, changed=False):
            if one.resource in names:
                targets = [target.removesuffix("?page=1") for target, _ in pages(one, bank.world, base_url="")]
                yield Walk(
                    access_token(consent),
                    BY_NAME[one.resource],
                    AccountId(one.account_id) if one.account_id else None,
                    tuple(bank.base_url + target for target in targets),
                )


async def bare(stack: AsyncExitStack, bank: Bank, in_flight: int) -> Read:
    """As the leanest program gets a page."""
    context = ssl.create_default_context(cafile=str(bank.identity.ca_bundle))
    context.load_cert_chain(bank.identity.client.transport_certificate, bank.identity.client.transport_key)
    connector = aiohttp.TCPConnector(ssl=context, limit=in_flight, keepalive_timeout=600)
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
    )

    async def read(walk: Walk) -> None:
        for url in walk.urls:
            async with session.get(url, headers={"Authorization": f"Bearer {walk.token}"}) as response:
                await response.read()

    return read


async def ours(stack: AsyncExitStack, _bank: Bank, _in_flight: int) -> Read:
    """As a worker reads a listing."""
    application = await wiring.build_application(settings_module.load())
    stack.push_async_callback(application.close)
    client = await application.clients(LFI)
    tokens: dict[str, Token] = {}

    async def read(walk: Walk) -> None:
        token, calls = tokens.setdefault(walk.token, Token(walk.token)), list[Call]()
        listing = client.pages(
            walk.resource, walk.account_id, version=Version.V2_1, params={}, token=token, calls=calls.append
        )
        seen = [len(page.data) async for page in listing]
        assert len(seen) == len(calls) == len(walk.urls)

    return read


async def round_of(read: Read, todo: list[Walk], in_flight: int) -> float:
    """Microseconds of processor time a call."""
    left = iter(todo)

    async def reader() -> None:
        for walk in left:
            await read(walk)

    began = time.process_time()
    await asyncio.gather(*(reader() for _ in range(in_flight)))
    return (time.process_time() - began) / sum(len(walk.urls) for walk in todo) * 1e6


async def compare(bank: Bank, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The best round of each way, case by case, rounds by turns."""
    best: dict[str, dict[str, float]] = {case: {} for case in CASES}
    async with AsyncExitStack() as stack:
        ways = {make.__name__: await make(stack, bank, options.in_flight) for make in (bare, ours)}
        gc.collect()
        gc.freeze()  # as a worker does: no collection walks the libraries in the midst of a page
        for case, names in CASES.items():
            todo = list(walks(bank, names))
            todo *= -(-CALLS_A_ROUND // sum(len(walk.urls) for walk in todo))
            for number in range(WARM_ROUNDS + options.rounds):
                for name, read in ways.items():
                    took = await round_of(read, todo, options.in_flight)
                    if number >= WARM_ROUNDS:
                        best[case][name] = min(took, best[case].get(name, took))
    return best


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--consents", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=64)
    options = parser.parse_args()
    world = World(consents=options.consents, today=datetime.now(UTC).date())
    with tempfile.TemporaryDirectory(prefix="swbench-") as made:
        folder = Path(made)
        database_url = f"sqlite:///{folder / 'calls.db'}"
        with EmbeddedBroker(folder / "data"), Bank(world, folder / "bank") as bank:
            load = Load(connections=options.in_flight)
            file = write_settings(folder, bank, database_url=database_url, load=load)
            migrate.upgrade(database_url)
            with only(environment_for(file)):
                best = uvloop.run(compare(bank, options))
    print("| µs of processor time a call | bare aiohttp | `LFIClient.pages` | ours alone | ratio |")
    print("|---|---:|---:|---:|---:|")
    for case, found in best.items():
        floor, whole = found["bare"], found["ours"]
        print(f"| {case} | {floor:,.0f} | {whole:,.0f} | {whole - floor:,.0f} | {whole / floor:.2f} |")


if __name__ == "__main__":
    main()
