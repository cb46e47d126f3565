"""Columns of rows that an older program wrote are filled from the items they hold, and nothing else of them changes."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest
import sqlalchemy as sa

from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.filling import TABLES
from syncworker.store.tables import RECORD_TABLES, account_reference, filling, metadata, typed_columns, work
from syncworker.store.unit_of_work import Store
from syncworker.store.work import Claim, WorkKind
from syncworker.sync.decode import COLUMNS_VERSION, columns_of, decode
from syncworker.sync.filling import SUBJECT, Batch, Filling
from tests.ground.clock import ManualClock
from tests.sync.books import CONSENT, Desk, balance, page, transaction, walk
from tests.sync.house import Product

pytestmark = pytest.mark.flow

N = ResourceName
IBAN: Final = "AE070331234567890123456"
OURS: Final = frozenset({"filling", "work", "open_claims"})
"""Tables by which the filling is steered."""


def account(iban: str | None = IBAN) -> dict[str, Any]:
    shown = [] if iban is None else [{"SchemeName": "IBAN", "Identification": iban}]
    return {"AccountId": "acc-1", "Nickname": "Mine", "AccountIdentifiers": shown}


async def brought(desk: Desk, *, transactions: int = 5) -> None:
    """An account, its balance, its holder, and transactions; one of them is a tombstone and one has a history."""
    keys = [f"t{number}" for number in range(transactions)]
    await desk.apply(
        walk(N.ACCOUNTS, page(N.ACCOUNTS, account())),
        walk(N.BALANCES, page(N.BALANCES, balance("1.00"))),
        walk(N.PARTIES, b'{"Party":{"PartyId":"p","PartyType":"Sole","Name":"Sample Person"}}'),
        walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *(transaction(key) for key in keys), transaction("gone"))),
    )
    for _ in range(2):
        desk.clock.advance(days=1)
        changed = transaction("t0", TransactionInformation="Changed")
        await desk.apply(
            walk(N.TRANSACTIONS, page(N.TRANSACTIONS, changed, *(transaction(key) for key in keys[1:]))),
            walk(N.BALANCES, page(N.BALANCES, balance("2.00"))),
        )


async def age(store: Store) -> None:
    """Leave the rows as a program wrote them that knew of no typed column and of no reference."""
    async with store.writing() as unit:
        for table in TABLES:
            await unit.connection.execute(sa.update(table).values(dict.fromkeys(typed_columns(table))))
        await unit.connection.execute(sa.delete(account_reference))
        await unit.connection.execute(sa.delete(filling))
        await unit.commit()


async def everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables that the filling is not steered by; of references what is not made by chance or time."""
    found = {}
    async with store.reading() as unit:
        for table in metadata.sorted_tables:
            if table.name not in OURS:
                columns = [one for one in table.c if one.name != "created_at"]
                if table is account_reference:
                    columns = [one for one in columns if one.name != "account_id"]
                rows = await unit.connection.execute(sa.select(*columns))
                found[table.name] = sorted(map(tuple, rows), key=repr)
    return found


def filler(store: Store, **options: Any) -> Filling:
    return Filling(store, retry_after=lambda _: timedelta(minutes=1), **options)


async def claimed(job: Filling) -> Claim:
    """The claim that a look makes, without the share that it begins."""
    claim = await job._claimed()
    assert claim is not None
    return claim


async def filled(job: Filling, claim: Claim) -> list[Batch]:
    """Batches until nothing is left."""
    batches = []
    while (done := await job.batch(claim)).table:
        batches.append(done)
    return batches


async def left(store: Store) -> list[tuple[str, int, int | None, int]]:
    async with store.reading() as unit:
        found = await unit.fillings.open(COLUMNS_VERSION)
    return [(one.table.name, one.done, one.about, one.skipped) for one in found]


@pytest.mark.parametrize("seal", [False, True])
async def test_old_rows_become_what_new_code_writes(desk: Desk, seal: bool) -> None:
    """Every table is as before the columns went: digests, instants, generations, histories, changes and cursors too."""
    desk.seal_raw = seal
    await brought(desk)
    before = await everything(desk.store)
    await age(desk.store)
    aged = await everything(desk.store)

    job = filler(desk.store, batch=2)
    batches = await filled(job, await claimed(job))

    assert aged != before
    assert await everything(desk.store) == before
    assert sum(one.filled for one in batches) == (8 if seal else 9)  # what a beneficiary has is all personal
    assert not any(one.skipped or one.again for one in batches)


