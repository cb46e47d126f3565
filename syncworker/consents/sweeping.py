"""Do by the clock what no claim comes for: ends, retention, and what is left of authorisations.

Each consent has its row of work, and its looks end it and destroy what stayed long enough.  But a look is a claim, and
claims come only for LFIs and customers we may call at present; and one that has ended is looked at no more while
nothing is to be destroyed, so a retention set later wakes nobody.  What needs no LFI must not wait for one.  So once an
hour everything is gone through by the database, whoever it belongs to:

    consents        past their `ExpirationDateTime` are ended
    data            of connections that ended long enough ago is destroyed (`erasing`)
    openings        the same, for what lies sealed
    authorisations  that can no longer be completed lose their secrets, and after `AUTHORIZATIONS_KEPT` their rows
    readability     of connections that is not as the rule and the setting `ended_consents` say (`store.readable`)
    feed            changes past their time are taken away; a database that was restored is noticed (`store.epochs`)
    refreshes       that no run served in time end and lose what their customer's session said, and after
                    `REFRESHES_KEPT` their rows

Source: CBUAE Open Finance Regulation, Art. 13 and 22; `reliability.md` rule 41.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog

from syncworker.consents.authorize import AGE_MAX
from syncworker.consents.erasing import Retention, keep_no_longer
from syncworker.consents.lifecycle import ended_by_clock
from syncworker.errors import SyncWorkerError
from syncworker.standard.values import ConsentId
from syncworker.store.erasure import DataClass
from syncworker.store.unit_of_work import Store, UnitOfWork

EVERY: Final = timedelta(hours=1)

AT_ONCE: Final = 200
"""Subjects of a kind that one sweep sees to, each in a transaction of its own; if there are more, the next is soon."""

AUTHORIZATIONS_KEPT: Final = timedelta(days=30)
"""How long it can be seen that a user was asked for a consent and never came home."""

CHANGES_AT_ONCE: Final = 5_000
"""Changes of the feed taken away in one transaction."""

FEED_KEPT: Final = timedelta(days=90)

REFRESHES_KEPT: Final = timedelta(days=30)
"""How long it can be seen how a refresh ended."""

log = structlog.stdlib.get_logger(__name__)


class Sweeping:
    """Sweeps.  Lives on one event loop.

    Args:
        openings_followed_for: after this time an account opening that has not ended counts as ended.
        feed_kept: how long changes of the feed are kept.
    """

    def __init__(
        self,
        store: Store,
        *,
        retention: Retention,
        openings_followed_for: timedelta,
        feed_kept: timedelta = FEED_KEPT,
    ) -> None:
        self._store = store
        self._retention = retention
        self._openings_followed_for = openings_followed_for
        self._feed_kept = feed_kept
        self._swept_at: datetime | None = None

    async def look(self) -> None:
        """Sweep, at most once an hour unless there was more than one sweep takes, so call it at every tick.

        While the database is away nothing happens, and the next tick finds the same.
        """
        try:
            async with self._store.reading() as unit:
                now = await unit.now()
            if self._swept_at is not None and now - self._swept_at < EVERY:
                return
            if await self.sweep():
                self._swept_at = now
        except SyncWorkerError as error:
            log.warning("not swept yet", error=error.code)

    async def sweep(self) -> bool:
        """Do what is due; says whether that was all of it.

        Raises:
            StoreUnavailableError: the database is away.
        """
        whole = [
            await self._each(lambda unit, at: unit.consents.overdue(at=at, limit=AT_ONCE), _end),
            *[
                await self._each(partial(_ended_before, kind=kind, stays=stays), self._destroy)
                for kind, stays in self._retention.items()
                if stays is not None
            ],
        ]
        stays = self._retention.get(DataClass.PERSONAL)
        if stays is not None:
            found = partial(_openings_before, stays=stays, followed_for=self._openings_followed_for)
            whole.append(await self._each(found, _empty))
        whole.append(await self._each(lambda unit, _: unit.use.otherwise(limit=AT_ONCE), _settle))
        whole.append(await self._store.atomically(self._prune_feed) < CHANGES_AT_ONCE)
        if await self._store.atomically(lambda unit: unit.epochs.look()):
            log.warning("the database was restored: readers of the feed begin again")
        await self._store.atomically(_forget)
        return all(whole)

    async def _each(
        self,
        find: Callable[[UnitOfWork, datetime], Awaitable[list[str]]],
        step: Callable[[str, UnitOfWork], Awaitable[None]],
    ) -> bool:
        async with self._store.reading() as unit:
            subjects = await find(unit, await unit.now())
        for subject in subjects:
            await self._store.atomically(partial(step, subject))
        return len(subjects) < AT_ONCE

    async def _prune_feed(self, unit: UnitOfWork) -> int:
        return await unit.changes.prune(before=await unit.now() - self._feed_kept, limit=CHANGES_AT_ONCE)

    async def _destroy(self, connection_id: str, unit: UnitOfWork) -> None:
        chain = await unit.consents.chain_locked(ConsentId(connection_id), closed=True)
        if chain:
            await keep_no_longer(unit, held=chain[-1], retention=self._retention)


async def _end(consent_id: str, unit: UnitOfWork) -> None:
    held = await unit.consents.get(ConsentId(consent_id), lock=True)
    if held is not None:
        await ended_by_clock(unit, held, at=await unit.now())


async def _settle(connection_id: str, unit: UnitOfWork) -> None:
    await unit.use.settle([ConsentId(connection_id)], at=await unit.now())


async def _ended_before(unit: UnitOfWork, at: datetime, *, kind: DataClass, stays: timedelta) -> list[str]:
    return await unit.erasure.overdue(of=kind, ended_before=at - stays, limit=AT_ONCE)


async def _openings_before(unit: UnitOfWork, at: datetime, *, stays: timedelta, followed_for: timedelta) -> list[str]:
    return await unit.openings.overdue_contents(
        ended_before=at - stays, created_before=at - stays - followed_for, limit=AT_ONCE
    )


async def _empty(opening_id: str, unit: UnitOfWork) -> None:
    if await unit.openings.destroy_contents(opening_id):
        at = await unit.now()
        await unit.consents.note("opening_contents_destroyed", subject=opening_id, facts={}, at=at)


async def _forget(unit: UnitOfWork) -> None:
    at = await unit.now()
    await unit.authorizations.forget_secrets(before=at - AGE_MAX)
    await unit.authorizations.prune(before=at - AUTHORIZATIONS_KEPT)
    await unit.intents.prune(before=at - AUTHORIZATIONS_KEPT)
    await unit.refreshes.end_late(at=at)
    await unit.refreshes.prune(before=at - REFRESHES_KEPT)
