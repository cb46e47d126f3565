"""`syncworker export`, as real processes: run, list, show, verify, purge, and what may be asked wrongly."""

import json
import os
import stat
from pathlib import Path
from typing import Final

import pytest

from syncworker.exports.extras import _MODULES
from syncworker.store import migrate
from tests.cli.house import House
from tests.cli.test_changes import both, within
from tests.cli.test_items import SETTINGS
from tests.web.kept import IBAN

pytestmark = pytest.mark.live

RUN: Final = ("export", "run", "--to", "exports", "--tables", "account,account_identifier,transaction")

WITHOUT: Final = """\
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] == {module!r} else find(name, *more)
"""
"""A `sitecustomize` under which a library is not installed."""


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A folder with two connections of two customers that were synced once."""
    house = House(tmp_path)
    house.toml.write_text(SETTINGS)
    url = f"sqlite:///{house.database}"
    migrate.upgrade(url)
    within(url, house.keyring, both)
    return house


def test_a_series_is_made_listed_shown_verified_and_purged(house: House) -> None:
    """Full, increment, full; each command has the same facts on the screen and as JSON."""
    first = house.run(*RUN, "--name", "nightly", "--json")
    assert (first.code, first.stderr) == (0, "")
    assert (first.json["kind"], first.json["number"], first.json["rows"] > 0) == ("full", 1, True)
    assert Path(first.json["at"]) == house.folder / "exports/nightly/full-000001"
    second = house.run(*RUN, "--since", "nightly")
    assert second.code == 0, second.said
    assert "incremental" in second.stdout
    assert second.stderr.splitlines() == [
        f"export: {step}" for step in ("reserved", "decided", "written", "manifest", "latest")
    ]
    assert house.run(*RUN, "--name", "nightly", "--full", "--json").json["number"] == 3

    listed = house.run("export", "list", "--json").json
    assert [(one["name"], one["number"], one["kind"], one["outcome"]) for one in listed] == [
        ("nightly", 3, "full", "done"), ("nightly", 2, "incremental", "done"), ("nightly", 1, "full", "done"),
    ]  # fmt: skip
    assert "nightly" in house.run("export", "list").stdout
    shown = house.run("export", "show", "nightly", "--number", "2", "--json").json
    assert (shown["kind"], shown["base"], [one["name"] for one in shown["tables"]]) == (
        "incremental", 1, ["account", "account_identifier", "transaction"],
    )  # fmt: skip
    assert "full-000003" in house.run("export", "show", "nightly").stdout
    verified = house.run("export", "verify", "nightly", "--json").json
    assert (verified["good"], verified["exports"], verified["findings"]) == (True, [3], [])

    theirs = house.run(
        "export", "purge", "nightly", "--to", "exports", "--keep-full", "1", "--yes", env={"SYNCWORKER_TENANT": "other"}
    )
    assert (theirs.code, "are of another tenant" in theirs.stderr) == (2, True), theirs.said
    asked = house.run("export", "purge", "nightly", "--keep-full", "1")
    assert (asked.code, "full-000001" in asked.stdout, "--yes" in asked.stderr) == (0, True, True)
    gone = house.run("export", "purge", "nightly", "--keep-full", "1", "--yes", "--json").json
    assert [one["folder"] for one in gone] == ["full-000001", "incr-000002"]
    assert sorted(one.name for one in (house.folder / "exports/nightly").iterdir()) == ["LATEST.json", "full-000003"]


def test_what_is_damaged_is_said(house: House) -> None:
    """Exit code 1, the file and what to do, on the screen and as JSON."""
    house.run(*RUN)
    part = next((house.folder / "exports/export/full-000001/transaction").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    found = house.run("export", "verify", "export")
    assert (found.code, part.name in found.said, "export run --full" in found.said) == (1, True, True)
    as_json = house.run("export", "verify", "export", "--json")
    assert (as_json.code, as_json.json["good"], len(as_json.json["findings"])) == (1, False, 1)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([*RUN[:4], "--tables", "account,orders"], 2, "tables: there is no orders; choose of connection, consent"),
        (["export", "run"], 2, "to: is missing; give --to FOLDER"),
        (["export", "run", "--to", ""], 1, "to: is empty; give a folder"),
        (["export", "run", "--to", "ftp://host/x"], 1, "ftp:// is no target"),
        (["export", "run", "--to", "s3://A"], 1, "has no name of a bucket"),
        (["export", "run", "--to", "s3://bucket/x?secret_key=hunter2"], 1, "to: s3://bucket/prefix takes no options"),
        (["export", "run", "--to", "syncworker.toml"], 1, "look at the folder's rights and room"),
        ([*RUN, "--name", "../x"], 2, "name: up to 63 small letters"),
        ([*RUN, "--since", "nothing"], 2, "since: no increment can be made"),
        ([*RUN, "--since", "a", "--name", "b"], 2, "since: an increment belongs to its series"),
        ([*RUN, "--since", "a", "--full"], 2, "since: an increment is neither --full nor --as-of"),
        ([*RUN, "--as-of", "yesterday"], 2, "as_of: takes an instant with an offset"),
        ([*RUN, "--as-of", "2026-01-01T00:00:00"], 2, "as_of: takes an instant with an offset"),
        ([*RUN, "--as-of", "2026-01-01T00:00:00Z"], 2, "tables: account_identifier cannot be read as of an instant"),
        (["export", "run", "--to", "exports", "--as-of", "2198-01-01T00:00:00Z"], 2, "as_of: must lie before now"),
        ([*RUN, "--format", "xlsx"], 2, "xlsx"),
        ([*RUN, "--privacy", "none"], 2, "none"),
        (["export", "show", "nothing"], 2, "name: there is no export named nothing"),
        (["export", "show", "nothing", "--to", "exports"], 2, "holds no export named nothing"),
        (["export", "show", "made", "--number", "9"], 2, "holds no export made 9"),
        (["export", "verify", "nothing"], 2, "name: there is no export named nothing"),
        (["export", "verify", "made", "--number", "9"], 2, "number: made has no export 9"),
        (["export", "purge", "nothing"], 2, "name: there is no export named nothing"),
        (["export", "purge", "made", "--keep-full", "0"], 2, "keep-full"),
        (["export", "list", "--name", "No Name"], 2, "name: up to 63 small letters"),
    ],
)  # fmt: skip
def test_what_is_asked_wrongly_is_said(made: House, arguments: list[str], code: int, says: str) -> None:
    """One line on stderr that names the field; no traceback, no output, no export open."""
    ended = made.run(*arguments)
    assert (ended.code, ended.stdout) == (code, ""), ended.said
    assert says in " ".join(ended.stderr.replace("│", " ").split())
    assert "Traceback" not in ended.said
    assert made.sql("SELECT count(*) FROM export WHERE ended_at IS NULL") == [(0,)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A folder with one export; the tests that share it change nothing."""
    house = House(tmp_path_factory.mktemp("made") / "house")
    house.folder.mkdir()
    house.toml.write_text(SETTINGS)
    url = f"sqlite:///{house.database}"
    migrate.upgrade(url)
    within(url, house.keyring, both)
    assert house.run(*RUN, "--name", "made").code == 0
    return house


