"""What the JSON of ours says of values that are a kind of what it knows."""

import ast
import enum
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from freezegun import freeze_time

import syncworker
from syncworker.standard.json_text import WITH_NUMBERS, json_bytes
from syncworker.store.dialect import Dialect

pytestmark = pytest.mark.unit


class AnInstant(datetime): ...


class ADate(date): ...


class ATime(time): ...


class AnAmount(Decimal): ...


class AText(str):
    __slots__ = ()


class ANumber(int): ...


class AFraction(float): ...


class Bytes(bytes): ...


class Word(enum.StrEnum):
    ONE = "one"


class Count(enum.IntEnum):
    ONE = 1


class Members(dict[str, int]): ...


class Items(list[int]): ...


class Pair(NamedTuple):
    a: int
    b: str


@dataclass(frozen=True)
class Facts:
    a: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(datetime(2026, 1, 2, 3, tzinfo=UTC), '"2026-01-02T03:00:00Z"', id="instant"),
        pytest.param(AnInstant(2026, 1, 2, 3, tzinfo=UTC), '"2026-01-02T03:00:00.000000Z"', id="kind of instant"),
        pytest.param(
            AnInstant(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=4))), '"2026-01-01T23:00:00.000000Z"', id="offset"
        ),
        pytest.param(AnInstant(2026, 1, 2, 3), '"2026-01-02T03:00:00"', id="kind of local time"),
        pytest.param(date(2026, 1, 2), '"2026-01-02"', id="date"),
        pytest.param(ADate(2026, 1, 2), '"2026-01-02"', id="kind of date"),
        pytest.param(ATime(3, 4), '"03:04:00"', id="kind of time"),
        pytest.param(Decimal("1.50"), '"1.50"', id="amount"),
        pytest.param(AnAmount("1.50"), '"1.50"', id="kind of amount"),
        pytest.param(AText("a"), '"a"', id="kind of text"),
        pytest.param(ANumber(7), "7", id="kind of number"),
        pytest.param(AFraction(1.5), "1.5", id="kind of fraction"),
        pytest.param(Bytes(b"a"), '"YQ=="', id="kind of bytes"),
        pytest.param(Word.ONE, '"one"', id="word of an enumeration"),
        pytest.param(Count.ONE, "1", id="number of an enumeration"),
        pytest.param(True, "true", id="truth"),
        pytest.param(None, "null", id="nothing"),
        pytest.param(Members(a=1), '{"a":1}', id="kind of mapping"),
        pytest.param(OrderedDict({AText("a"): 1, Word.ONE: 2}), '{"a":1,"one":2}', id="kinds of names"),
        pytest.param(Items([1]), "[1]", id="kind of list"),
        pytest.param(Pair(1, "b"), '[1,"b"]', id="named tuple"),
        pytest.param(Facts(1), '{"a":1}', id="dataclass"),
    ],
)
def test_a_kind_of_a_value_is_written_as_that_value(value: Any, text: str) -> None:
    """Also within a list and a mapping."""
    assert json_bytes({"it": [value]}).decode() == f'{{"it":[{text}]}}'


def test_a_kind_of_amount_is_a_number_where_amounts_are_numbers() -> None:
    """As in the body of an account opening."""
    assert WITH_NUMBERS.encode([Decimal("1.50"), AnAmount("1.50")]) == b"[1.50,1.50]"


def test_what_json_cannot_say_is_an_error_without_the_value() -> None:
    """The text of an error may reach a log."""
    with pytest.raises(NotImplementedError, match=r"^object is nothing JSON can say$"):
        json_bytes({"it": object()})


@pytest.mark.parametrize("name", ["postgresql", "sqlite"])
def test_rows_under_a_clock_that_is_a_tests(name: str) -> None:
    """Dates, instants and what is computed of them are of the test's classes then."""
    with freeze_time("2026-01-02 03:00:00"):
        now = datetime.now(UTC)
        rows = [{"at": now, "day": now.date(), "today": date.today(), "later": now + timedelta(days=1)}]  # noqa: DTZ011
        text = Dialect(name).rows(rows)

    assert (type(now) is datetime, text.count("2026-01-02"), text.count("2026-01-03")) == (False, 3, 1)


def test_every_json_for_others_is_written_here() -> None:
    """No module but this one has msgspec write JSON, save for digests of what was just read from JSON.

    Banks that are made up write their own.
    """
    package = Path(syncworker.__file__).parent
    writers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"msgspec.json.encode", "msgspec.json.Encoder"}
    }

    assert {one for one in writers if not one.startswith(("simulator/", "bench/"))} == {
        "standard/json_text.py",
        "sync/decode.py",
    }
