"""How far the typed columns of rows held are filled (`filling`), and the rows to fill next.

A newer syncworker reads more of an item than an older one did; the item is kept whole, so the rows written before are
filled from it.  Only typed columns are written here: not `digest`, `gen`, `changed_at`, no history and no change, since
nothing changed at the LFI.  `sync.filling` decides what a row's columns are.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.tables import RECORD_TABLES, filling, resource_of, typed_columns

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

TABLES: Final = tuple(dict.fromkeys(RECORD_TABLES.values()))
"""Record tables in the order they are filled: accounts first, since readers find all others by them."""

_PLACE: Final = ("connection_id", "account_id", "key")


class Place(NamedTuple):
    """The key of a row within its tenant and table."""

    connection_id: ConsentId
    account_id: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A table that is not filled yet.

    Attributes:
        after: the last row looked at; `None`: none yet.
        done: rows looked at.
        about: rows there were when it began; `None`: not counted yet.
        skipped: rows whose item does not open or cannot be decoded.
        since: when it began; `None`: no worker has begun.
    """

    table: sa.Table
    after: Place | None = None
    done: int = 0
    about: int | None = None
    skipped: int = 0
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRow:
    """A row as it was read.

    Attributes:
        raw: the item, packed and perhaps sealed.
        columns: the typed columns in table order.
    """

    place: Place
    resource: ResourceName
    raw: bytes = field(repr=False)
    columns: tuple[Any, ...] = field(repr=False)
    digest: bytes
    gen: int


