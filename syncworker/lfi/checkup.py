"""Walk to an LFI and look at everything a first authorisation needs, changing nothing there.

Certificate and key, each host by name, connection and TLS, the discovery document, the published keys, the clock, the
version new consents would take, and at last a client-credentials token: the one call that proves that the LFI knows us.
Every step is a `Finding`, with the fix where something is wrong; one that goes wrong does not keep the others from
being taken.

Source: `domain.md` §1.1 (not activated yet), §1.4, §1.5, §2.2; FAPI 2.0 Security Profile §5.3; `reliability.md`
rule 35.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from urllib.parse import urlsplit

import aiohappyeyeballs
from aiohappyeyeballs import AddrInfoType

from syncworker.clock import Clock
from syncworker.errors import ClientRejectedError, SyncWorkerError, told
from syncworker.lfi.addresses import ATTEMPT_DELAY_S, Addresses, Lookup, PrivateHostError, alternating, system_lookup
from syncworker.lfi.api import Announce, LFIClient, unannounced
from syncworker.lfi.connector import hand_over
from syncworker.lfi.directory import Discovery, LFIConfig, read_discovery
from syncworker.lfi.participants import document_of
from syncworker.lfi.transport import Answer, CallLog, ControlTransport, mtls_context, no_log
from syncworker.standard.calendar import http_date, of_epoch
from syncworker.standard.versions import highest, rar_type

CLOCK_WARNED: Final = timedelta(seconds=5)
CLOCK_WRONG: Final = timedelta(seconds=10)
"""Assertions are dated back by so much; beyond it the LFI sees them come from the future."""

CERTIFICATE_WARNED: Final = timedelta(days=30)
CONNECT_TIMEOUT_S: Final = 10.0

PROMISES: Final = (
    # member of the discovery document                   what we use of it
    ("token_endpoint_auth_methods_supported", ("private_key_jwt",)),
    ("token_endpoint_auth_signing_alg_values_supported", ("PS256",)),
    ("request_object_signing_alg_values_supported", ("PS256",)),
    ("code_challenge_methods_supported", ("S256",)),
    ("response_types_supported", ("code",)),
    ("grant_types_supported", ("authorization_code", "refresh_token", "client_credentials")),
    ("scopes_supported", ("openid", "accounts")),
)
"""What a discovery document has to offer; one that does not say is given the benefit of the doubt."""


class Verdict(StrEnum):
    """How a step went."""

    GOOD = "good"
    WARN = "warn"
    """Works, or cannot be told from here; a person should know."""
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One step of the walk.

    Attributes:
        check: what was looked at.
        said: what was found, in a line; never a secret.
        fix: what to do; empty when there is nothing.
    """

    check: str
    verdict: Verdict
    said: str
    fix: str = ""


async def walk(
    config: LFIConfig,
    *,
    clock: Clock,
    lookup: Lookup = system_lookup,
    log: CallLog = no_log,
    announce: Announce = unannounced,
) -> AsyncIterator[Finding]:
    """Yield the steps as they are taken.

    Args:
        config: whose keys and certificate could be read, so that much is known to be good.
        lookup: resolves host names.
        log, announce: as for `LFIClient`: the last steps are calls of an ordinary client.
    """
    now = clock.now()
    addresses = Addresses(allow_private_hosts=config.allow_private_hosts, lookup=lookup)
    yield _certificate(config, now)
    yield Finding("signing key", Verdict.GOOD, f"RSA, kid {config.signing_key.kid}")
    context = mtls_context(config)
    yield await _host("discovery host", config.discovery_url, addresses, context, now)
    answer, found = await _discovery(config, addresses, context)
    discovery = None
    if answer is not None:
        yield _clock(answer, clock.now())
        discovery, found = _document(answer, config, now)
    for finding in found:
        yield finding
    for check, url in _hosts(config, discovery):
        yield await _host(check, url, addresses, context, now)
    if discovery is None:
        return
    client = LFIClient(config, clock=clock, lookup=lookup, log=log, announce=announce)
    try:
        yield await _keys(client)
        yield await _token(client)
    finally:
        await client.close()


# -- before anything is sent -------------------------------------------------------------------------------------------


def _certificate(config: LFIConfig, now: datetime) -> Finding:
    left = config.transport.expires_at - now
    said = f"belongs to its key, ends {config.transport.expires_at:%Y-%m-%d}, in {left.days} days"
    if left > CERTIFICATE_WARNED:
        return Finding("transport certificate", Verdict.GOOD, said)
    return Finding("transport certificate", Verdict.WARN, said, "request its successor from the directory now")


