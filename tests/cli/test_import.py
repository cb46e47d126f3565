"""`consents import`, as the one command of a move: what it says, how it ends, and what it never shows."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.conftest import Prepared
from tests.cli.house import Ended, House

pytestmark = pytest.mark.live

FILE: Final = "consents.jsonl"
SECRET: Final = "eyJ-marked-4b1d9e"


def line(number: int, **changes: Any) -> dict[str, Any]:
    """A good line, its tokens marked."""
    return {
        "ConsentId": f"moved-{number}",
        "lfi": "sandbox",
        "Permissions": ["ReadAccountsBasic", "ReadBalances"],
        "ExpirationDateTime": "2099-01-01T00:00:00Z",
        "refresh_token": f"{SECRET}-refresh-{number}",
        "access_token": f"{SECRET}-access-{number}",
        "access_token_expires_at": "2098-12-31T23:00:00Z",
        "standard_version": "v2.1",
        **changes,
    }


def file_in(house: House, *lines: dict[str, Any] | str, mode: int = 0o600) -> Path:
    """The file to import."""
    file = house.folder / FILE
    file.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    file.chmod(mode)
    return file


def held(house: House) -> list[str]:
    """ConsentIds that came from the file."""
    return [row[0] for row in house.sql("SELECT consent_id FROM consent WHERE consent_id LIKE 'moved-%' ORDER BY 1")]


def shows_no_secret(ended: Ended) -> bool:
    return SECRET not in ended.said and "Traceback" not in ended.said


def test_a_file_comes_in_and_again_changes_nothing(house: House) -> None:
    """Exit code 0 both times; the tokens are sealed in the database and nowhere else."""
    file_in(house, *(line(number) for number in range(3)))

    first = house.run("consents", "import", FILE, "--json")
    before = house.tables()
    again = house.run("consents", "import", FILE, "--json")

    noted: dict[str, Any] = {"read_on": [], "read_as_uae_time": {}, "ignored": []}
    assert (first.code, first.json) == (
        0,
        {"refused": [], "imported": 3, "unchanged": 0, "replaced": 0, **noted},
    ), first.said
    assert (again.code, again.json) == (
        0,
        {"refused": [], "imported": 0, "unchanged": 3, "replaced": 0, **noted},
    ), again.said
    assert (held(house), house.tables()) == (["moved-0", "moved-1", "moved-2"], before)
    assert (shows_no_secret(first), shows_no_secret(again)) == (True, True)
    assert SECRET.encode() not in house.database.read_bytes()


def test_some_bad_lines_are_named_by_number_and_the_others_go_in(house: House) -> None:
    """Exit code 3, from stdin as well; a secret in the wrong member is not repeated."""
    lines = [
        line(1),
        line(2, lfi=SECRET),
        f'{{"refresh_token": "{SECRET}"',
        line(4, Permissions=[SECRET], extra=SECRET),
        line(5, tenant="another"),
        line(6, user_ref="customer-6", extra=SECRET),
    ]
    content = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)

    ended = house.run("consents", "import", "-", stdin=content)

    assert ended.code == 3, ended.said
    assert [said for said in ended.stderr.splitlines() if said.startswith("line ")] == [
        "line 2: lfi: is not declared (known: sandbox); declare it in syncworker.toml first",
        "line 3: line: is not JSON; write one object per line",
        "line 4: Permissions: what stands at place 1 is not a permission of the standard",
        "line 5: tenant: is not 'default', the one of these settings; import it where its tenant is served",
    ]
    assert [said.split() for said in ended.stdout.splitlines()] == [
        ["imported", "2"],
        ["unchanged", "0"],
        ["replaced", "0"],
        ["refused", "4"],
    ]
    assert "members that mean nothing here were left out: extra" in ended.stderr
    assert (held(house), shows_no_secret(ended)) == (["moved-1", "moved-6"], True)


def test_a_line_joins_no_chain_of_another_customer(house: House, prepared: Prepared) -> None:
    """Its root belongs to another customer, or is itself a successor: the line is named and stays out."""
    root = prepared.consent_id
    file_in(
        house,
        line(0, BaseConsentId=root, user_ref="another"),
        line(1, BaseConsentId=root),
        line(2, BaseConsentId="moved-1", user_ref="another"),
    )

    ended = house.run("consents", "import", FILE, "--json")

    assert [(one["line"], one["reason"].partition(":")[0]) for one in ended.json["refused"]] == [
        (1, "user_ref"),
        (3, "BaseConsentId"),
    ]
    assert (ended.code, held(house), shows_no_secret(ended)) == (3, ["moved-1"], True)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        pytest.param(
            [line(1, ExpirationDateTime="2020-01-01T00:00:00Z")], "ExpirationDateTime: has passed", id="ended"
        ),
        pytest.param([], f"{FILE}: holds no line", id="empty"),
    ],
)
def test_when_no_line_is_in_the_command_failed(house: House, lines: list[dict[str, Any]], says: str) -> None:
    """Exit code 1, and the tables as they were."""
    before = house.tables()
    file_in(house, *lines)

    ended = house.run("consents", "import", FILE, "--json")

    assert (ended.code, ended.json["imported"], house.tables() == before) == (1, 0, True), ended.said
    assert says in ended.said


def test_a_file_others_may_read_is_taken_with_a_warning(house: House) -> None:
    """It holds live tokens; whoever copies it can act for our customers."""
    file_in(house, line(1), mode=0o644)

    ended = house.run("consents", "import", FILE)

    assert (ended.code, held(house)) == (0, ["moved-1"]), ended.said
    assert f"warning: others may read {FILE}" in ended.stderr


def test_another_token_needs_to_be_asked_for(house: House, prepared: Prepared) -> None:
    """A consent that is held and whose token rotates: a file's token is refused, and stored only when asked for."""
    ((permissions, expires_at, user_ref),) = house.sql(
        "SELECT permissions, expires_at, user_ref FROM consent JOIN connection USING (tenant, connection_id) "
        "WHERE consent_id = ?",
        prepared.consent_id,
    )
    file_in(
        house,
        line(
            1,
            ConsentId=prepared.consent_id,
            Permissions=json.loads(permissions),
            ExpirationDateTime=expires_at,
            user_ref=user_ref,
        ),
    )
    before = house.tables()

    unasked = house.run("consents", "import", FILE)
    untouched = house.tables() == before
    asked = house.run("consents", "import", FILE, "--replace-tokens", "--json")

    assert (unasked.code, untouched) == (1, True), unasked.said
    assert "line 1: refresh_token: another one is held for this ConsentId" in unasked.stderr
    assert (asked.code, asked.json["replaced"]) == (0, 1), asked.said
    assert (shows_no_secret(unasked), shows_no_secret(asked)) == (True, True)


def test_a_missing_file_is_used_wrongly(house: House) -> None:
    ended = house.run("consents", "import", "nothing.jsonl")
    assert (ended.code, ended.stdout) == (2, "")
    assert "FILE: nothing.jsonl cannot be read" in ended.stderr


def test_the_help_says_what_each_exit_code_means(house: House) -> None:
    ended = house.run("consents", "import", "--help")
    words = " ".join(ended.stdout.split())
    assert "Exit code 0: every line is in. 3: some are, those that are not are named by number and reason." in words
    assert "1: none is." in words
