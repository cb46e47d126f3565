"""Newest first, then the history behind it in slices; what comes late; what a killed process has to fetch again."""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from syncworker.standard.resources import ResourceName
from syncworker.standard.values import ConsentId
from syncworker.store.cursors import BEGINNING, Covered, Listing
from syncworker.sync.engine import Engine, Parts
from syncworker.sync.plan import PlanSettings
from syncworker.sync.reports import RunOutcome, RunReport, StepOutcome
from tests.sync.house import CADENCE, SETTINGS, Product

pytestmark = pytest.mark.flow

N = ResourceName
Opener = Callable[..., Awaitable[Product]]
SHORT = PlanSettings(cadence=CADENCE, first_sync=timedelta(days=30), backfill_slice=timedelta(days=20))


async def coverage(product: Product, connection: ConsentId) -> dict[Listing, tuple[Covered, ...]]:
    """What was walked completely, of the listings of transactions."""
    cursors = await product.cursors(connection)
    async with product.store.reading() as unit:
        return await unit.cursors.coverage(connection, [one for one in cursors if one.resource is N.TRANSACTIONS])


async def test_the_history_behind_is_read_in_slices(open_product: Opener) -> None:
    """Down to where the bank begins; then every listing is covered in one piece and the backfill is complete."""
    product = await open_product(customers=1, settings=replace(SETTINGS, plan=SHORT))
    connection = await product.consented()
    report = await product.sync(connection)
    cursors = [one for place, one in (await product.cursors(connection)).items() if place.resource is N.TRANSACTIONS]
    pieces = [len(windows) for windows in (await coverage(product, connection)).values()]
    assert (report.outcome, await product.differences()) == (RunOutcome.OK, ())
    assert ({one.backfilled_to for one in cursors}, set(pieces)) == ({BEGINNING}, {1})


async def test_a_complete_backfill_is_not_read_again(open_product: Opener) -> None:
    """Each account's transactions are then one request."""
    product = await open_product(customers=1, settings=replace(SETTINGS, plan=SHORT))
    connection = await product.consented()
    await product.sync(connection)
    begin = product.mark()
    await product.sync(connection)
    asked = {count for (operation, _), count in product.gets(begin).items() if operation == "transactions"}
    assert asked == {1}


async def test_a_run_near_its_deadline_leaves_the_rest_to_the_next(open_product: Opener) -> None:
    """Which is due at once, and ends with the whole history; nothing of it is a failure."""
    settings = replace(SETTINGS, plan=SHORT, consent_deadline_s=6.0)
    product = await open_product(customers=1, settings=settings)
    connection = await product.consented()
    product.bank.bank.latency(0.5, "transactions")
    first = await product.sync(connection)
    due_at = (await product.work(connection)).due_at
    product.bank.bank.latency(0, "transactions")
    product.engine = Engine(
        Parts(store=product.store, clients=product.clients, tokens=product.vault.source, ask=product.lifecycle.ask),
        replace(settings, consent_deadline_s=60),
    )
    second = await product.sync(connection, asked=False)
    assert (first.outcome, first.error, due_at) == (RunOutcome.OK, None, product.clock.now())
    assert (second.outcome, await product.differences()) == (RunOutcome.OK, ())


async def test_a_slice_that_is_refused_leaves_the_newest_part_alone(open_product: Opener) -> None:
    """The listing goes on; the history is asked for again when the refusal is forgotten."""
    product = await open_product(customers=1, settings=replace(SETTINGS, plan=SHORT))
    connection = await product.consented()
    refused = False

    async def refuse(resource: ResourceName, _number: int) -> None:
        nonlocal refused
        if resource is N.TRANSACTIONS and not refused:
            refused = True
            product.bank.bank.answers(400, operation="transactions", code="Resource.InvalidFormat", times=None)

    product.between = refuse
    product.settings = replace(SETTINGS, plan=SHORT, steps_at_once=1)
    report = await product.sync(connection)
    product.bank.bank.clear_faults()
    product.between = None
    outcomes = {step.outcome for step in report.steps if step.resource is N.TRANSACTIONS}
    product.clock.advance(hours=25)
    await product.sync(connection)
    assert StepOutcome.REFUSED in outcomes
    assert await product.differences() == ()


