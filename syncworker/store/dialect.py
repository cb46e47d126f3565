"""What differs between PostgreSQL and SQLite, in one place.

PostgreSQL is the production database, SQLite the embedded default.  Both keep the same schema: instants come back
aware and in UTC, money comes back as `Decimal`, exactly as it went in.

"Database time" is `Dialect.now()`: the database's own clock in production, a bound instant where a test moves time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.types import TypeDecorator

from syncworker.clock import Clock
from syncworker.standard.calendar import as_utc, read_iso
from syncworker.standard.json_text import instant_text, json_bytes
from syncworker.standard.values import MONEY_PLACES

_SCALE: Final = Decimal(10) ** MONEY_PLACES


class Instant(TypeDecorator[datetime]):
    """An aware instant: `timestamptz` on PostgreSQL; on SQLite UTC text of fixed width, whose order is time's."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: SQLAlchemyDialect) -> Any:
        return dialect.type_descriptor(sa.String(27) if dialect.name == "sqlite" else sa.DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: SQLAlchemyDialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("instant: has no time zone")
        return instant_text(value) if dialect.name == "sqlite" else as_utc(value)

    def bind_column(self, values: Sequence[datetime | None], dialect: SQLAlchemyDialect) -> Sequence[Any]:
        """Many at once, as `process_bind_param`; PostgreSQL's driver takes an aware instant of any offset as it is."""
        if dialect.name == "sqlite":
            return [self.process_bind_param(value, dialect) for value in values]
        if any(value.tzinfo is None for value in values if value is not None):
            raise ValueError("instant: has no time zone")
        return values

    def process_result_value(self, value: Any, dialect: SQLAlchemyDialect) -> datetime | None:
        if value is None:
            return None
        moment = read_iso(value) if isinstance(value, str) else value
        return as_utc(moment)


class Money(TypeDecorator[Decimal]):
    """An exact amount: `NUMERIC(18, 5)` on PostgreSQL, an integer of 10⁻⁵ on SQLite."""

    impl = sa.Numeric(18, MONEY_PLACES)
    cache_ok = True

    def load_dialect_impl(self, dialect: SQLAlchemyDialect) -> Any:
        return dialect.type_descriptor(sa.BigInteger() if dialect.name == "sqlite" else sa.Numeric(18, MONEY_PLACES))

    def process_bind_param(self, value: Decimal | None, dialect: SQLAlchemyDialect) -> Any:
        if value is None:
            return None
        scaled = value * _SCALE
        if scaled != scaled.to_integral_value():  # PostgreSQL would round it in silence
            raise ValueError("Amount: more than 5 digits after the point")
        if dialect.name != "sqlite":
            return value
        return int(scaled)

    def bind_column(self, values: Sequence[Decimal | None], dialect: SQLAlchemyDialect) -> Sequence[Any]:
        """Many at once, as `process_bind_param`."""
        return [self.process_bind_param(value, dialect) for value in values]

    def process_result_value(self, value: Any, dialect: SQLAlchemyDialect) -> Decimal | None:
        if value is None:
            return None
        return Decimal(value).scaleb(-MONEY_PLACES) if dialect.name == "sqlite" else Decimal(value)


@dataclass(frozen=True, slots=True)
class Dialect:
    """One of the two databases.

    Attributes:
        name: `postgresql` or `sqlite`.
        clock: `None` in production (the database's own clock); a test's clock otherwise.
        shares_sessions: a pooler gives us a session of PostgreSQL for one transaction only: nothing is left in it.
    """

    name: str
    clock: Clock | None = None
    shares_sessions: bool = False

    @property
    def is_postgresql(self) -> bool:
        return self.name == "postgresql"

    def now(self) -> sa.ColumnElement[datetime]:
        """Database time as one SQL expression of type `Instant`."""
        if self.clock is not None:
            return sa.literal(self.clock.now(), Instant())
        if self.is_postgresql:
            return sa.type_coerce(sa.func.clock_timestamp(), Instant())
        return sa.type_coerce(sa.func.strftime("%Y-%m-%dT%H:%M:%f000Z", "now"), Instant())

    def after(self, delay: timedelta) -> sa.ColumnElement[datetime]:
        """Database time plus a delay."""
        if self.clock is not None:
            return sa.literal(self.clock.now() + delay, Instant())
        if self.is_postgresql:
            return sa.type_coerce(sa.func.clock_timestamp() + sa.literal(delay, sa.Interval()), Instant())
        shift = f"{delay.total_seconds():+.3f} seconds"
        return sa.type_coerce(sa.func.strftime("%Y-%m-%dT%H:%M:%f000Z", "now", shift), Instant())

    def insert(self, table: sa.Table) -> Any:
        """An `INSERT` that knows `ON CONFLICT`."""
        return postgresql.insert(table) if self.is_postgresql else sqlite.insert(table)

    def upsert(self, table: sa.Table, key: Sequence[str], replace: Sequence[str], *, where: Any = None) -> Any:
        """`INSERT … ON CONFLICT (key) DO UPDATE SET replace = excluded.replace [WHERE …]`."""
        fresh = self.insert(table)
        if not replace:
            return fresh.on_conflict_do_nothing(index_elements=list(key))
        return fresh.on_conflict_do_update(
            index_elements=list(key), set_={name: fresh.excluded[name] for name in replace}, where=where
        )

    def among(
        self,
        column: sa.Column[Any],
        name: str,
        *,
        tenant: sa.BindParameter[Any],
        within: Mapping[sa.Column[Any], sa.BindParameter[Any]] | None = None,
    ) -> sa.ColumnElement[bool]:
        """Whether a row is the tenant's and a column is one of the values of one parameter, a list, each value once.

        Args:
            within: other columns of the key and the one value of each.  They come with the keys as the tenant does, so
                that PostgreSQL cannot begin with all rows that have these values and look for each among the keys.
        """
        listed = sa.bindparam(name, type_=sa.JSON(), required=True)
        if self.is_postgresql:
            texts = sa.func.json_array_elements_text(listed).column_valued("listed")
            return self.one_of(column, sa.select(sa.cast(texts, column.type)), tenant=tenant, within=within)
        few = sa.select(sa.func.json_each(listed).table_valued("value").c.value)
        return self.one_of(column, few, tenant=tenant, within=within)

    def one_of(
        self,
        column: sa.Column[Any],
        few: sa.Select[Any],
        *,
        tenant: sa.BindParameter[Any],
        within: Mapping[sa.Column[Any], sa.BindParameter[Any]] | None = None,
    ) -> sa.ColumnElement[bool]:
        """Whether a row is the tenant's and a column is one of the values of a query, which gives each value once.

        Args:
            within: as in `among`.
        """
        places = within or {}
        if not self.is_postgresql:
            others = (place == value for place, value in places.items())
            return sa.and_(column.table.c.tenant == tenant, *others, column.in_(few))
        each = few.subquery()
        given = [sa.cast(value, sa.Text()).label(f"of_{place.name}") for place, value in places.items()]
        named: list[sa.ColumnElement[Any]] = [_of_tenant(tenant), *given, each.c[0].label("value")]
        values = _looked_up(sa.select(*named)).subquery()
        others = (place == values.c[f"of_{place.name}"] for place in places)
        owner = column.table.c.tenant
        alone = column.primary_key and not owner.primary_key
        return sa.and_((self.aside(owner) if alone else owner) == values.c.tenant, *others, column == values.c.value)

    def is_one_of(self, column: sa.ColumnElement[str], name: str) -> sa.ColumnElement[bool]:
        """Whether a text is one of the values of one parameter, a list: a condition that looks nothing up."""
        if self.is_postgresql:
            return column == sa.any_(sa.bindparam(name, type_=postgresql.ARRAY(sa.Text()), required=True))
        listed = sa.bindparam(name, type_=sa.JSON(), required=True)
        return column.in_(sa.select(sa.func.json_each(listed).table_valued("value").c.value))

    def keys(
        self, name: str, columns: Mapping[str, sa.types.TypeEngine[Any]], *, tenant: sa.BindParameter[Any]
    ) -> sa.FromClause:
        """`given` rows that name rows of a table, to join it with; `tenant` is a column too.

        The join must name the table's tenant by this column: see `_looked_up`.
        """
        rows = self.given("rows_of_" + name, columns, parameter=name)
        query = sa.select(_of_tenant(tenant), *rows.c)
        return (_looked_up(query) if self.is_postgresql else query).subquery(name)

    def given(
        self, name: str, columns: Mapping[str, sa.types.TypeEngine[Any]], *, parameter: str | None = None
    ) -> sa.FromClause:
        """Rows that a run gives as one parameter (`rows`), however many they are, to select from.

        One text of JSON costs this process a third of what as many arrays cost, and the server the same.
        """
        listed = sa.bindparam(parameter or name, type_=sa.Text(), required=True)
        if self.is_postgresql:
            typed = [sa.column(column, kind) for column, kind in columns.items()]
            rows = sa.func.json_to_recordset(sa.cast(listed, postgresql.JSON())).table_valued(*typed)
            return rows.render_derived(name=name, with_types=True)
        each = sa.func.json_each(listed).table_valued("value")
        members = [
            sa.type_coerce(sa.func.json_extract(each.c.value, f"$.{column}"), kind).label(column)
            for column, kind in columns.items()
        ]
        return sa.select(*members).select_from(each).subquery(name)

    def unnested(
        self,
        name: str,
        columns: Mapping[str, sa.types.TypeEngine[Any]],
        *,
        tenant: sa.BindParameter[Any],
        within: Mapping[str, sa.BindParameter[Any]] | None = None,
    ) -> sa.FromClause:
        """`keys` for rows that hold bytes, as one array a column (PostgreSQL).

        Args:
            within: columns that have one value for all rows, as in `among`.
        """
        arrays = (sa.bindparam(one, type_=postgresql.ARRAY(kind), required=True) for one, kind in columns.items())
        typed = (sa.column(one, kind) for one, kind in columns.items())
        rows = sa.func.unnest(*arrays).table_valued(*typed).render_derived(name="rows_of_" + name)
        given = (sa.cast(value, sa.Text()).label(place) for place, value in (within or {}).items())
        named: list[sa.ColumnElement[Any]] = [_of_tenant(tenant), *given, *rows.c]
        return _looked_up(sa.select(*named)).subquery(name)

    def aside(self, column: sa.Column[str]) -> sa.ColumnElement[str]:
        """A tenant, or a word, as a condition that no index answers, for a table whose key does not open with it.

        Without statistics PostgreSQL expects one row in two hundred of a tenant, and reads all of them by an index that
        opens with it sooner than look up a few keys.
        """
        return column.concat("") if self.is_postgresql else column

    def beside(self, column: sa.Column[str]) -> sa.ColumnElement[str]:
        """A column as a condition beside a key, a range or an order that another index serves.

        SQLite without statistics prefers equality with a tenant or a status over any range, and such a column with a
        range over a key of two: it reads all rows of the tenant, or of the status, and sorts them.
        """
        return column if self.is_postgresql else column.concat("")

    def rows(self, rows: Sequence[Any]) -> str:
        """Rows for `given`, as mappings or dataclasses: text, numbers, truths, aware instants or JSON by column."""
        if not self.is_postgresql:
            rows = [
                {name: instant_text(value) if isinstance(value, datetime) else value for name, value in row.items()}
                for row in rows
            ]
        return json_text(rows)

    def gathered(self, column: sa.Column[str]) -> sa.ColumnElement[Any]:
        """All values of a group as one list, in no order."""
        if self.is_postgresql:
            return sa.func.array_agg(column)
        return sa.type_coerce(sa.func.json_group_array(column), sa.JSON())

    def order_of(self, instant: sa.Column[datetime]) -> sa.ColumnElement[Any]:
        """What sorts as an instant does, and costs less to read."""
        as_sent = sa.func.date_part("epoch", instant) if self.is_postgresql else instant
        return sa.type_coerce(as_sent, sa.types.NullType())

    def update_locked(self, table: sa.Table, chosen: sa.Select[Any]) -> sa.Update:
        """An `UPDATE` of the rows a query chooses, but of none that another transaction holds.

        PostgreSQL finds its way back to what it just locked by the row's place and not through the primary key: that is
        a third of a claim.  A place is good inside one statement, for a row that is locked.  A row that changed between
        the statement's beginning and the lock is left for the next time.

        Args:
            chosen: of this table alone; its columns do not matter.
        """
        place = sa.literal_column(f"{table.name}.ctid") if self.is_postgresql else table.c.id
        rows = self.skip_locked(table, chosen.with_only_columns(place.label("place"))).cte("chosen")
        places = sa.select(rows.c.place)
        condition = (
            place == sa.any_(sa.func.array(places.scalar_subquery())) if self.is_postgresql else place.in_(places)
        )
        return sa.update(table).where(condition)

    def skip_locked(self, table: sa.Table, query: sa.Select[Any]) -> sa.Select[Any]:
        """Lock the chosen rows of a table, but none that another transaction holds; SQLite has one writer anyway."""
        return query.with_for_update(of=table, skip_locked=True) if self.is_postgresql else query


def _of_tenant(tenant: sa.BindParameter[Any]) -> sa.Label[str]:
    return sa.cast(tenant, sa.Text()).label("tenant")


def _looked_up(keys: sa.Select[Any]) -> sa.Select[Any]:
    """Rows of keys, of which PostgreSQL expects one: it looks up each of them by its index, however many they are.

    A function that gives rows is taken for a hundred of them, and a list for ten.  Against a table it believes to be
    small, or knows nothing of, that is reason enough to read the whole table once; the plan is kept, the table grows,
    and the end of one claim reads it all.  "The first row and all that tie with it" is every row where the order is no
    order, and its estimate is one row, whatever the statistics say.

    The tenant comes with the keys for the same reason.  As a condition on its own PostgreSQL could begin with all rows
    of the tenant, which it believes to be few as long as it has no statistics, and look for each among the keys.
    """
    return expecting_one(keys)


def expecting_one(rows: sa.Select[Any]) -> sa.Select[Any]:
    """The same rows, of which PostgreSQL expects one."""
    return rows.order_by(sa.cast(sa.null(), sa.Integer())).fetch(1, with_ties=True)


def json_text(value: Any) -> str:
    """Rows as one text of JSON; instants as aware ones are written."""
    return json_bytes(value).decode()
