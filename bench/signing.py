"""How near token refreshes come to what signing alone allows, in one process, and what a refresh is made of.

    python -m bench.signing [--consents 300] [--rounds 5]

Signing a client assertion (PS256, 2048 bits) is the one step of a refresh that nobody can do without; the limit is how
many this process signs a second and does nothing else.  Beside it: the same with the key read anew each time, the
token call alone over mTLS, the whole refresh as a worker does it (claims taken, intent stored before the call, answer
sealed and stored after it, the row of work ended, the call filed), and all of that with answers that are there at once,
without a signature and a call.  By processor time, which a busy machine disturbs least, and by the clock.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop
from pydantic import SecretStr

from syncworker import settings as settings_module
from syncworker import wiring
from syncworker.bench.bank import TOKEN_SECONDS, Bank, refresh_token
from syncworker.bench.books import World
from syncworker.bench.databases import Databases
from syncworker.bench.drive import environment_for, median
from syncworker.bench.ground import LFI, Load, consent_id, place_consents, write_settings
from syncworker.bench.measure import cost_of
from syncworker.bench.product import only
from syncworker.clock import SystemClock
from syncworker.consents.tokens import Vault
from syncworker.lfi.api import LFIClient
from syncworker.lfi.jose import client_assertion
from syncworker.lfi.keys import SigningKey
from syncworker.lfi.oauth import TokenAnswer
from syncworker.lfi.transport import Call
from syncworker.processes import EmbeddedBroker
from syncworker.schedule import due
from syncworker.schedule.claims import Batch
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import WorkKind
from tests.ground.postgres import PostgresServer

SIGN: Final = "assertions signed (the limit)"
SIGN_ANEW: Final = "assertions signed, the key read for each"
CALL: Final = "token calls over mTLS, nothing stored"
STORE: Final = "refreshes, answered without signature and call"
WHOLE: Final = "refreshes, whole"


@dataclass(frozen=True, slots=True)
class Price:
    """What one costs, in seconds: processor time of this process and of PostgreSQL, and by the clock."""

    own: float
    database: float
    clock: float


class AnswersAtOnce:
    """Stands where a client does, and has every answer: what a refresh costs without its call."""

    def __init__(self, client: LFIClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def refresh(self, refresh_token: SecretStr, *, calls: object, interaction_id: str = "") -> TokenAnswer:
        """The same refresh token again, so that the bank still knows it."""
        now = datetime.now(UTC)
        return TokenAnswer(
            access_token=SecretStr(f"at-{time.perf_counter_ns()}"),
            refresh_token=refresh_token,
            expires_in=TOKEN_SECONDS,
            expires_at=now + timedelta(seconds=TOKEN_SECONDS),
            id_token=None,
            consent=None,
            received_at=now,
            certificate=self._client.certificate.thumbprint,
        )


class Rounds:
    """The ways to be measured, on one application."""

    def __init__(self, application: wiring.Application, bank: Bank, key: SigningKey, *, server: list[int]) -> None:
        self._application = application
        self._bank = bank
        self._key = key
        self._server = server
        self._serial = 0

    async def price(self, times: int, work: Callable[[], Awaitable[object]]) -> Price:
        """Of one, when `work` does it `times` times."""
        database, busy, began = cost_of(self._server).cpu_s, time.process_time(), time.perf_counter()
        await work()
        clock, busy = time.perf_counter() - began, time.process_time() - busy
        return Price(busy / times, (cost_of(self._server).cpu_s - database) / times, clock / times)

    async def sign(self, *, anew: bool = False) -> Price:
        """Assertions alone; `anew`: the key is read from its file for each."""
        client, times = self._bank.identity.client, 10 if anew else 200

        async def work() -> None:
            for _ in range(times):
                key = SigningKey.load(client.signing_key, kid=client.signing_kid) if anew else self._key
                now = datetime.now(UTC)
                client_assertion(key=key, client_id=client.client_id, issuer=self._bank.origin, now=now)

        return await self.price(times, work)

    async def call(self) -> Price:
        """Token calls of consents nobody else refreshes, as many at once as there are connections."""
        lfi, consents = await self._application.clients(LFI), self._bank.world.consents // 2
        calls: list[Call] = []

        async def one(number: int) -> None:
            token = SecretStr(refresh_token(consents + number, self._serial))
            await lfi.refresh(token, calls=calls.append)

        async def work() -> None:
            await asyncio.gather(*[one(number) for number in range(consents)])

        found = await self.price(consents, work)
        self._serial += 1
        return found

    async def refresh(self) -> Price:
        """Whole refreshes, in the batches a tick makes of them."""
        application, before = self._application, self._bank.order().tokens
        price = await self._batches(application.token_batch)
        asked = self._bank.order().tokens - before
        if asked != self._bank.world.consents // 2:
            raise AssertionError(f"{asked} token calls instead of one for each consent")
        return price

    async def store(self) -> Price:
        """The same with answers that are there at once."""
        application = self._application

        async def clients(lfi: Slug) -> Any:
            return AnswersAtOnce(await application.clients(lfi))

        vault = Vault(
            application.store,
            clients,
            SystemClock(),
            holder="bench",
            token_due=wiring.token_schedule(application.settings),
            retry_after=due.retry_delay,
        )
        return await self._batches(vault.token_batch)

    async def _batches(self, batch: Callable[[Sequence[tuple[int, int]]], Awaitable[object]]) -> Price:
        consents = self._bank.world.consents // 2

        async def ask(unit: UnitOfWork) -> None:
            for number in range(consents):
                await unit.work.schedule(WorkKind.TOKEN, consent_id(number), lfi=LFI, due_at=await unit.now())
                await unit.work.ask_now(WorkKind.TOKEN, consent_id(number))

        async def work() -> None:
            done = 0
            while done < consents:
                batches: list[Batch] = await self._application.tick()
                await asyncio.gather(*[batch(one.claims) for one in batches])
                done += sum(len(one.claims) for one in batches)

        await self._application.store.atomically(ask)
        return await self.price(consents, work)


async def compare(
    settings: settings_module.Settings, bank: Bank, rounds: int, *, server: list[int]
) -> dict[str, Price]:
    """Measure all ways by turns; medians."""
    application = await wiring.build_application(settings)
    client = bank.identity.client
    try:
        await place_consents(application.store, bank, scheduled=False)
        key = SigningKey.load(client.signing_key, kid=client.signing_kid)
        ways = Rounds(application, bank, key, server=server)
        found: dict[str, list[Price]] = {}
        for number in range(rounds + 1):
            for name, way in (
                (SIGN, ways.sign),
                (SIGN_ANEW, partial(ways.sign, anew=True)),
                (CALL, ways.call),
                (STORE, ways.store),
                (WHOLE, ways.refresh),
            ):
                one = await way()
                if number:  # the first round warms connections and caches
                    found.setdefault(name, []).append(one)
        return {
            name: Price(*(median([getattr(one, part) for one in those]) for part in ("own", "database", "clock")))
            for name, those in found.items()
        }
    finally:
        await application.close()


def show(found: dict[str, Price]) -> None:
    """Print the ways beside the limit, and a refresh by its parts."""
    limit = found[SIGN]
    print("| in one process | a second of its processor time | of the limit | a second by the clock | of the limit |")
    print("|---|---:|---:|---:|---:|")
    for name, one in found.items():
        busy, clock = (f"{1 / each:,.0f} | {part / each:.2f}" for each, part in (
            (one.own, limit.own), (one.clock, limit.clock),
        ))  # fmt: skip
        print(f"| {name} | {busy} | {clock} |")
    call, store, whole = found[CALL], found[STORE], found[WHOLE]
    together = whole.own - call.own - store.own
    print("\n| a refresh | ms of processor time | of PostgreSQL's |")
    print("|---|---:|---:|")
    for name, own, database in (
        ("the signature", limit.own, 0.0),
        ("the call without it", call.own - limit.own, call.database),
        ("tick, claims, transactions and the rest", store.own, store.database),
        ("what they cost more together: answers come one by one, so that fewer share a transaction", together,
         whole.database - call.database - store.database),
        ("whole", whole.own, whole.database),
    ):  # fmt: skip
        print(f"| {name} | {own * 1000:.2f} | {database * 1000:.2f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--consents", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.WARNING)
    world = World(consents=2 * options.consents, accounts=1, transactions=1, today=datetime.now(UTC).date())
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory(prefix="swbench-") as made:
            folder = Path(made)
            databases = Databases(folder, server.url())
            with databases.fresh() as url, Bank(world, folder / "bank") as bank:
                load = Load(connections=16, open_claims=options.consents)
                file = write_settings(folder, bank, database_url=url, load=load)
                with only(environment_for(file)):
                    settings = settings_module.load()
                    broker = EmbeddedBroker(settings.data_folder)  # it keeps the limits' counts
                    broker.start()
                    try:
                        server_pids = databases.server_pids()
                        found = uvloop.run(compare(settings, bank, options.rounds, server=server_pids))
                    finally:
                        broker.stop()
            databases.close()
    finally:
        server.close()
    show(found)


if __name__ == "__main__":
    main()
