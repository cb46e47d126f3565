"""`GET /metrics`: how things stand, for Prometheus.

A scrape collects what `syncworker status` shows and judges it in a thread, so that other requests are served meanwhile;
scrapes that come at the same time share one collection.  How old the data is takes longest to count: it is counted once
a minute, beside the scrapes.  So is the broker asked: one that is silent costs no scrape its time.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from syncworker import __version__
from syncworker.clock import monotonic
from syncworker.errors import SyncWorkerError
from syncworker.ops.diagnosis import diagnose
from syncworker.ops.measuring import Ages, Buckets, Sheet, aged, measure
from syncworker.ops.metrics import METRICS, Metric, MetricType
from syncworker.ops.status import BrokerFact, ask_broker, collect
from syncworker.ops.targets import targets_of
from syncworker.settings import EMBEDDED, Settings
from syncworker.store.api_keys import Scope
from syncworker.store.tally import Key
from syncworker.store.unit_of_work import Store
from syncworker.web.guard import Keys, Principal
from syncworker.web.problems import REFUSALS

PATH: Final = "/metrics"
AGES_EVERY: Final = timedelta(minutes=1)
BROKER_EVERY: Final = timedelta(seconds=4)
SHARED_FOR: Final = timedelta(seconds=1)
"""Scrapes that come within so long get the same values."""

log = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class _Kept:
    """When something was last begun to be looked at; `None`: never."""

    begun: float | None = None

    def due(self, every: timedelta, *, now: float) -> bool:
        return self.begun is None or now - self.begun >= every.total_seconds()


class Scrapes:
    """Collects for scrapes.  Lives on one event loop; `close()` it there."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        ask: Callable[[Settings], BrokerFact] = ask_broker,
        timer: Callable[[], float] = monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._ask = ask
        self._timer = timer
        self._rule = targets_of(settings).rule
        self._broker = BrokerFact(embedded=settings.broker_url == EMBEDDED)
        self._broker_asked = _Kept()
        self._ages: Ages | None = None
        self._ages_counted = _Kept()
        self._sheet: Sheet | None = None
        self._collected = _Kept()
        self._collecting: asyncio.Task[Sheet] | None = None
        self._beside: set[asyncio.Task[None]] = set()

    async def sheet(self) -> Sheet:
        """The values of now.

        Raises:
            StoreRefusedError: the database is of another schema.
        """
        if self._collecting is None:
            if self._sheet is not None and not self._collected.due(SHARED_FOR, now=self._timer()):
                return self._sheet
            self._collecting = asyncio.create_task(self._collect(), name="collect metrics")
        return await asyncio.shield(self._collecting)  # a scrape that is given up ends none of the others

    async def close(self) -> None:
        """End what goes on beside scrapes."""
        those = [*self._beside, *([self._collecting] if self._collecting is not None else [])]
        for one in those:
            one.cancel()
        await asyncio.gather(*those, return_exceptions=True)

    async def _collect(self) -> Sheet:
        try:
            begun = self._collected.begun = self._timer()
            if self._broker_asked.due(BROKER_EVERY, now=begun):
                self._go(self._look_at_broker())
            if self._ages_counted.due(AGES_EVERY, now=begun):
                counting = self._go(self._count_ages())
                if self._ages is None:
                    await counting
            status = await collect(self._settings, self._store, ask=lambda _: self._broker, costs=False)
            counters = await self._counters()

            def judged() -> Sheet:
                took_s = self._timer() - begun
                return measure(
                    status, diagnose(status), counters=counters, ages=self._ages, version=__version__, took_s=took_s
                )

            self._sheet = await asyncio.to_thread(judged)
            return self._sheet
        finally:
            self._collecting = None

    async def _counters(self) -> Mapping[Key, int]:
        await self._store.file_counts()
        async with self._store.looking() as unit:
            return await unit.counters.read()

    def _go(self, looking: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(looking)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task

    async def _look_at_broker(self) -> None:
        self._broker_asked.begun = self._timer()
        self._broker = await asyncio.to_thread(self._ask, self._settings)

    async def _count_ages(self) -> None:
        self._ages_counted.begun = self._timer()
        try:
            async with self._store.looking() as unit:
                now = await unit.now()
                rows = await unit.overviews.ages(rule=self._rule, user_refs=self._settings.allow.user_refs)
            self._ages = await asyncio.to_thread(lambda: aged(rows, at=now))
        except SyncWorkerError as error:  # the next scrape asks again
            self._ages_counted.begun = None
            log.warning("ages of data not counted", error=error.code)


def routes(scrapes: Scrapes, *, keys: Keys) -> APIRouter:
    """The route."""
    router = APIRouter(route_class=keys.route_class(), responses=REFUSALS)

    @router.get(
        PATH,
        response_class=Response,
        responses={200: {"description": "Metrics, as Prometheus reads them.", "content": {"text/plain": {}}}},
        tags=["operations"],
    )
    async def metrics(request: Request, _: Annotated[Principal, Depends(keys.needs(Scope.METRICS_READ))]) -> Response:
        """How things stand: metrics of the tenant, in the format that the `Accept` header asks for."""
        sheet = await scrapes.sheet()
        content, kind = await asyncio.to_thread(exposition, sheet, request.headers.get("accept", ""))
        return Response(content, media_type=kind)

    return router


def exposition(sheet: Sheet, accept: str = "") -> tuple[bytes, str]:
    """The values as text.

    Args:
        accept: the header of the request.

    Returns:
        The text, and its media type: OpenMetrics where `accept` has it, else the older format.
    """
    registry = CollectorRegistry()
    registry.register(_Collected(sheet))
    encode, kind = choose_encoder(accept)
    return encode(registry), kind


class _Collected(Collector):
    def __init__(self, sheet: Sheet) -> None:
        self._sheet = sheet

    def collect(self) -> list[Family]:
        return [_family(metric, self._sheet) for those in METRICS.values() for metric in those]


def _family(metric: Metric, sheet: Sheet) -> Family:
    """A metric with its samples; one without any says its type all the same."""
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.type is MetricType.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.means, labels=metric.labels)
        for labels, one in _sorted(sheet, metric):
            histogram.add_metric(labels, one.cumulated(), sum_value=one.total)
        return histogram
    if metric.type is MetricType.GAUGE_HISTOGRAM:
        ages = GaugeHistogramMetricFamily(metric.name, metric.means, labels=metric.labels)
        for labels, one in _sorted(sheet, metric):
            ages.add_metric(labels, one.cumulated(), gsum_value=one.total)
        return ages
    made = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
    family = made(metric.name, metric.means, labels=metric.labels)
    for values, value in sorted(sheet.values.get(metric.name, {}).items()):
        family.add_metric(values, value)
    return family


def _sorted(sheet: Sheet, metric: Metric) -> list[tuple[tuple[str, ...], Buckets]]:
    return sorted(sheet.buckets.get(metric.name, {}).items(), key=lambda one: one[0])
