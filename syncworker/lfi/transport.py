"""Send one request over mTLS and bring back one bounded answer; count and time every attempt.

A `Request` says what its attempts have in common, and over which `Lane` they go.  Two transports with one shape, `send
→ Answer`: `AiohttpTransport` carries what there is much of, paged GETs and token calls, chosen by measurement
(`bench/transport.py`, `bench/calls.py`, `docs/decisions/0002-transport.md`); `ControlTransport` is plain httpx for
discovery, PAR and consents.  Both send exactly once, verify the LFI's certificate and host name, follow no redirect,
read no environment, keep no cookie (one customer's would go out with the next one's call), take gzip or identity only,
and end at a total deadline however slowly the bytes drip.  aiohttp's and httpx's errors end here.

`Lines` is all lanes of one LFI together.  With a new transport certificate it opens new connections and lets the calls
under way end on the old ones.

What is made anew for each call is a `msgspec.Struct`: a frozen dataclass costs seven times as much to build.

Source: `reliability.md` rules 11 – 14, 20, 23, 33, 35, 37; `domain.md` §1.5, §6.1; FAPI 2.0 Security Profile §5.2.2.
"""

import asyncio
import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum, auto
from functools import lru_cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Protocol
from urllib.parse import urlencode

import aiohttp
import httpx
import msgspec
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import SecretStr
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
from syncworker.lfi.addresses import Addresses, CheckedTransport, Lookup, PrivateHostError, system_lookup
from syncworker.lfi.bounds import Inflater, check_headers
from syncworker.lfi.connector import Connector, Opening
from syncworker.lfi.directory import LFIConfig
from syncworker.lfi.keys import TransportCertificate
from syncworker.lfi.observing import Observer, Observing
from syncworker.lfi.reasons import reason_of
from syncworker.standard.interaction import Interactions

KEEPALIVE_S: Final = 60.0
SLOT_SHARE: Final = 0.5
"""Share of its deadline a token or control call may wait for a free connection, before that deadline begins.

Who bounds a call by twice its deadline, as a refresh is bounded by its lease, then never cuts one that was sent.
"""
USER_AGENT: Final = f"syncworker/{__version__}"
LOOK_EVERY: Final = timedelta(minutes=1)
"""How often the files of our transport certificate are looked at, at most."""

INTERACTION_ID: Final = "x-fapi-interaction-id"
TLS_1_2_CIPHERS: Final = "ECDHE+AESGCM"
"""With TLS 1.2 only what BCP 195 (RFC 9325 §4.2) recommends, as FAPI 2.0 asks; TLS 1.3 has no others."""

_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
_HEADERS: Final = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "gzip"}

log = structlog.stdlib.get_logger(__name__)
_OUR_LOG: Final = logging.getLogger(__name__)


class Lane(Enum):
    """Which of an LFI's connections a request goes over: each lane has its own, so that none stands behind another's.

    A data call waits for a connection as long as its caller lets it; the others give up early (`SLOT_SHARE`).
    """

    DATA = auto()
    """Paged GETs.  What is answered here with 200 is billed."""
    TOKEN = auto()
    """Token calls, which must not wait behind data."""
    CONTROL = auto()
    """Everything rare."""


class Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One HTTP attempt, for the `call` table; never a secret.

    Attributes:
        operation: `operationId` of the standard; `GetOpenIdConfiguration` and `GetJwks` are ours.
        status: HTTP status; `None` when no answer began.
        duration_ms: from asking for a connection to the last byte.
        bytes_in: body bytes on the wire, still compressed.
        attended: whether a live customer session was declared in the headers.
        error_code: the answer's own code, or ours (`timeout`, `lost`, `tls`, `untrusted`, `private_host`, `unfit`,
            `cancelled`); empty when fine.
        price_class: `data` for an answered data GET (it is billed), else `free`.
        attempt: from 1; more for a short retry.
        reason: what the LFI said about an answer that is no success, cleaned; empty when nothing.
    """

    operation: str
    method: str
    status: int | None
    interaction_id: str
    started_at: datetime
    duration_ms: int
    bytes_in: int
    attended: bool
    error_code: str
    price_class: str
    attempt: int = 1
    reason: str = ""

    def __repr__(self) -> str:
        """Without the LFI's words: they may name a person."""
        return f"Call({self.operation} {self.status} {self.error_code} {self.interaction_id})"


CallLog = Callable[[Call], None]


Heard = Callable[[Call, Mapping[str, str]], None]
"""Is told each attempt with the headers of its answer; none when no answer came."""


