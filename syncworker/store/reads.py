"""Read the views of `store.sql_views` as values: rows by whose they are, by conditions on columns, page by page.

In: the name of a view, conditions, an order, the place behind which the page begins.  Out: rows as mappings, with exact
`Decimal` amounts, aware instants and dates on both databases.  SQL readers and every door of ours thus read the same.

A page begins behind a row, not at a number: rows that come or go before it move nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.types import TypeDecorator

from syncworker.store.dialect import Instant
from syncworker.store.sql_views import VIEWS, Kind, View
from syncworker.store.tables import JSON, account_reference, connection

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

BY_NAME: Final[Mapping[str, View]] = {view.name: view for view in VIEWS}


class Exact(TypeDecorator[Decimal]):
    """An exact amount of a view: `NUMERIC` on PostgreSQL, text on SQLite."""

    impl = sa.Numeric(None, None)
    cache_ok = True

    def load_dialect_impl(self, dialect: SQLAlchemyDialect) -> Any:
        return dialect.type_descriptor(sa.Text() if dialect.name == "sqlite" else sa.Numeric(None, None))

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


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on a column; all conditions of a question hold together."""

    column: str
    how: Is
    value: Any


@dataclass(frozen=True, slots=True)
class Containing:
    """Text within any of some columns; upper and lower case are one."""

    columns: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class By:
    """One column of an order; rows without a value come last."""

    column: str
    descending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to read of a view.

    Attributes:
        order: the last column is unique among the rows asked for, and never NULL.
        after: the values of the order's columns in the row behind which the page begins.
    """

    view: str
    where: tuple[Condition | Containing, ...] = ()
    order: tuple[By, ...] = (By("id"),)
    after: tuple[Any, ...] | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Restricted:
    """Whether a connection is there, and may be read.

    Attributes:
        at: since when its rows may not be read; `None`: they may.
    """

    connection_id: str
    at: datetime | None


class Reads:
    """The views of one tenant.  Nothing here writes."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def rows(self, question: Question) -> list[dict[str, Any]]:
        """The rows of one page, without `tenant`."""
        table = _TABLES[question.view]
        query = (
            sa.select(*(column for column in table.c if column.name != "tenant"))
            .where(table.c.tenant == self._unit.tenant, *(_said(table, one) for one in question.where))
            .order_by(*(_ordered(table.c[by.column], by) for by in question.order))
            .limit(question.limit)
        )
        if question.after is not None:
            query = query.where(_behind(table, question.order, question.after))
        return [dict(row) for row in (await self._unit.connection.execute(query)).mappings()]

    async def connections(self, *, connection_id: str) -> Restricted | None:
        """Whether a connection may be read; `None`: there is none."""
        query = sa.select(connection.c.connection_id, connection.c.restricted_at).where(
            connection.c.tenant == self._unit.tenant, connection.c.connection_id == connection_id
        )
        row = (await self._unit.connection.execute(query)).first()
        return None if row is None else Restricted(row[0], row[1])

    async def connection_of_account(self, account_id: str) -> str | None:
        """The connection an account of ours belongs to; `None`: there is no such account."""
        query = sa.select(account_reference.c.connection_id).where(
            account_reference.c.account_id == account_id, account_reference.c.tenant == self._unit.tenant
        )
        return await self._unit.connection.scalar(query)


def column_kinds(view: str, *, without: Collection[str] = ("tenant",)) -> Mapping[str, Kind]:
    """The columns of a view, in order."""
    return {one.name: one.kind for one in BY_NAME[view].columns if one.name not in without}


def _said(table: sa.TableClause, one: Condition | Containing) -> sa.ColumnElement[bool]:
    if isinstance(one, Containing):
        return sa.or_(*(table.c[name].icontains(one.text, autoescape=True) for name in one.columns))
    column: sa.ColumnElement[Any] = table.c[one.column]
    found: sa.ColumnElement[bool]
    match one.how:
        case Is.EQUAL:
            found = column == one.value
        case Is.AT_LEAST:
            found = column >= one.value
        case Is.AT_MOST:
            found = column <= one.value
        case Is.BEFORE:
            found = column < one.value
        case Is.ONE_OF:
            found = column.in_(list(one.value))
    return found


def _ordered(column: sa.ColumnElement[Any], by: By) -> sa.ColumnElement[Any]:
    return column.desc().nulls_last() if by.descending else column.asc().nulls_last()


def _behind(table: sa.TableClause, order: Sequence[By], after: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Rows that come after one in an order."""
    ways, equal = [], list[sa.ColumnElement[bool]]()
    for by, value in zip(order, after, strict=True):
        column = table.c[by.column]
        if value is not None:
            beyond = column < value if by.descending else column > value
            ways.append(sa.and_(*equal, sa.or_(beyond, column.is_(None))))
        equal.append(column.is_(None) if value is None else column == value)
    return sa.or_(*ways) if ways else sa.false()