def test_nothing_is_purged_while_an_export_is_made(house: House) -> None:
    """Its files may be those that would go; what would go is shown all the same."""
    assert [house.run(*RUN).code for _ in range(2)] == [0, 0]
    until = "2190-01-01T00:00:00.000000+00:00"
    house.sql("UPDATE export SET ended_at = NULL, outcome = NULL, lease_until = ? WHERE number = 2", until)
    asked, done = house.run("export", "purge", "export"), house.run("export", "purge", "export", "--yes")
    assert (asked.code, done.code) == (0, 2), done.said
    assert "export export 2 is being made; purge when it has ended" in done.stderr
    busy = house.run(*RUN)
    assert (busy.code, "another process is making one" in busy.stderr) == (1, True), busy.said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(house: House) -> None:
    """The reason is the system's; the number is given up."""
    (house.folder / "exports").mkdir(mode=0o500)
    ended = house.run(*RUN)
    assert (ended.code, "Permission denied" in ended.stderr, "Traceback" in ended.said) == (1, True, False)
    assert house.sql("SELECT outcome, error FROM export") == [("failed", "export_target")]


@pytest.mark.parametrize("extra", sorted(_MODULES))
def test_a_missing_extra_is_named(house: House, extra: str, tmp_path: Path) -> None:
    """Before anything is opened: the command to install it; commands that need none of it still work."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(WITHOUT.format(module=_MODULES[extra]))
    env = {"PYTHONPATH": f"{hook}{os.pathsep}{house.environment()['PYTHONPATH']}"}
    more = ["--format", "delta"] if extra == "delta" else []
    ended = house.run(*RUN, *more, env=env)
    assert (ended.code, ended.stdout, "Traceback" in ended.said) == (1, "", False)
    assert f"install syncworker[{extra}]" in ended.stderr
    assert house.run("export", "list", env=env).code == 0
    assert house.sql("SELECT count(*) FROM export") == [(0,)]


def test_no_secret_and_no_person_is_shown(house: House) -> None:
    """Not on the screen, nor in JSON, nor in a pseudonymous export, nor in its manifest."""
    keys = {"AWS_ACCESS_KEY_ID": "AKIAOFATESTXXXXXXXXX", "AWS_SECRET_ACCESS_KEY": "secret-of-a-test-xxxxxxxx"}
    failed = house.run(
        "export", "run", "--to", "s3://bucket/p", "--json",
        env=keys | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"},
    )  # fmt: skip
    assert failed.code == 1
    said = failed.said
    for form in ((), ("--json",)):
        ended = house.run(*RUN, "--privacy", "pseudonymous", "--full", *form)
        assert ended.code == 0, ended.said
        said += ended.said + house.run("export", "show", "export", *form).said
    files = b"".join(one.read_bytes() for one in (house.folder / "exports").rglob("*.*") if one.is_file())
    secrets = [IBAN, *keys.values(), house.keyring.read_text().split()[-1]]
    assert [one for one in secrets if one in said or one.encode() in files] == []


def test_files_are_their_owners_under_any_umask(house: House) -> None:
    """The mode does not come from the process's umask."""
    before = os.umask(0)
    try:
        ended = house.run(*RUN, env={"LC_ALL": "C"})  # started by this process, not by the zygote
        delta = house.run(*RUN, "--name", "d", "--format", "delta", env={"LC_ALL": "C"})
    finally:
        os.umask(before)
    assert (ended.code, delta.code) == (0, 0), delta.said
    modes = {
        (one.is_dir(), stat.S_IMODE(one.stat().st_mode)) for one in (house.folder / "exports").rglob("*")
    } | {(True, stat.S_IMODE((house.folder / "exports").stat().st_mode))}  # fmt: skip
    assert modes == {(True, 0o700), (False, 0o600)}


def test_json_has_all_that_the_screen_shows(made: House) -> None:
    """Of a run's facts and of a manifest."""
    shown = made.run("export", "show", "made").stdout
    document = made.run("export", "show", "made", "--json").stdout
    for table in json.loads(document)["tables"]:
        assert table["name"] in shown
        assert table["content_digest"][:16] in shown
