"""A full export and the increments behind it, applied in order, hold what a full export of the same moment holds.

The writers are those of the feed's own test (`tests.feed.test_mirrors`), with accounts, identifiers and balances beside
transactions and parties: rows are added, modified and removed in transactions that stay open while others commit;
accounts go and come back; consents end and come back; data is erased; changes are pruned; histories end.
"""

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from syncworker.exports import delta
from syncworker.exports.layout import ExportKind, Format, Manifest, TableEntry
from syncworker.exports.readers import text_of
from syncworker.exports.run import Wanted, run
from syncworker.exports.schema import Op, Table, chosen
from syncworker.exports.targets import target_of
from syncworker.standard.values import ConsentId
from syncworker.store.keyring import KeyRing
from syncworker.store.tables import feed_epoch
from syncworker.store.unit_of_work import UnitOfWork
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.apply import Scope, apply, show
from syncworker.sync.pages import NOTHING
from tests.feed.test_mirrors import CONNECTIONS, Feed
from tests.sync.books import ACCOUNT, LFI, N, balance, page, transaction, walk

pytestmark = [pytest.mark.store, pytest.mark.timeout(300)]

TABLES = chosen(
    ["account", "account_identifier", "balance", "balance_history", "transaction", "party", "connection", "consent"]
)
EXAMPLES, STEPS = 4, 30
FEWER: Final = 2
"""Examples of the formats whose reader is all that differs."""
Rows = dict[tuple[str, tuple[str | None, ...]], tuple[str | None, ...]]


@dataclass
class Accounts:
    """What the bank shows of a connection beside transactions and parties."""

    shown: list[str] = field(default_factory=lambda: [ACCOUNT])
    version: int = 0
    identifiers: int = 1
    amount: int = 0
    day: int = 1


