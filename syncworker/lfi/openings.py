"""Account opening at one LFI: ask for one, look at it, switch its events.

The POST that creates has no idempotency and is made exactly once: `prepare` does everything that may fail without harm
(discovery, scope, token, signature), the caller then notes its intent, and `create` sends.  What `create` cannot tell
is an `InDoubtError`, never a retry.  Answers come as JSON or as a signed JWT around it (D-23): told apart by their
shape, since content types differ between documents.

Sources: Account Opening API v2.0-errata1 and v2.1; Account Opening Service Initiation API Guide v2.0; `domain.md` §8.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

import msgspec
from pydantic import SecretStr

from syncworker.errors import (
    LFIRateLimitedError,
    RefusedError,
    RequestError,
    SettingsError,
    SetupError,
    StandardViolationError,
    SyncWorkerError,
)
from syncworker.lfi import jose
from syncworker.lfi.api import LFIClient, fault_of_get
from syncworker.lfi.bounds import check_json
from syncworker.lfi.transport import Answer, CallLog
from syncworker.standard.json_text import json_bytes
from syncworker.standard.openings import DIALECTS, SCOPE, OpeningVersion, OpeningView, read_opening, subscription_change
from syncworker.standard.operations import OperationClass
from syncworker.standard.values import AccountId

LIFETIME: Final = timedelta(minutes=5)
"""Of the signed request, from its `nbf`; the standard's most."""

JWT: Final = "application/jwt"
ACCEPT: Final = "application/json, application/jwt"
CREATE: Final = "CreateAccount_signedRequest"
READ: Final = "Account_read"
SUBSCRIBE: Final = "UpdateWebhookSubscription_update"
_MAYBE: Final = frozenset({408, 425, 499})
"""4xx by which a server or a proxy says that it gave up waiting: no word about the request itself."""


