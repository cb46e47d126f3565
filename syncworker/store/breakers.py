"""The breakers of every LFI: which class of calls is kept back, since when, why, and until when.

One row per LFI and class that ever tripped; what the columns mean for a call decides `schedule.breaker`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.operations import OperationClass
from syncworker.standard.values import Slug
from syncworker.store.statements import Answer, Statement, named
from syncworker.store.tables import breaker

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """One breaker.

    Attributes:
        opened_at: first trip since it was last closed.
        until: no such call before this; then one trial.
        trips: in a row.
        reason: stable code of what tripped it last.
        closed_at: when a trial succeeded; `None` while calls are kept back.
    """

    lfi: str
    operations: OperationClass
    opened_at: datetime
    until: datetime
    trips: int
    reason: str
    closed_at: datetime | None


_BREAKER: Final = tuple(Breaker.__slots__)
_KEY: Final = ("tenant", "lfi", "operations")


ALL: Final = Statement(
    lambda _: (
        sa.select(*(breaker.c[name] for name in _BREAKER))
        .where(breaker.c.tenant == named(breaker.c.tenant))
        .order_by(breaker.c.lfi, breaker.c.operations)
    )
)
"""Every breaker that ever tripped."""


class Breakers:
    """The breakers of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def get(self, lfi: Slug, operations: OperationClass, *, lock: bool = False) -> Breaker | None:
        """The breaker of one class at one LFI; `None` when it never tripped.

        Args:
            lock: keep the row from other writers until this transaction ends.
        """
        query = self._select().where(breaker.c.lfi == lfi, breaker.c.operations == operations.value)
        if lock and self._unit.dialect.is_postgresql:
            query = query.with_for_update()
        row = (await self._unit.connection.execute(query)).first()
        return None if row is None else _breaker(row._mapping)  # noqa: SLF001  SQLAlchemy's documented name

    async def all(self) -> Mapping[tuple[Slug, OperationClass], Breaker]:
        """Every breaker that ever tripped, by LFI and class."""
        answer = await ALL.run(self._unit, tenant=self._unit.tenant)
        return read_all(answer)

    async def put(self, one: Breaker) -> None:
        """Keep a breaker as it is now."""
        values = {name: getattr(one, name) for name in _BREAKER} | {"operations": one.operations.value}
        replaced = tuple(name for name in _BREAKER if name not in _KEY)
        await self._unit.connection.execute(
            self._unit.dialect.upsert(breaker, _KEY, replaced), {"tenant": self._unit.tenant, **values}
        )

    async def try_now(self, lfi: Slug) -> int:
        """End the wait of an LFI's open breakers: the next call of each class is the trial.  Says how many waited."""
        now = self._unit.dialect.now()
        waiting = sa.and_(
            breaker.c.tenant == self._unit.tenant,
            breaker.c.lfi == lfi,
            breaker.c.closed_at.is_(None),
            breaker.c.until > now,
        )
        tried = await self._unit.connection.execute(
            sa.update(breaker).where(waiting).values(until=now).returning(breaker.c.operations)
        )
        return len(tried.all())

    def _select(self) -> sa.Select[tuple[object, ...]]:
        return sa.select(*(breaker.c[name] for name in _BREAKER)).where(breaker.c.tenant == self._unit.tenant)


def read_all(answer: Answer) -> Mapping[tuple[Slug, OperationClass], Breaker]:
    """What `ALL` gave."""
    found = [_breaker(dict(zip(_BREAKER, row, strict=True))) for row in answer.rows]
    return {(Slug(one.lfi), one.operations): one for one in found}


def _breaker(values: Mapping[Any, Any]) -> Breaker:
    return Breaker(**{**values, "operations": OperationClass(values["operations"])})
