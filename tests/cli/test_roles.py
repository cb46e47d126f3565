"""`syncworker db roles`, and what `doctor` says of roles, with a real PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from syncworker.store.keyring import KeyRing
from tests.cli.house import Ended, House
from tests.ground.postgres import as_role

pytestmark = pytest.mark.live

PASSWORD = "päss 'word'"
PREFIX = "acted"
WEB = f"{PREFIX}_web"


@pytest.fixture
def house(tmp_path: Path) -> House:
    """Nothing but a key ring."""
    KeyRing.generate(tmp_path / "keyring")
    (tmp_path / "syncworker.toml").write_text('keyring = "keyring"\ntenant = "acme"\n')
    return House(tmp_path)


@pytest.fixture
def url(postgresql_url: str) -> Iterator[str]:
    """A database whose roles are removed at the end: their rights lie in it, they themselves in the whole server."""
    yield postgresql_url
    with psycopg.connect(postgresql_url, autocommit=True) as owner:
        names = owner.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE %s", (f"{PREFIX}\\_%",)).fetchall()
        for (name,) in names:
            owner.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def roles(house: House, url: str, *arguments: str, stdin: str | bytes = "") -> Ended:
    return house.run("db", "roles", *arguments, stdin=stdin, env={"SYNCWORKER_DATABASE_URL": url})


def checks(house: House, url: str, **more: str) -> list[tuple[str, bool]]:
    """What `doctor` says of roles, each with whether it warns."""
    ended = house.run("doctor", "--json", env={"SYNCWORKER_DATABASE_URL": url, **more})
    return [(one["said"], one["warning"]) for one in ended.json["checks"] if one["check"] == "database roles"]


def test_a_plan_is_sql_that_can_be_run_and_apply_runs_it_once(house: House, url: str) -> None:
    """Plan, the same by hand in another database user's shell, then nothing is missing; apply asks for `--yes`."""
    planned = roles(house, url, "plan", "--prefix", PREFIX)
    as_json = roles(house, url, "plan", "--prefix", PREFIX, "--tenant", "other", "--json").json
    unsure = roles(house, url, "apply", "--prefix", PREFIX)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(planned.stdout.encode())
    again = roles(house, url, "plan")
    applied = roles(house, url, "apply", "--yes")

    assert [one["role"] for one in as_json["roles"]] == [
        f"{PREFIX}_{name}" for name in ("worker", "web", "export", "analyst_acme", "analyst_other")
    ]
    assert all(one["possible"] for one in as_json["statements"])
    assert (unsure.code, "--yes" in unsure.stderr) == (2, True)
    assert again.stdout == "-- nothing is missing\n"
    assert applied.stderr.startswith(f"nothing to do; roles: {PREFIX}_worker, {WEB}, ")


def test_a_password_is_read_from_standard_input_and_sent_as_its_verifier(house: House, url: str) -> None:
    """It is in no output, and PostgreSQL holds what SCRAM makes of it."""
    roles(house, url, "apply", "--prefix", PREFIX, "--yes")
    given = roles(house, url, "password", WEB, stdin=f"{PASSWORD}\n".encode())
    refused = [
        roles(house, url, "password", WEB, stdin=""),
        roles(house, url, "password", WEB, stdin="two\nlines\n"),
        roles(house, url, "password", "syncworker", stdin="x\n"),
    ]
    with psycopg.connect(url) as owner:
        held = owner.execute(
            "SELECT rolname, left(rolpassword, 14) FROM pg_authid WHERE rolname LIKE 'acted%'"
        ).fetchall()

    assert (given.code, given.stderr) == (0, f"role {WEB} has the password\n")
    assert [one.code for one in refused] == [2, 2, 2]
    assert {name: word for name, word in held if word is not None} == {WEB: "SCRAM-SHA-256$"}


@pytest.mark.parametrize("command", [("plan",), ("apply", "--yes"), ("password", "x")])
def test_sqlite_has_no_roles(house: House, command: tuple[str, ...]) -> None:
    ended = house.run("db", "roles", *command, stdin="x\n")

    assert (ended.code, "which has no roles; file modes guard it" in ended.stderr) == (1, True), ended.said


def test_the_doctor_says_as_whom_the_processes_come(house: House, url: str) -> None:
    """No roles; roles that nothing uses yet; each process as its own."""
    before = checks(house, url)
    roles(house, url, "apply", "--prefix", PREFIX, "--yes")
    unused = checks(house, url)
    web = {"SYNCWORKER_WEB_DATABASE_URL": as_role(url, WEB)}
    used = checks(house, as_role(url, f"{PREFIX}_worker"), **web)
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute("ALTER TABLE transaction DISABLE ROW LEVEL SECURITY")
    opened = checks(house, as_role(url, f"{PREFIX}_worker"), **web)

    (none, warns), *_ = before
    assert (none.startswith("none: every process is syncworker, and only our own statements"), warns) == (True, True)
    assert [one for one, warns in unused if warns] == [
        f"the web process is syncworker (the owner, or exempt); set web_database_url to a URL of role {WEB}"
    ]
    ((said, warned),) = used
    assert (said.partition("; ")[2], warned) == (
        f"workers are {PREFIX}_worker (worker), the web process is {WEB} (web)",
        False,
    )
    assert opened[-1] == ("1 statements are missing; run `syncworker db roles apply --yes` as the owner", True)


def test_the_web_process_takes_its_own_database_url(house: House, url: str) -> None:
    """Its password is shown nowhere, and a URL that leads nowhere ends the web process, not the others."""
    nowhere = "postgresql://web:s3cr3t@127.0.0.1:1/none"
    env: dict[str, Any] = {"SYNCWORKER_DATABASE_URL": url, "SYNCWORKER_WEB_DATABASE_URL": nowhere}
    web = house.run("web", env=env)
    others = house.run("db", "check", env=env)
    doctor = house.run("doctor", "--json", env=env)

    assert (web.code, "the database cannot be reached" in web.stderr, others.code) == (1, True, 0)
    assert "s3cr3t" not in web.said + others.said + doctor.said
