"""Bound whatever a bank sends, before anything reads it.

In: bytes and links of an answer.  Out: the same, or a `StandardViolationError` that says which limit broke.
A gzip bomb is stopped while it inflates, nesting and endless numbers before a decoder sees them, and a link that
leads away from the LFI before our token follows it.  The checks of a page of 100 transactions cost about as much as
decoding it (0.2 ms), those of a page with few members next to nothing.

Source: `reliability.md` rules 33 and 34; `domain.md` §5.1 (pagination), traps 29 and 42.
"""

import ipaddress
import re
import socket
import zlib
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from syncworker.errors import StandardViolationError, TruncatedError

BODY_BYTES_MAX: Final = 10 * 1024 * 1024
HEADER_BYTES_MAX: Final = 64 * 1024
NESTING_MAX: Final = 50
DIGITS_MAX: Final = 1_000
"""No run of digits this long passes: no field of the standard comes near, and a number of it stalls its reader."""

_DIGITS: Final = frozenset(b"0123456789")
_GZIP: Final = 16 + zlib.MAX_WBITS
_STRUCTURE: Final = b'"[]{}'
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(_STRUCTURE))
_AS_ARRAYS: Final = bytes.maketrans(b"{}", b"[]")
_ESCAPED: Final = re.compile(rb"\\.", re.DOTALL)
_QUOTED: Final = re.compile(rb'"[^"]*"')
_URI: Final = re.compile(
    r"https://[A-Za-z0-9.\-:\[\]]+(/[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*)?(\?[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*)?"
)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_DOTS: Final = re.compile(r"/(\.|%2e){1,2}(/|\?|$)", re.IGNORECASE)


class Inflater:
    """Collect a body as it arrives, inflating gzip, and never hold more than `BODY_BYTES_MAX` of it.

    Raises:
        StandardViolationError: from any method: unknown encoding, broken gzip, or too large.
    """

    def __init__(self, encoding: str, *, limit: int = BODY_BYTES_MAX) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise StandardViolationError("body: Content-Encoding is neither gzip nor identity")
        self._gzip = zlib.decompressobj(_GZIP) if encoding in ("gzip", "x-gzip") else None
        self._parts: list[bytes] = []
        self._limit = limit
        self._size = 0
        self.bytes_in = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes from the wire."""
        self.bytes_in += len(chunk)
        if self.bytes_in > self._limit:
            raise TruncatedError(f"body: larger than {self._limit} bytes")
        if self._gzip is None:
            self._keep(chunk)
            return
        if self._gzip.eof:  # bytes behind the end of the gzip stream carry nothing
            return
        try:
            self._keep(self._gzip.decompress(chunk, self._limit - self._size + 1))
        except zlib.error as error:
            raise StandardViolationError("body: not the gzip it claims to be") from error

    def finish(self) -> bytes:
        """The whole body, decoded."""
        if self._gzip is not None and self.bytes_in and not self._gzip.eof:
            raise StandardViolationError("body: gzip ends early")
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _keep(self, decoded: bytes) -> None:
        self._size += len(decoded)
        if self._size > self._limit:
            raise TruncatedError(f"body: larger than {self._limit} bytes when decoded")
        if decoded:
            self._parts.append(decoded)


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers of more than 64 KB in all."""
    if sum(map(len, headers)) + sum(map(len, headers.values())) > HEADER_BYTES_MAX:
        raise StandardViolationError(f"headers: larger than {HEADER_BYTES_MAX} bytes")


@lru_cache(maxsize=64)  # a server has one or two
def media_type_of(content_type: str) -> str:
    """A `Content-Type` without its parameters, in lower case (trap 42)."""
    return content_type.partition(";")[0].strip().lower()


def check_json(body: bytes, content_type: str) -> bytes:
    """Refuse what is not JSON by its media type, not UTF-8, nested too deep, or carrying an endless number.

    Parameters of the media type are ignored; `application/jwt` is no JSON: it is opened before (`jose.open_answer`).

    Returns: the body, without the byte order mark some servers put in front of it (RFC 8259 §8.1).
    """
    body = json_body(body, content_type)
    fault = fault_of_json(body)
    if fault is not None:
        raise StandardViolationError(f"body: {FAULTS[fault]}")
    return body


def json_body(body: bytes, content_type: str) -> bytes:
    """The body of an answer whose media type is JSON, without a byte order mark; nothing in it is looked at.

    Raises:
        StandardViolationError: another media type.
    """
    media_type = media_type_of(content_type)
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise StandardViolationError("body: Content-Type is not JSON")
    return body.removeprefix(_BYTE_ORDER_MARK)


