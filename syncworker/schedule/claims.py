"""The dispatcher: take what is due from the table, group it into batches, nothing more.

A tick claims and commits; whoever called it publishes the batches afterwards.  A message that gets lost costs one
lease, because the row comes back by itself (`reliability.md` rules 1 to 3).  Two dispatchers may tick at once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Final

from syncworker.schedule.breaker import standing
from syncworker.schedule.due import phase
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store.breakers import Breaker
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import CRASHES_MAX, LEASE, Claim, WorkKind

BATCH_SIZE: Final = 16
"""Claims in a message: few enough that all workers get some of an LFI's, and that the last of them end together."""

KINDS: Final = (
    WorkKind.TOKEN,
    WorkKind.EVENT,
    WorkKind.CONSENT,
    WorkKind.OPENING,
    WorkKind.FLAG,
    WorkKind.DELIVERY,
    WorkKind.SYNC,
)
"""In the order they are claimed: a token is what a sync needs, and a revocation must be known before it."""

OPERATIONS: Final = {
    WorkKind.TOKEN: OperationClass.TOKEN,
    WorkKind.EVENT: OperationClass.CONSENT,  # an event is a hint: the Hub is asked
    WorkKind.CONSENT: OperationClass.CONSENT,
    WorkKind.OPENING: OperationClass.OPENING,
    WorkKind.SYNC: OperationClass.DATA,
}
"""Whose breaker keeps a kind of work in the table; a kind that is not here calls no LFI."""

TOKENS_WITHIN_S: Final = 60.0
"""No more refreshes are claimed than an LFI's rate lets begin in this time, half of their lease: a backlog after an
outage waits in the table and not in the row before the bucket (`reliability.md` rule 22)."""


LFIS_AT_ONCE: Final = 20
"""LFIs a dispatcher claims for in one transaction: while it is open, others claim for the rest."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One message: claims of one kind at one LFI, as `(id, gen)`."""

    kind: WorkKind
    lfi: Slug
    claims: tuple[tuple[int, int], ...]


def batches(claims: Sequence[Claim], *, size: int) -> list[Batch]:
    """Group claims into batches: one kind and one LFI each, at most `size` claims, order kept within them."""
    grouped: list[Batch] = []
    for (kind, lfi), group in groupby(sorted(claims, key=_kind_and_lfi), key=_kind_and_lfi):
        hints = [(claim.id, claim.gen) for claim in group]
        grouped += [
            Batch(KINDS[kind], Slug(lfi), tuple(hints[start : start + size])) for start in range(0, len(hints), size)
        ]
    return grouped


def portions(slots: Mapping[Slug, int], *, name: str) -> list[dict[Slug, int]]:
    """Slots in portions of a transaction each; every dispatcher begins elsewhere, so that two seldom meet.

    Args:
        name: of the dispatcher.
    """
    sorted_slots = sorted(slots.items())
    cut = [dict(sorted_slots[start : start + LFIS_AT_ONCE]) for start in range(0, len(slots), LFIS_AT_ONCE)]
    first = int((phase(name) + 1) / 2 * len(cut))
    return cut[first:] + cut[:first]


