"""Send one request over mTLS and bring back one bounded answer; count and time every attempt.

Two doors with one shape, `send → Answer`.  `DataTransport` is the hot path, paged GETs through aiohttp, chosen by
measurement (`bench/transport.py`, `docs/decisions/0002-transport.md`).  `ControlTransport` is plain httpx for
discovery, tokens and consents.  Both verify the LFI's certificate and host name, follow no redirect, read no
environment, keep no cookie (one customer's would go out with the next one's call), take gzip or identity only, and end
at a total deadline however slowly the bytes drip.  aiohttp's and httpx's errors end here.

Source: `reliability.md` rules 11 – 14, 33, 35, 37; `domain.md` §6.1.
"""

import asyncio
import logging
import ssl
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import httpx
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from syncworker import __version__
from syncworker.clock import Clock, monotonic
from syncworker.errors import (
    LFIUnavailableError,
    SettingsError,
    SetupError,
    StandardViolationError,
    TruncatedError,
)
from syncworker.lfi.bounds import Inflater, check_headers
from syncworker.lfi.directory import LFIConfig

KEEPALIVE_S: Final = 60.0
SLOT_SHARE: Final = 0.5
"""Share of its deadline a control call may wait for a free connection, before that deadline begins.

Who bounds a call by twice its deadline, as a refresh is bounded by its lease, then never cuts one that was sent.
"""
USER_AGENT: Final = f"syncworker/{__version__}"
INTERACTION_ID: Final = "x-fapi-interaction-id"
_HEADERS: Final = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"}

log = structlog.stdlib.get_logger(__name__)
_OUR_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP attempt, for the `call` table; never a secret.

    Attributes:
        operation: `operationId` of the standard; `GetOpenIdConfiguration` and `GetJwks` are ours.
        url_path: path without query.
        status: HTTP status; `None` when no answer began.
        duration_ms: from asking for a connection to the last byte.
        bytes_in: body bytes on the wire, still compressed.
        attended: whether a live customer session was declared in the headers.
        error_code: the answer's own code, or ours (`timeout`, `lost`, `tls`, `untrusted`, `unfit`, `cancelled`); empty
            when fine.
        price_class: `data` for an answered data GET (it is billed), else `free`.
    """

    operation: str
    method: str
    url_path: str
    status: int | None
    interaction_id: str
    started_at: datetime
    duration_ms: int
    bytes_in: int
    attended: bool
    error_code: str
    price_class: str


CallLog = Callable[[Call], None]


def no_log(_call: Call) -> None:
    """A `CallLog` that keeps nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer.

    Attributes:
        headers: names in lower case; of a repeated header the last.
        body: decoded, at most `bounds.BODY_BYTES_MAX`.
        bytes_in: body bytes on the wire.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    bytes_in: int


class NoAnswerError(LFIUnavailableError):
    """No whole answer came: `reason` is `timeout`, `lost` or `tls`; `status` is set when one had begun."""

    def __init__(self, message: str, *, reason: str, status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class UnfitAnswerError(StandardViolationError):
    """An answer broke a bound while it was read; `status` is what it began with."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OversizedAnswerError(UnfitAnswerError, TruncatedError):
    """An answer was cut off because it is larger than we take."""


class UntrustedServerError(SetupError):
    """The server's certificate does not verify: nothing was sent."""


class DataTransport(Protocol):
    """The hot path: one small GET after another to one LFI."""

    async def get(self, url: str, headers: Mapping[str, str], deadline: float) -> Answer:
        """Fetch one URL verbatim within `deadline` seconds in all.

        Raises:
            NoAnswerError: nothing, or not all of it, came in time.
            UnfitAnswerError: what came broke a bound.
            UntrustedServerError: the server's certificate does not verify.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


def mtls_context(config: LFIConfig) -> ssl.SSLContext:
    """The TLS settings of every connection to an LFI: its own roots added to the system's, our certificate, TLS ≥ 1.2.

    Raises:
        SettingsError: the bundle or the certificate's files cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=config.ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"lfis.{config.slug}.ca_bundle: cannot use {config.ca_bundle}; give a readable PEM file of roots"
            ) from error
    try:
        context.load_cert_chain(config.transport.certificate, config.transport.key, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"lfis.{config.slug}.transport_certificate: cannot use {config.transport.certificate} with its key; "
            "give matching PEM files"
        ) from error
    return context


