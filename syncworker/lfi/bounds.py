"""Bound whatever a bank sends, before anything reads it.

In: bytes and links of an answer.  Out: the same, or a `StandardViolationError` that says which limit broke.
A gzip bomb is stopped while it inflates, nesting and endless numbers before a decoder sees them.  Of a link only the
query is taken: our token goes to the address that the LFI was declared with, and to the path that was asked for.  The
checks of a page of 100 transactions cost about as much as decoding it (0.2 ms), those of a page with few members next
to nothing.

Source: RFC 1952 §2.2; RFC 3986 §4.2 and §5.2; Account Information API v2.1-errata2, `Links`.
"""

import ipaddress
import re
import socket
import zlib
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from syncworker.errors import StandardViolationError, TruncatedError

BODY_BYTES_MAX: Final = 10 * 1024 * 1024
HEADER_BYTES_MAX: Final = 64 * 1024
NESTING_MAX: Final = 50
DIGITS_MAX: Final = 1_000
"""No run of digits this long passes: no field of the standard comes near, and a number of it stalls its reader."""

GZIP_MEMBERS_MAX: Final = 10_000
"""Members of one gzip body.  An empty one takes 20 bytes and the memory of a whole inflater for a moment."""

_DIGITS: Final = frozenset(b"0123456789")
_GZIP: Final = 16 + zlib.MAX_WBITS
_STRUCTURE: Final = b'"[]{}'
_NOT_STRUCTURE: Final = bytes(set(range(256)) - set(_STRUCTURE))
_AS_ARRAYS: Final = bytes.maketrans(b"{}", b"[]")
_ESCAPED: Final = re.compile(rb"\\.", re.DOTALL)
_QUOTED: Final = re.compile(rb'"[^"]*"')
_LINK: Final = re.compile(
    r"(?P<authority>(https?:)?//[A-Za-z0-9.\-:\[\]]+)?"
    r"(?P<path>[A-Za-z0-9\-._~!$&'()*+,;=:@/%]*)"
    r"(?P<query>\?[A-Za-z0-9\-._~!$&'()*+,;=:@/?%]*)?",
    re.IGNORECASE,
)
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_DECODED_MAX: Final = 5
"""How often a segment of a path is decoded: each proxy on the way may do it once."""

_OVERLONG: Final = ((b"\xc0\xae", b"."), (b"\xc0\xaf", b"/"), (b"\xc1\x9c", b"\\"))
"""Overlong encodings of `.`, `/` and `\\`: not valid UTF-8, but some servers decode them."""


class Inflater:
    """Collect a body as it arrives, inflating gzip, and never hold more than `BODY_BYTES_MAX` of it.

    A gzip body is a series of members, one after the other (RFC 1952 §2.2): servers that compress chunk by chunk send
    several.  All of them count against the same limit.  Zero bytes after a member are padding; the RFC allows nothing
    else there, so anything else that is no member is refused.

    Raises:
        StandardViolationError: from any method: unknown encoding, broken gzip, or too large.
    """

    def __init__(self, encoding: str, *, limit: int = BODY_BYTES_MAX) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise StandardViolationError("body: Content-Encoding is neither gzip nor identity")
        self._gzip = zlib.decompressobj(_GZIP) if encoding in ("gzip", "x-gzip") else None
        self._members = 1
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
        while chunk:
            if self._gzip.eof:
                chunk = chunk.lstrip(b"\x00")
                if not chunk:
                    return
                self._gzip = self._next_member()
            try:
                self._keep(self._gzip.decompress(chunk, self._limit - self._size + 1))
            except zlib.error as error:
                where = "" if self._members == 1 else f", from member {self._members} on"
                raise StandardViolationError(f"body: not the gzip it claims to be{where}") from error
            chunk = self._gzip.unused_data

    def finish(self) -> bytes:
        """The whole body, decoded."""
        if self._gzip is not None and self.bytes_in and not self._gzip.eof:
            raise StandardViolationError("body: gzip ends early")
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def _next_member(self) -> "zlib._Decompress":
        self._members += 1
        if self._members > GZIP_MEMBERS_MAX:
            raise TruncatedError(f"body: more than {GZIP_MEMBERS_MAX} gzip members")
        return zlib.decompressobj(_GZIP)

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
"""Each fault as error messages name it."""


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


