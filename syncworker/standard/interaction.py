"""Interaction ids: what we call each call by, so that a bank can name it to us, and we find it again.

Each is a UUID of version 4 (RFC 9562 §5.4) sent as `x-fapi-interaction-id`.  They are unique and look like chance; they
are not secret.  The first 48 bits hold a mark: the second the id, or its run, began, and 16 bits of chance, mixed by a
bijection.  All ids of one run share its mark, and marks read back are in the order of time, so an index of marks is
written at its end, and an id leads to its run without an index of ids.

Source: Account Information API v2.1-errata2, header `x-fapi-interaction-id`.
"""

import random
import re
from datetime import datetime
from typing import Final

_UUID_4: Final = 4 << 76 | 0b10 << 62
"""Version and variant of a random UUID, where they stand in its 128 bits."""

_REST: Final = (1 << 80) - 1 ^ (0xF << 76 | 0b11 << 62)
"""The bits below the mark that are chance."""

_HEAD_SHAPE: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}")
_SHAPE: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MARK_BITS: Final = 48
_CHANCE_BITS: Final = 16
_TAIL_BYTES: Final = 10
_HEAD: Final = 13
_MARKS: Final = (1 << _MARK_BITS) - 1
_FACTORS: Final = (0xD6E8FEB86659, 0x9E3779B97F4B)
"""Odd, so that multiplication by them can be undone."""

_UNDONE: Final = tuple(pow(factor, -1, 1 << _MARK_BITS) for factor in reversed(_FACTORS))


def mark_of(moment: datetime, chance: int = 0) -> int:
    """A mark: the second of an instant, and 16 bits of chance.

    Args:
        moment: aware; seconds before 1970 or after 2106 come round again.
        chance: 0 to 65,535; with 0 it is the lowest mark of its second.
    """
    return (int(moment.timestamp()) << _CHANCE_BITS | chance) & _MARKS


def new_mark(moment: datetime) -> int:
    """A mark for ids that begin now."""
    return mark_of(moment, random.getrandbits(_CHANCE_BITS))


def mark_in(interaction_id: str) -> int | None:
    """The mark in an id; `None` when it is not written as a UUID of version 4.

    Every such UUID has one; whether we made it only a look at what is on record says.
    """
    text = interaction_id.lower()
    if not _SHAPE.fullmatch(text):
        return None
    return _unmixed(int(text[:8] + text[9:13], 16))


def mark_in_head(text: str) -> int | None:
    """The mark in the first thirteen characters of an id, or in a whole one; `None` when it is neither."""
    head = text.lower()
    return _unmixed(int(head[:8] + head[9:], 16)) if _HEAD_SHAPE.fullmatch(head) else mark_in(head)


def second_of(mark: int) -> int:
    """The second since 1970 in a mark."""
    return mark >> _CHANCE_BITS


class Interactions:
    """Makes the interaction ids of calls that belong together: a run's, retries included."""

    __slots__ = ("_first", "mark")

    def __init__(self, moment: datetime) -> None:
        """Draws a mark.

        Args:
            moment: when they begin, aware.
        """
        self.mark = new_mark(moment)
        self._first = _mixed(self.mark) << 80 | _UUID_4

    @property
    def head(self) -> str:
        """What the ids have in common: their first thirteen characters, as logs name a run by."""
        return id_of(self.mark, bytes(_TAIL_BYTES))[:_HEAD]

    def new(self) -> str:
        """A fresh id.  Neither the system nor `uuid` is asked for chance: this costs each call."""
        digits = f"{random.getrandbits(80) & _REST | self._first:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def new_interaction_id(moment: datetime) -> str:
    """An id of a call that belongs to no run.

    Args:
        moment: now, aware.
    """
    return Interactions(moment).new()


def id_of(mark: int, tail: bytes) -> str:
    """The id with this mark, of which `tail` are the last ten bytes."""
    digits = f"{_mixed(mark):012x}{tail.hex()}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def tail_of(interaction_id: str, head: str) -> bytes | None:
    """The last ten bytes of an id as `id_of` writes it; `None` when it does not begin with `head`, or is no such id.

    Args:
        head: the first thirteen characters, which hold the mark.  Compared as text: this costs each call.
    """
    digits = interaction_id[14:18] + interaction_id[19:23] + interaction_id[24:]
    try:
        tail = bytes.fromhex(digits)
    except ValueError:
        return None
    whole = f"{head}-{digits[:4]}-{digits[4:8]}-{digits[8:]}"
    return tail if interaction_id == whole and tail.hex() == digits and len(tail) == _TAIL_BYTES else None


def _mixed(mark: int) -> int:
    """A bijection of 48 bits after which marks of one second have nothing in common to the eye."""
    for factor in _FACTORS:
        mark = (mark ^ mark >> _MARK_BITS // 2) * factor & _MARKS
    return mark ^ mark >> _MARK_BITS // 2


def _unmixed(mixed: int) -> int:
    mixed ^= mixed >> _MARK_BITS // 2
    for factor in _UNDONE:
        mixed = mixed * factor & _MARKS
        mixed ^= mixed >> _MARK_BITS // 2
    return mixed
