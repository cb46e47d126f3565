"""Split JSON text into its values without reading them, so that one unreadable value does not cost the others.

A strict reader refuses a whole text for one lone surrogate, one number out of range, one byte that is not UTF-8.
Here only strings, brackets and commas are looked at, at any depth and in one pass; each value is then read by itself.
Text whose brackets or quotes do not balance cannot be split.

It takes several times as long as a strict reader, and is used only for text that one refused.

Source: RFC 8259 §8.2 (an escaped half of a surrogate pair is within the grammar).
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

_SPACE: Final = b" \t\n\r"
_OPENING: Final = frozenset(b"[{")
_CLOSING: Final = frozenset(b"]}")
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
_NAME: Final = re.compile(rb'("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*:', re.DOTALL)
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_REPLACED: Final = rb"\ufffd"


class PartlyReadable(bytes):
    """`Data` that a strict reader refused somewhere: each value in it has to be bounded and read by itself."""

    __slots__ = ()


def elements(text: bytes) -> list[bytes]:
    """The elements of an array, as they stand in it.

    Raises:
        ValueError: not an array, or not to be split.
    """
    return list(_parts(text, b"[", b"]"))


def members(text: bytes) -> dict[str, bytes]:
    """The values of an object's members, as they stand in it; of members with one name, the last.

    Raises:
        ValueError: not an object, or not to be split.
    """
    found: dict[str, bytes] = {}
    for part in _parts(text, b"{", b"}"):
        name = _NAME.match(part)
        if name is None:
            raise ValueError("JSON: a member has no name")
        try:
            found[msgspec.json.decode(name[1], type=str)] = part[name.end() :].strip(_SPACE)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue  # no member that is asked for has such a name
    return found


def with_repaired_text(text: bytes) -> bytes:
    """The text with U+FFFD for each lone surrogate, which is what a half of a pair stands for once it is cut.

    Gives back the very same object when there is none.
    """
    if _SURROGATE.search(text) is None:
        return text
    repaired = _ESCAPE.sub(lambda escape: escape[0] if escape[1] is None else _REPLACED, text)
    return text if repaired == text else repaired


def _parts(text: bytes, opening: bytes, closing: bytes) -> Iterator[bytes]:
    """What lies between the commas of one container, without the space around it."""
    if not text.lstrip(_SPACE).startswith(opening):
        raise ValueError(f"JSON: does not begin with {opening.decode()}")
    depth = begins = 0
    for token in _TOKEN.finditer(text):
        place = token.start()
        mark = text[place]
        if mark in _OPENING:
            depth += 1
            if depth == 1:
                begins = place + 1
        elif mark in _CLOSING:
            depth -= 1
            if depth == 0:
                if not text.startswith(closing, place) or text[place + 1 :].strip(_SPACE):
                    break
                last = text[begins:place].strip(_SPACE)
                if last:
                    yield last
                elif text[:begins].rstrip(_SPACE).endswith(b","):
                    break
                return
        elif mark == 0x22:
            if token.end() - place == 1:
                break  # a string without its end
        elif depth == 1:
            part = text[begins:place].strip(_SPACE)
            if not part:
                break
            yield part
            begins = place + 1
    raise ValueError("JSON: brackets, quotes or commas do not match")
