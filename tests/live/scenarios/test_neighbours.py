"""Scenarios 13 and 17, and the limits two workers share, with real processes on PostgreSQL."""

from collections.abc import Awaitable, Callable

import pytest

from tests.live.scenarios import plots
from tests.live.scenarios.installation import Installation, Prepared

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

Install = Callable[..., Awaitable[Installation]]
Prepare = Callable[..., Prepared]

SICK = ("slow", "busy", "dripping")


@pytest.mark.long
async def test_an_orderly_end_loses_no_grant_and_leaves_no_lease(install: Install, prepare_banks: Prepare) -> None:
    """13. SIGTERM during 20 refreshes and 20 walks; SIGKILL would come at 40 s and does not have to."""
    site = await install(prepare_banks("sandbox", customers=40, long_every=0), consents_at_once=50, lease_seconds=30)

    told = await plots.orderly_end(site, token_s=8, walk_s=6)

    assert (told.facts["refreshes"], told.facts["walks"]) == (20, 20)


@pytest.mark.long
async def test_sick_banks_leave_the_others_alone(install: Install, prepare_banks: Prepare) -> None:
    """17. Small batches, so that each sick bank could fill the threads; calls end after 5 s instead of 30."""
    prepared = prepare_banks(*SICK, "noor", "waha", customers=6, long_every=0)
    site = await install(prepared, batch_size=2, call_timeout=5)

    await plots.sick_neighbours(site, window_s=6, retry_after_s=8, deadline_s=5, healthy=("noor", "waha"))


@pytest.mark.long
async def test_calls_a_second_are_shared(install: Install, prepared: Prepared) -> None:
    """Two workers keep to one LFI's rate together."""
    await plots.shared_rate(
        await install(prepared, declared={"calls_per_second": 25}, batch_size=2), rate=25, calls=150
    )


@pytest.mark.long
async def test_slots_are_shared(install: Install, prepared: Prepared) -> None:
    """Two workers take no more consents into work than the LFI has slots."""
    site = await install(prepared, consents_at_once=3, batch_size=1)

    await plots.shared_slots(site, slots=3, rounds=2)


@pytest.mark.long
async def test_one_429_closes_the_gate_for_both_workers(install: Install, prepared: Prepared) -> None:
    """The gate is the LFI's, whoever heard the 429."""
    await plots.shared_gate(await install(prepared, batch_size=1), retry_after_s=6)
