"""Read the participants directory: which LFIs there are, what each publishes, and what had to be left out, and why.

In: the document of `GET /participants`, from a URL or a file.  Out: a `Reading`: participants that can be called, and
one reason for each entry that cannot.  The directory is dirty, so nothing in it is believed twice: the version stands
in an endpoint's path and not in `ApiVersion`, the published endpoints are the capabilities, the `Supports…` flags are
not looked at, and an address outside the hosts we trust is no address.

The reading is pure; `fetch` and `load` bring the document, within bounds.

Source: Trust Framework directory, `GET /participants`; `domain.md` §1.3, §11, §14, D-21, trap 7.
"""

import re
import ssl
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from syncworker.errors import (
    LFIUnavailableError,
    RequestError,
    SettingsError,
    StandardViolationError,
)
from syncworker.lfi.addresses import Addresses, Lookup, PrivateHostError, system_lookup
from syncworker.lfi.bounds import (
    BODY_BYTES_MAX,
    check_json,
    fault_of_url,
    has_endless_number,
    is_private_host,
    nests_too_deep,
)
from syncworker.lfi.transport import Answer, ControlTransport
from syncworker.standard.calendar import read_day
from syncworker.standard.values import Slug, local_date
from syncworker.standard.versions import Version

FAMILIES: Final = ("account-information", "account")
"""`ApiFamilyType` of the data API, and its segment in the path: the present name, then the older one."""

HOSTS: Final = ("apihub.openfinance.ae",)
"""Where API Hubs live; a host is trusted when it is one of these or lies below one."""

MILLIFILS_PER_DIRHAM: Final = 100_000
FEE_MAX: Final = 10_000
"""AED; nobody asks more for a page, so a larger figure is a mistake of the directory."""

FETCH_DEADLINE_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 5.0
TEXT_MAX: Final = 200

_ENDPOINT: Final = re.compile(
    r"(?P<base>(?:/[^/]+)*?/(?P<family>account-information|account)/(?P<version>v[0-9]+(?:\.[0-9]+)*))(?P<path>(?:/.*)?)"
)
_FAMILY_AGAIN: Final = re.compile(r"/(?:account-information|account)/v[0-9]")
_PLACEHOLDERS: Final = (
    (re.compile(r"\{account_?id\}", re.IGNORECASE), "{AccountId}"),
    (re.compile(r"\{consent_?id\}", re.IGNORECASE), "{ConsentId}"),
)
_DAY_FIRST: Final = re.compile(r"(\d{1,2})[/.](\d{1,2})[/.](\d{4})")
_NOT_OF_A_SLUG: Final = re.compile(r"[^a-z0-9]+")


