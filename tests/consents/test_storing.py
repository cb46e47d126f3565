"""What a bank has given out is stored, whoever gives up meanwhile."""

import asyncio

import pytest

from syncworker.consents.storing import Storing
from syncworker.store.failures import StoreRefusedError, StoreUnavailableError

pytestmark = pytest.mark.unit


async def no_wait(_: float) -> None:
    await asyncio.sleep(0)


class Database:
    """Is away for the first tries."""

    def __init__(self, *, away: int) -> None:
        self.away = away
        self.tries = 0

    async def take(self) -> str:
        self.tries += 1
        await asyncio.sleep(0)
        if self.tries <= self.away:
            raise StoreUnavailableError("database unavailable")
        return "stored"


async def test_it_is_tried_until_the_database_takes_it() -> None:
    """Twenty tries are not too many."""
    database = Database(away=19)
    assert await Storing(sleep=no_wait).until_done(database.take) == "stored"
    assert database.tries == 20


async def test_a_refusal_is_not_tried_again() -> None:
    """A constraint does not mend itself."""
    tries = 0

    async def refused() -> None:
        nonlocal tries
        tries += 1
        raise StoreRefusedError("database refused")

    with pytest.raises(StoreRefusedError):
        await Storing(sleep=no_wait).until_done(refused)
    assert tries == 1


async def test_patience_ends() -> None:
    """A database that never comes back is an error, not a loop."""
    with pytest.raises(StoreUnavailableError):
        await Storing(patience=0.0, sleep=no_wait).until_done(Database(away=10**6).take)


async def test_a_cancellation_waits_for_the_commit() -> None:
    """Cancelled twice in the middle, it stores first and is cancelled then."""
    database = Database(away=3)
    caller = asyncio.create_task(Storing(sleep=no_wait).until_done(database.take))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert database.tries == 4


async def test_drain_waits_for_what_is_being_stored() -> None:
    """Nobody waits for it any more, but the shutdown does."""
    database, storing = Database(away=5), Storing(sleep=no_wait)
    caller = asyncio.create_task(storing.until_done(database.take))
    await asyncio.sleep(0)

    await storing.drain()

    assert database.tries == 6
    assert await caller == "stored"