# -- hosts -------------------------------------------------------------------------------------------------------------


def _hosts(config: LFIConfig, discovery: Discovery | None) -> Iterator[tuple[str, str]]:
    """Every further address by what it is for; hosts that were looked at, or serve two purposes, once."""
    urls: list[tuple[str, str]] = []
    if discovery is not None:
        urls += [
            ("token host", discovery.token_endpoint),
            ("PAR host", discovery.pushed_authorization_request_endpoint),
            ("JWKS host", discovery.jwks_uri),
            (_CONSENT_PAGE, discovery.authorization_endpoint),
        ]
    urls += [(f"data host {version.value}", config.base_url(version)) for version in config.base_urls]
    purposes: dict[tuple[str, int], list[tuple[str, str]]] = {}
    for check, url in urls:
        purposes.setdefault(_address(url), []).append((check, url))
    purposes.pop(_address(config.discovery_url), None)
    for served in purposes.values():
        yield ", ".join(check for check, _ in served), served[0][1]


_CONSENT_PAGE: Final = "consent page host"


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 443


async def _host(check: str, url: str, addresses: Addresses, context: ssl.SSLContext, now: datetime) -> Finding:
    """Name, connection and TLS of one host.  A consent page that only customers reach is no fault."""
    host, port = _address(url)
    bad = Verdict.WARN if check == _CONSENT_PAGE else Verdict.BAD
    try:
        found = await asyncio.wait_for(addresses.of(host, port), CONNECT_TIMEOUT_S)
    except PrivateHostError:
        fix = "check DNS; set allow_private_hosts = true if it is a sandbox"
        return Finding(check, bad, f"{host}: resolves to this machine or a private network", fix)
    except OSError:
        return Finding(check, bad, f"{host}: its name does not resolve", "compare it with the directory; check DNS")
    try:
        tls = await asyncio.wait_for(_handshake(host, alternating(found), port, context), CONNECT_TIMEOUT_S)
    except TimeoutError:
        return Finding(check, bad, f"{host}:{port}: no connection within {CONNECT_TIMEOUT_S:.0f} s", _REACH)
    except ssl.SSLCertVerificationError as error:
        said = f"{host}:{port}: its certificate does not verify ({error.verify_message})"
        return Finding(check, bad, said, "check the host name; give the roots of a private CA as ca_bundle")
    except ssl.SSLError as error:
        fix = "the server wants TLS 1.2 or newer and a certificate it knows: check transport_certificate"
        return Finding(check, bad, f"{host}:{port}: TLS failed ({error.reason or 'no reason given'})", fix)
    except OSError as error:
        return Finding(check, bad, f"{host}:{port}: no connection ({type(error).__name__})", _REACH)
    version, ends_at = tls
    said = f"{host}:{port}: {version}, its certificate ends {ends_at:%Y-%m-%d}"
    if ends_at - now < timedelta(days=7):
        return Finding(check, Verdict.WARN, said, "tell the LFI that its certificate ends")
    return Finding(check, Verdict.GOOD, said)


_REACH: Final = "check the address, the firewall between, and that nothing but a direct connection is needed"


async def _handshake(host: str, addresses: Sequence[str], port: int, context: ssl.SSLContext) -> tuple[str, datetime]:
    """Connect to the first address that answers, shake hands, leave: TLS version, end of the server's certificate."""
    infos: list[AddrInfoType] = [
        (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
        for address in addresses
    ]
    connected = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=ATTEMPT_DELAY_S)
    try:
        _, writer = await asyncio.open_connection(sock=connected, ssl=context, server_hostname=host)
    finally:
        hand_over(connected, asyncio.get_running_loop())
    try:
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = tls.getpeercert() or {}
        ends = ssl.cert_time_to_seconds(str(certificate.get("notAfter", "Jan  1 00:00:00 1970 GMT")))
        return tls.version() or "TLS", of_epoch(ends)
    finally:
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), 1.0)


# -- the discovery document --------------------------------------------------------------------------------------------


async def _discovery(
    config: LFIConfig, addresses: Addresses, context: ssl.SSLContext
) -> tuple[Answer | None, Sequence[Finding]]:
    transport = ControlTransport(context, addresses=addresses, connections=1, connect_timeout=config.connect_timeout)
    try:
        return await transport.send("GET", config.discovery_url, {}, config.token_timeout), ()
    except SyncWorkerError as error:
        return None, (
            Finding("discovery document", Verdict.BAD, str(error), "compare discovery_url with the directory"),
        )
    finally:
        await transport.close()


