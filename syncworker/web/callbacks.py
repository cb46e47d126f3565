"""Users' browsers, on their way to the bank and back.

`GET /v1/authorize/{id}` is the link the product sends its user's browser to.  It pushes the request then and there,
binds it to the browser by a cookie, and leads on to the bank.  `GET /callback` is where the bank leads back to: the
state must be ours and unused and the browser the one that set out; then `Authorizer.complete` checks the rest and
exchanges the code once.  Each ending is a state with a page of its own (`pages`); a reload changes nothing.

The cookie lives for the ten minutes an answer may take.  It holds nothing but the seal of our key ring over the
request's `state`, so every web process can check it and nobody else can make it.  Over TLS it is `Secure` and called
`__Host-…`, which no other host of the domain can set; on plain http, on this machine alone, it is neither.

Whoever does not read HTML is told by a problem.

Source: `domain.md` §2.4; RFC 9700 §4.7 (binding the answer to the browser).
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import structlog
from fastapi import APIRouter, Request, Response

from syncworker.consents.authorize import AGE_MAX, Authorizer, Ending
from syncworker.errors import AuthorizationFailedError, SealError, SyncWorkerError, TransientError
from syncworker.lfi.bounds import climbs
from syncworker.lfi.oauth import read_redirect
from syncworker.settings import LOOPBACK_HOSTS
from syncworker.standard.consents import Status
from syncworker.store.authorizations import StoredAuthorization, StoredIntent
from syncworker.store.keyring import KeyRing
from syncworker.store.unit_of_work import Store
from syncworker.web import problems
from syncworker.web.events import Pace
from syncworker.web.guard import pass_address
from syncworker.web.pages import WORDS, State, page
from syncworker.web.problems import Code, Problem

AUTHORIZE_PATH: Final = "/v1/authorize/{authorization_id}"
CALLBACK_PATH: Final = "/callback"
STATE_LENGTH: Final = 128
RETRY_AFTER_S: Final = 30

_COOKIE: Final = "syncworker-"
_BOUND: Final = b"bound"

log = structlog.stdlib.get_logger(__name__)


class ReturnURLs:
    """Where users may be sent back to.

    Args:
        allowed: beginnings of URLs, each down to a whole segment of the path.
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = tuple(urlsplit(one) for one in allowed)

    def fault(self, url: str) -> str | None:
        """Why a user may not be sent there; `None` when they may."""
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            return "holds characters no URL has; percent-encode them"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return "is no URL"
        if parts.fragment or parts.username is not None:
            return "must have neither user name nor fragment"
        if climbs(parts.path):
            return "must not climb its path: no dot segments, empty segments or encoded separators"
        for one in self._allowed:
            same = (parts.scheme, parts.hostname, port) == (one.scheme, one.hostname, one.port)
            below = parts.path == one.path or parts.path.startswith(one.path.rstrip("/") + "/")
            if same and below:
                return None
        return "is not within web.return_urls; have the operator add it there"

    def with_result(self, url: str | None, result: Mapping[str, str]) -> str | None:
        """The URL with a result in its query; `None` when there is none or it is no longer allowed."""
        if url is None or self.fault(url) is not None:
            return None
        parts = urlsplit(url)
        kept = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in result]
        return urlunsplit(parts._replace(query=urlencode([*kept, *result.items()])))


def routes(
    *, store: Store, authorizer: Authorizer, keyring: KeyRing, return_urls: ReturnURLs, addresses: Pace, https: bool
) -> APIRouter:
    """The two routes of browsers.

    Args:
        keyring: of the tenant; seals the cookie.
        addresses: how often each address may come.
        https: whether browsers reach us by https, whatever the last hop to us speaks.
    """
    router = APIRouter()
    browsers = _Browsers(keyring, https=https)

    @router.get(
        AUTHORIZE_PATH,
        tags=["authorisations"],
        status_code=HTTPStatus.SEE_OTHER,
        responses={**problems.REFUSALS, 303: {"description": "Leads to the LFI."}},
    )
    async def authorize(request: Request, authorization_id: str) -> Response:
        """The link for the user's browser: pushes the request to the LFI now, and leads there.

        It needs no key: whoever has it may open it.  Send your user's browser there at once, and nobody else.
        """
        pass_address(request, addresses)
        if "prefetch" in f"{request.headers.get('sec-purpose', '')} {request.headers.get('purpose', '')}".lower():
            raise Problem(
                status=HTTPStatus.FORBIDDEN,
                code=Code.PREFETCH,
                detail="a link good for one visit is not fetched ahead",
                fix="open it when the user clicks",
            )
        try:
            started = await authorizer.open(authorization_id)
        except AuthorizationFailedError as error:
            return _ended(request, _state_of(error))
        except TransientError as error:
            log.warning("authorisation not opened", error=error.code)
            return _ended(request, State.UNAVAILABLE)
        except SyncWorkerError as error:
            log.error("authorisation not opened", error=error.code, why=str(error))  # noqa: TRY400  says who has to act
            return _ended(request, State.UNAVAILABLE)
        response = Response(status_code=HTTPStatus.SEE_OTHER.value, headers={"location": started.url})
        browsers.bind(request, response, started.state)
        return response

    @router.get(CALLBACK_PATH, include_in_schema=False)
    async def callback(request: Request) -> Response:
        pass_address(request, addresses)
        try:
            return await called_back(request)
        except TransientError as error:
            log.warning("callback put off", error=error.code)
            return _ended(request, State.UNAVAILABLE)

    async def called_back(request: Request) -> Response:
        query = f"?{request.url.query}"
        try:
            state = read_redirect(query).state
        except AuthorizationFailedError:
            return _ended(request, State.REDIRECT_UNREADABLE)
        row, intent, bank = await _begun(store, state)
        if row is None:
            return _ended(request, State.UNKNOWN_STATE)
        bound = browsers.bound(request, state)
        if row.used_at is not None:
            ended = State.USED
        elif not bound:
            ended = State.WRONG_BROWSER
        else:
            ended = await _complete(store, authorizer, row, query)
        log.info("callback", lfi=row.lfi, consent_id=row.consent_id, state=ended.value)
        if not bound or intent is None:
            return _ended(request, ended)
        result = {
            "result": _result(ended, row),
            "consent_id": row.consent_id,
            "connection_id": row.connection_id or intent.request.base_consent_id or row.consent_id,
        }
        back = return_urls.with_result(intent.return_url, result)
        return _ended(request, ended, facts={"Bank": bank, "Consent": row.consent_id}, back=back)

    return router


