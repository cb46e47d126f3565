"""How near token refreshes come to what signing alone allows, in one process.

    python -m bench.signing [--consents 300] [--rounds 5]

Signing a client assertion (PS256, 2048 bits) is the one step of a refresh that nobody can do without; the limit is how
many this process signs a second and does nothing else.  Beside it: the same with the key imported anew each time, the
token call alone over mTLS, and the whole refresh as a worker does it: claims taken, intent stored before the call,
answer sealed and stored after it, the row of work ended, the call filed.  By processor time of this process, which a
busy machine disturbs least, and by the clock.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog
from pydantic import SecretStr

from syncworker import settings as settings_module
from syncworker import wiring
from syncworker.bench.bank import Bank, refresh_token
from syncworker.bench.books import World
from syncworker.bench.databases import Databases
from syncworker.bench.drive import environment_for, median
from syncworker.bench.ground import LFI, Load, consent_id, place_consents, write_settings
from syncworker.bench.product import only
from syncworker.lfi.jose import client_assertion
from syncworker.lfi.keys import SigningKey
from syncworker.lfi.transport import Call
from syncworker.schedule.claims import Batch
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import WorkKind
from tests.ground.postgres import PostgresServer

Speed = tuple[float, float]
"""A second of processor time, and a second of the clock."""


async def speed(times: int, work: Callable[[], Awaitable[object]]) -> Speed:
    """How often a second, when `work` does it `times` times."""
    began, busy = time.perf_counter(), time.process_time()
    await work()
    return times / (time.process_time() - busy), times / (time.perf_counter() - began)


class Rounds:
    """The ways to be measured, on one application."""

    def __init__(self, application: wiring.Application, bank: Bank, key: SigningKey) -> None:
        self._application = application
        self._bank = bank
        self._key = key
        self._serial = 0

    async def sign(self, *, anew: bool = False) -> Speed:
        """Assertions alone; `anew`: the key is read from its file for each."""
        client, times = self._bank.identity.client, 10 if anew else 200

        async def work() -> None:
            for _ in range(times):
                key = SigningKey.load(client.signing_key, kid=client.signing_kid) if anew else self._key
                now = datetime.now(UTC)
                client_assertion(key=key, client_id=client.client_id, issuer=self._bank.origin, now=now)

        return await speed(times, work)

    async def call(self) -> Speed:
        """Token calls of consents nobody else refreshes, as many at once as there are connections."""
        lfi, consents = await self._application.clients(LFI), self._bank.world.consents // 2
        calls: list[Call] = []

        async def one(number: int) -> None:
            token = SecretStr(refresh_token(consents + number, self._serial))
            await lfi.refresh(token, calls=calls.append)

        async def work() -> None:
            await asyncio.gather(*[one(number) for number in range(consents)])

        found = await speed(consents, work)
        self._serial += 1
        return found

    async def refresh(self) -> Speed:
        """Whole refreshes, in the batches a tick makes of them."""
        consents = self._bank.world.consents // 2

        async def ask(unit: UnitOfWork) -> None:
            for number in range(consents):
                await unit.work.schedule(WorkKind.TOKEN, consent_id(number), lfi=LFI, due_at=await unit.now())
                await unit.work.ask_now(WorkKind.TOKEN, consent_id(number))

        await self._application.store.atomically(ask)
        before = self._bank.order().tokens

        async def work() -> None:
            done = 0
            while done < consents:
                batches: list[Batch] = await self._application.tick()
                await asyncio.gather(*[self._application.token_batch(batch.claims) for batch in batches])
                done = self._bank.order().tokens - before

        return await speed(consents, work)


async def compare(settings: settings_module.Settings, bank: Bank, rounds: int) -> dict[str, list[Speed]]:
    """Measure all ways by turns."""
    application = await wiring.build_application(settings)
    client = bank.identity.client
    try:
        await place_consents(application.store, bank, scheduled=False)
        ways = Rounds(application, bank, SigningKey.load(client.signing_key, kid=client.signing_kid))
        found: dict[str, list[Speed]] = {}
        for number in range(rounds + 1):
            for name, way in (
                ("assertions signed (the limit)", ways.sign),
                ("assertions signed, the key read for each", partial(ways.sign, anew=True)),
                ("token calls over mTLS, nothing stored", ways.call),
                ("refreshes, whole", ways.refresh),
            ):
                one = await way()
                if number:  # the first round warms connections and caches
                    found.setdefault(name, []).append(one)
        return found
    finally:
        await application.close()


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
                    found = asyncio.run(compare(settings, bank, options.rounds))
            databases.close()
    finally:
        server.close()
    limit = median([one[0] for one in found["assertions signed (the limit)"]])
    print("| in one process | a second of its processor time | of the limit | a second by the clock |")
    print("|---|---:|---:|---:|")
    for name, those in found.items():
        busy, clock = (median([one[part] for one in those]) for part in (0, 1))
        print(f"| {name} | {busy:,.0f} | {busy / limit:.2f} | {clock:,.0f} |")


if __name__ == "__main__":
    main()
