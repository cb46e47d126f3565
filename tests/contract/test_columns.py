"""Every leaf of every item of the three versions is a typed column, or stands on a list with the reason why not."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.standard.versions import Version
from syncworker.store.tables import RECORD_TABLES
from syncworker.sync import decode
from syncworker.sync.decode import TYPED
from tests.contract.conftest import Published
from tests.contract.official import Official, Part

pytestmark = pytest.mark.contract

N = ResourceName

FREE: Final = "a free object: the standard does not say what it holds"
BRANCH: Final = "where a bank's branch is; the agent's identification names the bank"
SEALED: Final = "who a person is: it stands in the sealed item alone, as a party's name is all that lists show"
EVIDENCE: Final = "how the bank verified the person: documents and their pictures, in the sealed item alone"

_PERSON: Final = [
    "FullName",
    "GivenName",
    "Surname",
    "MiddleName",
    "Nickname",
    "EmiratesId",
    "EmiratesIdExpiryDate",
    "DateOfBirth",
    "SourceOfIncome",
    "Salary",
    "Nationality",
    "ResidentialAddress.*",
    "MobileNumber",
    "Email",
    "MaritalStatus",
    "Salutation",
    "Language",
    "EmployerName",
    "EmploymentSinceDate",
    "PowerofAttorney",
    "SalaryTransfer",
    "Profession",
    "UpdatedAt",
]
_BUSINESS: Final = [
    "TradeLicenceNumber",
    "TaxIdentificationNumber",
    "DateOfIncorporation",
    "CountryOfIncorporation",
    "CorporateAddress.*",
    "CorporateContactEmail",
    "CorporateContactPhoneNumber",
    "Industry",
    "CompanyWebsite",
]
_READ_CLAIMS: Final = {"FullName", "GivenName", "Surname"}
_PARTY: Final = {
    "PartyNumber": SEALED,
    **{f"VerifiedClaims.Claims.{member}": SEALED for member in (*_PERSON, *_BUSINESS) if member not in _READ_CLAIMS},
    "VerifiedClaims.Verification.*": EVIDENCE,
}

NO_COLUMN: Final[Mapping[ResourceName, Mapping[str, str]]] = {
    N.TRANSACTIONS: {
        "SupplementaryData": FREE,
        "CreditorAgent.PostalAddress.*": BRANCH,
        "DebtorAgent.PostalAddress.*": BRANCH,
    },
    N.BENEFICIARIES: {"SupplementaryData": FREE, "CreditorAgent.PostalAddress.*": BRANCH},
    N.STANDING_ORDERS: {"SupplementaryData": FREE},
    N.PRODUCT: {"Charges.SupplementaryInformation": FREE, "AssetBacked.SupplementaryInformation": FREE},
    N.PARTIES: _PARTY,
    N.ACCOUNT_PARTIES: _PARTY,
}
"""Leaves that are no column, by resource, and why; `.*` is every leaf below."""

IDENTIFIERS: Final = frozenset(
    f"AccountIdentifiers.{member}" for member in ("SchemeName", "Identification", "Name")
)  # rows of `account_identifier`, of `/accounts`; an account's own endpoint shows them once more


def leaves(official: Official, schema: Mapping[str, Any], path: str = "") -> set[str]:
    """Paths of the members of a schema that hold no other members; lists are passed through."""
    while "$ref" in schema:
        schema = _referred(official, schema["$ref"])
    found: set[str] = set()
    for member, inner in schema.get("properties", {}).items():
        found |= leaves(official, inner, f"{path}.{member}" if path else member)
    for word in ("allOf", "oneOf", "anyOf"):
        for inner in schema.get(word, ()):
            found |= leaves(official, inner, path)
    if "items" in schema:
        found |= leaves(official, schema["items"], path)
    deeper = found - {path}
    return deeper or {path}


def _referred(official: Official, reference: str) -> Mapping[str, Any]:
    found: Any = official.document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    assert isinstance(found, dict)
    return found


def leaves_of_items(published: Published, name: ResourceName) -> set[str]:
    """Leaves of a resource's item in any version that has it."""
    resource = BY_NAME[name]
    found: set[str] = set()
    for version in Version:
        if version.rank >= resource.since.rank:
            official = published(version, Part.ACCOUNTS)
            answer = official.response(resource.operation, 200)
            assert answer is not None
            body = leaves(official, next(iter(answer["content"].values()))["schema"])
            prefix = f"Data.{resource.items}."
            found |= {path.removeprefix(prefix) for path in body if path.startswith(prefix)}
    assert found
    return found


