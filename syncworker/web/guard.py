"""What every request passes, and what every answer carries.

`Guard` stands around the whole application: it bounds the body in size and time before anybody reads it, puts the
security headers on every answer, writes the one line a request gets in the log, and is the loop that outlives what
nobody foresaw.  The log names the route and never the path or the query: a link is a key, a redirect carries a code.

`Keys` tells who asks: an API key in `Authorization: Bearer`, its scopes, its pace.  It is asked before anything of the
body is understood, and asks the database only about what could be a key, from an address within its pace.  Paces are
counted in this process alone; with two web processes each allows the whole of it.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final

import structlog
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope

from syncworker.clock import monotonic
from syncworker.errors import SyncWorkerError
from syncworker.store.api_keys import USE_NOTED_EVERY, Scope, StoredKey, could_be_key
from syncworker.store.unit_of_work import Store
from syncworker.web.events import INTERACTION_ID, Pace, interaction_id
from syncworker.web.events import PATH as EVENTS_PATH
from syncworker.web.problems import CANNOT_BE_SHOWN, Code, Problem

BODY_BYTES_MAX: Final = 64 * 1024
BODY_DEADLINE_S: Final = 10.0
"""For a whole body: who drips it byte by byte is cut off."""

HSTS: Final = "max-age=31536000"
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""On every answer that does not say otherwise."""

KEY_ID: Final = "syncworker.key_id"
"""Member of a request's scope: whose key it came with."""

SCOPES_NEEDED: Final = "x-scopes"
"""Member of an operation's description, until the whole of it is made: the scopes its key must have."""

_PRINCIPAL: Final = "syncworker.principal"

RETRY_AFTER_S: Final = 1
KNOWN_MAX: Final = 1_000

BEARER: Final = HTTPBearer(
    auto_error=False, scheme_name="API key", description="A key of `syncworker apikeys create`, as a bearer token."
)

log = structlog.stdlib.get_logger(__name__)


class Guard:
    """Around the application.

    Args:
        measured: paths whose route bounds the body itself.
        shown: how the answer to a request is sent, from its scope and the way out.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        measured: frozenset[str] = frozenset({EVENTS_PATH}),
        shown: Callable[[ASGIScope, Send], Send] = lambda _, send: send,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._app = app
        self._measured = measured
        self._shown = shown
        self._timer = timer

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        began = self._timer()
        status = 0
        correlated = _correlated(scope)

        async def answered(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _put_headers(MutableHeaders(scope=message), correlated, secure=scope["scheme"] == "https")
            await send(message)

        sent = self._shown(scope, answered)
        try:
            if scope["path"] not in self._measured:
                receive = await _bounded(Headers(scope=scope), receive)
            await self._app(scope, receive, sent)
        except Problem as problem:
            await problem.response()(scope, receive, sent)
        except Exception as error:  # noqa: BLE001  one request's fault is not the next one's
            where = _where(error)
            log.error("request failed", error=type(error).__name__, where=where)  # noqa: TRY400  its text may hold values
            if not status:
                await CANNOT_BE_SHOWN.response()(scope, receive, sent)
        finally:
            route = getattr(scope.get("route"), "path", None)
            log.info(
                "request",
                method=scope["method"],
                route=route,
                status=status,
                ms=round((self._timer() - began) * 1000),
                key=scope.get(KEY_ID),
            )


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    Attributes:
        key_id: the public part of the key.
    """

    key_id: str
    scopes: frozenset[str]

    def may(self, scope: Scope) -> bool:
        return scope.value in self.scopes


@dataclass(frozen=True, slots=True)
class Needs:
    """The scopes that the key of a request must have; gives the request's principal."""

    scopes: tuple[Scope, ...]

    async def __call__(
        self, request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
    ) -> Principal:
        found: Principal = request.scope[_PRINCIPAL]
        for scope in self.scopes:
            demand(found, scope)
        return found