def _document(answer: Answer, config: LFIConfig, now: datetime) -> tuple[Discovery | None, list[Finding]]:
    """The document's members, its promises, and the version a new consent would take."""
    check = "discovery document"
    try:
        discovery = read_discovery(document_of(answer), config=config, fetched_at=now)
    except SyncWorkerError as error:
        fix = "compare issuer and discovery_url with the directory; then the LFI must act"
        return None, [Finding(check, Verdict.BAD, str(error), fix)]
    found = [
        Finding(check, Verdict.GOOD, f"issuer as declared, every endpoint there, token {discovery.token_endpoint}")
    ]
    found += _promises(discovery.raw)
    return discovery, [*found, _version(config, discovery.raw)]


def _promises(document: Mapping[str, Any]) -> Iterator[Finding]:
    check = "what it offers"
    silent = []
    lacks = []
    for member, needed in PROMISES:
        offered = document.get(member)
        if not isinstance(offered, list):
            silent.append(member)
        elif missing := [value for value in needed if value not in offered]:
            lacks.append(f"{member} lacks {', '.join(missing)}")
    if lacks:
        yield Finding(check, Verdict.BAD, "; ".join(lacks), "the LFI must offer it; ask them which it takes instead")
    elif silent:
        yield Finding(check, Verdict.WARN, f"does not say {', '.join(silent)}", "ask the LFI when calls are refused")
    else:
        yield Finding(check, Verdict.GOOD, "private_key_jwt and request objects with PS256, PKCE with S256")
    if document.get("authorization_response_iss_parameter_supported") is not True:
        said = "does not promise iss in redirects; a redirect without it is refused"
        yield Finding("redirects", Verdict.WARN, said, "ask the LFI to send iss (RFC 9207)")


def _version(config: LFIConfig, document: Mapping[str, Any]) -> Finding:
    types = document.get("authorization_details_types_supported")
    version = highest(config.base_urls, types if isinstance(types, list) else None)
    if version is None:
        said = f"none of {', '.join(sorted(config.base_urls))} is among authorization_details_types_supported"
        return Finding("version", Verdict.BAD, said, "declare a base URL of a version that is")
    unsaid = "" if isinstance(types, list) else "; the document does not say which it takes"
    return Finding("version", Verdict.GOOD, f"new consents take {version.value} ({rar_type(version)}){unsaid}")


def _clock(answer: Answer, now: datetime) -> Finding:
    moment = http_date(answer.headers.get("date", ""))
    if moment is None:
        return Finding("clock", Verdict.WARN, "the LFI sends no Date", "compare this machine's clock by other means")
    ahead = (now - moment).total_seconds()
    ahead -= min(max(ahead, 0.0), 1.0)  # Date leaves out the fraction of its second
    said = (
        f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the LFI's" if abs(ahead) >= 1 else "as the LFI's"
    )
    off = timedelta(seconds=abs(ahead))
    verdict = Verdict.BAD if off > CLOCK_WRONG else Verdict.WARN if off > CLOCK_WARNED else Verdict.GOOD
    return Finding("clock", verdict, said, "" if verdict is Verdict.GOOD else "set this machine's clock by NTP")


# -- what only a registered client is given ----------------------------------------------------------------------------


async def _keys(client: LFIClient) -> Finding:
    try:
        kids = await client.published_kids()
    except SyncWorkerError as error:
        return Finding("published keys", Verdict.BAD, told(error), "the LFI must publish its keys at jwks_uri")
    if not kids:
        fix = "the LFI must publish an RSA key of 2048 bits or more"
        return Finding("published keys", Verdict.BAD, "no signature key we can use", fix)
    return Finding("published keys", Verdict.GOOD, f"{len(kids)} for signatures: kid {', '.join(kids)}")


async def _token(client: LFIClient) -> Finding:
    try:
        answer = await client.prove_registration()
    except ClientRejectedError as error:
        fix = (
            "register with the LFI and wait until it has activated the registration; compare client_id and signing_kid"
        )
        return Finding("client-credentials token", Verdict.BAD, told(error), fix)
    except SyncWorkerError as error:
        fix = "look at the lines above first; then ask the LFI"
        return Finding("client-credentials token", Verdict.BAD, told(error), fix)
    return Finding("client-credentials token", Verdict.GOOD, f"given, good for {answer.expires_in} s: the LFI knows us")
