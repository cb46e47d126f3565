"""One installation for one scenario: settings, database, broker, banks, and processes that come and go.

The database is PostgreSQL throughout: every scenario needs two worker processes, and SQLite allows one.  What is
authorised once (`Prepared`) is cloned for each scenario; its tokens live an hour, so that clones do not fight over
refresh tokens.  Instants compared here are database time.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import sqlalchemy as sa

from syncworker import settings, wiring
from syncworker.settings import CONFIG_VARIABLE
from syncworker.simulator.books import Books
from syncworker.simulator.browser import Browser
from syncworker.standard.consents import ConsentRequest, Purpose
from syncworker.standard.permissions import Permission
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from syncworker.store.work import WorkKind
from tests.ground.processes import Nursery, Spawned

PROJECT: Final = Path(__file__).resolve().parents[3]

SHORT: Final = (Permission.ReadAccountsDetail, Permission.ReadBalances)
"""A sync of one call for the accounts and one for each account's balances."""

LONG: Final = (*SHORT, Permission.ReadTransactionsDetail, Permission.ReadParty)
"""Pages, a backfill in slices with a transaction each, and rows that are sealed."""

TICK_S: Final = 0.5
LEASE_S: Final = 3.0
PATIENCE_S: Final = 120.0
"""How long a scenario waits for anything: a busy machine may take its time, the bound of the rule is reported."""

Row = sa.Row[Any]


@dataclass(frozen=True)
class Bank:
    """A simulated bank in a process of its own, as one LFI of ours."""

    slug: Slug
    facts: Mapping[str, Any]
    child: Spawned

    @property
    def users(self) -> Sequence[str]:
        users: Sequence[str] = self.facts["users"]
        return users


@dataclass(frozen=True)
class Prepared:
    """Banks and a database in which their customers have consented; everything is due.

    Attributes:
        database: the URL to clone.
        keyring: opens its seals.
    """

    banks: tuple[Bank, ...]
    database: str
    keyring: Path


def open_banks(nursery: Nursery, folder: Path, *slugs: str, options: Sequence[str] = ()) -> tuple[Bank, ...]:
    """Start banks side by side and wait until all of them answer."""
    children = {}
    for slug in slugs:
        data = folder / slug
        argv = (sys.executable, "-m", "syncworker.simulator", "--data-dir", str(data), *options)
        children[slug] = nursery.spawn(argv, cwd=PROJECT)
    banks = []
    for slug, child in children.items():
        facts = folder / slug / "sandbox.json"
        child.until(lambda _child, facts=facts: facts.is_file(), timeout=PATIENCE_S)  # type: ignore[misc]
        banks.append(Bank(Slug(slug), json.loads(facts.read_text()), child))
    return tuple(banks)


def prepare(
    folder: Path, banks: tuple[Bank, ...], database_url: str, *, long_every: int = 0, users: int | None = None
) -> Prepared:
    """Bring every customer of the banks through the consent page, all of them at a few at a time.

    Args:
        database_url: migrated and empty.
        long_every: each n-th customer shares transactions too; 0 for none.
        users: most customers of each bank.
    """
    keyring = folder / "keyring"
    KeyRing.generate(keyring)
    file = folder / "prepare.toml"
    file.write_text(_toml(database_url, "amqp://unused", keyring, folder / "data", banks, {}))
    before = os.environ.get(CONFIG_VARIABLE)
    os.environ[CONFIG_VARIABLE] = str(file)
    try:
        with ThreadPoolExecutor(1) as thread:  # the caller may be on a loop
            thread.submit(asyncio.run, _authorise(settings.load(), banks, long_every, users)).result()
    finally:
        os.environ.pop(CONFIG_VARIABLE)
        if before is not None:
            os.environ[CONFIG_VARIABLE] = before
    return Prepared(banks, database_url, keyring)


async def _authorise(chosen: settings.Settings, banks: Sequence[Bank], long_every: int, users: int | None) -> None:
    application = await wiring.build_application(chosen)
    at_once = asyncio.Semaphore(4)
    try:
        async with AsyncExitStack() as stack:

            async def one(bank: Bank, browser: Browser, number: int, user: str) -> None:
                shared = LONG if long_every and number % long_every == 0 else SHORT
                expires_at = datetime.now(UTC) + timedelta(days=180)
                request = ConsentRequest(permissions=shared, expires_at=expires_at, purpose=Purpose.AccountAggregation)
                async with at_once:
                    started = await application.authorize.begin(bank.slug, request, user_ref=user)
                    await application.authorize.complete(await browser.decide(started.url, user=user))

            async with asyncio.TaskGroup() as group:
                for bank in banks:
                    browser = await stack.enter_async_context(Browser(Path(bank.facts["ca_bundle"])))
                    for number, user in enumerate(bank.users[:users]):
                        group.create_task(one(bank, browser, number, user))
    finally:
        await application.close()


