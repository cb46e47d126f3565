"""Authorisations under way: what a redirect back from an LFI is checked against, and those only intended yet.

The `code_verifier` and the `request_uri` lie sealed; they and the `nonce` are destroyed with the first use, and when
the redirect would come too late.

An *intent* says what a user is to be asked for.  Its request is pushed when the user opens it, since a `request_uri`
lives for minutes (trap 9); opened again, it is pushed again, so one intent may lead to several authorisations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from pydantic import SecretStr

from syncworker.standard.calendar import read_day, read_iso
from syncworker.standard.consents import ConsentRequest, Purpose, UserType, read_on_behalf_of
from syncworker.standard.values import ConsentId, Slug
from syncworker.standard.versions import Version
from syncworker.store.tables import authorization, authorization_intent, consent

if TYPE_CHECKING:
    from syncworker.store.unit_of_work import UnitOfWork


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAuthorization:
    """One pushed authorisation request and what became of it.

    Attributes:
        state, nonce: sent with the request; a redirect carries `state`, the ID token `nonce` (empty once used).
        issuer: of the authorisation server that took the request; the redirect's `iss` must equal it.
        code_verifier: PKCE; `None` once used.
        request: `authorization_details` as sent.
        expires_at: end of the `request_uri`.
        outcome: what became of it; `None` while nothing did.
        reason: the LFI's words about that, masked.
        intent_id: the intent whose opening pushed it, if one did.
        connection_id: the connection its consent joins; `None`: the one its root names.
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
    reason: str | None = field(default=None, repr=False)
    intent_id: str | None = field(default=None, repr=False)
    connection_id: ConsentId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredIntent:
    """What a user is to be asked for, once they open it.

    Attributes:
        intent_id: random; whoever knows it may open it, so it is not logged.
        user_ref: `None`: the root ConsentId will stand for the user.
        version: `None`: the highest there is when it is opened.
        request: its `consent_id` is a fresh one each time the row is read, as each push needs.
        return_url: where the product wants its user back.
        expires_at: the link's end.
        opened: how many requests were pushed for it.
        consent_id: of the request pushed last.
        completed_at: when tokens came home.
    """

    intent_id: str = field(repr=False)
    lfi: Slug
    user_ref: str | None
    version: Version | None
    request: ConsentRequest
    return_url: str | None = field(default=None, repr=False)
    created_at: datetime
    expires_at: datetime
    opened: int = 0
    consent_id: ConsentId | None = None
    completed_at: datetime | None = None


