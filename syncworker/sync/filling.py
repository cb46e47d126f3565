"""Fill the typed columns of rows that an older syncworker wrote, from the items they hold.

A row of `work` of its own (`WorkKind.FILL`) is claimed at a tick, and for a second of each tick the rows of every
record table are read in key order, a batch a transaction: the item is opened and decoded anew, and a row whose columns
come out differently is written, unless a sync has written it since.  Accounts get their reference and identity on the
way.  A row that the present code wrote comes out the same and is not written; nothing but typed columns ever is.

The place reached is kept with each batch (`store.filling`), so that a process that ends in the midst costs nothing: its
claim's lease runs out, and the next one goes on from there.  An item that does not open or cannot be decoded is counted
and passed over.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from syncworker.clock import monotonic
from syncworker.errors import SealError, SyncWorkerError
from syncworker.standard.calendar import shifted, span
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId, Slug
from syncworker.store.account_references import NamedAccount
from syncworker.store.filling import HeldRow, Place, Progress
from syncworker.store.records import Record, StoredIdentifier
from syncworker.store.sealed import is_sealed
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.store.work import LEASE, Claim, WorkKind, WorkRow
from syncworker.sync.decode import COLUMNS_VERSION, Identifier, columns_of, iban_of, identifiers_of

SUBJECT: Final = "columns"
PLACE: Final = Slug("(tables)")
"""In place of an LFI: no slug has parentheses."""

BATCH: Final = 500
"""Rows of one transaction."""

SHARE_S: Final = 1.0
"""Seconds of work at one tick."""

REST: Final = 4
"""Shares of time between two shares of work: four fifths are left to syncs, however often a tick comes."""

AT_A_TIME: Final = 50
"""Rows decoded before others on the loop have their turn."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of the rows of one transaction.

    Attributes:
        table: its name; `''` where nothing is left to fill, or the claim is another's.
        rows: looked at.
        filled: written.
        skipped: their item does not open or cannot be decoded.
        again: some were written by a sync meanwhile: the next batch looks at the same rows.
    """

    table: str = ""
    rows: int = 0
    filled: int = 0
    skipped: int = 0
    again: bool = False


@dataclass(frozen=True, slots=True)
class Identified:
    """The identifiers of an account, as its item shows them.

    Attributes:
        seal: its item is sealed, so that what identifies is not kept beside it.
        gen: of the row.
    """

    identifiers: Sequence[Identifier] = field(repr=False)
    seal: bool
    gen: int


@dataclass(frozen=True, slots=True)
class Read:
    """The rows of a batch, decoded.

    Attributes:
        at: where the table stood.
        columns: of the rows whose columns come out differently.
        accounts: of the rows of `/accounts`.
        identifiers: of those of them whose identifiers held are others.
    """

    at: Progress
    rows: Sequence[HeldRow]
    columns: dict[Place, tuple[Any, ...]] = field(repr=False)
    accounts: dict[Place, NamedAccount] = field(repr=False)
    identifiers: dict[Place, "Identified"] = field(repr=False)
    skipped: int


class Filling:
    """Fills, a share of each tick, until every table is filled.  Lives on one event loop."""

    def __init__(
        self,
        store: Store,
        *,
        retry_after: Callable[[int], timedelta],
        batch: int = BATCH,
        share_s: float = SHARE_S,
        lease: timedelta = LEASE,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        """Does nothing yet.

        Args:
            retry_after: how long to wait after so many bad ends in a row.
            batch: rows of one transaction.
            share_s: seconds of work for one look; a batch that began is ended.
        """
        self._store = store
        self._retry_after = retry_after
        self._rows = batch
        self._share_s = share_s
        self._lease = lease
        self._timer = timer
        self._keys_sealed = False
        self._done = False
        self._going: asyncio.Task[None] | None = None
        self._open: Claim | None = None

    async def look(self) -> bool:
        """Begin a share if something is left to fill and no other process is at it; returns at once.

        Call it at every tick; once everything is filled it asks the database nothing.  While the database is away
        nothing happens, and the next tick finds the same.

        Returns:
            Whether a share was begun.
        """
        if self._going is not None and not self._going.done():
            return False
        try:
            if not self._keys_sealed:
                await self._store.atomically(lambda unit: unit.tenant_keys.reseal())
                self._keys_sealed = True
            if self._done:
                return False
            claim = await self._claimed()
        except SyncWorkerError as error:
            log.warning("columns not filled yet", error=error.code)
            return False
        if claim is None:
            return False
        self._open = claim
        self._going = asyncio.create_task(self._share(claim), name="fill columns")
        return True

    async def finished(self) -> None:
        """Wait until a share under way has ended."""
        if self._going is not None:
            await asyncio.gather(self._going, return_exceptions=True)

    async def close(self) -> None:
        """Give up a share under way; the rest is due again at once, without a database when the lease runs out."""
        if self._going is None:
            return
        self._going.cancel()
        await asyncio.gather(self._going, return_exceptions=True)
        if (left := self._open) is None:
            return
        try:
            await self._store.atomically(lambda unit: unit.work.give_back([left]))
        except SyncWorkerError as error:
            log.warning("claim of the filling not given back", error=error.code)

    async def _claimed(self) -> Claim | None:
        """Claim the row of work where something is left to fill; begin every table, and make the row, at the first."""
        async with self._store.reading() as unit:
            left = await unit.fillings.open(COLUMNS_VERSION)
            row, now = await unit.work.find(WorkKind.FILL, SUBJECT), await unit.now()
        if not left:
            if row is not None:
                await self._store.atomically(lambda unit: unit.work.forget(WorkKind.FILL, SUBJECT))
            await self._store.atomically(_begin)  # tables without a row are filled with that
            self._done = True
            return None
        if row is not None and not _is_free(row, now):
            return None
        return await self._store.atomically(self._taken)

    async def _taken(self, unit: UnitOfWork) -> Claim | None:
        row, now = await unit.work.find(WorkKind.FILL, SUBJECT), await unit.now()
        if row is None:
            await unit.work.schedule(WorkKind.FILL, SUBJECT, lfi=PLACE, due_at=now)
        elif not _is_free(row, now):  # another process was faster, and may have ended its share already
            return None
        claim = await unit.work.claim_one(WorkKind.FILL, SUBJECT, lease=self._lease)
        if claim is None:
            return None
        await _begin(unit)
        return await unit.work.take(claim.id, claim.gen, lease=self._lease)

    async def _share(self, claim: Claim) -> None:
        """Batches until the share is used up or nothing is left; then the claim's end."""
        until = self._timer() + self._share_s
        error: str | None = None
        try:
            while (await self.batch(claim)).table and self._timer() < until:
                pass
        except SyncWorkerError as fault:
            error = fault.code
        except Exception as fault:  # noqa: BLE001  what breaks here must be seen, and must not end the worker
            error = "unexpected"
            log.error("filling broke", error=type(fault).__name__)  # noqa: TRY400
        if error is not None:
            log.warning("columns not filled", error=error, attempts=claim.attempts)

        async def step(unit: UnitOfWork) -> None:
            wait = span(seconds=REST * self._share_s) if error is None else self._retry_after(claim.attempts)
            due_at = shifted(await unit.now(), wait)
            outcome = "failed" if error else "filling"
            await unit.work.finish(claim, due_at=due_at, outcome=outcome, error=error, good=error is None)

        try:
            await self._store.atomically(step)
            self._open = None
        except SyncWorkerError as fault:
            log.warning("end of the filling's share not filed", error=fault.code)

    # -- a batch -----------------------------------------------------------------------------------------------------

    async def batch(self, claim: Claim) -> Batch:
        """Fill the next rows of the first table that is not filled.

        Raises:
            StoreUnavailableError: the database is away; nothing of the batch holds.
            SettingsError: this process has no key ring, and an item is sealed.
        """
        read = await self.read()
        return Batch() if read is None else await self.write(claim, read)

    async def read(self) -> Read | None:
        """The next rows, decoded, outside of the transaction that writes: no sync waits for that.

        Returns:
            `None` where nothing is left to fill, or nothing was begun.
        """
        async with self._store.reading() as unit:
            left = await unit.fillings.open(COLUMNS_VERSION)
            if not left or left[0].since is None:
                return None
            rows = await unit.fillings.rows(left[0].table, left[0].after, limit=self._rows)
            return await _decoded(unit, left[0], rows)

    async def write(self, claim: Claim, read: Read) -> Batch:
        """Write what `read` gave, and the place reached, in one transaction."""
        done = await self._store.atomically(lambda unit: _written(unit, claim, read), bulk=True)
        if done.table and not done.rows:
            log.info("columns filled", table=done.table, rows=read.at.done, skipped=read.at.skipped)
        return done


