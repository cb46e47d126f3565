"""Where an LFI is: what the operator declared, and what the LFI's discovery document says about itself.

Token and PAR addresses come from the discovery document alone, never from the issuer's name (trap 6); the base URL of
the data API comes from the declaration, because no published document contains it (D-1).

Where the document has `mtls_endpoint_aliases`, their addresses are used: every call of ours shows a certificate.

Source: OpenID Connect Discovery 1.0 §3 and §4.3; RFC 8705 §5; `domain.md` §1.2 – §1.4; `reliability.md` rule 34.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from syncworker.errors import SettingsError, SetupError, StandardViolationError
from syncworker.lfi.bounds import fault_of_url, is_private_host
from syncworker.lfi.keys import SigningKey, TransportCertificate
from syncworker.standard.openings import OpeningVersion
from syncworker.standard.values import Slug
from syncworker.standard.versions import Version

DISCOVERY_AGE_MAX: Final = timedelta(minutes=15)
JWKS_AGE_MAX: Final = timedelta(seconds=300)
_MAX_AGE: Final = re.compile(r"(?:^|,)\s*max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)
_NEVER: Final = re.compile(r"(?:^|,)\s*no-(?:store|cache)\b", re.IGNORECASE)


class SignedAnswers(StrEnum):
    """What to do with `application/jwt`, the signed form of the data and consent APIs' answers (`domain.md` §5.1)."""

    ACCEPT = "accept"
    """Ask for JSON; verify and take a signed answer that comes all the same."""
    REQUIRE = "require"
    """Ask for signed answers, and take no other."""
    REFUSE = "refuse"
    """Ask for JSON, and take no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LFIConfig:
    """One LFI as declared by the operator.

    Attributes:
        issuer: must equal the document's `issuer` to the letter.
        base_urls: base URL of the Account Information API per version, e.g.
            `https://rs1…/open-finance/account-information/v2.1`.
        ca_bundle: PEM file of roots trusted *beside* the system's own; `None` for public hosts.
        allow_private_hosts: whether addresses of this machine or a private network may be called (sandbox).
        connections: data connections kept by one process.
        calls_per_second: the LFI's limit over all workers; the schedule enforces it.
        published: path templates the LFI publishes in each version; `None`, or no entry, when it publishes no list.
        account_types, account_sub_types: the kinds of account it declares to support; empty when it says nothing.
        connect_timeout, call_timeout, token_timeout: seconds; the last two are totals for one attempt.
        par_client_id: whether PAR carries a `client_id` form field beside the assertion (D-9: the schema has none).
        openings: version of the account-opening API new requests are made in; `None`: switched off.
        openings_urls: base URL of that API per version, e.g. `https://rs1…/open-finance/account-opening/v2.1`.
        openings_iss, openings_aud: of the signed request; our client id and the issuer unless given (D-32).
        signed_answers: whether answers of the data and consent APIs may, must or must not be signed.

    Raises:
        SettingsError: a URL that is none, a private host without leave, or a number out of range.
    """

    slug: Slug
    issuer: str
    discovery_url: str
    base_urls: Mapping[Version, str]
    client_id: str
    redirect_uri: str
    signing_key: SigningKey
    transport: TransportCertificate
    ca_bundle: Path | None = None
    allow_private_hosts: bool = False
    connections: int = 8
    calls_per_second: float = 10.0
    published: Mapping[Version, frozenset[str]] | None = None
    account_types: tuple[str, ...] = ()
    account_sub_types: tuple[str, ...] = ()
    connect_timeout: float = 5
    call_timeout: float = 30
    token_timeout: float = 15
    par_client_id: bool = False
    openings: OpeningVersion | None = None
    openings_urls: Mapping[OpeningVersion, str] = field(default_factory=dict)
    openings_iss: str | None = None
    openings_aud: str | None = None
    signed_answers: SignedAnswers = SignedAnswers.ACCEPT

    def __post_init__(self) -> None:
        at = f"lfis.{self.slug}"
        urls = {"issuer": self.issuer, "discovery_url": self.discovery_url}
        urls |= {f"base_urls.{version}": url for version, url in self.base_urls.items()}
        urls |= {f"openings_urls.{version}": url for version, url in self.openings_urls.items()}
        for name, url in urls.items():
            if fault := fault_of_url(url):
                raise SettingsError(f"{at}.{name}: {fault}; give the https address the directory shows")
            if not self.allow_private_hosts and is_private_host(url):
                raise SettingsError(
                    f"{at}.{name}: points to this machine or a private network; "
                    "set allow_private_hosts = true if it is a sandbox"
                )
        if not self.base_urls:
            raise SettingsError(f"{at}.base_urls: is empty; add the base URL the directory shows for each version")
        for name in ("client_id", "redirect_uri"):
            if not getattr(self, name):
                raise SettingsError(f"{at}.{name}: is empty; give the value of the directory's application")
        for name in ("connections", "calls_per_second", "connect_timeout", "call_timeout", "token_timeout"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{at}.{name}: must be greater than zero")

    def published_in(self, version: Version) -> frozenset[str] | None:
        """The path templates the LFI publishes in a version; `None` when it publishes no list."""
        return self.published.get(version) if self.published is not None else None

    def base_url(self, version: Version) -> str:
        """The data API's base URL of a version, without a slash at its end.

        Raises:
            SettingsError: the LFI is not declared for this version.
        """
        try:
            return self.base_urls[version].rstrip("/")
        except KeyError:
            raise SettingsError(
                f"lfis.{self.slug}.base_urls: has none for {version.value}; add the base URL the directory shows"
            ) from None

    def openings_url(self, version: OpeningVersion) -> str:
        """The account-opening API's base URL of a version, without a slash at its end.

        Raises:
            SettingsError: the LFI is not declared for this version.
        """
        try:
            return self.openings_urls[version].rstrip("/")
        except KeyError:
            raise SettingsError(
                f"lfis.{self.slug}.openings_urls: has none for {version.value}; add the base URL the directory shows"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """The checked discovery document of one LFI.

    Endpoints that are called with mutual TLS are those of `mtls_endpoint_aliases`, where it names them.

    Attributes:
        raw: the document as sent.
        fetched_at: when it was read; `fresh_for` after that it is read again.
    """

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    pushed_authorization_request_endpoint: str
    jwks_uri: str
    revocation_endpoint: str | None = None
    registration_endpoint: str | None = None
    introspection_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    raw: Mapping[str, Any] = field(repr=False)
    fetched_at: datetime
    fresh_for: timedelta = DISCOVERY_AGE_MAX


_ENDPOINTS: Final = (
    "authorization_endpoint",
    "token_endpoint",
    "pushed_authorization_request_endpoint",
    "jwks_uri",
    "revocation_endpoint",
    "registration_endpoint",
    "introspection_endpoint",
    "userinfo_endpoint",
)
_BY_BROWSER: Final = frozenset({"authorization_endpoint", "jwks_uri"})
"""Called without a certificate of ours, or not by us: what the aliases say of them is not looked at."""

ALIASES: Final = "mtls_endpoint_aliases"
_OPTIONAL: Final = frozenset(f.name for f in fields(Discovery) if f.default is None)


def read_discovery(
    document: object, *, config: LFIConfig, fetched_at: datetime, fresh_for: timedelta = DISCOVERY_AGE_MAX
) -> Discovery:
    """Check a discovery document against the declaration and take the endpoints out of it.

    Raises:
        SetupError: its `issuer` is not the declared one, or an endpoint lies in a private network without leave.
        StandardViolationError: an endpoint is missing or not https.
    """
    at = f"lfis.{config.slug}"
    if not isinstance(document, Mapping):
        raise StandardViolationError(f"{at}: the discovery document is not a JSON object")
    if document.get("issuer") != config.issuer:
        raise SetupError(
            f"{at}.issuer: the discovery document at discovery_url names another issuer; "
            "compare both with the directory and correct the one that differs"
        )
    found = {name: url for name in _ENDPOINTS if (url := _endpoint(document, name, name, config)) is not None}
    aliases = document.get(ALIASES)
    if aliases is not None and not isinstance(aliases, Mapping):
        raise StandardViolationError(f"{at}: {ALIASES} of the discovery document is not a JSON object")
    for name in _ENDPOINTS:
        if aliases and name not in _BY_BROWSER and aliases.get(name) is not None:
            alias = _endpoint(aliases, name, f"{ALIASES}.{name}", config)
            found |= {name: alias} if alias is not None else {}
    return Discovery(issuer=config.issuer, raw=dict(document), fetched_at=fetched_at, fresh_for=fresh_for, **found)


def _endpoint(document: Mapping[str, Any], name: str, called: str, config: LFIConfig) -> str | None:
    """One checked address of a discovery document, or of its aliases; `None` for one that may be missing and is.

    Args:
        called: the member, as messages name it.
    """
    at, url = f"lfis.{config.slug}", document.get(name)
    if url is None and name in _OPTIONAL:
        return None
    if not isinstance(url, str):
        raise StandardViolationError(f"{at}: the discovery document has no {called}")
    if fault := fault_of_url(url):
        raise StandardViolationError(f"{at}: {called} of the discovery document {fault}")
    if not config.allow_private_hosts and is_private_host(url):
        raise SetupError(
            f"{at}.allow_private_hosts: {called} of the discovery document points to this machine or a private "
            "network; set allow_private_hosts = true if it is a sandbox"
        )
    return url


def fresh_for(cache_control: str, *, at_most: timedelta) -> timedelta:
    """How long an answer may be kept: its `max-age`, never beyond `at_most`; `at_most` when it says nothing."""
    if _NEVER.search(cache_control):
        return timedelta(0)
    found = _MAX_AGE.search(cache_control)
    return min(timedelta(seconds=int(found[1])), at_most) if found else at_most
