"""The contenders are small enough to be read at once."""

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

LINES_MAX = 100
CONTENDERS = Path(__file__).parents[2] / "bench" / "contenders"


def lines_of_code(source: str) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    strings = {
        number
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(source.splitlines(), start=1)
    return sum(
        1 for number, line in lines if number not in strings and line.strip() and not line.strip().startswith("#")
    )


@pytest.mark.parametrize("name", ["naive", "celery_orm", "dlt_rest", "leanest"])
def test_a_contender_has_at_most_a_hundred_lines(name: str) -> None:
    """So that nobody has to take its fairness on trust."""
    assert lines_of_code((CONTENDERS / f"{name}.py").read_text(encoding="utf-8")) <= LINES_MAX
