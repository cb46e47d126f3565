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

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect as SQLAlchemyDialect
from sqlalchemy.types import TypeDecorator

from syncworker.clock import Clock
from syncworker.standard.calendar import as_utc, read_iso
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
        return _instant_text(value) if dialect.name == "sqlite" else as_utc(value)

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

    def among(self, column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
        """Whether a column is one of the values that a run gives as one parameter, a list, however many they are."""
        listed = sa.bindparam(name, type_=sa.JSON(), required=True)
        if self.is_postgresql:
            texts = sa.func.json_array_elements_text(listed).column_valued("listed")
            return self.one_of(column, sa.select(sa.cast(texts, column.type)))
        return self.one_of(column, sa.select(sa.func.json_each(listed).table_valued("value").c.value))

    def one_of(self, column: sa.Column[Any], few: sa.Select[Any]) -> sa.ColumnElement[bool]:
        """Whether a column is one of the few values a query gives, which is run once.

        As `IN (SELECT …)`, PostgreSQL may run it again for every row, as long as it takes the table for small.
        """
        return column == sa.any_(sa.func.array(few.scalar_subquery())) if self.is_postgresql else column.in_(few)

    def given(self, name: str, columns: Mapping[str, sa.types.TypeEngine[Any]]) -> sa.FromClause:
        """Rows that a run gives as one parameter (`rows`), however many they are, to select from.

        One text of JSON costs this process a third of what as many arrays cost, and the server the same.
        """
        listed = sa.bindparam(name, type_=sa.Text(), required=True)
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

    def rows(self, rows: Sequence[Any]) -> str:
        """Rows for `given`, as mappings or dataclasses: text, numbers, truths, aware instants or JSON by column."""
        if not self.is_postgresql:
            rows = [
                {name: _instant_text(value) if isinstance(value, datetime) else value for name, value in row.items()}
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
        rows = self.skip_locked(chosen.with_only_columns(place.label("place"))).cte("chosen")
        places = sa.select(rows.c.place)
        condition = (
            place == sa.any_(sa.func.array(places.scalar_subquery())) if self.is_postgresql else place.in_(places)
        )
        return sa.update(table).where(condition)

    def skip_locked(self, query: sa.Select[Any]) -> sa.Select[Any]:
        """Lock the chosen rows and pass over those another transaction holds; SQLite has one writer anyway."""
        return query.with_for_update(skip_locked=True) if self.is_postgresql else query


def json_text(value: Any) -> str:
    """Rows as one text of JSON; instants as aware ones are written."""
    return msgspec.json.encode(value, enc_hook=_instant_of_another_kind).decode()


def _instant_of_another_kind(value: Any) -> str:
    """An instant of a subclass, which the encoder does not take for one."""
    if isinstance(value, datetime):
        return _instant_text(value)
    raise NotImplementedError(f"rows: {type(value).__name__} is nothing JSON can say")


def _instant_text(moment: datetime) -> str:
    """UTC text of fixed width; a tenth of the time `strftime` takes."""
    return f"{as_utc(moment).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
