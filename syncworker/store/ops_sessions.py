"""Sessions of the dashboard: one row per browser that is signed in.

The browser holds a random id in its cookie, the table its SHA-256: a copy of the table opens nothing.  A session is
good while its API key is good and has a scope of the dashboard, and neither of its two ends has passed.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.standard.calendar import shifted
from syncworker.store.tables import api_key, ops_session

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork

ID_BYTES: Final = 32
SEEN_NOTED_EVERY: Final = timedelta(minutes=1)
"""`last_seen_at` is that exact: live refresh asks every ten seconds, and a write each time tells nothing more."""


@dataclass(frozen=True, slots=True)
class Ends:
    """When a session has ended.

    Attributes:
        idle: so long after its last request.
        absolute: so long after its beginning.
    """

    idle: timedelta
    absolute: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class OpsSession:
    """A session that is good.

    Attributes:
        key_id, key_name: the API key it was begun with.
        scopes: of that key, as they are now.
        ends_at: its absolute end.
        now: database time when it was found.
    """

    key_id: str
    key_name: str
    scopes: frozenset[str]
    created_at: datetime
    last_seen_at: datetime
    ends_at: datetime
    now: datetime

    @property
    def seen_long_ago(self) -> bool:
        """Whether `seen` is worth a write."""
        return self.now - self.last_seen_at >= SEEN_NOTED_EVERY


class OpsSessions:
    """The table `ops_session` of one tenant.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def begin(self, key_id: str, *, at: datetime, ends: Ends) -> SecretStr:
        """Begin a session and give its id, which is seen here and never again; takes away those that have ended."""
        await self._unit.connection.execute(
            sa.delete(ops_session).where(
                ops_session.c.tenant == self._unit.tenant,
                sa.or_(
                    ops_session.c.created_at <= shifted(at, -ends.absolute),
                    ops_session.c.last_seen_at <= shifted(at, -ends.idle),
                ),
            )
        )
        session_id = SecretStr(secrets.token_urlsafe(ID_BYTES))
        await self._unit.connection.execute(
            sa.insert(ops_session).values(
                tenant=self._unit.tenant,
                digest=_digest(session_id),
                key_id=key_id,
                created_at=at,
                last_seen_at=at,
            )
        )
        return session_id

    async def find(self, session_id: SecretStr, *, ends: Ends) -> OpsSession | None:
        """The session with this id; `None` when there is none, it has ended, or its key was revoked or has expired."""
        query = (
            sa.select(
                ops_session.c.key_id,
                api_key.c.name,
                api_key.c.scopes,
                ops_session.c.created_at,
                ops_session.c.last_seen_at,
                api_key.c.expires_at,
                api_key.c.revoked_at,
            )
            .join(api_key, sa.and_(api_key.c.tenant == ops_session.c.tenant, api_key.c.key_id == ops_session.c.key_id))
            .where(ops_session.c.tenant == self._unit.tenant, ops_session.c.digest == _digest(session_id))
        )
        row = (await self._unit.connection.execute(query)).first()
        if row is None:
            return None
        now = await self._unit.now()
        key_ended = row.revoked_at is not None or (row.expires_at is not None and now >= row.expires_at)
        ends_at = shifted(row.created_at, ends.absolute)
        if key_ended or now >= ends_at or now >= shifted(row.last_seen_at, ends.idle):
            return None
        return OpsSession(
            key_id=row.key_id,
            key_name=row.name,
            scopes=frozenset(row.scopes),
            created_at=row.created_at,
            last_seen_at=row.last_seen_at,
            ends_at=ends_at,
            now=now,
        )

    async def seen(self, session_id: SecretStr, *, at: datetime) -> None:
        """Move `last_seen_at`."""
        await self._unit.connection.execute(sa.update(ops_session).where(*self._is(session_id)).values(last_seen_at=at))

    async def end(self, session_id: SecretStr) -> None:
        """End a session; harmless the second time."""
        await self._unit.connection.execute(sa.delete(ops_session).where(*self._is(session_id)))

    def _is(self, session_id: SecretStr) -> tuple[sa.ColumnElement[bool], ...]:
        return ops_session.c.tenant == self._unit.tenant, ops_session.c.digest == _digest(session_id)


def _digest(session_id: SecretStr) -> bytes:
    return hashlib.sha256(session_id.get_secret_value().encode(errors="surrogatepass")).digest()
