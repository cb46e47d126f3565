"""`verify` reads exports again; every kind of damage is found, and names the file and what to do."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from syncworker.errors import ManifestError, RequestError
from syncworker.exports.layout import (
    LATEST,
    MANIFEST,
    Coverage,
    ExportKind,
    Format,
    Latest,
    LeftOut,
    Manifest,
    folder_of,
    latest_of,
    next_number,
    parsed_folder,
)
from syncworker.exports.purge import Standing, grouped, removals, remove, standing
from syncworker.exports.schema import TABLES
from syncworker.exports.targets import FolderTarget, Found
from syncworker.exports.verify import Report, verify
from tests.exports import made

pytestmark = pytest.mark.unit

FILES = (Format.PARQUET, Format.NDJSON, Format.CSV)
ROWS = made.made(made.TRANSACTION, 60)
CONTENT = {"transaction": ROWS, "account": made.made(TABLES["account"], 9), "party": []}


def said(report: Report) -> list[tuple[str, str]]:
    return [(one.file, one.what) for one in report.findings]


def chain(target: FolderTarget, format_: Format = Format.PARQUET) -> list[Manifest]:
    """A full export, and two increments on it."""
    first = made.export(target, CONTENT, format=format_)
    second = made.export(
        target, {"transaction": made.changes(ROWS[:5], deleted=ROWS[5:8])}, number=3, base=1, format=format_,
        from_="cursor-1", to="cursor-2",
    )  # fmt: skip
    third = made.export(
        target, {"transaction": made.changes(ROWS[7:9]), "account": []}, number=4, base=1, format=format_,
        from_="cursor-2", to="cursor-3",
    )  # fmt: skip
    return [first, second, third]


@pytest.mark.parametrize("format_", FILES)
def test_a_whole_chain_is_clean(tmp_path: Path, format_: Format) -> None:
    """A number that no export has (a run that was killed had it) is no gap: cursors go on without it."""
    chain(FolderTarget(tmp_path), format_)

    report = verify(FolderTarget(tmp_path), made.NAME)

    assert (said(report), report.exports, report.rows) == ([], [1, 3, 4], 69 + 8 + 2)
    assert report.bytes == sum(
        one.stat().st_size for one in tmp_path.rglob("*") if one.is_file() and not one.name.endswith(".json")
    )


def the_part(root: Path, format_: Format) -> Path:
    return root / made.NAME / f"full-000001/transaction/part-bank-0-00000.{format_.value}"


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("format_", FILES)
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        pytest.param(flipped, "its sha256 is another: its bytes were changed", id="flipped byte"),
        pytest.param(shortened, "bytes, and not", id="cut short"),
        pytest.param(Path.unlink, "is missing", id="missing"),
    ],
)
def test_a_damaged_file_is_found(tmp_path: Path, format_: Format, damage: Callable[[Path], None], what: str) -> None:
    """By its name, and alone: nothing is said of the tables that are whole."""
    chain(FolderTarget(tmp_path), format_)
    damage(the_part(tmp_path, format_))

    (finding,) = verify(FolderTarget(tmp_path), made.NAME).findings

    assert finding.file == f"nightly/full-000001/transaction/part-bank-0-00000.{format_.value}"
    assert what in finding.what
    assert finding.fix == "make a full export: syncworker export run --full"


def test_a_file_that_no_manifest_knows_is_found(tmp_path: Path) -> None:
    """A reader's pattern would read it."""
    chain(FolderTarget(tmp_path))
    the_part(tmp_path, Format.PARQUET).with_name("part-99999.parquet").write_bytes(b"")

    (finding,) = verify(FolderTarget(tmp_path), made.NAME).findings

    assert (finding.file, finding.what, finding.fix) == (
        "nightly/full-000001/transaction/part-99999.parquet", "the manifest does not know it", "remove it",
    )  # fmt: skip


def rewritten(root: Path, manifest: Manifest, **changed: object) -> None:
    """A manifest with other values, and the pointer to it where it is the newest."""
    other = replace(manifest, **changed)  # type: ignore[arg-type]
    target = FolderTarget(root)
    target.put_whole(f"{made.NAME}/{manifest.folder}/{MANIFEST}", other.to_bytes())
    latest = Latest.of(target.read(f"{made.NAME}/{LATEST}"))
    if latest.number == manifest.number:
        target.put_whole(f"{made.NAME}/{LATEST}", latest_of(other, other.to_bytes()).to_bytes())


