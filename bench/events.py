"""How many events a second one web process takes, and what that costs its neighbours.

    python bench/events.py [--rate 1000] [--seconds 10] [--consents 500] [--groups 1 100]

Scenario 19 of the reliability rules at its full rate: half of the deliveries are good, a fifth repeat one of them, the
rest are forged in eight ways.  The web process is the real route on uvicorn in a process of its own, on a PostgreSQL
of our own without fsync; what is sent was signed and encrypted before.  A neighbour claims, takes and ends work of the
same database all the while, as workers do; how much of its pace it keeps is what the flood costs it.

Measures once for each size of `--groups`: so many events share a transaction at most; 1 is each in its own.

Prints events a second, their latency, processor time per event, and the audit: every good event filed once, no forged
one, keys fetched how often.  Ratios travel between machines, absolute numbers do not.
"""

import argparse
import asyncio
import multiprocessing
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from time import process_time
from typing import Any, Final

import aiohttp
import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `tests` has the sender and starts the database

from syncworker.clock import SystemClock, monotonic  # noqa: E402
from syncworker.lfi import jose  # noqa: E402
from syncworker.lfi.keys import EncryptionKey  # noqa: E402
from syncworker.lfi.senders import Published, Sender, SenderKeys  # noqa: E402
from syncworker.standard.consents import Status  # noqa: E402
from syncworker.standard.values import ConsentId, Slug  # noqa: E402
from syncworker.standard.versions import Version  # noqa: E402
from syncworker.store import migrate  # noqa: E402
from syncworker.store.consents import Connection, StoredConsent  # noqa: E402
from syncworker.store.keyring import KeyRing  # noqa: E402
from syncworker.store.unit_of_work import Store, UnitOfWork  # noqa: E402
from syncworker.store.work import Claim, WorkKind  # noqa: E402
from syncworker.web.events import routes  # noqa: E402
from syncworker.webhooks import GROUP_MAX, EventRules, Receiver  # noqa: E402
from tests.ground.postgres import PostgresServer, free_port  # noqa: E402
from tests.lfi.raw_bank import write_key  # noqa: E402
from tests.webhooks.sender import CLIENT_ID, ISSUER, EventSender, consent_message, new_key  # noqa: E402

NOOR: Final = Slug("noor")
IN_FLIGHT: Final = 64
GOOD, AGAIN, FORGED = "good", "again", "forged"
SHARES: Final = {GOOD: 0.5, AGAIN: 0.2, FORGED: 0.3}
CLAIMS_AT_ONCE: Final = 50
CALM_S: Final = 5.0
OUT: Final = Console()


@dataclass(frozen=True, slots=True)
class House:
    """What every process of the measurement is told: where things are."""

    database: str
    keyring: Path
    encryption_key: Path
    jwks: dict[str, Any]
    port: int
    group: int

    def store(self) -> Store:
        """The database, for one process."""
        return Store(self.database, keyring=KeyRing.load(self.keyring))


# -- the web process -------------------------------------------------------------------------------------------------


def serve(house: House) -> None:
    """The route and nothing else; `/seen` says what it counted."""
    asyncio.run(_serve(house))


async def _serve(house: House) -> None:
    looks = 0

    async def fetch(_url: str) -> Published:
        nonlocal looks
        looks += 1
        return Published(jose.read_keys(house.jwks))

    clock, store = SystemClock(), house.store()
    rules = EventRules(
        senders={ISSUER: Sender(issuer=ISSUER, jwks_url="https://keystore.example/jwks")},
        encryption_keys={"enc-1": EncryptionKey.load(house.encryption_key, "enc-1")},
        audiences=frozenset({CLIENT_ID}),
    )
    receiver = Receiver(store, rules, SenderKeys(fetch, clock=clock), group=house.group)
    app = FastAPI(openapi_url=None)
    app.include_router(routes(receiver, clock=clock, per_second=1e6))

    @app.get("/seen")
    async def seen() -> dict[str, Any]:
        return {"counts": dict(receiver.counts), "looks": looks, "cpu": process_time()}

    config = uvicorn.Config(app, host="127.0.0.1", port=house.port, log_level="critical", access_log=False)
    await uvicorn.Server(config).serve()


# -- the neighbour ---------------------------------------------------------------------------------------------------


def neighbour(house: House, stop: Event, ended: Any) -> None:
    """Claim, take and end syncs until told to stop; counts them in `ended`."""
    asyncio.run(_neighbour(house, stop, ended))


