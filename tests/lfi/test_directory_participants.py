"""The participants directory: who can be called, and one reason for each entry that cannot."""

import copy
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from syncworker.errors import RequestError, StandardViolationError
from syncworker.lfi.participants import (
    Dropped,
    Participant,
    Reason,
    Rules,
    load,
    read_participants,
    verified,
)
from syncworker.simulator.participants import BANK, DIRT, participants
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
HUB = "https://auth1.bank.apihub.openfinance.ae"
DATA = "https://rs1.bank.apihub.openfinance.ae/open-finance/account-information"
Document = list[dict[str, Any]]


@pytest.fixture
def document() -> Document:
    """One bank on v1.2 and v2.0; nothing else in it."""
    whole = participants(
        issuer=HUB,
        discovery_url=f"{HUB}/.well-known/openid-configuration",
        base_urls={Version.V1_2: f"{DATA}/v1.2", Version.V2_0: f"{DATA}/v2.0"},
        today=date(2026, 11, 21),
    )
    return copy.deepcopy(whole[:1])


def server(document: Document) -> dict[str, Any]:
    found: dict[str, Any] = document[0]["AuthorisationServers"][0]
    return found


def the_one(document: Document, **rules: Any) -> Participant:
    reading = read_participants(document, rules=Rules(**rules), now=NOW)
    assert reading.dropped == ()
    (found,) = reading.found.values()
    return found


def test_every_published_kind_of_dirt_is_left_out_with_its_reason() -> None:
    """The sandbox's directory holds one entry for each; only the bank itself can be called."""
    whole = participants(
        issuer=HUB,
        discovery_url=f"{HUB}/.well-known/openid-configuration",
        base_urls={Version.V2_1: f"{DATA}/v2.1"},
        today=date(2026, 11, 21),
    )
    reading = read_participants(whole, rules=Rules(), now=NOW)

    assert [one.name for one in reading.found.values()] == [BANK]
    assert {one.organisation: one.reason.value for one in reading.dropped} == DIRT


def test_version_base_and_capabilities_come_from_the_paths(document: Document) -> None:
    """`ApiVersion` says 1.0.0 of both; the endpoints say v1.2 and v2.0, and which of them are there."""
    endpoints = server(document)["ApiResources"][1]["ApiDiscoveryEndpoints"]
    endpoints[:] = [{"ApiEndpoint": f"{DATA}/v2.0{path}"} for path in ("/accounts", "/accounts/{accountId}/balances/")]

    found = the_one(document)

    assert found.base_urls == {Version.V1_2: f"{DATA}/v1.2", Version.V2_0: f"{DATA}/v2.0"}
    assert found.published[Version.V2_0] == {"/accounts", "/accounts/{AccountId}/balances"}
    assert "/accounts/{AccountId}/transactions" in found.published[Version.V1_2]


def test_odd_entries_that_can_be_called_are_called(document: Document) -> None:
    """Upper-case host labels, the older family segment, flags as objects, a fee by its other name: all are read."""
    entry = server(document)
    entry |= {"Issuer": HUB.replace("auth1", "AUTH1"), "Flags": [{"Name": "AccountTypes", "Value": "Retail"}]}
    document[0]["Flags"] = {"AccountType": [{"Name": "x", "Value": "Corporate", "Status": "Active"},
                                            {"Value": "SME", "Status": "Inactive"}]}  # fmt: skip
    entry["ApiResources"] = [
        {
            "ApiFamilyType": "account",
            "Status": "Active",
            "ApiMetadata": {"DataSharingFees": "9.50", "AccountSubType": ["CurrentAccount"]},
            "ApiDiscoveryEndpoints": [
                {"ApiEndpoint": "https://RS1.bank.apihub.openfinance.ae/open-finance/account/v1.2/accounts"}
            ],
        }
    ]
    found = the_one(document)

    assert (found.issuer, found.base_urls, found.account_types, found.account_sub_types, found.notes) == (
        HUB,
        {Version.V1_2: "https://rs1.bank.apihub.openfinance.ae/open-finance/account/v1.2"},
        ("Retail", "Corporate"),
        ("CurrentAccount",),
        ("Issuer has upper-case letters in its host",),
    )
    assert found.over_limit_millifils == {Version.V1_2: int(Decimal("9.50") * 100_000)}


