"""Who may send us events, and the keys they sign with.

No document says whose keys sign an event: the LFI's `jwks_uri`, what the directory names as
`PayloadSigningCertLocationUri`, or the Hub's.  So the operator writes down each issuer he trusts and where its keys
are; everybody else is refused.  A token's header never says where to look.

Keys are kept for their `max-age`, at most five minutes.  A `kid` that is not among them is worth one fresh look, at
most once a minute and sender, whatever comes in and whether or not the look succeeds (`reliability.md` rule 38).  Only
a JWKS read after the event came proves that its key is not published; before that, the answer is `KeyNotYetKnownError`.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx
import structlog
from joserfc.jwk import RSAKey

from syncworker.clock import Clock
from syncworker.errors import (
    LFIUnavailableError,
    SettingsError,
    SetupError,
    StandardViolationError,
    SyncWorkerError,
    TransientError,
)
from syncworker.lfi import jose
from syncworker.lfi.addresses import Addresses, CheckedTransport, Lookup, PrivateHostError, system_lookup
from syncworker.lfi.bounds import Inflater, fault_of_url, is_private_host
from syncworker.lfi.connector import Opening
from syncworker.lfi.directory import JWKS_AGE_MAX, fresh_for
from syncworker.lfi.oauth import retry_after
from syncworker.standard.values import Slug

FETCH_EVERY: Final = timedelta(seconds=60)
"""At most one look at a sender's keys in this time."""

STALE_MAX: Final = timedelta(hours=1)
"""How long keys serve on while they cannot be read again: no longer is a withdrawn key trusted."""

DOCUMENT_BYTES_MAX: Final = 1024 * 1024
FETCH_DEADLINE_S: Final = 10.0

log = structlog.stdlib.get_logger(__name__)


class KeyNotYetKnownError(TransientError):
    """A sender's key is not among those read, and a look whether it is published now is not allowed yet."""

    code = "sender_key_not_yet_known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """One issuer whose events we take.

    Attributes:
        issuer: as in `iss`, to the letter.
        jwks_url: where its signature keys are published.
        lfis: whose consents and account openings it may speak of; `None`: of every LFI's.
        bearer: whether its requests must carry a bearer JWT, as those of v1.2 and v2.0 do.
        allow_private_hosts: whether `jwks_url` may lead to this machine or a private network (sandbox).

    Raises:
        SettingsError: `jwks_url` is no public https URL.
    """

    issuer: str
    jwks_url: str
    lfis: frozenset[Slug] | None = None
    bearer: bool = False
    allow_private_hosts: bool = False

    def __post_init__(self) -> None:
        at = f'events.senders."{self.issuer}".jwks_url'
        if fault := fault_of_url(self.jwks_url):
            raise SettingsError(f"{at}: {fault}; give the https address where the sender publishes its keys")
        if not self.allow_private_hosts and is_private_host(self.jwks_url):
            raise SettingsError(
                f"{at}: points to this machine or a private network; set allow_private_hosts = true for a sandbox"
            )

    def may_speak_of(self, lfi: Slug) -> bool:
        """Whether an event of this sender may concern a subject at that LFI."""
        return self.lfis is None or lfi in self.lfis


@dataclass(frozen=True, slots=True)
class Published:
    """A JWKS as read: signature keys by `kid`, and for how long they may be kept."""

    by_kid: Mapping[str, RSAKey]
    keep: timedelta = JWKS_AGE_MAX


Fetch = Callable[[str], Awaitable[Published]]
"""Reads the JWKS at a URL.

Raises:
    TransientError, StandardViolationError: it could not be read, or is none.
"""


@dataclass(slots=True)
class _Held:
    keys: Mapping[str, RSAKey] = field(default_factory=dict)
    read_at: datetime | None = None
    good_until: datetime | None = None
    looked_at: datetime | None = None
    read_from: datetime | None = None
    """When the look began that read `keys`."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def serves(self, kid: str, *, now: datetime) -> bool:
        """Whether a key may be used without a look."""
        return kid in self.keys and self.good_until is not None and now < self.good_until


