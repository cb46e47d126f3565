"""Counters on both databases: they go up, over restarts, processes and failures, and count only what holds."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import pytest
import sqlalchemy as sa

from syncworker.standard.values import ConsentId, Slug
from syncworker.store import unit_of_work
from syncworker.store.calls import CallRow
from syncworker.store.runs import RunRow
from syncworker.store.tables import counter, run
from syncworker.store.tally import OTHER, Counted, Key, Tally
from syncworker.store.tokens import IN_DOUBT, TOKEN_CALL
from syncworker.store.unit_of_work import Store, UnitOfWork

NOW: Final = datetime(2026, 11, 21, 10, tzinfo=UTC)
NOOR: Final = Slug("noor")
RUNS: Final[Key] = ("runs", "noor", "ok")

store_ring = pytest.mark.store


def a_call(**changes: Any) -> CallRow:
    facts: dict[str, Any] = {
        "lfi": NOOR, "consent_id": "c", "operation": "GetAccounts", "status": 200, "error": None,
        "interaction_id": "a", "started_at": NOW, "duration_ms": 120, "bytes_in": 1, "attended": False,
        "price_millifils": 2_500,
    }  # fmt: skip
    return CallRow(**facts | changes)


def a_run(**changes: Any) -> RunRow:
    facts: dict[str, Any] = {
        "connection_id": ConsentId("c"), "consent_id": ConsentId("c"), "lfi": NOOR, "gen": 1, "started_at": NOW,
        "ended_at": NOW, "outcome": "ok", "error": None, "calls": 1, "pages": 1, "pages_unchanged": 0, "added": 2,
        "modified": 0, "removed": 1,
        "steps": [{"account_id": "x", "resource": "balances", "outcome": "ok", "added": 2, "removed": 1}],
    }  # fmt: skip
    return RunRow(**facts | changes)


async def file(unit: UnitOfWork) -> None:
    await unit.runs.file([(a_run(), [a_call()])])


async def counted(store: Store) -> dict[Key, int]:
    async with store.reading() as unit:
        return dict(await unit.counters.read())


# -- on the databases --------------------------------------------------------------------------------------------------


@store_ring
async def test_a_run_and_its_calls_are_counted_with_their_commit(store: Store) -> None:
    """By LFI, resource, operation, status, duration and price; in one row for each set of labels."""
    await store.atomically(file)
    await store.file_counts()

    assert await counted(store) == {
        RUNS: 1,
        ("walks", "noor", "balances", "ok"): 1,
        ("rows", "noor", "balances", "added"): 2,
        ("rows", "noor", "balances", "removed"): 1,
        ("calls", "noor", "GetAccounts", "2xx", "false"): 1,
        ("call_time", "noor", "GetAccounts", "250"): 1,
        ("call_ms", "noor", "GetAccounts"): 120,
        ("price", "noor"): 2_500,
    }


@store_ring
async def test_counters_outlive_rows_restarts_and_add_up_over_processes(
    database_url: str, open_store: Callable[..., Store]
) -> None:
    """Two processes at once, a third after both: no count is lost by an end in order, none by retention."""
    first, second = open_store(database_url), open_store(database_url)
    for _ in range(3):
        await asyncio.gather(first.atomically(file), second.atomically(file))
        await asyncio.gather(first.file_counts(), second.file_counts())
    await first.atomically(file)
    await first.close()  # files what it has
    await second.close()
    third = open_store(database_url)
    seven = (await counted(third))[RUNS]
    await third.atomically(lambda unit: unit.connection.execute(sa.delete(run).where(run.c.tenant == unit.tenant)))
    await third.atomically(file)
    await third.file_counts()

    assert (seven, (await counted(third))[RUNS]) == (7, 8)


@store_ring
async def test_what_is_rolled_back_is_not_counted(store: Store) -> None:
    """By an error, or by a block that is left without a commit."""

    async def fail(unit: UnitOfWork) -> None:
        await file(unit)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await store.atomically(fail)
    async with store.writing() as unit:
        await file(unit)
    await store.file_counts()

    assert await counted(store) == {}


@store_ring
async def test_a_process_that_is_killed_loses_its_last_counts_and_takes_none_back(
    database_url: str, open_store: Callable[..., Store]
) -> None:
    """Nothing is filed of it any more; what others file adds to what it had filed."""
    killed, other = open_store(database_url), open_store(database_url)
    await killed.atomically(file)
    await killed.file_counts()
    await killed.atomically(file)
    before = await counted(other)
    await other.atomically(file)
    await other.file_counts()

    assert (before[RUNS], (await counted(other))[RUNS]) == (1, 2)


@store_ring
async def test_counts_wait_for_a_database_that_refuses_them(store: Store) -> None:
    """No table for them, as before an upgrade is through: the sync holds, and its counts are filed later."""
    async with store.writing() as unit:
        await unit.connection.execute(sa.text("ALTER TABLE counter RENAME TO elsewhere"))
        await unit.commit()
    await store.atomically(file)
    await store.file_counts()
    async with store.writing() as unit:
        await unit.connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO counter"))
        await unit.commit()
    await store.file_counts()

    assert (await counted(store))[RUNS] == 1


@store_ring
async def test_counts_are_filed_by_themselves(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little after the transaction that counted; nothing has to be called."""
    monkeypatch.setattr(unit_of_work, "COUNTS_FILED_EVERY_S", 0.0)
    await store.atomically(file)
    looks = [await counted(store) for _ in range(100)]

    assert looks[-1][RUNS] == 1