@pytest.mark.parametrize(
    ("written", "millifils"),
    [("0.50", 50_000), ("50", 5_000_000), (0.01, 1_000), (["0.02"], 2_000), ("0", 0), ("", None), (None, None)],
)
def test_an_over_limit_fee_is_exact_milli_fils(written: object, millifils: int | None, document: Document) -> None:
    """AED as text, number or list; empty means that there is none."""
    for resource in server(document)["ApiResources"]:
        resource["ApiMetadata"] = {"OverLimitFees": written}

    assert the_one(document).over_limit_millifils.get(Version.V1_2) == millifils


@pytest.mark.parametrize("written", ["free", "-1", "1e9999999", "NaN", "0.000001", "99999"])
def test_a_fee_nobody_can_read_is_a_note(written: str, document: Document) -> None:
    """It must not keep the LFI out, nor stall its reader."""
    for resource in server(document)["ApiResources"]:
        resource["ApiMetadata"] = {"OverLimitFees": written}
    found = the_one(document)

    assert (found.over_limit_millifils, found.notes[0]) == ({}, "OverLimitFees of v1.2 cannot be read")


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2027-03-31", date(2027, 3, 31)),
        ("2027-03-31T00:00:00.000Z", date(2027, 3, 31)),
        ("31/03/2027", date(2027, 3, 31)),
        ("soon", None),
        (None, None),
    ],
)
def test_a_retirement_to_come_is_a_date_to_migrate_before(
    written: str | None, day: date | None, document: Document
) -> None:
    """In any spelling; one nobody can read is a note."""
    server(document)["RetirementDate"] = written
    found = the_one(document)

    assert (found.retires_on, found.notes) == (day, ("RetirementDate cannot be read",) if written == "soon" else ())


def test_retirement_comes_with_the_day_in_the_uae(document: Document) -> None:
    """At 21:00 UTC the next day has begun there."""
    server(document)["RetirementDate"] = "2026-11-22"
    late = datetime(2026, 11, 21, 21, tzinfo=UTC)

    assert [one.reason for one in read_participants(document, rules=Rules(), now=late).dropped] == [Reason.RETIRED]


def test_a_bad_endpoint_does_not_cost_the_others(document: Document) -> None:
    """Each reason once, with the number of endpoints it took away."""
    endpoints = server(document)["ApiResources"][0]["ApiDiscoveryEndpoints"]
    endpoints += [{"ApiEndpoint": "https://rs1.example.com/open-finance/account-information/v1.2/x"}] * 2
    endpoints += [
        {"ApiEndpoint": f"{DATA}/v1.2//open-finance/account-information/v1.2/accounts"},
        {"ApiEndpoint": None},
    ]

    reading = read_participants(document, rules=Rules(), now=NOW)

    assert [(one.part, one.reason) for one in reading.dropped] == [
        ("account-information, 1 endpoint", Reason.DOUBLED_PATH),
        ("account-information, 2 endpoints", Reason.FOREIGN_HOST),
        ("account-information, 1 endpoint", Reason.NOT_A_URL),
    ]
    assert set(reading.found[Slug("sandbox-bank")].base_urls) == {Version.V1_2, Version.V2_0}


