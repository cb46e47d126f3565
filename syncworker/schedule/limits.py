"""Admit calls to an LFI at the rate it was promised, over all workers together.

Each call moves an LFI's *next free instant* one interval on, and waits until its own (a token bucket written as a
clock).  Where that instant is kept is the *ledger*: in Redis or Valkey, else in the database, which costs a small
transaction and so reserves half a second of calls at a time.  While the ledger is away, each process keeps to the rate
by itself: the broker may vanish at any time (`reliability.md` rule 10).

Nothing queues in memory but the waiting coroutines themselves, and each of those has its caller's deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

import redis.asyncio as redis
import structlog
from redis.exceptions import RedisError

from syncworker.clock import monotonic
from syncworker.errors import TransientError
from syncworker.standard.values import Slug
from syncworker.store.unit_of_work import Store, StoreUnavailableError

log = structlog.stdlib.get_logger(__name__)

BURST_S: Final = 0.1
"""Calls of so many seconds may pass at once; more would let twice the rate through within one second."""

PATIENCE_S: Final = 15.0
"""How far ahead calls are reserved; beyond it a call waits without a place, so that given-up calls leave no debt."""

FIRST_PATIENCE_S: Final = 60.0
"""The same for what goes first, a token: its place is behind the data calls that have one, before those that wait."""

DEFAULT_RATE: Final = 10.0

Sleep = Callable[[float], Awaitable[None]]


class Admission(Protocol):
    """Lets calls through at an LFI's rate."""

    def take(self, lfi: Slug) -> bool:
        """Take a place that is free now, at the LFI's whole rate; false: `admit` has to be asked."""
        ...

    async def admit(self, lfi: Slug, *, share: float = 1.0, patience: float = PATIENCE_S) -> bool:
        """Return when one call to this LFI may start.  The wait is the caller's to bound.

        Args:
            share: of the LFI's rate, above 0: less than all of it after trouble.
            patience: how far ahead a place may be taken.

        Returns:
            Whether it had to wait.
        """
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


@dataclass(slots=True)
class _Bucket:
    interval: float = 0.0
    burst: float = 0.0
    next_free: float = 0.0

    def reserve(self, now: float, patience: float) -> float | None:
        """Seconds until the call may start; `None` when that lies too far ahead and nothing was reserved."""
        start = max(self.next_free, now - self.burst)
        wait = start - now
        if wait > patience:
            return None
        self.next_free = start + self.interval
        return max(0.0, wait)


