"""One export from its number to its end.

    reserved   a number is taken in the database; nothing is at the target
    decided    full or incremental, in the snapshot that everything is read from
    writing    the first rows are in a file
    written    every file is whole; still no export, since a folder is one by its manifest
    manifest   the manifest is there: from here on it is an export, whatever happens to this process
    latest     `LATEST.json` points to it
    ended      the database knows it

A process that ends between two of these leaves an open row.  The next run of the series looks at the target: with a
manifest it is finished as it stands (*adopted*), without one its number is given up (*abandoned*).  An increment begins
where the last export that came to be ended, so none is lost, and none is told twice by two that both count.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any, Final

import pyarrow as pa
import structlog

from syncworker.errors import LeaseLostError, ManifestError, RequestError, SyncWorkerError, TransientError
from syncworker.exports import asof
from syncworker.exports import chain as chains
from syncworker.exports.chain import ChainError, found_chain, manifest_at
from syncworker.exports.increments import Increment, place_of
from syncworker.exports.layout import (
    LATEST,
    MANIFEST,
    NUMBER_MAX,
    Coverage,
    ExportKind,
    Format,
    Latest,
    LeftOut,
    Manifest,
    Privacy,
    TableEntry,
    Writer,
    folder_of,
    latest_of,
    next_number,
)
from syncworker.exports.rows import Pseudonyms
from syncworker.exports.schema import Table, schema_hash
from syncworker.exports.snapshot import Reader
from syncworker.exports.targets import Target
from syncworker.exports.writers import ROWS_PER_PART, TableWriter, table_writer, writer_facts
from syncworker.feed import read as feed
from syncworker.standard.calendar import read_iso, shifted
from syncworker.store import export_queries as queries
from syncworker.store.exporting import Snapshot
from syncworker.store.exports import LEASE, Outcome, Result
from syncworker.store.tenant_keys import Purpose
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.sync.decode import COLUMNS_VERSION
from syncworker.views import past

log = structlog.stdlib.get_logger(__name__)

CONSENT_ENDED: Final = "consent_ended"
"""Why rows of a connection are left out."""


class Step(StrEnum):
    """How far an export has come."""

    RESERVED = "reserved"
    DECIDED = "decided"
    WRITING = "writing"
    WRITTEN = "written"
    MANIFEST = "manifest"
    LATEST = "latest"
    ENDED = "ended"


class ExportBusyError(TransientError):
    """An export of the same name is being made by another process."""

    code = "export_busy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be exported.

    Attributes:
        full: even where an increment would do.
        increment: fail rather than make a full export.
        full_every: a full export is due so long after the last one; `None`: never by time.
        rows_per_part: of one file.
        as_of: what was known then, as a full export that no increment stands on; `None`: what is known now.
    """

    name: str
    target: Target
    format: Format
    tables: tuple[Table, ...]
    privacy: Privacy = Privacy.FULL
    full: bool = False
    increment: bool = False
    full_every: timedelta | None = None
    rows_per_part: int = ROWS_PER_PART
    as_of: datetime | None = None


@dataclass(frozen=True, slots=True)
class Watching:
    """What is told of a run while it goes on, from whatever thread."""

    step: Callable[[Step], None] = lambda _step: None
    rows: Callable[[str, int], None] = lambda _table, _rows: None
    about: Callable[[int | None], None] = lambda _rows: None


NOT_WATCHED: Final = Watching()


async def run(store: Store, wanted: Wanted, *, watching: Watching = NOT_WATCHED, lease: timedelta = LEASE) -> Manifest:
    """Make one export.

    Raises:
        ExportBusyError: one of the same name is being made.
        ExportTargetError: the target cannot be written.
        RequestError: the target holds exports of another tenant; an increment was asked for and none can be made.
        StoreUnavailableError: the database is away.
    """
    if wanted.as_of is not None:
        asof.check_tables(wanted.tables)
        async with store.reading() as unit:  # once more in the snapshot; here, so that no number is taken
            await past.check_instant(unit, wanted.as_of)
    await asyncio.to_thread(chains.check_owner, wanted.target, wanted.name, store.tenant)
    pseudonyms = None
    if wanted.privacy is Privacy.PSEUDONYMOUS:
        pseudonyms = Pseudonyms(await store.atomically(lambda unit: unit.tenant_keys.key(Purpose.PSEUDONYM)))
    number = await _reserved(store, wanted, lease)
    watching.step(Step.RESERVED)
    making = _Making(store, wanted, number, watching, pseudonyms)
    try:
        async with _renewed(store, wanted.name, number, lease):
            manifest = await making.make()
    except BaseException as error:
        await _given_up(store, wanted, number, error, begun=making.begun)
        raise
    watching.step(Step.ENDED)
    return manifest


