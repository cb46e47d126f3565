"""One LFI, ready to be called: authorisations, tokens, consents, and the pages of a resource.

An `LFIClient` belongs to one event loop and one LFI; its connections are the bulkhead between banks.  Token calls and
PAR are made exactly once per call of the method, because of a token call that got no answer nobody knows whether it
arrived.  GETs are repeated a few times within seconds, each attempt with a fresh interaction id; longer waits belong to
the row that asked (`style.md` §5).

Sources: `domain.md` §2, §4.2, §5.1, §6; `reliability.md` rules 12, 14, 20, 31 – 35; Account Information API
v2.1-errata2.
"""

import asyncio
import ipaddress
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar, cast
from urllib.parse import quote, urlencode

import msgspec
import structlog
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    stop_before_delay,
)
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from syncworker.clock import Clock, monotonic
from syncworker.errors import (
    EndlessListingError,
    LFIBreakerOpenError,
    LFIRateLimitedError,
    LFIUnavailableError,
    RefusedError,
    StandardViolationError,
    SyncWorkerError,
    TransientError,
    TruncatedError,
)
from syncworker.lfi import jose, oauth
from syncworker.lfi.addresses import Lookup, system_lookup
from syncworker.lfi.bounds import FAULTS, Fault, check_json, fault_of_json, home_link, json_body, media_type_of
from syncworker.lfi.directory import (
    DISCOVERY_AGE_MAX,
    JWKS_AGE_MAX,
    Discovery,
    LFIConfig,
    SignedAnswers,
    fresh_for,
    read_discovery,
)
from syncworker.lfi.keys import TransportCertificate
from syncworker.lfi.oauth import PushedAuthorization, Redirect, TokenAnswer, read_redirect
from syncworker.lfi.observing import Observing
from syncworker.lfi.reasons import reason_of
from syncworker.lfi.splitting import PartlyReadable, members
from syncworker.lfi.traffic import FreeTraffic, Traffic
from syncworker.lfi.transport import (
    LOOK_EVERY,
    Answer,
    Attempts,
    Call,
    CallLog,
    Lane,
    Lines,
    Request,
    UnfitAnswerError,
    UntrustedServerError,
    no_log,
)
from syncworker.standard.calendar import as_utc, shifted
from syncworker.standard.consents import ConsentView, read_consent
from syncworker.standard.interaction import Interactions, new_interaction_id
from syncworker.standard.json_text import json_bytes
from syncworker.standard.operations import OperationClass, class_of
from syncworker.standard.resources import Resource
from syncworker.standard.values import AccountId, ConsentId, read_instant
from syncworker.standard.versions import Version

__all__ = [
    "Attendance",
    "Call",
    "CallLog",
    "LFIClient",
    "Page",
    "PushedAuthorization",
    "Redirect",
    "TokenAnswer",
    "TokenSource",
    "read_redirect",
]

ATTEMPTS_MAX: Final = 3
RETRY_WITHIN_S: Final = 20.0
RETRY_AFTER_PATIENCE_S: Final = 5.0
"""A wait the LFI asks for that is longer than this is the row's business, not a short retry's."""

PAGES_MAX: Final = 500
UNVERIFIED: Final = b"null"
"""Replaces the body of an error whose signature is not valid: there is a body, and it is not the standard's."""

JWT: Final = "application/jwt"
CONSENT_SCOPE: Final = "openid accounts"
MARGIN_MAX: Final = timedelta(seconds=60)
MARGIN_SHARE: Final = 0.15
JWKS_FORCED_EVERY: Final = timedelta(minutes=1)
DISCOVERY_AGE_MIN: Final = timedelta(minutes=1)
"""A document that forbids to be kept is kept so long: no fetch comes between a refresh's intent and its call."""

DISCOVERY_STALE_MAX: Final = timedelta(days=1)
DISCOVERY_RETRY_EVERY: Final = timedelta(minutes=1)

Announce = Callable[[str, str, datetime], Awaitable[None]]
"""Is awaited before a token call is sent: operation, interaction id, when.  What it raises keeps the call unsent."""


async def unannounced(_operation: str, _interaction_id: str, _at: datetime) -> None:
    """An `Announce` that keeps nothing."""


T = TypeVar("T")

log = structlog.stdlib.get_logger(__name__)


class TokenSource(Protocol):
    """Gives a live access token for one consent."""

    async def __call__(self, *, rejected: SecretStr | None = None) -> SecretStr:
        """A token that is good now; `rejected` is one that just got a 401, so a newer one is wanted.

        Given back again, `rejected` is to be kept: the 401 says nothing about it, and the request is not repeated.

        Raises:
            ConsentError, TransientError: there is none.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attendance:
    """The customer is present: what the headers say about their session.  Never used by background work (trap 13).

    Attributes:
        ip: the customer's address.
        auth_date: when they last logged in at the TPP, aware.
        user_agent: the customer's agent, not ours.
    """

    ip: str = field(repr=False)
    auth_date: datetime
    user_agent: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        ipaddress.ip_address(self.ip)
        if self.auth_date.tzinfo is None:
            raise ValueError("auth_date: has no time zone")
        if self.user_agent is not None and not (self.user_agent.isascii() and self.user_agent.isprintable()):
            raise ValueError("user_agent: not printable ASCII")

    def headers(self) -> dict[str, str]:
        """The three customer headers, the agent's only when known."""
        headers = {
            "x-fapi-customer-ip-address": self.ip,
            "x-fapi-auth-date": format_datetime(as_utc(self.auth_date), usegmt=True),
        }
        return headers | {"x-customer-user-agent": self.user_agent} if self.user_agent else headers


