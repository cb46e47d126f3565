"""One statement for many rows of parameters.

    _LOSE = Many({"of_consent": token.c.consent_id, "why": token.c.lost_cause}, lambda _, given: sa.update(token).where(
        token.c.tenant == given["tenant"], token.c.consent_id == given["of_consent"]).values(lost_cause=given["why"]),
        tenant=named(token.c.tenant, "of_tenant"))
    unit.with_commit(_LOSE.told(unit, [{"of_consent": "one", "why": "refused"}], of_tenant=unit.tenant))

For rows that hold bytes, which the one text of JSON of `Dialect.given` cannot.  On PostgreSQL they travel as one array
a column and are read with `unnest`: the statement looks the same however many they are, is prepared once, and its price
is paid once for all of them.  On SQLite, which has no arrays and no trips either, it is the same statement once for
each row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from syncworker.store.dialect import Dialect
from syncworker.store.statements import Statement, Told, run_all

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

Given = Mapping[str, sa.ColumnElement[Any]]
"""A row's values by name, as the statement speaks of them."""


class Many:
    """A statement about rows of named values, with further parameters that are the same for all (`named`)."""

    __slots__ = ("_statement", "_tenant", "_types")

    def __init__(
        self,
        values: Mapping[str, sa.Column[Any]],
        build: Callable[[Dialect, Given], Any],
        *,
        tenant: sa.BindParameter[Any],
    ) -> None:
        """Builds nothing yet.

        Args:
            values: the names of a row's values, each with a column of its type.
            build: makes the statement, which must use at least one of them, and `tenant` of the given ones.
            tenant: the parameter that names the tenant (`Dialect.keys`).
        """
        self._tenant = tenant
        self._types = {name: column.type for name, column in values.items()}
        self._statement = Statement(lambda dialect: build(dialect, self._given(dialect)))

    def told(self, unit: "UnitOfWork", rows: Sequence[Mapping[str, Any]], **shared: Any) -> list[Told]:
        """The statement with its rows, to be sent with others; no rows, no statement."""
        if not unit.dialect.is_postgresql:
            return [(self._statement, {**shared, **row}) for row in rows]
        return [(self._statement, shared | {name: [row[name] for row in rows] for name in self._types})] if rows else []

    async def rows(self, unit: "UnitOfWork", rows: Sequence[Mapping[str, Any]], **shared: Any) -> list[tuple[Any, ...]]:
        """Execute it, and give what it returns for all rows together.

        Raises:
            StoreUnavailableError, StoreRefusedError: as everywhere in the store.
        """
        answers = await run_all(unit, self.told(unit, rows, **shared))
        return [found for answer in answers for found in answer.rows]

    def _given(self, dialect: Dialect) -> Given:
        if not dialect.is_postgresql:
            given = {name: sa.bindparam(name, type_=type_, required=True) for name, type_ in self._types.items()}
            return {"tenant": self._tenant, **given}
        those = dialect.unnested("given", self._types, tenant=self._tenant)
        return {name: those.c[name] for name in ("tenant", *self._types)}
