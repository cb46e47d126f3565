"""Read the views of `store.sql_views` as values: rows by whose they are, by conditions on columns, page by page.

In: the name of a view, conditions, an order, the place behind which the page begins.  Out: rows as mappings, with exact
`Decimal` amounts, aware instants and dates on both databases.  SQL readers and every door of ours thus read the same.

A page begins behind a row, not at a number: rows that come or go before it move nothing.
"""

import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.types import TypeDecorator

from syncworker.standard.resources import ResourceName
from syncworker.store.dialect import Dialect, Instant
from syncworker.store.freshness import COMPLETE, Ask, Known, asked, read_known, told_of
from syncworker.store.records import RowKey
from syncworker.store.sql_views import VIEWS, Kind, View
from syncworker.store.statements import Statement, Told, named, run_all
from syncworker.store.tables import JSON, RECORD_TABLES, account_reference, connection, transaction

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

BY_NAME: Final[Mapping[str, View]] = {view.name: view for view in VIEWS}


class Exact(TypeDecorator[Decimal]):
    """An exact amount of a view: `NUMERIC` on PostgreSQL, which its driver gives as `Decimal`; text on SQLite."""

    impl = sa.Text()
    cache_ok = True

    def process_result_value(self, value: Any, dialect: SQLAlchemyDialect) -> Decimal | None:
        return None if value is None else Decimal(value)


_TYPES: Final[Mapping[Kind, sa.types.TypeEngine[Any]]] = {
    Kind.TEXT: sa.Text(),
    Kind.AMOUNT: Exact(),
    Kind.E5: sa.BigInteger(),
    Kind.INTEGER: sa.BigInteger(),
    Kind.INSTANT: Instant(),
    Kind.DATE: sa.Date(),
    Kind.FLAG: sa.Boolean(),
    Kind.JSON: JSON,
}

_TABLES: Final[Mapping[str, sa.TableClause]] = {
    view.name: sa.table(view.name, *(sa.column(one.name, _TYPES[one.kind]) for one in view.columns)) for view in VIEWS
}


class Is(StrEnum):
    """How a column and a value compare."""

    EQUAL = "equal"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    BEFORE = "before"
    ONE_OF = "one_of"
    PRESENT = "present"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a column; all conditions of a question hold together."""

    column: str
    how: Is
    value: Any = None

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row meets it, as the database decides; for rows that come from another place."""
        held = row[self.column]
        match self.how:
            case Is.ABSENT:
                return held is None
            case Is.PRESENT:
                return held is not None
        if held is None:
            return False
        compare: Mapping[Is, Callable[[Any, Any], bool]] = {
            Is.EQUAL: operator.eq, Is.AT_LEAST: operator.ge, Is.AT_MOST: operator.le, Is.BEFORE: operator.lt,
            Is.ONE_OF: lambda one, those: one in those,
        }  # fmt: skip
        return compare[self.how](held, self.value)


@dataclass(frozen=True, slots=True)
class Containing:
    """Text within any of some columns; upper and lower case are one."""

    columns: tuple[str, ...]
    text: str

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a row meets it."""
        return any(self.text.lower() in (row[name] or "").lower() for name in self.columns)


@dataclass(frozen=True, slots=True)
class By:
    """One column of an order; no row that is asked for lacks a value."""

    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to read of a view.

    Attributes:
        order: its columns together are unique among the rows asked for, and none of them is ever NULL there.
        after: the values of the order's columns in the row behind which the page begins.
    """

    view: str
    where: tuple[Condition | Containing, ...] = ()
    order: tuple[By, ...] = (By("id"),)
    after: tuple[Any, ...] | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A connection: whose it is, and whether it may be read.

    Attributes:
        restricted_at: since when its rows may not be read; `None`: they may.
    """

    connection_id: str
    user_ref: str
    lfi: str
    restricted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """How far a connection's data has come.

    Attributes:
        initial: a sync went well, and every listing was seen whole once, or is refused by the LFI.
        history: of every account the transactions were read as far back as is wanted.
    """

    initial: bool
    history: bool


# -- statements for each shape of a question, compiled once ----------------------------------------------------------

SHAPES_MAX: Final = 512
"""Shapes of questions whose statements are kept."""


class _Shape(NamedTuple):
    """A question without its values."""

    view: str
    where: tuple[tuple[Is, str] | tuple[str, ...], ...]
    order: tuple[By, ...]
    behind: bool
    limit: int


def _shape(question: Question) -> _Shape:
    where = tuple(one.columns if isinstance(one, Containing) else (one.how, one.column) for one in question.where)
    return _Shape(question.view, where, question.order, question.after is not None, question.limit)


def _values(question: Question) -> dict[str, Any]:
    """The values of a question's parameters."""
    found: dict[str, Any] = {}
    for place, one in enumerate(question.where):
        if isinstance(one, Containing):
            found[f"of_{place}"] = _ESCAPED.sub(r"/\g<0>", one.text)
        elif one.how is Is.ONE_OF:
            found[f"of_{place}"] = sorted(set(one.value))
        elif one.how not in (Is.PRESENT, Is.ABSENT):
            found[f"of_{place}"] = one.value
    return found | {f"after_{place}": value for place, value in enumerate(question.after or ())}


