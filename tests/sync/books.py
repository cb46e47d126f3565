"""A connection in a store and pages made by hand: what the tests of `apply` stand on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from syncworker.errors import SyncWorkerError
from syncworker.standard.consents import Status
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.changes import FeedRow, Op
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.cursors import Cursor, Listing
from syncworker.store.records import StoredRecord
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync import pages as footprint
from syncworker.sync.apply import Scope, apply, guard, show
from syncworker.sync.fetch import Walk
from syncworker.sync.plan import Step, Window
from syncworker.sync.reports import StepReport
from tests.ground.clock import ManualClock
from tests.ground.feed import whole_feed

N = ResourceName
LFI = Slug("sandbox")
CONSENT = ConsentId("c0ffee00-0000-4000-8000-000000000001")
ACCOUNT = "acc-1"


async def file_consent(store: Store, clock: ManualClock, **changes: Any) -> None:
    """A connection and its Authorized consent."""
    facts: dict[str, Any] = {
        "consent_id": CONSENT, "connection_id": CONSENT, "lfi": LFI, "user_ref": "u", "version": Version.V2_1,
        "status": Status.Authorized.value, "status_updated_at": clock.now(), "status_seen_at": clock.now(),
        "permissions": ("ReadAccountsBasic", "ReadBalances", "ReadTransactionsBasic", "ReadParty"),
        "expires_at": clock.now() + timedelta(days=90), "user_type": "Retail", "purpose": "AccountAggregation",
        "created_at": clock.now(),
    }  # fmt: skip
    async with store.writing() as unit:
        connection = Connection(connection_id=CONSENT, lfi=LFI, user_ref="u", created_at=clock.now())
        await unit.consents.add_connection(connection)
        await unit.consents.add(StoredConsent(**facts | changes))
        await unit.work.schedule(WorkKind.SYNC, CONSENT, lfi=LFI, due_at=clock.now())
        await unit.commit()


async def claim(store: Store) -> Claim:
    """Claim the connection's sync and take it, as dispatcher and worker do."""
    async with store.writing() as unit:
        await unit.work.ask_now(WorkKind.SYNC, CONSENT)
        (claimed,) = await unit.work.claim(WorkKind.SYNC, slots={LFI: 10})
        taken = await unit.work.take(claimed.id, claimed.gen)
        await unit.commit()
    assert taken is not None
    return taken


async def steal(store: Store, clock: ManualClock) -> Claim:
    """A newer claim, after the lease of the one before ran out."""
    clock.advance(minutes=5)
    return await claim(store)


def page(resource: ResourceName, *items: Mapping[str, Any]) -> bytes:
    """`Data` of a page."""
    return json.dumps({"AccountId": ACCOUNT, BY_NAME[resource].items: list(items)}).encode()


def transaction(key: str, day: int = 1, **facts: Any) -> dict[str, Any]:
    """A booked transaction of some day in October 2026."""
    return {
        "TransactionId": key,
        "BookingDateTime": f"2026-10-{day:02}T12:00:00Z",
        "Status": "Booked",
        "CreditDebitIndicator": "Debit",
        "Amount": {"Amount": "12.34500", "Currency": "AED"},
        **facts,
    }


def balance(amount: str, at: str = "2026-10-01T00:00:00Z", **facts: Any) -> dict[str, Any]:
    """A balance."""
    return {
        "Type": "InterimBooked",
        "DateTime": at,
        "CreditDebitIndicator": "Credit",
        "Amount": {"Amount": amount, "Currency": "AED"},
        **facts,
    }


def walk(
    resource: ResourceName,
    *pages: bytes,
    window: Window | None = None,
    error: SyncWorkerError | None = None,
    first_available: datetime | None = None,
    deep: bool = False,
    backfill: bool = False,
) -> Walk:
    """A walk of one listing of the account."""
    row = BY_NAME[resource]
    if row.window is not None:
        window = window or Window()
    step = Step(row, ACCOUNT if row.per_account else "", {}, window, deep=deep, backfill=backfill)
    return Walk(step=step, pages=pages, error=error, first_available=first_available)


@dataclass
class Desk:
    """Applies walks to a store and looks at what became of them."""

    store: Store
    clock: ManualClock
    seal_raw: bool = False
    written: list[StepReport] = field(default_factory=list)

    async def apply(self, *walks: Walk, by: Claim | None = None) -> tuple[StepReport, ...]:
        """Decode and apply walks in one transaction, as a run does."""
        claimed = by or await claim(self.store)
        scope = Scope(connection_id=CONSENT, consent_id=CONSENT, claim=claimed, seal_raw=self.seal_raw)
        async with self.store.reading() as unit:
            cursors = await unit.cursors.of(CONSENT)

        async def step(unit: UnitOfWork) -> tuple[StepReport, ...]:
            now = await guard(unit, scope)
            shown = [show(one, _known(cursors.get(one.step.listing))) for one in walks]
            due = {one.listing: now + timedelta(hours=6) for one in shown}
            return await apply(unit, scope, shown, cursors, due=due, now=now)

        reports = await self.store.atomically(step)
        if by is None:
            await self.end(claimed)
        return reports

    async def end(self, claimed: Claim) -> None:
        async with self.store.writing() as unit:
            await unit.work.finish(claimed, due_at=self.clock.now(), outcome="ok", good=True)
            await unit.commit()

    async def rows(self, *resources: ResourceName, gone: bool = True) -> dict[str, StoredRecord]:
        """Rows by key, tombstones included."""
        async with self.store.reading() as unit:
            found = unit.records.all_rows(CONSENT, resources=resources or tuple(N), gone=gone)
            return {row.key: row async for row in found}

    async def live(self, *resources: ResourceName) -> set[str]:
        return set(await self.rows(*resources, gone=False))

    async def cursor(self, resource: ResourceName) -> Cursor:
        async with self.store.reading() as unit:
            cursors = await unit.cursors.of(CONSENT)
        return cursors[Listing(ACCOUNT if BY_NAME[resource].per_account else "", resource)]

    async def feed(self) -> list[FeedRow]:
        async with self.store.reading() as unit:
            return await unit.changes.read()

    async def replayed(self) -> set[tuple[str, ResourceName, str]]:
        """What a reader of the feed believes to be live."""
        live: set[tuple[str, ResourceName, str]] = set()
        async with self.store.reading() as unit:
            feed = await whole_feed(unit)
        for row in feed:
            assert row.change.resource is not None
            name = (row.change.account_id, row.change.resource, row.change.key)
            if row.change.op is Op.REMOVED:
                live.remove(name)
            else:
                assert (name in live) == (row.change.op is Op.MODIFIED)
                live.add(name)
        return live

    async def table(self, name: str) -> list[tuple[Any, ...]]:
        """All rows of a table, as the database gives them."""
        async with self.store.reading() as unit:
            return [
                tuple(row) for row in await unit.connection.execute(sa.text(f"SELECT * FROM {name} ORDER BY 1,2,3"))
            ]


def _known(cursor: Cursor | None) -> footprint.Footprint:
    return footprint.unpack(cursor.pages) if cursor else footprint.NOTHING
