"""Many rows at once, on both databases and by both ways (few rows, many rows)."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.store.bulk import COPY_FROM, _copy, _plan, insert_many, upsert_many
from syncworker.store.failures import StoreRefusedError, StoreUnavailableError
from syncworker.store.tables import call, cursor, run, transaction
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.ground.proxy import FaultProxy

pytestmark = pytest.mark.store

KEY = ("tenant", "connection_id", "account_id", "key")
FACTS = ("signed_amount", "currency", "booking_date_time", "booking_date", "raw", "digest")
FRAME = ("first_seen_at", "changed_at", "gen")
COLUMNS = (*KEY, *FACTS, *FRAME)
REPLACED = (*FACTS, "changed_at", "gen")
MOMENT = datetime(2026, 3, 1, 8, 30, 0, 123456, UTC)
BATCHES = (pytest.param(3, id="few rows"), pytest.param(COPY_FROM * 3, id="many rows"))


def transactions(count: int, *, amount: str = "-12.50", gen: int = 1) -> list[tuple[Any, ...]]:
    return [
        ("default", "c1", "a1", f"t{number:05}", Decimal(amount), "AED", MOMENT, date(2026, 3, 1), b"\0raw\xff",
         b"d" * 16, MOMENT, MOMENT, gen)
        for number in range(count)
    ]  # fmt: skip


async def upsert(unit: UnitOfWork, rows: Sequence[tuple[Any, ...]], **options: Any) -> int:
    return await upsert_many(
        unit.connection, unit.dialect, transaction, COLUMNS, rows, key=KEY, replace=REPLACED, **options
    )


async def held(store: Store, *columns: str) -> list[tuple[Any, ...]]:
    names = columns or COLUMNS
    async with store.reading() as unit:
        query = sa.select(*(transaction.c[name] for name in names)).order_by(transaction.c.key)
        return [tuple(row) for row in await unit.connection.execute(query)]


@pytest.fixture
def write(store: Store) -> Callable[..., Any]:
    async def written(rows: Sequence[tuple[Any, ...]], **options: Any) -> int:
        async with store.writing() as unit:
            count = await upsert(unit, rows, **options)
            await unit.commit()
            return count

    return written


@pytest.mark.parametrize("count", BATCHES)
async def test_rows_come_back_as_they_went_in(store: Store, write: Callable[..., Any], count: int) -> None:
    """Every type survives: text, money, instant, date, bytes, numbers."""
    rows = transactions(count)

    assert (await write(rows), await held(store)) == (count, rows)


@pytest.mark.parametrize("count", BATCHES)
@pytest.mark.parametrize(
    ("gen", "amount"),
    [
        pytest.param(6, "-2.00", id="newer claim overwrites"),
        pytest.param(5, "-2.00", id="same claim overwrites"),
        pytest.param(4, "-1.00", id="older claim changes nothing"),
    ],
)
async def test_the_newer_claim_wins(store: Store, write: Callable[..., Any], count: int, gen: int, amount: str) -> None:
    """A row of generation 5 yields to 5 and above; the count says what was really written."""
    await write(transactions(count, amount="-1.00", gen=5))

    written = await write(transactions(count, amount="-2.00", gen=gen))

    assert (written, await held(store, "signed_amount")) == (
        0 if gen < 5 else count,
        [(Decimal(amount),)] * count,
    )


@pytest.mark.parametrize("count", BATCHES)
async def test_without_the_guard_the_later_write_wins(store: Store, write: Callable[..., Any], count: int) -> None:
    """`newer_gen_wins=False` overwrites whatever is there."""
    await write(transactions(count, gen=5))

    written = await write(transactions(count, amount="-2.00", gen=1), newer_gen_wins=False)

    assert (written, await held(store, "signed_amount", "gen")) == (count, [(Decimal("-2.00"), 1)] * count)


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(list(reversed(transactions(3))), id="unsorted"),
        pytest.param([*transactions(1), *transactions(1)], id="repeated"),
    ],
)
async def test_unsorted_or_repeated_keys_are_refused(store: Store, rows: list[tuple[Any, ...]]) -> None:
    """They would deadlock, or overwrite each other in silence."""
    async with store.writing() as unit:
        with pytest.raises(AssertionError, match="transaction: rows not sorted by key"):
            await upsert(unit, rows)


async def test_several_batches_in_one_transaction(store: Store) -> None:
    """The second COPY does not carry the rows of the first."""
    first, second = transactions(COPY_FROM), transactions(COPY_FROM * 2, amount="-3.00")[COPY_FROM:]
    async with store.writing() as unit:
        written = [await upsert(unit, first), await upsert(unit, second)]
        await unit.commit()

    assert (written, await held(store)) == ([COPY_FROM, COPY_FROM], first + second)


@pytest.mark.parametrize("count", BATCHES)
async def test_a_batch_alone_in_its_transaction_rolls_back(store: Store, count: int) -> None:
    """Leaving without commit leaves nothing, and a later batch works."""
    async with store.writing() as unit:
        await upsert(unit, transactions(count))
    async with store.writing() as unit:
        await upsert(unit, transactions(1))
        await unit.commit()

    assert len(await held(store)) == 1


async def test_no_rows_is_no_statement(store: Store) -> None:
    """An empty batch writes nothing and says so."""
    async with store.writing() as unit:
        assert await upsert(unit, []) == 0


@pytest.mark.parametrize("count", BATCHES)
async def test_money_and_offsets(store: Store, write: Callable[..., Any], count: int) -> None:
    """Thirteen digits and five places stay exact; an instant with +04:00 comes back in UTC."""
    dubai = datetime(2026, 3, 1, 12, 30, tzinfo=timezone(timedelta(hours=4)))
    rows = [(*row[:4], Decimal("9007199254740.99301"), "AED", dubai, *row[7:]) for row in transactions(count)]

    await write(rows)

    assert (
        await held(store, "signed_amount", "booking_date_time")
        == [(Decimal("9007199254740.99301"), datetime(2026, 3, 1, 8, 30, tzinfo=UTC))] * count
    )


@pytest.mark.parametrize("count", BATCHES)
async def test_appended_rows_keep_json_and_null(store: Store, count: int) -> None:
    """`insert_many` takes JSON, NULL and defaults of the database."""
    columns = ("tenant", "connection_id", "consent_id", "lfi", "gen", "started_at", "ended_at", "outcome", "error",
               "calls", "pages", "pages_unchanged", "added", "modified", "removed", "steps")  # fmt: skip
    steps = {"accounts": ["ok", None, 1.5]}
    row = ("default", "c1", "c1", "lfi", 1, MOMENT, MOMENT, "ok", None, 1, 2, 3, 4, 5, 6, steps)
    async with store.writing() as unit:
        written = await insert_many(unit.connection, unit.dialect, run, columns, [row] * count)
        await unit.commit()

    async with store.reading() as unit:
        rows = (await unit.connection.execute(sa.select(run.c.steps, run.c.error))).all()
    assert (written, [tuple(row) for row in rows]) == (count, [(steps, None)] * count)


@pytest.mark.parametrize("count", BATCHES)
async def test_booleans_and_counters(store: Store, count: int) -> None:
    """Calls keep `attended` as a boolean."""
    columns = ("tenant", "lfi", "consent_id", "operation", "status", "interaction_id", "started_at", "duration_ms",
               "bytes_in", "attended", "price_millifils")  # fmt: skip
    row = ("default", "lfi", "", "accounts", 200, "i", MOMENT, 12, 1 << 40, True, 2500)
    async with store.writing() as unit:
        await insert_many(unit.connection, unit.dialect, call, columns, [row] * count)
        await unit.commit()

    async with store.reading() as unit:
        rows = (await unit.connection.execute(sa.select(*(call.c[name] for name in columns)))).all()
    assert [tuple(found) for found in rows] == [row] * count


@pytest.mark.parametrize("count", BATCHES)
async def test_an_append_may_leave_out_what_is_there(store: Store, write: Callable[..., Any], count: int) -> None:
    """With a key, a row that is there already is left alone and not counted."""
    await write(transactions(1, amount="-1.00"))
    async with store.writing() as unit:
        written = await insert_many(unit.connection, unit.dialect, transaction, COLUMNS, transactions(count), key=KEY)
        await unit.commit()

    assert (written, (await held(store, "signed_amount"))[0]) == (count - 1, (Decimal("-1.00"),))


@pytest.mark.parametrize("count", BATCHES)
async def test_a_refused_batch_shows_no_value(store: Store, write: Callable[..., Any], count: int) -> None:
    """A key that is there already: our error names the constraint's kind and none of the values."""
    await write(transactions(count))
    with pytest.raises(StoreRefusedError) as refused:
        async with store.writing() as unit:
            await insert_many(unit.connection, unit.dialect, transaction, COLUMNS, transactions(count))

    assert (str(refused.value).split()[:2], "t00000" in str(refused.value)) == (["database", "refused:"], False)


