"""Admit calls to an LFI at the rate it was promised, over all workers together.

Both implementations count in the same way: each call moves an LFI's *next free instant* one interval on, and waits
until its own (a token bucket written as a clock).  Nothing queues in memory but the waiting coroutines themselves, and
each of those has its caller's deadline.  The Redis one shares that instant between processes; while Redis is away,
each process keeps to the rate by itself: the broker may vanish at any time (`reliability.md` rule 10).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import redis.asyncio as redis
from redis.exceptions import RedisError

from syncworker.clock import monotonic
from syncworker.standard.values import Slug

log = logging.getLogger(__name__)

BURST_S: Final = 0.1
"""Calls of so many seconds may pass at once; more would let twice the rate through within one second."""

PATIENCE_S: Final = 30.0
"""How far ahead calls are reserved; beyond it a call waits without a place, so that given-up calls leave no debt."""

DEFAULT_RATE: Final = 10.0

Sleep = Callable[[float], Awaitable[None]]


class Admission(Protocol):
    """Lets calls through at an LFI's rate."""

    async def admit(self, lfi: Slug) -> None:
        """Return when one call to this LFI may start.  The wait is the caller's to bound."""
        ...

    async def close(self) -> None:
        """Give back connections."""
        ...


@dataclass(slots=True)
class _Bucket:
    interval: float = 0.0
    burst: float = 0.0
    next_free: float = 0.0

    def reserve(self, now: float) -> float | None:
        """Seconds until the call may start; `None` when that lies too far ahead and nothing was reserved."""
        start = max(self.next_free, now - self.burst)
        wait = start - now
        if wait > PATIENCE_S:
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

    async def admit(self, lfi: Slug) -> None:
        rate = self._rates.get(lfi, self._default)
        bucket = self._buckets.setdefault(lfi, _Bucket())
        bucket.interval, bucket.burst = 1 / rate, _burst(rate)
        while (wait := bucket.reserve(self._timer())) is None:
            await self._sleep(PATIENCE_S / 2)
        if wait > 0:
            await self._sleep(wait)

    async def close(self) -> None:
        """Nothing to give back."""


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

_TRIP_S: Final = 0.02
"""A process reserves the calls of so many seconds in one trip to Redis, at least one."""


@dataclass(slots=True)
class _Share:
    """Calls one process has reserved and not yet made."""

    lock: asyncio.Lock
    left: int = 0
    from_instant: float = 0.0
    interval: float = 0.0


class SharedAdmission:
    """The count of all processes together, in Redis or Valkey.  Lives on one event loop."""

    def __init__(
        self,
        url: str,
        rates: Mapping[Slug, float],
        *,
        tenant: str = "default",
        default: float = DEFAULT_RATE,
        sleep: Sleep = asyncio.sleep,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        """Opens nothing yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`; Celery's `redis+socket://` is understood.
            rates: calls per second of each LFI, above 0; others get `default`.
        """
        self._redis = redis.Redis.from_url(redis_url(url), socket_timeout=2, socket_connect_timeout=2)
        self._reserve = self._redis.register_script(_RESERVE)
        self._rates = rates
        self._default = default
        self._tenant = tenant
        self._sleep = sleep
        self._timer = timer
        self._alone = LocalAdmission(rates, default=default, sleep=sleep, timer=timer)
        self._shares: dict[Slug, _Share] = {}
        self._away = False

    async def admit(self, lfi: Slug) -> None:
        try:
            wait = await self._wait_for(lfi)
        except (RedisError, OSError) as error:
            if not self._away:
                log.warning("limits: redis is away, each process keeps the rate alone (%s)", type(error).__name__)
            self._away = True
            await self._alone.admit(lfi)
            return
        self._away = False
        if wait > 0:
            await self._sleep(wait)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _wait_for(self, lfi: Slug) -> float:
        share = self._shares.setdefault(lfi, _Share(asyncio.Lock()))
        rate = self._rates.get(lfi, self._default)
        async with share.lock:
            if share.left == 0:
                await self._fetch(lfi, share, rate)
            share.left -= 1
            mine = share.from_instant
            share.from_instant += share.interval
        return mine - self._timer()

    async def _fetch(self, lfi: Slug, share: _Share, rate: float) -> None:
        calls = max(1, int(rate * _TRIP_S))
        while True:
            answer = await self._reserve(
                keys=[f"syncworker:{self._tenant}:calls:{lfi}"],
                args=[_us(1 / rate), _us(_burst(rate)), _us(PATIENCE_S), calls],
            )
            if int(answer) >= 0:
                break
            await self._sleep(PATIENCE_S / 2)
        share.left = calls
        share.from_instant = self._timer() + int(answer) / 1_000_000
        share.interval = 1 / rate if int(answer) > 0 else 0.0


def admission(url: str | None, rates: Mapping[Slug, float], *, tenant: str = "default") -> Admission:
    """The shared count when `url` is one of Redis or Valkey, else this process's own."""
    if url is not None and _scheme(url) in {"redis", "rediss", "unix", "redis+socket"}:
        return SharedAdmission(url, rates, tenant=tenant)
    return LocalAdmission(rates)


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
