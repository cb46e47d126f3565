"""First, unchanged, changed: what every contender goes through, measured and audited alike.

The clock runs from the order to sync until the contender says that everything is committed.  The audit comes after
it, before the next phase: a contender that skipped something has no time to show.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from syncworker.bench.audit import Expected, ReadTable, check, check_served
from syncworker.bench.bank import Bank
from syncworker.bench.measure import Cost, cost_of
from syncworker.clock import monotonic


class Phase(StrEnum):
    """A sync, by what it meets."""

    FIRST = "first"  # an empty database
    UNCHANGED = "unchanged"  # what is there already
    CHANGED = "changed"  # one item in twenty is another


class Contender(Protocol):
    """Something that syncs everything once when told to."""

    name: str

    def prepare(self, phase: Phase) -> None:
        """Get ready; not measured."""
        ...

    def sync(self) -> None:
        """Sync everything; return when it is committed."""
        ...

    def pids(self) -> Sequence[int]:
        """Its processes; their children count too."""
        ...

    def read(self) -> ReadTable | None:
        """How its rows are read; `None` for one that keeps none and is not audited."""
        ...

    def raw(self, item: bytes) -> Any:
        """What two raw items are compared by."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One phase of one contender.

    Attributes:
        pages: data GETs the bank served.
        cpu_s, database_cpu_s, bank_cpu_s: processor seconds of its processes, of the database's and of the bank's.
        peak_mb: most memory of its processes so far, added up.
        rows: compared by the audit.
        most_in_flight: GETs open at the bank at once; 0 when it answers at once.
    """

    contender: str
    phase: Phase
    seconds: float
    pages: int
    cpu_s: float
    database_cpu_s: float
    bank_cpu_s: float
    peak_mb: float
    rows: int
    most_in_flight: int


PHASES: Final = tuple(Phase)


def run_phases(
    contender: Contender,
    bank: Bank,
    wanted: Callable[[bool], Expected],
    *,
    latency: float,
    database_pids: Sequence[int],
    phases: Sequence[Phase] = PHASES,
) -> Iterator[Measured]:
    """Take a contender on an empty database through the phases.

    Args:
        wanted: what the tables must hold before and after the change.
        latency: seconds the bank takes for each answer.

    Raises:
        AuditFailedError: it did not do the whole job.
    """
    for phase in phases:
        changed = phase is Phase.CHANGED
        bank.order(latency=latency, changed=changed)
        contender.prepare(phase)
        bank.order(reset=True)
        groups = (contender.pids(), database_pids, [bank.pid])
        before = [cost_of(pids) for pids in groups]
        began = monotonic()
        contender.sync()
        seconds = monotonic() - began
        after = [cost_of(pids) for pids in groups]
        served = bank.order()
        check_served(served, bank.pages)
        read = contender.read()
        rows = 0 if read is None else check(read, wanted(changed), raw=contender.raw)
        spent = [_less(late, early) for late, early in zip(after, before, strict=True)]
        yield Measured(
            contender=contender.name,
            phase=phase,
            seconds=seconds,
            pages=served.pages,
            cpu_s=spent[0],
            database_cpu_s=spent[1],
            bank_cpu_s=spent[2],
            peak_mb=after[0].peak_mb,
            rows=rows,
            most_in_flight=served.most_in_flight,
        )


def _less(late: Cost, early: Cost) -> float:
    return max(0.0, late.cpu_s - early.cpu_s)