class _Browsers:
    """Binds a request to the browser that set out with it."""

    def __init__(self, keyring: KeyRing, *, https: bool) -> None:
        self._keyring = keyring
        self._https = https

    def bind(self, request: Request, response: Response, state: str) -> None:
        secure = self._secure(request)
        seal = self._keyring.seal(_BOUND, table="browser", column="cookie", row=state)
        response.set_cookie(
            _cookie_name(state, secure=secure),
            base64.urlsafe_b64encode(seal).decode(),
            max_age=int(AGE_MAX.total_seconds()),
            path="/",
            secure=secure,
            httponly=True,
            samesite="lax",
        )

    def bound(self, request: Request, state: str) -> bool:
        given = request.cookies.get(_cookie_name(state, secure=self._secure(request)), "")
        try:
            seal = base64.b64decode(given, altchars=b"-_", validate=True)
            return self._keyring.open(seal, table="browser", column="cookie", row=state) == _BOUND
        except (binascii.Error, ValueError, SealError):
            return False

    def _secure(self, request: Request) -> bool:
        here = request.url.scheme == "http" and request.url.hostname in LOOPBACK_HOSTS
        return self._https or not here


def _cookie_name(state: str, *, secure: bool) -> str:
    name = _COOKIE + hashlib.sha256(state.encode()).hexdigest()[:16]
    return f"__Host-{name}" if secure else name


async def _begun(store: Store, state: str) -> tuple[StoredAuthorization | None, StoredIntent | None, str]:
    """What a state belongs to, and what the user calls the bank."""
    if len(state) > STATE_LENGTH or not state.isprintable():
        return None, None, ""
    async with store.reading() as unit:
        row = await unit.authorizations.get(state)
        if row is None:
            return None, None, ""
        bank = await unit.lfis.get(row.lfi)
        name = bank and bank.directory and bank.directory.get("name")
        return row, await unit.intents.of_state(state), str(name or row.lfi)


async def _complete(store: Store, authorizer: Authorizer, row: StoredAuthorization, query: str) -> State:
    """Bring the consent home; how that ended.

    Raises:
        TransientError: not now, and the answer is unused: a reload may serve.
    """
    try:
        completed = await authorizer.complete(query)
    except AuthorizationFailedError as error:
        return _state_of(error)
    except SyncWorkerError as error:
        async with store.reading() as unit:
            now = await unit.authorizations.get(row.state)
        if not isinstance(error, TransientError):  # its text says who has to act
            log.error("callback failed", lfi=row.lfi, consent_id=row.consent_id, error=error.code, why=str(error))  # noqa: TRY400
        elif now is None or now.used_at is None:
            raise
        else:
            log.warning("callback failed", lfi=row.lfi, consent_id=row.consent_id, error=error.code)
        return _state_named(None if now is None else now.outcome)  # who declined did so, whatever failed afterwards
    match completed.status:
        case Status.Authorized:
            return State.AUTHORIZED
        case Status.AwaitingAuthorization:
            return State.AWAITING_AUTHORIZATION
        case _:
            return State.NOT_AUTHORIZED


def _result(ended: State, row: StoredAuthorization) -> str:
    """What the product is told; of a repeated visit, how the first one ended.

    While the first one is still under way its row says `failed`: then it is only said that it was used.
    """
    if ended is State.USED and row.outcome not in {None, Ending.FAILED.value}:
        return str(row.outcome)
    return ended.value


def _state_of(error: AuthorizationFailedError) -> State:
    return _state_named(error.cause)


def _state_named(ending: str | None) -> State:
    try:
        return State(ending or "")
    except ValueError:
        return State.FAILED


def _ended(
    request: Request, state: State, *, facts: Mapping[str, str] | None = None, back: str | None = None
) -> Response:
    words = WORDS[state]
    if words.status < HTTPStatus.BAD_REQUEST or "text/html" in request.headers.get("accept", ""):
        response = page(state, facts=facts, back=back)
    else:
        detail, *_, fix = (words.title, *words.lines)
        response = Problem(status=words.status, code=state.value, detail=detail, fix=fix).response()
    if state is State.UNAVAILABLE:
        response.headers["retry-after"] = str(RETRY_AFTER_S)
    return response
