"""Output never dies of an encoding."""

import json

import pytest

from tests.cli.house import House

ENCODINGS = [
    pytest.param(
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}, id="ascii"
    ),
    pytest.param({"PYTHONIOENCODING": "iso8859-6"}, id="arabic"),
]


@pytest.mark.parametrize("env", ENCODINGS)
def test_commands_speak_in_any_encoding(env: dict[str, str], house: House) -> None:
    """A terminal without our signs gets ASCII in their place, and the command ends as it does elsewhere."""
    plain, narrow = (house.run("status", env=some) for some in ({"PYTHONIOENCODING": "utf-8"}, env))

    assert narrow.code == plain.code
    assert "Traceback" not in narrow.stderr
    assert not plain.stdout.isascii()
    assert narrow.stdout.isascii()


def test_json_loses_nothing_in_a_narrow_encoding(house: House) -> None:
    """What ASCII cannot say is escaped: a program reads the same value."""
    whole, narrow = (house.run("status", "--json", env={"PYTHONIOENCODING": one}) for one in ("utf-8", "ascii"))

    assert narrow.stdout.isascii()
    assert json.loads(narrow.stdout).keys() == json.loads(whole.stdout).keys()
