"""The table of rules names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`((?:[a-z]+/)?test_[a-z_]+)?(?:::(test_\w+))?`")


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_rule_is_held_by_a_test_that_exists() -> None:
    """A test that is renamed or dropped takes its row of docs/conformance.md along."""
    missing, named, file = [], 0, ""
    for found in NAME.finditer((ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")):
        file, test = found[1] or file, found[2]
        if not (found[1] or test):
            continue
        named += 1
        path = ROOT / "tests" / (f"{file}.py" if "/" in file else f"lfi/{file}.py")
        if not path.exists() or (test and test not in _functions(path)):
            missing.append(f"{file}::{test}")

    assert (missing, named > 50) == ([], True)
