"""Whole syncs as the worker's own role, on PostgreSQL: exempt from row level security, and under its policy."""

from collections.abc import AsyncIterator, Callable

import psycopg
import pytest
from psycopg import sql

from syncworker.store import grants, migrate
from syncworker.store.roles import Kind, role_name
from syncworker.store.unit_of_work import Store
from tests.ground.postgres import as_role
from tests.sync.house import Product

pytestmark = pytest.mark.flow

WORKER = role_name(Kind.WORKER)


@pytest.fixture(params=["BYPASSRLS", "NOBYPASSRLS"])
async def store(
    request: pytest.FixtureRequest, postgresql_url: str, open_store: Callable[..., Store]
) -> AsyncIterator[Store]:
    """The store for the worker's role, which a managed server makes without BYPASSRLS."""
    with migrate.connected(postgresql_url) as own, own.begin():
        grants.apply(own, tenants=["default"])
    statement = sql.SQL("ALTER ROLE {} {}")
    with psycopg.connect(postgresql_url, autocommit=True) as owner:
        owner.execute(statement.format(sql.Identifier(WORKER), sql.SQL(request.param)))
        yield open_store(as_role(postgresql_url, WORKER))
        owner.execute(statement.format(sql.Identifier(WORKER), sql.SQL("BYPASSRLS")))


async def test_a_whole_sync_and_what_changes_later(product: Product) -> None:
    """A first sync; then a new transaction, another balance and a renamed account: each time as in the bank's books."""
    connections = [await product.consented(0), await product.consented(1)]
    first = await product.sync_all(*connections)
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    product.clock.advance(hours=13)
    product.bank.bank.insert_transaction(account, amount="42.75")
    product.bank.bank.change_balance(account, amount="-17.125")
    product.bank.bank.rename_account(account, "سفر")
    second = await product.sync_all(*connections)

    assert (first.outcomes, sum(second.outcomes.values())) == ({"ok": 2}, 2)
    assert await product.differences() == ()
