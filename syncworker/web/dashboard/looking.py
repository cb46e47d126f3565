"""What is wrong, as `ops` judges it, kept for a few seconds: every page of every reader shows the same.

The broker is asked beside the pages, never by one: a broker that is silent costs seconds, and a page has none.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from syncworker.clock import monotonic
from syncworker.ops.cause import Cause
from syncworker.ops.diagnosis import Diagnosis, Traced, diagnose
from syncworker.ops.status import BrokerFact, BrokerState, Status, ask_broker, collect
from syncworker.settings import Settings
from syncworker.store.unit_of_work import Store

KEPT_S: Final = 2.0
"""So long a look is shown again."""

SHOWN_S: Final = 20.0
"""A look so old is shown where a new one takes longer than `PATIENCE_S`."""

PATIENCE_S: Final = 0.05

BROKER_KEPT_S: Final = 4.0
BROKER_FIRST_S: Final = 0.25
"""So long the first look waits for the broker's first answer."""


@dataclass(frozen=True, slots=True)
class Looked:
    """One look.

    Attributes:
        stale, failing: connections in trouble, by id.
    """

    status: Status
    found: Diagnosis
    stale: Mapping[str, Traced] = field(default_factory=dict)
    failing: Mapping[str, Traced] = field(default_factory=dict)

    def cause(self, number: int | None) -> Cause | None:
        """A cause by its number."""
        return next((one for one in self.found.causes if one.number == number), None)

    def of_lfi(self, slug: str) -> Cause | None:
        """The first cause that is about an LFI."""
        return next((one for one in self.found.causes if one.lfi == slug), None)

    def of_connection(self, connection_id: str) -> Cause | None:
        """The cause that explains a connection's trouble; `None`: it has none, or no cause explains it."""
        for traced in (self.stale.get(connection_id), self.failing.get(connection_id)):
            found = None if traced is None else self.cause(traced.cause)
            if found is not None:
                return found
        return None


class Looker:
    """Looks, at most every `KEPT_S`.  Lives on one event loop.

    Args:
        ask: says how the broker stands; may take seconds.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        ask: Callable[[Settings], BrokerFact] = ask_broker,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ask = ask
        self._timer = timer
        self._looking: asyncio.Task[Looked] | None = None
        self._looked: Looked | None = None
        self._until = 0.0
        self._broker = BrokerFact(state=BrokerState.UNASKED)
        self._broker_until = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def looked(self) -> Looked:
        """What is wrong now; where that takes long, what was wrong at most `SHOWN_S` ago, while a new look goes on.

        Raises:
            StoreRefusedError: the database is of another schema.
        """
        at, held = self._timer(), self._looked
        if held is not None and at < self._until:
            return held
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="look at what is wrong")
        if held is not None and at < self._until + SHOWN_S - KEPT_S:
            await asyncio.wait({self._looking}, timeout=PATIENCE_S)
            if not self._looking.done():
                return held
        return await asyncio.shield(self._looking)

    async def _look(self) -> Looked:
        await self._hear_broker()
        status = await collect(self._settings, self._store, ask=lambda _: self._broker)
        self._looked = _looked(status)
        self._until = self._timer() + KEPT_S
        return self._looked

    def forget(self) -> None:
        """Look anew next time, and wait for it: something was done."""
        self._looked = None
        self._looking = None

    async def close(self) -> None:
        """Look and ask no more."""
        going = [one for one in (self._asking, self._looking) if one is not None]
        for one in going:
            one.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    async def _hear_broker(self) -> None:
        first = self._asking is None
        going = self._asking is not None and not self._asking.done()
        if not going and self._timer() >= self._broker_until:
            self._asking = asyncio.create_task(self._heard(), name="ask the broker")
        if first and self._asking is not None:
            await asyncio.wait({self._asking}, timeout=BROKER_FIRST_S)

    async def _heard(self) -> None:
        self._broker = await asyncio.to_thread(partial(self._ask, self._settings))
        self._broker_until = self._timer() + BROKER_KEPT_S


def _looked(status: Status) -> Looked:
    found = diagnose(status)
    return Looked(
        status,
        found,
        {one.row.connection_id: one for one in found.stale},
        {one.row.connection_id: one for one in found.failing},
    )