class Exported(Feed):
    """The writers of the feed's test, and one series of exports."""

    a_mirror_begins = a_mirror_reads = None  # type: ignore[assignment]
    a_younger_sync_commits_first = use_ends_and_begins_between_two_pages = None  # type: ignore[assignment]

    def __init__(self, url: str, keyring: KeyRing, folder: Path, format_: Format) -> None:
        super().__init__(url, keyring, folder)
        self.root = folder / uuid.uuid4().hex
        self.root.mkdir(mode=0o700)
        self.target = target_of(str(self.root))
        self.format = format_
        self.accounts = {one: Accounts() for one in CONNECTIONS}
        self.held: Rows = {}
        self.seen: Counter[str] = Counter()

    @rule(
        one=st.sampled_from(CONNECTIONS),
        shown=st.sampled_from([[ACCOUNT], [], [ACCOUNT, "acc-2"], ["acc-2"]]),
        identifiers=st.integers(0, 3),
        amount=st.integers(0, 2),
        day=st.integers(1, 3),
    )
    def accounts_change(self, one: ConsentId, shown: list[str], identifiers: int, amount: int, day: int) -> None:
        bank = self.accounts[one]
        bank.shown, bank.identifiers, bank.amount, bank.day = shown, identifiers, amount, day
        bank.version += 1

    @rule()
    def the_history_is_another(self) -> None:
        """As after a restore that was noticed."""
        if self.open:
            return

        async def begun(unit: UnitOfWork) -> None:
            await unit.epochs.look()
            await unit.connection.execute(sa.update(feed_epoch).values(epoch=feed_epoch.c.epoch + 1))

        if self.on_postgresql:  # the note says which transaction wrote it: there only a look may write
            return
        self.run(self.store.atomically(begun))

    @rule()
    def an_export_is_made(self) -> None:
        self.run(self._exported())

    @rule(
        one=st.sampled_from(CONNECTIONS),
        change=st.integers(1, 3),
        remove=st.integers(1, 3),
        shown=st.sampled_from([[], [ACCOUNT], [ACCOUNT]]),
        stays_open=st.booleans(),
    )
    def rows_go_between_two_exports(
        self, one: ConsentId, change: int, remove: int, shown: list[str], stays_open: bool
    ) -> None:
        if one in self.open or not self.banks[one].in_use:
            return
        self.accounts[one].shown = [ACCOUNT]
        self.banks[one].change(4, 0, 0, 2)
        self.run(self._sync(one, stays_open=False))
        self.run(self._exported())
        self.accounts[one].shown = shown
        self.banks[one].change(0, change, remove, 1)
        self.run(self._sync(one, stays_open=stays_open))
        self.run(self._exported())

    @rule(one=st.sampled_from(CONNECTIONS), by_us=st.booleans(), erased=st.booleans(), again=st.booleans())
    def use_ends_after_an_export(self, one: ConsentId, by_us: bool, erased: bool, again: bool) -> None:
        if one in self.open or not self.banks[one].in_use:
            return
        self.accounts[one].shown = [ACCOUNT]
        self.banks[one].change(3, 1, 0, 2)
        self.run(self._sync(one, stays_open=False))
        self.run(self._exported())
        self._use_ends(one, by_us=by_us)
        if not erased:
            self.run(self._exported())
        else:
            self.data_is_erased(one, None)
        if again:
            self._new_chain(one)
        self.run(self._exported())

    async def _exported(self) -> None:
        series = await self._run("nightly")
        self._apply(series)
        whole = await self._run(f"whole-{series.number}", full=True)
        found: Rows = {}
        assert self._put(f"whole-{series.number}", whole, found) == Counter()
        assert self.held == found

    async def _run(self, name: str, *, full: bool = False) -> Manifest:
        wanted = Wanted(name=name, target=self.target, format=self.format, tables=TABLES, full=full)
        return await run(self.store, wanted)

    def _apply(self, manifest: Manifest) -> None:
        self.seen[f"{manifest.kind.value} {manifest.reason or ''}".strip()] += 1
        if manifest.kind is ExportKind.FULL:
            self.held = {}
        self.seen.update(self._put("nightly", manifest, self.held))
        self.seen.update(
            {f"{one.name} {op}": count for one in manifest.tables for op, count in one.op.items() if count}
        )

    def _put(self, name: str, manifest: Manifest, rows: Rows) -> Counter[str]:
        """Put an export's rows over those held, as a reader does; gives its deletes."""
        deletes: Counter[str] = Counter()
        for table, entry in zip(TABLES, manifest.tables, strict=True):
            named: set[tuple[str | None, ...]] = set()
            for row in self._rows(name, manifest, table, entry):
                op = row.pop("op", Op.UPSERT)
                key = tuple(row[one] for one in table.merge_key)
                assert key not in named, (table.name, key)
                named.add(key)
                if op == Op.UPSERT:
                    rows[table.name, key] = tuple(row.values())
                    continue
                deletes["delete" if rows.pop((table.name, key), None) else "delete of nothing"] += 1
                allowed = {"connection_id", "account_id", *table.merge_key}
                assert not [one for one, value in row.items() if value is not None and one not in allowed]
        return deletes

    def _rows(self, name: str, manifest: Manifest, table: Table, entry: TableEntry) -> Iterator[dict[str, str | None]]:
        if self.format is Format.DELTA:
            for batch in delta.read_version(self.target, table, manifest, entry):
                yield from batch.to_pylist()
            return
        for part in entry.files:
            with self.target.reading(f"{name}/{manifest.folder}/{part.path}") as file:
                for batch in text_of(file, table, self.format, op=manifest.kind is ExportKind.INCREMENTAL):
                    yield from batch.to_pylist()

    async def _walk(self, unit: UnitOfWork, one: ConsentId) -> None:
        bank, own = self.banks[one], self.accounts[one]
        claim = Claim(1, WorkKind.SYNC, one, LFI, bank.gen)
        scope = Scope(connection_id=one, consent_id=bank.consent or one, claim=claim)
        items = [
            transaction(key, Status="Booked" if version else "Pending", TransactionInformation=f'"version", {version}')
            for key, version in bank.transactions.items()
        ]
        parties = [{"PartyId": key, "PartyType": "Sole"} for key in bank.parties]
        accounts = [
            {
                "AccountId": name, "Currency": "AED", "Nickname": f"number {own.version}",
                "AccountIdentifiers": [
                    {"SchemeName": "AccountNumber", "Identification": f"{number}", "Name": f"v{own.version}"}
                    for number in range(own.identifiers)
                ],
            }
            for name in own.shown
        ]  # fmt: skip
        walks = [walk(N.ACCOUNTS, json.dumps({"Account": accounts}).encode())]
        if ACCOUNT in own.shown:
            walks += [
                walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *items)),
                walk(N.BALANCES, page(N.BALANCES, balance(f"{own.amount}.5", f"2026-10-0{own.day}T00:00:00Z"))),
                walk(N.ACCOUNT_PARTIES, page(N.ACCOUNT_PARTIES, *parties)),
            ]
        cursors = await unit.cursors.of(one)
        showings = [show(each, NOTHING) for each in walks]
        now = await unit.now()
        await apply(unit, scope, showings, cursors, due={each.listing: now for each in showings}, now=now)

    async def _end(self) -> None:
        await super()._end()
        await self._exported()


@pytest.mark.parametrize(
    ("database", "format_", "examples"),
    [
        ("postgresql", "parquet", EXAMPLES), ("sqlite", "csv", EXAMPLES), ("sqlite", "ndjson", FEWER),
        ("postgresql", "delta", FEWER),
    ],
)  # fmt: skip
def test_increments_add_up_to_the_next_full_export(
    request: pytest.FixtureRequest, database: str, format_: str, examples: int, keyring: KeyRing, tmp_path: Path
) -> None:
    """Row by row, at every step, whatever was written in between; each key at most once in an increment."""
    if database == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    else:
        url = f"sqlite:///{request.getfixturevalue('sqlite_template')}"
    seen: Counter[str] = Counter()

    class Here(Exported):
        def __init__(self) -> None:
            super().__init__(url, keyring, tmp_path, Format(format_))

        @initialize()
        def connections(self) -> None:
            super().connections()
            if examples == FEWER:  # so few may remove nothing by themselves
                self.rows_go_between_two_exports(CONNECTIONS[0], 1, 2, [ACCOUNT], stays_open=False)

        def teardown(self) -> None:
            super().teardown()
            seen.update(self.seen)

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            phases=[Phase.generate],
        ),
    )
    assert {"full", "incremental", "delete"} <= seen.keys(), seen
