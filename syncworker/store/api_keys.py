"""API keys of the product: who may ask the web process for what.

A key is `swk_<key id>_<secret>`.  The secret is 256 random bits, shown once; kept is the SHA-256 of the whole key.  A
slow hash is for secrets people choose: nobody guesses 256 bits at any speed, and a slow one would hand every stranger a
way to burn our CPU.  The digest covers the tenant as well, so that a row copied to another tenant opens nothing there.
"""

import hashlib
import hmac
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.errors import RequestError
from syncworker.store.statements import Statement, named
from syncworker.store.tables import api_key

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

PREFIX: Final = "swk"
"""Opens every key: scanners of repositories and logs look for such a word."""

KEY_ID_BYTES: Final = 6
SECRET_BYTES: Final = 32
KEY_LENGTH_MAX: Final = 128
NAME_LENGTH: Final = 64
USE_NOTED_EVERY: Final = timedelta(minutes=1)
"""`last_used_at` is that exact: a write with every request would cost more than it tells."""

_NOBODY: Final = bytes(32)


class Scope(StrEnum):
    """What a key opens."""

    CONSENTS_READ = "consents:read"
    """Look at consents and authorisations."""
    CONSENTS_WRITE = "consents:write"
    """Ask for consents; pause, reactivate, stop and renew connections."""
    CONNECTIONS_READ = "connections:read"
    """Look at connections, IBANs masked."""
    CONNECTIONS_IBAN = "connections:iban"
    """See whole IBANs there."""
    DATA_READ = "data:read"
    """Read accounts, balances, transactions and all other data; personal data null, account numbers masked."""
    DATA_PERSONAL = "data:personal"
    """See names, account numbers and counterparties there."""
    DATA_RAW = "data:raw"
    """See items as the LFI sent them; includes `data:personal`."""
    CHANGES_READ = "changes:read"
    """Read the feed of changes; its items with `data:read` alone."""
    WEBHOOKS_WRITE = "webhooks:write"
    """Look at webhook endpoints, add, change and remove them."""
    REFRESHES_WRITE = "refreshes:write"
    """Ask for data to be read now, and see how that ends."""
    OPS_READ = "ops:read"
    """Sign in to the dashboard and look; it shows no customer data beyond ids, counts, codes and instants."""
    OPS_WRITE = "ops:write"
    """Act there as well: sync, pause, resume, revoke, unpark, replay, redeliver; includes `ops:read`."""
    METRICS_READ = "metrics:read"
    """Scrape metrics: counts and times of the whole tenant, and nothing of a customer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """One key, without its secret.

    Attributes:
        name: who uses it, in the operator's words.
        expires_at: refused from then on; `None` is never.
        last_used_at: to the minute; `None` before the first use.
    """

    key_id: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    def good_at(self, now: datetime) -> bool:
        """Whether it opens anything."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def could_be_key(key: SecretStr) -> bool:
    """Whether a text has the form of a key; no other is worth a look into the database."""
    text = key.get_secret_value()
    if len(text) > KEY_LENGTH_MAX or not text.isascii() or text.count("_") < 2:
        return False
    prefix, key_id, _secret = text.split("_", 2)
    return prefix == PREFIX and key_id.isalnum()


_NOW: Final = "now"
_COLUMNS: Final = (*api_key.c.keys(), _NOW)
_FIND: Final = Statement(
    lambda dialect: sa.select(*api_key.c, dialect.now().label(_NOW)).where(
        api_key.c.tenant == named(api_key.c.tenant), api_key.c.key_id == named(api_key.c.key_id)
    )
)


class APIKeys:
    """The table `api_key` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def create(
        self, name: str, scopes: Collection[Scope], *, at: datetime, expires_at: datetime | None = None
    ) -> tuple[StoredKey, SecretStr]:
        """Make a key; the text beside it is seen here and never again.

        Raises:
            RequestError: no scope, or a name nobody can read.
        """
        if not scopes:
            raise RequestError(f"scope: give at least one of {', '.join(Scope)}")
        if not 1 <= len(name) <= NAME_LENGTH or not name.isprintable():
            raise RequestError(f"name: must be 1 to {NAME_LENGTH} printable characters")
        key_id = secrets.token_hex(KEY_ID_BYTES)
        key = SecretStr(f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}")
        stored = StoredKey(
            key_id=key_id,
            name=name,
            scopes=frozenset(one.value for one in scopes),
            created_at=at,
            expires_at=expires_at,
        )
        await self._unit.connection.execute(
            sa.insert(api_key).values(
                tenant=self._unit.tenant,
                key_id=key_id,
                name=name,
                scopes=sorted(stored.scopes),
                digest=self._digest(key),
                created_at=at,
                expires_at=expires_at,
            )
        )
        return stored, key

    async def find(self, key: SecretStr) -> StoredKey | None:
        """The key of this tenant that this is; `None` when it is none, was revoked or has expired.

        Compares in constant time, and as long for an id nobody has.
        """
        found = await self.find_now(key)
        return None if found is None else found[0]

    async def find_now(self, key: SecretStr) -> tuple[StoredKey, datetime] | None:
        """`find`, and database time, in one trip."""
        if not could_be_key(key):
            return None
        key_id = key.get_secret_value().split("_")[1]
        answer = await _FIND.run(self._unit, tenant=self._unit.tenant, key_id=key_id)
        row = dict(zip(_COLUMNS, answer.rows[0], strict=True)) if answer.rows else None
        known = hmac.compare_digest(self._digest(key), bytes(row["digest"]) if row else _NOBODY)
        if row is None or not known:
            return None
        stored, now = _stored(row), row[_NOW]
        return (stored, now) if stored.good_at(now) else None

    async def note_use(self, key_id: str, *, at: datetime) -> None:
        """Move `last_used_at`."""
        await self._unit.connection.execute(self._update(key_id).values(last_used_at=at))

    async def revoke(self, key_id: str, *, at: datetime) -> bool:
        """Take a key back, for good; `False` when there is none of that id.  Harmless the second time."""
        first = sa.func.coalesce(api_key.c.revoked_at, sa.bindparam("at", at, type_=api_key.c.revoked_at.type))
        done = await self._unit.connection.execute(self._update(key_id).values(revoked_at=first))
        return bool(done.rowcount)

    async def list(self) -> Sequence[StoredKey]:
        """Every key there ever was, oldest first."""
        query = sa.select(api_key).where(api_key.c.tenant == self._unit.tenant)
        rows = await self._unit.connection.execute(query.order_by(api_key.c.created_at, api_key.c.key_id))
        return [_stored(row) for row in rows.mappings()]

    def _digest(self, key: SecretStr) -> bytes:
        named = f"{len(self._unit.tenant)}:{self._unit.tenant}:{key.get_secret_value()}"
        return hashlib.sha256(named.encode()).digest()

    def _update(self, key_id: str) -> sa.Update:
        return sa.update(api_key).where(api_key.c.tenant == self._unit.tenant, api_key.c.key_id == key_id)


def _stored(row: Mapping[Any, Any]) -> StoredKey:
    return StoredKey(
        key_id=row["key_id"],
        name=row["name"],
        scopes=frozenset(row["scopes"]),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
        revoked_at=row["revoked_at"],
    )
