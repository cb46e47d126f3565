"""Random keys of one tenant, one for each purpose, made once and kept for ever, sealed by the key ring.

What a key was used for must come out the same in years, also once the key ring has a newer key: the sealed value is
sealed anew then (`reseal`), and the key inside stays.
"""

import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from syncworker.store.tables import tenant_key

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

KEY_BYTES: Final = 32


class Purpose(StrEnum):
    """What a key of a tenant is for; no key serves two."""

    IDENTITY = "identity"
    """HMAC of an account's IBAN: `account_references`."""
    PSEUDONYM = "pseudonym"
    """Pseudonyms in exports that are to tell of no person."""


class TenantKeys:
    """The keys of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit
        self._made: dict[Purpose, bytes] = {}  # in this transaction, which may still be undone

    async def key(self, purpose: Purpose) -> bytes:
        """The key for a purpose; the first that asks makes it.

        Two that make it at once end with the same key: the database keeps one row, and both read it back.

        Returns:
            32 bytes.

        Raises:
            SealError: it is there and does not open.
            SettingsError: this process has no key ring.
        """
        known = self._made.get(purpose) or self._unit.keys_known.get(purpose)
        if known is not None:
            return known
        sealed = await self._sealed(purpose)
        if sealed is not None:
            opened = self._unit.keys_known[purpose] = self._opened(purpose, sealed)
            return opened
        fresh = self._unit.dialect.insert(tenant_key).values(
            tenant=self._unit.tenant,
            purpose=purpose.value,
            key=self._seal(purpose, secrets.token_bytes(KEY_BYTES)),
            created_at=await self._unit.now(),
        )
        await self._unit.connection.execute(fresh.on_conflict_do_nothing(index_elements=["tenant", "purpose"]))
        sealed = await self._sealed(purpose)
        assert sealed is not None
        self._made[purpose] = self._opened(purpose, sealed)
        return self._made[purpose]

    async def reseal(self) -> int:
        """Seal anew what was sealed with another key of the ring than the newest; the keys inside stay.

        Returns:
            How many were.

        Raises:
            as `key`.
        """
        done = 0
        for purpose in Purpose:
            sealed = await self._sealed(purpose)
            if sealed is None or not self._unit.keyring.needs_rotation(sealed):
                continue
            renewed = (
                sa.update(tenant_key)
                .where(self._is(purpose), tenant_key.c.key == sealed)
                .values(key=self._seal(purpose, self._opened(purpose, sealed)))
            )
            done += (await self._unit.connection.execute(renewed)).rowcount
        return done

    async def _sealed(self, purpose: Purpose) -> bytes | None:
        sealed = await self._unit.connection.scalar(sa.select(tenant_key.c.key).where(self._is(purpose)))
        return None if sealed is None else bytes(sealed)

    def _is(self, purpose: Purpose) -> sa.ColumnElement[bool]:
        return sa.and_(tenant_key.c.tenant == self._unit.tenant, tenant_key.c.purpose == purpose.value)

    def _seal(self, purpose: Purpose, key: bytes) -> bytes:
        return self._unit.keyring.seal(key, table="tenant_key", column="key", row=purpose.value)

    def _opened(self, purpose: Purpose, sealed: bytes) -> bytes:
        return self._unit.keyring.open(sealed, table="tenant_key", column="key", row=purpose.value)
