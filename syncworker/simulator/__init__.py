"""A sandbox bank: one LFI behind its Hub, strict where ours could be wrong, for the demo, the sandbox and the tests.

It shares `syncworker.standard` with us and nothing else, and checks signatures with its own code, so that a bug of
ours cannot agree with itself.  The modules, from what the bank is to how it is reached:

`clock` tells the bank's time and can be moved.  `people` says who there is, `lives` what they did month by month and
`arranging` what they signed, all by `dice`.  `ledger` holds accounts and transactions and changes them, `arrangements`
is what lies beside the transactions; `render`, `arrangement_items` and `listings` write them as the API and as the
bank's own books.  `consents` and `grants` are what users agreed to and the tokens that came of it.  `identity` makes
keys and certificates, `jose` signs and checks.  `requests` reads pushed requests and assertions.  `faults` are the
troubles one can order, `bent` the answers they make, `drift` what happens between two pages, `storm` many things at
once, `served` the log of what was answered, `bank` all verbs together.  `asgi` is the way every request goes;
`authorization`, `pages`, `resources` and `openings` answer on the hosts auth1, as1 and rs1, `counter` is where
customers take consents back, `events` tells the TPP what moved, `door` answers those who may read the books.
`servers` listens, `sandbox` puts it all together, `process` runs it as a program.  `books` and `browser` are for the
other side: a reader of the books, and a user at the consent page.
"""

from collections.abc import Callable, Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None, *, ready: Callable[[dict[str, Any]], None] | None = None) -> int:
    """Run a sandbox bank until SIGTERM or SIGINT; see `syncworker.simulator.process.main`."""
    from syncworker.simulator.process import main as run

    return run(arguments, ready=ready)