async def test_a_row_of_the_present_code_needs_no_filling(desk: Desk) -> None:
    """Each is looked at once, and none is written."""
    await brought(desk)
    before = await everything(desk.store)
    job = filler(desk.store)
    batches = await filled(job, await claimed(job))

    assert (sum(one.rows for one in batches), sum(one.filled for one in batches)) == (9, 0)
    assert await everything(desk.store) == before


async def test_every_resource_comes_out_as_the_sync_decoded_it(product: Product) -> None:
    """The bank shows everything; of each row the held item gives the very columns the row has."""
    connection = await product.consented()
    await product.sync(connection)
    rows = await product.rows(connection, gone=True)

    different = [row.key for row in rows if columns_of(row.resource, row.item) != tuple(row.columns.values())]

    assert {row.resource for row in rows} >= set(RECORD_TABLES) - {N.ACCOUNT}
    assert different == []


async def test_ticks_fill_a_share_each_and_the_last_ends_it(desk: Desk, clock: ManualClock) -> None:
    """One batch a share; what is left shows until nothing is, then the row of work goes and no look asks for more."""
    await brought(desk)
    before = await everything(desk.store)
    await age(desk.store)
    job = filler(desk.store, batch=3, share_s=0)
    seen = [await left(desk.store)]
    for _ in range(100):
        await job.look()
        await job.finished()
        seen.append(await left(desk.store))
        clock.advance(seconds=5)
        if not seen[-1]:
            break
    began = await job.look()
    async with desk.store.reading() as unit:
        row = await unit.work.find(WorkKind.FILL, SUBJECT)

    assert seen[0] == [(name, 0, None, 0) for name in ("account", "balance", "transaction", "party")]
    assert seen[1] == [("account", 1, 1, 0), ("balance", 0, 1, 0), ("transaction", 0, 6, 0), ("party", 0, 1, 0)]
    assert ("transaction", 3, 6, 0) in [one[0] for one in seen if one]
    assert (seen[-1], began, row) == ([], False, None)
    assert await everything(desk.store) == before


async def test_a_database_without_rows_has_nothing_to_fill(store: Store) -> None:
    """The first look says so; no row of work is made."""
    job = filler(store)
    began = await job.look()
    async with store.reading() as unit:
        row = await unit.work.find(WorkKind.FILL, SUBJECT)

    assert (began, row, await left(store)) == (False, None, [])


async def test_what_a_sync_writes_meanwhile_wins(desk: Desk) -> None:
    """Between reading a batch and writing it a sync changes one row, marks another, and removes an account's IBAN."""
    await brought(desk)
    await age(desk.store)
    job = filler(desk.store)
    claim = await claimed(job)
    renamed = walk(N.ACCOUNTS, page(N.ACCOUNTS, account(None)))
    while (read := await job.read()) is not None and read.at.table.name != "account":
        await job.write(claim, read)
    assert read is not None
    await desk.apply(renamed)
    overtaken = await job.write(claim, read)
    assert (overtaken.filled, overtaken.again) == (0, True)
    while (read := await job.read()) is not None and read.at.table.name != "transaction":
        await job.write(claim, read)
    assert read is not None
    shown = [transaction("t0", TransactionInformation="Newer"), *(transaction(f"t{one}") for one in range(1, 4))]
    await desk.apply(walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *shown)))  # t4 is gone: same item, newer `gen`
    overtaken = await job.write(claim, read)
    rows = await desk.rows(N.TRANSACTIONS)
    assert (overtaken.again, rows["t0"].columns["transaction_information"]) == (True, "Newer")

    await filled(job, claim)

    rows = await desk.rows(N.TRANSACTIONS)
    assert rows["t0"].columns["transaction_information"] == "Newer"
    assert {row.columns["status"] for row in rows.values()} == {"Booked"}
    assert rows["t4"].gone_at is not None
    async with desk.store.reading() as unit:
        (reference,) = await unit.account_references.of_connections([CONSENT])
    assert reference.identity is None