class Fillings:
    """`filling` of one tenant, and the typed columns of its record tables.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def open(self, version: int) -> list[Progress]:
        """The tables that are not filled up to this version, in the order they are filled.

        A table that no worker has begun and that holds no row of the tenant is none of them.
        """
        rows = await self._unit.connection.execute(
            sa.select(filling).where(filling.c.tenant == self._unit.tenant, filling.c.columns_version >= version)
        )
        begun = {row["table_name"]: row for row in rows.mappings()}
        found = []
        for table in TABLES:
            row = begun.get(table.name)
            if row is None:
                if await self._holds_rows(table):
                    found.append(Progress(table=table))
            elif row["ended_at"] is None:
                found.append(_progress(table, row))
        return found

    async def begin(self, version: int, *, at: datetime) -> None:
        """Begin every table that is at an older version, or at none; one without rows has ended with that."""
        begun = await self._unit.connection.scalars(
            sa.select(filling.c.table_name).where(
                filling.c.tenant == self._unit.tenant, filling.c.columns_version >= version
            )
        )
        known = set(begun)
        rows = []
        for table in sorted(TABLES, key=lambda one: one.name):
            if table.name in known:
                continue
            count = await self._count(table)
            rows.append(
                {
                    "tenant": self._unit.tenant,
                    "table_name": table.name,
                    "columns_version": version,
                    **dict.fromkeys(_PLACE),
                    "rows_done": 0,
                    "rows_about": count,
                    "skipped": 0,
                    "started_at": at,
                    "ended_at": None if count else at,
                }
            )
        if rows:
            replaced = [name for name in rows[0] if name not in ("tenant", "table_name")]
            fresh = self._unit.dialect.insert(filling)
            older = filling.c.columns_version < fresh.excluded.columns_version
            statement = self._unit.dialect.upsert(filling, ("tenant", "table_name"), replaced, where=older)
            await self._unit.connection.execute(statement, rows)

    async def rows(self, table: sa.Table, after: Place | None, *, limit: int) -> list[HeldRow]:
        """The rows behind a place, in key order, tombstones included."""
        typed = typed_columns(table)
        columns = (*(table.c[name] for name in (*_PLACE, "raw", "digest", "gen")), *(table.c[name] for name in typed))
        query = self._behind(table, after, sa.select(*columns)).limit(limit)
        return [
            HeldRow(
                place=(place := Place(ConsentId(row[0]), row[1], row[2])),
                resource=resource_of(table, place.account_id),
                raw=bytes(row[3]),
                columns=tuple(row[6:]),
                digest=bytes(row[4]),
                gen=row[5],
            )
            for row in await self._unit.connection.execute(query)
        ]

    async def unchanged(self, table: sa.Table, after: Place | None, rows: Sequence[HeldRow]) -> set[Place]:
        """Those of the rows, read behind a place before, that are as they were read; locked until the end.

        A row that a sync has written since is not among them, nor one that is erased.  Rows are locked in key order, as
        a sync writes them.
        """
        if not rows:
            return set()
        wanted = {one.place: (one.digest, one.gen) for one in rows}
        columns = [table.c[name] for name in (*_PLACE, "digest", "gen")]
        query = self._behind(table, after, sa.select(*columns)).where(_key_of(table) <= _literal(rows[-1].place))
        if self._unit.dialect.is_postgresql:
            query = query.with_for_update(key_share=True)
        found = await self._unit.connection.execute(query)
        return {
            place
            for row in found
            if wanted.get(place := Place(ConsentId(row[0]), row[1], row[2])) == (bytes(row[3]), row[4])
        }

    async def fill(self, table: sa.Table, columns: Mapping[Place, tuple[Any, ...]]) -> None:
        """Write the typed columns of rows that `unchanged` gave in this transaction, and nothing else of them."""
        if not columns:
            return
        typed = typed_columns(table)
        statement = (
            sa.update(table)
            .where(
                table.c.tenant == self._unit.tenant,
                *(table.c[name] == sa.bindparam(f"of_{name}") for name in _PLACE),
            )
            .values({name: sa.bindparam(f"as_{name}", type_=table.c[name].type) for name in typed})
        )
        await self._unit.connection.execute(
            statement,
            [
                {f"of_{name}": value for name, value in zip(_PLACE, place, strict=True)}
                | {f"as_{name}": value for name, value in zip(typed, columns[place], strict=True)}
                for place in sorted(columns)
            ],
        )

    async def advance(self, table: sa.Table, version: int, *, after: Place, done: int, skipped: int) -> None:
        """Note the last row looked at, and how many more were."""
        values: dict[str, Any] = {
            **dict(zip(_PLACE, after, strict=True)),
            "rows_done": filling.c.rows_done + done,
            "skipped": filling.c.skipped + skipped,
        }
        await self._unit.connection.execute(sa.update(filling).where(*self._is(table, version)).values(values))

    async def end(self, table: sa.Table, version: int, *, at: datetime) -> None:
        """Every row of a table was looked at.  The place goes: a key may be the LFI's."""
        values: dict[str, Any] = {**dict.fromkeys(_PLACE), "ended_at": at}
        await self._unit.connection.execute(sa.update(filling).where(*self._is(table, version)).values(values))

    def _behind(self, table: sa.Table, after: Place | None, query: sa.Select[Any]) -> sa.Select[Any]:
        query = query.where(table.c.tenant == self._unit.tenant).order_by(*(table.c[name] for name in _PLACE))
        return query if after is None else query.where(_key_of(table) > _literal(after))

    def _is(self, table: sa.Table, version: int) -> Collection[sa.ColumnElement[bool]]:
        return (
            filling.c.tenant == self._unit.tenant,
            filling.c.table_name == table.name,
            filling.c.columns_version == version,
        )

    async def _holds_rows(self, table: sa.Table) -> bool:
        one = sa.select(sa.literal(1)).select_from(table).where(table.c.tenant == self._unit.tenant).limit(1)
        return await self._unit.connection.scalar(one) is not None

    async def _count(self, table: sa.Table) -> int:
        query = sa.select(sa.func.count()).select_from(table).where(table.c.tenant == self._unit.tenant)
        return int(await self._unit.connection.scalar(query) or 0)


def _key_of(table: sa.Table) -> sa.ColumnElement[Any]:
    return sa.tuple_(*(table.c[name] for name in _PLACE))


def _literal(place: Place) -> sa.ColumnElement[Any]:
    return sa.tuple_(*(sa.literal(value) for value in place))


def _progress(table: sa.Table, row: Mapping[Any, Any]) -> Progress:
    placed = row["connection_id"] is not None
    return Progress(
        table=table,
        after=Place(ConsentId(row["connection_id"]), row["account_id"], row["key"]) if placed else None,
        done=row["rows_done"],
        about=row["rows_about"],
        skipped=row["skipped"],
        since=row["started_at"],
    )
