"""Walk the pages of one step.

URLs, links, retries within seconds and the guards against hostile answers are `lfi.api`'s; here a walk that breaks off
becomes a value: the pages that came are kept, and what went wrong stands beside them.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from syncworker.errors import SyncWorkerError
from syncworker.lfi.api import Attendance, CallLog, Page, TokenSource
from syncworker.standard.interaction import Interactions
from syncworker.standard.resources import Resource
from syncworker.standard.values import AccountId
from syncworker.standard.versions import Version
from syncworker.sync.endless import Progress
from syncworker.sync.plan import Step


class Reader(Protocol):
    """Reads listings at one LFI; `lfi.api.LFIClient` is one."""

    def pages(
        self,
        resource: Resource,
        account_id: AccountId | None,
        *,
        version: Version,
        params: Mapping[str, str],
        token: TokenSource,
        calls: CallLog,
        pages_max: int = ...,
        ids: Interactions | None = ...,
        attendance: Attendance | None = ...,
    ) -> AsyncIterator[Page]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a walk brought.

    Attributes:
        pages: the bytes of each page's `Data`, first to last.
        first_available: where the LFI's own history begins, when it says so.
        pages_said: how many pages there are, as the last one says; `None` when it does not.
        error: why the walk broke off; `None`: it is complete.
    """

    step: Step
    pages: tuple[bytes, ...] = field(repr=False)
    first_available: datetime | None = None
    pages_said: int | None = None
    error: SyncWorkerError | None = None

    @property
    def short(self) -> bool:
        """Whether the links ended before the last page: what the others would have shown is not known."""
        return self.error is None and self.pages_said is not None and self.pages_said > len(self.pages)

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(map(len, self.pages))


async def fetch(
    step: Step,
    reader: Reader,
    *,
    version: Version,
    token: TokenSource,
    calls: CallLog,
    pages_max: int,
    ids: Interactions | None = None,
    attendance: Attendance | None = None,
) -> Walk:
    """Walk a listing to its end, until nothing new comes (`sync.endless`), or until something goes wrong.

    Errors of ours are values, cancellation is not.

    Args:
        ids: makes the interaction ids of the run; `None`: it is of no run.
        attendance: the customer who is present and asked for this very walk; `None` in the background.
    """
    present: dict[str, Any] = {} if attendance is None else {"attendance": attendance}
    pages: list[bytes] = []
    progress = Progress(step.resource)
    first_available: datetime | None = None
    pages_said: int | None = None
    account_id = AccountId(step.account_id) if step.account_id else None
    try:
        listing = reader.pages(
            step.resource, account_id,
            version=version, params=step.params, token=token, calls=calls, pages_max=pages_max, ids=ids,
            **present,
        )  # fmt: skip
        async with aclosing(listing):  # type: ignore[type-var]
            async for page in listing:
                pages.append(page.data)
                first_available = page.first_available or first_available
                pages_said = page.total_pages
                if (endless := progress.fault_of(page)) is not None:
                    raise endless
    except SyncWorkerError as error:
        return Walk(step=step, pages=tuple(pages), first_available=first_available, error=error)
    return Walk(step=step, pages=tuple(pages), first_available=first_available, pages_said=pages_said)