class Dispatcher:
    """Claims due rows for a whole installation, and notes which processes make progress."""

    def __init__(
        self,
        store: Store,
        *,
        name: str,
        batch_size: int = BATCH_SIZE,
        lease: timedelta = LEASE,
        crashes_max: int = CRASHES_MAX,
        user_refs: Collection[str] | None = None,
    ) -> None:
        """Does nothing yet.

        Args:
            name: of this worker process, for its heartbeat: host and process id.
            batch_size: most claims per message.
            lease: how long a claim stays ours without being extended.
            user_refs: only these customers' work is claimed; `None`: everybody's.
        """
        self._user_refs = user_refs
        self._store = store
        self._name = name
        self._batch_size = batch_size
        self._lease = lease
        self._crashes_max = crashes_max

    async def tick(self, slots: Mapping[Slug, int], *, rates: Mapping[Slug, float] | None = None) -> list[Batch]:
        """Claim what is due, up to the free slots of each LFI, and commit.  Publish the result afterwards.

        An LFI in trouble has fewer slots, or none: see `breaker.standing`.  What is not claimed keeps waiting in the
        table, where it has an age and an order.

        A tick that arrives proves that this worker gets on: that is noted.

        Args:
            slots: most consents in work at once, per kind, of each LFI we can call.
            rates: calls per second of each LFI; those not named have no bound here.

        Raises:
            StoreUnavailableError: the database is away; nothing was claimed.
        """
        await self._store.atomically(self._note_progress)
        return await self._batches(KINDS, slots, rates or {})

    async def refill(
        self, kind: WorkKind, slots: Mapping[Slug, int], *, rates: Mapping[Slug, float] | None = None
    ) -> list[Batch]:
        """As `tick`, for one kind of work, when a batch of it has come to its end: its slots are free.

        So an LFI's backlog goes as fast as its slots allow, and not as often as beat ticks.  Nothing is claimed for a
        message that would not be full: other batches are in work then, and the last of them leaves all slots free.

        Raises:
            StoreUnavailableError: the database is away; nothing was claimed.
        """
        return await self._batches((kind,), slots, rates or {}, least=self._batch_size)

    async def _batches(
        self, kinds: Sequence[WorkKind], slots: Mapping[Slug, int], rates: Mapping[Slug, float], *, least: int = 1
    ) -> list[Batch]:
        async with self._store.looking() as unit:
            waiting = await unit.work.waiting([(kind, slug) for kind in kinds for slug in slots])
        claims: list[Claim] = []
        for kind in kinds:
            wanted = {slug: most for slug, most in slots.items() if (kind, slug) in waiting}
            for some in portions(wanted, name=self._name):
                claims += await self._store.atomically(partial(self._claim, kind, some, rates, least))
        return batches(claims, size=self._batch_size)

    async def arrive(self) -> None:
        """Note that this worker begins."""
        await self._store.atomically(lambda unit: unit.workers.arrive(self._name))

    async def canaries(self) -> Sequence[str]:
        """Note that a canary goes to every worker that waits for none, and name them; publish afterwards."""
        return await self._store.atomically(lambda unit: unit.workers.ask_canaries())

    async def canary(self) -> None:
        """Note that this worker's canary came round."""
        await self._store.atomically(lambda unit: unit.workers.canary_came(self._name))

    async def progress(self) -> None:
        """Note that this worker gets on: at the beginning and end of every batch."""
        await self._store.atomically(self._note_progress)

    async def give_back(self, hints: Sequence[tuple[int, int]]) -> int:
        """Free claims `(id, gen)` that nobody will begin: due again at once, nothing counted.

        Returns:
            How many were still open and not begun.
        """
        return await self._store.atomically(lambda unit: unit.work.give_back_hints(hints))

    async def leave(self) -> None:
        """This worker ends in order."""
        await self._store.atomically(lambda unit: unit.work.leave(self._name))

    async def _note_progress(self, unit: UnitOfWork) -> None:
        unit.with_commit([unit.work.beating(self._name, "worker")])

    async def _claim(
        self, kind: WorkKind, slots: Mapping[Slug, int], rates: Mapping[Slug, float], least: int, unit: UnitOfWork
    ) -> list[Claim]:
        now = await unit.now()
        gates, breakers = await unit.lfis.gates_known(), await unit.breakers.all()
        free: dict[Slug, int] = {}
        for slug, most in slots.items():
            held = standing(gates.get(slug), _of_kind(breakers, slug, kind), now=now)
            free[slug] = held.slots(most)
            if kind is WorkKind.TOKEN and slug in rates:
                free[slug] = min(free[slug], max(1, int(rates[slug] * held.share * TOKENS_WITHIN_S)))
        # an event's subject is the event; whose consent it speaks of is asked where it is acted on
        user_refs = None if kind is WorkKind.EVENT else self._user_refs
        return await unit.work.claim(
            kind, slots=free, lease=self._lease, crashes_max=self._crashes_max, user_refs=user_refs, least=least
        )


def _of_kind(breakers: Mapping[tuple[Slug, OperationClass], Breaker], slug: Slug, kind: WorkKind) -> Breaker | None:
    operations = OPERATIONS.get(kind)
    return None if operations is None else breakers.get((slug, operations))


def _kind_and_lfi(claim: Claim) -> tuple[int, str]:
    return KINDS.index(claim.kind), claim.lfi
