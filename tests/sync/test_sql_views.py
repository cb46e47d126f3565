"""Sums over the views equal the bank's own books, on both databases, whatever changed in between."""

from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.standard.values import MONEY_PLACES
from syncworker.store.tables import account, account_reference
from tests.sync.house import Product

pytestmark = pytest.mark.flow

Sums = dict[tuple[str, ...], int]


async def referenced(product: Product) -> None:
    """Every account held has an id of ours."""
    key = ("tenant", "connection_id", "lfi_account_id")
    async with product.store.writing() as unit:
        held = sa.select(account.c.tenant, account.c.connection_id, account.c.key, account.c.first_seen_at)
        those = sa.select(*(account_reference.c[one] for one in key))
        known = {tuple(row) for row in await unit.connection.execute(those)}
        rows = [tuple(row) for row in await unit.connection.execute(held)]
        for number, (*names, at) in enumerate(rows):
            if tuple(names) not in known:
                facts = dict(zip(key, names, strict=True)) | {"account_id": f"acc_{len(known) + number}"}
                await unit.connection.execute(sa.insert(account_reference).values(**facts, created_at=at))
        await unit.commit()


async def asked(product: Product, sql: str) -> list[tuple[Any, ...]]:
    async with product.store.reading() as unit:
        return [tuple(row) for row in await unit.connection.execute(sa.text(sql))]


async def summed(product: Product) -> tuple[Sums, Sums]:
    """Sums in 1/100,000 of balances and of transactions, by account, type or status, and currency."""

    async def grouped(view: str, by: str) -> Sums:
        sql = f"SELECT connection_id, lfi_account_id, {by}, currency, sum(amount_e5) FROM {view}"
        rows = await asked(product, f"{sql} WHERE amount_e5 IS NOT NULL GROUP BY 1, 2, 3, 4")
        return {tuple(row[:4]): int(row[4]) for row in rows}

    return await grouped("v_balance", "type"), await grouped("v_transaction", "status")


def stated(product: Product) -> tuple[Sums, Sums]:
    """The same by the bank's books."""
    sums: tuple[Sums, Sums] = (defaultdict(int), defaultdict(int))
    for consent in product.bank.bank.books()["consents"]:
        for found, resource, by in ((sums[0], "balances", "type"), (sums[1], "transactions", "status")):
            for row in consent["resources"].get(resource, ()):
                columns = row["columns"]
                name = (consent["consent_id"], row["account_id"], columns[by], columns["currency"])
                found[name] += int(Decimal(columns["signed_amount"]).scaleb(MONEY_PLACES))
    return dict(sums[0]), dict(sums[1])


async def test_sums_over_the_views_equal_the_banks_books(product: Product) -> None:
    """After the first sync, and after the bank changed, took back and added what it had."""
    connections = [await product.consented(0), await product.consented(1)]
    await product.sync_all(*connections)
    await referenced(product)
    first = await summed(product), stated(product)

    bank = product.bank.bank
    one = bank.account_of(product.bank.users[0]).account_id
    product.clock.advance(hours=1)
    bank.insert_transaction(one, amount="42.75")
    bank.insert_transaction(one, amount="0.00001", transaction_id="tiny")
    bank.change_balance(one, amount="-17.125")
    await product.sync_all(*connections)
    second = await summed(product), stated(product)
    bank.drop_transaction(one, "tiny")
    for _ in range(3):
        product.clock.advance(hours=13)
        await product.sync_all(*connections)
    third = await summed(product), stated(product)

    assert first[0] == first[1]
    assert second[0] == second[1] != first[1]
    assert third[0] == third[1] != second[1]


async def test_the_rows_of_an_account_that_is_hidden_leave_the_views(product: Product) -> None:
    """The bank shows it no more: its balances and transactions are in no sum; they return with it."""
    connection = await product.consented()
    await product.sync(connection)
    await referenced(product)
    bank = product.bank.bank
    hidden = bank.account_of(product.bank.users[0]).account_id
    bank.hide_account(connection, hidden)
    for _ in range(3):
        product.clock.advance(days=2)
        await product.sync(connection)
    without = await summed(product), stated(product)
    accounts = {row[0] for row in await asked(product, "SELECT lfi_account_id FROM v_account")}
    bank.show_account(connection, hidden)
    product.clock.advance(days=2)
    await product.sync(connection)

    assert hidden not in accounts
    assert without[0] == without[1]
    assert (await summed(product), {name[1] for name in (await summed(product))[0]} >= {hidden}) == (
        stated(product),
        True,
    )


async def test_the_views_say_when_a_listing_was_seen_though_nothing_changed(product: Product) -> None:
    """`checked_at` moves with every walk, `changed_at` does not."""
    connection = await product.consented()
    await product.sync(connection)
    before = await asked(product, "SELECT id, checked_at, changed_at FROM v_transaction ORDER BY key")
    product.clock.advance(hours=1)
    await product.sync(connection)
    after = await asked(product, "SELECT id, checked_at, changed_at FROM v_transaction ORDER BY key")

    assert before
    assert [row[2] for row in after] == [row[2] for row in before]
    assert all(new[1] > old[1] for new, old in zip(after, before, strict=True))


async def test_every_row_of_the_feed_is_a_change_in_the_view(product: Product) -> None:
    """In the same order; with its markers expanded as their comment says, it names every row once."""
    connection = await product.consented()
    await product.sync(connection)
    async with product.store.reading() as unit:
        feed = [(*row.place, row.change.key) for row in await unit.changes.read(limit=100_000)]
    shown = await asked(product, "SELECT epoch, txid, seq, key FROM v_change ORDER BY epoch, txid, seq")
    single = await asked(product, "SELECT id FROM v_change WHERE resource = 'transactions' AND id IS NOT NULL")
    marked = await asked(
        product,
        "SELECT t.id FROM v_transaction t JOIN v_change c ON c.account_id = t.account_id"
        " WHERE c.resource = 'transactions' AND c.op = 'backfilled' AND c.at = t.first_seen_at",
    )
    held = await asked(product, "SELECT id FROM v_transaction")

    assert shown == feed
    assert sorted([*single, *marked]) == sorted(held)
