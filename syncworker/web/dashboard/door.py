"""Who may look: sign-in with an API key, sessions, and what every request of the dashboard passes.

The browser gets a cookie with a random id (`__Host-` over TLS, HttpOnly, SameSite=Strict); the table has its hash.  A
session ends by sign-out, by time, and with its API key.  Every form carries a token that is a keyed hash of the
session's id, and comes from a page of our own origin.

The dashboard is there only where no browser can reach it unencrypted from another machine: the process listens on
loopback, or speaks TLS itself, or stands behind a reverse proxy it believes and that speaks TLS.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import structlog
from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from pydantic import SecretStr

from syncworker.errors import SyncWorkerError
from syncworker.settings import LOOPBACK_HOSTS, WebSettings
from syncworker.store.api_keys import Scope
from syncworker.store.failures import StoreUnavailableError
from syncworker.store.ops_sessions import Ends, OpsSession
from syncworker.store.unit_of_work import Store, UnitOfWork
from syncworker.web import problems
from syncworker.web.dashboard import render
from syncworker.web.guard import KEY_ID, Keys
from syncworker.web.problems import Problem

SIGN_IN: Final = render.link("sign-in")
REFRESH: Final = "x-refresh"
"""Header of a live refresh: it is no sign of a person, so it does not put off the idle end."""

FIELDS_MAX: Final = 20
_COOKIE: Final = "syncworker-ops"
_CSRF: Final = b"csrf"

log = structlog.stdlib.get_logger(__name__)

Form = dict[str, str]


@dataclass(frozen=True, slots=True)
class Reach:
    """How browsers reach the dashboard.

    Attributes:
        https: they speak TLS, with us or with a proxy of ours.
        origin: of our own pages; a form from elsewhere is refused.
        demands_https: a request that did not come by TLS is refused: it came past the proxy.
    """

    https: bool
    origin: str
    demands_https: bool


def reach(web: WebSettings, public_url: str) -> Reach | str:
    """How the dashboard is reached; or why it is off, with the fix."""
    if not web.dashboard.enabled:
        return "web.dashboard.enabled is false"
    https = public_url.startswith("https://")
    if web.host in LOOPBACK_HOSTS:
        return Reach(https=https, origin=public_url, demands_https=False)
    if web.certificate is not None:
        return Reach(https=True, origin=public_url, demands_https=False)
    if web.proxies and https:
        return Reach(https=True, origin=public_url, demands_https=True)
    return (
        f"web.host {web.host} can be reached from other machines without TLS; set web.certificate and web.key, or "
        "web.proxies and web.url with https://, or listen on 127.0.0.1"
    )


@dataclass(frozen=True, slots=True)
class Visit:
    """One request of a session that is good.

    Attributes:
        csrf: the token that forms carry.
    """

    request: Request
    session: OpsSession
    csrf: str

    @property
    def now(self) -> datetime:
        """Database time."""
        return self.session.now

    @property
    def may_act(self) -> bool:
        return Scope.OPS_WRITE.value in self.session.scopes


View = Callable[[Visit, UnitOfWork], Awaitable[Response]]
"""A page: reads, and gives what is shown."""

Act = Callable[[Visit, Form], Awaitable[Response]]
"""What a form does."""


class RefusedError(Exception):
    """A request of the dashboard is refused; the page says why.

    Attributes:
        what: a title.
        why: a sentence, with what to do.
    """

    def __init__(self, status: HTTPStatus, what: str, why: str) -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.why = why


def not_found(what: str) -> RefusedError:
    """Nothing of that id is held for this tenant."""
    return RefusedError(
        HTTPStatus.NOT_FOUND, f"No such {what}", f"No {what} of that id is held here. It may have been removed by age."
    )


class Door:
    """Sessions of one tenant's dashboard.

    Args:
        keys: tells which key a person gave; bounds how often an address may try.
    """

    def __init__(self, store: Store, keys: Keys, reached: Reach, ends: Ends, *, tenant: str) -> None:
        self._store = store
        self._keys = keys
        self._reached = reached
        self._ends = ends
        self._tenant = tenant
        self._cookie = f"__Host-{_COOKIE}" if reached.https else _COOKIE

    # -- what every request passes --------------------------------------------------------------------------------

    def shows(self, view: View) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that shows a page to a session."""

        async def endpoint(request: Request) -> Response:
            async def answered() -> Response:
                visit = await self._visit(request)
                if visit is None:
                    return self._to_sign_in(request)
                async with self._store.reading() as unit:
                    return await view(visit, unit)

            return await self._told(answered)

        return endpoint

    def does(self, act: Act) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that takes a form of a session whose key may act."""

        async def endpoint(request: Request) -> Response:
            async def answered() -> Response:
                visit = await self._visit(request)
                if visit is None:
                    return self._to_sign_in(request)
                form = await self._form(request, visit.csrf)
                if not visit.may_act:
                    raise RefusedError(
                        HTTPStatus.FORBIDDEN,
                        "This key may only look",
                        f"The key {visit.session.key_id} lacks the scope {Scope.OPS_WRITE.value}; nothing was done.",
                    )
                return await act(visit, form)

            return await self._told(answered)

        return endpoint

    async def _told(self, answered: Callable[[], Awaitable[Response]]) -> Response:
        """The answer, or a page that says why there is none."""
        try:
            return await answered()
        except RefusedError as refused:
            return self.refused(refused)
        except Problem as problem:
            said = RefusedError(problem.status, problem.status.phrase, f"{problem.detail}: {problem.fix}.")
            response = self.refused(said)
            response.headers.update(problem.headers)
            return response
        except StoreUnavailableError as error:
            log.warning("dashboard without database", error=error.code)
            return render.page("away.html", HTTPStatus.SERVICE_UNAVAILABLE)
        except SyncWorkerError as error:
            made = problems.of_error(error)
            return self.refused(RefusedError(made.status, made.status.phrase, made.detail))

    @staticmethod
    def refused(refused: RefusedError) -> Response:
        """The page of a refusal."""
        return render.page("refused.html", refused.status, what=refused.what, why=refused.why)

    async def _visit(self, request: Request) -> Visit | None:
        """The session of a request; `None`: it has none that is good."""
        self._check_reached(request)
        given = request.cookies.get(self._cookie)
        if not given:
            return None
        session_id = SecretStr(given)
        async with self._store.looking() as unit:
            session = await unit.ops_sessions.find(session_id, ends=self._ends)
        if session is None or not session.scopes & {Scope.OPS_READ.value, Scope.OPS_WRITE.value}:
            return None
        request.scope[KEY_ID] = session.key_id
        if session.seen_long_ago and REFRESH not in request.headers:
            at = session.now
            await self._store.atomically(lambda unit: unit.ops_sessions.seen(session_id, at=at))
        return Visit(request, session, _csrf(session_id))

    def _check_reached(self, request: Request) -> None:
        if self._reached.demands_https and request.url.scheme != "https":
            raise RefusedError(
                HTTPStatus.FORBIDDEN, "Not encrypted", "Open the dashboard by https:// through the reverse proxy."
            )

    def _to_sign_in(self, request: Request) -> Response:
        if REFRESH in request.headers:  # the script opens the page anew, and comes to the sign-in by that
            return Response(status_code=HTTPStatus.UNAUTHORIZED.value, headers=dict(render.HEADERS))
        to = None
        if request.method == "GET":
            to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return _led(render.link("sign-in", to=to if to is not None and _is_ours(to) else None))

    async def _form(self, request: Request, csrf: str) -> Form:
        """The fields of a form of ours.

        Raises:
            RefusedError: it comes from another origin, is no form, or its token is not the session's.
        """
        self._check_origin(request)
        form = await _fields(request)
        if not hmac.compare_digest(form.pop("csrf", "").encode(errors="replace"), csrf.encode()):
            raise RefusedError(
                HTTPStatus.FORBIDDEN, "This form is too old", "Go back, load the page anew and send the form again."
            )
        return form

    def _check_origin(self, request: Request) -> None:
        """Browsers name the origin of every form they send."""
        origin = request.headers.get("origin", "")
        here = {self._reached.origin}
        if urlsplit(self._reached.origin).hostname in LOOPBACK_HOSTS:  # by whichever of its names it was opened
            host = request.headers.get("host", "")
            if urlsplit(f"//{host}").hostname in LOOPBACK_HOSTS:
                here.add(f"{urlsplit(self._reached.origin).scheme}://{host}")
        if origin not in here:
            raise RefusedError(
                HTTPStatus.FORBIDDEN, "This form came from elsewhere", "Open the dashboard at its own address."
            )

    # -- sign-in and sign-out --------------------------------------------------------------------------------------

    async def sign_in_page(self, request: Request) -> Response:
        """The form that takes a key."""

        async def answered() -> Response:
            self._check_reached(request)
            return self._asked(to=request.query_params.get("to", ""))

        return await self._told(answered)

    def _asked(self, *, to: str, wrong: str = "", status: HTTPStatus = HTTPStatus.OK) -> Response:
        shown = to if _is_ours(to) else ""
        return render.page("sign_in.html", status, to=shown, wrong=wrong, tenant=self._tenant)

    async def sign_in(self, request: Request) -> Response:
        """Begin a session with the key of the form."""

        async def answered() -> Response:
            self._check_reached(request)
            self._check_origin(request)
            form = await _fields(request)
            to = form.get("to", "")
            key = await self._keys.known(request, SecretStr(form.pop("key", "").strip()))
            if key is None:
                wrong = "This is no API key of this tenant, or it was revoked or has expired."
                return self._asked(to=to, wrong=wrong, status=HTTPStatus.UNAUTHORIZED)
            if not key.scopes & {Scope.OPS_READ.value, Scope.OPS_WRITE.value}:
                wrong = "This key has neither the scope ops:read nor ops:write."
                return self._asked(to=to, wrong=wrong, status=HTTPStatus.FORBIDDEN)

            before = request.cookies.get(self._cookie)

            async def begun(unit: UnitOfWork) -> SecretStr:
                at = await unit.now()
                if before:  # a browser has one session: the one it had is of no further use
                    await unit.ops_sessions.end(SecretStr(before))
                await unit.consents.note("ops_signed_in", subject=key.key_id, facts={}, at=at)
                return await unit.ops_sessions.begin(key.key_id, at=at, ends=self._ends)

            session_id = await self._store.atomically(begun)
            response = _led(to if _is_ours(to) else f"{render.PATH}/")
            response.set_cookie(
                self._cookie,
                session_id.get_secret_value(),
                max_age=int(self._ends.absolute.total_seconds()),
                path="/",
                secure=self._reached.https,
                httponly=True,
                samesite="strict",
            )
            return response

        return await self._told(answered)

    async def sign_out(self, request: Request) -> Response:
        """End the session of the browser."""

        async def answered() -> Response:
            visit = await self._visit(request)
            response = _led(SIGN_IN)
            if visit is not None:
                await self._form(request, visit.csrf)
                session_id = SecretStr(request.cookies[self._cookie])
                await self._store.atomically(lambda unit: unit.ops_sessions.end(session_id))
            response.delete_cookie(self._cookie, path="/", secure=self._reached.https, httponly=True, samesite="strict")
            return response

        return await self._told(answered)


async def _fields(request: Request) -> Form:
    """The fields of a form, the last of each name.

    Raises:
        RefusedError: it is none, or has too many.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    wrong = RefusedError(HTTPStatus.BAD_REQUEST, "Not a form", "Send the form of the page; nothing was done.")
    if kind != "application/x-www-form-urlencoded":
        raise wrong
    try:
        text = (await request.body()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        raise wrong from None


def _csrf(session_id: SecretStr) -> str:
    return hmac.new(session_id.get_secret_value().encode(), _CSRF, hashlib.sha256).hexdigest()


def _led(to: str) -> Response:
    return RedirectResponse(to, status_code=HTTPStatus.SEE_OTHER.value, headers=dict(render.HEADERS))


def _is_ours(path: str) -> bool:
    """Whether a path is a page of the dashboard, and nothing that a browser takes for another place."""
    plain = path.isascii() and path.isprintable() and "\\" not in path
    return plain and len(path) < 1_000 and path.startswith(f"{render.PATH}/") and "//" not in path.partition("?")[0]