class AiohttpTransport:
    """`DataTransport` through one aiohttp session; belongs to the event loop of its first call.

    Calls wait on a semaphore in front of the pool, so the pool itself never queues.
    """

    def __init__(self, context: ssl.SSLContext, *, connections: int, connect_timeout: float) -> None:
        self._context = context
        self._connections = connections
        self._slots = asyncio.Semaphore(connections)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._session: aiohttp.ClientSession | None = None

    async def get(self, url: str, headers: Mapping[str, str], deadline: float) -> Answer:
        status: int | None = None
        async with self._slots:
            try:
                async with (
                    asyncio.timeout(deadline),
                    self._open().get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response,
                ):
                    status = response.status
                    received = {name.lower(): value for name, value in response.headers.items()}
                    check_headers(received)
                    inflater = Inflater(received.get("content-encoding", ""))
                    async for chunk in response.content.iter_any():
                        inflater.feed(chunk)
                    return Answer(status, received, inflater.finish(), inflater.bytes_in)
            except TimeoutError as error:
                raise NoAnswerError("no whole answer in time", reason="timeout", status=status) from error
            except StandardViolationError as error:
                kind = OversizedAnswerError if isinstance(error, TruncatedError) else UnfitAnswerError
                raise kind(str(error), status=status) from error
            except aiohttp.ClientConnectorCertificateError as error:
                raise UntrustedServerError(_UNTRUSTED) from error
            except aiohttp.ClientSSLError as error:
                raise NoAnswerError("TLS failed", reason="tls") from error
            except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
                raise UnfitAnswerError("the answer is not HTTP as we read it", status=status) from error
            except (aiohttp.ClientError, OSError) as error:
                if isinstance(error.__cause__, HttpProcessingError) and status is None:
                    raise UnfitAnswerError("the answer is not HTTP as we read it") from error
                raise NoAnswerError("the connection was lost", reason="lost", status=status) from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._context, limit=self._connections, keepalive_timeout=KEEPALIVE_S
                ),
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                auto_decompress=False,
                trust_env=False,
                middlewares=(_send_once,),
            )
        return self._session