async def test_a_connection_cut_before_a_copy(
    postgresql_url: str, open_store: Callable[..., Store], fault_proxy: Callable[[str | int], Awaitable[FaultProxy]]
) -> None:
    """The driver's own error is translated too; nothing is written and the next batch gets a new connection."""
    proxy = await fault_proxy(postgresql_url)
    store = open_store(proxy.url(postgresql_url))
    rows = transactions(COPY_FROM)

    async def lose() -> None:
        async with store.writing() as unit:
            await upsert(unit, rows)
            proxy.cut()
            plan = _plan(unit.connection.dialect, transaction, COLUMNS, KEY, REPLACED, True)
            await _copy(unit.connection, plan.copy, plan.types, rows)

    with pytest.raises(StoreUnavailableError):
        await lose()
    async with store.writing() as unit:
        await upsert(unit, rows[:1])
        await unit.commit()

    assert len(await held(store)) == 1


async def test_a_cursor_without_its_other_columns(store: Store) -> None:
    """Columns that a row does not name stay as they are."""
    key = ("tenant", "connection_id", "account_id", "resource")
    async with store.writing() as unit:
        for names, row in (
            ((*key, "due_at", "gen", "outcome"), ("default", "c", "", "accounts", MOMENT, 1, "ok")),
            ((*key, "due_at", "gen"), ("default", "c", "", "accounts", MOMENT, 2)),
        ):
            await upsert_many(unit.connection, unit.dialect, cursor, names, [row], key=key, replace=("due_at", "gen"))
        await unit.commit()

    async with store.reading() as unit:
        rows = (await unit.connection.execute(sa.select(cursor.c.gen, cursor.c.outcome))).all()
    assert [tuple(row) for row in rows] == [(2, "ok")]