class SenderKeys:
    """The signature keys of every trusted sender, as one process knows them.  Lives on one event loop."""

    def __init__(self, fetch: Fetch, *, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._held: dict[str, _Held] = {}

    async def key(self, sender: Sender, kid: str) -> RSAKey:
        """The key a sender signed with.

        Raises:
            UnknownKeyError: it publishes no such key: a JWKS read since this call began does not hold it.
            KeyNotYetKnownError: the JWKS read before does not hold it, and no look is allowed yet, or it failed.
            LFIUnavailableError: its keys cannot be read, and none that we could use are held.
        """
        held = self._held.setdefault(sender.issuer, _Held())
        came = self._clock.now()
        if held.serves(kid, now=came):  # no event waits for a look that another kid began
            return held.keys[kid]
        async with held.lock:  # whoever comes meanwhile shares the outcome
            now = self._clock.now()
            if not held.serves(kid, now=now) and (held.looked_at is None or now - held.looked_at >= FETCH_EVERY):
                held.looked_at = now
                await self._look(sender, held)
            if held.read_at is None or now - held.read_at >= STALE_MAX:
                raise LFIUnavailableError(f'events.senders."{sender.issuer}".jwks_url: not read lately', retry_after=60)
            if kid in held.keys:
                return held.keys[kid]
            if held.read_from is not None and held.read_from >= came:
                raise jose.UnknownKeyError("event: its kid is not among its sender's published keys")
            wait = FETCH_EVERY - (now - held.looked_at) if held.looked_at else FETCH_EVERY
            raise KeyNotYetKnownError(
                "event: its kid is not among its sender's keys as last read; they are read again soon",
                retry_after=max(1.0, wait.total_seconds()),
            )

    def holds(self, sender: Sender, kid: str) -> bool:
        """Whether a key of a sender may be used without a look."""
        held = self._held.get(sender.issuer)
        return held is not None and held.serves(kid, now=self._clock.now())

    async def _look(self, sender: Sender, held: _Held) -> None:
        began = self._clock.now()
        try:
            published = await self._fetch(sender.jwks_url)
        except SyncWorkerError as error:
            log.warning("keys of a sender not read", issuer=sender.issuer, error=error.code)
            return
        held.keys, held.read_at, held.read_from = published.by_kid, self._clock.now(), began
        held.good_until = held.read_at + published.keep


class KeyFetcher:
    """Reads JWKS over plain TLS: one GET, no redirect, no cookies, bounded in size and time.

    The keys of participants are public; no certificate of ours is shown.
    """

    def __init__(
        self,
        *,
        ca_bundle: Path | None = None,
        clock: Clock,
        private: Collection[str] = (),
        lookup: Lookup = system_lookup,
    ) -> None:
        """Opens nothing yet.

        Args:
            ca_bundle: PEM file of roots trusted beside the system's own.
            private: URLs that may lead to this machine or a private network (`Sender.allow_private_hosts`).
            lookup: resolves host names.

        Raises:
            SettingsError: the bundle cannot be used.
        """
        for name in ("httpx", "httpcore"):  # at INFO they print full URLs (rule 37)
            logging.getLogger(name).setLevel(logging.WARNING)
        context = ssl.create_default_context()
        try:
            if ca_bundle is not None:
                context.load_verify_locations(cafile=ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"client.ca_bundle: cannot use {ca_bundle}; give a PEM file of roots") from error
        self._clock = clock
        self._private = frozenset(private)
        self._clients = {
            allowed: _client(context, Addresses(allow_private_hosts=allowed, lookup=lookup))
            for allowed in (False, True)
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __call__(self, url: str) -> Published:
        """Read the JWKS at a URL.

        Raises:
            SetupError: its host's name resolves to a private address, without leave.
            LFIUnavailableError: no usable answer in time.
            StandardViolationError: too large, or not a JWKS.
        """
        try:
            async with (
                Opening() as opening,
                asyncio.timeout(FETCH_DEADLINE_S),
                self._clients[url in self._private].stream("GET", url, extensions=opening.extensions) as response,
            ):
                inflater = Inflater(response.headers.get("content-encoding", ""), limit=DOCUMENT_BYTES_MAX)
                async for chunk in response.aiter_raw():
                    inflater.feed(chunk)
        except PrivateHostError as error:
            raise SetupError("jwks_url: its host's name resolves to this machine or a private network") from error
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise LFIUnavailableError(f"jwks_url: no answer ({type(error).__name__})") from None
        if response.status_code != httpx.codes.OK:
            wait = retry_after(response.headers, now=self._clock.now())
            raise LFIUnavailableError(f"jwks_url: answered {response.status_code}", retry_after=wait)
        keep = fresh_for(response.headers.get("cache-control", ""), at_most=JWKS_AGE_MAX)
        return Published(jose.read_keys(_document(inflater.finish())), keep)

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.aclose()


def _client(context: ssl.SSLContext, addresses: Addresses) -> httpx.AsyncClient:
    limits = httpx.Limits(max_keepalive_connections=0)  # minutes lie between two looks
    return httpx.AsyncClient(
        transport=CheckedTransport(addresses, context=context, limits=limits),
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        timeout=None,  # noqa: S113  the deadline around each fetch is the timeout
    )


def _document(body: bytes) -> object:
    try:
        return jose.read_claims(body)
    except StandardViolationError:
        raise StandardViolationError("jwks_url: the document is not a JWKS") from None
