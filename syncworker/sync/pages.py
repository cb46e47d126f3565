"""What a complete walk leaves behind for the next one: the digest of each page, and the keys it showed.

A page whose digest is known needs no decoding: its keys are here.  Kept as bytes in `cursor.pages`:

    version (1) | pages (4, big endian) | digests (16 each) | deflated msgpack: keys of each page, or nil

Nil keys mean that the walk showed a key twice, so that no page speaks for itself: then only the whole walk can be
recognised.
"""

import zlib
from collections.abc import Sequence
from typing import Final

import msgspec
import xxhash

from syncworker.sync.decode import DECODER_VERSION

DIGEST_BYTES: Final = 16
_VERSION: Final = 1
_HEAD: Final = 5
_BYTES_MAX: Final = 64 * 1024 * 1024

Keys = tuple[str, ...]
_KEYS: Final = msgspec.msgpack.Decoder(list[Keys] | None)


def page_digest(data: bytes) -> bytes:
    """Digest of a page's `Data` as the LFI sent it, salted with the decoder's version."""
    return xxhash.xxh3_128_digest(data, seed=DECODER_VERSION)


def pack(digests: Sequence[bytes], keys: Sequence[Keys] | None) -> bytes:
    """Digests and keys, page by page, as `cursor.pages` keeps them."""
    head = bytes([_VERSION]) + len(digests).to_bytes(4, "big")
    return head + b"".join(digests) + zlib.compress(msgspec.msgpack.encode(keys), 1)


def same(packed: bytes | None, digests: Sequence[bytes]) -> bool:
    """Whether a walk showed exactly the pages that were packed.  Nothing is inflated."""
    if not packed or packed[0] != _VERSION:
        return False
    return packed[1:_HEAD] == len(digests).to_bytes(4, "big") and packed.startswith(b"".join(digests), _HEAD)


def unpack(packed: bytes | None) -> dict[bytes, Keys]:
    """Digest → keys of each page; empty when there is nothing to recognise pages by, or nothing we can read."""
    if not packed or packed[0] != _VERSION:
        return {}
    count = int.from_bytes(packed[1:_HEAD], "big")
    body = _HEAD + count * DIGEST_BYTES
    inflate = zlib.decompressobj()
    try:
        keys = _KEYS.decode(inflate.decompress(packed[body:], _BYTES_MAX))
    except (zlib.error, msgspec.MsgspecError):
        return {}
    if keys is None or len(keys) != count:
        return {}
    digests = (packed[start : start + DIGEST_BYTES] for start in range(_HEAD, body, DIGEST_BYTES))
    return dict(zip(digests, keys, strict=True))