@pytest.mark.parametrize("format_", FILES)
def test_a_wrong_count_is_found(tmp_path: Path, format_: Format) -> None:
    """Of rows, of upserts and deletes, and of a content that the files have not."""
    full, second, _ = chain(FolderTarget(tmp_path), format_)
    table = full.tables[0]
    more = replace(table, rows=61, files=(replace(table.files[0], rows=table.files[0].rows + 1), *table.files[1:]))
    rewritten(tmp_path, full, tables=(more, *full.tables[1:]))
    entry = replace(second.tables[0], op={"upsert": 6, "delete": 2}, content_digest="0" * 64)
    rewritten(tmp_path, second, tables=(entry,))

    assert said(verify(FolderTarget(tmp_path), made.NAME)) == [
        (f"nightly/full-000001/{table.files[0].path}",
         f"has {table.files[0].rows} rows, and the manifest says {table.files[0].rows + 1}"),
        ("nightly/full-000001/transaction", "has 60 rows, and the manifest says 61"),
        ("nightly/incr-000003/transaction",
         "op: has {'upsert': 5, 'delete': 3}, and the manifest says {'upsert': 6, 'delete': 2}"),
        ("nightly/incr-000003/transaction",
         "content_digest: the rows are others than those that were written, or in another order"),
    ]  # fmt: skip


@pytest.mark.parametrize("format_", FILES)
def test_rows_that_were_changed_with_their_sha256_are_found(tmp_path: Path, format_: Format) -> None:
    """The digest over the content does not ask for the bytes of the files."""
    target = FolderTarget(tmp_path)
    full = made.export(target, {"transaction": ROWS}, format=format_)
    other = FolderTarget(tmp_path / "other")
    forged = made.export(other, {"transaction": [{**ROWS[0], "currency": "USD"}, *ROWS[1:]]}, format=format_)
    the_part(tmp_path, format_).write_bytes(the_part(tmp_path / "other", format_).read_bytes())
    rewritten(tmp_path, full, tables=(replace(full.tables[0], files=forged.tables[0].files),))

    assert said(verify(target, made.NAME)) == [
        ("nightly/full-000001/transaction",
         "content_digest: the rows are others than those that were written, or in another order"),
    ]  # fmt: skip


def test_a_gap_between_increments_is_found(tmp_path: Path) -> None:
    """An increment that begins behind the end of the one before it: changes between them are in neither."""
    _, second, third = chain(FolderTarget(tmp_path))
    rewritten(tmp_path, third, from_="cursor-2b", schema_hash="f" * 64)

    assert said(verify(FolderTarget(tmp_path), made.NAME)) == [
        ("nightly/incr-000004/_manifest.json",
         f"from: does not go on where {second.folder} ends: changes between them are missing"),
        ("nightly/incr-000004/_manifest.json",
         "schema_hash: differs from incr-000003, so it does not fit on it"),
    ]  # fmt: skip


def test_a_missing_increment_is_a_gap(tmp_path: Path) -> None:
    """Its folder was taken away; the one behind it tells."""
    target = FolderTarget(tmp_path)
    chain(target)
    target.remove(f"{made.NAME}/incr-000003")

    assert said(verify(target, made.NAME)) == [
        ("nightly/incr-000004/_manifest.json",
         "from: does not go on where full-000001 ends: changes between them are missing"),
    ]  # fmt: skip


def test_the_pointer_is_looked_at(tmp_path: Path) -> None:
    """Missing, damaged, behind, and of another manifest."""
    target = FolderTarget(tmp_path)
    _, second, third = chain(target)
    place = f"{made.NAME}/{LATEST}"
    whole = target.read(place)

    def findings() -> list[str]:
        return [one.what for one in verify(target, made.NAME).findings if one.file.startswith("nightly/LATEST")]

    target.remove(place)
    assert findings() == ["is missing"]
    target.put_whole(place, b"{")
    assert findings() == ["LATEST.json: is no JSON (Input data was truncated); make a full export"]
    target.put_whole(place, latest_of(second, second.to_bytes()).to_bytes())
    assert findings() == ["points to incr-000003, and incr-000004 is whole as well"]
    target.put_whole(place, whole)
    target.put_whole(f"{made.NAME}/{third.folder}/{MANIFEST}", replace(third, decoder=8).to_bytes())
    assert said(verify(target, made.NAME)) == [
        ("nightly/incr-000004/_manifest.json", "is not the manifest that LATEST.json was written for")
    ]


def test_a_target_without_an_export_is_a_finding(tmp_path: Path) -> None:
    """So that a check of a wrong folder does not pass."""
    (finding,) = verify(FolderTarget(tmp_path), made.NAME).findings

    assert (finding.file, finding.what) == ("nightly/LATEST.json", "there is no whole export of this name")


