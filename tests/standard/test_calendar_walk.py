"""Dates of others are read, moved and converted in one guarded module: a walk of the source finds what is not.

What can overflow at an end of the calendar is either a primitive that reads or converts (`PRIMITIVES`) or a sum of an
instant and a duration.  A sum is harmless where the instant is our own clock's and the duration a constant or a bounded
setting; any other one has to go through `shifted`, or be listed here with the reason why it cannot overflow.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

import syncworker

pytestmark = pytest.mark.unit

PACKAGE: Final = Path(syncworker.__file__).parent
GUARDED: Final = "standard/calendar.py"
NOT_OURS: Final = ("simulator/", "bench/", "cli/demo.py", "cli/act_two.py")
"""What plays a bank or drives one: its dates are its own."""

PRIMITIVES: Final = frozenset(
    {
        *("fromisoformat", "fromtimestamp", "utcfromtimestamp", "fromordinal", "fromisocalendar", "strptime"),
        *("astimezone", "combine", "parsedate_to_datetime", "parsedate", "parsedate_tz"),
    }
)

OWN_CLOCK: Final = re.compile(
    r"(?:.*\.)?(?:now|_now|at|_timer|timer|elapsed|monotonic)(?:\(\))?|await unit\.now\(\)|now - .*|at - .*"
)
"""Instants of our own clock or of the database's, by the names the package gives them."""