class ControlTransport:
    """Discovery, tokens and consents through one plain httpx client; belongs to one event loop.

    It sends what it is told exactly once.  Of a failed token call nobody can say whether it arrived, whatever class
    the exception has.
    """

    def __init__(self, context: ssl.SSLContext, *, connections: int, connect_timeout: float) -> None:
        for name in ("httpx", "httpcore"):  # at INFO they print full URLs (rule 37)
            logging.getLogger(name).setLevel(logging.WARNING)
        self._slots = asyncio.Semaphore(connections)
        self._client = httpx.AsyncClient(
            verify=context,
            http2=False,
            trust_env=False,
            follow_redirects=False,
            headers=_HEADERS,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(None, connect=connect_timeout),
            limits=httpx.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_S
            ),
        )

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        deadline: float,
        *,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request, form-encoded when `form` is given, within `deadline` seconds once a connection is free.

        Raises:
            NoAnswerError, UnfitAnswerError, UntrustedServerError: as `DataTransport.get`.
        """
        status: int | None = None
        async with self._slot(deadline * SLOT_SHARE):
            try:
                async with (
                    asyncio.timeout(deadline),
                    self._client.stream(method, url, headers=dict(headers), data=form) as response,
                ):
                    status = response.status_code
                    received = dict(response.headers.items())
                    check_headers(received)
                    inflater = Inflater(received.get("content-encoding", ""))
                    async for chunk in response.aiter_raw():
                        inflater.feed(chunk)
                    return Answer(status, received, inflater.finish(), inflater.bytes_in)
            except (TimeoutError, httpx.TimeoutException) as error:
                raise NoAnswerError("no whole answer in time", reason="timeout", status=status) from error
            except StandardViolationError as error:
                kind = OversizedAnswerError if isinstance(error, TruncatedError) else UnfitAnswerError
                raise kind(str(error), status=status) from error
            except httpx.HTTPError as error:
                if _is_untrusted(error):
                    raise UntrustedServerError(_UNTRUSTED) from error
                reason = "tls" if _find(error, ssl.SSLError) else "lost"
                raise NoAnswerError("the connection was lost", reason=reason, status=status) from error
            except httpx.InvalidURL as error:
                raise UnfitAnswerError("the address is not a URL") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    @asynccontextmanager
    async def _slot(self, patience: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(patience):
                await self._slots.acquire()
        except TimeoutError as error:
            raise NoAnswerError("no connection came free in time; nothing was sent", reason="timeout") from error
        try:
            yield
        finally:
            self._slots.release()


class Attempts:
    """Makes single attempts for one LFI: fresh interaction id, one `Call` record, one log line each."""

    def __init__(self, slug: str, *, clock: Clock) -> None:
        self._slug = slug
        self._clock = clock

    async def make(
        self,
        send: Callable[[Mapping[str, str]], Awaitable[Answer]],
        *,
        operation: str,
        method: str,
        url: str,
        calls: CallLog,
        headers: Mapping[str, str],
        data: bool = False,
        attended: bool = False,
        code_of: Callable[[Answer], str],
    ) -> tuple[Answer, str]:
        """Send once, whatever happens leave a `Call`, and give back the answer with its interaction id.

        Args:
            send: does the sending, given all headers.
            data: whether an answer with status 200 is billed as data.
            code_of: finds the error code in an answer that is no success.

        Raises:
            NoAnswerError, UnfitAnswerError, UntrustedServerError: from `send`, untouched.
        """
        interaction_id = str(uuid.uuid4())
        started_at, started = self._clock.now(), monotonic()
        status: int | None = None
        bytes_in, error_code = 0, "cancelled"
        try:
            answer = await send({**headers, INTERACTION_ID: interaction_id})
            status, bytes_in = answer.status, answer.bytes_in
            error_code = "" if 200 <= status < 300 else code_of(answer) or f"http_{status}"
        except NoAnswerError as error:
            status, error_code = error.status, error.reason
            raise
        except UnfitAnswerError as error:
            status, error_code = error.status, "unfit"
            raise
        except UntrustedServerError as error:
            error_code = "untrusted"
            raise UntrustedServerError(f"lfis.{self._slug}.{error}") from error
        else:
            return answer, interaction_id
        finally:
            call = Call(
                operation=operation,
                method=method,
                url_path=urlsplit(url).path,
                status=status,
                interaction_id=interaction_id,
                started_at=started_at,
                duration_ms=round((monotonic() - started) * 1000),
                bytes_in=bytes_in,
                attended=attended,
                error_code=error_code,
                price_class="data" if data and status == 200 else "free",
            )
            self._tell(call)
            calls(call)

    def _tell(self, call: Call) -> None:
        if not call.error_code and not _OUR_LOG.isEnabledFor(logging.DEBUG):
            return  # structlog binds a logger before it asks: a tenth of what a call costs us
        (log.warning if call.error_code else log.debug)(
            "lfi call",
            lfi=self._slug,
            operation=call.operation,
            interaction_id=call.interaction_id,
            status=call.status,
            duration_ms=call.duration_ms,
            error_code=call.error_code,
        )


_UNTRUSTED: Final = "ca_bundle: the LFI's certificate does not verify; check its host name and the roots in ca_bundle"


async def _send_once(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a GET again by itself: each attempt is ours, with an interaction id of its own."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise aiohttp.ClientPayloadError("connection lost") from error


def _no_password() -> str:
    """Keeps OpenSSL from asking for a password on the terminal."""
    raise ValueError("the key is locked with a password")


def _find(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first exception of a kind in the chain that led to `error`."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None or isinstance(seen, kind):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _is_untrusted(error: BaseException) -> bool:
    return _find(error, ssl.SSLCertVerificationError) is not None
