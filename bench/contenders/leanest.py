"""The limit: the least a program can do that reads everything and writes what is new.

aiohttp, msgspec, xxh3 digests of pages and rows, one transaction per consent, binary COPY and one upsert per table.
No broker, no leases, no claims, no change feed, no history, no tombstones, no price of calls, no bounds on answers.
"""

import asyncio
import sys
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import aiohttp
import msgspec
import psycopg
import uvloop
import xxhash

from bench.contenders.copying import write
from bench.contenders.program import job, serve
from bench.contenders.typed import columns
from syncworker.standard.resources import RESOURCES, Resource
from syncworker.store.tables import RECORD_TABLES

JOB, FETCH_ONLY = job(), "--fetch-only" in sys.argv
Page: Any = msgspec.defstruct("Page", [("Data", msgspec.Raw), ("Links", dict[str, str])])
PAGE, MEMBERS = msgspec.json.Decoder(Page), msgspec.json.Decoder(dict[str, msgspec.Raw])
LIST, digest = msgspec.json.Decoder(list[msgspec.Raw]), xxhash.xxh3_128_digest
MADE = "CREATE TABLE IF NOT EXISTS lean_page (consent text, place text, digest bytea, PRIMARY KEY (consent, place))"
KNOWN = "SELECT place, digest FROM lean_page WHERE consent = %s"
NOTED = "INSERT INTO lean_page VALUES (%s, %s, %s) ON CONFLICT (consent, place) DO UPDATE SET digest = excluded.digest"
RESOURCES_READ = [one for one in RESOURCES if one.repeats is None]
Connection = psycopg.AsyncConnection[Any]


class Sync:
    def __init__(self, session: aiohttp.ClientSession, connections: "asyncio.Queue[Connection]") -> None:
        self.session, self.connections, self.slots = session, connections, asyncio.Semaphore(JOB.in_flight)

    async def listing(self, found: list[Any], token: str, resource: Resource, account: str = "") -> list[bytes]:
        url, pages = JOB.base_url + resource.path.replace("{AccountId}", account), []
        while url:
            async with self.slots, self.session.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
                page = PAGE.decode(await response.read())
            pages.append(bytes(page.Data))
            url = page.Links.get("Next", "")
        found.append((resource, account, pages))
        return pages

    async def consent(self, name: str, token: str) -> None:
        found: list[Any] = []
        top, below = ([one for one in RESOURCES_READ if one.per_account is side] for side in (False, True))
        (accounts, *_), *_ = await asyncio.gather(*(self.listing(found, token, one) for one in top))
        ids = [item["AccountId"] for item in msgspec.json.decode(accounts)["Account"]]
        await asyncio.gather(*(self.listing(found, token, one, each) for each in ids for one in below))
        if not FETCH_ONLY:
            connection = await self.connections.get()
            await self.write(connection, name, found)
            self.connections.put_nowait(connection)

    async def write(self, connection: Connection, name: str, found: list[Any]) -> None:
        seen = await connection.execute(KNOWN, (name,), binary=True)
        known, rows, fresh = dict(await seen.fetchall()), [], []
        for resource, account, pages in found:
            for number, data in enumerate(pages):
                place, sum_ = f"{account}/{resource.name}/{number}", digest(data)
                if known.get(place) != sum_:
                    fresh.append((name, place, sum_))
                    items = bytes(MEMBERS.decode(data)[resource.items])
                    raws = [bytes(one) for one in LIST.decode(items)] if items.startswith(b"[") else [items]
                    table = RECORD_TABLES[resource.name].name
                    rows += [(table, account, digest(raw), raw, resource.name, at) for at, raw in enumerate(raws, 1)]
        now = datetime.now(UTC)
        for table, those in groupby(sorted(rows, key=itemgetter(0)), key=itemgetter(0)):
            query = f'SELECT account_id, digest FROM "{table}" WHERE tenant = %s AND connection_id = %s'
            held = set(await (await connection.execute(query.encode(), ("default", name), binary=True)).fetchall())
            new = [one for one in those if (one[1], one[2]) not in held]
            made = [("default", name, account, *columns(kind, raw, at), b"\0" + raw, sum_, now, now, 1)
                    for _, account, sum_, raw, kind, at in new]  # fmt: skip
            await write(connection, table, made)
        await connection.cursor().executemany(NOTED, fresh)
        await connection.commit()


async def open_sync() -> Sync:
    connections: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(0 if FETCH_ONLY else 4):
        connections.put_nowait(await psycopg.AsyncConnection.connect(JOB.database_url, autocommit=False))
    if not FETCH_ONLY:
        async with await psycopg.AsyncConnection.connect(JOB.database_url) as one:
            await one.execute("SELECT pg_advisory_xact_lock(1)")
            await one.execute(MADE)
    connector = aiohttp.TCPConnector(ssl=JOB.tls(), limit=JOB.in_flight, keepalive_timeout=600)
    return Sync(aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()), connections)


async def everyone(sync: Sync) -> None:
    await asyncio.gather(*(sync.consent(name, token) for name, token in JOB.consents))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sync = runner.run(open_sync())
        serve(lambda: runner.run(everyone(sync)))
        runner.run(sync.session.close())
