"""Consents and connections written straight into the tables."""

from datetime import datetime, timedelta
from typing import Any

from syncworker.standard.consents import Status
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.consents import Connection, StoredConsent
from syncworker.store.unit_of_work import UnitOfWork

LFI = Slug("noor")


def held(consent_id: str, connection_id: str, *, now: datetime, **changes: Any) -> StoredConsent:
    """An Authorized consent for accounts and balances that ends in ninety days."""
    facts: dict[str, Any] = {
        "consent_id": ConsentId(consent_id),
        "connection_id": ConsentId(connection_id),
        "base_consent_id": None if consent_id == connection_id else ConsentId(connection_id),
        "lfi": LFI,
        "user_ref": "customer-1",
        "version": Version.V2_1,
        "status": Status.Authorized.value,
        "status_updated_at": now,
        "status_seen_at": now,
        "permissions": ("ReadAccountsBasic", "ReadBalances"),
        "expires_at": now + timedelta(days=90),
        "user_type": "Retail",
        "purpose": "AccountAggregation",
        "created_at": now,
    }
    return StoredConsent(**facts | changes)


async def file(unit: UnitOfWork, *consents: StoredConsent) -> None:
    """Write consents with their connections, and what `add` leaves to later moves."""
    for one in consents:
        await unit.consents.add_connection(
            Connection(connection_id=one.connection_id, lfi=one.lfi, user_ref=one.user_ref, created_at=one.created_at)
        )
        await unit.consents.add(one)
        if one.revoke_asked_at is not None:
            await unit.consents.order_revocation(one.consent_id, by="TPP", at=one.revoke_asked_at)