_ESCAPED: Final = re.compile(r"[/%_]")
"""What means something in a pattern of `LIKE`, and the sign that takes the meaning away."""


@lru_cache(maxsize=SHAPES_MAX)
def _page(shape: _Shape) -> Statement:
    """The rows of one page.

    The limit is part of the text: PostgreSQL plans for a tenth of the rows where it is a parameter.
    """
    table = _TABLES[shape.view]

    def build(dialect: Dialect) -> Any:
        conditions = [_said(dialect, table, one, f"of_{place}") for place, one in enumerate(shape.where)]
        tenant: Any = table.c.tenant
        first, newest = table.c[shape.order[0].column], shape.order[0].descending
        if not dialect.is_postgresql and (Is.PRESENT, first.name) in shape.where:
            narrow = any((Is.EQUAL, name) in shape.where for name in _NARROW)
            conditions.append(_by_index(first, begin=newest and not narrow))
            tenant = tenant if narrow else tenant.concat("")  # or SQLite finds all rows of the tenant and sorts them
        query = (
            sa.select(*(column for column in table.c if column.name != "tenant"))
            .where(tenant == sa.bindparam("tenant", type_=sa.Text(), required=True), *conditions)
            .order_by(*(_ordered(table.c[by.column], by) for by in shape.order))
            .limit(sa.literal_column(str(shape.limit)))
        )
        return query.where(_behind(table, shape.order)) if shape.behind else query

    return Statement(build)


_BOOKED: Final = "booked_at"
_COMPARED: Final = frozenset({Is.AT_LEAST, Is.AT_MOST, Is.BEFORE})


@lru_cache(maxsize=SHAPES_MAX)
def _reach(bounds: tuple[tuple[int, Is], ...], *, behind: bool, rows: int) -> Statement:
    """The booking instant of the row so many behind the first, by the index of dates alone."""
    column = transaction.c.booking_date_time

    def build(dialect: Dialect) -> Any:
        conditions = [
            _compared(how, column, sa.bindparam(f"of_{place}", type_=column.type, required=True))
            for place, how in bounds
        ]
        if behind:
            conditions.append(column <= sa.bindparam("after", type_=column.type, required=True))
        return (
            sa.select(column)
            .where(transaction.c.tenant == named(transaction.c.tenant), column.is_not(None), *conditions)
            .order_by(column.desc())
            .limit(sa.literal_column("1"))
            .offset(sa.literal_column(str(rows)))
        )

    return Statement(build)


@lru_cache(maxsize=SHAPES_MAX)
def _rows_asked(view: str, columns: tuple[str, ...], by: Ask, equal: tuple[str, ...], limit: int) -> Statement:
    """Rows that have an account, of the connections asked for, in the order of `account_id` and the last column."""
    table = _TABLES[view]

    def build(dialect: Dialect) -> Any:
        return (
            sa.select(*(table.c[name] for name in columns))
            .where(
                asked(dialect, table.c.connection_id, by),
                table.c.account_id.is_not(None),
                *(table.c[name] == sa.bindparam(name, type_=sa.Text(), required=True) for name in equal),
            )
            .order_by(table.c.account_id, *((table.c.key,) if "key" in columns else ()))
            .limit(sa.literal_column(str(limit)))
        )

    return Statement(build)


