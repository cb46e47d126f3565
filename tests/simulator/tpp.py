"""A TPP for tests: joserfc to sign, httpx to send.  Each member of what it sends can be bent."""

import base64
import hashlib
import secrets
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import RSAKey

from syncworker.simulator.identity import Client
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.consents import ConsentRequest, authorization_details
from syncworker.standard.permissions import askable
from syncworker.standard.versions import Version

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ABSENT: Final = object()
"""A member to leave out."""


@dataclass
class Tokens:
    """What one authorisation brought."""

    consent_id: str
    access: str
    refresh: str
    body: dict[str, Any]


@dataclass
class Draft:
    """A pushed request before it is signed; tests bend `claims`, `consent` and `header`."""

    claims: dict[str, Any]
    header: dict[str, Any]
    verifier: str = field(repr=False)

    @property
    def rar(self) -> dict[str, Any]:
        rar: dict[str, Any] = self.claims["authorization_details"][0]
        return rar

    @property
    def consent(self) -> dict[str, Any]:
        consent: dict[str, Any] = self.rar["consent"]
        return consent


class TPP:
    """The registered client of a sandbox, asking in one version; the newest the bank serves unless told."""

    def __init__(
        self, sandbox: Sandbox, *, version: Version | None = None, certificate: tuple[Path, Path] | None = None
    ) -> None:
        self.sandbox = sandbox
        self.version = version or sandbox.versions[-1]
        self.registered: Client = sandbox.client
        self.key = RSAKey.import_key(self.registered.signing_key.read_bytes())
        context = ssl.create_default_context(cafile=str(sandbox.ca_bundle))
        pair = certificate or (self.registered.transport_certificate, self.registered.transport_key)
        context.load_cert_chain(*pair)
        self.http = httpx.AsyncClient(verify=context, trust_env=False, timeout=30)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.aclose()

    # -- JWTs ---------------------------------------------------------------------------------------------------------

    def sign(
        self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None, *, key: RSAKey | None = None
    ) -> str:
        full = {"alg": "PS256", "kid": self.registered.signing_kid, **(header or {})}
        return jwt.encode(_present(full), _present(claims), key or self.key, algorithms=[full["alg"]])

    def assertion_claims(self, **bent: Any) -> dict[str, Any]:
        now = int(datetime.now(UTC).timestamp())
        client_id = self.registered.client_id
        plain = {"iss": client_id, "sub": client_id, "aud": self.sandbox.issuer, "iat": now, "exp": now + 120}
        return plain | {"jti": str(uuid.uuid4())} | bent

    def assertion(self, **bent: Any) -> dict[str, str]:
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": self.sign(self.assertion_claims(**bent))}

    def draft(self, permissions: tuple[str, ...] | None = None, **request: Any) -> Draft:
        now = datetime.now(UTC)
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = ConsentRequest(
            permissions=askable(self.version) if permissions is None else permissions,
            **{"expires_at": now + timedelta(days=90)} | request,
        )
        client_id = self.registered.client_id
        claims = {
            "iss": client_id,
            "client_id": client_id,
            "aud": self.sandbox.issuer,
            "nbf": int(now.timestamp()) - 10,
            "exp": int(now.timestamp()) + 290,
            "response_type": "code",
            "scope": "accounts openid",
            "redirect_uri": self.registered.redirect_uri,
            "state": str(uuid.uuid4()),
            "nonce": str(uuid.uuid4()),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "authorization_details": authorization_details(asked, version=self.version),
        }
        return Draft(claims, {}, verifier)

    # -- calls --------------------------------------------------------------------------------------------------------

    async def push(self, draft: Draft, *, headers: Mapping[str, str] | None = None, **fields: str) -> httpx.Response:
        form = {"request": self.sign(draft.claims, draft.header)} | self.assertion() | fields
        given = {"x-fapi-interaction-id": str(uuid.uuid4())} | dict(headers or {})
        return await self.http.post(f"{self.sandbox.addresses.tokens}/par", data=form, headers=given)

    def authorization_url(self, request_uri: str) -> str:
        query = {"client_id": self.registered.client_id, "response_type": "code", "scope": "openid"}
        return f"{self.sandbox.issuer}/consent-page/authorize?{urlencode(query | {'request_uri': request_uri})}"

    async def token(self, **fields: str) -> httpx.Response:
        form = self.assertion() | ({} if self.version is Version.V2_1 else {"client_id": self.registered.client_id})
        return await self.http.post(f"{self.sandbox.addresses.tokens}/token", data=form | fields)

    async def code(self, draft: Draft, *, user: str, **deciding: Any) -> dict[str, str]:
        pushed = await self.push(draft)
        assert pushed.status_code in (200, 201), pushed.text
        url = await self.sandbox.decide(self.authorization_url(pushed.json()["request_uri"]), user=user, **deciding)
        return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}

    async def exchange(self, code: str, draft: Draft, /, **bent: str) -> httpx.Response:
        fields = {"code": code, "redirect_uri": self.registered.redirect_uri, "code_verifier": draft.verifier}
        return await self.token(grant_type="authorization_code", **fields | bent)

    async def consent(
        self,
        permissions: tuple[str, ...] | None = None,
        *,
        user: str | None = None,
        accounts: Any = None,
        **request: Any,
    ) -> Tokens:
        draft = self.draft(permissions, **request)
        back = await self.code(draft, user=user or self.sandbox.users[0], accounts=accounts)
        answer = await self.exchange(back["code"], draft)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return Tokens(draft.consent["ConsentId"], body["access_token"], body.get("refresh_token", ""), body)

    async def refresh(self, refresh_token: str) -> httpx.Response:
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token)

    async def own_token(self) -> str:
        answer = await self.token(grant_type="client_credentials", scope="openid accounts")
        token: str = answer.json()["access_token"]
        return token

    async def call(self, method: str, path: str, token: str | None, **options: Any) -> httpx.Response:
        headers = {"accept": "application/json", "x-fapi-interaction-id": str(uuid.uuid4())}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        headers |= options.pop("headers", {})
        url = path if path.startswith("https:") else self.sandbox.resource_base_urls[self.version] + path
        return await self.http.request(method, url, headers={k: v for k, v in headers.items() if v}, **options)

    async def get(self, path: str, token: str | None, **options: Any) -> httpx.Response:
        return await self.call("GET", path, token, **options)

    async def walk(self, path: str, token: str, **options: Any) -> list[dict[str, Any]]:
        """All pages of a listing."""
        pages: list[dict[str, Any]] = []
        following: str | None = path
        while following:
            answer = await self.get(following, token, **options)
            assert answer.status_code == 200, answer.text
            pages.append(answer.json())
            following, options = pages[-1]["Links"].get("Next"), {}
        return pages


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ABSENT}
