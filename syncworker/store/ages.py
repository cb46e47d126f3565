"""How old the data of a connection is, by resource, in few bytes: what of it stands in its row of `staleness`.

Of each resource the oldest of its last complete walks counts, in whole seconds since 1970: what no account of it is
older than.  A pack is a MessagePack map from such an instant to the numbers of the resources that have it: most were
walked together.

Nothing here touches a database.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from syncworker.standard.calendar import of_epoch
from syncworker.standard.resources import ResourceName

NUMBERED: Final = (  # numbers written into packs: append, never change or take away
    "accounts",
    "account",
    "balances",
    "transactions",
    "scheduled_payments",
    "standing_orders",
    "direct_debits",
    "beneficiaries",
    "statements",
    "product",
    "account_parties",
    "parties",
)
_NUMBERS: Final = {name: number for number, name in enumerate(NUMBERED)}
_UNPACKER: Final = msgspec.msgpack.Decoder(dict[int, list[int]])


def pack(oldest: Mapping[ResourceName, datetime]) -> bytes:
    """The oldest last walk of each resource."""
    by_second: dict[int, list[int]] = {}
    for resource, at in sorted(oldest.items()):
        by_second.setdefault(int(at.timestamp()), []).append(_NUMBERS[resource.value])
    return msgspec.msgpack.encode(by_second)


def unpack(packed: bytes) -> Mapping[str, datetime]:
    """The same, by name; resources of a newer syncworker are left out."""
    return {resource: of_epoch(second) for resource, second in seconds(packed)}


def seconds(packed: bytes) -> list[tuple[str, int]]:
    """Resource and second of each, as `unpack` gives them."""
    found: dict[int, list[int]] = _UNPACKER.decode(packed)
    return [
        (NUMBERED[number], second) for second, numbers in found.items() for number in numbers if number < len(NUMBERED)
    ]