class LocalAdmission:
    """One process's own count: for an installation without Redis, where one process does the work."""

    def __init__(
        self,
        rates: Mapping[Slug, float],
        *,
        default: float = DEFAULT_RATE,
        sleep: Sleep = asyncio.sleep,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        """Nothing is opened.

        Args:
            rates: calls per second of each LFI, above 0, read anew at each call; others get `default`.
        """
        self._rates = rates
        self._default = default
        self._sleep = sleep
        self._timer = timer
        self._buckets: dict[Slug, _Bucket] = {}

    def take(self, lfi: Slug) -> bool:
        return self._bucket(lfi, 1.0).reserve(self._timer(), 0.0) is not None

    async def admit(self, lfi: Slug, *, share: float = 1.0, patience: float = PATIENCE_S) -> bool:
        bucket = self._bucket(lfi, share)
        waited = False
        while (wait := bucket.reserve(self._timer(), patience)) is None:
            waited = True
            await self._sleep(PATIENCE_S / 2)
        if wait > 0:
            await self._sleep(wait)
        return waited or wait > 0

    async def close(self) -> None:
        """Nothing to give back."""

    def _bucket(self, lfi: Slug, share: float) -> _Bucket:
        rate = self._rates.get(lfi, self._default) * share
        bucket = self._buckets.setdefault(lfi, _Bucket())
        bucket.interval, bucket.burst = 1 / rate, _burst(rate)
        return bucket


# KEYS[1]: the LFI's next free instant in µs.  ARGV: interval of one call, burst, patience (all µs), calls wanted.
# Answers the µs to wait, or -1 when that is beyond the patience and nothing was reserved.  Redis' own clock counts.
_RESERVE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local free = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now - tonumber(ARGV[2]))
local wait = free - now
if wait > tonumber(ARGV[3]) then return -1 end
free = free + tonumber(ARGV[1]) * tonumber(ARGV[4])
redis.call('SET', KEYS[1], string.format('%.0f', free), 'PX', math.ceil(math.max(free - now, 0) / 1000) + 60000)
return math.floor(math.max(wait, 0))
"""


class LedgerAwayError(TransientError):
    """What the processes share their counts in does not answer."""

    code = "ledger_away"


class Ledger(Protocol):
    """Keeps each LFI's next free instant for all processes.

    Attributes:
        trip_s: a process reserves the calls of so many seconds in one trip, at least one.
    """

    trip_s: float

    async def reserve(self, lfi: Slug, *, rate: float, calls: int, patience: float) -> float | None:
        """Reserve calls in a row.

        Returns:
            Seconds until the first may start; `None` when that lies beyond `patience` and nothing was reserved.

        Raises:
            LedgerAwayError: it cannot be asked.
        """
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


class RedisLedger:
    """In Redis or Valkey; its clock counts.  Lives on one event loop."""

    trip_s = 0.02

    def __init__(self, url: str, *, tenant: str = "default", tls: Mapping[str, Any] | None = None) -> None:
        """Opens nothing yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`; Celery's `redis+socket://` is understood.
            tls: how the server of a `rediss://` is verified, in redis-py's words; by default certificate and host are.
        """
        self._redis = redis.Redis.from_url(redis_url(url), socket_timeout=2, socket_connect_timeout=2, **(tls or {}))
        self._reserve = self._redis.register_script(_RESERVE)
        self._tenant = tenant

    async def reserve(self, lfi: Slug, *, rate: float, calls: int, patience: float) -> float | None:
        try:
            answer = int(
                await self._reserve(
                    keys=[f"syncworker:{self._tenant}:calls:{lfi}"],
                    args=[_us(1 / rate), _us(_burst(rate)), _us(patience), calls],
                )
            )
        except (RedisError, OSError) as error:
            raise LedgerAwayError(f"redis ({type(error).__name__})") from error
        return None if answer < 0 else answer / 1_000_000

    async def close(self) -> None:
        await self._redis.aclose()


class DatabaseLedger:
    """In the database, for brokers that keep no counts (RabbitMQ); the database's clock counts."""

    trip_s = 0.5

    def __init__(self, store: Store) -> None:
        """The store stays its owner's to close."""
        self._store = store

    async def reserve(self, lfi: Slug, *, rate: float, calls: int, patience: float) -> float | None:
        try:
            return await self._store.atomically(
                lambda unit: unit.lfis.reserve(
                    lfi,
                    interval=timedelta(seconds=1 / rate),
                    burst=timedelta(seconds=_burst(rate)),
                    patience=timedelta(seconds=patience),
                    calls=calls,
                )
            )
        except StoreUnavailableError as error:
            raise LedgerAwayError("the database") from error

    async def close(self) -> None:
        """Nothing of ours."""


@dataclass(slots=True)
class _Reserved:
    """Calls one process has reserved and not yet made."""

    lock: asyncio.Lock
    left: int = 0
    from_instant: float = 0.0
    interval: float = 0.0

    def take(self) -> float:
        """The instant of the next call; there has to be one left."""
        mine = self.from_instant
        self.left -= 1
        self.from_instant += self.interval
        return mine