OURS: Final = "an instant of our own clock or the database's, and a constant of the code"
NUMBERS: Final = "numbers, not instants"
DURATIONS: Final = "two durations or two instants: their sum or difference has no calendar to leave"
ALLOWED_SUMS: Final[Mapping[str, str]] = {
    "cli/web.py: 'off: ' + reached": "text",
    "ops/measuring.py: count + other": NUMBERS,
    "ops/targets.py: target - targets.cadence[cursor.listing.resource]": DURATIONS,
    "schedule/clocks.py: abs(ours.offset) + ours.within": DURATIONS,
    "schedule/clocks.py: abs(ours.offset) - ours.within": DURATIONS,
    "web/dashboard/charts.py: begins + one.duration_ms": NUMBERS,
    "web/dashboard/charts.py: last - first": DURATIONS,
    "web/dashboard/charts.py: end - until": NUMBERS,
    "web/dashboard/charts.py: length - seen": NUMBERS,
    "web/dashboard/charts.py: until - begin": NUMBERS,
    "web/dashboard/charts.py: place + 0.1": NUMBERS,
    "web/dashboard/lfis.py: PARTS - 1 - min(PARTS - 1, max(0, (now - at) // (DAY / PARTS)))": NUMBERS,
    "web/dashboard/lfis.py: place + 0.5": NUMBERS,
    "web/dashboard/words.py: length + 1": NUMBERS,
    "consents/authorize.py: earlier.created_at + SAME_CLICK": OURS,
    "consents/authorize.py: row.created_at + ASTRAY_FOR": OURS,
    "consents/authorize.py: row.created_at + SETTLED_WITHIN": OURS,
    "consents/polling.py: (since - place) // cadence.compared + 1": NUMBERS,
    "consents/polling.py: NIGHT_BEGINS + NIGHT * _phase(consent.connection_id)": OURS,
    "consents/polling.py: asked_at + REVOKING_FIRST_FOR": OURS,
    "consents/polling.py: held.revoke_asked_at + REVOKING_FIRST_FOR": OURS,
    "consents/polling.py: since - place": DURATIONS,
    "consents/tokens.py: asked + min(good_for, SOURCE_TRUST_S)": NUMBERS,
    "consents/tokens.py: asked - self._seen_at": NUMBERS,
    "exports/increments.py: place + at_once": NUMBERS,
    "exports/snapshot.py: place + at_once": NUMBERS,
    "exports/snapshot.py: place + len(some)": NUMBERS,
    "exports/rows.py: column.offset + len(column)": NUMBERS,
    "lfi/splitting.py: place + 1": NUMBERS,
    "lfi/splitting.py: token.end() - place": NUMBERS,
    "sync/decode.py: number - place": NUMBERS,
    "lfi/api.py: fetched_at + keep": "our own clock, and a max-age that `fresh_for` bounds",
    "lfi/api.py: held.fetched_at + DISCOVERY_STALE_MAX": OURS,
    "lfi/api.py: self._clock.now() - held.fetched_at + DISCOVERY_RETRY_EVERY": DURATIONS,
    "lfi/jose.py: not_before + int(REFUSAL_LIFETIME.total_seconds())": NUMBERS,
    "lfi/jose.py: not_before + int(REQUEST_LIFETIME.total_seconds())": NUMBERS,
    "lfi/senders.py: held.read_at + published.keep": "our own clock, and a max-age that `fresh_for` bounds",
    "schedule/breaker.py: FIRST_SHARE + (1 - FIRST_SHARE) * (open_for / over)": NUMBERS,
    "schedule/breaker.py: gate.until - gate.closed_at": DURATIONS,
    "schedule/limits.py: start + self.interval": OURS,
    "store/clocks.py: abs(self.offset) - self.within": DURATIONS,
    "store/lfis.py: start + interval * calls": "the database's clock, and calls admitted at once at a declared rate",
    "sync/pages.py: ends + count * _ITEM_BYTES": NUMBERS,
    "sync/pages.py: place + DIGEST_BYTES": NUMBERS,
    "tasks.py: _process.patience + STOP_GRACE_S": NUMBERS,
    "tasks.py: monotonic() + _process.patience + STOP_GRACE_S": NUMBERS,
    "webhooks.py: CONFIRM_AFTER[-1] + timedelta(seconds=30)": DURATIONS,
    "webhooks.py: event.received_at + OPENING_GIVEN_UP_AFTER": OURS,
    "tasks.py: monotonic() + _process.patience + STOP_GRACE_S + EXIT_MARGIN_S": NUMBERS,
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name != GUARDED and not name.startswith(NOT_OURS):
            yield name, ast.parse(path.read_text())


def _name(node: ast.AST) -> str:
    return getattr(node, "id", None) or getattr(node, "attr", None) or getattr(node, "arg", None) or ""


class Durations:
    """Which expressions of the package are durations: by annotations, and by what names are given."""

    def __init__(self, modules: list[ast.Module]) -> None:
        annotated = re.compile(r"(?:Final\[)?timedelta(?: \| None)?\]?")
        self._names = {"DAY"}
        self._functions = {"timedelta", "span"}
        for node in (node for module in modules for node in ast.walk(module)):
            match node:
                case ast.arg(annotation=ast.expr() as kind) if annotated.fullmatch(ast.unparse(kind)):
                    self._names.add(node.arg)
                case ast.AnnAssign(target=target, annotation=kind, value=value):
                    if annotated.fullmatch(ast.unparse(kind)) or self.are(value):
                        self._names.add(_name(target))
                case ast.Assign(targets=[target], value=value) if self.are(value):
                    self._names.add(_name(target))
                case ast.FunctionDef(returns=ast.expr() as kind) | ast.AsyncFunctionDef(returns=ast.expr() as kind):
                    if annotated.fullmatch(ast.unparse(kind)):
                        self._functions.add(node.name)

    def are(self, node: ast.AST | None) -> bool:
        match node:
            case ast.Call(func=function) if _name(function) in {"min", "max"}:
                return any(map(self.are, node.args))
            case ast.Call(func=function):
                return _name(function) in self._functions
            case ast.Name() | ast.Attribute():
                return _name(node) in self._names
            case ast.BinOp(left=left, right=right):
                return self.are(left) or self.are(right)
            case ast.UnaryOp(operand=value) | ast.Await(value=value) | ast.Subscript(value=value):
                return self.are(value)
            case ast.IfExp(body=body, orelse=orelse):
                return self.are(body) or self.are(orelse)
        return False


def test_no_primitive_is_used_outside_the_guarded_module() -> None:
    """Reading and converting have names there that cannot overflow."""
    found = [
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for name, module in sources()
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and _name(node.func) in PRIMITIVES
    ]
    assert found == [], "use syncworker.standard.calendar"


def test_no_instant_of_others_is_moved_outside_the_guarded_module() -> None:
    """A sum of an instant and a duration is of our own clock, or listed with the reason why it cannot overflow."""
    modules = dict(sources())
    durations = Durations(list(modules.values()))
    found = {}
    for name, module in modules.items():
        for node in ast.walk(module):
            if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub)):
                continue
            left, right = durations.are(node.left), durations.are(node.right)
            if left == right:
                continue
            instant = ast.unparse(node.left if right else node.right)
            if not OWN_CLOCK.fullmatch(instant):
                found[f"{name}: {ast.unparse(node)}"] = node.lineno
    assert sorted(found.keys() - ALLOWED_SUMS.keys()) == [], "use syncworker.standard.calendar.shifted, or say why not"
    assert sorted(ALLOWED_SUMS.keys() - found.keys()) == [], "no longer there: take it off the list"


@pytest.mark.parametrize(
    ("source", "moves"),
    [
        pytest.param("consent.expires_at - timedelta(days=1)", True, id="a bank's end"),
        pytest.param("now + LEASE", False, id="our clock"),
        pytest.param("self.from_date + self.wider", True, id="a window"),
    ],
)
def test_the_walk_sees_a_sum(source: str, *, moves: bool) -> None:
    """The check itself can fail."""
    module = ast.parse(f"LEASE = timedelta(days=1)\ndef f(wider: timedelta): ...\n{source}")
    durations = Durations([module])
    (node,) = [one for one in ast.walk(module) if isinstance(one, ast.BinOp)]
    assert (durations.are(node.right), not OWN_CLOCK.fullmatch(ast.unparse(node.left))) == (True, moves)


def modules_using(module: str) -> set[str]:
    """Modules of the package that import from another one."""
    return {
        name
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == module
    }