async def _neighbour(house: House, stop: Event, ended: Any) -> None:
    store = house.store()

    async def claim(unit: UnitOfWork) -> list[Claim]:
        return await unit.work.claim(WorkKind.SYNC, slots={NOOR: CLAIMS_AT_ONCE})

    async def take(unit: UnitOfWork) -> None:
        for claim in await unit.work.take_many([(one.id, one.gen) for one in claims]):
            await unit.work.finish(claim, due_at=await unit.now(), outcome="ok", good=True)

    while not stop.is_set():
        claims = await store.atomically(claim)
        await store.atomically(take)
        ended.value += len(claims)
    await store.close()


# -- what is sent ----------------------------------------------------------------------------------------------------


def forgeries(sender: EventSender, forger: EventSender, message: dict[str, Any]) -> list[bytes]:
    """Replayed under another audience, other algorithms, an unknown `kid`, a stranger's key, expired, changed."""
    changed = sender.event(message)
    return [
        sender.event(message, aud=["somebody-else"]),
        sender.with_header(message, {"alg": "none"}),
        sender.with_header(message, {"alg": "HS256"}),
        sender.with_header(message, {"alg": "RS256"}),
        replace(forger, kid="unknown").event(message),
        forger.event(message),
        sender.event(message, exp=1),
        changed[:-8] + b"AAAAAAAA",
    ]


def bodies(sender: EventSender, forger: EventSender, consents: list[str], number: int) -> list[tuple[str, bytes]]:
    """So many deliveries in a random order, each with what it is."""
    dice, at = random.Random(19), SystemClock().now()
    messages = (
        consent_message(consents[one % len(consents)], "Suspended", at=at + timedelta(seconds=one))
        for one in range(number)
    )
    made = [(GOOD, sender.event(next(messages))) for _ in track(range(int(number * SHARES[GOOD])), "signing")]
    made += [(AGAIN, dice.choice(made)[1]) for _ in range(int(number * SHARES[AGAIN]))]
    false = _forever(sender, forger, consents, number)
    made += [(FORGED, next(false)) for _ in track(range(int(number * SHARES[FORGED])), "forging")]
    dice.shuffle(made)
    return made


def _forever(sender: EventSender, forger: EventSender, consents: list[str], number: int) -> Iterator[bytes]:
    at = SystemClock().now() + timedelta(seconds=number)
    while True:
        at += timedelta(seconds=1)
        yield from forgeries(sender, forger, consent_message(consents[0], "Revoked", at=at))


# -- the measurement -------------------------------------------------------------------------------------------------


async def flood(port: int, made: list[tuple[str, bytes]], rate: float) -> tuple[float, list[float], Counter[str]]:
    """Send at a rate, as fast as it is taken when that is less: seconds, latencies, answers by what was sent."""
    latencies: list[float] = []
    answers: Counter[str] = Counter()
    free = asyncio.Semaphore(IN_FLIGHT)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def deliver(kind: str, body: bytes) -> None:
            began = monotonic()
            headers = {"content-type": "application/jwe"}
            async with session.post(f"http://127.0.0.1:{port}/events", data=body, headers=headers) as answer:
                await answer.read()
                answers[f"{kind} {answer.status}"] += 1
            latencies.append(monotonic() - began)
            free.release()

        began = monotonic()
        async with asyncio.TaskGroup() as group:
            for number, (kind, body) in enumerate(made):
                await asyncio.sleep(max(0.0, began + number / rate - monotonic()))
                await free.acquire()
                group.create_task(deliver(kind, body))
        return monotonic() - began, latencies, answers


async def fill(house: House, consents: int) -> list[str]:
    """Authorized consents with their work."""
    store, now = house.store(), SystemClock().now()
    ids = [f"consent-{number}" for number in range(consents)]
    async with store.writing() as unit:
        for one in map(ConsentId, ids):
            await unit.consents.add_connection(Connection(connection_id=one, lfi=NOOR, user_ref=one, created_at=now))
            await unit.consents.add(
                StoredConsent(
                    consent_id=one,
                    connection_id=one,
                    lfi=NOOR,
                    user_ref=one,
                    version=Version.V2_1,
                    status=Status.Authorized.value,
                    status_updated_at=now,
                    status_seen_at=now,
                    permissions=("ReadAccountsBasic",),
                    expires_at=now + timedelta(days=90),
                    user_type="Retail",
                    purpose="AccountAggregation",
                    created_at=now,
                )
            )
            await unit.work.schedule(WorkKind.SYNC, one, lfi=NOOR, due_at=now)
        await unit.commit()
    await store.close()
    return ids


