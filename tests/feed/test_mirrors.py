"""A mirror that is fed by pages ends with what can be read, whatever happens and in whatever order it commits.

Connections are synced through `sync.apply` in transactions that stay open while others commit (PostgreSQL); consents
end and come back, data is erased, changes are pruned; mirrors begin at any time, read listings before or after other
changes, and page with any limit.  The clock hardly moves, so that instants meet.
"""

import asyncio
import shutil
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from syncworker.errors import CursorTooOldError
from syncworker.feed import read as feed
from syncworker.feed.cursor import Filter
from syncworker.feed.cursor import read as opened
from syncworker.standard.consents import ConsentView, Status
from syncworker.standard.values import ConsentId
from syncworker.standard.versions import Version
from syncworker.store.changes import MARKER_FROM, Op
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.ended import EndedConsents
from syncworker.store.erasure import DataClass
from syncworker.store.keyring import KeyRing
from syncworker.store.records import RowKey
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.apply import Scope, apply, show
from syncworker.sync.pages import NOTHING
from tests.ground.clock import ManualClock
from tests.sync.books import LFI, N, page, transaction, walk

pytestmark = [pytest.mark.store, pytest.mark.timeout(200)]

T = TypeVar("T")
CONNECTIONS = tuple(ConsentId(f"c0ffee00-0000-4000-8000-00000000000{number}") for number in range(3))
PARTIES = (N.PARTIES, N.ACCOUNT_PARTIES)
FILTERS = {
    "everything": Filter(),
    "one connection": Filter(connections=frozenset(CONNECTIONS[:1])),
    "one user": Filter(user_ref="u1"),
    "transactions": Filter(resources=frozenset({N.TRANSACTIONS})),
}
Items = Mapping[RowKey, bytes]
EXAMPLES, STEPS = 20, 30


@dataclass
class Bank:
    """What the bank shows of one connection: key → version."""

    transactions: dict[str, int] = field(default_factory=dict)
    parties: dict[str, int] = field(default_factory=dict)
    made: int = 0
    gen: int = 0
    consent: ConsentId | None = None
    in_use: bool = True

    def change(self, add: int, change: int, remove: int, parties: int) -> None:
        for _ in range(add):
            self.made += 1
            self.transactions[f"t{self.made * 7919 % 1000:03}"] = 0
        for key in list(self.transactions)[:change]:
            self.transactions[key] += 1
        for key in list(self.transactions)[-remove:] if remove else ():
            del self.transactions[key]
        self.parties = {f"p{number}": 0 for number in range(parties)}


@dataclass
class Mirror:
    """A reader's copy."""

    only: str
    cursor: str | None = None
    listed: bool = False
    rows: dict[RowKey, bytes] = field(default_factory=dict)

    def apply(self, entries: Sequence[feed.Entry[bytes]]) -> None:
        for entry in entries:
            if entry.op is Op.RESTRICTED:
                self._drop(entry.connection_id, PARTIES, also_others=True)
            elif entry.op is Op.ERASED and entry.data_class is DataClass.PERSONAL:
                self._drop(entry.connection_id, PARTIES, also_others=False)
            elif entry.op is Op.ERASED:
                self._drop(entry.connection_id, (N.TRANSACTIONS,), also_others=False)
            else:
                assert entry.resource is not None
                key = RowKey(entry.connection_id, entry.account_id, entry.resource, entry.key)
                if entry.item is None:
                    assert entry.op is Op.REMOVED
                    self.rows.pop(key, None)
                else:
                    assert entry.op in (Op.ADDED, Op.MODIFIED, Op.BACKFILLED)
                    self.rows[key] = entry.item

    def _drop(self, connection_id: str, resources: Sequence[N], *, also_others: bool) -> None:
        self.rows = {
            key: item
            for key, item in self.rows.items()
            if key.connection_id != connection_id or not (also_others or key.resource in resources)
        }


