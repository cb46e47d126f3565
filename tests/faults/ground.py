"""What a seed stands on: time by hand, a bank in memory, and worker processes that can die.

A `Worker` is one process of the product: its store, its client of the bank, its vault and its engine.  It dies between
two steps when a plan says so: from then on it reaches neither the bank nor the database, and gives no report.
"""

import asyncio
import contextlib
import selectors
import sqlite3
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import aiosqlite
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import SecretStr

from syncworker.consents.lifecycle import Lifecycle
from syncworker.consents.tokens import Vault
from syncworker.lfi.api import LFIClient
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.lfi.transport import Lane
from syncworker.simulator.details import Asked as Details
from syncworker.simulator.grants import Grant
from syncworker.simulator.ledger import Account, Customer, Transaction
from syncworker.simulator.people import People
from syncworker.standard.consents import Status
from syncworker.standard.permissions import Permission
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.dialect import Dialect
from syncworker.store.failures import StoreConflictError, StoreUnavailableError
from syncworker.store.keyring import KeyRing
from syncworker.store.tokens import NewToken
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.reports import BatchReport
from syncworker.sync.run import SyncSettings
from tests.faults.wire import MemoryBank, MemoryTransport, Strike
from tests.ground.clock import ManualClock

LFI: Final = Slug("sandbox")
START: Final = datetime(2026, 3, 2, 6, tzinfo=UTC)
"""Every seed begins here, so that it is the same on every day."""

CUSTOMERS: Final = 8
HISTORY: Final = timedelta(days=300)


class ShiftedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time can be moved on: what waits for a deadline or a gate lives by the test's clock too."""

    def __init__(self) -> None:
        super().__init__(selectors.DefaultSelector())
        self.shift = 0.0

    def time(self) -> float:
        return super().time() + self.shift


class Clock(ManualClock):
    """Time by hand, of the product, the bank and the running loop together."""

    def advance(self, **by: float) -> datetime:
        before = self.now()
        after = super().advance(**by)
        loop = asyncio.get_running_loop()
        if isinstance(loop, ShiftedLoop):
            loop.shift += (after - before).total_seconds()
        return after


class Town:
    """The customers all seeds choose from, made once: their lives take longer to invent than to read."""

    def __init__(self) -> None:
        people = People(customers=CUSTOMERS, seed=1, anchor=START.date(), strays=True)
        self._customers = {user: people.make(user) for user in people.users}
        self.users = people.users

    def moved_in(self, dice: Random, *, most: int) -> Callable[[str], Customer]:
        """Makes the customers of one bank: the same people, with some of their transactions each.

        Args:
            most: transactions of an account.
        """
        accounts: dict[str, Account] = {}

        def account(one: Account) -> Account:
            if one.account_id not in accounts:
                accounts[one.account_id] = replace(
                    one,
                    balances=list(one.balances),
                    transactions=_some(one.transactions, dice, most),
                    parties=list(one.parties),
                    listings={name: list(rows) for name, rows in one.listings.items()},
                )
            return accounts[one.account_id]

        def make(user: str) -> Customer:
            known = self._customers[user]
            return replace(known, accounts=[account(one) for one in known.accounts])

        return make


def _some(rows: Sequence[Transaction], dice: Random, most: int) -> list[Transaction]:
    """A few of an account's transactions, in order, and the oldest within the history that is looked at."""
    known = [row for row in rows if row.booked_at >= START - HISTORY]
    chosen = sorted({*dice.sample(range(len(known)), min(most, len(known))), *([len(known) - 1] if known else ())})
    return [known[number] for number in chosen]


class Trouble:
    """What the database does to one worker.

    Attributes:
        dead: the worker is no more.
        commits: commits so far; `at` names those that go wrong: number → how.
    """

    def __init__(self) -> None:
        self.dead = False
        self.commits = 0
        self.at: dict[int, str] = {}
        self.struck: list[str] = []
        self.kill: Callable[[], None] = lambda: None

    def check(self) -> None:
        """Pass while the worker lives."""
        if self.dead:
            raise StoreUnavailableError("this worker is dead")

    def next(self) -> str:
        """How the next commit goes."""
        self.check()
        self.commits += 1
        how = self.at.pop(self.commits, "")
        if how:
            self.struck.append(how)
        return how


class InlineConnection(aiosqlite.Connection):
    """SQLite without a thread of its own: each call is made at once, where it is awaited.

    Two hops between threads cost more than the statement between them, and make two plays of one seed differ.
    """

    def __await__(self) -> Generator[Any, None, "InlineConnection"]:
        yield from ()  # nothing is waited for
        self._connection = self._connector()
        return self

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._running = False

    async def close(self) -> None:
        self.stop()