def no_log(_call: Call) -> None:
    """A `CallLog` that keeps nothing."""


def unheard(_call: Call, _headers: Mapping[str, str]) -> None:
    """A `Heard` that keeps nothing."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole HTTP answer.

    Attributes:
        headers: names in lower case; of a repeated header the last.
        body: decoded, at most `bounds.BODY_BYTES_MAX`.
        bytes_in: body bytes on the wire.
        certificate: `x5t#S256` of the transport certificate it came over, where that was kept; a token in the answer
            is bound to it.
        interaction_id: it was asked with.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    bytes_in: int
    certificate: str = ""
    interaction_id: str = ""

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, bytes_in={self.bytes_in})"


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What all attempts of one request have in common.

    Attributes:
        url: sent as it is.
        deadline: seconds for each attempt, once it has a connection.
        calls: receives a `Call` for each attempt.
        code_of: finds the error code in an answer that is no success.
        headers: beside the token and the interaction id, which are each attempt's own.
        form: sent form-encoded.
        body: sent as it is, of the content type in `headers`.
        attended: whether `headers` declare a live customer session.
        interaction_id: of a request that is sent once; empty: each attempt gets a fresh one.
        ids: makes those of a run; `None`: the request belongs to no run.
    """

    operation: str
    method: str
    url: str
    lane: Lane
    deadline: float
    calls: CallLog
    code_of: Callable[[Answer], str]
    headers: Mapping[str, str] = {}
    form: Mapping[str, str] | None = None
    body: bytes | None = None
    attended: bool = False
    interaction_id: str = ""
    ids: Interactions | None = None

    def __repr__(self) -> str:
        return f"Request({self.method} {self.operation})"


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
    """The server's certificate does not verify, or its name resolves to a private address: nothing was sent."""


class Transport(Protocol):
    """Carries requests to one LFI.  Sends what it is told exactly once.

    Of a call that failed nobody can say whether it arrived, whatever class the exception has.
    """

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        deadline: float,
        *,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send one request within `deadline` seconds in all, once a connection is free.

        Args:
            url: sent as it is.
            form: sent form-encoded.
            body: sent as it is, of the content type in `headers`.

        Raises:
            NoAnswerError: nothing, or not all of it, came in time; or no connection came free, and nothing was sent.
            UnfitAnswerError: what came broke a bound.
            UntrustedServerError: the server's certificate does not verify.
            PrivateHostError: its name resolves to an address that is not public, without leave.
        """
        ...

    async def close(self) -> None:
        """Close every connection.  What is sent from then on ends with `NoAnswerError`, unsent."""
        ...


def mtls_context(config: LFIConfig) -> ssl.SSLContext:
    """The TLS settings of every connection to an LFI: its own roots added to the system's, our certificate, TLS ≥ 1.2.

    With TLS 1.2 only the ciphers FAPI 2.0 permits.

    Raises:
        SettingsError: the bundle or the certificate's files cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS_1_2_CIPHERS)
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


class _Slots:
    """Room for as many calls at once as there are connections, so that a pool itself never queues."""

    def __init__(self, connections: int, *, share: float | None) -> None:
        """All are free.

        Args:
            share: of its deadline a call may wait for a slot; `None`: the wait is the caller's to bound.
        """
        self._free = asyncio.Semaphore(connections)
        self._share = share

    async def take(self, deadline: float) -> None:
        """Return when a slot is ours.

        Raises:
            NoAnswerError: none came free in time; nothing was sent.
        """
        if self._share is None or not self._free.locked():
            await self._free.acquire()
            return
        try:
            async with asyncio.timeout(deadline * self._share):
                await self._free.acquire()
        except TimeoutError as error:
            raise NoAnswerError("no connection came free in time; nothing was sent", reason="timeout") from error

    def give_back(self) -> None:
        self._free.release()


