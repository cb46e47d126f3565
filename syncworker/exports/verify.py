"""Reads an export again and compares it with its manifest."""

from collections.abc import Sequence
from dataclasses import dataclass

from syncworker.exports.targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: `file` from the target's root on, and what to do."""

    file: str
    what: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    export: str
    exports: Sequence[int]
    files: int
    rows: int
    bytes: int
    findings: Sequence[Finding]


def verify(target: Target, name: str, *, number: int | None = None, content: bool = True) -> Report:
    """One export of a name, or, without a number, all that `LATEST.json` leads to."""
    raise NotImplementedError