class Feed(RuleBasedStateMachine):
    """Three connections of two users, and mirrors of them."""

    def __init__(self, url: str, keyring: KeyRing, folder: Path) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.on_postgresql = url.startswith("postgresql")
        if not self.on_postgresql:
            database = folder / f"{uuid.uuid4()}.db"
            shutil.copyfile(url.removeprefix("sqlite:///"), database)
            url = f"sqlite:///{database}"
        tenant = uuid.uuid4().hex
        self.store = Store(url, tenant=tenant, keyring=keyring, clock=self.clock)
        self.banks = {one: Bank() for one in CONNECTIONS}
        self.mirrors: list[Mirror] = []
        self.open: dict[ConsentId, tuple[Any, UnitOfWork]] = {}

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        try:
            self.run(self._end())
        finally:
            self.run(self.store.close())
            self.runner.close()

    @initialize()
    def connections(self) -> None:
        async def filed() -> None:
            async with self.store.writing() as unit:
                for place, one in enumerate(CONNECTIONS):
                    await self._consent(unit, one, one, user=f"u{min(place, 1)}")
                await unit.commit()

        self.run(filed())

    # -- what happens ------------------------------------------------------------------------------------------------

    @rule(
        one=st.sampled_from(CONNECTIONS),
        add=st.sampled_from([0, 1, 2, MARKER_FROM, MARKER_FROM + 5]),
        change=st.integers(0, 3),
        remove=st.integers(0, 3),
        parties=st.integers(0, 2),
        stays_open=st.booleans(),
    )
    def a_sync(self, one: ConsentId, add: int, change: int, remove: int, parties: int, stays_open: bool) -> None:
        bank = self.banks[one]
        if one in self.open or not bank.in_use:
            return
        bank.change(add, change, remove, parties)
        self.run(self._sync(one, stays_open=stays_open))

    @precondition(lambda self: self.mirrors and not self.open)
    @rule(order=st.permutations(CONNECTIONS), add=st.sampled_from([1, MARKER_FROM]))
    def a_younger_sync_commits_first(self, order: Sequence[ConsentId], add: int) -> None:
        """Mirrors read to the end in between: what commits then must not lie before their cursors."""
        older, younger, _ = order
        if not (self.banks[older].in_use and self.banks[younger].in_use):
            return
        for place, one in enumerate((older, younger)):
            self.banks[one].change(add, 1, 1, place)
            self.run(self._sync(one, stays_open=one == older))
        self.run(self._catch_up())
        if older in self.open:
            self.run(self._finish(older, well=True))

    @precondition(lambda self: self.mirrors and not self.open)
    @rule(one=st.sampled_from(CONNECTIONS), remove=st.integers(1, 3))
    def use_ends_and_begins_between_two_pages(self, one: ConsentId, remove: int) -> None:
        """Mirrors hold the rows; some go, the consent ends, one change is read, a new consent is given."""
        if not self.banks[one].in_use:
            return
        self.run(self._catch_up())
        self.banks[one].change(0, 0, remove, 0)
        self.run(self._sync(one, stays_open=False))
        self._use_ends(one, by_us=False)
        for mirror in self.mirrors:
            self.run(self._read(mirror, 1))
        self._new_chain(one)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), well=st.booleans())
    def an_open_sync_ends(self, data: st.DataObject, well: bool) -> None:
        one = data.draw(st.sampled_from(sorted(self.open)))
        self.run(self._finish(one, well=well))

    @rule(one=st.sampled_from(CONNECTIONS), by_us=st.booleans())
    def use_ends(self, one: ConsentId, by_us: bool) -> None:
        self._use_ends(one, by_us=by_us)

    def _use_ends(self, one: ConsentId, *, by_us: bool) -> None:
        bank = self.banks[one]
        if one in self.open or not bank.in_use:
            return

        async def ended(unit: UnitOfWork) -> None:
            if by_us:
                await unit.consents.order_revocation(bank.consent or one, by="TPP", at=await unit.now())
            view = ConsentView(consent_id=bank.consent or one, status=Status.Revoked.value)
            await unit.consents.observe(view, at=await unit.now())

        self.run(self.store.atomically(ended))
        bank.in_use = False

    @rule(one=st.sampled_from(CONNECTIONS))
    def a_new_chain_is_authorised(self, one: ConsentId) -> None:
        self._new_chain(one)

    def _new_chain(self, one: ConsentId) -> None:
        bank = self.banks[one]
        if one in self.open or bank.in_use:
            return
        bank.consent = ConsentId(str(uuid.uuid4()))

        async def begun(unit: UnitOfWork) -> None:
            await self._consent(unit, one, bank.consent or one, status=Status.AwaitingAuthorization.value)

        async def authorised(unit: UnitOfWork) -> None:
            view = ConsentView(consent_id=bank.consent or one, status=Status.Authorized.value)
            await unit.consents.observe(view, at=await unit.now())

        self.run(self.store.atomically(begun))
        self.run(self.store.atomically(authorised))
        bank.in_use = True

    @rule(one=st.sampled_from(CONNECTIONS), of=st.sampled_from([None, *DataClass]))
    def data_is_erased(self, one: ConsentId, of: DataClass | None) -> None:
        if one in self.open or self.banks[one].in_use:
            return

        async def erased(unit: UnitOfWork) -> None:
            await unit.consents.chain_locked(one, closed=True)
            await unit.erasure.erase(one, of=of)

        self.run(self.store.atomically(erased))

    @rule(shown=st.booleans())
    def the_setting_changes(self, shown: bool) -> None:
        """As housekeeping meets it after a new start."""
        if self.open:
            return
        self.store._ended_consents = EndedConsents.SHOWN if shown else EndedConsents.HIDDEN

        async def settled(unit: UnitOfWork) -> None:
            otherwise = await unit.use.otherwise(limit=100)
            await unit.use.settle([ConsentId(one) for one in otherwise], at=await unit.now())

        self.run(self.store.atomically(settled))

    @rule(days=st.sampled_from([0, 0, 1]), milliseconds=st.integers(0, 1))
    def time_passes(self, days: int, milliseconds: int) -> None:
        self.clock.advance(days=days, milliseconds=milliseconds)

    @rule(limit=st.integers(1, 5))
    def changes_are_pruned(self, limit: int) -> None:
        async def pruned(unit: UnitOfWork) -> None:
            await unit.changes.prune(before=self.clock.now() - timedelta(days=2), limit=limit)

        self.run(self.store.atomically(pruned))

    # -- mirrors -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.mirrors) < 4)
    @rule(only=st.sampled_from(sorted(FILTERS)), from_the_beginning=st.booleans())
    def a_mirror_begins(self, only: str, from_the_beginning: bool) -> None:
        """With the listings and from now on, or with all that is kept, where nothing was pruned."""
        mirror = Mirror(only)
        if from_the_beginning and self.run(self._nothing_pruned()):
            mirror.listed = True
            self.run(self._read(mirror, 1))  # from here on it has a cursor, which says when it is too old
        else:
            mirror.cursor = self.run(self._now(only))
        self.mirrors.append(mirror)

    @precondition(lambda self: self.mirrors)
    @rule(data=st.data(), limit=st.sampled_from([1, 2, 3, 7, 12, 500]))
    def a_mirror_reads(self, data: st.DataObject, limit: int) -> None:
        self.run(self._read(data.draw(st.sampled_from(self.mirrors)), limit))

    # -- what must be ------------------------------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        for mirror in self.mirrors:
            while await self._read(mirror, 500):
                pass

    async def _end(self) -> None:
        for one in list(self.open):
            await self._finish(one, well=True)
        for mirror in self.mirrors:
            while await self._read(mirror, 7):
                pass
            assert mirror.rows == await self._readable(mirror.only), mirror.only

    async def _read(self, mirror: Mirror, limit: int) -> bool:
        """One page, twice: a mirror that stopped between reading and noting its cursor reads it again."""
        if not mirror.listed:
            mirror.rows = dict(await self._readable(mirror.only))
            mirror.listed = True
            return True
        only = FILTERS[mirror.only]
        try:
            async with self.store.looking() as unit:
                got = await feed.page(unit, cursor=mirror.cursor, items=_items, only=only, limit=limit)
                again = await feed.page(unit, cursor=mirror.cursor, items=_items, only=only, limit=limit)
        except CursorTooOldError:
            assert mirror.cursor is not None
            async with self.store.looking() as unit:
                line = await unit.changes.line()
            assert opened(mirror.cursor, tenant=self.store.tenant).place <= line.pruned_to
            mirror.cursor, mirror.listed = await self._now(mirror.only), False
            return True
        assert (got.entries, got.next_cursor, got.has_more) == (again.entries, again.next_cursor, again.has_more)
        assert len(got.entries) <= limit
        names = [(one.op in (Op.ERASED, Op.RESTRICTED) and one.op, *_name(one)) for one in got.entries]
        assert len(set(names)) == len(names)
        mirror.apply(got.entries)
        mirror.apply(got.entries)
        mirror.cursor = got.next_cursor
        return got.has_more

    async def _readable(self, only: str) -> Items:
        wanted = FILTERS[only]
        found: dict[RowKey, bytes] = {}
        async with self.store.reading() as unit:
            rows = await unit.connection.execute(
                sa.text("SELECT connection_id, user_ref, restricted_at FROM connection WHERE tenant = :tenant"),
                {"tenant": self.store.tenant},
            )
            for connection_id, user, restricted_at in rows.all():
                if (
                    restricted_at is not None
                    or (wanted.connections is not None and connection_id not in wanted.connections)
                    or wanted.user_ref not in (None, user)
                ):
                    continue
                async for row in unit.records.all_rows(connection_id):
                    if wanted.resources is None or row.resource in wanted.resources:
                        found[RowKey(row.connection_id, row.account_id, row.resource, row.key)] = row.item
        return found

    # ----------------------------------------------------------------------------------------------------------------

    async def _now(self, only: str) -> str:
        async with self.store.looking() as unit:
            return await feed.now(unit, only=FILTERS[only])

    async def _nothing_pruned(self) -> bool:
        async with self.store.looking() as unit:
            return (await unit.changes.line()).pruned_to.epoch == 0

    async def _sync(self, one: ConsentId, *, stays_open: bool) -> None:
        self.banks[one].gen += 1
        manager = self.store.writing()
        unit = await manager.__aenter__()
        await self._walk(unit, one)
        await unit.send()  # what waits for the commit as well: the transaction has its number from here on
        self.open[one] = (manager, unit)
        if not (stays_open and self.on_postgresql):
            await self._finish(one, well=True)

    async def _walk(self, unit: UnitOfWork, one: ConsentId) -> None:
        """Two listings, read whole."""
        bank = self.banks[one]
        consent = bank.consent or one
        claim = Claim(1, WorkKind.SYNC, one, LFI, bank.gen)
        scope = Scope(connection_id=one, consent_id=consent, claim=claim)
        items = [
            transaction(key, Status="Booked" if version else "Pending", TransactionInformation=f"version {version}")
            for key, version in bank.transactions.items()
        ]
        parties = [{"PartyId": key, "PartyType": "Sole"} for key in bank.parties]
        walks = (
            walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *items)),
            walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, *parties)),
        )
        cursors = await unit.cursors.of(one)
        showings = [show(each, NOTHING) for each in walks]
        now = await unit.now()
        due = {each.listing: now for each in showings}
        await apply(unit, scope, showings, cursors, due=due, now=now)

    async def _finish(self, one: ConsentId, *, well: bool) -> None:
        manager, unit = self.open.pop(one)
        if well:
            await unit.commit()
        await manager.__aexit__(None, None, None)

    async def _consent(
        self, unit: UnitOfWork, connection: ConsentId, consent: ConsentId, *, user: str = "u", **changes: Any
    ) -> None:
        now = self.clock.now()
        row = Connection(connection_id=connection, lfi=LFI, user_ref=user, created_at=now)
        await unit.consents.add_connection(row)
        facts: dict[str, Any] = {
            "consent_id": consent, "connection_id": connection, "lfi": LFI, "user_ref": user,
            "version": Version.V2_1, "status": Status.Authorized.value, "status_updated_at": None,
            "status_seen_at": now, "permissions": ("ReadParty",), "expires_at": now + timedelta(days=300),
            "user_type": "Retail",
            "purpose": "AccountAggregation", "created_at": now,
        }  # fmt: skip
        await unit.consents.add(StoredConsent(**facts | changes))


def _name(entry: feed.Entry[bytes]) -> tuple[Any, ...]:
    return entry.connection_id, entry.account_id, entry.resource, entry.key, entry.data_class


async def _items(unit: UnitOfWork, keys: Sequence[RowKey]) -> Items:
    """The rows as they are now, as a door of the product would show them."""
    living = set(await unit.records.living(keys))
    found: dict[RowKey, bytes] = {}
    for connection_id in {one.connection_id for one in living}:
        async for row in unit.records.all_rows(connection_id):
            key = RowKey(row.connection_id, row.account_id, row.resource, row.key)
            if key in living:
                found[key] = row.item
    return found


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_a_mirror_ends_with_what_can_be_read(
    request: pytest.FixtureRequest, database: str, keyring: KeyRing, tmp_path: Path
) -> None:
    """Whatever was written, in whatever order it was committed, wherever the mirror began and its pages ended."""
    if database == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    else:
        url = f"sqlite:///{request.getfixturevalue('sqlite_template')}"

    class Here(Feed):
        def __init__(self) -> None:
            super().__init__(url, keyring, tmp_path)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            phases=[Phase.generate],
        ),
    )