class Reason(StrEnum):
    """Why an entry was left out."""

    MALFORMED = "malformed"
    """Not an object, or a member of another kind than published."""
    INACTIVE = "inactive"
    """Its `Status` is not `Active`."""
    NO_ISSUER = "no_issuer"
    NO_DISCOVERY_DOCUMENT = "no_discovery_document"
    NOT_A_URL = "not_a_url"
    """No https URL, or one that carries user information or a fragment."""
    FOREIGN_HOST = "foreign_host"
    """Outside the hosts we trust."""
    PRIVATE_HOST = "private_host"
    """This machine or a private network, and nobody allowed it."""
    RETIRED = "retired"
    """Its `RetirementDate` has come."""
    NO_ACCOUNT_INFORMATION = "no_account_information"
    """Publishes no data API; an insurer, for example."""
    NO_ENDPOINT = "no_endpoint"
    """A data API without any endpoint."""
    FOREIGN_PATH = "foreign_path"
    """An endpoint of the family whose path is not one of the data API."""
    DOUBLED_PATH = "doubled_path"
    """An endpoint with its base path twice in it, or two slashes in a row."""
    UNKNOWN_VERSION = "unknown_version"
    """A version of the standard we do not speak."""
    SECOND_BASE = "second_base"
    """Another base URL for a version that has one with more endpoints."""
    SHARED_ISSUER = "shared_issuer"
    """Another entry has the same `Issuer` and offers more."""
    ANOTHER_ISSUER = "another_issuer"
    """Its discovery document names another issuer."""
    NO_ANSWER = "no_answer"
    """Its discovery document could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """One entry that was left out.

    Attributes:
        organisation: `OrganisationName`, or its id.
        server: the authorisation server's friendly name, or its id; empty when the whole organisation is out.
        part: what of the server is out, as `account-information, 3 endpoints`; empty when it is the whole.
        server_id: empty when there is none.
        said: the reason in words, with the fix when there is one.
    """

    organisation: str
    server: str = ""
    part: str = ""
    server_id: str = ""
    reason: Reason
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """One authorisation server whose data API can be called.

    Attributes:
        server_id: `AuthorisationServerId`: what stays the same when names and addresses change.
        name, logo_uri: `CustomerFriendlyName` and `CustomerFriendlyLogoUri`, what customers are shown.
        issuer, discovery_url: host names in lower case.
        base_urls: base URL of the data API per version, without a slash at its end.
        published: path templates below that base URL, per version: the capabilities.
        over_limit_millifils: the LFI's own price of a transaction page above the free ones, per version; absent: 0.
        account_types, account_sub_types: for whom and for what, when the directory says so.
        deprecated_on: from then on it should not be used for what is new.
        retires_on: from then on it does not answer: migrate before.
        superseded_by: the `AuthorisationServerId` that takes its place.
        notes: what is odd about the entry and does not matter.
    """

    server_id: str
    organisation_id: str
    organisation: str
    name: str
    logo_uri: str | None = None
    issuer: str
    discovery_url: str
    base_urls: Mapping[Version, str]
    published: Mapping[Version, frozenset[str]]
    over_limit_millifils: Mapping[Version, int] = field(default_factory=dict)
    account_types: tuple[str, ...] = ()
    account_sub_types: tuple[str, ...] = ()
    deprecated_on: date | None = None
    retires_on: date | None = None
    superseded_by: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def slug(self) -> Slug:
        """A short name made of the one customers know; not unique."""
        plain = _NOT_OF_A_SLUG.sub("-", self.name.lower()).strip("-") or _NOT_OF_A_SLUG.sub("-", self.server_id.lower())
        return Slug(plain[:63].strip("-") or "lfi")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a participants document holds: who can be called by a short name of their own, and what was left out."""

    found: Mapping[Slug, Participant]
    dropped: Sequence[Dropped]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What an address must be to be called.

    Attributes:
        hosts: a host must be one of these or lie below one.
        allow_private_hosts: loopback and private addresses pass too, whatever `hosts` says: a sandbox's directory.
    """

    hosts: tuple[str, ...] = HOSTS
    allow_private_hosts: bool = False

    def fault_of(self, url: object) -> tuple[Reason, str] | None:
        """What keeps a value from being an address we call; `None` when nothing does."""
        if not isinstance(url, str):
            return Reason.NOT_A_URL, "is not text"
        if fault := fault_of_url(url):
            return Reason.NOT_A_URL, fault
        if is_private_host(url):
            if self.allow_private_hosts:
                return None
            return Reason.PRIVATE_HOST, "points to this machine or a private network; allow private hosts if it should"
        host = (urlsplit(url).hostname or "").rstrip(".")
        if not any(host == known or host.endswith(f".{known}") for known in self.hosts):
            return Reason.FOREIGN_HOST, f"lies at {_text(host)}, outside directory.hosts ({', '.join(self.hosts)})"
        return None


# -- the document ------------------------------------------------------------------------------------------------------


async def fetch(url: str, *, rules: Rules, ca_bundle: Path | None = None, lookup: Lookup = system_lookup) -> object:
    """GET a public JSON document: no client certificate, no redirect, no proxy, at most 10 MB in 30 s.

    Args:
        ca_bundle: roots trusted beside the system's own.
        lookup: resolves the URL's host.

    Raises:
        RequestError: the URL is not https, or points to a private network without leave, by its address or its name.
        SettingsError: the bundle cannot be used.
        LFIUnavailableError: no answer, or another status than 200.
        StandardViolationError: the answer is no JSON within bounds.
        SetupError: the server's certificate does not verify.
    """
    if fault := fault_of_url(url):
        raise RequestError(f"url: {fault}; give the https address of a participants document")
    if is_private_host(url) and not rules.allow_private_hosts:
        raise RequestError(
            "url: points to this machine or a private network; add --allow-private-hosts if it is a sandbox"
        )
    addresses = Addresses(allow_private_hosts=rules.allow_private_hosts, lookup=lookup)
    transport = ControlTransport(
        public_context(ca_bundle), addresses=addresses, connections=1, connect_timeout=CONNECT_TIMEOUT_S
    )
    try:
        answer = await transport.send("GET", url, {}, FETCH_DEADLINE_S)
    except PrivateHostError as error:
        raise RequestError(
            "url: its host's name resolves to this machine or a private network; check DNS, and add "
            "--allow-private-hosts if it is a sandbox"
        ) from error
    except LFIUnavailableError as error:
        raise LFIUnavailableError(f"{urlsplit(url).hostname}: {error}") from error
    finally:
        await transport.close()
    return document_of(answer)


def document_of(answer: Answer) -> object:
    """The JSON of an answer.

    Raises:
        LFIUnavailableError: its status is not 200.
        StandardViolationError: it is no JSON within bounds.
    """
    if answer.status != 200:
        raise LFIUnavailableError(
            f"status {answer.status} where a JSON document was expected; redirects are not followed"
        )
    check_json(answer.body, answer.headers.get("content-type", ""))
    return _decoded(answer.body)


def load(path: Path) -> object:
    """Read a participants document from a file of at most 10 MB.

    Raises:
        RequestError: the file cannot be read, or is no JSON within bounds.
    """
    try:
        with path.open("rb") as file:
            body = file.read(BODY_BYTES_MAX + 1)
    except OSError as error:
        raise RequestError(f"file: cannot read {path}: {error.strerror}; give a participants document") from None
    if len(body) > BODY_BYTES_MAX:
        raise RequestError(f"file: {path} is larger than {BODY_BYTES_MAX} bytes; no participants document is")
    if has_endless_number(body) or nests_too_deep(body):
        raise RequestError(f"file: {path} is no JSON that we read; give a participants document")
    try:
        return _decoded(body)
    except StandardViolationError:
        raise RequestError(f"file: {path} is not JSON; give a participants document") from None


def public_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """TLS for public documents: the system's roots and, beside them, those of a bundle; no certificate of ours.

    Raises:
        SettingsError: the bundle cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"ca_bundle: cannot use {ca_bundle}; give a readable PEM file of roots") from error
    return context


