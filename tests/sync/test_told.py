"""What the product is told of a sync: with the rows, once for each trouble, and nothing when nothing happened."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from syncworker.standard.values import ConsentId
from syncworker.store.messages import Message, MessageType
from syncworker.sync.reports import RunOutcome
from tests.sync.house import Product

pytestmark = pytest.mark.flow

Told = Callable[[], Awaitable[list[Message]]]


@pytest.fixture
async def told(product: Product) -> Told:
    """`await told()`: the messages written so far, oldest first; an endpoint wants all of them."""
    await product.store.atomically(
        lambda unit: unit.messages.add_endpoint("https://product.example/", at=product.clock.now())
    )

    async def read() -> list[Message]:
        async with product.store.reading() as unit:
            return list(reversed(await unit.messages.find(limit=1000)))

    return read


def counts(messages: list[Message], connection: ConsentId) -> dict[str, int]:
    """Rows added by resource, over all messages."""
    summed: Counter[str] = Counter()
    for one in messages:
        if one.type == MessageType.UPDATES_AVAILABLE and one.connection_id == connection:
            for resource, by_op in one.data["counts"].items():
                summed[resource] += by_op["added"]
    return dict(summed)


async def test_a_first_sync_tells_every_row_and_each_account(product: Product, told: Told) -> None:
    """Counts are those of the tables; the oldest date is that of the oldest transaction; then nothing more."""
    connection = await product.consented()
    await product.sync(connection)
    messages = await told()
    rows = await product.rows(connection)
    held = Counter(row.resource.value for row in rows)
    assert counts(messages, connection) == dict(held)
    added = {one.data["lfi_account_id"] for one in messages if one.type == MessageType.ACCOUNT_ADDED}
    assert added == {row.key for row in rows if row.resource.value == "accounts"}
    dates = [one.data["oldest_booking_date"] for one in messages if one.data.get("oldest_booking_date")]
    assert min(dates) == min(str(row.columns["booking_date"]) for row in rows if row.resource.value == "transactions")
    product.clock.advance(hours=1)
    assert (await product.sync(connection)).outcome is RunOutcome.UNCHANGED
    assert await told() == messages


async def test_a_change_is_told_with_the_run_that_brought_it(product: Product, told: Told) -> None:
    """One message; its place in the feed is that of the first of its changes."""
    connection = await product.consented()
    await product.sync(connection)
    before = await told()
    product.clock.advance(hours=1)
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    product.bank.bank.insert_transaction(account, amount="42.75")
    await product.sync(connection)
    (message,) = (await told())[len(before) :]
    assert message.type == MessageType.UPDATES_AVAILABLE
    assert message.data["counts"]["transactions"] == {"added": 1, "modified": 0, "removed": 0}
    async with product.store.reading() as unit:
        place = await unit.messages.first_place(connection, message.gen)
        run = await unit.messages.run_of(connection, message.gen)
    assert place is not None
    assert run is not None


async def test_a_failing_sync_is_told_once(product: Product, told: Told) -> None:
    """Not with every try; again when it failed after it had been well."""
    connection = await product.consented()
    await product.sync(connection)
    before = len(await told())

    async def failed() -> Any:
        product.bank.bank.answers(500)
        await product.sync(connection, asked=True)
        product.bank.bank.clear_faults()
        product.clock.advance(hours=6)

    await failed()
    await failed()
    await product.sync(connection)
    await failed()
    kinds = [one.type for one in (await told())[before:]]
    assert kinds == [MessageType.SYNC_FAILED, MessageType.SYNC_FAILED]