class Installation:
    """What runs in a scenario.  Use it as an async context manager."""

    def __init__(
        self,
        nursery: Nursery,
        folder: Path,
        prepared: Prepared,
        *,
        database_url: str,
        broker_url: str,
        cadence_s: float = 1.0,
        declared: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> None:
        """Write the settings; nothing runs yet.

        Args:
            database_url: a clone of the prepared database.
            cadence_s: of every resource.
            declared: options of every LFI, as `calls_per_second`.
            values: other settings, beside those for a tick of half a second and a lease of three.
        """
        self.nursery = nursery
        self.prepared = prepared
        self.banks = {bank.slug: bank for bank in prepared.banks}
        self._declared = declared or {}
        self.broker_url = broker_url
        self._folder = folder
        self._database_url = database_url
        self._values = {"tick_seconds": TICK_S, "lease_seconds": LEASE_S, **values}
        self._cadence_s = cadence_s
        self._stack = AsyncExitStack()
        self.workers: list[Spawned] = []
        self.beats: list[Spawned] = []
        self.store: Store
        self.books: dict[Slug, Books] = {}

    async def __aenter__(self) -> Self:
        self._folder.mkdir(exist_ok=True)
        keyring = KeyRing.load(self.prepared.keyring)
        self.store = Store(self._database_url, keyring=keyring)
        self._stack.push_async_callback(self.store.close)
        for slug, bank in self.banks.items():
            self.books[slug] = await self._stack.enter_async_context(Books.of(bank.facts))
            await self.books[slug].do("clear_faults")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in (*self.beats, *self.workers):
            child.kill()
        for books in self.books.values():
            await books.do("clear_faults")
        await self._stack.aclose()

    # -- processes ----------------------------------------------------------------------------------------------------

    async def worker(self, *arguments: str, clock_s: float = 0.0, poison: str = "") -> Spawned:
        """Start a worker and wait until it consumes.

        Args:
            clock_s: how far its own clock is wrong.
            poison: a ConsentId whose sync ends the process.
        """
        child = self._start("worker", arguments, clock_s=clock_s, poison=poison)
        self.workers.append(child)
        return await child.soon(lambda child: " ready." in child.output(), timeout=PATIENCE_S)

    async def beat(self, *, clock_s: float = 0.0) -> Spawned:
        """Start a beat and wait until it ticks."""
        child = self._start("beat", (), clock_s=clock_s)
        self.beats.append(child)
        return await child.soon(lambda child: "maxinterval" in child.output(), timeout=PATIENCE_S)

    async def run(self, *, workers: int = 2, beats: int = 1) -> None:
        """Start so many of each, side by side."""
        await asyncio.gather(*(self.worker() for _ in range(workers)), *(self.beat() for _ in range(beats)))

    def kill(self, child: Spawned) -> None:
        """SIGKILL."""
        child.kill()
        self.workers.remove(child)

    async def stop(self, *, grace: float = 45.0) -> list[int]:
        """SIGTERM to all, beats first; their exit statuses."""
        children, self.beats, self.workers = [*self.beats, *self.workers], [], []
        return list(await asyncio.gather(*(asyncio.to_thread(child.stop, grace=grace) for child in children)))

    def _start(self, role: str, arguments: Sequence[str], *, clock_s: float = 0.0, poison: str = "") -> Spawned:
        file = self._folder / "syncworker.toml"
        data = self._folder / "data"
        values = {name: value for name, value in self._values.items() if value is not None}
        database, keyring = self._database_url, self.prepared.keyring
        file.write_text(
            _toml(
                database, self.broker_url, keyring, data, self.prepared.banks, values, self._cadence_s, self._declared
            )
        )
        env = {CONFIG_VARIABLE: str(file), "PYTHONPATH": str(PROJECT)}
        env |= {"SCENARIO_CLOCK_S": str(clock_s), "SCENARIO_POISON": poison}
        argv: tuple[str, ...] = (sys.executable, "-m", "syncworker")
        if clock_s or poison:
            argv = (sys.executable, "-m", "tests.live.scenarios.launcher")
        return self.nursery.spawn((*argv, role, *arguments), cwd=PROJECT, env=env)

    def outputs(self) -> str:
        """Everything any process of this scenario has said."""
        return "\n".join(file.read_text(errors="replace") for file in sorted(self.nursery.folder.glob("*.log")))

    # -- looking ------------------------------------------------------------------------------------------------------

    async def now(self) -> datetime:
        """Database time."""
        async with self.store.reading() as unit:
            return await unit.now()

    async def query(self, statement: str, **values: object) -> list[Row]:
        """Rows of a statement."""
        async with self.store.reading() as unit:
            return list((await unit.connection.execute(sa.text(statement), values)).all())

    async def execute(self, statement: str, **values: object) -> None:
        """Go behind everybody's back: one statement, committed."""
        async with self.store.writing() as unit:
            await unit.connection.execute(sa.text(statement), values)
            await unit.commit()

    async def rows(self, kind: WorkKind = WorkKind.SYNC, lfi: str = "") -> list[Row]:
        """The rows of `work`."""
        return await self.query(
            "SELECT * FROM work WHERE kind = :kind AND (:lfi = '' OR lfi = :lfi) ORDER BY id", kind=kind, lfi=lfi
        )

    async def good_runs(self, since: datetime | None = None, lfi: str = "") -> int:
        """Syncs that ended well after an instant."""
        found = await self.query(
            "SELECT count(*) AS n FROM run WHERE outcome IN ('ok', 'unchanged')"
            " AND ended_at > coalesce(:since, '-infinity'::timestamptz) AND (:lfi = '' OR lfi = :lfi)",
            since=since,
            lfi=lfi,
        )
        return int(found[0].n)

    async def waiting(self, since: datetime, *, lfi: str = "", but: str = "") -> list[str]:
        """Connections without a good sync that *began* after an instant.

        Args:
            but: a connection nobody waits for.
        """
        found = await self.query(
            "SELECT subject FROM work WHERE kind = 'sync' AND (:lfi = '' OR lfi = :lfi) AND subject <> :but"
            " AND NOT EXISTS (SELECT FROM run WHERE run.connection_id = work.subject AND started_at > :since"
            " AND outcome IN ('ok', 'unchanged')) ORDER BY subject",
            since=since,
            lfi=lfi,
            but=but,
        )
        return [row.subject for row in found]

    async def until(
        self, ready: Callable[[], Awaitable[object]], what: str, *, within: float = PATIENCE_S, every: float = 0.05
    ) -> float:
        """Wait until `await ready()`; the seconds it took."""
        began = time.monotonic()
        while not await ready():
            assert time.monotonic() < began + within, f"{what}: not within {within} s\n{await self.story()}"
            await asyncio.sleep(every)
        return time.monotonic() - began

    async def all_synced(self, what: str, *, lfi: str = "", but: str = "") -> float:
        """Wait until every connection has a good sync that began from now on; the seconds it took."""
        since = await self.now()

        async def ready() -> bool:
            return not await self.waiting(since, lfi=lfi, but=but)

        return await self.until(ready, what)

    async def story(self) -> str:
        """What a person needs when a scenario fails."""
        rows = [str(row) for row in await self.rows()][:12]
        said = [f"--- {child.argv[2:]} {child.pid}\n{child.output()[-1500:]}" for child in (*self.beats, *self.workers)]
        return "\n".join([*rows, *said])

    async def ask(self, kind: WorkKind, subjects: Sequence[str]) -> None:
        """Make subjects due at once."""
        async with self.store.writing() as unit:
            for subject in subjects:
                assert await unit.work.ask_now(kind, subject)
            await unit.commit()

    async def rest(self) -> None:
        """While no worker runs: nothing is due by itself any more, and no hint in the broker is good."""
        await self.execute("UPDATE work SET due_at = now() + interval '1 day', lease_until = NULL")

    async def connections(self, lfi: str = "") -> list[ConsentId]:
        """Every connection of an LFI, in order."""
        rows = await self.query(
            "SELECT connection_id FROM connection WHERE (:lfi = '' OR lfi = :lfi) ORDER BY connection_id", lfi=lfi
        )
        return [ConsentId(row.connection_id) for row in rows]


def _toml(
    database_url: str,
    broker_url: str,
    keyring: Path,
    data: Path,
    banks: Sequence[Bank],
    values: Mapping[str, Any],
    cadence_s: float = 1.0,
    options: Mapping[str, Any] | None = None,
) -> str:
    plain = {
        "database_url": database_url,
        "broker_url": broker_url,
        "keyring": str(keyring),
        "data_dir": str(data),
        **values,
    }
    lines = [_line(name, value) for name, value in plain.items()]
    lines += ["[cadence]", *(_line(name.value, cadence_s) for name in ResourceName)]
    for bank in banks:
        client = dict(bank.facts["client"])
        declared = {
            "issuer": bank.facts["issuer"],
            "ca_bundle": bank.facts["ca_bundle"],
            "allow_private_hosts": True,
            "calls_per_second": 500,
            "connections": 16,
            **client,
            **(options or {}),
        }
        lines += [f"[lfis.{bank.slug}]", *(_line(name, value) for name, value in declared.items())]
        lines.append(f'base_urls = {{ "v2.1" = {json.dumps(bank.facts["resource_base_url"])} }}')
    return "\n".join(lines) + "\n"


def _line(name: str, value: object) -> str:
    return f"{name} = {json.dumps(value)}"
