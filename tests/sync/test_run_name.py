"""Lines of the log that belong to one run carry its name, and lines of runs side by side are told apart by it."""

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from tests.sync.house import Product

pytestmark = pytest.mark.flow


async def test_each_line_of_a_run_carries_the_name_of_that_run(product: Product) -> None:
    """Two consents in one batch: a failing call, its run's end and its interaction id all name the same run."""
    connections = [await product.consented(), await product.consented(1)]
    product.bank.bank.truncated("balances", times=2)
    with capture_logs(processors=[merge_contextvars]) as lines:
        await product.sync_all(*connections)
    ended = {one["consent_id"]: one["run"] for one in lines if one["event"] == "consent synced"}
    calls = [one for one in lines if one["event"] == "lfi call"]
    async with product.store.reading() as unit:
        found = {consent: await unit.runs.named(name) for consent, name in ended.items()}

    assert len(set(ended.values())) == 2
    assert calls
    assert [one for one in calls if not one["interaction_id"].startswith(one["run"] + "-")] == []
    assert {one and one.run.consent_id for one in found.values()} == set(ended)
    assert {consent: one and one.run.consent_id for consent, one in found.items()} == {one: one for one in ended}


async def test_lines_outside_a_run_carry_no_name(product: Product) -> None:
    """What a task bound ends with the task."""
    connection = await product.consented()
    await product.sync(connection)
    with capture_logs(processors=[merge_contextvars]) as lines:
        await product.consented(1)

    assert lines
    assert [one for one in lines if "run" in one] == []