async def test_a_row_filed_weeks_late_is_found_by_the_weekly_walk(product: Product) -> None:
    """It lies before the overlap: today's walk cannot show it, the deep one does."""
    connection = await product.consented()
    await product.sync(connection)
    account = product.bank.bank.account_of(product.bank.users[0]).account_id
    product.bank.bank.insert_late(account, days=20, amount="7.77")
    product.clock.advance(days=1)
    await product.sync(connection)
    before = len(await product.differences())
    product.clock.advance(days=7)
    await product.sync(connection)
    assert (before, await product.differences()) == (1, ())


# -- a bank that ignores the window -----------------------------------------------------------------------------------


async def remembered(product: Product) -> set[ResourceName]:
    """The operations whose filter the bank is known to ignore."""
    async with product.store.reading() as unit:
        return {resource for _, resource in await unit.lfis.filters_ignored()}


async def walks(product: Product, connection: ConsentId, *, asked: bool = True) -> tuple[RunReport, Counter[int]]:
    """A sync, and how many walks of transactions the accounts had: each is one page here."""
    begin = product.mark()
    report = await product.sync(connection, asked=asked)
    counts = (count for (operation, _), count in product.gets(begin).items() if operation == "transactions")
    return report, Counter(counts)


def noted(report: RunReport) -> set[bool]:
    """Whether the listings of transactions are noted."""
    return {"listing.filter_ignored" in step.notes for step in report.steps if step.resource is N.TRANSACTIONS}


@pytest.mark.parametrize("silent", [False, True])
async def test_a_history_shown_whole_each_time_is_not_bought_for_each_slice(open_product: Opener, silent: bool) -> None:
    """The newest part, two slices that say nothing, and all of it once; later syncs and consents need one walk."""
    product = await open_product(customers=2, settings=replace(SETTINGS, plan=SHORT))
    product.bank.bank.paginate("transactions", None)
    product.bank.bank.ignores_filter(silent=silent)
    first = await product.consented(0)
    report, bought = await walks(product, first)
    windows = [len(those) for those in (await coverage(product, first)).values()]
    product.clock.advance(hours=13)
    again, later = await walks(product, first, asked=False)
    second = await product.consented(1)
    new, at_once = await walks(product, second)
    assert (max(bought), set(later), set(at_once), set(windows)) == (4, {1}, {1}, {1})
    assert (True in noted(report), noted(again), noted(new)) == (True, {True}, {True})
    assert (await remembered(product), await product.differences()) == ({N.TRANSACTIONS}, ())


async def test_a_history_shown_whole_proves_absences_in_its_window(open_product: Opener) -> None:
    """What is not shown any more is gone; what lies before the window and is shown is not touched."""
    product = await open_product(customers=1, settings=replace(SETTINGS, plan=SHORT))
    product.bank.bank.paginate("transactions", None)
    product.bank.bank.ignores_filter(silent=True)
    connection = await product.consented()
    await product.sync(connection)
    account = product.bank.bank.account_of(product.bank.users[0])
    lately = [one for one in account.transactions if product.clock.now() - one.booked_at < timedelta(days=20)]
    dropped = lately[0].transaction_id
    product.bank.bank.drop_transaction(account.account_id, dropped)
    product.clock.advance(days=8)
    report = await product.sync(connection)
    assert {key for _, _, resource, key in await product.buried() if resource == "transactions"} == {dropped}
    assert (report.total("removed"), report.total("added")) == (1, 0)
    assert (noted(report), await remembered(product)) == ({True}, {N.TRANSACTIONS})
    assert await product.differences() == ()


