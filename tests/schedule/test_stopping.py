"""The door of a process: open until it stops, then nobody waits in it."""

import asyncio

import pytest

from syncworker.errors import StoppingError
from syncworker.lfi.traffic import FreeTraffic
from syncworker.schedule.stopping import Door, LastCalls
from syncworker.standard.operations import OperationClass

pytestmark = pytest.mark.unit


async def test_who_waits_is_sent_away_when_it_closes() -> None:
    """A place in the row that comes in ten minutes is not waited for."""
    door = Door()
    waiting = [asyncio.create_task(door.through(asyncio.sleep(600))) for _ in range(3)]
    await asyncio.sleep(0)
    door.close()
    door.close()

    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in ended] == [StoppingError] * 3


async def test_nobody_is_let_in_afterwards() -> None:
    """What would have been waited for is not even begun."""
    door = Door()
    door.close()
    begun: list[str] = []

    async def place() -> None:
        begun.append("begun")

    with pytest.raises(StoppingError):
        await door.through(place())

    assert begun == []


async def test_while_it_is_open_everything_passes_as_it_is() -> None:
    """Results and errors, a timeout of one's own included."""
    door = Door()

    async def late() -> None:
        raise TimeoutError("its own")

    assert await door.through(asyncio.sleep(0, "mine")) == "mine"
    with pytest.raises(TimeoutError, match="its own"):
        await door.through(late())


async def test_no_call_begins_once_it_is_closed_even_where_none_would_wait() -> None:
    """An LFI without limits is no way round the door."""
    door = Door()
    calls = LastCalls(FreeTraffic(), door)
    before = calls.admit(OperationClass.DATA)
    door.close()
    with pytest.raises(StoppingError):
        calls.admit(OperationClass.DATA)

    assert before is None
