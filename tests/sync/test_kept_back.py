"""A run whose LFI is kept back stops, and is due when the LFI is let in again."""

from datetime import timedelta
from typing import Any

import pytest

from syncworker.errors import GateClosedError, LFIBreakerOpenError
from syncworker.lfi.traffic import FreeTraffic
from syncworker.standard.operations import OperationClass
from syncworker.sync.reports import RunOutcome
from tests.sync.house import LFI

pytestmark = pytest.mark.flow


class Door(FreeTraffic):
    """Lets a number of data calls through, then raises."""

    def __init__(self, error: Exception, *, after: int = 0) -> None:
        self._error = error
        self.left = after

    async def admit(self, operations: OperationClass) -> None:
        if operations is OperationClass.DATA:
            self.left -= 1
            if self.left < 0:
                raise self._error


async def test_an_open_breaker_stops_the_run_and_says_when(open_product: Any) -> None:
    """Nothing is asked; whoever only stood by is due when the trial is, whatever its own bad ends."""
    product = await open_product(client={"traffic": Door(LFIBreakerOpenError("kept back", retry_after=25))})
    connection = await product.consented()
    begin = product.mark()

    report = await product.sync(connection)

    assert (report.outcome, report.error, report.due_at, product.gets(begin)) == (
        RunOutcome.FAILED,
        "lfi_breaker_open",
        product.clock.now() + timedelta(seconds=25),
        {},
    )


async def test_who_tripped_the_breaker_is_not_first_in_the_row_for_the_trial(open_product: Any) -> None:
    """Its own call failed, so its ladder counts: a minute and not 25 s.  One poisoned consent holds nobody up."""
    door = Door(LFIBreakerOpenError("kept back", retry_after=25), after=1)
    product = await open_product(client={"traffic": door})
    connection = await product.consented()
    product.bank.bank.answers(503, operation="accounts", times=None)
    product.bank.bank.answers(503, operation="parties", times=None)

    report = await product.sync(connection)

    assert (report.error, report.due_at) == ("lfi_breaker_open", product.clock.now() + timedelta(minutes=1))


async def test_a_closed_gate_is_not_closed_again_by_those_who_find_it_closed(open_product: Any) -> None:
    """It would never open: each would prolong it by what was left."""
    product = await open_product(client={"traffic": Door(GateClosedError("gate", retry_after=25))})
    connection = await product.consented()

    report = await product.sync(connection)
    async with product.store.reading() as unit:
        gates = await unit.lfis.gates()

    assert (report.error, report.due_at, gates) == (
        "lfi_gate_closed",
        product.clock.now() + timedelta(seconds=25),
        {},
    )


async def test_a_runs_calls_are_found_with_it(open_product: Any) -> None:
    """Each with its interaction id and attempt; the retry of a 503 is the second attempt."""
    product = await open_product()
    connection = await product.consented()
    product.bank.bank.answers(503, operation="accounts", times=1)

    await product.sync(connection)
    async with product.store.reading() as unit:
        (filed,) = await unit.runs.find(connection_id=connection)
        calls = await unit.runs.calls_of(filed)
        (traffic,) = await unit.runs.traffic(since=product.clock.now() - timedelta(minutes=1))

    accounts = [(one.status, one.attempt) for one in calls if one.operation == "GetAccounts"]
    assert (accounts, len(calls), len({one.interaction_id for one in calls})) == (
        [(503, 1), (200, 2)],
        filed.run.calls,
        filed.run.calls,
    )
    assert (traffic.lfi, traffic.calls, traffic.retried, traffic.unanswered, traffic.rate_limited) == (
        LFI,
        filed.run.calls + 1,  # and the code exchange, which is of no run
        1,
        1,
        0,
    )
