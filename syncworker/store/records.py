"""What LFIs have told us: one row per (connection, account, key), tombstones included.  Only erasure deletes here.

Each resource of the catalogue has its table (`tables.RECORD_TABLES`) with the same frame around typed columns, so
that one repository serves them all.  The raw item lies packed beside the columns; a party's is always sealed.

Personal columns stay NULL where raw items are sealed by setting (`tables.PERSONAL`), a party's name is always sealed,
and an account's identifiers are rows of their own (`account_identifier`).

A row says what is.  What it said before lies in `record_history`: one entry for each state that ended, with the time
it held, so that `as_of` can answer for any instant.  The bytes are moved as they lie, seal included: it names the row
they came from.

Also here, since `/accounts` writes them: which consent shows which account (`account_grant`).
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from functools import cache, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from syncworker.standard.calendar import at_time, utc_date
from syncworker.standard.resources import ResourceName
from syncworker.standard.values import AccountId, ConsentId
from syncworker.store.bulk import COPY_FROM, insert_many, upsert_later, upsert_many
from syncworker.store.consents import live_ids
from syncworker.store.dialect import Dialect
from syncworker.store.readable import readable
from syncworker.store.sealed import open_text, pack_raw, seal_text, unpack_raw
from syncworker.store.statements import Answer, Statement, Told, named, run_all
from syncworker.store.tables import (
    PERSONAL,
    RECORD_TABLES,
    SEALED_COLUMNS,
    SEALED_RAW,
    account_grant,
    account_identifier,
    balance_history,
    connection,
    record_history,
    resource_of,
    typed_columns,
)

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

KEYS_MAX: Final = 500
"""Keys asked for in one statement."""

ROWS_MAX: Final = 1_000
"""Rows read in one statement when a table is streamed."""

HISTORY: Final[Mapping[ResourceName, tuple[sa.Table, str]]] = {ResourceName.BALANCES: (balance_history, "date_time")}
"""Resources whose every value is kept, and the column that makes a value one of a series."""

Seal = Callable[[bytes], bytes]

_KEY: Final = ("tenant", "connection_id", "account_id", "key")
_FRAME: Final = ("raw", "digest", "changed_at", "missed_since", "gone_at", "gen")
_BY_KEY: Final = itemgetter(2, 3)  # account_id, key: the two before them are the same in every row
_PARTIES: Final = (ResourceName.PARTIES, ResourceName.ACCOUNT_PARTIES)


class RowKey(NamedTuple):
    """Which row of which listing; `account_id` is `''` for a row of the connection."""

    connection_id: ConsentId
    account_id: str
    resource: ResourceName
    key: str


class Record(NamedTuple):
    """One item, decoded.

    Attributes:
        columns: typed values in the order of `tables.typed_columns`.
        raw: the item's bytes exactly as the LFI sent them.
        digest: of the canonical item, 16 bytes.
    """

    key: str
    columns: tuple[Any, ...]
    raw: bytes
    digest: bytes

    def __repr__(self) -> str:
        return "Record(…)"  # names, amounts and IBANs never reach a log


class Held(NamedTuple):
    """What a decision needs to know of a row we hold.

    Attributes:
        instant: the member the listing's window compares (`BookingDateTime`); `None` where there is no window.
        pending: the LFI may still replace it.
        missed: the last complete walk did not show it.
        gone: proved absent.
        missed_since: when a complete walk first did not show it.
    """

    digest: bytes
    instant: datetime | None = None
    pending: bool = False
    missed: bool = False
    gone: bool = False
    missed_since: datetime | None = None


AT_REST: Final = Held(b"")
"""A row of which no more is known than that it lives, was shown by the last complete walk, and is not pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRecord:
    """One row, opened, for people and audits.

    Attributes:
        item: the item's bytes exactly as the LFI sent them.
        columns: typed values by name.
    """

    connection_id: ConsentId
    account_id: str
    resource: ResourceName
    key: str
    item: bytes = field(repr=False)
    columns: Mapping[str, Any] = field(repr=False)
    first_seen_at: datetime
    changed_at: datetime
    missed_since: datetime | None
    gone_at: datetime | None
    gen: int

    @property
    def account(self) -> str:
        """The AccountId it is about, a row's key where it is one of `/accounts`; `''` for none."""
        return self.key if self.resource is ResourceName.ACCOUNTS else self.account_id


class StoredIdentifier(NamedTuple):
    """One identifier of an account; `identification` and `name` are `None` where raw items are sealed by setting."""

    scheme: str | None
    identification: str | None
    name: str | None

    def __repr__(self) -> str:
        return f"StoredIdentifier({self.scheme}, …)"


