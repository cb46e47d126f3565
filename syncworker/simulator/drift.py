"""Things that happen at the bank while somebody reads: a verb that runs when a page of a walk has been written.

The page itself is as it was before; the next one already shows the change.

Source: `reliability.md` §9, scenario 14.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from syncworker.simulator.asgi import Trace


@dataclass(slots=True, kw_only=True)
class Drift:
    """One order.

    Attributes:
        operation: the listing that is read; `*` for any.
        after_page: number of the page behind which it happens; `None`: behind each.
        verb, arguments: what happens; where the verb wants an `account_id` and none is given, it is the walk's.
        times: how often it still may happen in all; `None` is for ever.
        faults: what the verb complained about, once for each time.
    """

    operation: str
    after_page: int | None
    verb: str
    arguments: dict[str, Any]
    account_id: str | None = None
    consent_id: str | None = None
    times: int | None = 1
    happened: int = 0
    faults: list[str] = field(default_factory=list)

    def due(self, trace: Trace) -> bool:
        """Whether it happens behind this page."""
        return (
            (self.times is None or self.happened < self.times)
            and self.operation in ("*", trace.operation)
            and self.after_page in (None, trace.page)
            and self.account_id in (None, trace.account_id)
            and self.consent_id in (None, trace.consent_id)
        )

    def facts(self) -> dict[str, Any]:
        """The order as JSON."""
        return asdict(self)
