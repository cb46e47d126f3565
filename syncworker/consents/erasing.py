"""Destroy what a connection's ended consents brought, and keep the proof that it was destroyed.

Only a connection whose consents have all ended can be erased: data another consent still covers is not ours to take.
The record left in `audit` has counts per table, never content.

Source: CBUAE Open Finance Regulation, Art. 13 and 22; `reliability.md` rule 41.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from syncworker.errors import RequestError
from syncworker.standard.calendar import shifted
from syncworker.standard.values import ConsentId
from syncworker.store.consents import StoredConsent
from syncworker.store.erasure import DataClass
from syncworker.store.unit_of_work import UnitOfWork

ERASED: Final = "data_erased"
"""Audit: payload of a connection was destroyed; its facts are rows by table."""

Retention = Mapping[DataClass, timedelta | None]
"""How long each class of data stays after its connection's last consent; `None`: until a person erases it."""


async def erasable(unit: UnitOfWork, some_id: ConsentId) -> ConsentId:
    """The connection of a ConsentId or root, whose consents have all ended.

    Raises:
        RequestError: nothing of that id is held, or a consent of it still lives.
    """
    held = await unit.consents.get(some_id)
    connection_id = some_id if held is None else held.connection_id
    consents = await unit.consents.chain_locked(connection_id, closed=True)  # none comes to life before the commit
    if not consents:
        raise RequestError(f"consent_id: nothing is held under {some_id!r}; `syncworker consents list` shows what is")
    living = [one for one in consents if not one.terminal]
    if living:
        raise RequestError(
            f"consent_id: {living[0].consent_id} is {living[0].status}; revoke it first (`syncworker consents revoke`)"
        )
    return connection_id


async def erase(unit: UnitOfWork, connection_id: ConsentId, *, of: DataClass | None = None) -> Mapping[str, int]:
    """Destroy payload of a connection that `erasable` gave, and write down that it was; commits nothing."""
    counts = await unit.erasure.erase(connection_id, of=of)
    facts = {"rows": dict(counts), "class": of.value if of else "all"}
    await unit.consents.note(ERASED, subject=connection_id, facts=facts, at=await unit.now())
    return counts


async def keep_no_longer(unit: UnitOfWork, *, held: StoredConsent, retention: Retention) -> datetime | None:
    """Destroy what has stayed long enough after the end of a connection; commits nothing.

    Returns:
        When more of it will have; `None` when nothing will, by itself.
    """
    consents = await unit.consents.find(connection_id=held.connection_id)
    if any(not one.terminal for one in consents):
        return None
    ended_at = max(one.ended_at or one.status_seen_at for one in consents)
    now = await unit.now()
    later: list[datetime] = []
    for kind, stays in retention.items():
        if stays is None:
            continue
        if now < shifted(ended_at, stays):
            later.append(shifted(ended_at, stays))
        elif await unit.erasure.count(held.connection_id, of=kind):
            await erase(unit, held.connection_id, of=kind)
    return min(later, default=None)