class SharedAdmission:
    """The count of all processes together.  Lives on one event loop."""

    def __init__(
        self,
        ledger: Ledger,
        rates: Mapping[Slug, float],
        *,
        default: float = DEFAULT_RATE,
        sleep: Sleep = asyncio.sleep,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        """Opens nothing yet.

        Args:
            rates: calls per second of each LFI, above 0, read anew at each call; others get `default`.
        """
        self._ledger = ledger
        self._rates = rates
        self._default = default
        self._sleep = sleep
        self._timer = timer
        self._alone = LocalAdmission(rates, default=default, sleep=sleep, timer=timer)
        self._reserved: dict[Slug, _Reserved] = {}
        self._away = False

    def take(self, lfi: Slug) -> bool:
        held = self._reserved.get(lfi)
        if held is None or not held.left or not 0 <= self._timer() - held.from_instant <= BURST_S:
            return False
        held.take()
        return True

    async def admit(self, lfi: Slug, *, share: float = 1.0, patience: float = PATIENCE_S) -> bool:
        try:
            wait = await self._wait_for(lfi, share, patience)
        except LedgerAwayError as error:
            if not self._away:
                log.warning("shared limits away, each process keeps the rate alone", why=str(error))
            self._away = True
            return await self._alone.admit(lfi, share=share, patience=patience)
        self._away = False
        if wait > 0:
            await self._sleep(wait)
        return wait > 0

    async def close(self) -> None:
        await self._ledger.close()

    async def _wait_for(self, lfi: Slug, share: float, patience: float) -> float:
        held = self._reserved.setdefault(lfi, _Reserved(asyncio.Lock()))
        rate = self._rates.get(lfi, self._default) * share
        while True:
            async with held.lock:
                if held.from_instant < self._timer() - BURST_S:
                    held.left = 0  # nobody made them in their time; made now, they would come on top of everybody's
                if held.left > 0 or await self._fetch(lfi, held, rate, patience):
                    return held.take() - self._timer()
            await self._sleep(PATIENCE_S / 2)  # the lock is free meanwhile: whoever looks further ahead finds a place

    async def _fetch(self, lfi: Slug, held: _Reserved, rate: float, patience: float) -> bool:
        calls = max(1, int(rate * self._ledger.trip_s))
        wait = await self._ledger.reserve(lfi, rate=rate, calls=calls, patience=patience)
        if wait is None:
            return False
        held.left = calls
        held.from_instant = self._timer() + wait
        held.interval = 0.0 if wait == 0 and calls / rate <= BURST_S else 1 / rate
        return True


def admission(
    url: str | None,
    rates: Mapping[Slug, float],
    store: Store,
    *,
    tenant: str = "default",
    tls: Mapping[str, Any] | None = None,
) -> Admission:
    """All workers' count: in Redis or Valkey when `url` is one, else in the database.

    Args:
        tls: how redis-py verifies the server, where the URL is `rediss://`.
    """
    if url is not None and keeps_counts(url):
        return SharedAdmission(RedisLedger(url, tenant=tenant, tls=tls), rates)
    return SharedAdmission(DatabaseLedger(store), rates)


def keeps_counts(url: str) -> bool:
    """Whether a broker's URL names a server that can hold the counts too."""
    return _scheme(url) in {"redis", "rediss", "unix", "redis+socket"}


def redis_url(url: str) -> str:
    """A broker URL as redis-py spells it: `redis+socket:///path?virtual_host=1` is `unix:///path?db=1`."""
    if _scheme(url) != "redis+socket":
        return url
    path, _, query = url.removeprefix("redis+socket://").partition("?")
    options = dict(option.partition("=")[::2] for option in query.split("&") if option)
    database = options.get("virtual_host", "0").strip("/") or "0"
    return f"unix://{path}?db={database}"


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _burst(rate: float) -> float:
    """How many seconds of calls may pass at once; with less than one call in `BURST_S`, none."""
    return BURST_S if rate * BURST_S >= 1 else 0.0


def _us(seconds: float) -> int:
    return max(1, round(seconds * 1_000_000)) if seconds > 0 else 0
