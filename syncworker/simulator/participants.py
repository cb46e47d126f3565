"""The participants directory as auth1 serves it: this bank, and the kinds of dirt the published directory has.

Only the bank's own entry leads anywhere.  Each other entry shows one fault that was seen in the real document, so that
a reader of it can be watched while it sorts them out; `DIRT` names them.

Source: `domain.md` §1.3 (observed in the export published with the Community Standards site), D-21.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from syncworker.simulator.details import SCHEMAS
from syncworker.standard.resources import RESOURCES
from syncworker.standard.versions import Version

BANK: Final = "Sandbox Bank"
FEE: Final = "0.50"
"""AED for a transaction page above the free ones."""

_CONSENTS: Final = ("/account-access-consents", "/account-access-consents/{ConsentId}")
_FOREIGN: Final = "https://rs1.lfi.example.com/open-finance/account-information/v1.2"
_NAMESPACE: Final = uuid.UUID("6f1f5c0a-6c0d-5c57-9a0e-7d6f6d6a6e01")


def participants(
    *, issuer: str, discovery_url: str, base_urls: Mapping[Version, str], today: date
) -> list[dict[str, Any]]:
    """The answer to `GET /participants`.

    Args:
        base_urls: of this bank's data API.
        today: dates of retirement lie around it.
    """
    bank = _server(BANK, issuer, discovery_url, [_api(version, url) for version, url in base_urls.items()])
    bank["Flags"] = {"AccountType": ["Retail", "SME"]}
    return [_organisation(BANK, [bank]), *_dirt(bank, base_urls, today)]


def _dirt(bank: Mapping[str, Any], base_urls: Mapping[Version, str], today: date) -> Iterable[dict[str, Any]]:
    """One organisation for each fault; what is not said about an entry is as it should be."""
    version, base_url = next(iter(base_urls.items()))
    issuer, discovery_url = str(bank["Issuer"]), str(bank["OpenIDDiscoveryDocument"])
    good = [_api(version, base_url)]

    def one(name: str, apis: Sequence[Mapping[str, Any]] = good, **changes: Any) -> dict[str, Any]:
        return _organisation(name, [_server(name, issuer, discovery_url, apis) | changes])

    elsewhere = f"{issuer}/of-its-own"
    yield one("Inactive Organisation") | {"Status": "Inactive"}
    yield one("Inactive Server", Status="Inactive")
    yield one("Empty Issuer", Issuer="")
    yield one("No Discovery Document", OpenIDDiscoveryDocument=None)
    yield one("Unrelated Issuer", Issuer="https://login.unrelated.example")
    yield one("Plain Http", Issuer=issuer.replace("https://", "http://"))
    yield one("Example Endpoints", [_api(Version.V1_2, _FOREIGN)], Issuer=f"{elsewhere}-1")
    yield one("Doubled Path", [_api(version, f"{base_url}//{_path(base_url)}")], Issuer=f"{elsewhere}-2")
    yield one("Inactive Api", [good[0] | {"Status": "Inactive"}], Issuer=f"{elsewhere}-3")
    yield one("Insurer", [{**good[0], "ApiFamilyType": "insurance"}], Issuer=f"{elsewhere}-4")
    yield one("Unknown Version", [_api(version, base_url.replace(version.value, "v9.0"))], Issuer=f"{elsewhere}-5")
    yield one("Retired", Issuer=f"{elsewhere}-6", RetirementDate=(today - timedelta(days=1)).isoformat())
    yield one("Namesake Of The Issuer", [_api(version, base_url, paths=("/accounts",))])
    yield one("No Endpoints", [good[0] | {"ApiDiscoveryEndpoints": []}], Issuer=f"{elsewhere}-7")
    yield _organisation("Nothing At All", []) | {"AuthorisationServers": None}


DIRT: Final = {
    "Inactive Organisation": "inactive",
    "Inactive Server": "inactive",
    "Empty Issuer": "no_issuer",
    "No Discovery Document": "no_discovery_document",
    "Unrelated Issuer": "foreign_host",
    "Plain Http": "not_a_url",
    "Example Endpoints": "foreign_host",
    "Doubled Path": "doubled_path",
    "Inactive Api": "inactive",
    "Insurer": "no_account_information",
    "Unknown Version": "unknown_version",
    "Retired": "retired",
    "Namesake Of The Issuer": "shared_issuer",
    "No Endpoints": "no_endpoint",
    "Nothing At All": "malformed",
}
"""Every organisation whose server cannot be called, and why: the words `lfis discover` has for it."""


def _organisation(name: str, servers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "OrganisationId": _id(f"organisation {name}"),
        "Status": "Active",
        "OrganisationName": name,
        "LegalEntityName": f"{name} PJSC",
        "RegisteredName": f"{name} PJSC",
        "CreatedOn": "2025-01-01T00:00:00.000Z",
        "CountryOfRegistration": "AE",
        "Country": "AE",
        "Size": "LFI",
        "Flags": {},
        "AuthorisationServers": servers,
        "OrgDomainClaims": [],
        "OrgDomainRoleClaims": [],
    }


def _server(name: str, issuer: str, discovery_url: str, apis: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "AuthorisationServerId": _id(f"server {name} {issuer}"),
        "OrganisationId": _id(f"organisation {name}"),
        "Status": "Active",
        "CustomerFriendlyName": name,
        "CustomerFriendlyLogoUri": "https://assets.example.com/logo.svg",
        "CustomerFriendlyDescription": name,
        "Issuer": issuer,
        "OpenIDDiscoveryDocument": discovery_url,
        "PayloadSigningCertLocationUri": None,
        "DeprecatedDate": None,
        "RetirementDate": None,
        "SupersededByAuthorisationServerId": None,
        "ParentAuthorisationServerId": "",
        "SupportsCiba": False,  # false for all three even where the server is alive
        "SupportsDCR": False,
        "SupportsRedirect": False,
        "AutoRegistrationSupported": False,
        "CreatedAt": "2025-01-01T00:00:00.000Z",
        "Flags": {},
        "ApiResources": list(apis),
        "AuthorisationServerCertifications": [],
    }


def _api(version: Version, base_url: str, *, paths: Sequence[str] | None = None) -> dict[str, Any]:
    """One API with its endpoints; `ApiVersion` says what the real directory says of v1.2 too: anything."""
    endpoints = paths or [
        *(one.path for one in RESOURCES if version.rank >= one.since.rank),
        *_CONSENTS,
    ]
    return {
        "ApiResourceId": _id(f"api {base_url}"),
        "ApiVersion": "1.0.0",
        "ApiFamilyType": "account-information",
        "Status": "Active",
        "CertificationStatus": "Self-Certified",
        "FamilyComplete": True,
        "ApiMetadata": {"OverLimitFees": FEE, "AccountSubType": sorted(SCHEMAS[version].sub_types)},
        "ApiDiscoveryEndpoints": [
            {"ApiDiscoveryId": _id(f"endpoint {base_url}{path}"), "ApiEndpoint": base_url + path} for path in endpoints
        ],
    }


def _path(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def _id(of: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, of))