def _decoded(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        raise StandardViolationError("body: not JSON") from None


# -- the reading -------------------------------------------------------------------------------------------------------


def read_participants(document: object, *, rules: Rules, now: datetime) -> Reading:
    """Take everybody out of a participants document whose data API we can call, and say why not of the others.

    Args:
        now: decides what has retired; a day is a day in the UAE.

    Raises:
        StandardViolationError: the document is not an array of organisations.
    """
    if not isinstance(document, list) or (document and not any(_is_organisation(entry) for entry in document)):
        raise StandardViolationError(
            "participants: not an array of organisations; give the document of the directory's GET /participants"
        )
    found: list[Participant] = []
    dropped: list[Dropped] = []
    for number, organisation in enumerate(document, start=1):
        for one in _servers(organisation, number, rules=rules, today=local_date(now)):
            (found if isinstance(one, Participant) else dropped).append(one)  # type: ignore[arg-type]  # by the test
    kept = list(_one_per_issuer(found, dropped))
    return Reading(_named(kept), tuple(dropped))


def verified(participant: Participant, document: object) -> Participant | Dropped:
    """A participant whose discovery document names the same issuer, in that document's spelling of it.

    Host names have no case; everything else of an issuer is compared to the letter.
    """
    issuer = document.get("issuer") if isinstance(document, Mapping) else None
    if isinstance(issuer, str) and fault_of_url(issuer) is None and _lower_host(issuer) == participant.issuer:
        return replace(participant, issuer=issuer)
    return unverified(participant, Reason.ANOTHER_ISSUER, "its discovery document names another issuer")


def unverified(participant: Participant, reason: Reason, said: str) -> Dropped:
    """A participant that is out after all."""
    return Dropped(
        organisation=participant.organisation,
        server=participant.name,
        server_id=participant.server_id,
        reason=reason,
        said=said,
    )


def _is_organisation(entry: object) -> bool:
    return isinstance(entry, Mapping) and "AuthorisationServers" in entry


def _servers(entry: object, number: int, *, rules: Rules, today: date) -> Iterator[Participant | Dropped]:
    if not isinstance(entry, Mapping):
        yield Dropped(organisation=f"entry {number}", reason=Reason.MALFORMED, said="is not an object")
        return
    organisation = _text(entry.get("OrganisationName") or entry.get("OrganisationId") or f"entry {number}")
    if not _is_active(entry):
        yield Dropped(organisation=organisation, reason=Reason.INACTIVE, said=_inactive("the organisation", entry))
        return
    servers = entry.get("AuthorisationServers")
    if not isinstance(servers, list):
        yield Dropped(organisation=organisation, reason=Reason.MALFORMED, said="AuthorisationServers is not an array")
        return
    for server in servers:
        one, parts = _server(server, entry, organisation, rules=rules, today=today)
        yield one
        for part in parts:
            yield replace(
                part, organisation=organisation, server=_name(server), server_id=_text(server["AuthorisationServerId"])
            )


def _server(
    entry: object, organisation: Mapping[str, Any], organisation_name: str, *, rules: Rules, today: date
) -> tuple[Participant | Dropped, Sequence[Dropped]]:
    """One authorisation server: a participant with what is left out of it, or the first reason why it is none."""
    if not isinstance(entry, Mapping):
        said = "an authorisation server is not an object"
        return Dropped(organisation=organisation_name, reason=Reason.MALFORMED, said=said), ()
    notes: list[str] = []
    deprecated_on = _day(entry.get("DeprecatedDate"), "DeprecatedDate", notes)
    retires_on = _day(entry.get("RetirementDate"), "RetirementDate", notes)
    interfaces, parts = _interfaces(entry, rules=rules)
    if fault := _fault(entry, interfaces, parts, retires_on, rules=rules, today=today):
        return Dropped(
            organisation=organisation_name,
            server=_name(entry),
            server_id=_text(entry.get("AuthorisationServerId")),
            reason=fault[0],
            said=fault[1],
        ), ()
    issuer = _lower_host(entry["Issuer"])
    if issuer != entry["Issuer"]:
        notes.append("Issuer has upper-case letters in its host")
    return Participant(
        server_id=_text(entry["AuthorisationServerId"]),
        organisation_id=_text(organisation.get("OrganisationId")),
        organisation=organisation_name,
        name=_name(entry),
        logo_uri=_text(entry.get("CustomerFriendlyLogoUri")) or None,
        issuer=issuer,
        discovery_url=_lower_host(entry["OpenIDDiscoveryDocument"]),
        base_urls={one.version: one.base_url for one in interfaces},
        published={one.version: one.published for one in interfaces},
        over_limit_millifils={one.version: fee for one in interfaces if (fee := _fee(one, notes)) is not None},
        account_types=_flags((entry, organisation), ("AccountType", "AccountTypes")),
        account_sub_types=_flags((entry, *(one.metadata for one in interfaces)), ("AccountSubType", "AccountSubTypes")),
        deprecated_on=deprecated_on,
        retires_on=retires_on,
        superseded_by=_text(entry.get("SupersededByAuthorisationServerId")) or None,
        notes=tuple(notes),
    ), parts


def _fault(
    server: Mapping[str, Any],
    interfaces: Sequence["_Interface"],
    parts: Sequence[Dropped],
    retires_on: date | None,
    *,
    rules: Rules,
    today: date,
) -> tuple[Reason, str] | None:
    """The first thing that keeps an authorisation server from being called; `None` when nothing does."""
    if not _text(server.get("AuthorisationServerId")):
        return Reason.MALFORMED, "has no AuthorisationServerId"
    if not _is_active(server):
        return Reason.INACTIVE, _inactive("the authorisation server", server)
    if retires_on is not None and retires_on <= today:
        return Reason.RETIRED, f"retired on {retires_on.isoformat()}"
    for name, absent in (("Issuer", Reason.NO_ISSUER), ("OpenIDDiscoveryDocument", Reason.NO_DISCOVERY_DOCUMENT)):
        if not server.get(name):
            return absent, f"{name} is empty"
        if fault := rules.fault_of(server[name]):
            return fault[0], f"{name} {fault[1]}"
    if not interfaces:
        return next(((part.reason, part.said) for part in parts), _NO_DATA_API)
    return None


def _name(server: Mapping[str, Any]) -> str:
    return _text(server.get("CustomerFriendlyName")) or _text(server.get("AuthorisationServerId"))


_NO_DATA_API: Final = (Reason.NO_ACCOUNT_INFORMATION, f"publishes no active {' or '.join(FAMILIES)} API")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interface:
    """The data API of one server in one version."""

    family: str
    version: Version
    base_url: str
    published: frozenset[str]
    metadata: Mapping[str, Any]


def _interfaces(server: Mapping[str, Any], *, rules: Rules) -> tuple[list[_Interface], list[Dropped]]:
    """The data APIs of a server, one per version, oldest first, and what was left out of them."""
    every: list[_Interface] = []
    out: list[Dropped] = []
    resources = server.get("ApiResources")
    for resource in resources if isinstance(resources, list) else ():
        if not isinstance(resource, Mapping) or resource.get("ApiFamilyType") not in FAMILIES:
            continue
        family = resource["ApiFamilyType"]
        if not _is_active(resource):
            version = _text(resource.get("ApiVersion"))
            out.append(_part(f"{family} {version}".strip(), Reason.INACTIVE, _inactive("the API", resource)))
            continue
        every += _interfaces_of(resource, family, rules=rules, out=out)
    best: dict[Version, _Interface] = {}
    for one in sorted(every, key=lambda each: (FAMILIES.index(each.family), -len(each.published), each.base_url)):
        held = best.setdefault(one.version, one)
        if held.base_url == one.base_url:
            best[one.version] = replace(held, published=held.published | one.published)
        else:
            said = f"{one.version.value} has another base URL with more endpoints"
            out.append(_part(_counted(one.family, len(one.published)), Reason.SECOND_BASE, said))
    return [best[version] for version in sorted(best, key=lambda version: version.rank)], out


def _interfaces_of(
    resource: Mapping[str, Any], family: str, *, rules: Rules, out: list[Dropped]
) -> Iterator[_Interface]:
    """The endpoints of one resource by version and base URL; faults are counted, one entry per reason."""
    endpoints = resource.get("ApiDiscoveryEndpoints")
    urls = [
        entry.get("ApiEndpoint") if isinstance(entry, Mapping) else None
        for entry in (endpoints if isinstance(endpoints, list) else ())
    ]
    if not urls:
        out.append(_part(family, Reason.NO_ENDPOINT, "publishes no endpoint"))
        return
    faults: Counter[tuple[Reason, str]] = Counter()
    grouped: dict[tuple[Version, str], set[str]] = {}
    for url in urls:
        place = _place(url, rules=rules)
        if len(place) == 2:
            faults[place] += 1
        else:
            grouped.setdefault(place[:2], set()).add(place[2])
    for (reason, said), count in sorted(faults.items()):
        out.append(_part(_counted(family, count), reason, said))
    metadata = resource.get("ApiMetadata")
    for (version, base_url), paths in grouped.items():
        yield _Interface(
            family=family,
            version=version,
            base_url=base_url,
            published=frozenset(paths),
            metadata=metadata if isinstance(metadata, Mapping) else {},
        )


def _place(url: object, *, rules: Rules) -> tuple[Version, str, str] | tuple[Reason, str]:
    """Version, base URL and path template of an endpoint; or what is wrong with it."""
    if fault := rules.fault_of(url):
        return fault[0], f"an endpoint {fault[1]}"
    lower = _lower_host(str(url))
    parts = urlsplit(lower)
    path = parts.path.rstrip("/")
    if "//" in path or len(_FAMILY_AGAIN.findall(path)) > 1:
        return Reason.DOUBLED_PATH, "an endpoint has its base path twice, or two slashes in a row"
    found = _ENDPOINT.fullmatch(path)
    if found is None:
        return Reason.FOREIGN_PATH, "an endpoint's path is not one of the data API"
    if found["version"] not in set(Version):
        return Reason.UNKNOWN_VERSION, f"{_text(found['version'])} is no version we speak ({', '.join(Version)})"
    template = found["path"]
    for placeholder, spelling in _PLACEHOLDERS:
        template = placeholder.sub(spelling, template)
    return Version(found["version"]), f"{parts.scheme}://{parts.netloc}{found['base']}", template or "/"


def _one_per_issuer(found: Iterable[Participant], dropped: list[Dropped]) -> Iterator[Participant]:
    """Of entries that share an issuer the one that offers the newest version and the most endpoints."""
    best: dict[str, Participant] = {}
    for one in sorted(found, key=_offer, reverse=True):
        held = best.setdefault(one.issuer, one)
        if held is not one:
            said = f"shares its Issuer with {held.name} ({held.server_id}), which offers as much or more"
            dropped.append(unverified(one, Reason.SHARED_ISSUER, said))
    yield from sorted(best.values(), key=lambda one: (one.name.lower(), one.server_id))


def _offer(one: Participant) -> tuple[int, int, str]:
    newest = max(one.base_urls, key=lambda version: version.rank)
    return newest.rank, sum(len(paths) for paths in one.published.values()), one.server_id


def _named(participants: Iterable[Participant]) -> dict[Slug, Participant]:
    """Each under a short name of its own; namesakes get the beginning of their id behind it."""
    everybody = list(participants)
    often = Counter(one.slug for one in everybody)
    named: dict[Slug, Participant] = {}
    for one in everybody:
        slug = one.slug
        if often[slug] > 1:
            slug = Slug(f"{slug[:54]}-{_NOT_OF_A_SLUG.sub('', one.server_id.lower())[:8]}")
        while slug in named:
            slug = Slug(f"{slug[:61]}-2")
        named[slug] = one
    return named


# -- members in all their spellings ------------------------------------------------------------------------------------


def _part(part: str, reason: Reason, said: str) -> Dropped:
    return Dropped(organisation="", part=part, reason=reason, said=said)


def _counted(family: str, endpoints: int) -> str:
    return f"{family}, {endpoints} endpoint{'' if endpoints == 1 else 's'}"


def _is_active(entry: Mapping[str, Any]) -> bool:
    return entry.get("Status") == "Active"


def _inactive(what: str, entry: Mapping[str, Any]) -> str:
    return f"{what}'s Status is {_text(entry.get('Status')) or 'not given'}"


def _text(value: object) -> str:
    """A text of the document, fit for a terminal and a table; empty for anything else."""
    if not isinstance(value, str):
        return ""
    return "".join(character if character.isprintable() else " " for character in value[:TEXT_MAX]).strip()


def _lower_host(url: str) -> str:
    """The URL with its scheme and host in lower case: labels of a host have no case."""
    parts = urlsplit(url)
    return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl()


def _day(value: object, name: str, notes: list[str]) -> date | None:
    """A date as the directory writes it: ISO, with or without a time, or day first."""
    if value in (None, ""):
        return None
    text = _text(value)
    try:
        if day_first := _DAY_FIRST.fullmatch(text):
            day, month, year = (int(part) for part in day_first.groups())
            return date(year, month, day)
        return read_day(text[:10])
    except ValueError:
        notes.append(f"{name} cannot be read")
        return None


def _fee(interface: _Interface, notes: list[str]) -> int | None:
    """The over-limit fee of an API in milli-fils; `None` when it announces none."""
    for name in ("OverLimitFees", "DataSharingFees"):
        given = next(iter(_values(interface.metadata.get(name))), "")
        if not given:
            continue
        if (millifils := _millifils(given)) is not None:
            return millifils
        notes.append(f"{name} of {interface.version.value} cannot be read")
    return None


def _millifils(dirhams: str) -> int | None:
    """A price in AED as whole milli-fils; `None` when it is no price."""
    try:
        amount = Decimal(dirhams)
        if not (amount.is_finite() and 0 <= amount <= FEE_MAX):
            return None
        millifils = amount * MILLIFILS_PER_DIRHAM
    except ArithmeticError:
        return None
    return int(millifils) if millifils == int(millifils) else None


def _flags(places: Iterable[Mapping[str, Any]], names: Sequence[str]) -> tuple[str, ...]:
    """The values of a flag, from every place and in every spelling it has: D-21."""
    found: dict[str, None] = {}
    for place in places:
        flags = place.get("Flags", place)
        for name in names:
            found |= dict.fromkeys(_flag_values(flags, name))
    return tuple(found)


def _flag_values(flags: object, name: str) -> Iterator[str]:
    if isinstance(flags, Mapping):
        yield from _values(flags.get(name))
    elif isinstance(flags, list):  # [{"Name": "AccountType", "Value": "Retail", "Status": "Active"}, …]
        for entry in flags:
            if isinstance(entry, Mapping) and entry.get("Name") == name:
                yield from _values([entry])


def _values(value: object) -> Iterator[str]:
    """Texts, however they are wrapped: one, a list, or `{Name, Value, Status}` of which only active ones count."""
    if isinstance(value, list):
        for part in value:
            yield from _values(part)
    elif isinstance(value, Mapping):
        if value.get("Status", "Active") == "Active":
            yield from _values(value.get("Value"))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
    elif text := _text(value):
        yield text
