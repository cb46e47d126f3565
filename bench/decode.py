"""What decoding and digests cost: a page of 100 transactions, read in the ways there are.

Processor time of this process, best of the rounds, so that a busy machine disturbs little.

    python -m bench.decode [--rounds 7]
"""

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec
import xxhash

from bench.contenders.typed import TYPED
from syncworker.bench.books import Listing, World, listings, pages
from syncworker.lfi.bounds import check_json
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.store.sealed import pack_raw, unpack_raw
from syncworker.sync.decode import decode
from syncworker.sync.pages import page_digest

WORLD = World(consents=1, accounts=1, transactions=100, today=date(2026, 11, 21))
TRANSACTIONS = BY_NAME[ResourceName.TRANSACTIONS]
MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
RAWS = msgspec.json.Decoder(list[msgspec.Raw])


def page() -> tuple[Listing, bytes, bytes]:
    """The listing, the body as sent, and its `Data`."""
    (listing,) = (
        one for one in listings(WORLD, 0, changed=False) if one.resource is ResourceName.TRANSACTIONS and one.items
    )
    ((_, body), *rest) = pages(listing, WORLD, base_url="https://bank")
    assert not rest, "a page holds them all"
    return listing, body, bytes(MEMBERS.decode(body)["Data"])


def measured(work: Callable[[], object], rounds: int) -> float:
    """Microseconds of processor time."""
    best = float("inf")
    for _ in range(rounds):
        began, times = time.process_time(), 0
        while time.process_time() - began < 0.05:
            work()
            times += 1
        best = min(best, (time.process_time() - began) / times)
    return best * 1e6


def ways(listing: Listing, body: bytes, data: bytes) -> dict[str, Callable[[], Any]]:
    """Everything that is compared, by what it is called in the table."""
    items = MEMBERS.decode(data)[TRANSACTIONS.items]
    raws = [bytes(one) for one in RAWS.decode(items)]
    packed = [pack_raw(one) for one in raws]
    return {
        "bounds of the body (`lfi.bounds.check_json`)": lambda: check_json(body, "application/json"),
        "page digest, xxh3-128 (kept)": lambda: page_digest(data),
        "page digest, SHA-256": lambda: hashlib.sha256(data).digest(),
        "items as raw bytes, msgspec": lambda: RAWS.decode(items),
        "whole page, json": lambda: json.loads(data),
        "whole page, msgspec without types": lambda: msgspec.json.decode(data),
        "each item into a typed struct, msgspec (the leanest contender)": lambda: [TYPED.decode(one) for one in raws],
        "each item's digest over its bytes": lambda: [xxhash.xxh3_128_digest(one) for one in raws],
        "`sync.decode`: key, canonical digest, 66 columns, oddities noted (kept)": lambda: decode(
            TRANSACTIONS, listing.account_id, data
        ),
        "raw items packed: Zstandard with the dictionary (kept)": lambda: [pack_raw(one) for one in raws],
        "raw items unpacked again": lambda: [unpack_raw(one) for one in packed],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    listing, body, data = page()
    print(f"a page of {len(listing.items)} transactions, {len(data):,} bytes\n\n| way | µs a page |\n|---|---:|")
    for name, work in ways(listing, body, data).items():
        print(f"| {name} | {measured(work, rounds):,.0f} |")


if __name__ == "__main__":
    main()