async def test_syncs_and_the_filling_get_on_together(
    desk: Desk, database_url: str, open_store: Callable[..., Store]
) -> None:
    """Both write the same rows at once, in small steps; in the end each row says what its item says."""
    await brought(desk, transactions=40)
    await age(desk.store)
    job = filler(open_store(database_url), batch=3)
    claim = await claimed(job)

    async def sync() -> None:
        for turn in range(8):
            shown = [
                transaction(f"t{number}", TransactionInformation=f"Turn {turn if number % 3 == 0 else 0}")
                for number in range(40 - turn % 3)
            ]
            await desk.apply(
                walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *shown)),
                walk(N.ACCOUNTS, page(N.ACCOUNTS, account(IBAN if turn % 2 else None))),
            )

    await asyncio.gather(sync(), filled(job, claim))
    await filled(job, claim)
    rows = await desk.rows()
    async with desk.store.reading() as unit:
        (reference,) = await unit.account_references.of_connections([CONSENT])

    assert len(rows) == 44
    assert [one.key for one in rows.values() if tuple(one.columns.values()) != columns_of(one.resource, one.item)] == []
    assert reference.identity is not None


@pytest.mark.parametrize(
    "item",
    [
        transaction("plain"),
        transaction("numbers", Amount={"Amount": 12.5, "Currency": 784}, TransactionReference=7),
        transaction("without offset", ValueDateTime="2026-10-01T12:00:00", BookingDateTime="2026-10-01"),
        transaction("wrong types", Status=["Booked"], Amount="12", MerchantDetails=None, CreditorAccount=7),
        transaction("nul", TransactionInformation="a\x00b", MerchantDetails={"MerchantName": "x" * 400}),
        transaction("half a pair", TransactionInformation="\ud83d", CreditorAccount=[{"Name": "Sample"}]),
        {"TransactionId": "nothing else"},
        transaction("nested", SupplementaryData={"a": [{"b": {"c": [1, 2.5, None, True]}}]}),
    ],
    ids=lambda item: item["TransactionId"],
)
def test_an_item_gives_the_same_columns_again(item: dict[str, Any]) -> None:
    """Whatever the LFI sent, repaired text included."""
    (record,) = decode(BY_NAME[N.TRANSACTIONS], "acc-1", page(N.TRANSACTIONS, item)).records

    assert columns_of(N.TRANSACTIONS, record.raw) == record.columns


async def test_a_process_that_ends_in_the_midst_is_followed_by_another(
    desk: Desk, clock: ManualClock, database_url: str, open_store: Callable[..., Store]
) -> None:
    """Its claim's lease runs out; the next goes on behind the last batch, and the old one writes no more."""
    await brought(desk)
    before = await everything(desk.store)
    await age(desk.store)
    killed, other = filler(desk.store, batch=2), filler(open_store(database_url), batch=2)
    stale = await claimed(killed)
    done = [await killed.batch(stale) for _ in range(6)]
    meanwhile = await other._claimed()
    clock.advance(minutes=3)
    claim = await claimed(other)
    late = await killed.batch(stale)
    done += await filled(other, claim)

    assert (meanwhile, late) == (None, Batch())
    assert sum(one.rows for one in done) == 9
    assert await everything(desk.store) == before


async def test_a_process_that_ends_in_order_gives_its_claim_back(desk: Desk) -> None:
    """The share is cancelled wherever it is; another process may begin at once."""
    await brought(desk)
    await age(desk.store)
    job = filler(desk.store, batch=1)
    began = await job.look()
    await asyncio.sleep(0)
    await job.close()
    again = await filler(desk.store)._claimed()

    assert (began, again is not None) == (True, True)


async def test_two_processes_never_fill_at_once(
    desk: Desk, database_url: str, open_store: Callable[..., Store]
) -> None:
    """Two looks at the same moment: one begins."""
    await brought(desk)
    before = await everything(desk.store)
    await age(desk.store)
    jobs = [filler(desk.store), filler(open_store(database_url))]
    began = await asyncio.gather(*(job.look() for job in jobs))
    await asyncio.gather(*(job.finished() for job in jobs))

    assert sorted(began) == [False, True]
    assert (await everything(desk.store), await left(desk.store)) == (before, [])


