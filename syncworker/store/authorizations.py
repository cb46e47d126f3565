"""Authorisations under way: what a redirect back from an LFI is checked against.

The `code_verifier` and the `request_uri` lie sealed and are destroyed with the first use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.tables import authorization

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAuthorization:
    """One pushed authorisation request and what became of it.

    Attributes:
        state, nonce: sent with the request; a redirect carries `state`, the ID token `nonce`.
        issuer: of the authorisation server that took the request; the redirect's `iss` must equal it.
        code_verifier: PKCE; `None` once used.
        request: `authorization_details` as sent.
        expires_at: end of the `request_uri`.
        outcome: what became of it; `None` while nothing did.
    """

    state: str = field(repr=False)
    consent_id: ConsentId
    lfi: Slug
    version: Version
    user_ref: str
    issuer: str
    nonce: str = field(repr=False)
    code_verifier: SecretStr | None
    request_uri: SecretStr | None
    request: Sequence[Mapping[str, Any]] = field(repr=False)
    created_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    outcome: str | None = None


class Authorizations:
    """The table `authorization`.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add(self, row: StoredAuthorization) -> None:
        """File a request whose `state` and ConsentId are new."""
        await self._unit.connection.execute(
            sa.insert(authorization).values(
                tenant=self._unit.tenant,
                state=row.state,
                consent_id=row.consent_id,
                lfi=row.lfi,
                version=row.version.value,
                user_ref=row.user_ref,
                issuer=row.issuer,
                nonce=row.nonce,
                code_verifier=self._seal("code_verifier", row.state, row.code_verifier),
                request_uri=self._seal("request_uri", row.state, row.request_uri),
                request=[dict(detail) for detail in row.request],
                created_at=row.created_at,
                expires_at=row.expires_at,
                used_at=row.used_at,
                outcome=row.outcome,
            )
        )

    async def get(self, state: str) -> StoredAuthorization | None:
        """The request with this `state`; `None` when it is not ours."""
        return await self._one(authorization.c.state == state)

    async def of(self, consent_id: ConsentId) -> StoredAuthorization | None:
        """The request that asked for this consent."""
        return await self._one(authorization.c.consent_id == consent_id)

    async def use(self, state: str, *, at: datetime, outcome: str) -> bool:
        """Use a request up, once: `False` when somebody else did.  Its secrets are destroyed with it."""
        done = await self._unit.connection.execute(
            sa.update(authorization)
            .where(
                authorization.c.tenant == self._unit.tenant,
                authorization.c.state == state,
                authorization.c.used_at.is_(None),
            )
            .values(used_at=at, outcome=outcome, code_verifier=None, request_uri=None)
        )
        return bool(done.rowcount)

    async def settle(self, state: str, *, outcome: str) -> None:
        """Write down what became of a used request."""
        await self._unit.connection.execute(
            sa.update(authorization)
            .where(authorization.c.tenant == self._unit.tenant, authorization.c.state == state)
            .values(outcome=outcome)
        )

    async def _one(self, condition: sa.ColumnElement[bool]) -> StoredAuthorization | None:
        query = sa.select(authorization).where(authorization.c.tenant == self._unit.tenant, condition)
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else self._stored(row)

    def _stored(self, row: Mapping[Any, Any]) -> StoredAuthorization:
        state = row["state"]
        return StoredAuthorization(
            state=state,
            consent_id=ConsentId(row["consent_id"]),
            lfi=Slug(row["lfi"]),
            version=Version(row["version"]),
            user_ref=row["user_ref"],
            issuer=row["issuer"],
            nonce=row["nonce"],
            code_verifier=self._open("code_verifier", state, row["code_verifier"]),
            request_uri=self._open("request_uri", state, row["request_uri"]),
            request=tuple(row["request"]),
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            used_at=row["used_at"],
            outcome=row["outcome"],
        )

    def _seal(self, column: str, state: str, secret: SecretStr | None) -> bytes | None:
        if secret is None:
            return None
        plain = secret.get_secret_value().encode()
        return self._unit.keyring.seal(plain, table=authorization.name, column=column, row=state)

    def _open(self, column: str, state: str, sealed: bytes | None) -> SecretStr | None:
        if sealed is None:
            return None
        plain = self._unit.keyring.open(sealed, table=authorization.name, column=column, row=state)
        return SecretStr(plain.decode())
