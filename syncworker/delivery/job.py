"""Deliver what waits: a small kind of work, one claim an endpoint.

Messages of one endpoint about one connection form a queue, sent in order, the next one when the one before was taken;
queues do not wait for each other.  A message that is not taken is tried again after `WAITS`; while an endpoint takes
nothing at all, only a few messages are tried each time, those tried least often first, so that one that the receiver
cannot digest is told from an endpoint that is down.

    2xx            delivered
    410            the endpoint is disabled at once
    anything else  tried again; after `give_up` without any success the endpoint is disabled, and a message that alone
                   is refused so long is given up, so that what waits behind it goes on

An endpoint that is disabled keeps its messages until they are pruned: enabling it sends them.

A process that is killed between a request and the commit of its answer leaves the message waiting.  It is sent again
under the same `webhook-id`, when the claim's lease is over, before what waits behind it: each message arrives at least
once, and of each connection in the order in which they were written.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog
from pydantic import SecretStr

from syncworker.clock import monotonic
from syncworker.delivery.sending import Answer, Posting, body_of
from syncworker.errors import SyncWorkerError
from syncworker.standard.calendar import shifted, span
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.changes import Place
from syncworker.store.messages import Disabled, Endpoint, Message, MessageType, Outcome
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import Claim, WorkKind

OUT: Final = Slug("(webhooks)")
"""Stands for an LFI in the rows of this work: it calls none."""

AT_ONCE: Final = 8
"""Queues of one endpoint sent at once."""

HEADS_MAX: Final = 100
"""Queues looked at together."""

PROBES: Final = 3
"""Messages tried while an endpoint takes nothing."""

FOR_S: Final = 40.0
"""How long one claim goes on: inside the deadline of small work."""

WAITS_S: Final = (5, 30, 2 * 60, 10 * 60, 30 * 60, 3600, 2 * 3600, 4 * 3600, 6 * 3600)
"""Seconds after the first, second … failed attempt; the last for all that follow."""

QUIET_S: Final = (5, 10, 30, 60, 5 * 60, 15 * 60, 3600)
"""Seconds for which an endpoint that fails is left alone, longer the longer it fails."""

PRUNE_EVERY: Final = timedelta(hours=1)
PRUNED_MAX: Final = 5_000
NOTED_DISABLED: Final = "webhook_endpoint_disabled"
"""Audit: an endpoint is sent nothing any more."""

Places = Callable[[UnitOfWork, ConsentId, Place], Awaitable[str | None]]
"""Gives the cursor that reads a connection's feed from a place on."""

log = structlog.stdlib.get_logger(__name__)


