"""Places: whole files or none, closed to others, nothing outside; an object store as well.

The object store is moto's server on loopback, which imitates S3.
"""

import os
from pathlib import Path

import boto3
import duckdb
import pytest

from syncworker.errors import ExportTargetError
from syncworker.exports.layout import Format
from syncworker.exports.purge import Removal, remove, standing
from syncworker.exports.targets import FolderTarget, S3Access, Target, target_of
from syncworker.exports.verify import verify
from tests.exports import made
from tests.exports.conftest import BUCKET, KEY, SECRET

ROWS = made.made(made.TRANSACTION, 60)


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.live)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """Each kind of target, empty."""
    if request.param == "folder":
        return target_of(str(tmp_path / "target"))
    return target_of(f"s3://{BUCKET}/{tmp_path.name}", request.getfixturevalue("bucket"))


def written(target: Target, path: str, data: bytes) -> None:
    sink = target.open(path)
    sink.write(memoryview(data))
    sink.close()


def paths(target: Target, prefix: str) -> list[str]:
    return [one.path for one in target.list(prefix)]


def test_a_file_is_there_once_it_is_closed(target: Target) -> None:
    """And not written again."""
    sink = target.open("a/b/part-00000.csv")
    sink.write(memoryview(b"one,"))
    assert not target.exists("a/b/part-00000.csv")
    sink.write(memoryview(b"two"))
    sink.close()

    assert target.read("a/b/part-00000.csv") == b"one,two"
    with target.reading("a/b/part-00000.csv") as opened:
        opened.seek(4)
        assert opened.read() == b"two"
    assert [(one.path, one.bytes) for one in target.list("a")] == [("a/b/part-00000.csv", 7)]
    with pytest.raises(ExportTargetError, match=r"a/b/part-00000.csv: is there already"):
        target.open("a/b/part-00000.csv")


def test_a_broken_off_file_is_not_there(target: Target) -> None:
    """Nor anything else in its folder."""
    sink = target.open("a/part-00000.csv")
    sink.write(memoryview(b"x" * 100))
    sink.abort()
    sink.abort()

    assert paths(target, "a") == []


def test_a_pointer_is_replaced_whole(target: Target) -> None:
    """The one file that is written again."""
    target.put_whole("a/LATEST.json", b"1")
    target.put_whole("a/LATEST.json", b"22")

    assert target.read("a/LATEST.json") == b"22"
    assert paths(target, "a") == ["a/LATEST.json"]


def test_what_is_not_there(target: Target) -> None:
    """Lists are empty, files are not found, and removing counts nothing."""
    assert paths(target, "none") == []
    assert target.remove("none") == 0
    assert not target.exists("none/a")
    for read in (target.read, target.reading):
        with pytest.raises(FileNotFoundError):
            read("none/a")


def test_a_folder_is_removed_with_all_in_it(target: Target) -> None:
    """And nothing beside it, whose name may begin alike."""
    for path in ("n/full-000001/a/b", "n/full-000001/_manifest.json", "n/full-0000011/a"):
        written(target, path, b"x")

    assert target.remove("n/full-000001") == 2
    assert paths(target, "n") == ["n/full-0000011/a"]


@pytest.mark.parametrize("path", ["../a", "a/../../b", "/etc/passwd", "a//b", "a/./b", "a\\b", "", "a\0b"])
def test_no_path_leads_out(target: Target, path: str) -> None:
    """Neither of a table's name nor of an LFI's."""
    with pytest.raises(ExportTargetError, match="leads out of the target"):
        target.open(path)
    with pytest.raises(ExportTargetError, match="leads out of the target"):
        target.read(path)


@pytest.mark.parametrize("format_", [Format.PARQUET, Format.CSV])
def test_an_export_is_whole_at_any_target(target: Target, format_: Format) -> None:
    """Written, verified, and purged."""
    made.export(target, {"transaction": ROWS}, format=format_)
    made.export(target, {"transaction": made.changes(ROWS[:3])}, number=2, base=1, from_="cursor-1", format=format_)

    report = verify(target, made.NAME)
    assert (report.findings, report.rows) == ([], 63)
    assert [one.folder for one in standing(target, made.NAME)] == ["full-000001", "incr-000002"]
    assert remove(target, made.NAME, Removal(folder="full-000001", reason="older_than_kept")) == 4
    assert [one.folder for one in standing(target, made.NAME)] == ["incr-000002"]


# -- a folder --------------------------------------------------------------------------------------------------------


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    """Money data: no other user of the machine reads them, whatever the umask."""
    old = os.umask(0)
    try:
        made.export(FolderTarget(tmp_path / "a/b"), {"transaction": ROWS})
    finally:
        os.umask(old)

    modes = {oct(one.stat().st_mode & 0o777) for one in (tmp_path / "a").rglob("*") if one.is_file()}
    folders = {oct(one.stat().st_mode & 0o777) for one in (tmp_path / "a").rglob("*") if one.is_dir()}
    assert (modes, folders, oct((tmp_path / "a").stat().st_mode & 0o777)) == ({"0o600"}, {"0o700"}, "0o700")


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    """Of a folder or of a file, for writing, reading and removing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    root = tmp_path / "target"
    root.mkdir()
    (root / "linked").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    target = FolderTarget(root)

    for act in (target.open, target.read, target.remove, lambda path: target.put_whole(path, b"")):
        for path in ("linked/secret", "linked/new/x", "file"):
            with pytest.raises(ExportTargetError, match="a symbolic link leads out of"):
                act(path)
    assert sorted(one.name for one in outside.iterdir()) == ["secret"]


def test_the_target_itself_may_be_a_link(tmp_path: Path) -> None:
    """An operator's own: to another disk, say."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "exports").symlink_to(tmp_path / "disk")

    written(FolderTarget(tmp_path / "exports"), "n/a", b"x")

    assert (tmp_path / "disk/n/a").read_bytes() == b"x"


