"""Where an LFI is: declarations and discovery documents that are refused, by field and fix."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncworker.errors import SettingsError, SetupError, StandardViolationError
from syncworker.lfi.directory import LFIConfig, fresh_for, read_discovery
from syncworker.standard.versions import Version
from tests.lfi.raw_bank import RawBank

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
PUBLIC = "https://auth1.bank.apihub.openfinance.ae"
DOCUMENT = {
    "issuer": PUBLIC,
    "authorization_endpoint": "https://bank.example/consent?channel=of",
    "token_endpoint": "https://as1.bank.apihub.openfinance.ae/token",
    "pushed_authorization_request_endpoint": "https://as1.bank.apihub.openfinance.ae/par",
    "jwks_uri": "https://keystore.directory.openfinance.ae/org/application.jwks",
    "registration_endpoint": "https://rs1.bank.apihub.openfinance.ae/tpp-registration",
    "scopes_supported": ["openid", "accounts"],
}


@pytest.fixture
def public(config: LFIConfig) -> LFIConfig:
    return dataclasses.replace(
        config,
        issuer=PUBLIC,
        discovery_url=f"{PUBLIC}/.well-known/openid-configuration",
        base_urls={Version.V2_1: "https://rs1.bank.apihub.openfinance.ae/open-finance/account-information/v2.1"},
        allow_private_hosts=False,
    )


def test_a_discovery_document_gives_its_endpoints(public: LFIConfig) -> None:
    """The authorisation page may be anywhere; what is optional may be absent."""
    found = read_discovery(DOCUMENT, config=public, fetched_at=NOW)

    assert (found.authorization_endpoint, found.token_endpoint, found.revocation_endpoint, found.raw) == (
        "https://bank.example/consent?channel=of",
        "https://as1.bank.apihub.openfinance.ae/token",
        None,
        DOCUMENT,
    )


def test_aliases_for_mutual_tls_are_used_where_a_certificate_is_shown(public: LFIConfig) -> None:
    """RFC 8705 §5: what they name is called there, the rest at plain addresses; what a browser opens is never one."""
    aliases = {
        "token_endpoint": "https://mtls.bank.example/token",
        "pushed_authorization_request_endpoint": "https://mtls.bank.example/par",
        "revocation_endpoint": "https://mtls.bank.example/revoke",
        "introspection_endpoint": "https://mtls.bank.example/introspect",
        "userinfo_endpoint": "https://mtls.bank.example/userinfo",
        "authorization_endpoint": "https://mtls.bank.example/authorize",
        "jwks_uri": "https://mtls.bank.example/jwks",
        "device_authorization_endpoint": 17,
    }
    plain = read_discovery(DOCUMENT, config=public, fetched_at=NOW)

    found = read_discovery(DOCUMENT | {"mtls_endpoint_aliases": aliases}, config=public, fetched_at=NOW)
    some = read_discovery(
        DOCUMENT | {"mtls_endpoint_aliases": {"token_endpoint": aliases["token_endpoint"]}},
        config=public,
        fetched_at=NOW,
    )

    assert {name: getattr(found, name) for name in aliases if hasattr(found, name)} == {
        **{name: url for name, url in aliases.items() if name != "device_authorization_endpoint"},
        "authorization_endpoint": plain.authorization_endpoint,
        "jwks_uri": plain.jwks_uri,
    }
    assert (some.token_endpoint, some.pushed_authorization_request_endpoint) == (
        aliases["token_endpoint"],
        plain.pushed_authorization_request_endpoint,
    )


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        pytest.param({"issuer": PUBLIC + "/"}, SetupError, r"^lfis\.raw\.issuer: .* another issuer", id="issuer"),
        pytest.param({"token_endpoint": None}, StandardViolationError, "has no token_endpoint", id="missing"),
        pytest.param({"jwks_uri": ["x"]}, StandardViolationError, "has no jwks_uri", id="not text"),
        pytest.param(
            {"token_endpoint": "http://as1.bank.example/t"}, StandardViolationError, "token_endpoint .*https", id="http"
        ),
        pytest.param(
            {"jwks_uri": "https://u:p@h.example/j"}, StandardViolationError, "user information", id="user information"
        ),
        pytest.param(
            {"token_endpoint": "https://169.254.169.254/latest"}, SetupError, "allow_private_hosts", id="private host"
        ),
        pytest.param(
            {"revocation_endpoint": "https://localhost/r"}, SetupError, "allow_private_hosts", id="optional, private"
        ),
        pytest.param(
            {"mtls_endpoint_aliases": ["x"]},
            StandardViolationError,
            "mtls_endpoint_aliases of .* is not a JSON object",
            id="aliases that are none",
        ),
        pytest.param(
            {"mtls_endpoint_aliases": {"token_endpoint": "http://as1.bank.example/t"}},
            StandardViolationError,
            r"mtls_endpoint_aliases\.token_endpoint .*https",
            id="alias, http",
        ),
        pytest.param(
            {"mtls_endpoint_aliases": {"userinfo_endpoint": 7}},
            StandardViolationError,
            r"has no mtls_endpoint_aliases\.userinfo_endpoint",
            id="alias, not text",
        ),
        pytest.param(
            {"mtls_endpoint_aliases": {"pushed_authorization_request_endpoint": "https://10.0.0.1/par"}},
            SetupError,
            r"allow_private_hosts: mtls_endpoint_aliases\.pushed",
            id="alias, private host",
        ),
    ],
)
def test_a_wrong_discovery_document_is_refused(
    changes: dict[str, Any], error: type[Exception], says: str, public: LFIConfig
) -> None:
    """What the operator can mend is a SetupError, what the LFI must mend a StandardViolationError."""
    with pytest.raises(error, match=says):
        read_discovery(DOCUMENT | changes, config=public, fetched_at=NOW)


@pytest.mark.parametrize("document", [None, [], "text"])
def test_what_is_no_document_is_refused(document: object, public: LFIConfig) -> None:
    """Some servers answer 200 with anything."""
    with pytest.raises(StandardViolationError, match="not a JSON object"):
        read_discovery(document, config=public, fetched_at=NOW)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"issuer": "http://auth1.bank.example"}, r"lfis\.raw\.issuer: does not start with https"),
        ({"discovery_url": "auth1"}, r"lfis\.raw\.discovery_url: does not start with https"),
        ({"discovery_url": "https://[::1"}, r"lfis\.raw\.discovery_url: is not a URL"),
        ({"base_urls": {Version.V2_0: "https://u@h.example/"}}, r"lfis\.raw\.base_urls\.v2\.0: carries user"),
        ({"base_urls": {Version.V2_0: "https://10.0.0.1/"}}, r"base_urls\.v2\.0: .*allow_private_hosts = true"),
        ({"base_urls": {}}, r"lfis\.raw\.base_urls: is empty"),
        ({"client_id": ""}, r"lfis\.raw\.client_id: is empty"),
        ({"connections": 0}, r"lfis\.raw\.connections: must be greater"),
        ({"call_timeout": -1}, r"lfis\.raw\.call_timeout: must be greater"),
    ],
)
def test_a_wrong_declaration_is_refused_by_field(changes: dict[str, Any], says: str, public: LFIConfig) -> None:
    """Before anything is called."""
    with pytest.raises(SettingsError, match=says):
        dataclasses.replace(public, **changes)


def test_a_version_without_a_base_url_is_named(config: LFIConfig, bank: RawBank) -> None:
    """A consent of v1.2 cannot be read at an LFI declared for v2.1."""
    with pytest.raises(SettingsError, match=r"lfis\.raw\.base_urls: has none for v1\.2"):
        config.base_url(Version.V1_2)


def test_a_declaration_shows_no_key(config: LFIConfig) -> None:
    """Its repr may land in a log; of the signing key it has the key's own short one."""
    assert f"signing_key={config.signing_key!r}" in repr(config)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 900),
        ("public, max-age=60", 60),
        ("Max-Age = 60", 60),
        ("max-age=86400", 900),
        ("no-store", 0),
        ("private, no-cache", 0),
        ("max-age=soon", 900),
        ("s-max-age=3", 900),
    ],
)
def test_documents_are_kept_as_long_as_they_say_and_never_too_long(header: str, seconds: int) -> None:
    """At most 15 minutes."""
    assert fresh_for(header, at_most=timedelta(minutes=15)) == timedelta(seconds=seconds)