async def test_a_bank_that_honours_the_window_again_is_found_out(open_product: Opener) -> None:
    """Once an answer to a window is narrower; nothing is buried by it, and the next consent is read in slices."""
    product = await open_product(customers=2, settings=replace(SETTINGS, plan=SHORT))
    product.bank.bank.paginate("transactions", None)
    product.bank.bank.ignores_filter(silent=True)
    first = await product.consented(0)
    await product.sync(first)
    product.bank.bank.clear_faults()
    product.clock.advance(hours=13)
    report, _ = await walks(product, first, asked=False)
    known = await remembered(product)
    _, bought = await walks(product, await product.consented(1))
    assert (noted(report), known, max(bought) > 4) == ({False}, set(), True)
    assert (await product.buried(), await product.differences()) == (set(), ())


async def test_an_ignored_window_is_forgotten_after_a_month(open_product: Opener) -> None:
    """Then a new consent finds out for itself."""
    product = await open_product(customers=2, settings=replace(SETTINGS, plan=SHORT))
    product.bank.bank.paginate("transactions", None)
    product.bank.bank.ignores_filter(silent=True)
    first = await product.consented(0)
    await product.sync(first)
    product.clock.advance(days=31)
    _, bought = await walks(product, await product.consented(1))
    assert (set(bought), await remembered(product)) == ({4}, {N.TRANSACTIONS})


async def test_a_bank_that_answers_another_window_instead_buries_nothing(open_product: Opener) -> None:
    """Its answers say nothing of old windows, but it does not show everything: no memory, and no slices for ever."""
    product = await open_product(customers=1, settings=replace(SETTINGS, plan=SHORT))
    product.bank.bank.paginate("transactions", None)
    product.bank.bank.newest_instead()
    connection = await product.consented()
    report, bought = await walks(product, connection)
    product.clock.advance(hours=13)
    _, later = await walks(product, connection, asked=False)
    assert (False in noted(report), await remembered(product), await product.buried()) == (True, set(), set())
    assert (set(later), max(bought) < 30) == ({1}, True)
    assert await product.differences() == ()


@pytest.mark.live
@pytest.mark.timeout(90)
async def test_a_backfill_that_is_killed_has_one_slice_to_fetch_again(
    open_product: Opener, database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """`kill -9` of the process in the middle of its slices: what was committed is not asked for a second time."""
    product = await open_product(customers=1, settings=replace(SETTINGS, plan=SHORT))
    product.bank.bank.paginate("transactions", None)
    connection = await product.consented()
    orders = {
        "database_url": database_url,
        "keyring": str(next(tmp_path_factory.getbasetemp().glob("keys*/keyring"))),
        "bank": product.bank.facts(),
        "connection_id": connection,
        "first_sync_days": 30,
        "backfill_slice_days": 20,
    }
    product.bank.bank.latency(0.1, "transactions")
    script = Path(__file__).with_name("backfill_process.py")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.sync.{script.stem}", json.dumps(orders), stderr=asyncio.subprocess.PIPE
    )
    accounts = len(product.bank.bank.consents.get(connection).account_ids)
    for _ in range(600):
        if sum(n for (operation, _), n in product.gets().items() if operation == "transactions") >= accounts + 4:
            break
        if child.returncode is not None:
            assert child.stderr is not None
            raise AssertionError((await child.stderr.read()).decode()[-2000:])
        await asyncio.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    await child.wait()
    await asyncio.sleep(0.3)  # the request in flight is answered to nobody
    committed = await slices_covered(product, connection)
    asked = sum(n for (operation, _), n in product.gets().items() if operation == "transactions") - accounts
    begin = product.mark()
    product.bank.bank.latency(0, "transactions")
    product.clock.advance(minutes=5)  # the dead process's lease runs out
    await product.sync(connection, asked=False)
    again = sum(n for (operation, _), n in product.gets(begin).items() if operation == "transactions")
    whole = await slices_covered(product, connection)
    assert 0 < committed < whole
    assert asked - committed <= 1
    assert again == accounts + whole - committed  # the newest part is due again: it was asked for
    assert await product.differences() == ()


async def slices_covered(product: Product, connection: ConsentId) -> int:
    """Slices of twenty days behind the first thirty, over all accounts."""
    today = product.clock.now().date()
    windows = [window for those in (await coverage(product, connection)).values() for window in those]
    return sum(round(((today - timedelta(days=30)) - window.from_date).days / 20) for window in windows)