class Reads:
    """The views of one tenant.  Nothing here writes."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def rows(self, question: Question) -> list[dict[str, Any]]:
        """The rows of one page, without `tenant`."""
        answer = await _page(_shape(question)).run(self._unit, tenant=self._unit.tenant, **_values(question))
        members = tuple(column_kinds(question.view))
        return [dict(zip(members, row, strict=True)) for row in answer.rows]

    async def reach(self, question: Question, *, rows: int) -> datetime | None:
        """How far back a page of transactions, newest first, looks when it looks at so many rows, whatever they hold.

        The booking instant of the row so many behind the beginning of the page; `None`: there are not so many.
        """
        bounds = [one for one in question.where if isinstance(one, Condition) and one.column == _BOOKED]
        shape = tuple((place, one.how) for place, one in enumerate(bounds) if one.how in _COMPARED)
        values = {f"of_{place}": bounds[place].value for place, _ in shape}
        if question.after is not None:
            values["after"] = question.after[0]
        told = (_reach(shape, behind=question.after is not None, rows=rows), {"tenant": self._unit.tenant, **values})
        (answer,) = await run_all(self._unit, [told])
        found = answer.rows[0][0] if answer.rows else None
        assert found is None or isinstance(found, datetime)
        return found

    async def known(self, connection_ids: Collection[str], resources: Collection[ResourceName]) -> Known:
        """What the freshness of some connections' listings is judged by, in one trip."""
        place = {"tenant": self._unit.tenant, Ask.CONNECTIONS.value: sorted(set(connection_ids))}
        return read_known(*await run_all(self._unit, told_of(Ask.CONNECTIONS, place, resources)))

    async def balances(
        self, given: Mapping[str, str], by: Ask, *, resources: Collection[ResourceName], limit: int
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Known]:
        """The latest balances, the accounts they could be of, and what freshness is judged by, in one trip.

        A balance is without `checked_at`: that of its listing in `Known` is the same.  An account has `account_id` and
        `currency` alone.

        Args:
            given: conditions on columns of both views; what `by` names is among them.
            limit: most rows of each.
        """
        place = {"tenant": self._unit.tenant, **given}
        equal = tuple(sorted(given))
        balance, account = (
            tuple(column_kinds("v_balance", without=("tenant", "checked_at"))),
            ("account_id", "currency"),
        )
        told = [
            *told_of(by, place, resources),
            (_rows_asked("v_balance", balance, by, equal, limit), place),
            (_rows_asked("v_account", account, by, equal, limit), place),
        ]
        footings, listed, rows, accounts = await run_all(self._unit, told)
        return (
            [dict(zip(balance, row, strict=True)) for row in rows.rows],
            [dict(zip(account, row, strict=True)) for row in accounts.rows],
            read_known(footings, listed),
        )

    async def connections(
        self, *, connection_id: str | None = None, user_ref: str | None = None, lfi: str | None = None, limit: int
    ) -> list[Held]:
        """Connections, those that may not be read too, as far as every condition given holds."""
        given = {"connection_id": connection_id, "user_ref": user_ref, "lfi": lfi}
        query = (
            sa.select(*(connection.c[one] for one in ("connection_id", "user_ref", "lfi", "restricted_at")))
            .where(
                connection.c.tenant == self._unit.tenant,
                *(connection.c[name] == value for name, value in given.items() if value is not None),
            )
            .order_by(connection.c.connection_id)
            .limit(limit)
        )
        return [Held(**dict(row)) for row in (await self._unit.connection.execute(query)).mappings()]

    async def connection_of_account(self, account_id: str) -> str | None:
        """The connection an account of ours belongs to; `None`: there is no such account."""
        query = sa.select(account_reference.c.connection_id).where(
            account_reference.c.account_id == account_id, account_reference.c.tenant == self._unit.tenant
        )
        return await self._unit.connection.scalar(query)

    async def settled_before(self) -> datetime | None:
        """Since when the oldest transaction that writes is open; `None`: none is, or the database does not say.

        PostgreSQL shows a role the sessions of its own role, and with `pg_read_all_stats` those of others.
        """
        if not self._unit.dialect.is_postgresql:
            return None
        query = sa.text(
            "SELECT min(xact_start) FROM pg_stat_activity"
            " WHERE backend_xid IS NOT NULL AND datname = current_database() AND pid <> pg_backend_pid()"
        )
        found = await self._unit.connection.scalar(query)
        assert found is None or isinstance(found, datetime)
        return found

    async def of_keys(self, keys: Collection[RowKey]) -> dict[RowKey, dict[str, Any]]:
        """Rows of views by the keys of their tables; those that no view shows are left out."""
        resources = list(dict.fromkeys(one.resource for one in keys))
        told: list[Told] = []
        for resource in resources:
            names = _named_by(resource)
            rows = [dict(zip(names, _place(one), strict=True)) for one in keys if one.resource is resource]
            told.append((_of_keys(resource), {"of_tenant": self._unit.tenant, "those": self._unit.dialect.rows(rows)}))
        answers = await run_all(self._unit, told) if told else []
        by_place = {(one.resource, *_place(one)): one for one in keys}
        found: dict[RowKey, dict[str, Any]] = {}
        for resource, answer in zip(resources, answers, strict=True):
            members = list(column_kinds(view_of(resource)))
            for values in answer.rows:
                row = dict(zip(members, values, strict=True))
                if row["account_id"] is None and resource is not ResourceName.PARTIES:
                    continue  # asked here: as a condition, PostgreSQL would begin with the accounts
                found[by_place[(resource, *(row[one] for one in _named_by(resource)))]] = row
        return found

    async def complete(self, connection_ids: Collection[str]) -> dict[str, Complete]:
        """How far the data of some connections has come; those that may not be read, or have none yet, are left out."""
        place = {"tenant": self._unit.tenant, "connection_ids": sorted(set(connection_ids))}
        answer = await COMPLETE.run(self._unit, **place)
        return {
            connection_id: Complete(initial=bool(seen and well), history=bool(seen and back and well))
            for connection_id, seen, back, well in answer.rows
        }

    async def items(self, view: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
        """The items that rows of a view were read from, exactly as the LFI sent them, by the rows' `id`.

        Rows whose item is not kept, as those of `v_balance_history`, are left out.

        Raises:
            SealError: a sealed item does not open.
        """
        table = _KEPT_IN.get(view)
        if table is None or not rows:
            return {}
        names = {_name(table, row): row["id"] for row in rows}
        columns = (table.c.connection_id, table.c.account_id, table.c.key)
        found: dict[str, bytes] = {}
        for some in _chunks(list(names)):
            query = sa.select(*columns, table.c.raw).where(
                table.c.tenant == self._unit.tenant, sa.tuple_(*columns).in_(some), table.c.gone_at.is_(None)
            )
            for connection_id, account_id, key, raw in await self._unit.connection.execute(query):
                item = self._unit.records.opened(table, connection_id, account_id, key, raw=bytes(raw))
                found[names[connection_id, account_id, key]] = item
        return found


def view_of(resource: ResourceName) -> str:
    """The view that shows rows of a resource."""
    return f"v_{RECORD_TABLES[resource].name}"


def _named_by(resource: ResourceName) -> tuple[str, ...]:
    """Columns of a resource's view that name a row."""
    match resource:
        case ResourceName.ACCOUNTS:
            return ("connection_id", "lfi_account_id")
        case ResourceName.PARTIES:  # of the connection: they have no account
            return ("connection_id", "key")
    return ("connection_id", "lfi_account_id", "key")


def _place(one: RowKey) -> tuple[str, ...]:
    """The values of these columns."""
    if one.resource in (ResourceName.ACCOUNTS, ResourceName.PARTIES):
        return one.connection_id, one.key
    return one.connection_id, one.account_id, one.key


@cache
def _of_keys(resource: ResourceName) -> Statement:
    """Rows of a resource's view by the columns that name them."""
    table = _TABLES[view_of(resource)]

    def build(dialect: Dialect) -> Any:
        kinds = {name: sa.Text() for name in _named_by(resource)}
        tenant = sa.bindparam("of_tenant", type_=sa.Text(), required=True)
        those = dialect.keys("those", kinds, tenant=tenant)
        rows = sa.select(*(column for column in table.c if column.name != "tenant"))
        if resource is ResourceName.PARTIES:  # those of accounts lie beside them
            rows = rows.where(table.c.lfi_account_id.is_(None))
        if not dialect.is_postgresql:
            place = sa.tuple_(*(table.c[name] for name in kinds))
            return rows.where(table.c.tenant == tenant, place.in_(sa.select(*(those.c[name] for name in kinds))))
        # each key by a query of its own, which a join could not be: without statistics it would begin elsewhere
        one = rows.where(*(table.c[name] == those.c[name] for name in ("tenant", *kinds))).offset(
            sa.literal_column("0")
        )
        each = one.lateral("each_row")
        return sa.select(each).select_from(those.join(each, sa.true()))

    return Statement(build)


KEYS_MAX: Final = 200
"""Rows looked up by key in one statement."""

_KEPT_IN: Final[Mapping[str, sa.Table]] = {f"v_{table.name}": table for table in RECORD_TABLES.values()}


def _name(table: sa.Table, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """The key of a view's row in its table."""
    if table.name == RECORD_TABLES[ResourceName.ACCOUNTS].name:
        return row["connection_id"], "", row["lfi_account_id"]
    return row["connection_id"], row["lfi_account_id"] or "", row["key"]


def _chunks(names: Sequence[tuple[str, str, str]]) -> Iterator[Sequence[tuple[str, str, str]]]:
    for begin in range(0, len(names), KEYS_MAX):
        yield names[begin : begin + KEYS_MAX]


def column_kinds(view: str, *, without: Collection[str] = ("tenant",)) -> Mapping[str, Kind]:
    """The columns of a view, in order."""
    return {one.name: one.kind for one in BY_NAME[view].columns if one.name not in without}


def _said(dialect: Dialect, table: sa.TableClause, one: tuple[Any, ...], name: str) -> sa.ColumnElement[bool]:
    """A condition of a shape; its value is the parameter of that name."""
    if not isinstance(one[0], Is):
        text = sa.bindparam(name, type_=sa.Text(), required=True)
        return sa.or_(*(table.c[column].icontains(text, escape="/") for column in one))
    how, column = one[0], table.c[one[1]]
    found: sa.ColumnElement[bool]
    match how:
        case Is.ONE_OF:
            found = dialect.is_one_of(column, name)
        case Is.PRESENT:
            found = column.is_not(None)
        case Is.ABSENT:
            found = column.is_(None)
        case _:
            found = _compared(how, column, sa.bindparam(name, type_=column.type, required=True))
    return found


_NARROW: Final = ("user_ref", "connection_id", "account_id")
"""Columns that name so few rows that these are found first and sorted."""


def _by_index(column: sa.ColumnElement[Any], *, begin: bool) -> sa.ColumnElement[bool]:
    """For SQLite: that a text is there, said so that an index on it may give the order.

    It takes no range of an index for `IS NOT NULL` of a table that is joined from the left.

    Args:
        begin: with this index, as few rows are expected of it; SQLite would read and sort every row of the tenant.
    """
    there: sa.ColumnElement[bool] = column > sa.literal_column("''")
    if not begin:
        return there
    few: sa.ColumnElement[bool] = sa.func.likelihood(there, sa.literal_column("0.00001"))  # a BOOLEAN would be "= 1"
    return few


def _compared(how: Is, column: sa.ColumnElement[Any], value: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    found: sa.ColumnElement[bool]
    match how:
        case Is.AT_LEAST:
            found = column >= value
        case Is.AT_MOST:
            found = column <= value
        case Is.BEFORE:
            found = column < value
        case _:
            found = column == value
    return found


def _ordered(column: sa.ColumnElement[Any], by: By) -> sa.ColumnElement[Any]:
    return column.desc() if by.descending else column.asc()


def _behind(table: sa.TableClause, order: Sequence[By]) -> sa.ColumnElement[bool]:
    """Rows that come after one in an order; its values are the parameters `after_0`, `after_1` …

    The first column's bound stands alone as well: of alternatives no planner makes a range of an index.
    """
    values = [
        sa.bindparam(f"after_{place}", type_=table.c[by.column].type, required=True) for place, by in enumerate(order)
    ]
    ways, equal = [], list[sa.ColumnElement[bool]]()
    for by, value in zip(order, values, strict=True):
        column = table.c[by.column]
        ways.append(sa.and_(*equal, column < value if by.descending else column > value))
        equal.append(column == value)
    first, value = table.c[order[0].column], values[0]
    return sa.and_(first <= value if order[0].descending else first >= value, sa.or_(*ways))