def test_a_folder_without_manifest_is_no_export(tmp_path: Path) -> None:
    """A killed run left it; the chain is whole without it."""
    target = FolderTarget(tmp_path)
    chain(target)
    made.write_table(target, made.TRANSACTION, ROWS[:3], folder=f"{made.NAME}/incr-000005")

    assert said(verify(target, made.NAME)) == []
    assert [one.what for one in verify(target, made.NAME, number=5).findings] == ["is missing: the folder is no export"]


def test_one_export_can_be_looked_at_alone(tmp_path: Path) -> None:
    """By its number; one that is not there is an error of the caller."""
    chain(FolderTarget(tmp_path))

    assert verify(FolderTarget(tmp_path), made.NAME, number=3).exports == [3]
    with pytest.raises(RequestError, match="nightly has no export 2"):
        verify(FolderTarget(tmp_path), made.NAME, number=2)


@pytest.mark.parametrize("format_", FILES)
def test_an_export_of_another_version_is_whole_too(tmp_path: Path, format_: Format) -> None:
    """A release adds a column to a view: yesterday's files have not got it, and the manifest says what they have."""
    older = replace(made.TRANSACTION, columns=made.TRANSACTION.columns[:30])
    target = FolderTarget(tmp_path)
    full = made.export(target, {"account": CONTENT["account"]}, format=format_)
    entry = made.write_table(target, older, ROWS, format=format_)
    rewritten(tmp_path, full, tables=(*full.tables, entry))

    report = verify(target, made.NAME)
    assert (said(report), report.rows) == ([], 69)

    rewritten(tmp_path, full, tables=(*full.tables, replace(entry, columns={**entry.columns, "id": "colour"})))
    assert [(one.what, one.fix) for one in verify(target, made.NAME).findings] == [
        ("columns: id: of a kind that this version does not know",
         "use the version of syncworker that wrote it, or a newer one"),
    ]  # fmt: skip


# -- manifests -------------------------------------------------------------------------------------------------------


def manifest() -> Manifest:
    return Manifest.of((Path(__file__).parent / "manifest.json").read_bytes())


def test_a_manifest_is_read_as_it_was_written() -> None:
    """The file beside this test is the contract with readers: a version that cannot read it breaks them."""
    text = (Path(__file__).parent / "manifest.json").read_bytes()

    assert Manifest.of(text).to_bytes() == text
    found = manifest()
    assert (found.number, found.from_, found.tables[0].op, found.folder) == (
        42, "cursor-41", {"upsert": 2, "delete": 1}, "incr-000042",
    )  # fmt: skip
    assert found.coverage == (
        Coverage(connection_id="f47a", account_id="acc_1", resource="transactions", complete_from="2025-11-30",
                 checked_at=made.AT),
    )  # fmt: skip
    assert found.left_out == (LeftOut(connection_id="0b1c", reason="consent_ended", rows=90),)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format_version": 1', '"format_version": 2', "format_version: 1 is known here, and not 2; use the version"),
        ('"format_version": 1,', "", "format_version: 1 is known here, and not None"),
        ('"number": 42', '"number": "42"', r"Expected `int`, got `str` - at `\$.number`"),
        ('"number": 42', '"number": 0', "number: is not from 1 to"),
        ('"base": 41', '"base": 43', "base: is not from 1 to the number"),
        ('"kind": "incremental"', '"kind": "partial"', r"Invalid enum value 'partial' - at `\$.kind`"),
        ('"from": "cursor-41"', '"from": null', "from: is of increments, and of each of them"),
        ('"upsert": 2', '"upsert": 1', r"tables\[0\]: op: does not add up to rows"),
        ('"path": "transaction/', '"path": "transaction/../', "path: leads elsewhere"),
        ('"path": "transaction/', '"path": "account/', "path: does not lie in the table's folder"),
        ('"rows": 3,\n   "op"', '"rows": 4,\n   "op"', r"tables\[0\]: op: does not add up"),
        ('"sha256": "aaaa', '"sha256": "xyz', "sha256: is no sha256"),
        ('"export": "nightly"', '"export": "../x"', "export: is no name of an export"),
        ("{", "[", "is no JSON"),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_told_by_its_field(old: str, new: str, message: str) -> None:
    """A message, the field, and what to do; a newer version is no damage."""
    text = (Path(__file__).parent / "manifest.json").read_text()
    assert old in text

    with pytest.raises(ManifestError, match=message):
        Manifest.of(text.replace(old, new, 1).encode())


