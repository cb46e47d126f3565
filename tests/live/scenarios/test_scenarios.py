"""Scenarios 1 to 4, 6 and 7 in the size of a test suite, with real processes on PostgreSQL."""

from collections.abc import Awaitable, Callable

import pytest

from tests.ground.proxy import FaultProxy
from tests.ground.valkey import ValkeyServer
from tests.live.scenarios import plots
from tests.live.scenarios.installation import Installation, Prepared

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

Install = Callable[..., Awaitable[Installation]]


async def test_a_worker_killed_again_and_again_loses_no_sync(install: Install, prepared: Prepared) -> None:
    """1. Four times `kill -9` in the middle: every sync comes, every row as after one run, nothing parked."""
    told = await plots.killed_again_and_again(await install(prepared), kills=4)

    assert told.facts["kills"] == 4


async def test_a_consent_that_kills_its_worker_is_parked_alone(install: Install, prepared: Prepared) -> None:
    """2. After five crashes it is parked; those that were in work beside it are not, and go on."""
    told = await plots.poisoned(await install(prepared))

    assert told.facts["deaths"] == 5


async def test_an_emptied_broker_forgets_nothing_that_is_due(
    install: Install, prepared: Prepared, valkey: ValkeyServer
) -> None:
    """3. FLUSHALL under waiting hints, then a restart without data under running workers."""
    await plots.emptied_broker(await install(prepared), valkey)


@pytest.mark.long
async def test_broken_lines_to_the_broker_heal_by_themselves(
    install: Install, prepared: Prepared, broker_url: str, fault_proxy: Callable[[str], Awaitable[FaultProxy]]
) -> None:
    """4. Cut, refused, frozen beyond the socket's patience: work goes on after each, nothing is lost."""
    proxy = await fault_proxy(broker_url)
    site = await install(prepared, broker_url=proxy.url(broker_url))

    await plots.broken_lines(site, proxy, cuts=6, cut_over_s=3, refused_s=3, frozen_s=12)


@pytest.mark.long
async def test_clocks_five_minutes_apart_do_no_harm(install: Install, prepared: Prepared) -> None:
    """6. Two dispatchers and two beats that disagree about the time: each generation is claimed once."""
    await plots.two_of_each(await install(prepared), apart_s=300, rounds=4)


@pytest.mark.long
async def test_a_holder_that_slept_through_its_lease_changes_nothing(install: Install, prepared: Prepared) -> None:
    """7. What it read before is old when it wakes; the newer run's rows stand."""
    await plots.paused_holder(await install(prepared))
