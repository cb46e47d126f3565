"""One export from its number to its end: whole or not there, whatever ends its process."""

import asyncio
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from syncworker.errors import RequestError
from syncworker.exports.chain import folders, found_chain
from syncworker.exports.layout import ExportKind, Manifest, parsed_folder
from syncworker.exports.readers import text_of
from syncworker.exports.run import ExportBusyError, Step, Watching, run
from syncworker.exports.schema import TABLES, Op
from syncworker.exports.targets import Target, target_of
from syncworker.exports.verify import verify
from syncworker.store.exports import Outcome
from syncworker.store.unit_of_work import Store
from tests.exports.killed import wanted
from tests.ground.clock import ManualClock
from tests.sync.books import Desk, N, balance, file_consent, page, transaction, walk
from tests.sync.test_account_references import account, listed

pytestmark = [pytest.mark.store, pytest.mark.timeout(120)]

Rows = dict[tuple[str, tuple[str | None, ...]], tuple[str | None, ...]]


@pytest.fixture
async def desk(store: Store, clock: ManualClock) -> Desk:
    """A connection with an account and some rows."""
    await file_consent(store, clock)
    desk = Desk(store, clock)
    await desk.apply(listed(account("acc-1")))
    await changed(desk, 0)
    return desk


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Where exports go."""
    place = tmp_path / "exports"
    place.mkdir(mode=0o700)
    return str(place)


async def changed(desk: Desk, version: int) -> None:
    """Rows come, change and go."""
    desk.clock.advance(minutes=10)
    items = [transaction(f"t{number}", TransactionInformation=f"v{version}") for number in range(version, version + 12)]
    await desk.apply(
        walk(N.TRANSACTIONS, page(N.TRANSACTIONS, *items)),
        walk(N.BALANCES, page(N.BALANCES, balance(f"{version}.25"))),
    )


def held(target: Target, name: str) -> Rows:
    """What a reader has who begins with the full export and applies what follows, by the manifests that are there."""
    rows: Rows = {}
    latest = max(parsed[1] for one in folders(target, name) if (parsed := parsed_folder(one)) is not None)
    for number in range(1, latest + 1):
        for folder in folders(target, name):
            if parsed_folder(folder) not in [(kind, number) for kind in ExportKind]:
                continue
            if not target.exists(f"{name}/{folder}/_manifest.json"):
                continue
            manifest = Manifest.of(target.read(f"{name}/{folder}/_manifest.json"))
            if manifest.kind is ExportKind.FULL:
                rows = {}
            _apply(target, manifest, rows)
    return rows


def _apply(target: Target, manifest: Manifest, rows: Rows) -> None:
    for entry in manifest.tables:
        table = TABLES[entry.name]
        for part in entry.files:
            with target.reading(f"{manifest.export}/{manifest.folder}/{part.path}") as file:
                for batch in text_of(file, table, manifest.format, op=manifest.kind is ExportKind.INCREMENTAL):
                    for row in batch.to_pylist():
                        op = row.pop("op", Op.UPSERT)
                        key = (table.name, tuple(row[one] for one in table.merge_key))
                        if op == Op.DELETE:
                            rows.pop(key, None)
                        else:
                            rows[key] = tuple(row.values())


async def killed(url: str, folder: str, step: Step) -> None:
    """An export whose process ends at a step."""
    command = [sys.executable, "-m", "tests.exports.killed", url, folder, step.value]
    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False, timeout=100)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("kind", list(ExportKind))
async def test_a_killed_export_is_whole_or_not_there(
    desk: Desk, database_url: str, folder: str, kind: ExportKind, step: Step
) -> None:
    """At every step: readers find no half of it, and the next run goes on without losing a change."""
    target = target_of(folder)
    if kind is ExportKind.INCREMENTAL:
        await run(desk.store, wanted(folder))
        await changed(desk, 3)
    await killed(database_url, folder, step)

    complete = [one for one in folders(target, "nightly") if target.exists(f"nightly/{one}/_manifest.json")]
    done = step in (Step.MANIFEST, Step.LATEST, Step.ENDED)
    assert len(complete) == done + (kind is ExportKind.INCREMENTAL)
    if complete:
        whole = target_of(folder)
        for one in complete:
            parsed = parsed_folder(one)
            assert parsed is not None
            assert [each.what for each in verify(whole, "nightly", number=parsed[1]).findings] == []
    await changed(desk, 6)
    desk.clock.advance(days=1)
    manifest = await run(desk.store, wanted(folder))
    full = await run(desk.store, wanted(folder, "whole", full=True))

    assert manifest.kind is (ExportKind.INCREMENTAL if complete else ExportKind.FULL)
    again: Rows = {}
    _apply(target, full, again)
    assert held(target, "nightly") == again
    findings = [one.what for one in verify(target, "nightly").findings]
    assert findings == []
    async with desk.store.reading() as unit:
        before = await unit.exports.get("nightly", manifest.number - 1)
    ended = Outcome.DONE if step is Step.ENDED else Outcome.ADOPTED if done else Outcome.ABANDONED
    assert before is not None
    assert before.outcome == ended


async def test_an_export_that_fails_leaves_nothing(desk: Desk, folder: str) -> None:
    """Its files go, its number is not given again, and the next one is whole."""

    def step(now: Step) -> None:
        if now is Step.WRITTEN:
            raise RequestError("a test ends it")

    with pytest.raises(RequestError):
        await run(desk.store, wanted(folder), watching=Watching(step=step))
    assert folders(target_of(folder), "nightly") == []

    manifest = await run(desk.store, wanted(folder))
    async with desk.store.reading() as unit:
        rows = await unit.exports.listed(name="nightly")
    assert (manifest.number, [one.outcome for one in rows]) == (2, ["done", "failed"])


async def test_two_exports_of_a_series_are_not_made_at_once(desk: Desk, folder: str) -> None:
    """The second says so, and when to try again; other series go on."""
    seen: list[str] = []
    loop = asyncio.get_running_loop()

    async def another() -> None:
        with pytest.raises(ExportBusyError) as refused:
            await run(desk.store, wanted(folder))
        seen.append(str(refused.value))
        await run(desk.store, wanted(folder, "other"))

    def step(now: Step) -> None:
        if now is Step.WRITING:  # in the thread that writes
            asyncio.run_coroutine_threadsafe(another(), loop).result(timeout=60)

    manifest = await run(desk.store, wanted(folder), watching=Watching(step=step))
    assert manifest.number == 1
    assert "another process is making one" in seen[0]


async def test_a_writer_commits_while_an_export_is_half_way(desk: Desk, folder: str) -> None:
    """No writer waits for an export, and the export holds none of what came after its beginning."""
    loop, committed = asyncio.get_running_loop(), threading.Event()

    def step(now: Step) -> None:
        if now is Step.WRITING:
            asyncio.run_coroutine_threadsafe(changed(desk, 9), loop).result(timeout=60)
            committed.set()

    await run(desk.store, wanted(folder), watching=Watching(step=step))
    assert committed.is_set()
    chain = found_chain(target_of(folder), "nightly", 1)
    assert chain is not None
    assert {key[2] for key in chain.keys(TABLES["transaction"], _connections())} == {f"t{one}" for one in range(12)}

    second = await run(desk.store, wanted(folder))
    assert second.kind is ExportKind.INCREMENTAL
    assert next(one.op for one in second.tables if one.name == "transaction") == {"upsert": 12, "delete": 9}


def _connections() -> list[str]:
    from tests.sync.books import CONSENT

    return [CONSENT]


async def test_a_full_export_takes_turns_with_increments(desk: Desk, folder: str) -> None:
    """By age, by a request, and where the target, format or tables are others; the manifest says why."""
    from dataclasses import replace

    from syncworker.exports.layout import Format
    from syncworker.exports.schema import chosen

    def told(manifest: Manifest) -> tuple[str, str | None]:
        return manifest.kind.value, manifest.reason

    base = replace(wanted(folder), full_every=timedelta(days=1))
    found = [told(await run(desk.store, base)), told(await run(desk.store, base))]
    desk.clock.advance(days=1)
    found.append(told(await run(desk.store, base)))
    found.append(told(await run(desk.store, replace(base, full=True))))
    found.append(told(await run(desk.store, replace(base, format=Format.CSV))))
    found.append(told(await run(desk.store, replace(base, format=Format.CSV, tables=chosen(["account"])))))
    (target_of(folder)).remove("nightly/LATEST.json")
    found.append(told(await run(desk.store, replace(base, format=Format.CSV, tables=chosen(["account"])))))
    assert found == [
        ("full", None), ("incremental", None), ("full", None), ("full", None), ("full", "format"), ("full", "schema"),
        ("full", "chain"),
    ]  # fmt: skip
