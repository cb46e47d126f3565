"""Exports among what is damaged, hostile or in the way: files at the target, values of rows, other runs, clocks."""

# ruff: noqa: F811  fixtures of another file
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import repeat
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy as sa

from syncworker.errors import ExportTargetError, ManifestError, RequestError
from syncworker.exports import snapshot
from syncworker.exports.chain import found_chain
from syncworker.exports.layout import ExportKind, Format, Latest, Manifest
from syncworker.exports.purging import purged
from syncworker.exports.rows import guarded, unguarded
from syncworker.exports.run import ExportBusyError, Step, Watching, run
from syncworker.exports.schema import TABLES, Hiding, chosen
from syncworker.exports.targets import FolderTarget, target_of
from syncworker.exports.verify import verify
from syncworker.standard.consents import ConsentView, Status
from syncworker.store.exports import Outcome
from syncworker.store.sql_views import Kind
from syncworker.store.tables import account_reference
from syncworker.store.unit_of_work import Store, UnitOfWork
from tests.exports import made
from tests.exports.killed import wanted
from tests.exports.test_run import Rows, _apply, changed, desk, folder, held  # noqa: F401  fixtures among them
from tests.ground.clock import ManualClock
from tests.sync.books import CONSENT, Desk, file_consent
from tests.sync.test_account_references import account, listed

ROWS = made.made(made.TRANSACTION, 20)
MEBIBYTE = 1 << 20


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize("name", TABLES)
def test_a_cell_of_any_text_column_is_guarded(name: str) -> None:
    """A sign behind whatever a spreadsheet may not show, in every column that holds what a bank or a user wrote."""
    table = TABLES[name]
    columns = [one.name for one in table.columns if one.kind in {Kind.TEXT, Kind.JSON}]
    signs = ["=1", "+1", "-1", "@a", "\t1", "\r1", "  =1", "\x00=1", "\u200e=1", "\u202e-1", "\xad+1", "\x85@a"]
    text = pa.RecordBatch.from_arrays([pa.array(signs)] * len(columns), names=columns)
    shown = guarded(table, text)
    assert {column.to_pylist() == [f"'{one}" for one in signs] for column in shown.columns} == {True}
    assert unguarded(table, shown).equals(text)