@pytest.mark.parametrize("raw", [b"junk", b"\x00not JSON", b"\x00[]", b""])
async def test_an_item_that_cannot_be_read_is_counted_and_passed_over(desk: Desk, raw: bytes) -> None:
    """The row stays as it is; the rows around it are filled."""
    await brought(desk)
    await age(desk.store)
    table = RECORD_TABLES[N.TRANSACTIONS]
    async with desk.store.writing() as unit:
        await unit.connection.execute(sa.update(table).where(table.c.key == "t1").values(raw=raw))
        await unit.commit()
    job = filler(desk.store)
    batches = await filled(job, await claimed(job))
    async with desk.store.reading() as unit:
        found = dict(map(tuple, await unit.connection.execute(sa.select(table.c.key, table.c.status))))

    assert (sum(one.filled for one in batches), sum(one.skipped for one in batches)) == (8, 1)
    assert {key for key, status in found.items() if status is None} == {"t1"}


async def test_a_seal_that_does_not_open_is_passed_over(desk: Desk) -> None:
    """A party's item moved to another row: its seal names the place it was sealed for."""
    await brought(desk)
    await age(desk.store)
    table = RECORD_TABLES[N.PARTIES]
    async with desk.store.writing() as unit:
        await unit.connection.execute(sa.update(table).values(key="another"))
        await unit.commit()
    job = filler(desk.store)

    assert sum(one.skipped for one in await filled(job, await claimed(job))) == 1


async def test_a_fault_ends_a_share_and_waits(desk: Desk) -> None:
    """A process without a key ring: the row of work says what failed, and is due by the ladder."""
    await brought(desk)
    await age(desk.store)
    job = filler(desk.store)
    claim = await claimed(job)
    desk.store._keyring = None
    await job._share(claim)
    async with desk.store.reading() as unit:
        row = await unit.work.find(WorkKind.FILL, SUBJECT)

    assert row is not None
    assert (row.last_error, row.due_at - desk.clock.now()) == ("settings", timedelta(minutes=1))


async def test_columns_of_a_newer_version_are_filled_again(desk: Desk) -> None:
    """A table that is filled up to a version is not, up to the next; one at a newer version is left alone."""
    await brought(desk)
    job = filler(desk.store)
    await filled(job, await claimed(job))
    async with desk.store.writing() as unit:
        same = await unit.fillings.open(COLUMNS_VERSION)
        await unit.fillings.begin(COLUMNS_VERSION + 1, at=desk.clock.now())
        newer = await unit.fillings.open(COLUMNS_VERSION + 1)
        await unit.fillings.begin(COLUMNS_VERSION, at=desk.clock.now())
        after = await unit.fillings.open(COLUMNS_VERSION + 1)
        await unit.commit()

    assert same == []
    assert [one.table.name for one in newer] == ["account", "balance", "transaction", "party"]
    assert after == newer


async def test_an_erased_connection_is_not_filled_again(desk: Desk) -> None:
    """Erased between reading and writing: no row comes back, and no identity."""
    await brought(desk)
    job = filler(desk.store)
    claim = await claimed(job)
    read = await job.read()
    assert read is not None
    async with desk.store.writing() as unit:
        await unit.connection.execute(sa.update(account_reference).values(identity=None))
        await unit.erasure.erase(ConsentId(CONSENT))
        await unit.commit()
    await job.write(claim, read)
    await filled(job, claim)
    async with desk.store.reading() as unit:
        (reference,) = await unit.account_references.of_connections([CONSENT])

    assert (reference.identity, await desk.rows()) == (None, {})


async def test_work_of_no_lfi_is_claimed_by_no_dispatcher(desk: Desk) -> None:
    """The row stands under a name that no LFI can have."""
    await brought(desk)
    await claimed(filler(desk.store))
    async with desk.store.reading() as unit:
        lfi = await unit.connection.scalar(sa.select(work.c.lfi).where(work.c.kind == WorkKind.FILL.value))

    assert lfi == "(tables)"