async def seen(port: int) -> dict[str, Any]:
    """What the web process counted; waits until it is there."""
    async with aiohttp.ClientSession() as session:
        for _ in range(1_200):
            try:
                async with session.get(f"http://127.0.0.1:{port}/seen") as answer:
                    counted: dict[str, Any] = await answer.json()
                    return counted
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)
    raise SystemExit("the web process did not start")


async def measure(house: House, options: argparse.Namespace, sender: EventSender, forger: EventSender) -> None:
    """Fill, send, and print."""
    ids = await fill(house, options.consents)
    made = bodies(sender, forger, ids, int(options.rate * options.seconds))  # signed anew: they live five minutes
    spawn = multiprocessing.get_context("spawn")
    stop, ended = spawn.Event(), spawn.Value("q", 0)
    web = spawn.Process(target=serve, args=(house,), daemon=True)
    beside = spawn.Process(target=neighbour, args=(house, stop, ended), daemon=True)
    web.start()
    beside.start()
    try:
        before = await seen(house.port)
        while ended.value == 0:  # noqa: ASYNC110  another process counts
            await asyncio.sleep(0.1)
        calm = await _pace(ended, CALM_S)
        begun = ended.value
        took, latencies, answers = await flood(house.port, made, options.rate)
        busy = (ended.value - begun) / took
        after = await seen(house.port)
    finally:
        stop.set()
        beside.join(timeout=30)
        web.kill()
    _print(house.group, len(made), took, latencies, before, after, calm, busy)
    await _audit(house, made, answers)


async def _pace(ended: Any, seconds: float) -> float:
    begun, began = ended.value, monotonic()
    await asyncio.sleep(seconds)
    return float((ended.value - begun) / (monotonic() - began))


def _print(
    group: int,
    sent: int,
    took: float,
    latencies: list[float],
    before: dict[str, Any],
    after: dict[str, Any],
    calm: float,
    busy: float,
) -> None:
    cuts = statistics.quantiles(latencies, n=100)
    cpu = after["cpu"] - before["cpu"]
    table = Table(box=None, show_header=False, title=f"{group} in a transaction at most", title_justify="left")
    for name, value in (
        ("events a second", f"{sent / took:.0f}"),
        ("latency p50, p99", f"{cuts[49] * 1e3:.0f} ms, {cuts[98] * 1e3:.0f} ms"),
        ("processor time of the web process, per event", f"{cpu / sent * 1e3:.2f} ms ({cpu / took:.0%} of a core)"),
        ("the neighbour keeps", f"{busy / calm:.0%} of {calm:.0f} claims a second"),
        ("looks at the sender's keys", f"{after['looks']} in {took:.0f} s"),
        ("counted", ", ".join(f"{name} {count}" for name, count in sorted(after["counts"].items()))),
    ):
        table.add_row(name, value)
    OUT.print(table)


async def _audit(house: House, made: list[tuple[str, bytes]], answers: Counter[str]) -> None:
    """Every good event is filed once and due, no forged one is."""
    kinds = Counter(kind for kind, _ in made)
    store = house.store()
    async with store.reading() as unit:
        filed = await unit.inbox.list(limit=len(made))
    await store.close()
    assert answers == {
        f"{GOOD} 202": kinds[GOOD], f"{AGAIN} 202": kinds[AGAIN], f"{FORGED} 400": kinds[FORGED],
    }, answers  # fmt: skip
    assert (len(filed), sum(one.received for one in filed)) == (kinds[GOOD], kinds[GOOD] + kinds[AGAIN])
    assert not [one for one in filed if one.status == "Revoked"], "a forged event was filed"
    OUT.print(f"audit: {len(filed)} good events filed once each, {kinds[FORGED]} forged ones refused")


def main(options: argparse.Namespace) -> None:
    """Start the database, measure, end it."""
    server = PostgresServer()
    try:
        with tempfile.TemporaryDirectory(prefix="syncworker-bench-") as made:
            folder = Path(made)
            migrate.upgrade(server.make_template())
            ours, theirs, stranger = new_key(), new_key(), new_key()
            KeyRing.generate(folder / "keyring")
            sender = EventSender(SystemClock(), theirs, ours.public_key())
            forger = EventSender(SystemClock(), stranger, ours.public_key())
            encryption_key = write_key(folder / "encryption.pem", ours)
            for group in options.groups:
                house = House(
                    database=server.url(server.clone()),
                    keyring=folder / "keyring",
                    encryption_key=encryption_key,
                    jwks=sender.jwks(),
                    port=free_port(),
                    group=group,
                )
                asyncio.run(measure(house, options, sender, forger))
    finally:
        server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rate", type=float, default=1000.0, help="deliveries a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--consents", type=int, default=500)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, GROUP_MAX], help="events in a transaction at most")
    main(parser.parse_args())