async def no_places(_unit: UnitOfWork, _connection_id: ConsentId, _place: Place) -> None:
    """Where there is no feed to point into."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """What became of the messages of a claim."""

    taken: int = 0
    failed: int = 0

    def __add__(self, other: "_Sent") -> "_Sent":
        return _Sent(self.taken + other.taken, self.failed + other.failed)


class Delivering:
    """Sends what waits.  Lives on one event loop.

    Args:
        give_up: attempts without success go on so long.
        keep: messages are kept so long.
        places: makes the cursor that a message of changes carries.
    """

    def __init__(
        self,
        store: Store,
        posting: Posting,
        *,
        give_up: timedelta,
        keep: timedelta,
        places: Places = no_places,
        for_s: float = FOR_S,
    ) -> None:
        self._store = store
        self._posting = posting
        self._give_up = give_up
        self._keep = keep
        self._places = places
        self._for_s = for_s
        self._pruned_at: datetime | None = None

    async def look(self) -> None:
        """Make the endpoints due for which a message waits, at every tick; never fails."""
        try:
            async with self._store.looking() as unit:
                now = await unit.now()
                due = await unit.messages.due_endpoints(now=now)
            if due:
                await self._store.atomically(partial(self._wake, due))
            if self._pruned_at is None or now - self._pruned_at >= PRUNE_EVERY:
                before = shifted(now, -self._keep)
                await self._store.atomically(lambda unit: unit.messages.prune(before=before, limit=PRUNED_MAX))
                self._pruned_at = now
        except SyncWorkerError as error:
            log.warning("webhooks not looked at", error=error.code)

    async def _wake(self, endpoint_ids: Sequence[str], unit: UnitOfWork) -> None:
        now = await unit.now()
        for endpoint_id in endpoint_ids:
            await unit.work.schedule(WorkKind.DELIVERY, endpoint_id, lfi=OUT, due_at=now)

    async def deliver(self, claim: Claim) -> tuple[datetime | None, str]:
        """Send what waits for the endpoint of a claim; says when to go on, and a word for what was done.

        `None`: when `look` finds that a message waits again.
        """
        ends = monotonic() + self._for_s
        sent = _Sent()
        while True:
            async with self._store.reading() as unit:
                endpoint = await unit.messages.endpoint(claim.subject)
                if endpoint is None or endpoint.disabled_at is not None:
                    return None, "removed" if endpoint is None else "disabled"
                secrets = await unit.messages.secrets_of(claim.subject)
                now = await unit.now()
                most = HEADS_MAX if endpoint.failing_since is None else PROBES
                heads = await unit.messages.heads(claim.subject, now=now, limit=most)
            if not heads:
                return None, "delivered" if sent.taken else "failed" if sent.failed else "nothing_waits"
            slots = asyncio.Semaphore(AT_ONCE)
            done = await asyncio.gather(*(self._queue(endpoint, secrets, head, slots, ends) for head in heads))
            once = sum(done, _Sent())
            sent += once
            if not once.taken:
                return await self._failing(endpoint)
            if once.failed < len(heads) and endpoint.failing_since is not None:
                await self._store.atomically(lambda unit: unit.messages.note_success(claim.subject))
            if monotonic() >= ends:
                return now, "more_waits"

    async def _queue(
        self, endpoint: Endpoint, secrets: Sequence[SecretStr], head: Message, slots: asyncio.Semaphore, ends: float
    ) -> _Sent:
        """Send one queue, message after message, until one is not taken, it is empty, or the time is over."""
        sent = _Sent()
        following: Message | None = head
        async with slots:
            while following is not None and monotonic() < ends:
                message, data = await self._store.atomically(partial(self._made_ready, following))
                answer = await self._posting.send(
                    endpoint.url,
                    body_of(message.type, data, at=message.created_at),
                    message_id=message.message_id,
                    secrets=secrets,
                )
                await self._store.atomically(partial(self._note, message, answer))
                if not answer.taken:
                    return sent + _Sent(failed=1)
                sent += _Sent(taken=1)
                async with self._store.reading() as unit:
                    following = await unit.messages.head_of(endpoint.endpoint_id, message.connection_id)
                    if following is not None and following.not_before > await unit.now():
                        following = None
        return sent

    async def _made_ready(self, head: Message, unit: UnitOfWork) -> tuple[Message, Mapping[str, Any]]:
        """The message with what waits behind it folded in, and what it is to say.  Its attempt is counted."""
        data: Mapping[str, Any] = head.data
        if head.type == MessageType.UPDATES_AVAILABLE and not head.attempts:
            behind = await unit.messages.behind(head)
            if behind:
                data = folded([head.data, *(one.data for one in behind)])
                await unit.messages.fold(head, behind, data, at=await unit.now())
        await unit.messages.begin(head.id)
        if not head.connection_id:
            return head, data
        connection_id = ConsentId(head.connection_id)
        connection = await unit.consents.connection(connection_id)
        known: dict[str, Any] = {"connection_id": head.connection_id}
        if connection is not None:
            known["user_ref"] = connection.user_ref
        if head.gen:
            known["run_id"] = await unit.messages.run_of(head.connection_id, head.gen)
            place = await unit.messages.first_place(head.connection_id, head.gen)
            known["cursor"] = None if place is None else await self._places(unit, connection_id, place)
        if "lfi_account_id" in data:
            account = await unit.account_references.of_lfi(connection_id, data["lfi_account_id"])
            known["account_id"] = None if account is None else account.account_id
        return head, known | dict(data)

    async def _note(self, message: Message, answer: Answer, unit: UnitOfWork) -> None:
        """What an attempt came to; `message` is as it was before that attempt."""
        now = await unit.now()
        if answer.taken:
            await unit.messages.end(message.id, Outcome.DELIVERED, at=now, status=answer.status, error=None)
            return
        assert answer.error is not None
        log.info("webhook not taken", type=message.type, attempts=message.attempts + 1, error=answer.error)
        if answer.gone:
            await unit.messages.put_off(message.id, until=now, status=answer.status, error=answer.error)
            await self._disable(message.endpoint_id, Disabled.GONE, unit)
            return
        endpoint = await unit.messages.endpoint(message.endpoint_id)
        alone = endpoint is not None and endpoint.failing_since is None
        if alone and message.attempts and now - message.created_at >= self._give_up:
            await unit.messages.end(message.id, Outcome.GIVEN_UP, at=now, status=answer.status, error=answer.error)
            return
        wait = max(spread(WAITS_S[min(message.attempts, len(WAITS_S) - 1)]), min(answer.retry_after_s or 0, 6 * 3600))
        until = shifted(now, span(seconds=wait))
        await unit.messages.put_off(message.id, until=until, status=answer.status, error=answer.error)

    async def _failing(self, endpoint: Endpoint) -> tuple[datetime | None, str]:
        """The endpoint took nothing: leave it alone for a while, or for good."""

        async def step(unit: UnitOfWork) -> str:
            now = await unit.now()
            held = await unit.messages.endpoint(endpoint.endpoint_id)
            if held is None or held.disabled_at is not None:
                return "disabled"
            failed_for = now - (held.failing_since or now)
            quiet = next((one for one in reversed(QUIET_S) if failed_for >= span(seconds=one)), QUIET_S[0])
            until = shifted(now, span(seconds=spread(quiet)))
            since = await unit.messages.note_failure(endpoint.endpoint_id, at=now, quiet_until=until)
            if now - since < self._give_up:
                return "failing"
            await self._disable(endpoint.endpoint_id, Disabled.FAILING, unit)
            return "disabled"

        return None, await self._store.atomically(step)

    async def _disable(self, endpoint_id: str, why: Disabled, unit: UnitOfWork) -> None:
        now = await unit.now()
        if not await unit.messages.disable(endpoint_id, why, at=now):
            return
        log.warning("webhook endpoint disabled", endpoint_id=endpoint_id, why=why.value)
        facts = {"endpoint_id": endpoint_id, "why": why.value}
        await unit.consents.note(NOTED_DISABLED, subject=endpoint_id, facts={"why": why.value}, at=now)
        unit.messages.tell(MessageType.ENDPOINT_DISABLED, facts, at=now)


def folded(those: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What several messages of changes say together: counts added up, the oldest date."""
    counts: dict[str, dict[str, int]] = {}
    dates: list[date | str] = []
    for data in those:
        for resource, by_op in data.get("counts", {}).items():
            summed = counts.setdefault(resource, {})
            for op, count in by_op.items():
                summed[op] = summed.get(op, 0) + count
        if data.get("oldest_booking_date"):
            dates.append(data["oldest_booking_date"])
    return {"counts": counts, "oldest_booking_date": min(map(str, dates), default=None)}


def spread(seconds: float) -> float:
    """A wait, up to a fifth longer, so that what failed together does not come back together."""
    return seconds * random.uniform(1.0, 1.2)  # noqa: S311  no secret
