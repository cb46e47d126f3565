"""SIGTERM in the middle of syncs: nothing new is begun, what came is kept, the claims are due again at once."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from syncworker.standard.resources import ResourceName
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.reports import RunOutcome
from tests.sync.house import SETTINGS, Product

pytestmark = pytest.mark.flow

Opener = Callable[..., Awaitable[Product]]


def stopping_engine(product: Product) -> Parts:
    """Parts whose process the test may stop; the product's engine uses them."""
    parts = Parts(store=product.store, clients=product.clients, tokens=product.vault.source, ask=product.lifecycle.ask)
    product.engine = Engine(parts, product.settings)
    return parts


async def test_a_walk_stops_between_two_pages_and_the_next_run_completes_it(open_product: Opener) -> None:
    """No call follows those under way; the run is filed, its claim is free and due, no attempt or crash is counted."""
    product = await open_product(customers=1, page_size=5)
    parts = stopping_engine(product)
    connection = await product.consented()
    stopped_at: list[int] = []

    async def stop(resource: ResourceName, page: int) -> None:
        if resource is ResourceName.TRANSACTIONS and page == 1 and not stopped_at:
            parts.stopping.set()
            stopped_at.append(product.mark())

    product.between = stop
    report = await product.sync(connection)
    row = await product.work(connection)
    after = sum(product.gets(stopped_at[0]).values())

    product.between = None
    stopping_engine(product)
    again = await product.sync(connection)

    assert (report.outcome, report.error) == (RunOutcome.PARTIAL, "stopping")
    assert after < product.settings.steps_at_once, "only what was under way came to its end"
    assert (row.lease_until, row.attempts, row.crashes, row.due_at <= product.clock.now()) == (None, 0, 0, True)
    assert (again.outcome, await product.differences()) == (RunOutcome.OK, ())


async def test_consents_of_a_batch_that_had_not_begun_are_given_back(open_product: Opener) -> None:
    """One at a time: the first stops at its next page, the others are not begun at all."""
    product = await open_product(customers=3, page_size=5, settings=replace(SETTINGS, consents_at_once=1))
    parts = stopping_engine(product)
    connections = [await product.consented(user) for user in range(3)]

    async def stop(_resource: ResourceName, _page: int) -> None:
        parts.stopping.set()

    product.between = stop
    report = await product.sync_all(*connections)
    rows = [await product.work(connection) for connection in connections]

    assert (len(report.runs), report.given_back, report.stale) == (1, 2, 0)
    assert {(row.lease_until, row.attempts, row.crashes) for row in rows} == {(None, 0, 0)}