class AiohttpTransport:
    """A `Transport` through one aiohttp session; belongs to the event loop of its first call.

    Args:
        addresses: which addresses may be connected to.
        slot_share: of its deadline a call may wait for a connection; `None`: the wait is the caller's to bound.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        addresses: Addresses,
        connections: int,
        connect_timeout: float,
        slot_share: float | None = None,
    ) -> None:
        self._context = context
        self._addresses = addresses
        self._connections = connections
        self._connect_timeout = connect_timeout
        self._slots = _Slots(connections, share=slot_share)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        deadline: float,
        *,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """As `Transport.send`."""
        if form is not None:
            headers, body = {**headers, **_FORM}, urlencode(form).encode()
        await self._slots.take(deadline)
        status: int | None = None
        try:
            if self._closed:
                raise NoAnswerError(_CLOSED, reason="lost")
            response = await self._open().request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                timeout=_timeout(deadline, self._connect_timeout),
            )
            try:
                status = response.status
                received = {name.lower(): value for name, value in response.headers.items()}
                check_headers(received)
                inflater, content = Inflater(received.get("content-encoding", "")), response.content
                while not content.at_eof():  # a small answer is whole with its first chunk
                    inflater.feed(await content.readany())
                sent = headers.get(INTERACTION_ID, "")
                return Answer(status, received, inflater.finish(), inflater.bytes_in, interaction_id=sent)
            finally:
                response.release()  # closes the connection too, unless the answer was read to its end
        except TimeoutError as error:
            raise NoAnswerError("no whole answer in time", reason="timeout", status=status) from error
        except StandardViolationError as error:
            kind = OversizedAnswerError if isinstance(error, TruncatedError) else UnfitAnswerError
            raise kind(str(error), status=status) from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise UntrustedServerError(_UNTRUSTED) from error
        except aiohttp.ClientSSLError as error:
            raise NoAnswerError("TLS failed", reason=_reason(error)) from error
        except (aiohttp.ClientResponseError, aiohttp.InvalidURL) as error:
            raise UnfitAnswerError("the answer is not HTTP as we read it", status=status) from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error.__cause__, HttpProcessingError) and status is None:
                raise UnfitAnswerError("the answer is not HTTP as we read it") from error
            raise NoAnswerError("the connection was lost", reason=_reason(error), status=status) from error
        finally:
            self._slots.give_back()

    async def close(self) -> None:
        """Close every connection; calls under way, and calls that wait for a connection, end with `NoAnswerError`."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=Connector(
                    self._addresses, ssl=self._context, limit=self._connections, keepalive_timeout=KEEPALIVE_S
                ),
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
                middlewares=(_send_once,),
            )
        return self._session


@lru_cache(maxsize=64)
def _timeout(deadline: float, connect_timeout: float) -> aiohttp.ClientTimeout:
    """Both limits as aiohttp keeps them; to the moment, where it would round up to whole seconds."""
    return aiohttp.ClientTimeout(total=deadline, sock_connect=connect_timeout, ceil_threshold=math.inf)


class ControlTransport:
    """A `Transport` through one plain httpx client; belongs to one event loop.

    Args:
        addresses: which addresses may be connected to.
    """

    def __init__(
        self, context: ssl.SSLContext, *, addresses: Addresses, connections: int, connect_timeout: float
    ) -> None:
        for name in ("httpx", "httpcore"):  # at INFO they print full URLs (rule 37)
            logging.getLogger(name).setLevel(logging.WARNING)
        self._slots = _Slots(connections, share=SLOT_SHARE)
        self._closed = False
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=KEEPALIVE_S
        )
        self._client = httpx.AsyncClient(
            transport=CheckedTransport(addresses, context=context, limits=limits),
            trust_env=False,
            follow_redirects=False,
            headers=_HEADERS,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(None, connect=connect_timeout),
        )

    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        deadline: float,
        *,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """As `Transport.send`."""
        await self._slots.take(deadline)
        status: int | None = None
        try:
            if self._closed:
                raise NoAnswerError(_CLOSED, reason="lost")
            async with (
                Opening() as opening,
                asyncio.timeout(deadline),
                self._client.stream(
                    method, url, headers=dict(headers), data=form, content=body, extensions=opening.extensions
                ) as response,
            ):
                status = response.status_code
                received = dict(response.headers.items())
                check_headers(received)
                inflater = Inflater(received.get("content-encoding", ""))
                async for chunk in response.aiter_raw():
                    inflater.feed(chunk)
                sent = headers.get(INTERACTION_ID, "")
                return Answer(status, received, inflater.finish(), inflater.bytes_in, interaction_id=sent)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise NoAnswerError("no whole answer in time", reason="timeout", status=status) from error
        except StandardViolationError as error:
            kind = OversizedAnswerError if isinstance(error, TruncatedError) else UnfitAnswerError
            raise kind(str(error), status=status) from error
        except httpx.HTTPError as error:
            if _is_untrusted(error):
                raise UntrustedServerError(_UNTRUSTED) from error
            raise NoAnswerError("the connection was lost", reason=_reason(error), status=status) from error
        except httpx.InvalidURL as error:
            raise UnfitAnswerError("the address is not a URL") from error
        finally:
            self._slots.give_back()

    async def close(self) -> None:
        """Close every connection; a call that waits for one ends with `NoAnswerError`."""
        self._closed = True
        await self._client.aclose()


