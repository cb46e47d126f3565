"""What nears its end, who was told, and which accounts a successor shows.

A flag is one row for each (consent, threshold), written once: its key is what makes "exactly once" true, whoever runs
the work twice.  What a threshold was skipped for is kept in the same row.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from syncworker.standard.consents import IN_USE, Status
from syncworker.standard.values import AccountId, ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.statements import Statement, named
from syncworker.store.tables import account_grant, consent, expiry_flag

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

DECIDED: Final = (*IN_USE, Status.Revoked, Status.Expired, Status.Consumed)
"""States of a consent that somebody agreed to once; the newest of these speaks for its connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryFlag:
    """What became of one threshold of one consent.

    Attributes:
        days: so many days before `expires_at`.
        skipped: why nobody was told; `None`: flagged.
    """

    consent_id: ConsentId
    days: int
    expires_at: datetime
    decided_at: datetime
    skipped: str | None


_FLAGS: Final = Statement(
    lambda dialect: (
        sa.select(expiry_flag)
        .where(dialect.among(expiry_flag.c.consent_id, "consent_ids", tenant=named(expiry_flag.c.tenant)))
        .order_by(expiry_flag.c.consent_id, expiry_flag.c.days.desc())
    )
)


class Renewals:
    """The table `expiry_flag`, and what the consents' tables say of renewal.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    # -- flags --------------------------------------------------------------------------------------------------------

    async def decide(
        self, consent_id: ConsentId, decisions: Mapping[int, str | None], *, expires_at: datetime, at: datetime
    ) -> list[int]:
        """Write down what became of thresholds: flagged (`None`), or why they were skipped.

        Returns:
            Those nobody had decided before; the others stay as they are.
        """
        if not decisions:
            return []
        fresh = self._unit.dialect.upsert(expiry_flag, ("tenant", "consent_id", "days"), ())
        rows = [
            {
                "tenant": self._unit.tenant,
                "consent_id": consent_id,
                "days": days,
                "expires_at": expires_at,
                "decided_at": at,
                "skipped": skipped,
            }
            for days, skipped in sorted(decisions.items())
        ]
        added = await self._unit.connection.execute(fresh.values(rows).returning(expiry_flag.c.days))
        return sorted(added.scalars())

    async def flags(self, consent_ids: Collection[ConsentId]) -> dict[ConsentId, list[ExpiryFlag]]:
        """What was decided about the thresholds of these consents, the first to come first."""
        found: dict[ConsentId, list[ExpiryFlag]] = {one: [] for one in consent_ids}
        place = {"tenant": self._unit.tenant, "consent_ids": sorted(found)}
        for row in (await _FLAGS.run(self._unit, **place)).rows:
            flag = _flag(dict(zip(expiry_flag.c.keys(), row, strict=True)))
            found[flag.consent_id].append(flag)
        return found

    # -- what ends ----------------------------------------------------------------------------------------------------

    async def due(self, *, before: datetime) -> Sequence[StoredConsent]:
        """Consents whose user should be asked again, the soonest end first.

        The newest consent of its connection, in use and ending before an instant, or Expired, or in use without a
        grant.  One that was revoked is not among them: its user or the LFI did not want it any more.
        """
        lost = sa.and_(consent.c.status.in_(IN_USE), consent.c.needs_consent.is_not(None))
        ends = sa.and_(consent.c.status.in_(IN_USE), consent.c.expires_at < before)
        return await self._newest(sa.or_(ends, lost, consent.c.status == Status.Expired.value))

    async def ending(self, *, before: datetime) -> Sequence[StoredConsent]:
        """Consents in use that end before an instant and have no successor, the soonest end first."""
        return await self._newest(sa.and_(consent.c.status.in_(IN_USE), consent.c.expires_at < before))

    async def _newest(self, which: sa.ColumnElement[bool]) -> Sequence[StoredConsent]:
        newer = consent.alias("newer")
        succeeded = sa.exists().where(
            newer.c.tenant == consent.c.tenant,
            newer.c.connection_id == consent.c.connection_id,
            newer.c.status.in_(DECIDED),
            sa.or_(
                newer.c.created_at > consent.c.created_at,
                sa.and_(newer.c.created_at == consent.c.created_at, newer.c.expires_at > consent.c.expires_at),
            ),
        )
        query = (
            sa.select(consent.c.consent_id)
            .where(consent.c.tenant == self._unit.tenant, which, consent.c.revoke_asked_at.is_(None), ~succeeded)
            .order_by(consent.c.expires_at, consent.c.consent_id)
        )
        named = [ConsentId(one) for one in await self._unit.connection.scalars(query)]
        held: dict[ConsentId, StoredConsent] = {}
        for start in range(0, len(named), 500):  # SQLite takes so many parameters and no more
            held |= await self._unit.consents.get_many(named[start : start + 500])
        return [held[one] for one in named]

    # -- accounts of a successor --------------------------------------------------------------------------------------

    async def granted_before(self, held: StoredConsent) -> frozenset[AccountId]:
        """Accounts that older consents of a consent's connection still show."""
        query = sa.select(account_grant.c.account_id).where(*self._older_grants(held))
        return frozenset(AccountId(one) for one in await self._unit.connection.scalars(query))

    async def end_older_grants(self, held: StoredConsent, *, at: datetime) -> None:
        """From now on a consent shows the accounts of its connection, and no older one does."""
        await self._unit.connection.execute(
            sa.update(account_grant).where(*self._older_grants(held)).values(ended_at=at)
        )

    def _older_grants(self, held: StoredConsent) -> tuple[sa.ColumnElement[bool], ...]:
        older = sa.select(consent.c.consent_id).where(
            consent.c.tenant == self._unit.tenant,
            consent.c.connection_id == held.connection_id,
            consent.c.consent_id != held.consent_id,
            consent.c.created_at <= held.created_at,
        )
        return (
            account_grant.c.tenant == self._unit.tenant,
            account_grant.c.consent_id.in_(older),
            account_grant.c.ended_at.is_(None),
        )


def _flag(row: Mapping[Any, Any]) -> ExpiryFlag:
    return ExpiryFlag(
        consent_id=ConsentId(row["consent_id"]),
        days=row["days"],
        expires_at=row["expires_at"],
        decided_at=row["decided_at"],
        skipped=row["skipped"],
    )