def ways(name: ResourceName) -> Iterator[tuple[str, decode.Reader, str]]:
    """Column, reader and path, for each path a column may be read from."""
    for column, (reader, paths) in TYPED[name].columns.items():
        for path in paths.split("|"):
            stem, _, last = path.rpartition(".")
            for member in last.split("+"):
                yield column, reader, f"{stem}.{member}" if stem else member


def read_by(reader: decode.Reader, path: str, leaf: str) -> bool:
    """Whether a reader of this path says of an item what the leaf says."""
    if reader is decode.objects:
        below = leaf == path or leaf.startswith(f"{path}.")
        return below and not any(step.startswith("Supplementary") for step in leaf.split("."))
    if reader is decode.signed_balance:
        return leaf in (f"{path}.Amount.Amount", f"{path}.CreditDebitIndicator")
    return leaf == path


def matches(pattern: str, leaf: str) -> bool:
    return leaf == pattern or (pattern.endswith(".*") and leaf.startswith(pattern[:-1]))


@pytest.mark.parametrize("name", ResourceName)
def test_every_leaf_is_a_column_or_has_a_reason(published: Published, name: ResourceName) -> None:
    """Neither is a leaf without a column and without a decision to have none."""
    columns = list(ways(name))
    keys = set(BY_NAME[name].key)
    identifiers = IDENTIFIERS if name in (N.ACCOUNTS, N.ACCOUNT) else frozenset()
    forgotten = {
        leaf
        for leaf in leaves_of_items(published, name) - keys - identifiers
        if not any(read_by(reader, path, leaf) for _, reader, path in columns)
        and not any(matches(pattern, leaf) for pattern in NO_COLUMN.get(name, {}))
    }
    assert forgotten == set()


@pytest.mark.parametrize("name", ResourceName)
def test_what_has_a_reason_is_there_and_is_no_column(published: Published, name: ResourceName) -> None:
    """A reason for a leaf that went, or that is a column by now, is an old one."""
    found = leaves_of_items(published, name)
    columns = list(ways(name))
    old = {
        pattern
        for pattern in NO_COLUMN.get(name, {})
        for those in [[leaf for leaf in found if matches(pattern, leaf)]]
        if not those or any(read_by(reader, path, leaf) for leaf in those for _, reader, path in columns)
    }
    assert old == set()


@pytest.mark.parametrize("name", ResourceName)
def test_every_column_reads_what_some_version_has(published: Published, name: ResourceName) -> None:
    """Each of a column's paths is a member of some version's item, spelt as there.

    Parties of accounts and of the connection share a table.
    """
    alike = [other for other in ResourceName if RECORD_TABLES[other] is RECORD_TABLES[name]]
    found = set().union(*(leaves_of_items(published, other) for other in alike))
    invented = {
        (column, path)
        for column, reader, path in ways(name)
        if not any(
            leaf == path
            or (reader in (decode.objects, decode.rates, decode.signed_balance) and leaf.startswith(f"{path}."))
            for leaf in found
        )
    }
    assert invented == set()


def test_identifiers_are_those_of_the_standard(published: Published) -> None:
    """Scheme, identification and name: nothing more is told of an identifier of an account."""
    found = {leaf for leaf in leaves_of_items(published, N.ACCOUNTS) if leaf.startswith("AccountIdentifiers.")}
    assert found == IDENTIFIERS
