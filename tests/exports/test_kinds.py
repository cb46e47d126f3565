"""What a run exports: the past, without people, without ended consents, as Delta tables."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import deltalake
import duckdb
import pytest

from syncworker.errors import RequestError
from syncworker.exports import asof
from syncworker.exports.layout import ExportKind, Format, Manifest, Privacy
from syncworker.exports.run import Wanted, run
from syncworker.exports.schema import chosen
from syncworker.exports.targets import target_of
from syncworker.exports.verify import verify
from syncworker.standard.consents import ConsentView, Status
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.clock import ManualClock
from tests.sync.books import CONSENT, Desk, N, balance, file_consent, page, transaction, walk
from tests.sync.test_account_references import IBAN, account, listed

pytestmark = [pytest.mark.store, pytest.mark.timeout(120)]


@pytest.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    """A connection with an account and twelve transactions."""
    await file_consent(store, clock)
    desk = Desk(store, clock)
    await desk.apply(listed(account("acc-1")))
    await moved(desk, "1.25", range(12))
    return desk


async def moved(desk: Desk, amount: str, those: range) -> None:
    """The bank shows a balance and these transactions."""
    desk.clock.advance(minutes=10)
    items = [transaction(f"t{one}", TransactionInformation="to a person", Amount=money(amount)) for one in those]
    await desk.apply(
        walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *items)), walk(N.BALANCES, page(N.BALANCES, balance(amount)))
    )


def money(amount: str) -> dict[str, str]:
    return {"Amount": amount, "Currency": "AED"}


def wanted(folder: Path, *names: str) -> Wanted:
    tables = chosen(names or ("account", "account_identifier", "balance", "transaction"))
    return Wanted(name="nightly", target=target_of(str(folder)), format=Format.PARQUET, tables=tables)


def rows(folder: Path, manifest: Manifest, table: str, columns: str) -> list[tuple[object, ...]]:
    files = f"{folder}/{manifest.export}/{manifest.folder}/{table}/*.parquet"
    return duckdb.execute(f"SELECT {columns} FROM '{files}' ORDER BY ALL").fetchall()


async def test_an_export_of_the_past_has_what_was_known_then(desk: Desk, tmp_path: Path) -> None:
    """Amounts of then, rows that went since included; no increment stands on it."""
    then = desk.clock.now() + timedelta(minutes=1)
    await moved(desk, "9.5", range(6, 14))
    asked = replace(wanted(tmp_path, "account", "balance", "transaction"), as_of=then)
    past, now = await run(desk.store, asked), await run(desk.store, replace(asked, as_of=None, name="now"))

    assert (past.kind, past.to, past.as_of) == (ExportKind.FULL, None, then)
    assert rows(tmp_path, past, "transaction", "count(*), sum(amount)::VARCHAR") == [(12, "-15.00000")]
    assert rows(tmp_path, now, "transaction", "count(*), sum(amount)::VARCHAR") == [(8, "-76.00000")]
    assert rows(tmp_path, past, "balance", "amount::VARCHAR") == [("1.25000",)]
    assert verify(target_of(str(tmp_path)), "nightly").findings == []
    following = await run(desk.store, replace(asked, as_of=None))
    assert (following.kind, following.reason) == (ExportKind.FULL, "as_of")


async def test_the_past_is_what_an_export_of_then_holds(desk: Desk, tmp_path: Path) -> None:
    """Of every table with a history: the rows of a full export made then, whatever came after."""

    names = {
        N.BENEFICIARIES: ("BeneficiaryId", "BeneficiaryType"), N.DIRECT_DEBITS: ("DirectDebitId", "Name"),
        N.STANDING_ORDERS: ("StandingOrderId", "Frequency"), N.STATEMENTS: ("StatementId", "StatementReference"),
        N.ACCOUNT_PARTIES: ("PartyId", "PartyNumber"), N.PARTIES: ("PartyId", "PartyNumber"),
    }  # fmt: skip

    async def shown(version: int, *keys: str) -> None:
        desk.clock.advance(minutes=10)
        walks = []
        for resource, (key, member) in names.items():
            of = keys[:1] if resource is N.PARTIES else keys
            walks.append(walk(resource, page(resource, *({key: one, member: f"v{version}"} for one in of))))
        await desk.apply(*walks)

    await shown(1, "a", "b")
    asked = wanted(tmp_path, *asof.TABLES)
    now = await run(desk.store, asked)
    then = desk.clock.now() + timedelta(seconds=1)
    await moved(desk, "9.5", range(6, 14))
    await shown(2, "b", "c")
    past = await run(desk.store, replace(asked, as_of=then, name="past"))

    counts = {one.name: one.rows for one in now.tables if one.rows}
    assert counts == {
        "account": 1, "balance": 1, "transaction": 12, "party": 3, "beneficiary": 2, "direct_debit": 2,
        "standing_order": 2, "statement": 2,
    }  # fmt: skip
    for table in asked.tables:
        columns = ", ".join(one.name for one in table.columns if one.name != "first_seen_at")
        assert rows(tmp_path, past, table.name, columns) == rows(tmp_path, now, table.name, columns), table.name


async def test_tables_without_a_history_are_refused(desk: Desk, tmp_path: Path) -> None:
    """Before a number is taken; the message names those that have one."""
    with pytest.raises(RequestError, match="account_identifier cannot be read as of an instant; name some of account"):
        await run(desk.store, replace(wanted(tmp_path), as_of=desk.clock.now()))
    async with desk.store.reading() as unit:
        assert await unit.exports.listed() == []


async def test_a_pseudonymous_export_tells_of_no_person(desk: Desk, tmp_path: Path) -> None:
    """An IBAN has the same pseudonym each time; free text is null; ids that join rows stay."""
    asked = replace(wanted(tmp_path), privacy=Privacy.PSEUDONYMOUS)
    first, again = await run(desk.store, asked), await run(desk.store, replace(asked, full=True))
    whole = await run(desk.store, replace(asked, privacy=Privacy.FULL, name="whole"))

    ((code,),) = rows(tmp_path, first, "account_identifier", "identification")
    assert str(code).startswith("psn_")
    assert rows(tmp_path, again, "account_identifier", "identification") == [(code,)]
    assert rows(tmp_path, whole, "account_identifier", "identification") == [(IBAN,)]
    assert rows(tmp_path, first, "transaction", "DISTINCT transaction_information") == [(None,)]
    assert rows(tmp_path, first, "transaction", "account_id, key") == rows(
        tmp_path, whole, "transaction", "account_id, key"
    )
    assert first.pseudonym_key_id == again.pseudonym_key_id is not None
    assert whole.pseudonym_key_id is None
    assert IBAN.encode() not in b"".join(one.read_bytes() for one in (tmp_path / "nightly").rglob("*.*"))


async def test_rows_of_an_ended_consent_are_left_out_and_counted(desk: Desk, tmp_path: Path) -> None:
    """In an increment they are deletes; the manifest says whose and how many."""
    await run(desk.store, wanted(tmp_path))

    async def ended(unit: UnitOfWork) -> None:
        view = ConsentView(consent_id=CONSENT, status=Status.Revoked.value)
        await unit.consents.observe(view, at=await unit.now())

    await desk.store.atomically(ended)
    manifest = await run(desk.store, wanted(tmp_path))
    assert manifest.kind is ExportKind.INCREMENTAL
    assert {one.name: one.op for one in manifest.tables} == {
        "account": {"upsert": 0, "delete": 1},
        "account_identifier": {"upsert": 0, "delete": 1},
        "balance": {"upsert": 0, "delete": 1},
        "transaction": {"upsert": 0, "delete": 12},
    }
    assert [(one.connection_id, one.reason, one.rows) for one in manifest.left_out] == [(CONSENT, "consent_ended", 14)]


async def test_delta_tables_follow(desk: Desk, tmp_path: Path) -> None:
    """The newest row of each key is the row of now; an export that was given up makes the next one a full one."""
    asked = replace(wanted(tmp_path), format=Format.DELTA)
    await run(desk.store, asked)
    await moved(desk, "9.5", range(6, 14))
    assert (await run(desk.store, asked)).kind is ExportKind.INCREMENTAL

    def state() -> list[tuple[object, ...]]:
        held = deltalake.DeltaTable(str(tmp_path / "nightly-delta" / "transaction")).to_pyarrow_table()
        assert held.num_rows
        return duckdb.execute(
            "SELECT count(*), sum(amount)::VARCHAR FROM (SELECT * FROM held QUALIFY"
            " row_number() OVER (PARTITION BY account_id, key ORDER BY number DESC) = 1 AND op = 'upsert')"
        ).fetchall()

    assert state() == [(8, "-76.00000")]
    number = await desk.store.atomically(
        lambda unit: unit.exports.reserve("nightly", beyond=0, target=asked.target.text, format="delta")
    )
    assert number == 3
    desk.clock.advance(days=1)
    following = await run(desk.store, asked)
    assert (following.kind, following.number, following.reason) == (ExportKind.FULL, 4, "unfinished")
    assert state() == [(8, "-76.00000")]
