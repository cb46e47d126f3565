"""`keys jwks`, and what `doctor` says about certificates, as real processes."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from syncworker.lfi.jose import read_keys
from tests.cli.house import House

pytestmark = pytest.mark.live


def test_the_public_halves_of_our_signing_keys_are_printed(house: House, bank: dict[str, Any]) -> None:
    """What a server without the directory is given; nothing private is in it."""
    ended = house.run("keys", "jwks")
    unknown = house.run("keys", "jwks", "--lfi", "nobody")

    assert set(read_keys(ended.json)) == {bank["client"]["signing_kid"]}
    assert {name for key in ended.json["keys"] for name in key} == {"kty", "use", "alg", "kid", "n", "e"}
    assert (unknown.code, unknown.stdout, "lfi: nobody is not declared (known: sandbox)" in unknown.stderr) == (
        1,
        "",
        True,
    )


def test_the_doctor_names_a_certificates_end_and_a_pair_that_does_not_match(house: House, bank: dict[str, Any]) -> None:
    """A certificate whose key has not followed yet; processes that run keep what they loaded."""
    said = [one["said"] for one in house.run("doctor", "--json").json["checks"] if one["check"] == "LFI sandbox"]
    shutil.copyfile(Path(bank["ca_bundle"]), house.folder / "keys" / "transport_certificate.pem")
    half = [one["said"] for one in house.run("doctor", "--json").json["checks"] if not one["good"]]

    assert [one for one in said if one.startswith("client.transport_certificate ends ")] != [], said
    assert [one for one in half if "does not belong to client.transport_certificate" in one] != [], half