async def _written(unit: UnitOfWork, claim: Claim, read: Read) -> Batch:
    at = read.at
    if not await unit.work.holds(claim):
        return Batch()
    if not read.rows:
        await unit.fillings.end(at.table, COLUMNS_VERSION, at=await unit.now())
        return Batch(at.table.name)
    filled, again = 0, False
    touched = read.columns.keys() | read.accounts.keys()
    if touched:
        unchanged = await unit.fillings.unchanged(at.table, at.after, read.rows)
        columns = {place: values for place, values in read.columns.items() if place in unchanged}
        await unit.fillings.fill(at.table, columns)
        await _keep_of_accounts(unit, read, unchanged)
        filled, again = len(columns), not touched <= unchanged
    if not again:
        await unit.fillings.advance(
            at.table, COLUMNS_VERSION, after=read.rows[-1].place, done=len(read.rows), skipped=read.skipped
        )
    return Batch(at.table.name, len(read.rows), filled, read.skipped, again)


def _is_free(row: WorkRow, now: datetime) -> bool:
    return row.due_at <= now and (row.lease_until is None or row.lease_until <= now)


async def _begin(unit: UnitOfWork) -> None:
    await unit.fillings.begin(COLUMNS_VERSION, at=await unit.now())


async def _decoded(unit: UnitOfWork, at: Progress, rows: Sequence[HeldRow]) -> Read:
    """What the items of rows say now."""
    read = Read(at, rows, {}, {}, {}, 0)
    skipped = 0
    held: dict[ConsentId, Mapping[str, Sequence[StoredIdentifier]]] = {}
    for number, row in enumerate(rows, start=1):
        if number % AT_A_TIME == 0:
            await asyncio.sleep(0)
        place, seal = row.place, is_sealed(row.raw)
        try:
            item = unit.records.opened(at.table, *place, raw=row.raw)
            values = columns_of(row.resource, item)
            if values is None:
                skipped += 1
                continue
            kept = unit.records.kept_values(row.resource, values, seal=seal)
            if kept != unit.records.opened_values(row.resource, place, row.columns):
                record = Record(place.key, values, item, row.digest)
                read.columns[place] = unit.records.stored_values(
                    row.resource, place.connection_id, place.account_id, record, seal=seal
                )
        except SealError:
            skipped += 1
            continue
        if row.resource is ResourceName.ACCOUNTS:
            read.accounts[place] = NamedAccount(place.connection_id, place.key, iban_of(item))
            if place.connection_id not in held:
                held[place.connection_id] = await unit.records.identifiers(place.connection_id)
            shown = identifiers_of(item)
            wanted = [(one.scheme, *((None, None) if seal else one[1:])) for one in shown]
            if wanted != [tuple(one) for one in held[place.connection_id].get(place.key, ())]:
                read.identifiers[place] = Identified(shown, seal, row.gen)
    return replace(read, skipped=skipped)


async def _keep_of_accounts(unit: UnitOfWork, read: Read, unchanged: Collection[Place]) -> None:
    """What an account's item says beside the columns of its row: reference, identity and identifiers."""
    accounts = [one for place, one in read.accounts.items() if place in unchanged]
    await unit.account_references.keep(accounts, at=await unit.now())
    for place, one in read.identifiers.items():
        if place in unchanged:
            await unit.records.keep_identifiers(
                place.connection_id, {place.key: one.identifiers}, gen=one.gen, seal=one.seal, held=[place.key]
            )