_NO_SECRETS: Final[Mapping[str, Any]] = {"code_verifier": None, "request_uri": None, "nonce": ""}


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
                intent_id=row.intent_id,
                connection_id=row.connection_id,
            )
        )

    async def get(self, state: str) -> StoredAuthorization | None:
        """The request with this `state`; `None` when it is not ours."""
        return await self._one(authorization.c.state == state)

    async def of(self, consent_id: ConsentId) -> StoredAuthorization | None:
        """The request that asked for this consent."""
        return await self._one(authorization.c.consent_id == consent_id)

    async def use(self, state: str, *, at: datetime, outcome: str, reason: str = "") -> bool:
        """Use a request up, once: `False` when somebody else did.  Its secrets are destroyed with it."""
        done = await self._unit.connection.execute(
            sa.update(authorization)
            .where(
                authorization.c.tenant == self._unit.tenant,
                authorization.c.state == state,
                authorization.c.used_at.is_(None),
            )
            .values(used_at=at, outcome=outcome, reason=reason or None, **_NO_SECRETS)
        )
        return bool(done.rowcount)

    async def forget_secrets(self, *, before: datetime) -> None:
        """Destroy the secrets of requests made before then: their redirect would come too late."""
        await self._unit.connection.execute(
            sa.update(authorization)
            .where(
                authorization.c.tenant == self._unit.tenant,
                authorization.c.used_at.is_(None),
                authorization.c.code_verifier.is_not(None),
                authorization.c.created_at < before,
            )
            .values(**_NO_SECRETS)
        )

    async def prune(self, *, before: datetime) -> None:
        """Take away requests made before then that nobody came home with, and whose consent is not held.

        Those of a renewal stay: the Hub lists their consents under the root, and we have to know them for ours.
        """
        base = authorization.c.request[(0, "consent", "BaseConsentId")].as_string()
        held = sa.exists().where(
            consent.c.tenant == authorization.c.tenant, consent.c.consent_id == authorization.c.consent_id
        )
        await self._unit.connection.execute(
            sa.delete(authorization).where(
                authorization.c.tenant == self._unit.tenant,
                authorization.c.used_at.is_(None),
                authorization.c.created_at < before,
                base.is_(None),
                ~held,
            )
        )

    async def settle(self, state: str, *, outcome: str, reason: str = "") -> None:
        """Write down what became of a used request."""
        await self._unit.connection.execute(
            sa.update(authorization)
            .where(authorization.c.tenant == self._unit.tenant, authorization.c.state == state)
            .values(outcome=outcome, reason=reason or None)
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
            reason=row["reason"],
            intent_id=row["intent_id"],
            connection_id=row["connection_id"] and ConsentId(row["connection_id"]),
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


class Intents:
    """The table `authorization_intent`.  Nothing here commits."""

    def __init__(self, unit: "UnitOfWork") -> None:
        self._unit = unit

    async def add(self, row: StoredIntent) -> None:
        """File an intent whose id is new."""
        await self._unit.connection.execute(
            sa.insert(authorization_intent).values(
                tenant=self._unit.tenant,
                intent_id=row.intent_id,
                lfi=row.lfi,
                user_ref=row.user_ref,
                version=row.version and row.version.value,
                base_consent_id=row.request.base_consent_id,
                terms=_terms(row.request),
                return_url=row.return_url,
                created_at=row.created_at,
                expires_at=row.expires_at,
            )
        )

    async def get(self, intent_id: str) -> StoredIntent | None:
        """One intent; `None` when it is not ours."""
        return await self._one(authorization_intent.c.intent_id == intent_id)

    async def of_state(self, state: str) -> StoredIntent | None:
        """The intent behind the `state` of a redirect; `None` when there is none, or the state is not ours."""
        named = sa.select(authorization.c.intent_id).where(
            authorization.c.tenant == self._unit.tenant, authorization.c.state == state
        )
        return await self._one(authorization_intent.c.intent_id == named.scalar_subquery())

    async def pushed(self, intent_id: str, *, consent_id: ConsentId) -> None:
        """Count one more request, and remember its ConsentId; not of one that is completed."""
        table = authorization_intent
        await self._update(intent_id, table.c.completed_at.is_(None), opened=table.c.opened + 1, consent_id=consent_id)

    async def complete(self, intent_id: str, *, consent_id: ConsentId, at: datetime) -> bool:
        """Tokens came home: it is not opened again.  `False` when another consent of it came home before."""
        table = authorization_intent
        first = sa.or_(table.c.completed_at.is_(None), table.c.consent_id == consent_id)
        return await self._update(intent_id, first, consent_id=consent_id, completed_at=at)

    async def prune(self, *, before: datetime) -> None:
        """Take away intents whose link ended before then."""
        table = authorization_intent
        await self._unit.connection.execute(
            sa.delete(table).where(table.c.tenant == self._unit.tenant, table.c.expires_at < before)
        )

    async def _update(self, intent_id: str, which: sa.ColumnElement[bool], **values: Any) -> bool:
        table = authorization_intent
        done = await self._unit.connection.execute(
            sa.update(table)
            .where(table.c.tenant == self._unit.tenant, table.c.intent_id == intent_id, which)
            .values(**values)
        )
        return bool(done.rowcount)

    async def _one(self, condition: sa.ColumnElement[bool]) -> StoredIntent | None:
        query = sa.select(authorization_intent).where(authorization_intent.c.tenant == self._unit.tenant, condition)
        row = (await self._unit.connection.execute(query)).mappings().first()
        return None if row is None else _intent(row)


def _terms(request: ConsentRequest) -> dict[str, Any]:
    """What of a request is kept: everything but its ConsentId, which is chosen with each push."""
    return {
        "permissions": list(request.permissions),
        "expires_at": request.expires_at.isoformat(),
        "user_type": request.user_type.value,
        "purpose": request.purpose.value,
        "from_date": request.from_date and request.from_date.isoformat(),
        "to_date": request.to_date and request.to_date.isoformat(),
        "account_types": request.account_types and list(request.account_types),
        "account_sub_types": request.account_sub_types and list(request.account_sub_types),
        "on_behalf_of": request.on_behalf_of and request.on_behalf_of.written(),
        "connection_id": request.connection_id,
    }


def _tuple(words: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if words is None else tuple(words)


def _intent(row: Mapping[Any, Any]) -> StoredIntent:
    terms = row["terms"]
    base = row["base_consent_id"]
    return StoredIntent(
        intent_id=row["intent_id"],
        lfi=Slug(row["lfi"]),
        user_ref=row["user_ref"],
        version=Version(row["version"]) if row["version"] else None,
        request=ConsentRequest(
            permissions=tuple(terms["permissions"]),
            expires_at=read_iso(terms["expires_at"]),
            user_type=UserType(terms["user_type"]),
            purpose=Purpose(terms["purpose"]),
            base_consent_id=ConsentId(base) if base else None,
            from_date=read_day(terms["from_date"]) if terms["from_date"] else None,
            to_date=read_day(terms["to_date"]) if terms["to_date"] else None,
            # links of before these members were known have none of them
            account_types=_tuple(terms.get("account_types")),
            account_sub_types=_tuple(terms.get("account_sub_types")),
            on_behalf_of=read_on_behalf_of(terms.get("on_behalf_of")),
            connection_id=terms.get("connection_id") and ConsentId(terms["connection_id"]),
        ),
        return_url=row["return_url"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        opened=row["opened"],
        consent_id=row["consent_id"] and ConsentId(row["consent_id"]),
        completed_at=row["completed_at"],
    )
