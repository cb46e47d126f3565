"""The inbox: many events in one transaction, beside others that file the same."""

from datetime import UTC, datetime
from hashlib import sha256

import pytest
import sqlalchemy as sa

from syncworker.standard.events import Event, EventKind
from syncworker.standard.values import Slug
from syncworker.store.inbox import Arrival, EventState, Filing
from syncworker.store.tables import event
from syncworker.store.unit_of_work import Store

pytestmark = pytest.mark.store

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)


def arrivals(count: int) -> list[Arrival]:
    """Events of one issuer, in no order of their digests."""
    return [
        Arrival(
            event=Event(kind=EventKind.CONSENT, subject="c1", digest=sha256(str(number).encode()).digest()),
            issuer="issuer",
            jti=None,
            bearer_jti=None,
            lfi=Slug("bank"),
            state=EventState.FILED,
            outcome=None,
            content=b"{}",
            interaction_id="one",
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("turned", [False, True], ids=["as they came", "the other way round"])
async def test_events_reach_the_table_in_one_order_whatever_order_they_came_in(store: Store, turned: bool) -> None:
    """Two transactions that file the same events lock them in one order, so that neither waits for the other."""
    those = arrivals(20)
    async with store.writing() as unit:
        filed = await unit.inbox.file_all(those[::-1] if turned else those, at=NOW)
        await unit.commit()
        digests = list(await unit.connection.scalars(sa.select(event.c.digest).order_by(event.c.id)))

    assert {how for how, _ in filed} == {Filing.NEW}
    assert [bytes(one) for one in digests] == sorted(one.event.digest for one in those)


async def test_repeats_are_counted_in_one_order_too(store: Store) -> None:
    """What is here already is counted once for each time it came, also when all of it comes in another order."""
    those = arrivals(20)
    async with store.writing() as unit:
        first = await unit.inbox.file_all(those, at=NOW)
        await unit.commit()
    async with store.writing() as unit:
        again = await unit.inbox.file_all([*those[::-1], those[0]], at=NOW)
        await unit.commit()
        rows = await unit.connection.execute(sa.select(event.c.id, event.c.received))
        received = {row.id: row.received for row in rows}

    assert [number for _, number in again] == [*(number for _, number in first[::-1]), first[0][1]]
    assert {how for how, _ in again} == {Filing.AGAIN}
    assert received == {number: 2 + (number == first[0][1]) for _, number in first}
