"""How far the clocks of hosts, LFIs and the database are apart, as last measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from syncworker.store.tables import clock_offset

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

DATABASE: Final = "database:"
"""The database among the peers; no LFI's slug holds a colon."""

OFFSET_MAX: Final = timedelta(seconds=5)
"""A clock that is further off is a fault: assertions are refused as not yet valid or expired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockOffset:
    """What one comparison said.

    Attributes:
        host: whose clock was compared.
        peer: with whose: an LFI's slug, or `DATABASE`.
        offset: the peer's clock less the host's: positive when the host is behind.
        within: how far `offset` may be from the truth, by the way it was measured.
    """

    host: str
    peer: str
    offset: timedelta
    within: timedelta
    measured_at: datetime

    @property
    def wrong(self) -> bool:
        """Whether the two are certainly more than `OFFSET_MAX` apart."""
        return abs(self.offset) - self.within > OFFSET_MAX


class Clocks:
    """The comparisons of one tenant's hosts, the newest of each pair."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def keep(self, measured: Sequence[ClockOffset]) -> None:
        """Keep comparisons; each takes the place of the one before of the same pair."""
        if not measured:
            return
        rows = [
            {
                "tenant": self._unit.tenant,
                "host": one.host,
                "peer": one.peer,
                "offset_ms": one.offset // timedelta(milliseconds=1),
                "within_ms": one.within // timedelta(milliseconds=1),
                "measured_at": one.measured_at,
            }
            for one in sorted(measured, key=lambda one: (one.host, one.peer))
        ]
        columns = ("offset_ms", "within_ms", "measured_at")
        statement = self._unit.dialect.upsert(clock_offset, ("tenant", "host", "peer"), columns)
        await self._unit.connection.execute(statement, rows)

    async def list(self, *, since: datetime | None = None) -> Sequence[ClockOffset]:
        """The newest comparison of each pair, by host and peer.

        Args:
            since: leaves out what was measured before, as by hosts that are gone.
        """
        query = sa.select(clock_offset).where(clock_offset.c.tenant == self._unit.tenant)
        if since is not None:
            query = query.where(clock_offset.c.measured_at >= since)
        rows = await self._unit.connection.execute(query.order_by(clock_offset.c.host, clock_offset.c.peer))
        return [
            ClockOffset(
                host=row.host,
                peer=row.peer,
                offset=timedelta(milliseconds=row.offset_ms),
                within=timedelta(milliseconds=row.within_ms),
                measured_at=row.measured_at,
            )
            for row in rows
        ]
