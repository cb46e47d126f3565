"""The product as a contender: settings, consents, worker processes, `sync_all`, and its own books checked besides.

Beyond what everyone's rows are audited for, the product must have filed what production files: one priced call for
each page served, one run a consent, and no claim left open.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from syncworker import settings as settings_module
from syncworker.bench.audit import AuditFailedError, ReadTable, Rows
from syncworker.bench.bank import Bank
from syncworker.bench.books import compared_columns
from syncworker.bench.drive import Fleet, environment_for
from syncworker.bench.ground import Load, make_due, place_consents, write_settings
from syncworker.bench.phases import Phase
from syncworker.opening import open_store
from syncworker.settings import Settings
from syncworker.store.keyring import KeyRing
from syncworker.store.sealed import unpack_raw
from syncworker.store.tables import RECORD_TABLES
from syncworker.store.unit_of_work import Store


class Product:
    """The product on one database; workers run with the `with` around it."""

    name = "syncworker"

    def __init__(
        self,
        bank: Bank,
        folder: Path,
        database_url: str,
        *,
        load: Load,
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Writes settings into the folder and starts nothing.

        Args:
            folder: of this product's own; holds settings, key ring, the broker's data.
            progress: as `Fleet.sync_all`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._bank = bank
        self._database_url = database_url
        file = write_settings(folder, bank, database_url=database_url, load=load)
        environment = environment_for(file)
        with only(environment):
            self._settings = settings_module.load()
        self._keyring = KeyRing.load(folder / "keyring").for_tenant(self._settings.tenant)
        self._fleet = Fleet(self._settings, workers=workers, environment=environment)
        self._progress = progress
        self._calls = 0

    def __enter__(self) -> Self:
        asyncio.run(_placed(self._settings, self._bank))
        self._fleet.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._fleet.stop()

    def prepare(self, phase: Phase) -> None:
        """Ask for every consent, as for a customer who looks now; the first sync is due by itself."""
        if phase is not Phase.FIRST:
            self._fleet.run(make_due)
        self._calls = self._fleet.run(_calls)

    def sync(self) -> None:
        """All of them, through broker, claims and workers."""
        self._fleet.sync_all(progress=self._progress)

    def pids(self) -> Sequence[int]:
        """The workers and the broker."""
        return self._fleet.pids

    def read(self) -> ReadTable:
        """The tables, after the product's own books were checked.

        Raises:
            AuditFailedError: not every page has its priced call.
        """
        served, filed = self._bank.order().pages, self._fleet.run(_calls) - self._calls
        if filed != served:
            raise AuditFailedError(f"the bank served {served} pages, and {filed} calls of runs are filed")
        if self._database_url.startswith("sqlite"):
            rows: ReadTable = self._fleet.run(_rows_of_sqlite)
            return rows
        return self._rows_of_postgresql

    def raw(self, item: bytes) -> Any:
        """The very bytes."""
        return item

    def _rows_of_postgresql(self, table: str, columns: tuple[str, ...]) -> Rows:
        for row in postgresql_rows(self._database_url, table, columns):
            *place, raw = row
            yield *place, unpack_raw(raw, self._opener(table, *place[:3]))

    def _opener(self, table: str, *place: str) -> Callable[[bytes], bytes]:
        return lambda sealed: self._keyring.open(sealed, table=table, column="raw", row="|".join(place))


def postgresql_rows(database_url: str, table: str, columns: tuple[str, ...]) -> Rows:
    """The living rows of one record table: place, typed columns, `raw` as it lies there."""
    import psycopg  # an extra: only who has a PostgreSQL comes here

    with psycopg.connect(database_url) as connection, connection.cursor("audit") as cursor:
        cursor.itersize = 10_000
        cursor.execute(_select(table, columns).encode())
        yield from cursor


def _select(table: str, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{name}"' for name in ("connection_id", "account_id", "key", *columns, "raw"))
    return f'SELECT {names} FROM "{table}" WHERE gone_at IS NULL'  # noqa: S608  names of our own tables


async def _rows_of_sqlite(store: Store) -> ReadTable:
    """All living rows at once, through the store: SQLite's values mean something to its column types alone."""
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    async with store.reading() as unit:
        async for row in unit.records.all_rows():
            place = (row.connection_id, row.account_id, row.key)
            table = RECORD_TABLES[row.resource]
            values = (row.columns[name] for name in compared_columns(table))
            found[table.name].append((*place, *values, row.item))
    return lambda table, _columns: found[table]


async def _placed(settings: Settings, bank: Bank) -> None:
    store = await open_store(settings, sealed=True)
    try:
        await place_consents(store, bank)
    finally:
        await store.close()


async def _calls(store: Store) -> int:
    async with store.reading() as unit:
        return await unit.runs.calls_of_runs()


@contextmanager
def only(environment: Mapping[str, str]) -> Iterator[None]:
    """This process's environment is another one while the block lasts."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
