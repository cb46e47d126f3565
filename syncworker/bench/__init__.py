"""Measure the product: `syncworker bench`, and `sync_all` for other harnesses.

    books     what the bench bank knows, as pages and as the rows an audit expects
    bank      a bank that is never the bottleneck, in a process of its own
    ground    consents in a database, settings that lead to the bank
    drive     worker processes, ticks, `sync_all`
    measure   processor time and memory of processes
    audit     the database against the books
    product   first, unchanged and changed sync of the product, measured and audited

The contenders it is compared with lie in the checkout's `bench/`; what came of it is in `docs/performance.md`.
"""

from syncworker.bench.drive import Synced, sync_all

__all__ = ["Synced", "sync_all"]