class InDoubtError(SyncWorkerError):
    """No answer says whether the LFI took the request: it is never sent again, and a person finds out.

    Attributes:
        because: stable code of what went wrong.
        status: HTTP status, if an answer began.
    """

    code = "opening_in_doubt"

    def __init__(self, message: str, *, because: str, status: int | None = None) -> None:
        super().__init__(message)
        self.because = because
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A signed request, ready to be sent once; it lives for less than five minutes."""

    version: OpeningVersion
    url: str
    bearer: SecretStr
    body: bytes = field(repr=False)


class OpeningCalls:
    """The account-opening API of one LFI."""

    def __init__(self, client: LFIClient) -> None:
        self._client = client

    @property
    def version(self) -> OpeningVersion:
        """The version new requests are made in.

        Raises:
            SettingsError: the feature is off for this LFI.
        """
        config = self._client.config
        if config.openings is None:
            known = ", ".join(DIALECTS)
            raise SettingsError(
                f"lfis.{config.slug}.openings: account opening is off for this LFI; set it to one of {known}, and "
                "openings_urls to where the LFI serves it"
            )
        return config.openings

    async def prepare(self, message: bytes) -> Prepared:
        """Do everything a creation needs before it is sent; nothing has reached the account-opening API after it.

        Args:
            message: the JSON body, checked.

        Raises:
            SetupError: the feature is off, the LFI does not offer the scope, or we are not set up there.
            GateClosedError, LFIBreakerOpenError: not now; says when.
            RefusedError, TransientError, StandardViolationError: no token.
        """
        config, version = self._client.config, self.version
        url = f"{config.openings_url(version)}/accounts"
        await self._check_scope()
        await self._client.admit(OperationClass.OPENING)
        bearer = await self._client.own_token(SCOPE)
        body = jose.signed_message(
            message,
            key=config.signing_key,
            issuer=config.openings_iss or config.client_id,
            audience=config.openings_aud or config.issuer,
            now=self._client.now(),
            lifetime=LIFETIME,
        )
        return Prepared(version=version, url=url, bearer=bearer, body=body.encode())

    async def create(self, prepared: Prepared, *, calls: CallLog) -> tuple[OpeningView, int]:
        """Send a prepared request, exactly once; what the LFI made of it, and the HTTP status.

        Raises:
            RefusedError, LFIRateLimitedError: a definite no; nothing was created.
            InDoubtError: anything else.
        """
        try:
            answer = await self._client.own_call_once(
                "POST",
                prepared.url,
                bearer=prepared.bearer,
                operation=CREATE,
                calls=calls,
                headers={"Content-Type": JWT, "Accept": ACCEPT},
                body=prepared.body,
            )
        except SyncWorkerError as error:
            because = getattr(error, "reason", None) or error.code
            begun = getattr(error, "status", None)  # of an answer that was cut
            raise InDoubtError(f"{CREATE}: no answer ({because})", because=because, status=begun) from error
        status = answer.status
        if 400 <= status < 500 and status not in _MAYBE:
            if status == 401:
                self._client.forget_own_token(SCOPE, prepared.bearer)
            raise self._refusal(await self._client.unsigned(answer))
        if not 200 <= status < 300:
            raise InDoubtError(f"{CREATE}: status {status}", because=f"http_{status}", status=status)
        try:
            return _view(await self._client.unsigned(answer), what=CREATE), status
        except SyncWorkerError as error:
            text = f"{CREATE}: the LFI said yes, in an answer that cannot be read ({error})"
            raise InDoubtError(text, because=error.code, status=status) from error

    async def read(self, account_id: AccountId, *, version: OpeningVersion, calls: CallLog) -> OpeningView:
        """Ask how an opening stands, at the path of its version, and where that is not there at the other one.

        Raises:
            RefusedError: 404 at both, or another refusal.
            LFIRateLimitedError, LFIUnavailableError, StandardViolationError, ClientRejectedError, SetupError.
        """
        dialect = DIALECTS[version]
        try:
            answer = await self._get(dialect.read, account_id, version, calls)
        except RefusedError as error:
            if error.status not in (404, 405):
                raise
            answer = await self._get(dialect.read_else, account_id, version, calls)
        return _view(answer, what=READ)

    async def subscribe(
        self, account_id: AccountId, *, version: OpeningVersion, active: bool, url: str | None, calls: CallLog
    ) -> None:
        """Switch the event notifications of an opening.  Safe to repeat.

        Raises:
            RequestError: its version cannot.
            RefusedError, LFIRateLimitedError, LFIUnavailableError, ClientRejectedError, SetupError.
        """
        path = DIALECTS[version].subscription
        if path is None:
            raise RequestError(
                f"subscription: {version.value} has no way to change it; it stays as it was when the opening was asked"
            )
        body = subscription_change(version, is_active=active, url=url)
        await self._client.own_call(
            "PATCH",
            self._url(path, account_id, version),
            scope=SCOPE,
            operation=SUBSCRIBE,
            calls=calls,
            headers={"Content-Type": "application/json"},
            body=json_bytes(body),
            good=range(200, 300),
        )

    async def _get(self, path: str, account_id: AccountId, version: OpeningVersion, calls: CallLog) -> Answer:
        return await self._client.own_call(
            "GET",
            self._url(path, account_id, version),
            scope=SCOPE,
            operation=READ,
            calls=calls,
            headers={"Accept": ACCEPT},
        )

    def _url(self, path: str, account_id: AccountId, version: OpeningVersion) -> str:
        if account_id in (".", ".."):
            raise StandardViolationError("AccountId: cannot stand in a path")
        base = self._client.config.openings_url(version)
        return base + path.replace("{AccountId}", quote(account_id, safe=""))

    async def _check_scope(self) -> None:
        """An LFI that lists its scopes without this one does not offer it (D-24)."""
        config = self._client.config
        scopes = (await self._client.discovery()).raw.get("scopes_supported")
        if isinstance(scopes, list) and SCOPE not in scopes:
            raise SetupError(
                f"lfis.{config.slug}.openings: the LFI's scopes_supported does not list {SCOPE}, so it does not offer "
                "account opening; remove the setting until it does"
            )

    def _refusal(self, answer: Answer) -> SyncWorkerError:
        fault = fault_of_get(answer, what=CREATE, now=self._client.now())
        if isinstance(fault, RefusedError | LFIRateLimitedError):
            return fault
        return RefusedError(f"{CREATE}: status {answer.status}", status=answer.status).saying(fault.lfi_reason)


def _view(answer: Answer, *, what: str) -> OpeningView:
    """What an answer says.

    Raises:
        StandardViolationError: it cannot be read.
    """
    try:
        return read_opening(_document(answer.body))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise StandardViolationError(f"{what}: the answer cannot be read") from error


def _document(text: bytes) -> Mapping[str, Any]:
    text = check_json(text, "application/json")
    try:
        document = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        raise StandardViolationError("body: not JSON") from None
    if not isinstance(document, Mapping):
        raise StandardViolationError("body: no JSON object")
    return document


def refused_with(error: RefusedError | LFIRateLimitedError) -> tuple[int, str]:
    """HTTP status and code of a refusal, for the row."""
    if isinstance(error, RefusedError):
        return error.status, error.error_code or f"http_{error.status}"
    return 429, error.code