def test_namesakes_get_names_of_their_own(document: Document) -> None:
    """Two servers of one friendly name, two issuers."""
    second = copy.deepcopy(document[0])
    second["AuthorisationServers"][0] |= {"Issuer": f"{HUB}/two", "AuthorisationServerId": "0a1b2c3d-0000"}
    reading = read_participants([*document, second], rules=Rules(), now=NOW)

    first = server(document)["AuthorisationServerId"][:8]
    assert sorted(reading.found) == sorted([f"sandbox-bank-{first}", "sandbox-bank-0a1b2c3d"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.1.2.3", "[::1]"])
def test_private_addresses_pass_only_when_said(host: str, document: Document) -> None:
    """A sandbox's directory may name loopback; the real one may not."""
    text = json.dumps(document).replace("rs1.bank.apihub.openfinance.ae", host)

    assert [one.reason for one in read_participants(json.loads(text), rules=Rules(), now=NOW).dropped] == [
        Reason.PRIVATE_HOST
    ]
    assert the_one(json.loads(text), allow_private_hosts=True).name == BANK


def test_a_host_must_lie_below_a_trusted_one(document: Document) -> None:
    """`evil-apihub.openfinance.ae` only ends like one."""
    server(document)["Issuer"] = "https://evil-apihub.openfinance.ae"

    assert [one.reason for one in read_participants(document, rules=Rules(), now=NOW).dropped] == [Reason.FOREIGN_HOST]


@pytest.mark.parametrize(
    ("issuer", "good"),
    [
        (HUB, True),
        (HUB.replace("bank", "BANK"), True),
        (f"{HUB}/", False),
        ("https://other.example", False),
        (7, False),
    ],
)
def test_the_discovery_document_has_the_last_word_about_the_issuer(
    issuer: object, good: bool, document: Document
) -> None:
    """Host names have no case; a slash more is another issuer."""
    found = verified(the_one(document), {"issuer": issuer})

    assert isinstance(found, Participant) == good
    assert found.issuer == issuer if isinstance(found, Participant) else found.reason is Reason.ANOTHER_ISSUER


@pytest.mark.parametrize("document", [{}, "text", None, [1, 2], [{"issuer": "x"}]])
def test_what_is_no_participants_document_is_refused(document: object) -> None:
    """A discovery document, a JWKS, an error page in JSON: a clear word instead of an empty list."""
    with pytest.raises(StandardViolationError, match="not an array of organisations"):
        read_participants(document, rules=Rules(), now=NOW)


@pytest.mark.parametrize("broken", [{"AuthorisationServers": [7]}, {"AuthorisationServers": {}}, 7, None])
def test_malformed_entries_stay_their_own(broken: object, document: Document) -> None:
    """One broken organisation costs nobody else anything."""
    entry = {**document[0], **broken} if isinstance(broken, dict) else broken
    reading = read_participants([*document, entry], rules=Rules(), now=NOW)

    assert (len(reading.found), [one.reason for one in reading.dropped]) == (1, [Reason.MALFORMED])


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[" * 200, "no JSON that we read"), (None, "cannot read")],
)
def test_a_file_that_is_no_document_is_refused_by_name(content: bytes | None, says: str, tmp_path: Path) -> None:
    """Whatever is wrong with it, the message names the file."""
    path = tmp_path / "participants.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RequestError, match=rf"^file: .*{says}|^file: {says}"):
        load(path)


def test_texts_of_the_directory_are_fit_for_a_terminal(document: Document) -> None:
    """Escape sequences and endless names end here."""
    server(document)["CustomerFriendlyName"] = "Bank\x1b[2J" + "x" * 1000
    found = the_one(document)

    assert ("\x1b" in found.name, len(found.name), len(found.slug)) == (False, 200, 63)


def test_dropped_entries_say_where() -> None:
    """The reason of a whole organisation names no server."""
    (only,) = read_participants([{"OrganisationName": "X", "Status": "Inactive", "AuthorisationServers": []}],
                                rules=Rules(), now=NOW).dropped  # fmt: skip
    assert only == Dropped(organisation="X", reason=Reason.INACTIVE, said="the organisation's Status is Inactive")
