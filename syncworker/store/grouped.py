"""Group commit: what many ask for at the same time shares one transaction.

    filing = Grouped(store, file_all, most=100)
    answer = await filing.add(one)      # when it returns, its own commit has been made

A commit costs the same for one row and for a hundred.  Whoever comes first runs a transaction for himself; whoever
comes while it is under way waits, and the first of those runs the next one for all of them.  Nobody waits for company:
alone it is a transaction like any other.
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
    answers: Sequence[Answer] = ()
    error: Exception | None = None
    left: bool = False

    @property
    def ended(self) -> bool:
        return bool(self.answers) or self.error is not None


class Grouped(Generic[Asked, Answer]):
    """Runs a step for groups of what is asked for.  Lives on one event loop.

    Args:
        step: does what a group asks for in one transaction, and gives an answer to each in order; it commits nothing.
            It may be run again, whole or for each one alone.
        most: of one group.
    """

    def __init__(
        self, store: Store, step: Callable[[UnitOfWork, Sequence[Asked]], Awaitable[Sequence[Answer]]], *, most: int
    ) -> None:
        self._store = store
        self._step = step
        self._most = most
        self._turn = asyncio.Lock()
        self._waiting: deque[_Waiting[Asked, Answer]] = deque()

    async def add(self, asked: Asked) -> Answer:
        """Have it done, and stand for the answer once it is committed.

        Raises:
            what the step raises for it alone, or a `TransientError` for the whole group.
        """
        mine = _Waiting[Asked, Answer](asked)
        self._waiting.append(mine)
        try:
            async with self._turn:  # turns come in the order of the queue: mine is done, or stands at its head
                if not mine.ended:
                    await self._lead(mine)
        except asyncio.CancelledError:
            mine.left = True
            with contextlib.suppress(ValueError):  # it may be in a group already
                self._waiting.remove(mine)
            raise
        if mine.error is not None:
            raise mine.error
        return mine.answers[0]

    async def _lead(self, mine: _Waiting[Asked, Answer]) -> None:
        group = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            await self._end(group)
        except asyncio.CancelledError:  # mine alone was called off; what is done twice is the step's to bear
            mine.left = True
            self._waiting.extendleft(reversed([one for one in group if not one.left and not one.ended]))
            raise

    async def _end(self, group: Sequence[_Waiting[Asked, Answer]]) -> None:
        try:
            answers = await self._store.atomically(lambda unit: self._step(unit, [one.asked for one in group]))
        except Exception as error:  # noqa: BLE001  raised again to those it concerns; one must not spoil it for the others
            if len(group) > 1 and not isinstance(error, TransientError):
                for one in group:
                    await self._end([one])
                return
            for one in group:
                one.error = error
        else:
            for one, answer in zip(group, answers, strict=True):
                one.answers = (answer,)
