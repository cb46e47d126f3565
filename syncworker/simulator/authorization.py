"""The hosts auth1 and as1: discovery, keys, the consent page; pushed requests and tokens.

Sources: Bank Data Sharing – API Guide v2.1; `domain.md` §1.4 (discovery), §2 (tokens), §2.4 (callback), §2.7 (errors).
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from syncworker.simulator import pages
from syncworker.simulator.asgi import Answer, Request, json_answer
from syncworker.simulator.clock import BankClock
from syncworker.simulator.consents import Consent, Consents, MoveError
from syncworker.simulator.counter import PATH as COUNTER
from syncworker.simulator.counter import Counter
from syncworker.simulator.details import is_uuid
from syncworker.simulator.faults import Fault
from syncworker.simulator.grants import REQUEST_URI_LIFE, Grants, Issued
from syncworker.simulator.identity import Identity, thumbprint
from syncworker.simulator.jose import jwk, sign
from syncworker.simulator.ledger import Ledger
from syncworker.simulator.participants import participants
from syncworker.simulator.requests import OAuthError, PushedRequest, Reader, read_form
from syncworker.simulator.resources import Resources, base_path
from syncworker.simulator.served import Log, TokenAnswer
from syncworker.standard.consents import TERMINAL
from syncworker.standard.openings import SCOPE as OPENING_SCOPE
from syncworker.standard.values import local_date
from syncworker.standard.versions import Version, rar_type

BODY_MAX: Final = 64 * 1024
SESSION_LIFE: Final = timedelta(minutes=15)
ID_TOKEN_LIFE: Final = timedelta(minutes=5)
_WELL_KNOWN: Final = "/.well-known/openid-configuration"
_JWKS: Final = "/jwks"
PARTICIPANTS: Final = "/participants"
_AUTHORIZE: Final = "/consent-page/authorize"
_ASSERTION: Final = frozenset({"client_assertion_type", "client_assertion"})
PUSHED: Final = {Version.V1_2: 201, Version.V2_0: 201, Version.V2_1: 200}
"""The status that answers a good pushed request (D-7)."""
CLIENT_ID_REQUIRED: Final = frozenset({Version.V1_2, Version.V2_0})
"""Versions whose token requests must carry `client_id` as a field."""
_GRANT_FIELDS: Final = {
    # grant type -> fields it needs, fields it may have
    "authorization_code": (frozenset({"code", "redirect_uri", "code_verifier"}), frozenset({"client_id", "scope"})),
    "refresh_token": (frozenset({"refresh_token"}), frozenset({"client_id", "scope"})),
    "client_credentials": (frozenset({"scope"}), frozenset({"client_id"})),
}


@dataclass(frozen=True, slots=True)
class Addresses:
    """`https://host:port` of the three hosts, and of the one for mutual TLS that the discovery document may name."""

    issuer: str
    tokens: str
    resources: str
    mtls: str = ""


def discovery(addresses: Addresses, versions: Collection[Version]) -> dict[str, Any]:
    """The issuer's OpenID configuration."""
    aliases = {
        "token_endpoint": f"{addresses.mtls}/token",
        "pushed_authorization_request_endpoint": f"{addresses.mtls}/par",
    }
    return ({"mtls_endpoint_aliases": aliases} if addresses.mtls else {}) | {
        "issuer": addresses.issuer,
        "authorization_endpoint": addresses.issuer + _AUTHORIZE,
        "token_endpoint": f"{addresses.tokens}/token",
        "pushed_authorization_request_endpoint": f"{addresses.tokens}/par",
        "jwks_uri": addresses.issuer + _JWKS,
        "scopes_supported": ["openid", "accounts", OPENING_SCOPE],
        "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
        "authorization_details_types_supported": [rar_type(version) for version in versions],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["PS256"],
        "request_object_signing_alg_values_supported": ["PS256"],
        "id_token_signing_alg_values_supported": ["PS256"],
        "subject_types_supported": ["pairwise"],
        "code_challenge_methods_supported": ["S256"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "require_pushed_authorization_requests": True,
        "authorization_response_iss_parameter_supported": True,
        "tls_client_certificate_bound_access_tokens": True,
    }


@dataclass(slots=True)
class _Session:
    """One user at the consent page."""

    request: PushedRequest
    until: datetime
    user: str | None = None


class Issuer:
    """auth1: what a browser and everyone may reach without a certificate."""

    name = "auth"

    def __init__(
        self,
        *,
        addresses: Addresses,
        versions: Collection[Version],
        identity: Identity,
        ledger: Ledger,
        consents: Consents,
        grants: Grants,
        clock: BankClock,
        counter: Counter,
    ) -> None:
        self._counter = counter
        self._addresses = addresses
        self._versions = versions
        self._identity = identity
        self._ledger = ledger
        self._consents = consents
        self._grants = grants
        self._clock = clock
        self._sessions: dict[str, _Session] = {}

    def recognise(self, request: Request) -> None:
        """discovery, jwks, participants, authorize or counter."""
        names = {_WELL_KNOWN: "discovery", _JWKS: "jwks", PARTICIPANTS: "participants"}
        if request.path.startswith(_AUTHORIZE):
            request.trace.operation = "authorize"
            session = self._sessions.get(request.path.removeprefix(_AUTHORIZE).strip("/").partition("/")[0])
            if session is not None:
                request.trace.consent_id = session.request.consent_id
        elif request.path == COUNTER or request.path.startswith(COUNTER + "/"):
            request.trace.operation = "counter"
        else:
            request.trace.operation = names.get(request.path, "unknown")

    async def answer(self, request: Request) -> Answer:
        """Answer discovery, the key set, the participants directory and the steps of the consent page."""
        if request.trace.operation == "authorize":
            return self._page(request)
        if request.trace.operation == "counter":
            return self._counter.answer(request)
        if request.method != "GET":
            return Answer(405)
        if request.trace.operation == "discovery":
            return json_answer(discovery(self._addresses, self._versions), cache_control="max-age=900")
        if request.trace.operation == "jwks":
            keys = [jwk(self._identity.lfi_signing_key.public_key(), self._identity.lfi_kid)]
            return json_answer({"keys": keys}, cache_control="max-age=300")
        if request.trace.operation == "participants":
            return json_answer(self._participants(), cache_control="max-age=900")
        return Answer(404)

    def _participants(self) -> list[dict[str, Any]]:
        return participants(
            issuer=self._addresses.issuer,
            discovery_url=self._addresses.issuer + _WELL_KNOWN,
            base_urls={version: self._addresses.resources + base_path(version) for version in self._versions},
            today=local_date(self._clock.now()),
        )

    def refusal(self, request: Request, fault: Fault) -> Answer:
        """An ordered refusal without a body."""
        wait = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        return Answer(fault.status, headers=wait)

    # -- the consent page ---------------------------------------------------------------------------------------------

    def _page(self, request: Request) -> Answer:
        if request.path == _AUTHORIZE:
            return self._begin(request) if request.method == "GET" else Answer(405)
        key, _, step = request.path.removeprefix(_AUTHORIZE + "/").partition("/")
        session = self._sessions.get(key)
        if session is None or session.until <= self._clock.now():
            return _sorry("This visit is over. Please start again from your provider.")
        if request.method == "GET" and not step:
            return self._show(key, session)
        if request.method != "POST" or step not in ("login", "decision"):
            return Answer(405)
        form = dict(parse_qsl(request.body.decode("utf-8", "replace"), max_num_fields=200))
        if step == "login":
            return self._login(key, session, form.get("user", ""))
        accounts = [one for name, one in parse_qsl(request.body.decode("utf-8", "replace")) if name == "account"]
        return self._decide(key, session, form.get("decision", ""), accounts)

    def _begin(self, request: Request) -> Answer:
        query = request.query()
        pushed = None
        if query.get("client_id") == self._identity.client.client_id:
            pushed = self._grants.open(query.get("request_uri", ""))
        if pushed is None:
            return _sorry("This request is unknown, too old, or was opened before. Please start again.")
        request.trace.consent_id = pushed.consent_id
        if query.get("response_type", "code") != "code" or "openid" not in query.get("scope", "openid").split():
            return _back(pushed, self._addresses.issuer, error="invalid_request", error_description="not as pushed")
        key = secrets.token_urlsafe(24)
        now = self._clock.now()
        self._sessions = {known: one for known, one in self._sessions.items() if one.until > now}
        self._sessions[key] = _Session(pushed, now + SESSION_LIFE)
        return Answer(303, headers={"location": f"{_AUTHORIZE}/{key}", **pages.headers()})

    def _show(self, key: str, session: _Session) -> Answer:
        allowed = pages.headers(session.request.redirect_uri)
        if session.user is None:
            names = ((user, user.partition("-")[0].title()) for user in self._ledger.users)
            return _html(pages.choose(f"{_AUTHORIZE}/{key}/login", names), allowed)
        consent = self._consents.get(session.request.consent_id)
        customer = self._ledger.customer(session.user)
        return _html(pages.decide(f"{_AUTHORIZE}/{key}/decision", consent, customer), allowed)

    def _login(self, key: str, session: _Session, user: str) -> Answer:
        if user not in self._ledger.users:
            return _sorry("Nobody has this name.", status=400)
        consent = self._consents.get(session.request.consent_id)
        if not any(consent.fits(one) for one in self._ledger.customer(user).accounts):
            return self._ended(key, session, "no account of the kinds asked for")
        session.user = user
        return Answer(303, headers={"location": f"{_AUTHORIZE}/{key}", **pages.headers()})

    def _ended(self, key: str, session: _Session, why: str) -> Answer:
        """The bank ends the flow: the consent is rejected, and the user goes back."""
        del self._sessions[key]
        try:
            self._consents.reject(session.request.consent_id)
        except MoveError as fault:
            why = str(fault)
        return _back(session.request, self._addresses.issuer, error="access_denied", error_description=why)

    def _decide(self, key: str, session: _Session, decision: str, accounts: list[str]) -> Answer:
        if session.user is None or decision not in ("approve", "approve_first", "decline"):
            return _sorry("Please log in and decide.", status=400)
        pushed, issuer = session.request, self._addresses.issuer
        consent_id = pushed.consent_id
        customer = self._ledger.customer(session.user)
        consent = self._consents.get(consent_id)
        chosen = tuple(one.account_id for one in customer.accounts if one.account_id in accounts and consent.fits(one))
        if decision != "decline" and not chosen:
            return _sorry("Choose at least one account.", status=400)
        del self._sessions[key]
        try:
            if decision == "decline":
                self._consents.reject(consent_id)
                return _back(pushed, issuer, error="access_denied", error_description="the user declined")
            self._consents.authorize(
                consent_id, user=session.user, account_ids=chosen, second=decision == "approve_first"
            )
        except MoveError as fault:
            return _back(pushed, issuer, error="access_denied", error_description=str(fault))
        return _back(pushed, issuer, code=self._grants.code(consent_id, pushed))


class Alias:
    """as1 under another address: the one a discovery document names for mutual TLS (RFC 8705 §5)."""

    name = "mtls"

    def __init__(self, tokens: "TokenServer") -> None:
        self.recognise = tokens.recognise
        self.answer = tokens.answer
        self.refusal = tokens.refusal


class TokenServer:
    """as1: pushed authorisation requests and tokens, over mutual TLS."""

    name = "as"

    def __init__(
        self,
        *,
        addresses: Addresses,
        versions: Collection[Version],
        identity: Identity,
        reader: Reader,
        ledger: Ledger,
        consents: Consents,
        grants: Grants,
        resources: Resources,
        clock: BankClock,
        log: Log,
    ) -> None:
        self._addresses = addresses
        self._versions = versions
        self._identity = identity
        self._reader = reader
        self._ledger = ledger
        self._consents = consents
        self._grants = grants
        self._resources = resources
        self._clock = clock
        self._log = log

    def recognise(self, request: Request) -> None:
        """par, or token with its grant type and the consent its code or refresh token belongs to."""
        request.trace.interaction_id = request.headers.get("x-fapi-interaction-id")
        request.trace.operation = {"/par": "par", "/token": "token"}.get(request.path, "unknown")
        if request.trace.operation != "token":
            return
        form = dict(parse_qsl(request.body.decode("ascii", "replace"), max_num_fields=20)) if request.body else {}
        if form.get("grant_type") in _GRANT_FIELDS:
            request.trace.operation = f"token.{form['grant_type']}"
            request.trace.consent_id = self._grants.consent_of(
                refresh_token=form.get("refresh_token"), code=form.get("code")
            )

    async def answer(self, request: Request) -> Answer:
        """Answer, or refuse with the error of OAuth; the interaction id is echoed."""
        try:
            answer = self._answer(request)
        except OAuthError as refusal:
            answer = json_answer({"error": refusal.error, "error_description": refusal.description}, 400)
            if request.path == "/token":
                self._note(request, refusal.error, None)
        answer.headers |= {"cache-control": "no-store", "pragma": "no-cache"}
        if request.trace.interaction_id:
            answer.headers["x-fapi-interaction-id"] = request.trace.interaction_id
        return answer

    def refusal(self, request: Request, fault: Fault) -> Answer:
        """An ordered refusal: OAuth's error with 400 when `code` is one of its words, else no body."""
        answer = Answer(fault.status)
        if fault.status == 400:
            answer = json_answer({"error": fault.code, "error_description": "ordered"}, 400)
            self._note(request, fault.code, None)
        if fault.retry_after is not None:
            answer.headers["Retry-After"] = str(fault.retry_after)
        return answer

    def _answer(self, request: Request) -> Answer:
        if request.path not in ("/par", "/token"):
            return Answer(404)
        if request.method != "POST":
            return Answer(405)
        if len(request.body) > BODY_MAX:
            return Answer(413)
        interaction = request.trace.interaction_id
        if interaction is not None and not is_uuid(interaction):
            raise OAuthError("invalid_request", "x-fapi-interaction-id must be a UUID")
        return self._par(request) if request.path == "/par" else self._token(request)

    def _par(self, request: Request) -> Answer:
        form = read_form(
            request.headers.get("content-type", ""), request.body, needs=_ASSERTION | {"request"}, may=frozenset()
        )
        self._reader.client(form, request.certificate)
        pushed = self._reader.pushed(form["request"])
        request.trace.consent_id = pushed.consent_id
        self._check_chain(pushed)
        try:
            self._consents.stage(pushed.asked)
        except MoveError as fault:
            raise OAuthError("invalid_request", f"authorization_details: {fault}") from fault
        life = int(REQUEST_URI_LIFE.total_seconds())
        answer = {"request_uri": self._grants.push(pushed), "expires_in": life}
        return json_answer(answer, PUSHED[pushed.asked.version])

    def _check_chain(self, pushed: PushedRequest) -> None:
        base = pushed.asked.consent.get("BaseConsentId")
        if base is None:
            return
        if base not in self._consents:
            raise OAuthError("invalid_request", "authorization_details.BaseConsentId is unknown")
        if self._consents.get(base).base_consent_id is not None:
            raise OAuthError("invalid_request", "authorization_details.BaseConsentId is not the root of its chain")

    def _token(self, request: Request) -> Answer:
        asked = dict(parse_qsl(request.body.decode("ascii", "replace"), max_num_fields=20)).get("grant_type", "")
        if asked not in _GRANT_FIELDS:
            error = "unsupported_grant_type" if asked else "invalid_request"
            raise OAuthError(error, "grant_type is not one of this server")
        needs, may = _GRANT_FIELDS[asked]
        form = read_form(
            request.headers.get("content-type", ""), request.body, needs=_ASSERTION | {"grant_type"} | needs, may=may
        )
        self._check_client_id(request, form)
        self._reader.client(form, request.certificate)
        certificate = thumbprint(request.certificate or b"")
        opening = asked == "client_credentials" and form["scope"] == OPENING_SCOPE
        if "scope" in form and not opening and not {"accounts"} <= set(form["scope"].split()) <= {"openid", "accounts"}:
            raise OAuthError("invalid_scope", "scope must be 'accounts', 'openid accounts', or 'account-opening' alone")
        if asked == "client_credentials":
            issued = self._grants.client_credentials(form["scope"], certificate=certificate)
            self._note(request, "issued", issued)
            return json_answer(_token_body(issued, self._clock.now()))
        return self._user_token(request, asked, form, certificate)

    def _check_client_id(self, request: Request, form: dict[str, str]) -> None:
        """The consent's version decides; a token for the client itself is of every version the bank serves."""
        consent_id = request.trace.consent_id
        known = consent_id is not None and consent_id in self._consents
        versions = {self._consents.get(consent_id or "").version} if known else set(self._versions)
        if "client_id" not in form and versions <= CLIENT_ID_REQUIRED:
            raise OAuthError("invalid_request", "client_id is missing")

    def _user_token(self, request: Request, asked: str, form: dict[str, str], certificate: str) -> Answer:
        pushed = None
        if asked == "authorization_code":
            issued, pushed = self._grants.redeem(
                form["code"],
                redirect_uri=form["redirect_uri"],
                code_verifier=form["code_verifier"],
                certificate=certificate,
            )
        else:
            self._check_refreshable(form["refresh_token"])
            issued = self._grants.refresh(form["refresh_token"], certificate=certificate)
        consent = self._consents.get(issued.access.consent_id or "")
        body = _token_body(issued, self._clock.now())
        if issued.refresh_token is not None:
            body["refresh_token"] = issued.refresh_token
        body["authorization_details"] = [
            {"type": rar_type(consent.version), "consent": self._resources.consent_body(consent)}
        ]
        if pushed is not None:
            body["id_token"] = self._id_token(consent, pushed)
        self._note(request, "repeated" if issued.repeated else "issued", issued)
        return json_answer(body)

    def _check_refreshable(self, refresh_token: str) -> None:
        consent_id = self._grants.consent_of(refresh_token=refresh_token)
        if consent_id is None:
            return
        if self._consents.get(consent_id).status in TERMINAL:
            self._grants.end(consent_id, "consent_ended")

    def _id_token(self, consent: Consent, pushed: PushedRequest) -> str:
        now = self._clock.now()
        claims = {
            "iss": self._addresses.issuer,
            "sub": self._ledger.customer(consent.user or "").person.party_number,
            "aud": self._identity.client.client_id,
            "iat": int(now.timestamp()),
            "exp": int((now + ID_TOKEN_LIFE).timestamp()),
            "auth_time": int(consent.status_updated_at.timestamp()),
            "nonce": pushed.nonce,
        }
        return sign(claims, self._identity.lfi_signing_key, self._identity.lfi_kid)

    def _note(self, request: Request, outcome: str, issued: Issued | None) -> None:
        now = self._clock.now()
        before = issued.replaces.expires_at if issued and issued.replaces else None
        self._log.token(
            TokenAnswer(
                at=now,
                grant_type=request.trace.operation.partition(".")[2] or "unknown",
                consent_id=request.trace.consent_id,
                outcome=outcome,
                version=issued.version if issued else 0,
                expires_at=issued.access.expires_at if issued else None,
                replaced_expires_at=before,
                early_s=None if before is None else round((before - now).total_seconds(), 3),
            )
        )


def _token_body(issued: Issued, now: datetime) -> dict[str, Any]:
    return {
        "access_token": issued.access.text,
        "token_type": "Bearer",
        "expires_in": max(0, round((issued.access.expires_at - now).total_seconds())),
        "scope": issued.access.scope,
    }


def _back(pushed: PushedRequest, issuer: str, **facts: str) -> Answer:
    """Send the user back to the TPP with `state` and `iss` beside the outcome (`domain.md` §2.4)."""
    joint = "&" if urlsplit(pushed.redirect_uri).query else "?"
    query = urlencode(facts | {"state": pushed.state, "iss": issuer})
    headers = {"location": f"{pushed.redirect_uri}{joint}{query}"}
    return Answer(303, headers=headers | pages.headers(pushed.redirect_uri))


def _html(page: bytes, headers: dict[str, str], status: int = 200) -> Answer:
    return Answer(status, page, dict(headers), "text/html; charset=utf-8")


def _sorry(message: str, status: int = 400) -> Answer:
    return _html(pages.sorry(message), pages.headers(), status)
