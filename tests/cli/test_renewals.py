"""`consents renew|open|calendar` and `consents list --renewal-due`, as a person gives them."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cli.conftest import Prepared
from tests.cli.house import House

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


def ends_in(house: House, consent_id: str, days: float, **changes: str) -> str:
    """Move the end of a consent, and give it as the database keeps it."""
    end = (datetime.now(UTC) + timedelta(days=days)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    house.sql("UPDATE consent SET expires_at = ? WHERE consent_id = ?", end, consent_id)
    for column, value in changes.items():
        house.sql(f"UPDATE consent SET {column} = ? WHERE consent_id = ?", value, consent_id)
    return end


def test_a_renewal_prints_an_address_or_a_link(prepared: Prepared, house: House) -> None:
    """At once, or to wait for its user; the root is named, and a link can be opened from here too."""
    now = house.run("consents", "renew", prepared.consent_id, "--days", "200", "--json")
    link = house.run("consents", "renew", prepared.consent_id, "--link", "--json")
    opened = house.run("consents", "open", link.json["authorization"], "--json")

    assert (now.code, link.code, opened.code) == (0, 0, 0), now.said + link.said + opened.said
    assert {"consent", "permissions", "open_before", "url"} <= set(now.json) == set(opened.json)
    assert len({prepared.consent_id, now.json["consent"], opened.json["consent"]}) == 3
    assert link.json["connection"] == prepared.consent_id
    assert link.json["url"] == f"http://127.0.0.1:8080/v1/authorize/{link.json['authorization']}"
    bases = [request[0]["consent"]["BaseConsentId"] for request in requests(house)[-2:]]
    assert bases == [prepared.consent_id] * 2


def requests(house: House) -> list[Any]:
    rows = house.sql('SELECT request FROM "authorization" ORDER BY created_at')
    return [json.loads(row[0]) for row in rows]


@pytest.mark.parametrize("way", [(), ("--link",)], ids=["at once", "as a link"])
def test_a_successor_of_a_consent_of_years_ends_within_364_days(
    prepared: Prepared, house: House, way: tuple[str, ...]
) -> None:
    """Another system's consent may last for years; a successor whose end is not given is asked for less than one."""
    ends_in(house, prepared.consent_id, 730)
    begun = house.run("consents", "renew", prepared.consent_id, *way, "--json")
    if way:
        begun = house.run("consents", "open", begun.json["authorization"], "--json")

    assert begun.code == 0, begun.said
    asked = datetime.fromisoformat(requests(house)[-1][0]["consent"]["ExpirationDateTime"])
    assert timedelta(days=363, hours=23) < asked - datetime.now(UTC) <= timedelta(days=364)


@pytest.mark.parametrize("act", [("renew", "{}"), ("authorize", "sandbox")], ids=["successor", "first consent"])
@pytest.mark.parametrize("way", [(), ("--link",)], ids=["at once", "as a link"])
def test_an_end_in_a_year_is_refused(
    prepared: Prepared, house: House, act: tuple[str, ...], way: tuple[str, ...]
) -> None:
    """As an instant and in days, for a first consent and a successor: exit code 2, nothing written or sent."""
    before = house.tables()
    given = [argument.format(prepared.consent_id) for argument in act]
    year = (datetime.now(UTC) + timedelta(days=365)).isoformat()
    instant = house.run("consents", *given, *way, "--expires-at", year)
    days = house.run("consents", *given, *way, "--days", "365")

    assert (instant.code, days.code, house.tables() == before) == (2, 2, True)
    assert "expires_at: must be less than one year ahead; give at most 364 days" in instant.stderr
    assert "364" in days.stderr


def test_an_authorisation_may_wait_for_its_user(house: House) -> None:
    """`authorize --link` pushes nothing."""
    before = len(requests(house))
    link = house.run("consents", "authorize", "sandbox", "--link", "--user-ref", "u", "--json")

    assert (link.code, link.json["connection"], len(requests(house))) == (0, None, before), link.said


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        pytest.param(("renew", "nobody"), "consent_id", id="unknown"),
        pytest.param(("renew", "{}", "--permission", "ReadMinds"), "permissions", id="no permission"),
        pytest.param(("renew", "{}", "--expires-at", "2099-01-01T00:00:00Z"), "expires_at", id="too far ahead"),
        pytest.param(("renew", "{}", "--return-url", "https://x.example/"), "return_url", id="no link"),
        pytest.param(("renew", "{}", "--link", "--return-url", "https://x.example/"), "return_url", id="not allowed"),
        pytest.param(("renew", "{}", "--account-type", "Private"), "account_types", id="an unknown account type"),
        pytest.param(("renew", "{}", "--from-date", "soon"), "from_date", id="no date"),
        pytest.param(("renew", "{}", "--version", "v1.2"), "version", id="a version the LFI is not declared for"),
        pytest.param(
            ("renew", "{}", "--on-behalf-of-legal-name", ""), "on_behalf_of.legal_name", id="a firm without a name"
        ),
        pytest.param(("list", "--within", "3"), "within", id="within what"),
        pytest.param(("calendar", "--csv", "--ics"), "calendar", id="two ways at once"),
    ],
)
def test_bad_input_names_its_field(prepared: Prepared, house: House, arguments: tuple[str, ...], field: str) -> None:
    """Exit code 2, one line, nothing written."""
    before = house.tables()
    ended = house.run("consents", *(argument.format(prepared.consent_id) for argument in arguments))

    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"error [bad_request]: {field}: "), ended.stderr
    assert house.tables() == before