async def settle(store: Store, name: str, target: Target) -> Outcome | None:
    """End the open row of a series whose process ended; `None`: there is none, or its lease lives."""
    async with store.reading() as unit:
        left, now = await unit.exports.open_row(name), await unit.now()
    if left is None or (left.lease_until is not None and left.lease_until > now):
        return None
    found = None
    if left.target == target.text:
        with suppress(ManifestError):  # damaged: no export that could be finished
            found = await asyncio.to_thread(manifest_at, target, name, left.number)
    if found is None:
        await store.atomically(lambda unit: unit.exports.end(name, left.number, Outcome.ABANDONED))
        log.warning("an export was not finished", name=name, number=left.number)
        return Outcome.ABANDONED
    manifest, data = found
    await asyncio.to_thread(_point_to, target, manifest, data)
    await store.atomically(
        lambda unit: unit.exports.end(name, left.number, Outcome.ADOPTED, result=result_of(manifest))
    )
    return Outcome.ADOPTED


def result_of(manifest: Manifest) -> Result:
    """What the database keeps of an export."""
    return Result(
        kind=manifest.kind.value,
        reason=manifest.reason,
        base=manifest.base,
        as_of=manifest.as_of,
        to_cursor=manifest.to,
        rows=sum(one.rows for one in manifest.tables),
        bytes=sum(file.bytes for one in manifest.tables for file in one.files),
    )


async def _reserved(store: Store, wanted: Wanted, lease: timedelta) -> int:
    name, target = wanted.name, wanted.target
    await settle(store, name, target)
    beyond = await asyncio.to_thread(lambda: next_number(chains.folders(target, name)) - 1)
    if beyond >= NUMBER_MAX:
        raise RequestError(f"to: {target.text}/{name} holds the highest number there is; remove that folder")
    number = await store.atomically(
        lambda unit: unit.exports.reserve(
            name, beyond=beyond, target=target.text, format=wanted.format.value, lease=lease
        )
    )
    if number is None:
        async with store.reading() as unit:
            other = await unit.exports.open_row(name)
        until = "" if other is None or other.lease_until is None else f", or after {other.lease_until:%H:%M:%S} UTC"
        raise ExportBusyError(f"export {name}: another process is making one; try again when it has ended{until}")
    return number


@asynccontextmanager
async def _renewed(store: Store, name: str, number: int, lease: timedelta) -> AsyncIterator[None]:
    """Renew the lease while the block runs; the block is cancelled when another process has taken the row over."""
    mine = asyncio.current_task()
    assert mine is not None
    lost = False

    async def renew() -> None:
        nonlocal lost
        while True:
            await asyncio.sleep(lease.total_seconds() / 4)
            try:
                held = await store.atomically(lambda unit: unit.exports.extend(name, number, lease=lease))
            except SyncWorkerError as error:  # the database is away for now: the lease lasts for three more
                log.warning("lease of an export not renewed", name=name, number=number, error=error.code)
                continue
            if not held:
                lost = True
                mine.cancel()
                return

    renewing = asyncio.create_task(renew(), name="renew the lease of an export")
    try:
        yield
    except asyncio.CancelledError:
        if lost:
            mine.uncancel()
            raise LeaseLostError(f"export {name}: number {number} was given up by another process") from None
        raise
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


async def _given_up(store: Store, wanted: Wanted, number: int, error: BaseException, *, begun: "_Begun") -> None:
    """Nothing that was begun is left, unless it is an export already: that is adopted by the next run.

    Where the target does not answer, an export without a manifest is given up all the same.
    """
    code = error.code if isinstance(error, SyncWorkerError) else "stopping"
    if not isinstance(error, SyncWorkerError | asyncio.CancelledError):
        code = "unexpected"

    def removed() -> bool:
        if begun.manifest and manifest_at(wanted.target, wanted.name, number) is not None:
            return False
        for kind in ExportKind if begun.files else ():
            with suppress(SyncWorkerError):  # without a manifest it is no export; purge removes it later
                wanted.target.remove(f"{wanted.name}/{folder_of(kind, number)}")
        return True

    with suppress(Exception):
        if await asyncio.shield(asyncio.to_thread(removed)):
            await store.atomically(lambda unit: unit.exports.end(wanted.name, number, Outcome.FAILED, error=code))
        else:
            await store.atomically(lambda unit: unit.exports.extend(wanted.name, number, lease=timedelta(0)))