class Page(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One page of a listing.

    Attributes:
        number: from 1.
        data: the JSON bytes of `Data`, exactly as sent: their digest says whether anything changed.
        next_url: where the walk goes on; `None` at its end.
        first_available, last_available: limits of what the LFI holds, when it says so.
    """

    number: int
    data: bytes
    next_url: str | None
    total_pages: int | None
    first_available: datetime | None
    last_available: datetime | None

    def __repr__(self) -> str:
        return f"Page(number={self.number})"


class _Links(msgspec.Struct):
    Next: str | None = None


class _Meta(msgspec.Struct):
    TotalPages: int | None = None
    FirstAvailableDateTime: str | None = None
    LastAvailableDateTime: str | None = None


class _Envelope(msgspec.Struct):
    Data: msgspec.Raw
    Links: _Links | None = None
    Meta: msgspec.Raw = msgspec.Raw(b"{}")


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_LINKS: Final = msgspec.json.Decoder(_Links | None)
_COMPACT: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_META: Final = msgspec.json.Decoder(_Meta, strict=False)


@dataclass(frozen=True, slots=True)
class _Keys:
    by_kid: Mapping[str, RSAKey]
    fetched_at: datetime
    good_until: datetime


class LFIClient:
    """One LFI ready to be called.  Lives on one event loop; `close()` it there.

    Args:
        clock: tells when answers were received and what has expired.
        log: receives the calls that belong to no single consent: discovery, JWKS, client-credentials tokens.
        announce: hears of a call for a client-credentials token before it is sent, so that it is on record even if this
            process is killed with the answer.  Of other token calls the caller knows the interaction id before.
        traffic: is asked before each GET and told of every attempt: the schedule's limits.  Token calls and PAR pass
            unasked: a wait there would eat the lease that protects the token; who refreshes asks before it (`admit`).
        sleep: waits between the attempts of a GET.
        look_every: how often the files of the transport certificate are looked at, at most.
        observing: runs what is told of each attempt, and counts what fails of that.
        lookup: resolves host names.

    Attributes:
        config: the LFI as declared.  Its `transport` is what the client began with; `certificate` is what it uses now.

    Raises:
        SettingsError: from the constructor: certificate or CA bundle cannot be used.
    """

    def __init__(
        self,
        config: LFIConfig,
        *,
        clock: Clock,
        log: CallLog = no_log,
        announce: Announce = unannounced,
        traffic: Traffic | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        look_every: timedelta = LOOK_EVERY,
        observing: Observing | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        self.config = config
        self._clock = clock
        self._log = log
        self._announce = announce
        self._traffic = traffic or FreeTraffic()
        self._sleep = sleep
        self._lines = Lines(config, clock=clock, look_every=look_every, lookup=lookup)
        self._accept = {"Accept": JWT} if config.signed_answers is SignedAnswers.REQUIRE else {}
        self._foreign_issuer_told = False
        self._attempts = Attempts(config.slug, self._lines, clock=clock, heard=self._traffic.note, observing=observing)
        self._discovery: Discovery | None = None
        self._keys: _Keys | None = None
        self._own_tokens: dict[str, TokenAnswer] = {}
        self._in_flight: dict[str, asyncio.Future[Any]] = {}

    async def admit(self, operations: OperationClass) -> None:
        """Wait until a call of a class that is not asked for by itself may start: before a refresh takes its lease.

        Raises:
            GateClosedError, LFIBreakerOpenError: not now; says when.
        """
        waiting = self._traffic.admit(operations)
        if waiting is not None:
            await waiting

    async def close(self) -> None:
        """Close every connection; the client cannot be used afterwards."""
        for task in list(self._in_flight.values()):
            task.cancel()
        await asyncio.gather(*self._in_flight.values(), return_exceptions=True)
        await self._lines.close()

    @property
    def certificate(self) -> TransportCertificate:
        """The transport certificate the next call is made with; access tokens bound to another are of no use now."""
        return self._lines.certificate

    # discovery and keys

    async def discovery(self) -> Discovery:
        """The LFI's checked discovery document, cached for its `max-age`, at least one minute and at most 15.

        When the LFI does not answer, the last one serves on for at most a day, and is asked for again every minute.

        Raises:
            SetupError, StandardViolationError: the document is not what was declared, or lacks an endpoint.
            LFIUnavailableError, RefusedError: it could not be read.
        """
        held = self._discovery
        if held is not None and self._clock.now() < shifted(held.fetched_at, held.fresh_for):
            return held
        return await self._shared("discovery", self._fetch_discovery)

    async def _fetch_discovery(self) -> Discovery:
        held = self._discovery
        try:
            answer = await self._get_control("GetOpenIdConfiguration", self.config.discovery_url, calls=self._log)
        except TransientError:
            if held is None or self._clock.now() >= held.fetched_at + DISCOVERY_STALE_MAX:
                raise
            log.warning("discovery document kept beyond its age", lfi=self.config.slug)
            self._discovery = replace(held, fresh_for=self._clock.now() - held.fetched_at + DISCOVERY_RETRY_EVERY)
            return self._discovery
        self._discovery = read_discovery(
            _document(answer),
            config=self.config,
            fetched_at=self._clock.now(),
            fresh_for=max(
                DISCOVERY_AGE_MIN, fresh_for(answer.headers.get("cache-control", ""), at_most=DISCOVERY_AGE_MAX)
            ),
        )
        return self._discovery

    async def _published_keys(self, *, forced: bool = False) -> Mapping[str, RSAKey]:
        """The LFI's signature keys, cached for at most 300 s; a forced fetch happens at most once a minute."""
        held, now = self._keys, self._clock.now()
        if held is not None and now < held.good_until and not (forced and now - held.fetched_at >= JWKS_FORCED_EVERY):
            return held.by_kid
        return (await self._shared("jwks", self._fetch_keys)).by_kid

    async def _fetch_keys(self) -> _Keys:
        url = (await self.discovery()).jwks_uri
        answer = await self._get_control("GetJwks", url, calls=self._log)
        keep = fresh_for(answer.headers.get("cache-control", ""), at_most=JWKS_AGE_MAX)
        fetched_at = self._clock.now()
        self._keys = _Keys(jose.read_keys(_document(answer)), fetched_at, fetched_at + keep)
        return self._keys

    async def _shared(self, name: str, fetch: Callable[[], Awaitable[T]]) -> T:
        """Run one fetch at a time under a name; all who ask meanwhile share its outcome, also its failure.

        The fetch outlives a caller that is cancelled, for the others' sake; it has deadlines of its own.
        """
        task = self._in_flight.get(name)
        if task is None:
            task = self._in_flight[name] = asyncio.ensure_future(fetch())
            task.add_done_callback(lambda done: self._landed(name, done))
        return cast("T", await asyncio.shield(task))

    def _landed(self, name: str, task: asyncio.Future[Any]) -> None:
        self._in_flight.pop(name, None)
        if not task.cancelled():
            task.exception()  # looked at, in case every caller has left

    # authorisation and tokens

    async def push_authorization(
        self, details: list[dict[str, Any]], *, state: str, nonce: str, code_challenge: str, calls: CallLog
    ) -> PushedAuthorization:
        """Push one authorisation request; never repeated here.

        Args:
            details: exactly one RAR, from `standard.consents.authorization_details`.

        Raises:
            ClientRejectedError, RefusedError, LFIRateLimitedError, LFIUnavailableError, StandardViolationError,
            SetupError: see `oauth.read_pushed` and `discovery`.
        """
        discovery = await self.discovery()
        request = jose.request_object(
            details,
            key=self.config.signing_key,
            client_id=self.config.client_id,
            issuer=discovery.issuer,
            redirect_uri=self.config.redirect_uri,
            state=state,
            nonce=nonce,
            code_challenge=code_challenge,
            now=self._clock.now(),
        )
        form = {"request": request}
        if self.config.par_client_id:
            form["client_id"] = self.config.client_id
        answer = await self._post(
            "CreatePushedAuthorizationRequest",
            discovery.pushed_authorization_request_endpoint,
            form,
            lane=Lane.CONTROL,
            discovery=discovery,
            calls=calls,
        )
        return oauth.read_pushed(answer, received_at=self._clock.now())

    async def authorization_url(self, request_uri: str) -> str:
        """The address the user opens to decide about a pushed request.

        Raises:
            as `discovery`.
        """
        endpoint = (await self.discovery()).authorization_endpoint
        return oauth.authorization_url(endpoint, client_id=self.config.client_id, request_uri=request_uri)

    async def ready_to_exchange(self) -> Mapping[str, RSAKey]:
        """Fetch whatever an exchange needs beside the code, and wait until the call may start.

        A code is good once.  What can fail before it is sent, fails here, while nothing is used up.

        Returns:
            The LFI's signature keys, for `exchange_code`.

        Raises:
            GateClosedError, LFIBreakerOpenError: not now.
            as `discovery`.
        """
        await self.discovery()
        keys = await self._published_keys()
        await self.admit(OperationClass.TOKEN)
        return keys

    async def exchange_code(
        self,
        code: SecretStr,
        *,
        code_verifier: SecretStr,
        nonce: str,
        calls: CallLog,
        keys: Mapping[str, RSAKey] | None = None,
        interaction_id: str = "",
    ) -> TokenAnswer:
        """Trade an authorisation code for tokens, once; an ID token in the answer is verified.

        Args:
            interaction_id: as for `refresh`.
            keys: from `ready_to_exchange`; fetched now unless given.

        Raises:
            GrantLostError: `invalid_grant`: code too old, used, or not ours; the authorisation starts again.
            StandardViolationError: the ID token does not hold.
            and those of `refresh`.
        """
        if keys is None:
            keys = await self._published_keys()  # fetched first and kept: their absence must not cost us the answer
        answer = await self._token_call(
            {
                "grant_type": "authorization_code",
                "code": code.get_secret_value(),
                "redirect_uri": self.config.redirect_uri,
                "code_verifier": code_verifier.get_secret_value(),
            },
            calls=calls,
            interaction_id=interaction_id,
        )
        if answer.id_token is not None:
            await self._check_id_token(answer.id_token, keys, nonce=nonce)
        return answer

    async def refresh(self, refresh_token: SecretStr, *, calls: CallLog, interaction_id: str = "") -> TokenAnswer:
        """Trade a refresh token for new tokens: one attempt, never repeated here (rule 20).

        Args:
            interaction_id: from `standard.interaction`, when it has to be known before; a fresh one unless given.

        Raises:
            GrantLostError: `invalid_grant`, with that as `cause`.
            ClientRejectedError: the LFI does not accept us as a client.
            RefusedError: another definite refusal, such as `invalid_request`.
            LFIRateLimitedError: 429.
            LFIUnavailableError: no definite answer; the token is in doubt.
            SetupError, StandardViolationError: discovery failed before anything was sent.
        """
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.get_secret_value()}
        return await self._token_call(form, calls=calls, interaction_id=interaction_id)

    async def prove_registration(self) -> TokenAnswer:
        """Get a client-credentials token that nobody will use, once: the LFI gives it to a client it knows.

        Raises:
            as `refresh`.
        """
        return await self._credentials_call(CONSENT_SCOPE)

    async def published_kids(self) -> tuple[str, ...]:
        """The `kid` of every signature key the LFI publishes.

        Raises:
            as `discovery`.
        """
        return tuple(sorted(await self._published_keys()))

    async def _credentials_call(self, scope: str) -> TokenAnswer:
        form = {"grant_type": "client_credentials", "scope": scope}
        return await self._token_call(form, calls=self._log, announce=self._announce)

    async def _token_call(
        self,
        form: Mapping[str, str],
        *,
        calls: CallLog,
        interaction_id: str = "",
        announce: Announce | None = None,
    ) -> TokenAnswer:
        discovery = await self.discovery()
        answer = await self._post(
            "CreateAccessTokenRequest",
            discovery.token_endpoint,
            {**form, "client_id": self.config.client_id},
            lane=Lane.TOKEN,
            discovery=discovery,
            calls=calls,
            interaction_id=interaction_id,
            announce=announce,
        )
        return oauth.read_tokens(answer, received_at=self._clock.now())

    async def _post(
        self,
        operation: str,
        url: str,
        form: Mapping[str, str],
        *,
        lane: Lane,
        discovery: Discovery,
        calls: CallLog,
        interaction_id: str = "",
        announce: Announce | None = None,
    ) -> Answer:
        """POST a form with a fresh client assertion, exactly once.

        Args:
            announce: hears of the call before it is sent; `None`: it is known already, or need not be.

        Raises:
            LFIUnavailableError: no definite answer, whatever the reason.
            StoreUnavailableError, StoreRefusedError: it could not be announced; nothing was sent.
        """
        assertion = jose.client_assertion(
            key=self.config.signing_key,
            client_id=self.config.client_id,
            issuer=discovery.issuer,
            now=self._clock.now(),
        )
        request = Request(
            operation=operation,
            method="POST",
            url=url,
            lane=lane,
            deadline=self.config.token_timeout,
            calls=calls,
            code_of=oauth.oauth_error_code,
            form={
                **form,
                "client_assertion_type": oauth.ASSERTION_TYPE,
                "client_assertion": assertion.get_secret_value(),
            },
            interaction_id=interaction_id,
        )
        if announce is not None:
            at = self._clock.now()
            request = msgspec.structs.replace(request, interaction_id=new_interaction_id(at))
            await announce(operation, request.interaction_id, at)
        try:
            answer = await self._attempts.make(request)
        except (UnfitAnswerError, UntrustedServerError) as error:
            raise LFIUnavailableError(f"{operation}: no answer that can be read: {error}") from error
        return answer

    async def _check_id_token(self, id_token: SecretStr, keys: Mapping[str, RSAKey], *, nonce: str) -> None:
        try:
            claims = jose.verify(id_token, keys)
        except jose.UnknownKeyError:
            claims = jose.verify(id_token, await self._published_keys(forced=True))
        jose.check_id_token(
            claims, issuer=self.config.issuer, client_id=self.config.client_id, nonce=nonce, now=self._clock.now()
        )

    # consents

    async def read_consent(
        self, consent_id: ConsentId, *, version: Version | None = None, calls: CallLog
    ) -> ConsentView:
        """Ask the Hub for one consent, with a client-credentials token of our own.

        Args:
            version: whose base URL to ask at; the newest declared one when not given.

        Raises:
            RefusedError: 400, 403 or 404: perhaps unknown there; or 401 twice.
            LFIRateLimitedError, LFIUnavailableError, StandardViolationError, ClientRejectedError, SetupError.
        """
        answer = await self._get_consents(
            "GetAccountAccessConsentsConsentId", f"/{_segment(consent_id)}", version=version, calls=calls
        )
        view = _consent(_mapping(answer), operation="GetAccountAccessConsentsConsentId")
        if view.consent_id != consent_id:
            raise StandardViolationError("GetAccountAccessConsentsConsentId: the answer is about another consent")
        return view

    async def patch_consent(
        self,
        consent_id: ConsentId,
        body: Mapping[str, Any],
        *,
        version: Version | None = None,
        calls: CallLog,
    ) -> None:
        """Change a consent at the Hub: revoke it, or switch its event notifications.  Safe to repeat.

        Args:
            body: from `standard.consents.revocation` or `subscription_change`.
            version: as in `read_consent`.

        Raises:
            LFIUnavailableError: no definite answer; the consent itself says whether it arrived.
            RefusedError, LFIRateLimitedError, ClientRejectedError, SetupError: as `read_consent`.
        """
        version = version or max(self.config.base_urls, key=lambda known: known.rank)
        url = f"{self.config.base_url(version)}/account-access-consents/{_segment(consent_id)}"
        await self.own_call(
            "PATCH",
            url,
            scope=CONSENT_SCOPE,
            operation="PatchAccountAccessConsentsConsentId",
            calls=calls,
            headers={"Content-Type": "application/json"},
            body=json_bytes(body),
            good=range(200, 300),
        )

    async def consents_of_base(
        self, base_consent_id: ConsentId, *, version: Version | None = None, calls: CallLog
    ) -> tuple[ConsentView, ...]:
        """Ask the Hub for every consent of a chain, with a client-credentials token of our own.

        The standard answers a bare array here; one wrapped in `Data` is understood too (D-33).

        Args:
            base_consent_id: the root of the chain.
            version: as for `read_consent`.

        Returns:
            The consents in the Hub's order; empty when it knows none (404).

        Raises:
            RefusedError: 400 or 403; or 401 twice.
            LFIRateLimitedError, LFIUnavailableError, StandardViolationError, ClientRejectedError, SetupError.

        Source: Account Information API v2.1-errata2, `GetAccountAccessConsentsByBaseConsentId`.
        """
        operation = "GetAccountAccessConsentsByBaseConsentId"
        query = urlencode({"baseConsentId": base_consent_id}, quote_via=quote)
        try:
            answer = await self._get_consents(operation, f"?{query}", version=version, calls=calls)
        except RefusedError as error:
            if error.status == 404:
                return ()
            raise
        views = tuple(_consent(entry, operation=operation) for entry in _listed(_document(answer), operation=operation))
        if any(base_consent_id not in (view.consent_id, view.base_consent_id or base_consent_id) for view in views):
            raise StandardViolationError(f"{operation}: the answer holds a consent of another chain")
        return views

    async def _get_consents(self, operation: str, below: str, *, version: Version | None, calls: CallLog) -> Answer:
        """GET something below the consents, with a client-credentials token."""
        version = version or max(self.config.base_urls, key=lambda known: known.rank)
        url = f"{self.config.base_url(version)}/account-access-consents{below}"

        async def token(*, rejected: SecretStr | None = None) -> SecretStr:
            return await self._own_token(CONSENT_SCOPE, rejected=rejected)

        request = Request(
            operation=operation,
            method="GET",
            url=url,
            lane=Lane.CONTROL,
            deadline=self.config.call_timeout,
            headers=self._accept,
            calls=calls,
            code_of=oauth.data_error_code,
        )
        return await self._authorised(request, token=token)

    # other families of the standard, with tokens of our own

    def now(self) -> datetime:
        """The time on this client's clock: what its signatures and tokens are dated by."""
        return self._clock.now()

    async def own_token(self, scope: str) -> SecretStr:
        """Our client-credentials token of a scope, good now.

        Raises:
            ClientRejectedError, RefusedError, TransientError, StandardViolationError, SetupError: there is none.
        """
        return await self._own_token(scope, rejected=None)

    async def own_call(
        self,
        method: str,
        url: str,
        *,
        scope: str,
        operation: str,
        calls: CallLog,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        good: Container[int] = (200,),
    ) -> Answer:
        """Make a call that is safe to repeat, with a client-credentials token; short retries inside.

        A signed answer is verified and opened, see `unsigned`.

        Raises:
            RefusedError, LFIRateLimitedError, LFIUnavailableError, StandardViolationError, ClientRejectedError,
            SetupError: as `read_consent`.
        """

        async def token(*, rejected: SecretStr | None = None) -> SecretStr:
            return await self._own_token(scope, rejected=rejected)

        request = self._own_request(method, url, operation=operation, calls=calls, headers=headers or {}, body=body)
        answer = await self._answered(request, token=token)
        answer = await self.unsigned(answer)
        if answer.status not in good:
            raise self._fault(answer, what=operation)
        return answer

    async def own_call_once(
        self,
        method: str,
        url: str,
        *,
        bearer: SecretStr,
        operation: str,
        calls: CallLog,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        """Make a call exactly once, whatever comes of it: nothing here sends it again, or opens a signed answer.

        Limits, gate and breaker are not asked: `admit` before the call is noted anywhere.

        Raises:
            LFIUnavailableError, StandardViolationError, SetupError: no answer that can be read.  Whether the LFI has
                the request is not known, whatever the reason.
        """
        request = self._own_request(method, url, operation=operation, calls=calls, headers=headers, body=body)
        return await self._attempts.make(request, bearer=bearer)

    def _own_request(
        self,
        method: str,
        url: str,
        *,
        operation: str,
        calls: CallLog,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Request:
        return Request(
            operation=operation,
            method=method,
            url=url,
            lane=Lane.CONTROL,
            deadline=self.config.call_timeout,
            headers=headers,
            calls=calls,
            code_of=oauth.data_error_code,
            body=body,
        )

    async def unsigned(self, answer: Answer) -> Answer:
        """An answer of another family as it would be unsigned: told apart by its shape, since files and media types
        disagree, and whatever `signed_answers` says of data.

        A refusal whose signature does not hold, or cannot be checked now, keeps its status and loses its body.

        Raises:
            StandardViolationError: a good answer that is not signed by the LFI, or not for us, or not now.
            TransientError, SetupError, RefusedError: its keys could not be read.
        """
        text = answer.body.strip()
        if not _COMPACT.fullmatch(text):
            return answer
        try:
            message = await self._message(text, interaction_id=answer.interaction_id)
        except SyncWorkerError:
            if 200 <= answer.status < 300:
                raise
            message = b""
        return _holding(answer, message)

    def forget_own_token(self, scope: str, token: SecretStr) -> None:
        """Do not use a client-credentials token again: the LFI took it for none."""
        held = self._own_tokens.get(scope)
        if held is not None and held.access_token == token:
            del self._own_tokens[scope]

    async def _own_token(self, scope: str, *, rejected: SecretStr | None) -> SecretStr:
        """Our client-credentials token of a scope, fetched once for all who wait and kept until its margin."""
        held, certificate = self._own_tokens.get(scope), self.certificate.thumbprint
        if held is not None and held.access_token != rejected and held.certificate == certificate:  # rule 23
            margin = min(MARGIN_MAX, timedelta(seconds=held.expires_in * MARGIN_SHARE))
            if self._clock.now() < shifted(held.expires_at, -margin):
                return held.access_token

        async def fetch() -> SecretStr:
            answer = self._own_tokens[scope] = await self._credentials_call(scope)
            return answer.access_token

        return await self._shared(f"token {scope}", fetch)

    # data

    async def pages(
        self,
        resource: Resource,
        account_id: AccountId | None,
        *,
        version: Version,
        params: Mapping[str, str],
        token: TokenSource,
        calls: CallLog,
        pages_max: int = PAGES_MAX,
        attendance: Attendance | None = None,
        ids: Interactions | None = None,
    ) -> AsyncIterator[Page]:
        """Yield the pages of one listing, first to last, as the LFI sent them.

        Follows `Links.Next` until it is absent: its query verbatim, at the listing's own address whatever host the link
        names (`bounds.home_link`).  The token is asked for before each page, since a long walk outlives one; a 401
        asks once for a newer one.

        Args:
            account_id: for resources below an account, otherwise `None`.
            params: query of the first page, e.g. the window's two instants.
            attendance: only when the customer is present.
            ids: makes the interaction ids of a run; each attempt has one of its own.

        Raises:
            LFIUnavailableError, LFIRateLimitedError: worth another try later; pages already yielded stay valid.
            RefusedError: 400, 403, 404 and other 4xx; 401 twice.
            StandardViolationError: a page that cannot be read, a link to another path, a loop, more than `pages_max`.
            ConsentError, TransientError: from the token source.

        Source: Account Information API v2.1-errata2, `Links`, `Meta`; `domain.md` §5.1.
        """
        base_url = self.config.base_url(version)
        headers = {**self._accept, **attendance.headers()} if attendance else self._accept
        listing_url = first_url(base_url, resource, account_id, {})
        url: str | None = first_url(base_url, resource, account_id, params) if params else listing_url
        seen: set[str] = set()
        while url is not None:
            if len(seen) == pages_max:
                raise EndlessListingError(
                    f"{resource.operation}: more than {pages_max} pages", note=EndlessListingError.NEVER_ENDS
                )
            if url in seen:
                raise EndlessListingError(
                    f"{resource.operation}: Links.Next leads round in a circle", note=EndlessListingError.REPEATS_ITSELF
                )
            seen.add(url)
            request = Request(
                operation=resource.operation,
                method="GET",
                url=url,
                lane=Lane.DATA,
                deadline=self.config.call_timeout,
                headers=headers,
                calls=calls,
                code_of=oauth.data_error_code,
                attended=attendance is not None,
                ids=ids,
            )
            try:
                answer = await self._authorised(request, token=token)
            except RefusedError as error:
                error.page = len(seen)
                raise
            try:
                page = read_page(answer, number=len(seen), listing_url=listing_url)
            except StandardViolationError as error:
                kind = TruncatedError if isinstance(error, TruncatedError) else StandardViolationError
                raise kind(f"{resource.operation}, page {len(seen)}: {error}") from error
            yield page
            url = page.next_url

    async def _authorised(self, request: Request, *, token: TokenSource) -> Answer:
        """GET with a bearer token; a signed answer is opened, another status than 200 raised."""
        answer = await self._answered(request, token=token)
        if self._accept or _is_signed(answer):
            answer = await self._opened(answer, what=request.operation)
        if answer.status != 200:
            raise self._fault(answer, what=request.operation)
        return answer

    async def _answered(self, request: Request, *, token: TokenSource) -> Answer:
        """Call with a bearer token, short retries inside; after a 401 once more with a newer token, if there is one."""
        bearer = await token()
        answer = await self._repeated(request, bearer)
        if _refuses_token(answer):
            newer = await token(rejected=bearer)
            if newer != bearer:
                answer = await self._repeated(request, newer)
        return answer

    async def _opened(self, answer: Answer, *, what: str) -> Answer:
        """An answer as it would be unsigned: a signed one verified and opened, as the LFI's `signed_answers` has it.

        An error whose signature does not hold keeps its status and loses its code.

        Raises:
            StandardViolationError: a signed answer that does not hold, or an unsigned one where none is taken.
        """
        wanted, good = self.config.signed_answers, answer.status == 200
        if not _is_signed(answer):
            if good and wanted is SignedAnswers.REQUIRE:
                raise StandardViolationError(f"{what}: the answer is not signed, and signed_answers is require")
            return answer
        if wanted is SignedAnswers.REFUSE:
            return answer  # no reader takes this media type
        try:
            message = await self._message(answer.body, interaction_id=answer.interaction_id)
        except StandardViolationError as error:
            if good:
                raise StandardViolationError(f"{what}: {error}") from error
            message = UNVERIFIED
        return _holding(answer, message)

    async def _message(self, body: bytes, *, interaction_id: str = "") -> bytes:
        """What a signed answer holds; an unknown `kid` is worth one fresh look at the LFI's keys."""

        def opened(keys: Mapping[str, RSAKey]) -> jose.OpenedAnswer:
            return jose.open_answer(
                body,
                keys,
                client_id=self.config.client_id,
                now=self._clock.now(),
                complete=self.config.signed_answers is SignedAnswers.REQUIRE,
            )

        try:
            answer = opened(await self._published_keys())
        except jose.UnknownKeyError:
            answer = opened(await self._published_keys(forced=True))
        if answer.issuer != self.config.issuer and not self._foreign_issuer_told:
            self._foreign_issuer_told = True
            log.warning(
                "signed answers name another issuer than the LFI's",
                lfi=self.config.slug,
                interaction_id=interaction_id,
            )
        return answer.message

    async def _repeated(self, request: Request, bearer: SecretStr | None) -> Answer:
        """Make a GET up to three times within 20 s while the LFI is unavailable; each attempt is built afresh."""
        began = monotonic()
        try:
            return await self._attempt(request, bearer, 1)
        except LFIUnavailableError as error:
            first = error
        told = False
        async for trial in self._retrying(RETRY_WITHIN_S - (monotonic() - began)):
            with trial:
                if not told:  # the first attempt is told again to who counts: most calls need no counting
                    told = True
                    raise first
                result = await self._attempt(request, bearer, trial.retry_state.attempt_number)
        return result

    async def _attempt(self, request: Request, bearer: SecretStr | None, number: int) -> Answer:
        """One attempt, as soon as the limits let it through; raises when the LFI is unavailable."""
        waiting = self._traffic.admit(class_of(request.operation))
        if waiting is not None:
            await waiting
        answer = await self._attempts.make(request, bearer=bearer, attempt=number)
        if answer.status >= 500:
            raise self._fault(answer, what=request.operation)
        return answer

    def _retrying(self, within_s: float) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(_is_worth_a_short_retry),
            stop=stop_any(stop_after_attempt(ATTEMPTS_MAX), stop_before_delay(within_s), _Spent(self._traffic)),
            wait=wait_random_exponential(multiplier=0.5, max=5),
            sleep=self._sleep,
            reraise=True,
        )

    async def _get_control(self, operation: str, url: str, *, calls: CallLog) -> Answer:
        """GET a public document of the LFI, with short retries."""
        request = Request(
            operation=operation,
            method="GET",
            url=url,
            lane=Lane.CONTROL,
            deadline=self.config.token_timeout,
            calls=calls,
            code_of=oauth.oauth_error_code,
        )
        answer = await self._repeated(request, None)
        if answer.status != 200:
            raise self._fault(answer, what=operation)
        return answer

    def _fault(self, answer: Answer, *, what: str) -> SyncWorkerError:
        return fault_of_get(answer, what=what, now=self._clock.now())


def first_url(base_url: str, resource: Resource, account_id: AccountId | None, params: Mapping[str, str]) -> str:
    """The URL of a listing's first page; the account id is encoded, never pasted (rule 34).

    Raises:
        ValueError: the resource lies below an account and none is given, or the other way round.
        StandardViolationError: an AccountId that cannot stand in a path.
    """
    if resource.per_account != (account_id is not None):
        raise ValueError(f"{resource.name}: account_id is for resources below an account, and only for them")
    path = resource.path if account_id is None else resource.path.replace("{AccountId}", _segment(account_id))
    return f"{base_url}{path}" + (f"?{urlencode(params, quote_via=quote)}" if params else "")


def read_page(answer: Answer, *, number: int, listing_url: str) -> Page:
    """Take the envelope off a page of the data API and leave `Data` as it is.

    Args:
        listing_url: where the first page was asked for, without its query: `Links.Next` leads there or is refused.

    Unknown members are ignored, and a `Meta` that cannot be read counts as none: only `Data` and `Links.Next` matter.
    Where a strict reader refuses something inside `Data`, `Page.data` is `PartlyReadable`: each item is read by itself.

    Raises:
        StandardViolationError: not JSON within bounds outside `Data`, no `Data` object, or a link that leads away.
    """
    body = json_body(answer.body, answer.headers.get("content-type", ""))
    fault = fault_of_json(body)
    envelope = None if fault else _envelope(body)
    if envelope is None:
        envelope = _split_envelope(body, fault)
        data: bytes = PartlyReadable(envelope.Data)
    else:
        data = bytes(envelope.Data)
    if not data.startswith(b"{"):
        raise StandardViolationError("Data: not an object")
    link = envelope.Links.Next if envelope.Links else None
    meta = _read_meta(envelope.Meta)
    return Page(
        number=number,
        data=data,
        next_url=home_link(link, listing_url=listing_url) if link else None,
        total_pages=meta.TotalPages,
        first_available=_instant(meta.FirstAvailableDateTime),
        last_available=_instant(meta.LastAvailableDateTime),
    )


def _envelope(body: bytes) -> _Envelope | None:
    """The envelope, when a strict reader takes the whole body."""
    try:
        return _ENVELOPE.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _split_envelope(body: bytes, fault: Fault | None) -> _Envelope:
    """The envelope of a body that a strict reader refused: what stands outside `Data` must be readable.

    Raises:
        StandardViolationError: it is not; says what the reader said of the whole.
    """
    refused = f"body: {FAULTS[fault]}" if fault else "body: no JSON object with Data and Links"
    try:
        found = members(body)
        links = found.get("Links", b"null")
        if fault_of_json(links) is None:
            meta = found.get("Meta", b"{}")
            return _Envelope(
                Data=msgspec.Raw(found["Data"]),
                Links=_LINKS.decode(links),
                Meta=msgspec.Raw(b"{}" if fault_of_json(meta) else meta),
            )
    except (KeyError, ValueError, msgspec.MsgspecError, RecursionError):  # a cause may quote the body
        pass
    raise StandardViolationError(refused)


def fault_of_get(answer: Answer, *, what: str, now: datetime) -> SyncWorkerError:
    """The error that says who has to act after a GET whose answer is not 200, with the LFI's words.

    Source: `domain.md` §6.2.
    """
    return _fault_of_get(answer, what=what, now=now).saying(reason_of(answer.body))


def _fault_of_get(answer: Answer, *, what: str, now: datetime) -> SyncWorkerError:
    status, code = answer.status, oauth.data_error_code(answer)
    wait = oauth.retry_after(answer.headers, now=now)
    if status == 429:
        return LFIRateLimitedError(f"{what}: 429", retry_after=wait)
    if status >= 500:
        return LFIUnavailableError(f"{what}: status {status}", retry_after=wait)
    if 400 <= status < 500:
        return RefusedError(
            f"{what}: status {status}{f', {code}' if code else ''}",
            status=status,
            error_code=code,
            content_type=media_type_of(answer.headers.get("content-type", ""))[:64],
            body=oauth.data_error_body(answer),
        )
    return StandardViolationError(f"{what}: status {status} where the standard has 200; redirects are not followed")


def _refuses_token(answer: Answer) -> bool:
    """401, or the code that v1.2 lists for every status."""
    return answer.status == 401 or (
        answer.status in (400, 403) and oauth.data_error_code(answer) == "AccessToken.Unauthorized"
    )


class _Spent(stop_base):
    """Ends the retries where the budget does.  Asked last, when nothing else does: the budget counts the retry then."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def __call__(self, retry_state: RetryCallState) -> bool:
        return not self._traffic.may_retry()


def _is_worth_a_short_retry(error: BaseException) -> bool:
    if isinstance(error, LFIBreakerOpenError):  # nothing was sent, and nothing is to be
        return False
    return isinstance(error, LFIUnavailableError) and (error.retry_after or 0) <= RETRY_AFTER_PATIENCE_S


def _document(answer: Answer) -> object:
    """Any JSON document, within bounds.

    Raises:
        StandardViolationError: it is none.
    """
    body = check_json(answer.body, answer.headers.get("content-type", ""))
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        raise StandardViolationError("body: not JSON") from None


def _mapping(answer: Answer) -> Mapping[str, Any]:
    document = _document(answer)
    if not isinstance(document, dict):
        raise StandardViolationError("body: not a JSON object")
    return document


def _listed(document: object, *, operation: str) -> list[object]:
    """The entries of a list that stands bare, or under `Data`; a single one under `Data` is a list of one."""
    listed = document.get("Data", document) if isinstance(document, dict) else document
    if isinstance(listed, dict) and "ConsentId" in listed:
        return [listed]
    if not isinstance(listed, list):
        raise StandardViolationError(f"{operation}: no list of consents")
    return listed


def _consent(payload: object, *, operation: str) -> ConsentView:
    try:
        return read_consent(cast("Mapping[str, Any]", payload))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise StandardViolationError(f"{operation}: the consent cannot be read") from error


def _segment(identifier: str) -> str:
    """An id as one path segment.  Dots are no characters to encode, so the two special names are refused."""
    if identifier.isalnum() and identifier.isascii():
        return identifier
    if not identifier or identifier in (".", ".."):
        raise StandardViolationError("id: cannot stand in a path")
    return quote(identifier, safe="")


def _read_meta(raw: msgspec.Raw) -> _Meta:
    try:
        return _META.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return _Meta()


def _is_signed(answer: Answer) -> bool:
    return media_type_of(answer.headers.get("content-type", "")) == JWT


def _holding(answer: Answer, message: bytes) -> Answer:
    """A signed answer as it would be unsigned."""
    headers = {**answer.headers, "content-type": "application/json"}
    return msgspec.structs.replace(answer, body=message, headers=headers)


@lru_cache(maxsize=1024)  # an LFI says the same of all its accounts, page after page
def _instant(text: str | None) -> datetime | None:
    try:
        return read_instant(text)[0] if text else None
    except ValueError:
        return None