def test_an_unknown_link_is_refused(house: House) -> None:
    """Exit code 1 and why."""
    ended = house.run("consents", "open", "no-such-link")

    assert (ended.code, ended.stderr) == (1, "error [authorization_failed]: intent: is not one of ours\n")


@pytest.mark.parametrize(
    ("days", "changes", "why"),
    [
        pytest.param(200, {}, None, id="far from its end"),
        pytest.param(20, {}, "near_end", id="near its end"),
        pytest.param(-3, {"status": "Expired"}, "expired", id="expired"),
        pytest.param(200, {"needs_consent": "invalid_grant"}, "grant_lost:invalid_grant", id="its grant is lost"),
        pytest.param(20, {"status": "Revoked"}, None, id="revoked: somebody did not want it"),
    ],
)
def test_what_is_due_for_renewal(
    prepared: Prepared, house: House, days: float, changes: dict[str, str], why: str | None
) -> None:
    """Near its end, ended, or without a grant."""
    ends_in(house, prepared.consent_id, days, **changes)

    due = house.run("consents", "list", "--renewal-due", "--json").json

    assert [(one["consent"], one["why"]) for one in due] == ([] if why is None else [(prepared.consent_id, why)])


def test_the_calendar_comes_in_three_forms(prepared: Prepared, house: House) -> None:
    """JSON, CSV no spreadsheet computes with, and iCalendar in folded lines."""
    ends_in(house, prepared.consent_id, 20.5)
    house.sql("UPDATE connection SET user_ref = ?", "=HYPERLINK(1);, " + "ü" * 60)

    (entry,) = house.run("consents", "calendar", "--json").json
    (row,) = csv.DictReader(io.StringIO(house.run("consents", "calendar", "--csv").stdout))
    ics = house.run("consents", "calendar", "--ics").stdout

    assert (entry["consent"], row["consent"]) == (prepared.consent_id, prepared.consent_id)
    assert row["user_ref"].startswith("'=HYPERLINK")
    assert (entry["next_flag_at"], row["expires_at"]) == (row["next_flag_at"], entry["expires_at"])
    assert ics.startswith("BEGIN:VCALENDAR\r\n")
    assert max(len(line.encode()) for line in ics.splitlines()) <= 75
    unfolded = ics.replace("\r\n ", "")
    assert f"SUMMARY:Consent ends: sandbox =HYPERLINK(1)\\;\\, {'ü' * 60}\r\n" in unfolded
    assert f"UID:{prepared.consent_id}@syncworker\r\n" in unfolded
    assert house.run("consents", "calendar", "--within", "20", "--json").json == []


def test_a_renewal_in_other_words_says_what_it_asks_for(prepared: Prepared, house: House) -> None:
    """Kinds of account, firm, dates and a new chain from the command line; `any` and `open` take limits away."""
    narrowed = house.run(
        "consents", "renew", prepared.consent_id, "--link", "--json", "--new-chain",
        "--account-type", "Retail", "--account-sub-type", "Savings", "--account-sub-type", "PersonalLoan",
        "--on-behalf-of-legal-name", "Al Waha", "--on-behalf-of-identifier", "7",
        "--from-date", "2026-01-01", "--to-date", "open", "--purpose", "TaxFiling",
    )  # fmt: skip
    opened = house.run("consents", "open", narrowed.json["authorization"], "--json")

    assert (narrowed.code, opened.code) == (0, 0), narrowed.said + opened.said
    members = ("connection", "account_types", "account_sub_types", "on_behalf_of", "from_date", "to_date", "purpose")
    assert [narrowed.json[name] for name in members] == [
        prepared.consent_id, ["Retail"], ["Savings", "PersonalLoan"],
        {"LegalName": "Al Waha", "IdentifierType": "Other", "Identifier": "7"}, "2026-01-01", None, "TaxFiling",
    ]  # fmt: skip
    pushed = requests(house)[-1][0]["consent"]
    assert (pushed["AccountSubType"], "BaseConsentId" in pushed) == (["Savings", "Finance"], False)


def test_without_permissions_everything_we_read_is_asked_for(house: House) -> None:
    """In the words of the version, and said: on stderr, and in the JSON."""
    ended = house.run("consents", "authorize", "sandbox", "--account-sub-type", "Savings", "--json")
    listed = house.run("permissions", "--json").json
    everything = [one["permission"] for one in listed if "v2.1" in one["asked_by_default"]]

    assert ended.code == 0, ended.said
    assert "it asks for everything we can read in v2.1: ReadAccountsDetail, " in ended.stderr
    assert ended.json["permissions"] == everything == requests(house)[-1][0]["consent"]["Permissions"]
    assert {"ReadStatements", "ReadParty", "ReadProductFinanceRates"} <= set(everything)
    assert not {one for one in everything if one.endswith("Basic")}


def test_every_permission_says_what_it_opens_and_where_it_is(house: House) -> None:
    """Resources, fields, versions."""
    by_name = {one["permission"]: one for one in house.run("permissions", "--json").json}
    of_v1_2 = {one["permission"] for one in house.run("permissions", "--version", "v1.2", "--json").json}

    assert by_name["ReadStatements"] == {
        "permission": "ReadStatements", "opens": ["statements"], "shows": "statements", "versions": ["v2.1"],
        "granted_in": ["v2.1"], "asked_by_default": ["v2.1"],
    }  # fmt: skip
    assert (by_name["ReadProductLendingRates"]["opens"], by_name["ReadConsents"]["opens"]) == (["product"], [])
    assert "ReadStatements" not in of_v1_2
    assert "ReadAccountsBasic" in of_v1_2