@store_ring
async def test_a_call_in_doubt_counts_once_it_is_settled(store: Store) -> None:
    """Once, however often it is settled; one that was not sent never counts."""
    token = {"operation": TOKEN_CALL, "consent_id": "", "price_millifils": 0}
    doubt = a_call(**token, status=None, error=IN_DOUBT)
    unsent = a_call(**token, status=None, error=IN_DOUBT, interaction_id="b")
    await store.atomically(lambda unit: unit.runs.add_calls([doubt, unsent]))
    await store.atomically(lambda unit: unit.runs.withdraw(unsent))
    for _ in range(2):
        await store.atomically(lambda unit: unit.runs.settle([a_call(**token)]))
    await store.file_counts()

    calls = {key: count for key, count in (await counted(store)).items() if key[0] == "calls"}
    assert calls == {("calls", "noor", TOKEN_CALL, "2xx", "false"): 1}


@store_ring
async def test_rows_of_another_version_are_left_out(store: Store) -> None:
    """A counter that this version does not know, or with other labels."""
    rows = [("tomorrow", "a", 1), ("runs", "noor,ok,more", 1), ("runs", "noor,ok", 5), ("erased", "", 7)]
    async with store.writing() as unit:
        for name, labels, value in rows:
            values = {"tenant": unit.tenant, "name": name, "labels": labels, "value": value}
            await unit.connection.execute(sa.insert(counter).values(values))
        await unit.commit()

    assert await counted(store) == {RUNS: 5, ("erased",): 7}


# -- what a label may be -----------------------------------------------------------------------------------------------

HOSTILE: Final = (
    "customer-1", "AE070331234567890123456", 'x"} 1\nsyncworker_cause{kind="database_away"', "a,b", "x" * 500, "é", "",
    "مصرف", "NOOR", "noor\x00",
)  # fmt: skip


@pytest.mark.unit
@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_words_become_no_label(word: str) -> None:
    """As operation, resource, outcome, step: `other`.  As LFI too, but for what could be a slug."""
    tally = Tally()
    tally.run(lfi=word, outcome=word, steps=[{"resource": word, "outcome": word, "added": 1}])
    tally.calls([a_call(lfi=Slug(word), operation=word, status=799)])
    tally.end(lfi=word, kind="sync", good=False, retry=False)
    labels = {label for key in tally.taken() for label in key[1:]}

    assert labels - {"customer-1"} <= {OTHER, "added", "false", "250", "sync", "bad"}


@pytest.mark.unit
def test_nothing_is_counted_backwards() -> None:
    """A count below one adds nothing."""
    tally = Tally()
    tally.add(Counted.ERASED, by=0)
    tally.add(Counted.ERASED, by=-3)

    assert not tally


@pytest.mark.unit
@pytest.mark.parametrize(
    ("status", "label"),
    [(None, "none"), (200, "2xx"), (304, "3xx"), (404, "4xx"), (429, "429"), (503, "5xx"), (101, OTHER), (999, OTHER)],
)
def test_a_status_counts_by_its_class(status: int | None, label: str) -> None:
    """429 by itself: it is what says that we ask too much."""
    tally = Tally()
    tally.calls([a_call(status=status)])

    assert ("calls", "noor", "GetAccounts", label, "false") in tally.taken()


@pytest.mark.unit
@pytest.mark.parametrize(
    ("took", "bucket"), [(0, "100"), (100, "100"), (101, "250"), (30_000, "30000"), (30_001, "inf")]
)
def test_a_duration_counts_in_the_first_bucket_it_fits(took: int, bucket: str) -> None:
    """Bounds are inclusive, as Prometheus reads them."""
    tally = Tally()
    tally.calls([a_call(duration_ms=took)])

    assert ("call_time", "noor", "GetAccounts", bucket) in tally.taken()