@pytest.mark.unit
@pytest.mark.parametrize("format_", [Format.PARQUET, Format.NDJSON, Format.CSV])
@pytest.mark.parametrize("value", ["\x00", "a\x00b", "\x00=1", '="\n' * (7 * MEBIBYTE // 3), "é" * MEBIBYTE])
def test_nul_and_long_texts_come_back(tmp_path: Path, format_: Format, value: str) -> None:
    """A text may be as long as a bank's answer, and is in the file as it was; the rows around it stay in order."""
    rows = [dict(row) for row in made.made(made.TRANSACTION, 5_000 if len(value) > MEBIBYTE else 5)]
    rows[-2]["transaction_information"] = value
    target = target_of(str(tmp_path))
    made.export(target, {"transaction": rows}, format=format_)
    assert verify(target, made.NAME).findings == []


@pytest.mark.unit
def test_a_row_of_a_copy_may_be_longer_than_a_block() -> None:
    """Rows before and behind it are read as well."""
    columns = [replace(made.TRANSACTION.columns[0], name=name) for name in "ab"]
    long = "y" * (9 * MEBIBYTE)
    lines = [*repeat(b'"1",\n', 3), f'"2","{long}"\n'.encode(), *repeat(b'"3",""\n', 2)]
    found: list[tuple[str, str | None]] = []

    def take(batch: pa.RecordBatch) -> None:
        found.extend((row["a"], row["b"]) for row in batch.to_pylist())

    assert snapshot._parsed(iter(lines), columns, take) == 6
    assert found == [*repeat(("1", None), 3), ("2", long), *repeat(("3", ""), 2)]


@pytest.mark.unit
@pytest.mark.parametrize("lfi", ["../../x", "a/b", "..", "a\\b", "x" * 40, "é", "a b", "a%2Fb", "\n"])
def test_an_lfi_leads_nowhere(tmp_path: Path, lfi: str) -> None:
    """Whatever its slug: its part lies in the table's folder."""
    target = target_of(str(tmp_path))
    made.export(target, {"transaction": [{**row, "lfi": lfi} for row in ROWS]})
    assert verify(target, made.NAME).findings == []
    parts = list(tmp_path.rglob("*.parquet"))
    assert [one.parent.relative_to(tmp_path).as_posix() for one in parts] == [f"{made.NAME}/full-000001/transaction"]


@pytest.mark.unit
def test_a_pseudonymous_export_keeps_no_personal_column() -> None:
    """Of any table: a personal column is a pseudonym or null."""
    kept = [f"{table.name}.{one.name}" for table in TABLES.values() for one in table.columns if one.personal]
    assert kept
    assert not [
        one.name for table in TABLES.values() for one in table.columns if one.personal and one.hiding is Hiding.KEPT
    ]


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize("path", ["../../etc/passwd", "transaction/../../x", "/etc/passwd", "account/x", "transaction"])
def test_a_manifest_that_leads_elsewhere_is_a_finding(tmp_path: Path, path: str) -> None:
    """Neither verify nor an increment reads what it names."""
    target = target_of(str(tmp_path))
    manifest = made.export(target, {"transaction": ROWS})
    place = tmp_path / made.NAME / manifest.folder / "_manifest.json"
    document = json.loads(place.read_bytes())
    document["tables"][0]["files"][0]["path"] = path
    place.write_text(json.dumps(document))
    assert "path" in " ".join(one.what for one in verify(target, made.NAME).findings)
    assert found_chain(target, made.NAME, 1) is None


@pytest.mark.unit
@pytest.mark.parametrize("name", ["../../x", "..", "a/b", "", "\x1b[2J"])
def test_a_table_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Also one without files, whose name is a folder's."""
    manifest = made.export(target_of(str(tmp_path)), {"transaction": []})
    document = json.loads(manifest.to_bytes())
    document["tables"][0] |= {"name": name, "files": []}
    with pytest.raises(ManifestError, match=r"tables\[0\]: name: is no name of a table"):
        Manifest.of(json.dumps(document).encode())


def _outside(latest: dict[str, object]) -> None:
    latest["folder"] = "../../outside"


def _no_manifest(latest: dict[str, object]) -> None:
    latest |= {"number": 7, "folder": "full-000007", "base": "full-000007"}


def _other(latest: dict[str, object]) -> None:
    latest["base"] = "incr-000001"


@pytest.mark.unit
@pytest.mark.parametrize("change", [_outside, _no_manifest, _other])
def test_a_pointer_that_leads_elsewhere_is_not_followed(
    tmp_path: Path, change: Callable[[dict[str, object]], None]
) -> None:
    """It is a finding, and no increment is made on it."""
    target = target_of(str(tmp_path))
    made.export(target, {"transaction": ROWS})
    place = tmp_path / made.NAME / "LATEST.json"
    latest = json.loads(place.read_bytes())
    change(latest)
    place.write_text(json.dumps(latest))
    assert [one.file for one in verify(target, made.NAME).findings] == [f"{made.NAME}/LATEST.json"]
    assert found_chain(target, made.NAME, 1) is None
    assert found_chain(target, made.NAME, 7) is None


@pytest.mark.unit
def test_links_in_the_way_are_refused(tmp_path: Path) -> None:
    """A folder, a part or a pointer that leads out of the target, or to itself: nothing is read or written."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (outside / "x").write_text("kept")
    root.mkdir()
    (root / "series").symlink_to(outside)
    (root / "LATEST.json").symlink_to(outside / "x")
    (root / "new").symlink_to(outside / "new")
    (root / "loop").symlink_to(root / "loop")
    target = FolderTarget(root)
    acts: list[Callable[[], object]] = [
        lambda: target.open("series/a"), lambda: target.put_whole("series/a", b""), lambda: target.list("series"),
        lambda: target.remove("series"), lambda: target.read("LATEST.json"), lambda: target.open("new"),
        lambda: target.put_whole("LATEST.json", b""), lambda: target.open("loop/a"), lambda: target.read("loop"),
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(ExportTargetError):
            act()
    assert [(one.name, one.read_text()) for one in outside.iterdir()] == [("x", "kept")]


_FILLS_UP = """
import resource, signal, sys
from pathlib import Path
from syncworker.errors import ExportTargetError
from syncworker.exports.layout import Format
from syncworker.exports.targets import target_of
from tests.exports import made

rows = made.made(made.TRANSACTION, 5_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    made.export(target_of(sys.argv[1]), {"transaction": rows}, format=Format(sys.argv[2]))
except ExportTargetError as error:
    print(error)
"""


@pytest.mark.live
@pytest.mark.parametrize("format_", [Format.PARQUET, Format.NDJSON, Format.CSV])
def test_a_target_that_fills_up_is_said(tmp_path: Path, format_: Format) -> None:
    """The system's own limit of a file's size: one clear error, and no export."""
    ended = subprocess.run(
        [sys.executable, "-c", _FILLS_UP, str(tmp_path), format_.value, "30000"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "File too large; look at the folder's rights and room" in ended.stdout
    assert not list(tmp_path.rglob("_manifest.json"))


@pytest.mark.unit
def test_a_folder_that_goes_while_it_is_written_is_said(tmp_path: Path) -> None:
    """Not as a missing file, which readers take for `there is none`."""
    target = FolderTarget(tmp_path)
    sink = target.open("a/b/part")
    target.remove("a")
    with pytest.raises(ExportTargetError, match="its folder was removed while it was written"):
        sink.close()


@pytest.mark.unit
def test_a_purge_leaves_an_open_file_to_its_reader(tmp_path: Path) -> None:
    """A reader that has a part open reads it to its end; one that lists the folder later does not find it."""
    target = target_of(str(tmp_path))
    for number in (1, 2):
        made.export(target, {"transaction": ROWS}, number=number)
    part = next(one.path for one in target.list(made.NAME) if "full-000001/transaction" in one.path)
    whole = target.read(part)
    with target.reading(part) as opened:
        head = opened.read(10)
        gone = purged(target, made.NAME, keep_full=1, now=made.AT)
        assert (len(gone), head + opened.read()) == (1, whole)
    assert not target.exists(part)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.store
async def test_a_series_belongs_to_one_tenant(
    desk: Desk,
    database_url: str,
    open_store: Callable[..., Store],
    folder: str,
) -> None:
    """Another tenant's run of the same name at the same place is refused before a number is taken, full or not."""
    first = await run(desk.store, wanted(folder))
    other = open_store(database_url, tenant="other")
    for asked in (wanted(folder), wanted(folder, full=True), replace(wanted(folder), format=Format.CSV)):
        with pytest.raises(RequestError, match="are of another tenant; choose another name"):
            await run(other, asked)
    async with other.reading() as unit:
        assert await unit.exports.listed() == []
    assert Latest.of(target_of(folder).read("nightly/LATEST.json")).number == first.number
    assert (await run(other, wanted(folder, "theirs"))).tenant == "other"


@pytest.mark.store
async def test_a_damaged_pointer_or_manifest_stops_no_series(desk: Desk, folder: str) -> None:
    """The next export is a full one, its pointer is whole, and the one after stands on it."""
    place = Path(folder) / "nightly"
    await run(desk.store, wanted(folder))
    ahead = json.loads((place / "LATEST.json").read_bytes()) | {"number": 900, "folder": "full-000900"}
    for data in (b"{", b"\xff", b'{"format_version":9}', json.dumps(ahead).encode()):
        (place / "LATEST.json").write_bytes(data)
        again = await run(desk.store, wanted(folder))
        assert (again.kind, again.reason) == (ExportKind.FULL, "chain")
        assert (await run(desk.store, wanted(folder))).kind is ExportKind.INCREMENTAL

    def killed(now: Step) -> None:
        if now is Step.MANIFEST:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await run(desk.store, wanted(folder), watching=Watching(step=killed))
    (newest,) = place.glob("incr-000010")
    (newest / "_manifest.json").write_bytes(b"{")
    following = await run(desk.store, wanted(folder))
    async with desk.store.reading() as unit:
        before = await unit.exports.get("nightly", 10)
    assert before is not None
    assert (following.number, before.outcome) == (11, Outcome.ABANDONED)
    assert verify(target_of(folder), "nightly", number=11).findings == []


@pytest.mark.store
async def test_a_folder_with_the_highest_number_is_refused(desk: Desk, folder: str) -> None:
    """No number comes behind it; the folder is named."""
    place = Path(folder) / "nightly" / "full-999999999"
    place.mkdir(parents=True)
    (place / "x").touch()
    with pytest.raises(RequestError, match="holds the highest number there is"):
        await run(desk.store, wanted(folder))


@pytest.mark.store
async def test_two_processes_make_one_series_in_turns(
    desk: Desk,
    database_url: str,
    folder: str,
) -> None:
    """Of two that begin at once each makes a whole export or says that another one is at it."""
    command = [sys.executable, "-m", "tests.exports.killed", database_url, folder, "none"]
    both = [
        await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    said = [(await one.communicate())[1].decode() for one in both]
    ended = [one.returncode for one in both]
    assert 0 in ended, said
    assert all(code == 0 or ExportBusyError.__name__ in text for code, text in zip(ended, said, strict=True)), said
    report = verify(target_of(folder), "nightly")
    assert (report.findings, len(report.exports)) == ([], ended.count(0))


@pytest.mark.store
async def test_a_clock_that_is_set_back_loses_nothing(desk: Desk, folder: str) -> None:
    """Rows of an hour that comes again are in the increment; nothing is purged by a time that lies ahead."""
    await run(desk.store, wanted(folder))
    await changed(desk, 3)
    desk.clock.set(desk.clock.now() - timedelta(hours=5))
    await changed(desk, 6)
    manifest = await run(desk.store, wanted(folder))
    assert manifest.kind is ExportKind.INCREMENTAL
    whole = await run(desk.store, wanted(folder, "whole", full=True))
    again: Rows = {}
    _apply(target_of(folder), whole, again)
    assert held(target_of(folder), "nightly") == again
    assert purged(target_of(folder), "nightly", keep_full=1, now=desk.clock.now()) == []


@pytest.mark.store
async def test_a_purge_during_an_export_takes_nothing_of_it(desk: Desk, folder: str) -> None:
    """Old exports go, what is being written stays, and the increment made is whole."""
    target = target_of(folder)
    for _ in range(2):
        await run(desk.store, wanted(folder, full=True))
    await changed(desk, 3)
    gone: list[str] = []

    def step(now: Step) -> None:
        if now in (Step.WRITING, Step.WRITTEN, Step.MANIFEST):
            found = purged(target, "nightly", keep_full=1, now=desk.clock.now())
            gone.extend(one["folder"] for one in found)

    manifest = await run(desk.store, wanted(folder), watching=Watching(step=step))
    assert (gone, manifest.kind) == (["full-000001"], ExportKind.INCREMENTAL)
    assert verify(target, "nightly").findings == []


@pytest.mark.store
async def test_what_is_erased_after_the_base_was_purged_is_in_no_export(
    desk: Desk,
    folder: str,
) -> None:
    """Its keys cannot be read any more, so the next export is a full one without them."""
    target = target_of(folder)
    first = await run(desk.store, wanted(folder))
    target.remove(f"nightly/{first.folder}")

    async def erased(unit: UnitOfWork) -> None:
        view = ConsentView(consent_id=CONSENT, status=Status.Revoked.value)
        await unit.consents.observe(view, at=await unit.now())
        await unit.consents.chain_locked(CONSENT, closed=True)
        await unit.erasure.erase(CONSENT)

    await desk.store.atomically(erased)
    following = await run(desk.store, wanted(folder))
    assert (following.kind, following.reason) == (ExportKind.FULL, "chain")
    assert {one.name: one.rows for one in following.tables if one.rows}.keys() <= {"connection", "consent"}


# -- one content, everywhere -----------------------------------------------------------------------------------------


@pytest.mark.store
async def test_content_is_the_same_on_both_databases_and_in_every_format(
    postgresql_url: str, sqlite_url: str, open_store: Callable[..., Store], clock: ManualClock, tmp_path: Path
) -> None:
    """Row by row: one digest of each table for PostgreSQL and SQLite, Parquet, NDJSON, CSV and Delta."""
    began, digests = clock.now(), {}
    for url in (postgresql_url, sqlite_url):
        clock.set(began)
        store = open_store(url)
        await file_consent(store, clock)
        one = Desk(store, clock)
        await one.apply(listed(account("acc-1"), account("acc-2", None, Nickname="é=1\n")))
        await changed(one, 0)
        await store.atomically(_named_alike)
        tables = chosen(["connection", "consent", "account", "account_identifier", "balance", "balance_history",
                         "transaction"])  # fmt: skip
        for format_ in Format:
            asked = replace(wanted(str(tmp_path), f"{store.dialect.name}-{format_}"), format=format_, tables=tables)
            manifest = await run(store, asked)
            digests[asked.name] = {one.name: one.content_digest for one in manifest.tables}
    assert len(digests) == 8
    for table in tables:
        assert len({one[table.name] for one in digests.values()}) == 1, table.name
    assert len(set(digests["sqlite-csv"].values())) == len(tables)


async def _named_alike(unit: UnitOfWork) -> None:
    """Ids of ours are random, and identities made with a key of the database: here they are alike."""
    for number in (1, 2):
        await unit.connection.execute(
            sa.update(account_reference)
            .where(account_reference.c.lfi_account_id == f"acc-{number}")
            .values(account_id=f"acc_{number:020}", identity=f"identity {number}")
        )
