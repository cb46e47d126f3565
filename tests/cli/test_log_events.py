"""docs/logs.md and the list of events are what the code logs, and lines of a run carry its name."""

import ast
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.contextvars import bound_contextvars

import syncworker
from syncworker.cli import log_events, logs

PACKAGE = Path(syncworker.__file__).parent
DOCS = PACKAGE.parent / "docs"
LEVELS = frozenset({"debug", "info", "warning", "error", "critical", "exception"})


def lines_of_code() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Event, level and fields of each line that logs, the sandbox's own aside."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "simulator" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {id(node) for node in ast.walk(tree) if says(node)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not (levels := said_by(node.func)):
                continue
            used -= {id(one) for one in ast.walk(node.func)}
            where = f"{path.relative_to(PACKAGE)}:{node.lineno}"
            assert len(node.args) == 1, f"{where}: one text, no more positional arguments"
            text = node.args[0]
            assert isinstance(text, ast.Constant), f"{where}: the event is not a constant text"
            assert all(one.arg for one in node.keywords), f"{where}: fields are not written out"
            names = tuple(str(one.arg) for one in node.keywords if one.arg != "exc_info")
            for level in levels:
                yield str(text.value), level, names
        assert not used, f"{path.relative_to(PACKAGE)}: a function that logs is called under another name"


def says(node: ast.AST) -> bool:
    """Whether it is `log.info` or the like, or `log.log`, which names no level."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in LEVELS | {"log"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"log", "logger"}
    )


def said_by(func: ast.expr) -> tuple[str, ...]:
    """The levels that a call may log at; none when it does not log."""
    if isinstance(func, ast.IfExp):
        return said_by(func.body) + said_by(func.orelse)
    return (func.attr,) if isinstance(func, ast.Attribute) and func.attr in LEVELS and says(func) else ()


def test_every_event_is_listed_with_its_levels_and_fields() -> None:
    """An event that is renamed, a field that is added, and a listed event that no code logs: each is found."""
    said: dict[str, tuple[set[str], set[str]]] = {}
    for event, level, fields in lines_of_code():
        levels, names = said.setdefault(event, (set(), set()))
        levels.add(level)
        names.update(fields)
    listed = {
        one.name: (set(one.level.split("|")), set(one.fields)) for those in log_events.EVENTS.values() for one in those
    }

    assert listed == said


def test_no_event_is_listed_twice_and_each_says_what_it_means() -> None:
    """Names are unique over all sections; meanings are sentences."""
    every = [one for those in log_events.EVENTS.values() for one in those]

    assert len({one.name for one in every}) == len(every)
    assert [one.name for one in every if not one.means.endswith((".", "`."))] == []


def test_the_page_is_the_list() -> None:
    """Make it again with `syncworker logs events > docs/logs.md`."""
    assert (DOCS / "logs.md").read_text(encoding="utf-8") == log_events.page()


def test_lines_within_a_run_carry_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a task binds stands in each of its lines, of structlog and of `logging` alike, and in no other."""
    stream = io.StringIO()
    before = structlog.get_config()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    monkeypatch.setattr("sys.stderr", stream)
    try:
        logs.configure("INFO")
        with bound_contextvars(run="3f2a91bc-77d0"):
            structlog.stdlib.get_logger("syncworker.sync.engine").warning("sync failed", error="x")
            logging.getLogger("syncworker.broker").warning("broker not verified")
        structlog.stdlib.get_logger("syncworker.sync.engine").warning("sync failed", error="y")
    finally:
        root.handlers, root.level = handlers, level
        structlog.configure(**before)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert [(one["event"], one.get("run")) for one in found] == [
        ("sync failed", "3f2a91bc-77d0"),
        ("broker not verified", "3f2a91bc-77d0"),
        ("sync failed", None),
    ]
