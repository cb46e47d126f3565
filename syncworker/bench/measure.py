"""What processes cost: processor time and memory, as the kernel counts them (Linux), of descendants too."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from syncworker.errors import SetupError

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of some processes together.

    Attributes:
        cpu_s: user and system time since they began, of their ended children too.
        peak_mb: most memory resident in each, added up; pages they share count in each.
    """

    cpu_s: float
    peak_mb: float


def cost_of(roots: Iterable[int]) -> Cost:
    """What these processes and their living descendants cost so far.

    Raises:
        SetupError: this system has no `/proc`.
    """
    if not _PROC.joinpath("self/stat").exists():
        raise SetupError("bench: measures through /proc, which this system does not have; run it on Linux")
    pids = _with_descendants(set(roots))
    return Cost(cpu_s=sum(map(_cpu_s, pids)), peak_mb=sum(map(_peak_mb, pids)))


def _with_descendants(roots: Collection[int]) -> set[int]:
    children = defaultdict(list)
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
    found, left = set(roots), list(roots)
    while left:
        for child in children[left.pop()]:
            if child not in found:
                found.add(child)
                left.append(child)
    return found


def _stat(pid: int) -> list[str]:
    """Fields of `/proc/<pid>/stat` behind the name, which may hold anything; empty when the process is gone."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / _TICKS if fields else 0.0


def _peak_mb(pid: int) -> float:
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0
