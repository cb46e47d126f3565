"""Group commit: what many ask for at the same time shares one transaction.

    filing = Grouped(store, file_all, most=100)
    answer = await filing.add(one)      # when it returns, its own commit has been made

A commit costs the same for one row and for a hundred.  Whoever comes first is served at once; whoever comes while a
transaction is under way waits, and the next one is for all who wait.  Alone it is a transaction like any other.

Who can bear to wait says so: with `patience`, a transaction waits so long for company while there may be some.

The transaction is nobody's own: who is called off leaves, and what was begun for him ends with that of the others.  So
nothing is done twice, and nothing is cut in its commit.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from syncworker.errors import TransientError
from syncworker.store.unit_of_work import Store, UnitOfWork

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Asked, Answer]):
    asked: Asked
    answer: "asyncio.Future[Answer]"


class Grouped(Generic[Asked, Answer]):
    """Runs a step for groups of what is asked for.  Lives on one event loop.

    Args:
        step: does what a group asks for in one transaction, and gives an answer to each in order; it commits nothing.
            It may be run again, whole or for each one alone, when its transaction failed.
        most: of one group.
        patience: seconds a transaction may wait for company.
        company: whether somebody else may come soon.
    """

    def __init__(
        self,
        store: Store,
        step: Callable[[UnitOfWork, Sequence[Asked]], Awaitable[Sequence[Answer]]],
        *,
        most: int,
        patience: float = 0.0,
        company: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._step = step
        self._most = most
        self._patience = patience
        self._company = company
        self._enough = asyncio.Event()
        self._waiting: deque[_Waiting[Asked, Answer]] = deque()
        self._working: asyncio.Task[None] | None = None

    async def add(self, asked: Asked) -> Answer:
        """Have it done, and stand for the answer once it is committed.

        Raises:
            what the step raises for it alone, or a `TransientError` for the whole group.
        """
        mine = _Waiting[Asked, Answer](asked, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name="group commit")
        elif not self._worth_waiting():
            self._enough.set()
        try:
            return await mine.answer
        except asyncio.CancelledError:
            with contextlib.suppress(ValueError):  # it may be in a group already
                self._waiting.remove(mine)
            raise

    async def _work(self) -> None:
        """Serve until nobody waits."""
        try:
            while self._waiting:
                await self._wait_for_company()
                await self._end([self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))])
        finally:
            self._working = None
            while self._waiting:  # the loop ends: nobody is served any more
                self._waiting.popleft().answer.cancel()

    def _worth_waiting(self) -> bool:
        return self._patience > 0 and len(self._waiting) < self._most and self._company()

    async def _wait_for_company(self) -> None:
        self._enough.clear()
        if self._worth_waiting():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._enough.wait()

    async def _end(self, group: Sequence[_Waiting[Asked, Answer]]) -> None:
        if not group:  # all who waited were called off
            return
        try:
            answers = await self._store.atomically(lambda unit: self._step(unit, [one.asked for one in group]))
        except asyncio.CancelledError:
            for one in group:
                one.answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001  raised again to those it concerns; one must not spoil it for the others
            if len(group) > 1 and not isinstance(error, TransientError):
                for one in group:
                    await self._end([one])
                return
            for one in group:
                if not one.answer.done():
                    one.answer.set_exception(error)
        else:
            for one, answer in zip(group, answers, strict=True):
                if not one.answer.done():  # who was called off hears nothing
                    one.answer.set_result(answer)
