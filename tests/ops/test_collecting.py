"""What is collected from the two databases, and judged from it."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from syncworker.ops.status import collect
from syncworker.settings import Settings
from syncworker.store.unit_of_work import Store

pytestmark = pytest.mark.store


async def test_an_empty_database_is_a_status(store: Store) -> None:
    """Nothing is there, and nothing fails."""
    status = await collect(Settings(), store, asks_broker=False)

    assert status.overview is not None
    assert (status.overview.troubled, status.overview.counts, status.feed.lag) == ([], [], timedelta())


async def test_by_the_database_s_own_clock(database_url: str, open_store: Callable[..., Store]) -> None:
    """All statements travel together on PostgreSQL."""
    status = await collect(Settings(), open_store(database_url, clock=None), asks_broker=False)

    assert status.overview is not None
