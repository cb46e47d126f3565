"""Answers as a broken or hostile bank would send them: the body of a good answer, bent.

Each function takes the JSON of a good answer and gives another body; what is no listing comes back as it was.  The
surgery is done on bytes, since no decent encoder would write such things.

Source: `reliability.md` §6 and scenario 18 of §9.
"""

import gzip
import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from syncworker.simulator.render import ENCODER

DEPTH: Final = 200_000
DIGITS: Final = 5_000
BOMB_MEGABYTES: Final = 256
MEMBERS: Final = 3
_MEGABYTE: Final = b" " * 2**20
_AMOUNT: Final = re.compile(rb'("Amount":)"[\d.]+"')


def foreign_link(body: bytes) -> bytes:
    """`Links.Next` leads to another host and path."""
    return _linked(body, lambda _: "https://elsewhere.example/listing?continuation=1")


def loop_link(body: bytes) -> bytes:
    """`Links.Next` leads to the page itself."""
    return _linked(body, lambda links: links["Self"])


def other_host(body: bytes) -> bytes:
    """`Links.Next`, where there is one, names another host."""
    return _linked(body, lambda links: _moved(links, "https://elsewhere.example"))


def relative_link(body: bytes) -> bytes:
    """`Links.Next`, where there is one, names no host."""
    return _linked(body, lambda links: _moved(links, ""))


def gzip_members(body: bytes, members: int = MEMBERS) -> bytes:
    """The body cut into so many parts, each compressed by itself (RFC 1952 §2.2)."""
    size = max(1, -(-len(body) // members))
    return b"".join(gzip.compress(body[at : at + size]) for at in range(0, len(body), size))


def deep(body: bytes, depth: int = DEPTH) -> bytes:
    """The first item has a member of so many nested arrays."""
    return _first_item(body, lambda item: item[:-1] + b',"Nested":' + b"[" * depth + b"]" * depth + b"}")


def giant(body: bytes, digits: int = DIGITS, *, bare: bool = False) -> bytes:
    """The first amount has so many digits; `bare`: it is a JSON number instead of text."""
    number = b"9" * digits if bare else b'"' + b"9" * digits + b'"'
    return _AMOUNT.sub(lambda found: found[1] + number, body, count=1)


def duplicate_item(body: bytes) -> bytes:
    """The first item comes a second time, at the end of its page, with one member more."""

    def doubled(items: list[bytes]) -> list[bytes]:
        return [*items, items[0][:-1] + b',"Copy":true}'] if items else items

    return _items(body, doubled)


def duplicate_member(body: bytes) -> bytes:
    """The first item has its first member twice, the second time with another value."""

    def doubled(item: bytes) -> bytes:
        name = item[1 : item.index(b":")]
        return item[:-1] + b"," + name + b':"again"}'

    return _first_item(body, doubled)


def forged(body: bytes) -> bytes:
    """A signed answer whose signature is that of another content; what is not signed comes back as it was."""
    head, dot, signature = body.rpartition(b".")
    if not dot or head.count(b".") != 1:
        return body
    return head + dot + (b"B" if signature.startswith(b"A") else b"A") + signature[1:]


@lru_cache(maxsize=2)
def bomb(megabytes: int = BOMB_MEGABYTES) -> bytes:
    """A gzip stream of a few hundred kilobytes that unpacks to so many megabytes of blank JSON."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head, tail = b'{"Data":', b"}"
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(_MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH)  # refers to nothing before it: may be repeated
    end = packer.compress(tail) + packer.flush()
    check = zlib.crc32(head)
    for _ in range(megabytes):
        check = zlib.crc32(_MEGABYTE, check)
    check = zlib.crc32(tail, check)
    size = (len(head) + megabytes * 2**20 + len(tail)) % 2**32
    trailer = check.to_bytes(4, "little") + size.to_bytes(4, "little")
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + start + block * megabytes + end + trailer


def _moved(links: dict[str, str], origin: str) -> str:
    """`Next` at another origin; empty where there is none."""
    return f"{origin}/{links['Next'].split('/', 3)[3]}" if "Next" in links else ""


def _linked(body: bytes, leads: Callable[[dict[str, str]], str]) -> bytes:
    """The body with another `Links.Next`; with none where it leads to nothing."""
    envelope = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if "Links" not in envelope:
        return body
    links: dict[str, str] = msgspec.json.decode(envelope["Links"])
    if following := leads(links):
        links["Next"] = following
    envelope["Links"] = msgspec.Raw(ENCODER.encode(links))
    return ENCODER.encode(envelope)


def _first_item(body: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return _items(body, lambda items: [change(items[0]), *items[1:]] if items else items)


def _items(body: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """The body with the items under `Data` changed: those of its array, or its one object."""
    envelope = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    if "Data" not in envelope:
        return body
    members = msgspec.json.decode(envelope["Data"], type=dict[str, msgspec.Raw])
    for name, raw in members.items():
        text = bytes(raw)
        if text.startswith(b"["):
            items = [bytes(item) for item in msgspec.json.decode(text, type=list[msgspec.Raw])]
            members[name] = msgspec.Raw(b"[" + b",".join(change(items)) + b"]")
        elif text.startswith(b"{"):
            members[name] = msgspec.Raw(change([text])[0])
    envelope["Data"] = msgspec.Raw(_object(members))
    return _object(envelope)


def _object(members: dict[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join(ENCODER.encode(name) + b":" + bytes(raw) for name, raw in members.items()) + b"}"