class FragileStore(Store):
    """A store whose commits can go wrong, before or after they hold."""

    trouble: Trouble
    path = ""
    """The file its connections open from now on (SQLite)."""

    def connect_inline(self) -> None:
        """Let the connections to SQLite be inline, and wait for no disk: nothing here outlives the process."""

        def connecting(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
            path = self.path
            options["async_creator_fn"] = lambda _name, **given: InlineConnection(
                lambda: sqlite3.connect(path, **given), iter_chunk_size=64
            )

        def connected(connection: Any, _record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA synchronous=OFF")
            cursor.close()

        for engine in (self._engines.write, self._engines.read):
            sa.event.listen(engine.sync_engine, "do_connect", connecting)
            sa.event.listen(engine.sync_engine, "connect", connected)

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[UnitOfWork]:
        self.trouble.check()
        async with super().writing() as unit:
            commit = unit.commit

            async def fragile() -> None:
                how = self.trouble.next()
                if how == "killed before":
                    self.trouble.kill()
                if how in ("away before", "killed before"):
                    raise StoreUnavailableError("the database went away before the commit")
                if how == "conflict":
                    raise StoreConflictError("the database met a conflict")
                await commit()
                if how == "killed after":
                    self.trouble.kill()
                if how in ("away after", "killed after"):
                    raise StoreUnavailableError("the database went away after the commit")

            unit.commit = fragile  # type: ignore[method-assign]
            yield unit

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[UnitOfWork]:
        self.trouble.check()
        async with super().reading() as unit:
            yield unit

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[UnitOfWork]:
        self.trouble.check()
        async with super().looking() as unit:
            yield unit


class Stores:
    """Stores, lent to one worker after the other: what SQLAlchemy compiled for one seed serves the next."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring
        self._free: list[FragileStore] = []

    def lend(self, database_url: str, *, clock: Clock, trouble: Trouble) -> FragileStore:
        """A store on a database."""
        if database_url.startswith("sqlite"):
            store = self._free.pop() if self._free else FragileStore("sqlite:///switched", keyring=self._keyring)
            if not store.path:
                store.connect_inline()
            store.path = database_url.removeprefix("sqlite:///")
        else:
            store = FragileStore(database_url, keyring=self._keyring, connections=3)
        store.dialect = Dialect(store.dialect.name, clock)
        store.trouble = trouble
        return store

    async def take_back(self, store: FragileStore) -> None:
        """Close a store's connections; one on SQLite is lent again."""
        await store.close()
        if store.path:
            self._free.append(store)


COMMITS: Final = ("away before", "away after", "conflict", "killed before", "killed after")


def retry_after(attempts: int) -> timedelta:
    """The ladder: a minute, doubled up to six hours."""
    return min(timedelta(minutes=2 ** max(attempts - 1, 0)), timedelta(hours=6))


@dataclass(kw_only=True)
class Worker:
    """One process of the product."""

    bank: MemoryBank
    clock: Clock
    database_url: str
    stores: Stores
    config: LFIConfig
    certificate: bytes
    settings: SyncSettings
    strike: Strike
    trouble: Trouble = field(default_factory=Trouble)

    def __post_init__(self) -> None:
        self.store = self.stores.lend(self.database_url, clock=self.clock, trouble=self.trouble)
        self.trouble.kill = self.die
        self.client = LFIClient(self.config, clock=self.clock, sleep=self.sleep)
        self._connect()
        self.vault = Vault(
            self.store, self._client, self.clock, holder="worker", token_due=None, retry_after=retry_after,
            sleep=self.sleep, elapsed=lambda: self.clock.now().timestamp(),
        )  # fmt: skip
        self.lifecycle = Lifecycle(self.store, self._client)
        self.engine = Engine(
            Parts(
                store=self.store, clients=self._client, tokens=self.vault.source, ask=self.lifecycle.ask,
                clock=self.clock,
            ),
            self.settings,
        )  # fmt: skip
        self._task: asyncio.Task[BatchReport] | None = None

    def _connect(self) -> None:
        """Let the client call the bank's doors."""
        transport = MemoryTransport(self.bank, self.certificate, self.strike)
        self.client._lines._line.lanes = dict.fromkeys(Lane, transport)

    async def _client(self, _: Slug) -> LFIClient:
        return self.client

    async def sleep(self, seconds: float) -> None:
        """Move time on instead of waiting.  A dead worker's sleep never ends."""
        if self.trouble.dead:
            raise asyncio.CancelledError
        self.clock.advance(seconds=seconds)
        await asyncio.sleep(0)

    def die(self) -> None:
        """The process is no more, from this very moment."""
        self.trouble.dead = True
        for task in (self._task, *self.vault._running.values()):
            if task is not None:
                task.cancel()

    async def sync(self, claims: Sequence[Claim]) -> BatchReport | None:
        """Sync claims; `None`: the worker died over it, or could not take them from the database."""
        hints = [(claim.id, claim.gen) for claim in claims]
        self._task = asyncio.create_task(self.engine.sync_batch(hints))
        (done,) = await asyncio.gather(self._task, return_exceptions=True)
        if self.trouble.dead or isinstance(done, StoreUnavailableError):
            return None
        if isinstance(done, BaseException):
            raise done
        return done

    async def close(self) -> None:
        """Give everything back, dead or alive."""
        await self.vault.drain()
        await self.client.close()
        await self.stores.take_back(self.store)


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What is made once and serves every seed: keys, certificates, the client's declaration, the customers."""

    folder: Path
    stores: Stores
    config: LFIConfig
    certificate: bytes
    town: Town

    @classmethod
    async def made(cls, folder: Path) -> "Keys":
        """Made in a folder, or found there."""
        async with MemoryBank(folder / "bank", customers=1, versions=tuple(Version)) as bank:
            config = _config_of(bank)
        ring = folder / "keyring"
        keyring = KeyRing.load(ring) if ring.exists() else KeyRing.generate(ring)
        pem = x509.load_pem_x509_certificate(bank.client.transport_certificate.read_bytes())
        return cls(
            folder=folder,
            stores=Stores(keyring),
            config=config,
            certificate=pem.public_bytes(Encoding.DER),
            town=Town(),
        )


def _config_of(bank: MemoryBank) -> LFIConfig:
    client = bank.client
    return LFIConfig(
        slug=LFI,
        issuer=bank.issuer,
        discovery_url=bank.discovery_url,
        base_urls=bank.resource_base_urls,
        client_id=client.client_id,
        redirect_uri=client.redirect_uri,
        signing_key=SigningKey.load(client.signing_key, client.signing_kid),
        transport=TransportCertificate.load(
            client.transport_certificate, client.transport_key, now=ManualClock().now()
        ),
        ca_bundle=bank.ca_bundle,
        connections=8,
    )


async def agreed(
    bank: MemoryBank,
    store: Store,
    clock: Clock,
    *,
    consent_id: ConsentId,
    version: Version,
    user: str,
    accounts: Sequence[str],
    permissions: Sequence[Permission],
    certificate: str,
    from_date: date | None = None,
) -> ConsentId:
    """A consent a customer agreed to, at the bank and in the tables, as an authorisation leaves it."""
    now, expires_at = clock.now(), clock.now() + timedelta(days=180)
    consent = {"ConsentId": consent_id, "Permissions": [one.value for one in permissions],
               "ExpirationDateTime": expires_at.isoformat(), "OpenFinanceBilling": {"UserType": "Retail"}}  # fmt: skip
    bank.bank.consents.stage(
        Details(
            version=version, consent=consent, subscription=None, expires_at=expires_at, from_date=from_date,
            to_date=None,
        )
    )  # fmt: skip
    bank.bank.consents.authorize(consent_id, user=user, account_ids=tuple(accounts))
    refresh_token = _granted(bank, consent_id, bank.identity.client_thumbprint)
    access = bank.bank.grants.grant_of(consent_id)
    assert access is not None
    async with store.writing() as unit:
        await unit.consents.add_connection(Connection(connection_id=consent_id, lfi=LFI, user_ref=user, created_at=now))
        await unit.consents.add(
            StoredConsent(
                consent_id=consent_id, connection_id=consent_id, lfi=LFI, user_ref=user, version=version,
                status=Status.Authorized.value, status_updated_at=now, status_seen_at=now,
                permissions=tuple(one.value for one in permissions), expires_at=expires_at, user_type="Retail",
                purpose="AccountAggregation", created_at=now, from_date=from_date,
            )
        )  # fmt: skip
        await unit.tokens.put_first(
            consent_id,
            NewToken(
                access_token=SecretStr(access.access.text), refresh_token=SecretStr(refresh_token), issued_at=now,
                expires_at=access.access.expires_at, certificate=certificate,
            ),
        )  # fmt: skip
        await unit.work.schedule(WorkKind.SYNC, consent_id, lfi=LFI, due_at=now)
        await unit.commit()
    return consent_id


def _granted(bank: MemoryBank, consent_id: str, certificate: str) -> str:
    """The first tokens of a consent, as a code exchange gives them; tells the refresh token."""
    grants = bank.bank.grants
    grant = Grant(
        consent_id=consent_id, refresh_token=f"first-{consent_id}",
        access=grants._mint(consent_id, "openid accounts", certificate),
    )  # fmt: skip
    grants._refresh[grant.refresh_token] = grants._by_consent[consent_id] = grant
    return grant.refresh_token