def test_a_newer_manifest_may_say_more() -> None:
    """Additions do not change the version: readers of ours go on."""
    text = (Path(__file__).parent / "manifest.json").read_bytes()

    assert Manifest.of(text.replace(b'"number": 42', b'"number": 42, "colour": "blue"')) == manifest()


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("full-000041", (ExportKind.FULL, 41)),
        ("incr-1234567", (ExportKind.INCREMENTAL, 1_234_567)),
        ("full-41", None),
        ("full-0000041", None),
        ("other", None),
        (".full-000041", None),
    ],
)
def test_a_folder_is_parsed(folder: str, found: tuple[ExportKind, int] | None) -> None:
    """One way of writing it alone, so that two folders never have one number."""
    assert parsed_folder(folder) == found
    if found is not None:
        assert folder_of(*found) == folder


def test_the_next_number_is_behind_all_that_are_taken() -> None:
    """Also those of runs that were killed."""
    assert (next_number([]), next_number(["full-000007", "incr-000009", "x"])) == (1, 10)


# -- purge -----------------------------------------------------------------------------------------------------------

NOW = made.AT
OLD = NOW - timedelta(days=2)


def folders(text: str) -> list[Standing]:
    """`F1 i2 F3 x4`: full, incremental; small `x` without manifest, old; `y` without, young."""
    kinds = {"F": ExportKind.FULL}
    return [
        Standing(
            folder=folder_of(kinds.get(one[0], ExportKind.INCREMENTAL), int(one[1:])),
            kind=kinds.get(one[0], ExportKind.INCREMENTAL),
            number=int(one[1:]),
            complete=one[0] in "Fi",
            written_at=NOW - timedelta(hours=23) if one[0] == "y" else OLD,
        )
        for one in text.split()
    ]


@pytest.mark.parametrize(
    ("there", "keep", "gone"),
    [
        ("F1 i2 i3", 1, ""),
        ("F1 i2 i3 F4", 1, "1 2 3"),
        ("F1 i2 F3 i4 F5", 2, "1 2"),
        ("F1 F2 F3", 3, ""),
        ("F1 F2 F3 F4", 3, "1"),
        ("i1 i2 F3", 1, "1 2"),
        ("i1 F2", 3, ""),
        ("F1 x2 i3 y4", 1, "2"),
        ("x1 x2", 1, "1 2"),
        ("F1 x2 F3", 1, "1 2"),
        ("", 1, ""),
    ],
)
def test_what_may_go(there: str, keep: int, gone: str) -> None:
    """All before the oldest full export that stays, and what a killed run left a day ago."""
    found = removals(folders(there), keep_full=keep, now=NOW)

    assert " ".join(str(int(one.folder[5:])) for one in found) == gone


def test_what_readers_are_sent_to_stays() -> None:
    """`LATEST.json` may lag behind the newest full export; its chain is kept."""
    latest = Latest(
        export=made.NAME, number=2, kind=ExportKind.INCREMENTAL, folder="incr-000002", base="full-000001",
        manifest_sha256="0" * 64,
    )  # fmt: skip

    assert removals(folders("F1 i2 F3"), keep_full=1, now=NOW, latest=latest) == []


def test_the_newest_full_export_always_stays() -> None:
    """`keep_full = 0` would leave readers with nothing."""
    with pytest.raises(RequestError, match="keep_full: is 1 or more"):
        removals([], keep_full=0, now=NOW)


def test_removals_are_carried_out(tmp_path: Path) -> None:
    """The folder goes with all in it; what lies beside is not looked at."""
    target = FolderTarget(tmp_path)
    chain(target)
    made.export(target, CONTENT, number=5, to="cursor-5")
    (tmp_path / made.NAME / "notes.txt").write_text("mine")

    for one in removals(standing(target, made.NAME), keep_full=1, now=NOW):
        assert remove(target, made.NAME, one) > 0
        assert remove(target, made.NAME, one) == 0

    left = {one.relative_to(tmp_path / made.NAME).parts[0] for one in (tmp_path / made.NAME).rglob("*")}
    assert left == {"full-000005", LATEST, "notes.txt"}
    assert said(verify(target, made.NAME)) == []


def test_files_that_are_no_exports_are_not_counted() -> None:
    """Neither a file of a user's nor a folder with a number that is written otherwise."""
    found = [Found(f"nightly/{one}", 1, OLD) for one in ("x.txt", "full-41/a", "full-000041/a", "backup/full-000042/a")]

    assert [one.folder for one in grouped(found, "nightly")] == ["full-000041"]