def test_a_file_being_written_has_no_name_that_a_pattern_finds(tmp_path: Path) -> None:
    """A process that is killed leaves it; `*.parquet` does not match it, and the next run is not held up by it."""
    target = FolderTarget(tmp_path)
    sink = target.open("n/part-00000.parquet")
    sink.write(memoryview(b"half"))

    (left,) = (tmp_path / "n").iterdir()
    assert left.name.startswith(".")
    assert not list((tmp_path / "n").glob("*.parquet"))
    sink.abort()


def test_a_folder_that_cannot_be_written_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "n").write_text("")

    with pytest.raises(ExportTargetError, match=r"n/a: .*; look at the folder's rights and room"):
        FolderTarget(tmp_path).open("n/a")


class Full:
    """A target whose disk is full after some bytes."""

    def __init__(self, inner: FolderTarget, room: int) -> None:
        self.inner = inner
        self.room = room

    def open(self, path: str) -> "Full":
        self.sink = self.inner.open(path)
        return self

    def write(self, data: memoryview, /) -> None:
        self.room -= data.nbytes
        if self.room < 0:
            raise ExportTargetError("a: No space left on device; look at the folder's rights and room")
        self.sink.write(data)

    def close(self) -> None:
        self.sink.close()

    def abort(self) -> None:
        self.sink.abort()


@pytest.mark.unit
@pytest.mark.parametrize("room", [0, 100, 5_000])
@pytest.mark.parametrize("format_", [Format.PARQUET, Format.NDJSON, Format.CSV])
def test_a_full_disk_leaves_nothing(tmp_path: Path, format_: Format, room: int) -> None:
    """The error says so, and the part is gone."""
    inner = FolderTarget(tmp_path)
    target = Full(inner, room)

    with pytest.raises(ExportTargetError, match="No space left"):
        made.write_table(target, made.TRANSACTION, ROWS, format=format_)  # type: ignore[arg-type]
    target.abort()

    assert paths(inner, made.NAME) == []


# -- an object store -------------------------------------------------------------------------------------------------


@pytest.mark.live
def test_duckdb_and_polars_free_readers_find_objects(bucket: S3Access, tmp_path: Path) -> None:
    """What lies in the bucket is what lies in a folder: the same bytes."""
    remote = target_of(f"s3://{BUCKET}/same", bucket)
    local = target_of(str(tmp_path))
    first = made.export(remote, {"transaction": ROWS})
    second = made.export(local, {"transaction": ROWS})

    assert first == second
    for file in first.tables[0].files:
        place = f"{made.NAME}/full-000001/{file.path}"
        assert remote.read(place) == local.read(place)
    with duckdb.connect() as database:
        found = database.execute(f"SELECT count(*) FROM '{tmp_path}/nightly/full-000001/transaction/*.parquet'")
        assert found.fetchone() == (60,)


@pytest.mark.live
def test_a_large_object_goes_up_in_pieces_and_broken_off_is_gone(bucket: S3Access) -> None:
    """More than one piece of an upload; nothing is left of it, finished or not."""
    target = target_of(f"s3://{BUCKET}/large", bucket)
    sink = target.open("a/part-00000.csv")
    for _ in range(12):
        sink.write(memoryview(bytes(1 << 20)))
    sink.abort()

    client = boto3.client(
        "s3",
        endpoint_url=bucket.endpoint,
        region_name=bucket.region,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
    )
    assert paths(target, "a") == []
    assert client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []


@pytest.mark.live
def test_an_error_of_the_store_tells_its_code_and_no_key(bucket: S3Access) -> None:
    """A bucket that is not there."""
    target = target_of("s3://no-such-bucket-of-ours/x", bucket)

    with pytest.raises(ExportTargetError) as caught:
        written(target, "a/b", b"x")

    assert str(caught.value).startswith("a/b: the object store says NO_SUCH_BUCKET in ")
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None
    for shown in (repr(target), repr(bucket), target.text):
        assert SECRET not in shown
        assert KEY not in shown


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "access", "message"),
    [
        ("gs://a/b", S3Access(), "to: gs:// is no target; give a folder, or s3://bucket/prefix"),
        ("", S3Access(), "to: is empty"),
        ("s3://", S3Access(), "has no name of a bucket"),
        ("s3://A_b/c", S3Access(), "has no name of a bucket"),
        ("s3://bucket/../x", S3Access(), "leads out of the target"),
        ("s3://bucket/x", S3Access(access_key=KEY), "access_key and secret_key come together"),
        ("s3://bucket/x", S3Access(endpoint="localhost:9000"), "endpoint: is no https://host"),
        ("s3://bucket/x", S3Access(endpoint="http://a:b@localhost"), "endpoint: is no https://host"),
    ],
)
def test_a_target_that_is_none_says_what_can_be_written(text: str, access: S3Access, message: str) -> None:
    """Before anything is read from the database."""
    with pytest.raises(ExportTargetError, match=message):
        target_of(text, access)


@pytest.mark.unit
def test_a_folder_can_be_named_in_two_ways(tmp_path: Path) -> None:
    """As a path, and as a URL of one."""
    assert target_of(str(tmp_path)).text == target_of(f"file://{tmp_path}").text == str(tmp_path)