class Fault(StrEnum):
    """What keeps JSON text from a decoder."""

    NOT_UTF_8 = "not_utf_8"
    NUMBER_TOO_LONG = "number_too_long"
    NESTED_TOO_DEEP = "nested_too_deep"


FAULTS: Final = {
    Fault.NOT_UTF_8: "not UTF-8",
    Fault.NUMBER_TOO_LONG: f"a number of more than {DIGITS_MAX // 2} digits",
    Fault.NESTED_TOO_DEEP: f"nested deeper than {NESTING_MAX}",
}
"""Each in words."""


def fault_of_json(text: bytes) -> Fault | None:
    """What breaks a bound, in a whole body or in one value of it."""
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return Fault.NOT_UTF_8
    if has_endless_number(text):
        return Fault.NUMBER_TOO_LONG
    return Fault.NESTED_TOO_DEEP if nests_too_deep(text) else None


def has_endless_number(body: bytes, *, digits_max: int = DIGITS_MAX) -> bool:
    """Whether a run of `digits_max` digits stands anywhere; never true for runs of less than half of that.

    A run that long fills one aligned block of half its length.  Only blocks that end in a digit are looked at, and
    `isdigit` leaves one at its first other byte.
    """
    block = digits_max // 2
    if len(body) < block:
        return False
    ends = body[block - 1 :: block]
    return any(body[at * block : (at + 1) * block].isdigit() for at, end in enumerate(ends) if end in _DIGITS)


def nests_too_deep(body: bytes, *, nesting_max: int = NESTING_MAX) -> bool:
    """Whether arrays and objects nest deeper than allowed; brackets inside strings do not count.

    Works by deletion, at the speed of C: everything but quotes and brackets goes, strings go, objects count as
    arrays (a decoder will mind the difference), then the innermost pairs go once per level.  What is left after
    `nesting_max` rounds was deeper, or never balanced.  Too few brackets to nest so deep need no second look.
    """
    rest = body.translate(_AS_ARRAYS, _NOT_STRUCTURE)
    if rest.count(b"[") <= nesting_max:
        return False
    if b"\\" in body:
        rest = _ESCAPED.sub(b"", body).translate(_AS_ARRAYS, _NOT_STRUCTURE)
    rest = rest.replace(b'""', b"")  # two neighbours change no one's parity
    if b'"' in rest:
        rest = _QUOTED.sub(b"", rest)
    for _ in range(nesting_max):
        if not rest:
            return False
        rest = rest.replace(b"[]", b"")
    return bool(rest)


def home_link(link: str, *, base_url: str) -> str:
    """Give back a `Links.Next` verbatim if it stays with the LFI: same scheme, host, port and base path.

    Raises:
        StandardViolationError: it leads elsewhere, carries user info or dot segments, or is no plain https URI.
            The message does not repeat the link, which may hold a continuation token.
    """
    if not _URI.fullmatch(link) or _DOTS.search(link):
        raise TruncatedError("Links.Next: not a plain absolute https URI")
    if link.startswith(f"{base_url}/"):
        return link  # as nearly every one: base URL, then a path below it
    if _origin(link) != _origin(base_url):
        raise TruncatedError("Links.Next: leads to another host; the token stays at home")
    path, base_path = urlsplit(link).path, urlsplit(base_url).path.rstrip("/")
    if path != base_path and not path.startswith(base_path + "/"):
        raise TruncatedError("Links.Next: leads out of the LFI's base path")
    return link


def fault_of_url(url: str) -> str | None:
    """Say what keeps a URL from being an endpoint of an LFI; `None` when nothing does."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme != "https":
        return "does not start with https://"
    if not host or port == 0 or not url.isascii() or any(character.isspace() for character in url):
        return "is not a URL"
    if parts.username is not None or parts.password is not None:
        return "carries user information"
    if parts.fragment:
        return "carries a fragment"
    return None


def is_private_host(url: str) -> bool:
    """Whether the URL's host is this machine or an address outside the public internet, in any spelling of it."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        pass
    try:
        return not ipaddress.IPv4Address(socket.inet_aton(host)).is_global  # 127.1, 0x7f000001, 2130706433
    except OSError:
        return False


def _origin(url: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or 443
    except ValueError as error:
        raise TruncatedError("Links.Next: not a plain absolute https URI") from error