def _point_to(target: Target, manifest: Manifest, data: bytes) -> None:
    """Replace `LATEST.json`, unless it points to a newer export that is there; one that is damaged is replaced."""
    path = f"{manifest.export}/{LATEST}"
    with suppress(FileNotFoundError, ManifestError):
        found = Latest.of(target.read(path))
        if found.number > manifest.number and target.exists(f"{manifest.export}/{found.folder}/{MANIFEST}"):
            return
    target.put_whole(path, latest_of(manifest, data).to_bytes())


@dataclass(slots=True)
class _Begun:
    """What of an export may be at the target."""

    files: bool = False
    rows: bool = False
    manifest: bool = False


@dataclass(slots=True)
class _Making:
    """One export being made."""

    store: Store
    wanted: Wanted
    number: int
    watching: Watching
    pseudonyms: Pseudonyms | None
    begun: _Begun = field(default_factory=_Begun)
    _open: list[TableWriter] = field(default_factory=list)

    async def make(self) -> Manifest:
        async with self.store.exporting() as snapshot:
            manifest = await self._written(snapshot)
        self.watching.step(Step.WRITTEN)
        wanted, target = self.wanted, self.wanted.target
        if not await self.store.atomically(lambda unit: unit.exports.extend(wanted.name, self.number)):
            raise LeaseLostError(f"export {wanted.name}: number {self.number} was given up by another process")
        data = manifest.to_bytes()
        path = f"{wanted.name}/{manifest.folder}/{MANIFEST}"
        if await asyncio.to_thread(target.exists, path):
            raise RequestError(f"to: {path} was written by another database; choose another name or target")
        self.begun.manifest = True
        await asyncio.to_thread(target.put_whole, path, data)
        self.watching.step(Step.MANIFEST)
        await asyncio.to_thread(_point_to, target, manifest, data)
        self.watching.step(Step.LATEST)
        await self.store.atomically(
            lambda unit: unit.exports.end(wanted.name, self.number, Outcome.DONE, result=result_of(manifest))
        )
        return manifest

    async def _written(self, snapshot: Snapshot) -> Manifest:
        """All files, and the manifest that is still to be put there."""
        unit, wanted = snapshot.unit, self.wanted
        reader = Reader(snapshot)
        if wanted.as_of is not None:
            await past.check_instant(unit, wanted.as_of)
        facts: dict[str, Any] = {
            "to": await feed.now(unit) if wanted.as_of is None else None,
            "as_of": await unit.now() if wanted.as_of is None else wanted.as_of,
            "schema_hash": schema_hash(wanted.tables),
            "decoder": await _decoder(unit),
        }
        increment, reason = await self._decided(reader, facts)
        if increment is None and wanted.increment:
            why = reason or "there is no export to stand on, or a full one is due"
            raise RequestError(f"since: no increment can be made ({why}); leave --since out for a full export")
        kind = ExportKind.FULL if increment is None else ExportKind.INCREMENTAL
        self.watching.step(Step.DECIDED)
        self.watching.about(await self._about(snapshot) if increment is None else None)
        try:
            entries = [await self._table(reader, table, increment, facts["as_of"]) for table in wanted.tables]
        except BaseException:
            for writer in self._open:
                await asyncio.shield(asyncio.to_thread(writer.abort))
            raise
        return Manifest(
            export=wanted.name,
            tenant=unit.tenant,
            number=self.number,
            kind=kind,
            base=self.number if increment is None else increment.chain.last.base,
            format=wanted.format,
            from_=None if increment is None else increment.chain.last.to,
            writer=_writer_facts(wanted.format),
            privacy=wanted.privacy,
            pseudonym_key_id=None if self.pseudonyms is None else self.pseudonyms.key_id,
            reason=reason if increment is None else None,
            tables=tuple(entries),
            coverage=await _coverage(snapshot),
            left_out=await _left_out(snapshot, wanted.tables),
            **facts,
        )

    async def _decided(self, reader: Reader, facts: dict[str, Any]) -> tuple[Increment | None, str | None]:
        """The increment to make, or why the export is a full one where one was due."""
        unit, wanted = reader.snapshot.unit, self.wanted
        if wanted.full or wanted.as_of is not None:
            return None, None
        async with self.store.reading() as now:  # rows of exports that ended while the snapshot was opened count
            last = await now.exports.last_good(wanted.name)
        if last is None:
            return None, None
        if last.target != wanted.target.text:
            return None, "target"
        chain = await asyncio.to_thread(found_chain, wanted.target, wanted.name, last.number)
        if chain is None:
            return None, "chain"
        if wanted.format is Format.DELTA and self.number != last.number + 1:
            return None, "unfinished"  # its rows may be in some of the tables: only a full export takes them out
        key_id = None if self.pseudonyms is None else self.pseudonyms.key_id
        why = _unlike(chain.last, wanted, key_id, facts)
        if why is not None:
            return None, why
        if wanted.full_every is not None and chain.manifests[0].as_of <= shifted(facts["as_of"], -wanted.full_every):
            return None, None
        assert chain.last.to is not None
        place = await place_of(unit, chain.last.to)
        if isinstance(place, str):
            return None, place
        increment = Increment(reader, chain, place, self._hidden)
        try:
            await increment.prepare(wanted.tables)
        except ChainError:
            return None, "chain_unreadable"
        return increment, None

    def _hidden(self, table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch if self.pseudonyms is None else self.pseudonyms.hide(table, batch)

    async def _table(self, reader: Reader, table: Table, increment: Increment | None, at: datetime) -> TableEntry:
        writer, count = await reader.snapshot.apart(lambda: self._writer(table, op=increment is not None, at=at)), 0
        self._open.append(writer)

        def take(lfi: str | None, batch: pa.RecordBatch) -> None:
            nonlocal count
            writer.write(batch, lfi=lfi)
            self.begun.files = True
            count += batch.num_rows
            if not self.begun.rows:
                self.begun.rows = True
                self.watching.step(Step.WRITING)
            self.watching.rows(table.name, count)

        if self.wanted.as_of is not None:
            then = self.wanted.as_of
            await asof.pour(reader, table, then, lambda lfi, batch: take(lfi, self._hidden(table, batch)))
        elif increment is None:
            await reader.whole(table, lambda lfi, batch: take(lfi, self._hidden(table, batch)))
        else:
            await increment.pour(table, partial(take, None))
        entry = await reader.snapshot.apart(writer.close)
        self._open.remove(writer)
        self.begun.files = True
        return entry

    def _writer(self, table: Table, *, op: bool, at: datetime) -> TableWriter:
        wanted = self.wanted
        if wanted.format is Format.DELTA:
            from syncworker.exports.delta import DeltaWriter  # deltalake is an extra of its own

            return DeltaWriter(table, wanted.target, name=wanted.name, number=self.number, op=op, at=at)
        kind = ExportKind.INCREMENTAL if op else ExportKind.FULL
        folder = f"{wanted.name}/{folder_of(kind, self.number)}"
        return table_writer(
            table, wanted.target, folder=folder, format=wanted.format, op=op, rows_per_part=wanted.rows_per_part
        )

    async def _about(self, snapshot: Snapshot) -> int | None:
        """Rows of a full export, as the database guesses."""
        names = [one.name for one in self.wanted.tables]
        found = [await snapshot.fetched(piece) for piece in queries.about(snapshot.unit.dialect, names)]
        numbers = [rows[0][0] for rows in found if rows and rows[0][0] is not None]
        return sum(max(int(one), 0) for one in numbers) or None


def _unlike(last: Manifest, wanted: Wanted, key_id: str | None, facts: dict[str, Any]) -> str | None:
    """Why an increment would not fit on the last export; `None`: it does."""
    differences = {
        "format": last.format is not wanted.format,
        "privacy": last.privacy is not wanted.privacy or last.pseudonym_key_id != key_id,
        "schema": last.schema_hash != facts["schema_hash"],
        "decoder": last.decoder != facts["decoder"],
        "as_of": last.to is None,
    }
    return next((word for word, differs in differences.items() if differs), None)


def _writer_facts(format_: Format) -> Writer:
    if format_ is not Format.DELTA:
        return writer_facts()
    from syncworker.exports import delta

    return delta.writer_facts()


async def _decoder(unit: UnitOfWork) -> int:
    """The version of the typed columns that every row held has: while older rows are being filled, the one before."""
    return COLUMNS_VERSION - bool(await unit.fillings.open(COLUMNS_VERSION))


async def _coverage(snapshot: Snapshot) -> tuple[Coverage, ...]:
    rows = await snapshot.fetched(queries.coverage(snapshot.unit.dialect, snapshot.unit.tenant))
    return tuple(
        Coverage(
            connection_id=connection_id,
            resource=resource,
            complete_from=None if complete_from is None else str(complete_from),
            checked_at=read_iso(checked_at) if isinstance(checked_at, str) else checked_at,
        )
        for connection_id, resource, complete_from, checked_at in rows
    )


async def _left_out(snapshot: Snapshot, tables: tuple[Table, ...]) -> tuple[LeftOut, ...]:
    names = [one.name for one in tables if one.name in queries.FED]
    rows = await snapshot.fetched(queries.kept_back(snapshot.unit.dialect, snapshot.unit.tenant, names))
    return tuple(LeftOut(connection_id=one, reason=CONSENT_ENDED, rows=int(count)) for one, count in rows)
