"""Pages that look at so many rows for a filter, and pages of all customers by an index."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.store import tables
from syncworker.store.reads import Containing
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.views import questions
from syncworker.views.questions import LISTINGS, Order, TransactionFilter, Whose
from tests.store.filled import fill

pytestmark = pytest.mark.store

ROWS = 40
NEWEST = datetime(2026, 11, 21, 10, tzinfo=UTC)
TARGETS: Mapping[ResourceName, timedelta] = dict.fromkeys(ResourceName, timedelta(hours=24))
NEEDLE = Containing(("transaction_information",), "needle")


def booked(number: int) -> datetime | None:
    """Three share each instant, the last with the first of the next a microsecond apart; one in eight has none."""
    return None if number % 8 == 0 else NEWEST - timedelta(microseconds=number // 3)


def prepare(url: str) -> None:
    """Transactions of one account, of which one in five holds the text."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as own:
        fill(own, ROWS)
        for number in range(1, ROWS + 1):
            text = "a Needle" if number % 5 == 0 else "hay"
            row = sa.update(tables.transaction).where(tables.transaction.c.key == f"k{number}")
            own.execute(row.values(booking_date_time=booked(number), transaction_information=text))
    engine.dispose()


async def followed(unit: UnitOfWork, where: Any, *, looks: int, limit: int) -> tuple[list[str], int]:
    """The keys of all pages one after the other, and how many pages they were."""
    found, cursor, pages = list[str](), None, 0
    while True:
        page = await questions.page(
            unit, LISTINGS["transactions"], Whose(), targets=TARGETS, where=where, order=Order.NEWEST, cursor=cursor,
            limit=limit, looks=looks,
        )  # fmt: skip
        found += [row["key"] for row in page.rows]
        cursor, pages = page.next_cursor, pages + 1
        if cursor is None:
            return found, pages
        assert pages <= 2 * ROWS, "the pages come to no end"


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_pages_that_end_before_they_are_full_come_to_the_same_rows(
    database_url: str, store: Store, limit: int
) -> None:
    """Newest first, those without a date last, none left out and none twice, however few rows a page looks at."""
    prepare(database_url)
    async with store.looking() as unit:
        whole, _ = await followed(unit, [NEEDLE], looks=1_000, limit=50)
        found = {looks: await followed(unit, [NEEDLE], looks=looks, limit=limit) for looks in (1, 2, 5, 34, 35, 36)}

    dated = sorted((n for n in range(5, ROWS + 1, 5) if booked(n)), key=lambda n: (n // 3, f"k{n}"))
    assert whole == [f"k{n}" for n in (*dated, 40)]
    assert {looks: keys for looks, (keys, _) in found.items()} == dict.fromkeys(found, whole)
    if limit == 50:
        assert found[1][1] > found[5][1] > found[36][1] == 1, "a page that looks at fewer rows ends earlier"


async def test_dates_that_are_asked_for_bound_what_is_looked_at(database_url: str, store: Store) -> None:
    """What a page looks at begins with the newest row of the dates, not with the newest of all."""
    prepare(database_url)
    older = NEWEST - timedelta(days=2)
    engine = sa.create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as own:
        own.execute(
            sa.update(tables.transaction).where(tables.transaction.c.key == "k35").values(booking_date_time=older)
        )
    engine.dispose()
    where = [*TransactionFilter(to_date=older.date()).conditions(personal=True), NEEDLE]

    async with store.looking() as unit:
        found = await followed(unit, where, looks=2, limit=50)

    assert found == (["k35"], 1)


@pytest.mark.parametrize("order", Order)
async def test_sqlite_reads_pages_of_all_customers_by_an_index(sqlite_url: str, order: Order) -> None:
    """It sorts at most the rows of one account or one instant, never all."""
    prepare(sqlite_url)
    said: list[tuple[str, Any]] = []
    store = Store(sqlite_url)
    try:
        async with store.looking() as unit:

            @sa.event.listens_for(unit.connection.sync_engine, "before_cursor_execute")
            def noted(_own: Any, _cursor: Any, text: str, values: Any, _context: Any, _many: bool) -> None:
                said.append((text, values))

            await questions.listed(unit.reads.rows, LISTINGS["transactions"], Whose(), order=order)
            text, values = next((text, values) for text, values in said if "v_transaction" in text)
            plan = await unit.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)
            steps = [str(row[-1]) for row in plan]
    finally:
        await store.close()

    index = "ix_transaction_dated" if order is Order.NEWEST else "ix_account_reference_account_id_tenant"
    assert index in steps[0]
    assert "USE TEMP B-TREE FOR ORDER BY" not in steps