class Ended(StrEnum):
    """What ended a state of a row."""

    MODIFIED = "modified"
    REMOVED = "removed"
    REVIVED = "revived"  # it was a tombstone until then


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRecord:
    """What a row said at some instant.

    Attributes:
        item: the item's bytes exactly as the LFI had sent them.
        valid_from: when we learnt it.
        valid_until: when we learnt otherwise; `None`: it still holds.
    """

    account_id: str
    key: str
    item: bytes = field(repr=False)
    valid_from: datetime
    valid_until: datetime | None


GRANTED_TO_LIVE: Final = Statement(
    lambda dialect: sa.select(account_grant.c.consent_id, account_grant.c.account_id).where(
        dialect.one_of(account_grant.c.consent_id, live_ids(dialect), tenant=named(account_grant.c.tenant)),
        account_grant.c.ended_at.is_(None),
    )
)
"""The accounts shown with the consents that `consents.LIVE` finds."""

GRANTED: Final = Statement(
    lambda _: sa.select(account_grant.c.account_id).where(
        account_grant.c.tenant == named(account_grant.c.tenant),
        account_grant.c.consent_id == named(account_grant.c.consent_id),
        account_grant.c.ended_at.is_(None),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Rows to look for, of some accounts.

    Attributes:
        instant: column the window compares; `None` where the listing has no window.
        status: column that says `Pending`; `None` where nothing is ever pending.
        since, until: leave out rows whose `instant` lies before or not before, unless they are pending or missed.
        keys_of_rest: rows at rest are given as `AT_REST`: a hundred of them cost what one costs.
    """

    resource: ResourceName
    account_ids: Collection[str]
    instant: str | None = None
    status: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    keys_of_rest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedKeys:
    """Rows to look for, by their keys; the columns as in `Wanted`."""

    resource: ResourceName
    account_id: str
    keys: Collection[str]
    instant: str | None = None
    status: str | None = None


Holdings = dict[tuple[ResourceName, str], dict[str, Held]]
"""Rows by resource and account, then by key."""


@cache
def _holding(
    resource: ResourceName, instant: str | None, status: str | None, ends: frozenset[str], restless: bool
) -> Statement:
    """Rows of some accounts, those of a window where it has ends; only those not at rest when `restless`."""

    def build(dialect: Dialect) -> Any:
        table = RECORD_TABLES[resource]
        query = _facts(table, instant, status).where(
            *_of_connection(table), _one_of(table.c.account_id, "accounts", dialect)
        )
        if restless:
            query = query.where(sa.not_(_at_rest(table, status)))
        if instant is None or not ends:
            return query
        near = [_inside(table.c[instant], ends), table.c.missed_since.is_not(None)]
        if status is not None:
            near.append(table.c[status] == sa.literal_column("'Pending'"))
        return query.where(sa.or_(*near))

    return Statement(build)


@cache
def _resting(resource: ResourceName, instant: str | None, status: str | None, ends: frozenset[str]) -> Statement:
    """Keys of the rows at rest, account by account, those of a window where it has ends."""

    def build(dialect: Dialect) -> Any:
        table = RECORD_TABLES[resource]
        query = sa.select(table.c.account_id, dialect.gathered(table.c.key)).where(
            *_of_connection(table), _one_of(table.c.account_id, "accounts", dialect), _at_rest(table, status)
        )
        if instant is not None and ends:
            query = query.where(_inside(table.c[instant], ends))
        return query.group_by(table.c.account_id)

    return Statement(build)


@cache
def _holding_keys(resource: ResourceName, instant: str | None, status: str | None) -> Statement:
    """Rows of one account, by their keys."""

    def build(dialect: Dialect) -> Any:
        table = RECORD_TABLES[resource]
        return _facts(table, instant, status).where(
            dialect.among(table.c.key, "keys", tenant=named(table.c.tenant, "of_tenant"), within=_account(table)),
        )

    return Statement(build)


@cache
def _living(resource: ResourceName) -> Statement:
    """Which of some rows are there, of connections that can be read."""
    table = RECORD_TABLES[resource]

    def build(dialect: Dialect) -> Any:
        kinds = {name: table.c[name].type for name in _KEY[1:]}
        those = dialect.keys("those", kinds, tenant=named(table.c.tenant, "of_tenant"))
        can_be_read = (
            sa.select(readable())
            .where(connection.c.tenant == those.c.tenant, connection.c.connection_id == those.c.connection_id)
            .correlate(those)
            .scalar_subquery()
        )
        return sa.select(*(table.c[name] for name in _KEY[1:])).where(
            *(table.c[name] == those.c[name] for name in _KEY), table.c.gone_at.is_(None), can_be_read
        )

    return Statement(build)


def _at_rest(table: sa.Table, status: str | None) -> sa.ColumnElement[bool]:
    """What `AT_REST` says."""
    rest: list[sa.ColumnElement[bool]] = [table.c.missed_since.is_(None), table.c.gone_at.is_(None)]
    if status is not None:
        rest.append(table.c[status].is_distinct_from(sa.literal_column("'Pending'")))
    return sa.and_(*rest)


def _inside(place: sa.Column[Any], ends: frozenset[str]) -> sa.ColumnElement[bool]:
    """Whether a row lies in a window; one without a place in time does."""
    inside = [
        *([place >= named(place, "since")] if "since" in ends else []),
        *([place < named(place, "until")] if "until" in ends else []),
    ]
    return sa.or_(sa.and_(*inside), place.is_(None))


@cache
def _keeping(resource: ResourceName, op: Ended) -> Statement:
    """Some rows of a connection, as they are, into the history."""
    table, history = RECORD_TABLES[resource], record_history.c
    names = (
        "tenant", "connection_id", "account_id", "resource", "key",
        "valid_from", "valid_until", "op", "raw", "digest", "gen",
    )  # fmt: skip

    def build(dialect: Dialect) -> Any:
        tenant = named(table.c.tenant, "of_tenant")
        connection = named(table.c.connection_id, "of_connection")
        now_said = (
            sa.select(
                table.c.tenant,
                table.c.connection_id,
                table.c.account_id,
                sa.literal(resource.value, history.resource.type),
                table.c.key,
                table.c.changed_at,
                named(history.valid_until, "at"),
                named(history.op, "ended_by"),
                sa.null() if op is Ended.REVIVED else table.c.raw,
                table.c.digest,
                named(history.gen, "by_gen"),
            )
            .where(table.c.gen <= named(history.gen, "by_gen"))
            .order_by(table.c.account_id, table.c.key)
        )
        if dialect.is_postgresql:
            kinds = dict.fromkeys(_PLACES, sa.Text())
            those = dialect.unnested("those", kinds, tenant=tenant, within={"connection": connection})
            accounts, keys = (those.c[name] for name in _PLACES)
            now_said = now_said.where(
                table.c.tenant == those.c.tenant,
                table.c.connection_id == those.c.connection,
                table.c.account_id == accounts,
                table.c.key == keys,
            )
        else:
            place = sa.tuple_(table.c.account_id, table.c.key)
            places: sa.BindParameter[Any] = sa.bindparam("places", expanding=True, required=True)
            now_said = now_said.where(table.c.tenant == tenant, table.c.connection_id == connection, place.in_(places))
        return sa.insert(record_history).from_select(names, now_said)

    return Statement(build)


_PLACES: Final = ("accounts", "keys")


@cache
def _marking(resource: ResourceName, columns: tuple[str, ...]) -> Statement:
    """Values of some rows of one account, by their keys; a row that a newer claim wrote is left alone."""

    def build(dialect: Dialect) -> Any:
        table = RECORD_TABLES[resource]
        gen = named(table.c.gen, "by_gen")
        return (
            sa.update(table)
            .where(
                dialect.among(table.c.key, "keys", tenant=named(table.c.tenant, "of_tenant"), within=_account(table)),
                table.c.gen <= gen,
            )
            .values({**{name: named(table.c[name], f"as_{name}") for name in columns}, "gen": gen})
        )

    return Statement(build)


_END_GRANTS: Final = Statement(
    lambda dialect: (
        sa.update(account_grant)
        .where(
            account_grant.c.consent_id == named(account_grant.c.consent_id, "of_consent"),
            dialect.among(account_grant.c.account_id, "account_ids", tenant=named(account_grant.c.tenant, "of_tenant")),
            account_grant.c.ended_at.is_(None),
        )
        .values(ended_at=named(account_grant.c.ended_at, "at"))
    )
)


_FORGET_IDENTIFIERS: Final = Statement(
    lambda dialect: sa.delete(account_identifier).where(
        dialect.among(
            account_identifier.c.account_id,
            "account_ids",
            tenant=named(account_identifier.c.tenant, "of_tenant"),
            within={
                account_identifier.c.connection_id: named(account_identifier.c.connection_id, "of_connection"),
            },
        ),
        account_identifier.c.gen <= named(account_identifier.c.gen, "by_gen"),
    )
)
"""Identifiers of some accounts, unless a newer claim wrote them."""


def _facts(table: sa.Table, instant: str | None, status: str | None) -> sa.Select[Any]:
    """What `Held` is made of."""
    return sa.select(
        table.c.account_id,
        table.c.key,
        table.c.digest,
        sa.null() if instant is None else table.c[instant],
        sa.null() if status is None else table.c[status],
        table.c.missed_since,
        table.c.gone_at.is_not(None),
    )


def _of_connection(table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        table.c.tenant == named(table.c.tenant, "of_tenant"),
        table.c.connection_id == named(table.c.connection_id, "of_connection"),
    )


def _account(table: sa.Table) -> dict[sa.Column[Any], sa.BindParameter[Any]]:
    """The account whose keys are looked up."""
    return {
        table.c.connection_id: named(table.c.connection_id, "of_connection"),
        table.c.account_id: named(table.c.account_id, "account"),
    }


def _one_of(column: sa.Column[Any], name: str, dialect: Dialect) -> sa.ColumnElement[bool]:
    """Whether a column is one of a list; on PostgreSQL the statement looks the same however long the list."""
    if dialect.is_postgresql:
        return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(sa.Text), required=True))
    return column.in_(sa.bindparam(name, expanding=True, required=True))


class Records:
    """The record tables, their histories and `account_grant` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    # -- what we hold ------------------------------------------------------------------------------------------------

    async def held(
        self, connection_id: ConsentId, wanted: Sequence[Wanted], keys: Sequence[WantedKeys] = ()
    ) -> Holdings:
        """The rows of some accounts, tombstones included, and those of some keys that we hold; all in one trip."""
        told = self.holding(connection_id, wanted, keys)
        return read_holdings(wanted, keys, await run_all(self._unit, told) if told else ())

    def holding(self, connection_id: ConsentId, wanted: Sequence[Wanted], keys: Sequence[WantedKeys]) -> list[Told]:
        """`held`, to be sent with others; `read_holdings` reads the answers."""
        place = self._place(connection_id)
        told: list[Told] = []
        for one in wanted:
            ends: dict[str, Any] = {}
            if one.instant is not None:
                column = RECORD_TABLES[one.resource].c[one.instant]
                given = (("since", one.since), ("until", one.until))
                ends = {name: _as_in(column, end) for name, end in given if end is not None}
            those = place | {"accounts": sorted(one.account_ids)} | ends
            narrowed = frozenset(ends)
            told.append((_holding(one.resource, one.instant, one.status, narrowed, one.keys_of_rest), those))
            if one.keys_of_rest:
                told.append((_resting(one.resource, one.instant, one.status, narrowed), those))
        for by_key in keys:
            statement = _holding_keys(by_key.resource, by_key.instant, by_key.status)
            told += [(statement, place | {"account": by_key.account_id, "keys": few}) for few in _few(by_key.keys)]
        return told

    def _place(self, connection_id: ConsentId) -> dict[str, Any]:
        return {"of_tenant": self._unit.tenant, "of_connection": connection_id}

    async def living(self, keys: Collection[RowKey]) -> list[RowKey]:
        """Those of some rows that are there, and whose connections can be read."""
        told: list[Told] = []
        asked: list[ResourceName] = []
        for resource in dict.fromkeys(one.resource for one in keys):
            asked.append(resource)
            rows = [
                {"connection_id": one.connection_id, "account_id": one.account_id, "key": one.key}
                for one in keys
                if one.resource is resource
            ]
            told.append((_living(resource), {"of_tenant": self._unit.tenant, "those": self._unit.dialect.rows(rows)}))
        answers = await run_all(self._unit, told) if told else []
        return [
            RowKey(ConsentId(connection_id), account_id, resource, key)
            for resource, answer in zip(asked, answers, strict=True)
            for connection_id, account_id, key in answer.rows
        ]

    # -- what we write -----------------------------------------------------------------------------------------------

    async def upsert(
        self,
        resource: ResourceName,
        connection_id: ConsentId,
        records: Mapping[str, Iterable[Record]],
        *,
        gen: int,
        at: datetime,
        seal: bool = False,
        new: Mapping[str, Collection[str]] | None = None,
        later: bool = False,
    ) -> int:
        """Insert or overwrite records by account; a row already written by a newer claim is left alone.

        A tombstone among them lives again; `first_seen_at` stays what it was.

        Args:
            records: account_id (`''` for none) → its records, one per key.
            new: account_id → keys of which this transaction knows that no row has them: nobody else may write rows of
                the connection until it ends.  They are appended, at half the cost for the database.
            seal: seal the raw items; those of `tables.SEALED_RAW` are sealed anyway.
            later: what is one statement may go with the commit (`UnitOfWork.with_commit`); it is not counted then.

        Returns:
            Rows written.
        """
        table = RECORD_TABLES[resource]
        typed = typed_columns(table)
        columns = (*_KEY, *typed, *_FRAME, "first_seen_at")
        tenant = self._unit.tenant
        sealed = seal or table.name in SEALED_RAW
        rows = [
            (
                tenant,
                connection_id,
                account_id,
                record.key,
                *self.stored_values(resource, connection_id, account_id, record, seal=seal),
                pack_raw(record.raw, self._sealer(table.name, connection_id, account_id, record.key, sealed=sealed)),
                record.digest,
                at,
                None,
                None,
                gen,
                at,
            )
            for account_id, those in records.items()
            for record in those
        ]
        rows.sort(key=_BY_KEY)
        connection, dialect = self._unit.connection, self._unit.dialect
        written = 0
        fresh = [row for row in rows if row[3] in new.get(row[2], ())] if new else []
        if len(fresh) >= COPY_FROM:
            written = await insert_many(connection, dialect, table, columns, fresh)
            rows = [row for row in rows if row[3] not in (new or {}).get(row[2], ())]
        replace = (*typed, *_FRAME)
        if later:
            await upsert_later(self._unit, table, columns, rows, key=_KEY, replace=replace)
            return written
        return written + await upsert_many(connection, dialect, table, columns, rows, key=_KEY, replace=replace)

    def kept_values(self, resource: ResourceName, values: Sequence[Any], *, seal: bool) -> tuple[Any, ...]:
        """Typed values without those that a row does not keep where raw items are sealed; sealed ones are plain."""
        _, hidden = _guarded(resource, seal=seal)
        return tuple(None if place in hidden else value for place, value in enumerate(values))

    def opened_values(self, resource: ResourceName, place: tuple[str, str, str], row: Sequence[Any]) -> tuple[Any, ...]:
        """The typed columns of a row, sealed ones as text: what `kept_values` is compared with.

        Raises:
            SealError: one does not open.
        """
        sealed, _ = _guarded(resource, seal=False)
        if not sealed:
            return tuple(row)
        names = typed_columns(RECORD_TABLES[resource])
        opened = self._opened_columns(RECORD_TABLES[resource].name, place, dict(zip(names, row, strict=True)))
        return tuple(opened.get(name, value) for name, value in zip(names, row, strict=True))

    def stored_values(
        self, resource: ResourceName, connection_id: str, account_id: str, record: Record, *, seal: bool
    ) -> tuple[Any, ...]:
        """A record's typed values as its row keeps them.

        Columns of `tables.SEALED_COLUMNS` are sealed for their row; personal ones that are not stay NULL where `seal`.
        """
        name, values = RECORD_TABLES[resource].name, record.columns
        sealed, hidden = _guarded(resource, seal=seal)
        if not sealed and not hidden:
            return values
        kept = list(values)
        for place in hidden:
            kept[place] = None
        row = f"{connection_id}|{account_id}|{record.key}"
        for place, column in sealed:
            if kept[place] is not None:
                kept[place] = seal_text(self._unit.keyring, kept[place], table=name, column=column, row=row)
        return tuple(kept)

    async def keep_identifiers(
        self,
        connection_id: ConsentId,
        identifiers: Mapping[str, Sequence[tuple[str | None, str | None, str | None]]],
        *,
        gen: int,
        seal: bool = False,
        held: Collection[str] = (),
    ) -> None:
        """Write the identifiers of accounts in place of those held.  May go with the commit.

        Args:
            identifiers: the bank's AccountId → (scheme, identification, name) of each, in the bank's order.
            seal: raw items are sealed by setting: what identifies stays NULL.
            held: accounts that may have identifiers already; of the others nothing is deleted.
        """
        old = sorted(set(held) & identifiers.keys())
        if old:
            await _FORGET_IDENTIFIERS.run(self._unit, **self._place(connection_id), account_ids=old, by_gen=gen)
        rows = [
            (self._unit.tenant, connection_id, account_id, position, scheme, *((None, None) if seal else rest), gen)
            for account_id, those in identifiers.items()
            for position, (scheme, *rest) in enumerate(those, start=1)
        ]
        rows.sort(key=itemgetter(2, 3))
        key = ("tenant", "connection_id", "account_id", "position")
        facts = ("scheme", "identification", "name", "gen")
        await upsert_later(self._unit, account_identifier, (*key, *facts), rows, key=key, replace=facts)

    async def identifiers(self, connection_id: ConsentId) -> dict[str, list[StoredIdentifier]]:
        """The identifiers of a connection's accounts, by the bank's AccountId, in the bank's order."""
        c = account_identifier.c
        query = (
            sa.select(c.account_id, c.scheme, c.identification, c.name)
            .where(c.tenant == self._unit.tenant, c.connection_id == connection_id)
            .order_by(c.account_id, c.position)
        )
        found: dict[str, list[StoredIdentifier]] = {}
        for account_id, *facts in await self._unit.connection.execute(query):
            found.setdefault(account_id, []).append(StoredIdentifier(*facts))
        return found

    async def keep_history(
        self,
        resource: ResourceName,
        connection_id: ConsentId,
        records: Mapping[str, Iterable[Record]],
        *,
        gen: int,
        at: datetime,
    ) -> None:
        """Add each record's value to its series, where the resource has one; the same instant again overwrites.

        A value without an instant has no place in a series and is left out.  May go with the commit.
        """
        if resource not in HISTORY:
            return
        table, series = HISTORY[resource]
        typed = typed_columns(RECORD_TABLES[resource])
        kept = [(index, name) for index, name in enumerate(typed) if name in table.c and name != series]
        place = typed.index(series)
        columns = (*_KEY, series, *(name for _, name in kept), "seen_at", "gen")
        rows = [
            (
                self._unit.tenant,
                connection_id,
                account_id,
                record.key,
                record.columns[place],
                *(record.columns[index] for index, _ in kept),
                at,
                gen,
            )
            for account_id, those in records.items()
            for record in those
            if record.columns[place] is not None
        ]
        rows.sort(key=_BY_KEY)
        replace = (*(name for _, name in kept), "seen_at", "gen")
        await upsert_later(self._unit, table, columns, rows, key=(*_KEY, series), replace=replace)

    def keeping_before(
        self,
        resource: ResourceName,
        connection_id: ConsentId,
        keys: Mapping[str, Collection[str]],
        *,
        op: Ended,
        gen: int,
        at: datetime,
    ) -> list[Told]:
        """Copy what rows say now into `record_history`, before they are overwritten in the same transaction.

        A row that a newer claim wrote is left out, as it will not be overwritten.

        Args:
            keys: account_id (`''` for none) → keys about to be modified, removed or revived.

        Returns:
            What to send; nothing is sent yet.
        """
        places = sorted((account_id, key) for account_id, those in keys.items() for key in those)
        frame = self._place(connection_id) | {"at": at, "ended_by": op.value, "by_gen": gen}
        told: list[Told] = []
        for start in range(0, len(places), KEYS_MAX):
            chunk = places[start : start + KEYS_MAX]
            those: dict[str, Any] = (
                {"accounts": [account_id for account_id, _ in chunk], "keys": [key for _, key in chunk]}
                if self._unit.dialect.is_postgresql
                else {"places": chunk}
            )
            told.append((_keeping(resource, op), frame | those))
        return told

    async def miss(
        self,
        resource: ResourceName,
        connection_id: ConsentId,
        keys: Mapping[str, Collection[str]],
        *,
        gen: int,
        at: datetime,
    ) -> int:
        """Note by account which keys a complete walk did not show: not proved gone yet."""
        return await self._mark(resource, connection_id, keys, {"missed_since": at}, gen=gen)

    async def find_again(
        self, resource: ResourceName, connection_id: ConsentId, keys: Mapping[str, Collection[str]], *, gen: int
    ) -> int:
        """Take back `miss` for keys that a walk showed again."""
        return await self._mark(resource, connection_id, keys, {"missed_since": None}, gen=gen)

    async def bury(
        self,
        resource: ResourceName,
        connection_id: ConsentId,
        keys: Mapping[str, Collection[str]],
        *,
        gen: int,
        at: datetime,
    ) -> int:
        """Mark by account which keys are proved absent: kept, and revived should they return."""
        return await self._mark(
            resource, connection_id, keys, {"gone_at": at, "changed_at": at, "missed_since": None}, gen=gen
        )

    # -- grants ------------------------------------------------------------------------------------------------------

    async def granted(self, consent_id: ConsentId) -> frozenset[AccountId]:
        """The accounts `/accounts` shows with this consent."""
        return read_granted(await GRANTED.run(self._unit, tenant=self._unit.tenant, consent_id=consent_id))

    async def grant(
        self, consent_id: ConsentId, connection_id: ConsentId, account_ids: Collection[str], *, at: datetime
    ) -> None:
        """The consent shows these accounts, perhaps again.  May go with the commit."""
        key = ("tenant", "consent_id", "account_id")
        rows = [
            (self._unit.tenant, consent_id, account_id, connection_id, at, None) for account_id in sorted(account_ids)
        ]
        columns = (*key, "connection_id", "granted_at", "ended_at")
        await upsert_later(self._unit, account_grant, columns, rows, key=key, replace=("ended_at",))

    async def end_grants(self, consent_id: ConsentId, account_ids: Collection[str], *, at: datetime) -> None:
        """The consent no longer shows these accounts: proved by a complete walk."""
        if account_ids:
            place = {"of_tenant": self._unit.tenant, "of_consent": consent_id, "account_ids": sorted(set(account_ids))}
            await _END_GRANTS.run(self._unit, **place, at=at)

    # -- for people and audits ---------------------------------------------------------------------------------------

    async def all_rows(
        self,
        connection_id: ConsentId | None = None,
        *,
        resources: Collection[ResourceName] = tuple(ResourceName),
        gone: bool = False,
    ) -> AsyncIterator[StoredRecord]:
        """Stream rows with their raw items opened, resource by resource, each in key order.

        Args:
            connection_id: only this connection's; `None` is the whole tenant.
            gone: tombstones too.

        Raises:
            SealError: a sealed item does not open.
        """
        for table in {
            RECORD_TABLES[name].name: RECORD_TABLES[name] for name in ResourceName if name in resources
        }.values():
            typed = typed_columns(table)
            async for row in self._in_chunks(table, connection_id, gone=gone):
                resource = resource_of(table, row["account_id"])
                if resource in resources:
                    yield self._opened(table, typed, resource, row)

    def opened(self, table: sa.Table, connection_id: str, account_id: str, key: str, *, raw: bytes) -> bytes:
        """The item of a row, exactly as the LFI sent it.

        Args:
            raw: as the row keeps it.

        Raises:
            SealError: it does not open here.
        """
        opener = self._opener(table.name, connection_id, account_id, key)
        return unpack_raw(raw, opener, sealed_only=table.name in SEALED_RAW)

    async def as_of(self, connection_id: ConsentId, resource: ResourceName, at: datetime) -> list[PastRecord]:
        """What the connection's rows of one resource said at an instant, by account and key.

        Says what we knew then: a row counts from the sync that brought it to the one that found it gone.

        Raises:
            SealError: a sealed item does not open.
        """
        table, history = RECORD_TABLES[resource], record_history
        mine = [table.c.tenant == self._unit.tenant, table.c.connection_id == connection_id]
        if resource in _PARTIES:
            mine.append((table.c.account_id == "") == (resource is ResourceName.PARTIES))
        still = sa.select(table.c.account_id, table.c.key, table.c.raw, table.c.changed_at, sa.null()).where(
            *mine, table.c.changed_at <= at, table.c.gone_at.is_(None)
        )
        ended = sa.select(
            history.c.account_id, history.c.key, history.c.raw, history.c.valid_from, history.c.valid_until
        ).where(
            history.c.tenant == self._unit.tenant,
            history.c.connection_id == connection_id,
            history.c.resource == resource.value,
            history.c.valid_from <= at,
            history.c.valid_until > at,
            history.c.raw.is_not(None),
        )
        found = []
        for query in (still, ended):
            for account_id, key, raw, since, until in await self._unit.connection.execute(query):
                item = self.opened(table, connection_id, account_id, key, raw=bytes(raw))
                found.append(PastRecord(account_id=account_id, key=key, item=item, valid_from=since, valid_until=until))
        return sorted(found, key=lambda one: (one.account_id, one.key))

    async def count(self, connection_id: ConsentId | None = None) -> dict[ResourceName, int]:
        """Live rows by resource."""
        counts = dict.fromkeys(ResourceName, 0)
        for table in {table.name: table for table in RECORD_TABLES.values()}.values():
            of_connection = (table.c.account_id == "").label("of_connection")
            query = (
                sa.select(of_connection, sa.func.count())
                .where(table.c.tenant == self._unit.tenant, table.c.gone_at.is_(None))
                .group_by(of_connection)
            )
            if connection_id is not None:
                query = query.where(table.c.connection_id == connection_id)
            for without_account, rows in await self._unit.connection.execute(query):
                counts[resource_of(table, "" if without_account else "account")] += rows
        return counts

    # ----------------------------------------------------------------------------------------------------------------

    async def _in_chunks(
        self, table: sa.Table, connection_id: ConsentId | None, *, gone: bool
    ) -> AsyncIterator[Mapping[Any, Any]]:
        """Rows in key order, `ROWS_MAX` at a time, each chunk behind the key of the last: no cursor stays open."""
        place = [table.c[name] for name in _KEY[1:]]
        query = sa.select(table).where(table.c.tenant == self._unit.tenant).order_by(*place).limit(ROWS_MAX)
        if connection_id is not None:
            query = query.where(table.c.connection_id == connection_id)
        if not gone:
            query = query.where(table.c.gone_at.is_(None))
        chunk = query
        while rows := (await self._unit.connection.execute(chunk)).mappings().all():
            for row in rows:
                yield row
            last = [rows[-1][column.name] for column in place]
            chunk = query.where(sa.tuple_(*place) > sa.tuple_(*(sa.literal(value) for value in last)))

    async def _mark(
        self,
        resource: ResourceName,
        connection_id: ConsentId,
        keys: Mapping[str, Collection[str]],
        values: Mapping[str, Any],
        *,
        gen: int,
    ) -> int:
        statement = _marking(resource, tuple(sorted(values)))
        frame = self._place(connection_id) | {"by_gen": gen} | {f"as_{name}": value for name, value in values.items()}
        marked = 0
        for account_id in sorted(keys):
            for few in _few(keys[account_id]):
                marked += (await statement.run(self._unit, **frame, account=account_id, keys=few)).rowcount
        return marked

    def _opened(
        self, table: sa.Table, typed: Sequence[str], resource: ResourceName, row: Mapping[Any, Any]
    ) -> StoredRecord:
        place = (row["connection_id"], row["account_id"], row["key"])
        return StoredRecord(
            connection_id=ConsentId(row["connection_id"]),
            account_id=row["account_id"],
            resource=resource,
            key=row["key"],
            item=self.opened(table, *place, raw=bytes(row["raw"])),
            columns={name: row[name] for name in typed} | self._opened_columns(table.name, place, row),
            first_seen_at=row["first_seen_at"],
            changed_at=row["changed_at"],
            missed_since=row["missed_since"],
            gone_at=row["gone_at"],
            gen=row["gen"],
        )

    def _opened_columns(self, table: str, place: tuple[str, str, str], row: Mapping[Any, Any]) -> dict[str, Any]:
        """The typed columns that are sealed, as text."""
        return {
            name: open_text(self._unit.keyring, bytes(row[name]), table=table, column=name, row="|".join(place))
            for name in SEALED_COLUMNS.get(table, ())
            if row[name] is not None
        }

    def _sealer(self, table: str, connection_id: str, account_id: str, key: str, *, sealed: bool) -> Seal | None:
        if not sealed:
            return None
        row = f"{connection_id}|{account_id}|{key}"
        return partial(self._unit.keyring.seal, table=table, column="raw", row=row)

    def _opener(self, table: str, connection_id: str, account_id: str, key: str) -> Seal:
        def unseal(sealed: bytes) -> bytes:
            row = f"{connection_id}|{account_id}|{key}"
            return self._unit.keyring.open(sealed, table=table, column="raw", row=row)

        return unseal


@cache
def _guarded(resource: ResourceName, *, seal: bool) -> tuple[tuple[tuple[int, str], ...], tuple[int, ...]]:
    """Places and names of typed columns that are sealed, and places of those that stay NULL."""
    table = RECORD_TABLES[resource]
    sealed = SEALED_COLUMNS.get(table.name, frozenset())
    hidden = PERSONAL.get(table.name, frozenset()) - sealed if seal else frozenset()
    names = list(enumerate(typed_columns(table)))
    return (
        tuple((place, name) for place, name in names if name in sealed),
        tuple(place for place, name in names if name in hidden),
    )


def read_granted(answer: Answer) -> frozenset[AccountId]:
    """What `GRANTED` gave."""
    return frozenset(AccountId(name) for (name,) in answer.rows)


def read_holdings(wanted: Sequence[Wanted], keys: Sequence[WantedKeys], answers: Iterable[Answer]) -> Holdings:
    """What `Records.holding` asked for."""
    found: Holdings = {(one.resource, one.account_id): {} for one in keys}
    given = iter(answers)
    for one in wanted:
        found |= {(one.resource, account_id): {} for account_id in one.account_ids}
        for account_id, key, *facts in next(given).rows:
            found[one.resource, account_id][key] = _held(*facts)
        if one.keys_of_rest:
            for account_id, resting in next(given).rows:
                found[one.resource, account_id].update(dict.fromkeys(resting, AT_REST))
    for by_key in keys:
        for _ in _few(by_key.keys):
            rows = next(given).rows
            found[by_key.resource, by_key.account_id].update((key, _held(*facts)) for _, key, *facts in rows)
    return found


def _few(keys: Collection[str]) -> list[list[str]]:
    """Keys in order, so many at a time as one statement asks for."""
    ordered = sorted(keys)
    return [ordered[start : start + KEYS_MAX] for start in range(0, len(ordered), KEYS_MAX)]


def _as_in(column: sa.Column[Any], moment: datetime) -> datetime | date:
    """An instant as a column compares it: a date's is its midnight in UTC."""
    return utc_date(moment) if isinstance(column.type, sa.Date) else moment


def _held(
    digest: bytes, instant: datetime | date | None, status: str | None, missed_since: datetime | None, gone: Any
) -> Held:
    if instant is not None and not isinstance(instant, datetime):
        instant = at_time(instant)
    return Held(bytes(digest), instant, status == "Pending", missed_since is not None, bool(gone), missed_since)