class Keys:
    """Tells who asks, for one tenant.

    Args:
        key_per_second: requests taken of one key.
        reads_per_second: requests of one key that only read data, counted by themselves.
        addresses: the pace of those who come without a key, by address; a wrong key counts as none.
    """

    def __init__(
        self,
        store: Store,
        *,
        key_per_second: float,
        reads_per_second: float,
        addresses: Pace,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._addresses = addresses
        self._pace = Pace(key_per_second, timer=timer)
        self._reads = Pace(reads_per_second, timer=timer)
        self._known: OrderedDict[bytes, None] = OrderedDict()  # hashes of keys that were good when they last came

    def route_class(self, *, reads: bool = False) -> type[APIRoute]:
        """Routes that ask who asks before they read what is asked: a stranger's body is not even parsed.

        Args:
            reads: they only read data, and have the pace of reads.
        """
        keys, pace = self, self._reads if reads else self._pace

        class Keyed(APIRoute):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                needed = [one.call.scopes for one in self.dependant.dependencies if isinstance(one.call, Needs)]
                scopes = sorted({scope.value for those in needed for scope in those})
                self.openapi_extra = {**(self.openapi_extra or {}), SCOPES_NEEDED: scopes}

            def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
                handler = super().get_route_handler()

                async def identified(request: Request) -> Response:
                    request.scope[_PRINCIPAL] = await keys.principal(request, pace)
                    return await handler(request)

                return identified

        return Keyed

    def needs(self, *scopes: Scope) -> "Needs":
        """A dependency of such a route: the principal, whose key has these scopes.

        Raises:
            Problem: the key lacks one.
        """
        return Needs(scopes)

    async def principal(self, request: Request, pace: Pace) -> Principal:
        """Who asks.

        Args:
            pace: that the request counts in.

        Raises:
            Problem: no key, a wrong one, or too many requests.
        """
        found = await self._identified(request, await BEARER(request))
        request.scope[KEY_ID] = found.key_id
        if not pace.allows(found.key_id):
            raise too_many(f"key {found.key_id}")
        return found

    async def known(self, request: Request, given: SecretStr) -> StoredKey | None:
        """The key that came in a form; `None`: it is none, and counts for its address.

        Raises:
            Problem: too many that were none came from there.
        """
        key = await self._looked_up(request, given)
        if key is None:
            pass_address(request, self._addresses)
        return key

    async def _identified(self, request: Request, given: HTTPAuthorizationCredentials | None) -> Principal:
        key = None if given is None else await self._looked_up(request, SecretStr(given.credentials))
        if key is not None:
            return Principal(key.key_id, key.scopes)
        pass_address(request, self._addresses)
        if given is None:
            raise _unauthenticated(
                Code.KEY_MISSING, "no API key came with the request", "send authorization: Bearer <key>"
            )
        raise _unauthenticated(
            Code.KEY_REFUSED,
            "the API key is none of this tenant's, was revoked or has expired",
            "ask the operator for a new one: syncworker apikeys create",
        )

    async def _looked_up(self, request: Request, given: SecretStr) -> StoredKey | None:
        """The key, looked for as long as its address may be wrong; one that was good lately is looked for always."""
        if not could_be_key(given):
            return None
        digest = hashlib.sha256(given.get_secret_value().encode()).digest()
        if digest not in self._known and self._addresses.spent(_address(request)):
            raise too_many("your address")
        key = await self._find(given)
        self._known.pop(digest, None)
        if key is not None:
            self._known[digest] = None
            if len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
        return key

    async def _find(self, given: SecretStr) -> StoredKey | None:
        async with self._store.looking() as unit:  # asked with every request: no transaction around two looks
            found = await unit.api_keys.find_now(given)
        if found is None:
            return None
        key, now = found
        if key.last_used_at is None or now - key.last_used_at >= USE_NOTED_EVERY:
            try:
                await self._store.atomically(lambda unit: unit.api_keys.note_use(key.key_id, at=now))
            except SyncWorkerError as error:  # what was asked matters more than that it was
                log.warning("use of a key not noted", key=key.key_id, error=error.code)
        return key


def demand(principal: Principal, scope: Scope) -> None:
    """Raises the problem of a key without this scope."""
    if not principal.may(scope):
        raise Problem(
            status=HTTPStatus.FORBIDDEN,
            code=Code.SCOPE_MISSING,
            detail=f"the key {principal.key_id} does not have the scope {scope.value}",
            fix=f"use a key created with --scope {scope.value}",
        )


def pass_address(request: Request, addresses: Pace) -> None:
    """Count a request that came without a key; raises the problem of one too many."""
    if not addresses.allows(_address(request)):
        raise too_many("your address")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def too_many(whose: str) -> Problem:
    """More came than are taken."""
    return Problem(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        code=Code.TOO_MANY_REQUESTS,
        detail=f"too many requests of {whose}",
        fix=f"wait {RETRY_AFTER_S} s, then send fewer a second",
        headers={"retry-after": str(RETRY_AFTER_S)},
    )


def _unauthenticated(code: Code, detail: str, fix: str) -> Problem:
    return Problem(
        status=HTTPStatus.UNAUTHORIZED, code=code, detail=detail, fix=fix, headers={"www-authenticate": "Bearer"}
    )


def _correlated(scope: ASGIScope) -> Mapping[str, str]:
    """What an answer to an LFI carries, whatever its status: the standard's correlation id."""
    path: str = scope["path"]
    if path != EVENTS_PATH and not path.startswith(f"{EVENTS_PATH}/"):
        return {}
    return {INTERACTION_ID: interaction_id(Headers(scope=scope))}


def _put_headers(headers: MutableHeaders, correlated: Mapping[str, str], *, secure: bool) -> None:
    for name, value in (*HEADERS.items(), *correlated.items()):
        headers.setdefault(name, value)
    if secure:
        headers.setdefault("strict-transport-security", HSTS)


async def _bounded(headers: Headers, receive: Receive) -> Receive:
    """The body, read within its bounds, as a new `receive` that gives it in one piece.

    Raises:
        Problem: it is too large or too slow.
    """
    length = headers.get("content-length")
    if length is None and "transfer-encoding" not in headers:
        return receive
    if length is not None and (not length.isdigit() or len(length) > 10 or int(length) > BODY_BYTES_MAX):
        raise _too_large()
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            while more:
                message = await receive()
                if message["type"] != "http.request":  # it left; nobody reads the answer
                    break
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise Problem(
            status=HTTPStatus.REQUEST_TIMEOUT,
            code=Code.TOO_SLOW,
            detail=f"the body was not here within {BODY_DEADLINE_S:.0f} s",
            fix="send it in one piece",
            headers={"connection": "close"},
        ) from None
    given = False

    async def replayed() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return replayed


def _too_large() -> Problem:
    return Problem(
        status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        code=Code.TOO_LARGE,
        detail=f"the body is larger than {BODY_BYTES_MAX} bytes",
        fix="send a smaller one",
        headers={"connection": "close"},
    )


def _where(error: BaseException) -> str:
    """The innermost line of ours that a fault went through."""
    trace, where = error.__traceback__, ""
    while trace is not None:
        frame = trace.tb_frame
        if "syncworker" in frame.f_code.co_filename or not where:
            where = f"{frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where
