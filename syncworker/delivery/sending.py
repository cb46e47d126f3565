"""Send one webhook: sign it, POST it to a checked address, and read its status.

The body is JSON, `{"type": …, "timestamp": …, "data": {…}}`, and the headers are those of Standard Webhooks:
`webhook-id`, `webhook-timestamp` (of this attempt) and `webhook-signature`, one signature for each living secret.

Redirects are not followed.  Host names are resolved once and the connection goes to the address that was checked, so
that an endpoint cannot lead into our own network.  Of the answer only the status and `Retry-After` are read.

Source: Standard Webhooks 1.0.0, "Webhook headers", "Signature scheme".
"""

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import standardwebhooks
from pydantic import SecretStr

from syncworker import __version__
from syncworker.clock import Clock
from syncworker.errors import RequestError, SettingsError
from syncworker.lfi.addresses import Addresses, CheckedTransport, Lookup, PrivateHostError, system_lookup
from syncworker.lfi.bounds import is_public_address
from syncworker.lfi.oauth import retry_after
from syncworker.standard.json_text import instant_text, json_bytes

URL_MAX: Final = 2048
USER_AGENT: Final = f"syncworker/{__version__}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint said.

    Attributes:
        status: of HTTP; `None` when no answer came.
        error: a stable code when the message was not taken.
        retry_after_s: seconds it asked us to wait.
    """

    status: int | None
    error: str | None = None
    retry_after_s: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the endpoint has the message."""
        return self.error is None

    @property
    def gone(self) -> bool:
        """Whether the endpoint asks to be sent nothing any more."""
        return self.status == httpx.codes.GONE


def body_of(kind: str, data: Mapping[str, Any], *, at: datetime) -> bytes:
    """The body of a message, the same bytes with every attempt.

    Args:
        at: when what it tells happened.
    """
    return json_bytes({"type": kind, "timestamp": instant_text(at), "data": data})


def headers_of(secrets: Sequence[SecretStr], message_id: str, body: bytes, *, at: datetime) -> dict[str, str]:
    """The headers of one attempt.

    Args:
        secrets: each signs.
        at: of the attempt; to the second.
    """
    text = body.decode()
    signed = [standardwebhooks.Webhook(one.get_secret_value()).sign(message_id, at, text) for one in secrets]
    return {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signed),
    }


def check_url(url: str, *, allow_private_hosts: bool) -> str:
    """An endpoint's URL.

    Raises:
        RequestError: it is none that messages may be sent to; says what would be right.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise RequestError("url: is no URL; give https://host/path") from None
    if len(url) > URL_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise RequestError(f"url: must be at most {URL_MAX} printable characters of ASCII")
    if not host or parts.username is not None or parts.fragment:
        raise RequestError("url: give https://host/path, without user name and fragment")
    if parts.scheme != "https" and not (parts.scheme == "http" and allow_private_hosts):
        raise RequestError("url: must begin with https://; http:// needs webhooks.allow_private_hosts = true")
    if not allow_private_hosts and _is_private(host):
        raise RequestError(
            "url: leads to this machine or a private network; set webhooks.allow_private_hosts = true if it may"
        )
    return url


def _is_private(host: str) -> bool:
    """Whether a host is an address outside the public internet, or this machine by name; other names are resolved."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return not is_public_address(host)


class Posting:
    """POSTs to endpoints.  Lives on one event loop; `close()` it there."""

    def __init__(
        self,
        *,
        clock: Clock,
        timeout_s: float,
        allow_private_hosts: bool = False,
        ca_bundle: Path | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        """Opens nothing yet.

        Args:
            timeout_s: for one POST as a whole.
            ca_bundle: PEM file of roots trusted beside the system's own.
            lookup: resolves host names.

        Raises:
            SettingsError: the bundle cannot be used.
        """
        for name in ("httpx", "httpcore"):  # at INFO they print full URLs, which may hold a key
            logging.getLogger(name).setLevel(logging.WARNING)
        context = ssl.create_default_context()
        try:
            if ca_bundle is not None:
                context.load_verify_locations(cafile=ca_bundle)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"webhooks.ca_bundle: cannot use {ca_bundle}; give a PEM file of roots") from error
        self._clock = clock
        self._timeout_s = timeout_s
        self._client = httpx.AsyncClient(
            transport=CheckedTransport(
                Addresses(allow_private_hosts=allow_private_hosts, lookup=lookup),
                context=context,
                limits=httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=30.0),
            ),
            trust_env=False,
            follow_redirects=False,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
            timeout=None,  # noqa: S113  the deadline around each POST is the timeout
        )

    async def send(self, url: str, body: bytes, *, message_id: str, secrets: Sequence[SecretStr]) -> Answer:
        """One attempt; never raises for what the endpoint or the network does."""
        headers = headers_of(secrets, message_id, body, at=self._clock.now())
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", url, content=body, headers=headers) as response,
            ):
                status, told = response.status_code, response.headers
        except PrivateHostError:
            return Answer(None, "private_address")
        except TimeoutError:
            return Answer(None, "timeout")
        except httpx.ConnectError:
            return Answer(None, "not_connected")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            return Answer(None, "lost")
        if 200 <= status < 300:
            return Answer(status)
        code = "redirected" if 300 <= status < 400 else "gone" if status == httpx.codes.GONE else "refused"
        if status >= 500:
            code = "unavailable"
        return Answer(status, code, retry_after(told, now=self._clock.now()))

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
