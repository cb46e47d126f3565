"""A bank on older versions, or on several: as strict as the files of each, and no consent crosses over."""
# ruff: noqa: E501 - a table with a row to a line

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from syncworker.simulator.process import SandboxProcess
from syncworker.simulator.sandbox import Sandbox
from syncworker.standard.permissions import Permission, askable
from syncworker.standard.versions import Version, rar_type
from tests.simulator.tpp import ABSENT, TPP, Draft

pytestmark = pytest.mark.flow

V = Version
BASIC = (Permission.ReadAccountsBasic,)


@pytest.fixture
async def bank(bank_dir: Path) -> AsyncIterator[Sandbox]:
    """One bank, three versions."""
    async with Sandbox(bank_dir, versions=reversed(Version), customers=2) as sandbox:
        yield sandbox


def consent(**members: Any) -> Callable[[Draft], None]:
    """Bend members of the consent."""

    def bend(draft: Draft) -> None:
        draft.consent.update(members)
        for name in [one for one, value in members.items() if value is ABSENT]:
            del draft.consent[name]

    return bend


# fmt: off
BENT = [
    #            version  what is bent                                                     the refusal, or nothing
    pytest.param(V.V1_2, consent(ConsentId="aac-1"),                                       None,                       id="v1.2 takes any text as id"),
    pytest.param(V.V1_2, consent(ConsentId="x" * 129),                                     "ConsentId must be text",   id="v1.2 id too long"),
    pytest.param(V.V1_2, consent(Permissions=["ReadConsents"]),                            None,                       id="v1.2 ReadConsents"),
    pytest.param(V.V1_2, consent(Permissions=["ReadAccountsBasic", "ReadFXTransactionsBasic"]), "Permissions",         id="v1.2 has no FX"),
    pytest.param(V.V1_2, consent(Permissions=["ReadAccountsBasic", "ReadTransactionsCredits"]), "Permissions",         id="v1.2-errata1 dropped it"),
    pytest.param(V.V1_2, consent(AccountSubType=["CreditCard"]),                           "AccountSubType",           id="v1.2 sub-types"),
    pytest.param(V.V1_2, consent(FromDate="2026-01-01"),                                   "FromDate is not a member", id="v1.2 has no FromDate"),
    pytest.param(V.V1_2, consent(TransactionFromDateTime="2026-01-01"),                    "TransactionFromDateTime",  id="v1.2 window is an instant"),
    pytest.param(V.V2_0, consent(TransactionFromDateTime="2026-01-01T00:00:00Z"),          None,                       id="v2.0 window"),
    pytest.param(V.V2_0, consent(AccountSubType=["PersonalLoan"]),                         None,                       id="v2.0 personal loan"),
    pytest.param(V.V2_0, consent(AccountSubType=["Finance"]),                              "AccountSubType",           id="v2.0 has no Finance"),
    pytest.param(V.V2_0, consent(Permissions=["ReadProductLendingRates"]),                 "Permissions need",         id="v2.0 rates without accounts"),
    pytest.param(V.V2_0, consent(Permissions=["ReadAccountsBasic", "ReadStatements"]),     "Permissions",              id="v2.0 has no statements"),
    pytest.param(V.V2_0, consent(OpenFinanceBilling=ABSENT),                               "OpenFinanceBilling",       id="v2.0 billing"),
    pytest.param(V.V2_1, consent(Permissions=["ReadAccountsBasic", "ReadConsents"]),       "Permissions",              id="v2.1 has no ReadConsents"),
    pytest.param(V.V2_1, consent(Permissions=["ReadAccountsBasic", "ReadProductLendingRates"]), "Permissions",         id="v2.1 renamed it"),
]
# fmt: on


async def test_pushed_requests_are_judged_by_their_version(bank: Sandbox) -> None:
    """Each deviation is refused by name, each freedom of an older version is granted."""
    judged: dict[str, tuple[int, bool]] = {}
    for case in BENT:
        version, bend, because = case.values
        async with TPP(bank, version=version) as tpp:  # type: ignore[arg-type]  # what a case holds
            draft = tpp.draft(BASIC)
            bend(draft)  # type: ignore[operator]
            answer = await tpp.push(draft)
            told = answer.json().get("error_description", "")
            judged[str(case.id)] = (answer.status_code, because is None or str(because) in told)
    good = {V.V1_2: 201, V.V2_0: 201, V.V2_1: 200}
    assert judged == {
        str(case.id): (400 if case.values[2] else good[case.values[0]], True)  # type: ignore[index]
        for case in BENT
    }


async def test_a_consent_is_served_under_its_own_version_alone(bank: Sandbox) -> None:
    """Its token at another base path is refused, its resource is unknown there."""
    async with TPP(bank, version=V.V1_2) as old, TPP(bank, version=V.V2_1) as new:
        tokens = await old.consent(BASIC)
        own = await old.own_token()
        at_home, abroad = [await one.get("/accounts", tokens.access) for one in (old, new)]
        assert (at_home.status_code, abroad.status_code) == (200, 403)
        path = f"/account-access-consents/{tokens.consent_id}"
        assert [(await one.get(path, own)).status_code for one in (old, new)] == [200, 400]


async def test_a_version_that_is_not_served_has_no_paths(bank_dir: Path) -> None:
    """Neither its accounts nor its pushed requests; and statements lie under v2.1 only."""
    async with Sandbox(bank_dir, versions=["v2.0"], customers=1) as bank, TPP(bank) as tpp:
        tokens = await tpp.consent()
        account = bank.bank.account_of(bank.users[0]).account_id
        base = bank.addresses.resources + "/open-finance/account-information"
        assert (await tpp.get(f"{base}/v2.1/accounts", tokens.access)).status_code == 404
        assert (await tpp.get(f"/accounts/{account}/statements", tokens.access)).status_code == 404
        found = (await tpp.http.get(bank.discovery_url)).json()["authorization_details_types_supported"]
        assert found == [rar_type(V.V2_0)]


async def test_what_is_only_asked_is_not_granted(bank: Sandbox) -> None:
    """`ReadConsents` is gone from the consent, and a root of v1.2 names itself."""
    async with TPP(bank, version=V.V1_2) as tpp:
        tokens = await tpp.consent(askable(V.V1_2))
        data = tokens.body["authorization_details"][0]["consent"]["Data"]
        assert set(data["Permissions"]) == set(askable(V.V1_2)) - {Permission.ReadConsents}
        assert data["BaseConsentId"] == data["ConsentId"] == tokens.consent_id


def test_a_bank_serves_some_version(tmp_path: Path) -> None:
    """None, or an invented one, is a mistake of whoever starts it."""
    with pytest.raises(ValueError, match=r"versions: name at least one of v1\.2, v2\.0, v2\.1"):
        Sandbox(tmp_path, versions=[])
    with pytest.raises(ValueError, match=r"v3\.0"):
        Sandbox(tmp_path, versions=["v3.0"])


async def test_the_program_serves_the_versions_it_is_told(tmp_path: Path) -> None:
    """`--version`, repeated; the facts tell each base URL, the newest once more."""
    async with SandboxProcess(tmp_path, "--customers", "1", "--version", "v2.0", "--version", "v1.2") as process:
        urls = process.facts["resource_base_urls"]
        assert list(urls) == ["v1.2", "v2.0"]
        assert process.facts["resource_base_url"] == urls["v2.0"]
