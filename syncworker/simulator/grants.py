"""Codes, access tokens and refresh tokens: what the authorisation server gave out and what it still honours.

Each answer is made in one step without waiting, so two requests with the same token are judged one after the other.
Access tokens are bound to the certificate they were issued over.

Source: Tokens and JWTs, `domain.md` §2.5; "Rotation rule" of the Bank Data Sharing – API Guide v2.1.
"""

import base64
import hashlib
import secrets
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from syncworker.simulator.clock import BankClock
from syncworker.simulator.requests import OAuthError, PushedRequest

CODE_LIFE: Final = timedelta(seconds=120)
REQUEST_URI_LIFE: Final = timedelta(seconds=90)
URN: Final = "urn:ietf:params:oauth:request_uri:"


class Rotation(StrEnum):
    """What a refresh answer does with the refresh token."""

    ALWAYS = "always"
    """A new one each time; the old one is used up."""
    NEVER = "never"
    """The same one again."""
    OMIT = "omit"
    """None in the answer; the old one stays (D-5)."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """What happens to a refresh token that was rotated away.

    Attributes:
        grace: within this time of its rotation it is answered with the tokens that replaced it; `None`: never.
            Otherwise its use revokes the whole grant.
    """

    grace: timedelta | None = None

    @classmethod
    def read(cls, text: str) -> "Reuse":
        """Read `revoke_grant` or `grace:SECONDS`.

        Raises:
            ValueError: neither.
        """
        if text == "revoke_grant":
            return cls()
        word, _, seconds = text.partition(":")
        if word != "grace":
            raise ValueError("reuse: must be revoke_grant or grace:SECONDS")
        return cls(timedelta(seconds=float(seconds)))

    def __str__(self) -> str:
        return "revoke_grant" if self.grace is None else f"grace:{self.grace.total_seconds():g}"


@dataclass(slots=True, kw_only=True)
class AccessToken:
    """An access token; `consent_id` is `None` for client credentials."""

    text: str = field(repr=False)
    consent_id: str | None
    scope: str
    issued_at: datetime
    expires_at: datetime
    certificate: str
    revoked: bool = False


@dataclass(slots=True, kw_only=True)
class Grant:
    """All tokens that came of one authorisation code."""

    consent_id: str
    refresh_token: str = field(repr=False)
    access: AccessToken
    version: int = 1
    rotated: dict[str, datetime] = field(default_factory=dict, repr=False)
    revoked_because: str | None = None


@dataclass(frozen=True, slots=True)
class Issued:
    """One answer of the token endpoint.

    Attributes:
        refresh_token: `None` when the answer carries none.
        replaces: the access token before this one; `None` with a code or client credentials.
    """

    access: AccessToken
    refresh_token: str | None = field(repr=False)
    replaces: AccessToken | None = None
    version: int = 0
    repeated: bool = False


@dataclass(slots=True, kw_only=True)
class _Code:
    consent_id: str
    request: PushedRequest
    issued_at: datetime
    used_by: Grant | None = None


class Grants:
    """Everything given out and still remembered.

    Args:
        access_token_seconds: life of user and client access tokens; may be changed at run time.
    """

    def __init__(self, clock: BankClock, *, access_token_seconds: float, rotation: Rotation, reuse: Reuse) -> None:
        self._clock = clock
        self.access_token_seconds = access_token_seconds
        self.rotation = rotation
        self.reuse = reuse
        self._pushed: dict[str, tuple[PushedRequest, datetime]] = {}
        self._codes: dict[str, _Code] = {}
        self._refresh: dict[str, Grant] = {}
        self._access: dict[str, AccessToken] = {}
        self._ends: deque[str] = deque()
        self._by_consent: dict[str, Grant] = {}

    def push(self, request: PushedRequest) -> str:
        """Keep a request and give its `request_uri`."""
        uri = URN + secrets.token_urlsafe(32)
        self._pushed[uri] = (request, self._clock.now() + REQUEST_URI_LIFE)
        return uri

    def open(self, request_uri: str) -> PushedRequest | None:
        """The request behind a `request_uri`, for the first time and in time; `None` otherwise."""
        request, until = self._pushed.pop(request_uri, (None, self._clock.now()))
        return request if self._clock.now() < until else None

    def code(self, consent_id: str, request: PushedRequest) -> str:
        """An authorisation code for an authorised consent."""
        code = secrets.token_urlsafe(32)
        self._codes[code] = _Code(consent_id=consent_id, request=request, issued_at=self._clock.now())
        return code

    def redeem(
        self, code: str, *, redirect_uri: str, code_verifier: str, certificate: str
    ) -> tuple[Issued, PushedRequest]:
        """The first tokens of a consent.

        Raises:
            OAuthError: invalid_grant; a code used twice also revokes what came of it.
        """
        known = self._codes.get(code)
        if known is None:
            raise OAuthError("invalid_grant", "the code is unknown")
        if known.used_by is not None:
            self._revoke(known.used_by, "code_reused")
            raise OAuthError("invalid_grant", "the code was used before")
        if self._clock.now() >= known.issued_at + CODE_LIFE:
            raise OAuthError("invalid_grant", "the code has expired")
        if redirect_uri != known.request.redirect_uri:
            raise OAuthError("invalid_grant", "redirect_uri is not that of the request")
        digest = hashlib.sha256(code_verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if not 43 <= len(code_verifier) <= 128 or challenge != known.request.code_challenge:
            raise OAuthError("invalid_grant", "code_verifier does not match the code_challenge")
        access = self._mint(known.consent_id, known.request.scope, certificate)
        grant = Grant(consent_id=known.consent_id, refresh_token=secrets.token_urlsafe(48), access=access)
        known.used_by = grant
        self._refresh[grant.refresh_token] = grant
        self._by_consent[grant.consent_id] = grant
        return Issued(access, grant.refresh_token, version=1), known.request

    def refresh(self, refresh_token: str, *, certificate: str) -> Issued:
        """The next tokens of a grant.

        Raises:
            OAuthError: invalid_grant; a token that was rotated away revokes the grant, unless grace covers it.
        """
        grant = self._refresh.get(refresh_token)
        if grant is None:
            raise OAuthError("invalid_grant", "the refresh token is unknown")
        if grant.revoked_because:
            raise OAuthError("invalid_grant", f"the grant was revoked: {grant.revoked_because}")
        if refresh_token != grant.refresh_token:
            return self._reused(grant, refresh_token)
        before, now = grant.access, self._clock.now()
        grant.access = self._mint(grant.consent_id, before.scope, certificate)
        grant.version += 1
        if self.rotation is Rotation.ALWAYS:
            grant.rotated[refresh_token] = now
            grant.refresh_token = secrets.token_urlsafe(48)
            self._refresh[grant.refresh_token] = grant
        given = None if self.rotation is Rotation.OMIT else grant.refresh_token
        return Issued(grant.access, given, replaces=before, version=grant.version)

    def client_credentials(self, scope: str, *, certificate: str) -> Issued:
        """A token for the client itself."""
        return Issued(self._mint(None, scope, certificate), None)

    def access(self, text: str) -> AccessToken | None:
        """What is known of an access token, expired ones included; `None` when nothing is."""
        return self._access.get(text)

    def consent_of(self, *, refresh_token: str | None = None, code: str | None = None) -> str | None:
        """The consent a refresh token or code belongs to."""
        if refresh_token is not None:
            grant = self._refresh.get(refresh_token)
            return grant.consent_id if grant else None
        known = self._codes.get(code or "")
        return known.consent_id if known else None

    def grant_of(self, consent_id: str) -> Grant | None:
        """The grant of a consent, for those who may read the books."""
        return self._by_consent.get(consent_id)

    def is_current(self, consent_id: str, *, refresh_token_sha256: str) -> bool:
        """Whether the SHA-256 (hexadecimal) is that of the consent's live refresh token: a proof without the secret."""
        grant = self._by_consent.get(consent_id)
        if grant is None or grant.revoked_because:
            return False
        return hashlib.sha256(grant.refresh_token.encode()).hexdigest() == refresh_token_sha256

    def end(self, consent_id: str, because: str) -> None:
        """End all tokens of a consent."""
        if consent_id in self._by_consent:
            self._revoke(self._by_consent[consent_id], because)

    def _reused(self, grant: Grant, refresh_token: str) -> Issued:
        grace = self.reuse.grace
        if grace is not None and self._clock.now() < grant.rotated[refresh_token] + grace:
            return Issued(grant.access, grant.refresh_token, version=grant.version, repeated=True)
        self._revoke(grant, "refresh_token_reused")
        raise OAuthError("invalid_grant", "the refresh token was used before; the grant is revoked")

    def _revoke(self, grant: Grant, because: str) -> None:
        grant.revoked_because = grant.revoked_because or because
        for token in self._access.values():
            if token.consent_id == grant.consent_id:
                token.revoked = True

    def _mint(self, consent_id: str | None, scope: str, certificate: str) -> AccessToken:
        now = self._clock.now()
        token = AccessToken(
            text=secrets.token_urlsafe(32), consent_id=consent_id, scope=scope, issued_at=now,
            expires_at=now + timedelta(seconds=self.access_token_seconds), certificate=certificate,
        )  # fmt: skip
        self._access[token.text] = token
        self._ends.append(token.text)
        while len(self._ends) > 200_000:
            self._access.pop(self._ends.popleft(), None)
        return token