def home_link(link: str, *, listing_url: str) -> str:
    """The address a `Links.Next` leads to: the listing's own, with the query of the link as it was sent.

    LFIs write the host they know themselves by, or none.  A link with any host, or relative, is taken when the decoded
    segments of its path are those of the listing; nothing of it but its query goes into the address.

    Args:
        listing_url: what the first page was asked for at, without its query.

    Raises:
        TruncatedError: another path, or no plain URI of http or https.  The message does not repeat the link, which
            may hold a continuation token.

    Source: Account Information API v2.1-errata2, `Links`; RFC 3986 §4.2.
    """
    if link.startswith(listing_url) and link[len(listing_url) : len(listing_url) + 1] in ("", "?"):  # nearly every one
        path, query = "", link[len(listing_url) :]
        if _LINK.fullmatch(query):
            return link
    found = _LINK.fullmatch(link)
    if found is None:
        raise TruncatedError("Links.Next: not a plain URI")
    path, query = found["path"], found["query"] or ""
    own = _segments(urlsplit(listing_url).path)
    if _resolved(path, own, absolute=found["authority"] is not None) != own:
        raise TruncatedError(
            "Links.Next: climbs its path" if climbs(path) else "Links.Next: leads to another path than the listing's"
        )
    return listing_url + query


def climbs(path: str) -> bool:
    """Whether a path may be read as another one: by dot segments, empty segments, or separators that are encoded.

    Each segment is looked at as written and as often decoded as changes it, since each server on the way may decode it
    once more.  An empty segment at the end is a slash at the end, and allowed.
    """
    segments = path.split("/")
    return any(not segment for segment in segments[1:-1]) or any(map(_climbs, segments))


def _climbs(segment: str) -> bool:
    """Whether a segment is, at any depth of encoding, `.` or `..`, or holds a separator."""
    said = segment.encode()
    for _ in range(_DECODED_MAX):
        for form, character in _OVERLONG:
            said = said.replace(form, character)
        if b"/" in said or b"\\" in said or said.partition(b";")[0] in (b".", b".."):
            return True
        decoded = unquote_to_bytes(said)
        if decoded == said:
            return False
        said = decoded
    return True


def _segments(path: str) -> list[bytes]:
    """The segments of a path, each decoded once: a slash that is encoded separates nothing."""
    return [unquote_to_bytes(segment) for segment in path.split("/")]


def _resolved(path: str, own: list[bytes], *, absolute: bool) -> list[bytes]:
    """The decoded segments a link's path leads to from a listing's; dot segments stay as they are."""
    if absolute or path.startswith("/"):
        return _segments(path)
    return [*own[:-1], *_segments(path)] if path else own


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
    """Whether the URL's host is this machine or an address outside the public internet, in any spelling of it.

    A name is not resolved here; what it resolves to is looked at when a connection is opened (`lfi.addresses`).
    """
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return not _is_public(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return not _is_public(ipaddress.IPv4Address(socket.inet_aton(host)))  # 127.1, 0x7f000001, 2130706433
    except OSError:
        return False


def is_public_address(address: str) -> bool:
    """Whether a numeric address belongs to one machine of the public internet; what is no address does not."""
    try:
        return _is_public(ipaddress.ip_address(address))
    except ValueError:
        return False


_CARRY_IPV4: Final = tuple(
    # the last 32 bits of these are an address of version 4: compatible, mapped, translated (NAT64)
    ipaddress.IPv6Network(network)
    for network in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
)
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Neither this machine, nor a private, shared, link-local, reserved or multicast address, nor one around such."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None or address.is_site_local or address in _LOCAL_NAT64:
            return False
        if any(address in network for network in _CARRY_IPV4):
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.sixtofour is not None and not _is_public(address.sixtofour):
            return False
        if address.teredo is not None:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)
