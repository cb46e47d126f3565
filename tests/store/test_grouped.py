"""Group commit: who shares a transaction, and that one bad item stays alone."""

import asyncio
from collections.abc import Sequence

import pytest
import sqlalchemy as sa

from syncworker.errors import RequestError, TransientError
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.grouped import Grouped
from syncworker.store.unit_of_work import Store, UnitOfWork

pytestmark = pytest.mark.store


class Desk:
    """A step that notes its groups, waits to be let on, and can be told to fail."""

    def __init__(self, store: Store, *, most: int = 100) -> None:
        self.store = store
        self.groups: list[list[str]] = []
        self.open = asyncio.Event()
        self.away = False
        self.grouped = Grouped(store, self.step, most=most)

    async def step(self, unit: UnitOfWork, group: Sequence[str]) -> Sequence[str]:
        self.groups.append(list(group))
        await self.open.wait()
        if self.away:
            raise StoreUnavailableError("database unavailable")
        if "bad" in group:
            raise RequestError("name: is bad")
        for one in group:
            await unit.connection.execute(sa.text("INSERT INTO lfi_note VALUES (:name)"), {"name": one})
        return [one.upper() for one in group]

    async def come(self, *names: str) -> list["asyncio.Task[str]"]:
        """Ask one after another, and let each reach its place."""
        tasks = []
        for name in names:
            tasks.append(asyncio.create_task(self.grouped.add(name)))
            await asyncio.sleep(0)
        while not self.groups:  # noqa: ASYNC110  a thread of the driver is on its way
            await asyncio.sleep(0.001)
        return tasks

    async def kept(self) -> list[str]:
        async with self.store.reading() as unit:
            return list((await unit.connection.execute(sa.text("SELECT name FROM lfi_note ORDER BY name"))).scalars())


@pytest.fixture
async def desk(store: Store) -> Desk:
    """A desk with a table of its own."""
    async with store.writing() as unit:
        await unit.connection.execute(sa.text("CREATE TABLE lfi_note (name TEXT NOT NULL)"))
        await unit.commit()
    return Desk(store)


async def test_who_comes_during_a_transaction_shares_the_next(desk: Desk) -> None:
    """The first goes alone and waits for nobody; each gets its own answer, and what it asked for is there."""
    tasks = await desk.come("a", "b", "c", "d")
    desk.open.set()

    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D"]
    assert (desk.groups, await desk.kept()) == ([["a"], ["b", "c", "d"]], ["a", "b", "c", "d"])


async def test_a_group_has_its_limit(desk: Desk) -> None:
    """The others go with the one after."""
    small = Desk(desk.store, most=2)
    tasks = await small.come("a", "b", "c", "d", "e", "f")
    small.open.set()

    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D", "E", "F"]
    assert small.groups == [["a"], ["b", "c"], ["d", "e"], ["f"]]


async def test_one_that_fails_fails_alone(desk: Desk) -> None:
    """Its neighbours are done, each once."""
    tasks = await desk.come("a", "b", "bad", "c")
    desk.open.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert [one if isinstance(one, str) else type(one) for one in ended] == ["A", "B", RequestError, "C"]
    assert await desk.kept() == ["a", "b", "c"]


async def test_while_the_database_is_away_everybody_is_told(desk: Desk) -> None:
    """Nobody is tried alone: that would only take longer."""
    desk.away = True
    tasks = await desk.come("a", "b", "c")
    desk.open.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    assert [isinstance(one, TransientError) for one in ended] == [True] * 3
    assert (desk.groups, await desk.kept()) == ([["a"], ["b", "c"]], [])


async def test_one_that_is_called_off_holds_nobody_up(desk: Desk) -> None:
    """Whether it runs the transaction or waits for it."""
    first, second, third = await desk.come("a", "b", "c")
    first.cancel()
    third.cancel()
    desk.open.set()

    assert await second == "B"
    await asyncio.wait([first, third])
    assert [one.cancelled() for one in (first, third)] == [True, True]
    assert "b" in await desk.kept()


async def test_who_runs_a_group_and_is_called_off_takes_nobody_along(desk: Desk) -> None:
    """The others are done by the next of them; who left before that is not done for nobody."""
    first, leader, left, stays = await desk.come("a", "b", "c", "d")
    desk.open.set()
    await first
    desk.open.clear()
    while len(desk.groups) < 2:  # noqa: ASYNC110  a thread of the driver is on its way
        await asyncio.sleep(0.001)
    left.cancel()
    await asyncio.wait([left])
    leader.cancel()
    await asyncio.wait([leader])
    desk.open.set()

    assert await stays == "D"
    assert (desk.groups, await desk.kept()) == ([["a"], ["b", "c", "d"], ["d"]], ["a", "d"])
