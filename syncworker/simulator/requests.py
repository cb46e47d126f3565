"""Read what a client pushes: the client assertion and the request object; `details` judges what the latter asks for.

Strict on purpose: a member the published schema does not list is refused, so that a mistake of ours fails here and not
at a bank.  Every refusal names its cause in `error_description`.

Sources: `domain.md` §2.1 (request object), §2.2 (client assertion), §2.7 (errors); Pushed Authorization Endpoint of all
versions, `RichAuthorizationJar`: the claims are the same in each.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

from syncworker.simulator.clock import BankClock
from syncworker.simulator.details import Asked, DetailsError, is_uuid, read_details
from syncworker.simulator.identity import Identity
from syncworker.simulator.jose import JoseError, verify
from syncworker.standard.versions import Version

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SKEW: Final = timedelta(seconds=10)
REQUEST_LIFE_MAX: Final = timedelta(seconds=600)
ASSERTION_LIFE_MAX: Final = timedelta(seconds=300)
SCOPES: Final = frozenset({"openid", "accounts"})

_CLAIMS: Final = frozenset(
    {"authorization_details", "iss", "aud", "exp", "nbf", "client_id", "response_type", "redirect_uri", "scope",
     "state", "nonce", "max_age", "login_hint", "code_challenge", "code_challenge_method"}
)  # fmt: skip
_OPTIONAL_CLAIMS: Final = frozenset({"max_age", "login_hint"})
_ASSERTION_CLAIMS: Final = frozenset({"iss", "sub", "aud", "iat", "exp", "jti"})
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class OAuthError(Exception):
    """A refusal of the authorisation server.

    Source: `OAuthErrorResponse`; `domain.md` §2.7.
    """

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description


Refuse = Callable[[str, str], OAuthError]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushedRequest:
    """An accepted request object."""

    state: str
    nonce: str
    code_challenge: str
    redirect_uri: str
    scope: str
    asked: Asked

    @property
    def consent_id(self) -> str:
        """The consent it asks for."""
        return str(self.asked.consent["ConsentId"])


class AssertionIds:
    """The `jti`s of client assertions, each good for once, also after a restart.

    Kept in a file of `<expiry as epoch seconds> <jti>` lines, one appended for each assertion.
    """

    def __init__(self, path: Path, *, now: datetime) -> None:
        self._seen: dict[str, float] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                until, _, jti = line.partition(" ")
                if jti and float(until) > now.timestamp():
                    self._seen[jti] = float(until)
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(f"{until} {jti}\n" for jti, until in self._seen.items())
        self._file.flush()

    def use(self, jti: str, *, until: datetime, now: datetime) -> bool:
        """Take note of a `jti`; false when it was used before."""
        if jti in self._seen:
            return False
        if len(self._seen) > 100_000:
            self._seen = {known: end for known, end in self._seen.items() if end > now.timestamp()}
        self._seen[jti] = until.timestamp()
        self._file.write(f"{until.timestamp()} {jti}\n")
        self._file.flush()
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_form(content_type: str, body: bytes, *, needs: frozenset[str], may: frozenset[str]) -> dict[str, str]:
    """A form with exactly the fields expected, each once.

    Raises:
        OAuthError: another media type, a field that is missing, unknown or repeated.
    """
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "the content type must be application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=20)
    except ValueError:
        raise OAuthError("invalid_request", "the body is not a form") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise OAuthError("invalid_request", "a field occurs twice")
    for name in sorted(needs - form.keys()):
        raise OAuthError("invalid_request", f"{name} is missing")
    for name in sorted(form.keys() - needs - may):
        raise OAuthError("invalid_request", f"{name} is not a field of this request")
    return form


class Reader:
    """Judges what the one registered client sends.

    Args:
        issuer: the only audience accepted.
        versions: those whose consents may be asked for.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        issuer: str,
        versions: Collection[Version],
        clock: BankClock,
        assertion_ids: AssertionIds,
    ) -> None:
        self._identity = identity
        self._versions = versions
        self._client = identity.client
        self._issuer = issuer
        self._clock = clock
        self._assertion_ids = assertion_ids

    def client(self, form: Mapping[str, str], certificate: bytes | None) -> None:
        """Authenticate the client of a request by its certificate and its assertion.

        Raises:
            OAuthError: invalid_client, or invalid_request for a wrong assertion type.
        """
        if form["client_assertion_type"] != ASSERTION_TYPE:
            raise OAuthError("invalid_request", "client_assertion_type is not the URN of jwt-bearer")
        if not self._identity.knows(certificate):
            raise OAuthError("invalid_client", "the TLS client certificate is not the registered one")
        if form.get("client_id", self._client.client_id) != self._client.client_id:
            raise OAuthError("invalid_client", "client_id is unknown")
        claims = self._verified(form["client_assertion"], "invalid_client", "client_assertion")
        refuse = _refuser("invalid_client", "client_assertion")
        for name in sorted(_ASSERTION_CLAIMS - claims.keys()):
            raise refuse(name, "is missing")
        for name in ("iss", "sub"):
            if claims[name] != self._client.client_id:
                raise refuse(name, "must be the client id")
        if claims["aud"] != self._issuer:
            raise refuse("aud", "must be the issuer as one string")
        issued, expires = _moment(claims, "iat", refuse), _moment(claims, "exp", refuse)
        if expires - issued > ASSERTION_LIFE_MAX:
            raise refuse("exp", "must be at most 300 seconds after iat")
        if not any(issued - SKEW <= now < expires for now in self._clock.readings()):
            raise refuse("iat, exp", "the assertion is not valid now")
        if "nbf" in claims and _moment(claims, "nbf", refuse) > max(self._clock.readings()) + SKEW:
            raise refuse("nbf", "lies in the future")
        if not is_uuid(claims["jti"]):
            raise refuse("jti", "must be a UUID")
        if not self._assertion_ids.use(claims["jti"], until=expires, now=self._clock.now()):
            raise refuse("jti", "was used before")

    def pushed(self, request: str) -> PushedRequest:
        """Read a request object and the consent it asks for.

        Raises:
            OAuthError: invalid_request or invalid_scope.
        """
        claims = self._verified(request, "invalid_request", "request")
        refuse = _refuser("invalid_request", "request")
        for name in sorted(_CLAIMS - _OPTIONAL_CLAIMS - claims.keys()):
            raise refuse(name, "is missing")
        for name in sorted(claims.keys() - _CLAIMS):
            raise refuse(name, "is not a claim of the published schema")
        expected = {
            "iss": self._client.client_id,
            "client_id": self._client.client_id,
            "aud": self._issuer,
            "response_type": "code",
            "redirect_uri": self._client.redirect_uri,
            "code_challenge_method": "S256",
        }
        for name, value in expected.items():
            if claims[name] != value:
                raise refuse(name, "is not what is registered or required")
        self._request_times(claims, refuse)
        for name in ("scope", "state", "nonce", "code_challenge"):
            if not isinstance(claims[name], str) or not claims[name]:
                raise refuse(name, "must be text")
        if frozenset(claims["scope"].split(" ")) != SCOPES:
            raise OAuthError("invalid_scope", "request.scope must be 'openid accounts'")
        if not _CHALLENGE.fullmatch(claims["code_challenge"]):
            raise refuse("code_challenge", "is not base64url of a SHA-256")
        return PushedRequest(
            state=claims["state"],
            nonce=claims["nonce"],
            code_challenge=claims["code_challenge"],
            redirect_uri=claims["redirect_uri"],
            scope=claims["scope"],
            asked=self._asked(claims["authorization_details"]),
        )

    def _request_times(self, claims: Mapping[str, Any], refuse: Refuse) -> None:
        begins, expires = _moment(claims, "nbf", refuse), _moment(claims, "exp", refuse)
        if not timedelta() < expires - begins <= REQUEST_LIFE_MAX:
            raise refuse("exp", "must be at most 600 seconds after nbf")
        if not any(begins - SKEW <= now < expires for now in self._clock.readings()):
            raise refuse("nbf, exp", "the request is not valid now")
        max_age = claims.get("max_age", 0)
        if type(max_age) is not int or not 0 <= max_age <= 3600:
            raise refuse("max_age", "must be an integer of at most 3600")

    def _asked(self, details: Any) -> Asked:
        try:
            return read_details(details, versions=self._versions, now=self._clock.now())
        except DetailsError as fault:
            raise OAuthError("invalid_request", str(fault)) from fault

    def _verified(self, token: str, error: str, what: str) -> dict[str, Any]:
        try:
            return verify(token, self._identity.client_signing_keys)
        except JoseError as fault:
            raise OAuthError(error, f"{what}: {fault}") from fault


def _refuser(error: str, what: str) -> Refuse:
    def refuse(member: str, cause: str) -> OAuthError:
        return OAuthError(error, f"{what}{'.' if member else ''}{member} {cause}")

    return refuse


def _moment(claims: Mapping[str, Any], name: str, refuse: Refuse) -> datetime:
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 10**11:
        raise refuse(name, "must be a number of seconds")
    return datetime.fromtimestamp(value, tz=UTC)