class _Line:
    """The connections opened with one transport certificate, and how many calls are on them."""

    def __init__(self, config: LFIConfig, lookup: Lookup) -> None:
        context, connections, connect_timeout = mtls_context(config), config.connections, config.connect_timeout
        addresses = Addresses(allow_private_hosts=config.allow_private_hosts, lookup=lookup)
        through_aiohttp = partial(
            AiohttpTransport, context, addresses=addresses, connections=connections, connect_timeout=connect_timeout
        )
        self.certificate = config.transport
        self.lanes: dict[Lane, Transport] = {
            Lane.DATA: through_aiohttp(),
            Lane.TOKEN: through_aiohttp(slot_share=SLOT_SHARE),
            Lane.CONTROL: ControlTransport(
                context, addresses=addresses, connections=connections, connect_timeout=connect_timeout
            ),
        }
        self.calls = 0

    async def close(self) -> None:
        for lane in self.lanes.values():
            await lane.close()


class Lines:
    """All connections to one LFI, with the certificate they are opened with; belongs to one event loop.

    Before a call, at most once a minute, and after a lost connection, the certificate's files are looked at.  When
    they changed, new calls go over new connections; calls under way end on the old ones, within their deadlines, and
    the last of them closes those.  Until then an LFI sees up to twice the connections.  What cannot be used (half
    written, a key of another certificate) leaves the old certificate in use and is told in the log.

    Args:
        look_every: how often the files are looked at, at most.
        lookup: resolves host names.

    Raises:
        SettingsError: from the constructor: certificate or CA bundle cannot be used.
    """

    def __init__(
        self,
        config: LFIConfig,
        *,
        clock: Clock,
        look_every: timedelta = LOOK_EVERY,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._config = config
        self._lookup = lookup
        self._clock = clock
        self._look_every = look_every
        self._looked_at: datetime | None = None
        self._refused = ""
        self._line = _Line(config, lookup)
        self._old: set[_Line] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def certificate(self) -> TransportCertificate:
        """What the next call is made with."""
        self._look(self._clock.now())
        return self._line.certificate

    async def send(self, request: Request, headers: Mapping[str, str], *, now: datetime) -> Answer:
        """Send a request once, with all its headers; the answer of a token or control call names our certificate.

        Raises:
            as `Transport.send`.
        """
        self._look(now)
        line = self._line
        line.calls += 1
        try:
            answer = await line.lanes[request.lane].send(
                request.method, request.url, headers, request.deadline, form=request.form, body=request.body
            )
        except NoAnswerError as error:
            if error.status is None and error.reason != "timeout":
                # perhaps our certificate is no longer taken, and its successor lies there; TLS 1.3 refuses a client
                # after the handshake, which looks like a line that was cut
                self._looked_at = None
            raise
        finally:
            line.calls -= 1
            if line is not self._line:
                self._retire(line)
        if request.lane is Lane.DATA:
            return answer
        return msgspec.structs.replace(answer, certificate=line.certificate.thumbprint)

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*self._closing)
        for line in (self._line, *self._old):
            await line.close()
        self._old.clear()

    def _look(self, now: datetime) -> None:
        """Go over to what the certificate's files hold, if they changed.  Costs two looks at the disk a minute."""
        if self._looked_at is not None and timedelta(0) <= now - self._looked_at < self._look_every:
            return
        self._looked_at = now
        if not self._line.certificate.files_changed:
            self._refused = ""
            return
        try:
            self._renew(self._line.certificate.renewed(now=now))
        except SettingsError as error:
            if str(error) != self._refused:
                log.warning(
                    "new transport certificate not taken, the old one stays", lfi=self._config.slug, why=str(error)
                )
            self._refused = str(error)

    def _renew(self, certificate: TransportCertificate) -> None:
        """Raises SettingsError when the files changed while they were read; then everything stays as it was."""
        fresh = _Line(replace(self._config, transport=certificate), self._lookup)
        if certificate.files_changed:  # OpenSSL reads the files itself, and may have read others than we did
            raise SettingsError(f"{certificate.certificate_field}: is being written; it is looked at again")
        old, self._line, self._refused = self._line, fresh, ""
        self._old.add(old)
        self._retire(old)
        log.info(
            "transport certificate renewed",
            lfi=self._config.slug,
            thumbprint=certificate.thumbprint,
            expires_at=certificate.expires_at.isoformat(),
        )

    def _retire(self, line: _Line) -> None:
        """Close the connections of an old line when no call is on them any more."""
        if line.calls or line not in self._old:
            return
        self._old.discard(line)
        task = asyncio.ensure_future(line.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class Attempts:
    """Makes single attempts at one LFI: fresh interaction id, one `Call` record, one log line each.

    Args:
        heard: is told each attempt, whoever it was made for.
        observing: runs what is told of an attempt.
    """

    def __init__(
        self,
        slug: str,
        lines: Lines,
        *,
        clock: Clock,
        heard: Heard = unheard,
        observing: Observing | None = None,
    ) -> None:
        self._slug = slug
        self._lines = lines
        self._clock = clock
        self._heard = heard
        self._observing = observing or Observing()

    async def make(self, request: Request, *, bearer: SecretStr | None = None, attempt: int = 1) -> Answer:
        """Send once, and whatever happens leave a `Call`.

        Args:
            bearer: the access token it is sent with.
            attempt: from 1; more for a short retry.

        Raises:
            NoAnswerError, UnfitAnswerError, UntrustedServerError: as `Transport.send`; a `PrivateHostError` comes as an
                `UntrustedServerError` too.
        """
        started_at, started = self._clock.now(), monotonic()
        interaction_id = request.interaction_id or (request.ids or Interactions(started_at)).new()
        headers = {**request.headers, INTERACTION_ID: interaction_id}
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer.get_secret_value()}"
        status: int | None = None
        bytes_in, error_code, reason = 0, "cancelled", ""
        received: Mapping[str, str] = {}
        try:
            answer = await self._lines.send(request, headers, now=started_at)
            status, bytes_in, received = answer.status, answer.bytes_in, answer.headers
            error_code = "" if 200 <= status < 300 else self._code_of(request, answer) or f"http_{status}"
            reason = self._observing.tell(Observer.CODE, reason_of, answer.body) or "" if error_code else ""
        except NoAnswerError as error:
            status, error_code = error.status, error.reason
            raise
        except UnfitAnswerError as error:
            status, error_code = error.status, "unfit"
            raise
        except (UntrustedServerError, PrivateHostError) as error:
            error_code = "private_host" if isinstance(error, PrivateHostError) else "untrusted"
            raise UntrustedServerError(f"lfis.{self._slug}.{error}") from error
        else:
            return answer
        finally:
            call = Call(
                operation=request.operation,
                method=request.method,
                status=status,
                interaction_id=interaction_id,
                started_at=started_at,
                duration_ms=round((monotonic() - started) * 1000),
                bytes_in=bytes_in,
                attended=request.attended,
                error_code=error_code,
                price_class="data" if status == 200 and request.lane is Lane.DATA else "free",
                attempt=attempt,
                reason=reason,
            )
            self._observing.tell(Observer.LOG, self._tell, call)
            self._observing.tell(Observer.TRAFFIC, self._heard, call, received)
            self._observing.tell(Observer.CALLS, request.calls, call)

    def _code_of(self, request: Request, answer: Answer) -> str | None:
        return self._observing.tell(Observer.CODE, request.code_of, answer)

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


_CLOSED: Final = "the connections to the LFI were closed; nothing was sent"
_UNTRUSTED: Final = "ca_bundle: the LFI's certificate does not verify; check its host name and the roots in ca_bundle"


async def _send_once(
    request: aiohttp.ClientRequest, handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
) -> aiohttp.ClientResponse:
    """Keep aiohttp from sending a request again by itself: each attempt is ours, with an interaction id of its own.

    It repeats idempotent methods, once, when a kept connection turns out dead (`ClientSession._request`), and knows no
    public way to switch that off.  What it does not repeat, it says by this error.
    """
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


def _reason(error: BaseException) -> str:
    """`tls` when TLS itself failed, else `lost`.

    A connection that ends or is reset in the midst of TLS is lost, though OpenSSL speaks of it too, and though its
    `SSLWantReadError`, which only says that more bytes are needed, stands in the chain.
    """
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            break
        if isinstance(seen, ssl.SSLError) and not isinstance(seen, _NO_TLS_FAULT):
            return "tls"
        seen = seen.__cause__ or seen.__context__
    return "lost"


_NO_TLS_FAULT: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


def _is_untrusted(error: BaseException) -> bool:
    return _find(error, ssl.SSLCertVerificationError) is not None
