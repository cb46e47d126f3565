"""The audit finds whatever a contender left out, added, or wrote differently."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from syncworker.bench.audit import AuditFailedError, ReadTable, check, check_served, expected
from syncworker.bench.bank import Served
from syncworker.bench.books import World
from syncworker.bench.ground import consent_id

pytestmark = pytest.mark.unit

WORLD = World(consents=2, accounts=1, transactions=3, today=date(2026, 11, 21))
WANTED = expected(WORLD, changed=False)
Row = tuple[Any, ...]


def tables(change: Callable[[str, list[Row]], list[Row]] = lambda _, rows: rows) -> ReadTable:
    """A database that holds what it should, but for a change."""

    def read(table: str, _columns: tuple[str, ...]) -> list[Row]:
        rows = [(consent_id(one.consent), one.account_id, one.key, *values) for one, values in WANTED[table].items()]
        return change(table, rows)

    return read


def in_transactions(change: Callable[[list[Row]], list[Row]]) -> ReadTable:
    return tables(lambda table, rows: change(rows) if table == "transaction" else rows)


def with_column(row: Row, place: int, value: Any) -> Row:
    changed = list(row)
    changed[place] = value
    return tuple(changed)


def test_what_is_right_passes() -> None:
    """And the rows are counted."""
    assert check(tables(), WANTED) == sum(map(len, WANTED.values()))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        pytest.param(lambda rows: rows[1:], "transaction: row missing (1×)", id="a row left out"),
        pytest.param(lambda _: [], "transaction: row missing (6×)", id="a table left out"),
        pytest.param(lambda rows: [*rows, rows[0]], "row the bank does not show, or a second time (1×)", id="twice"),
        pytest.param(
            lambda rows: [with_column(rows[0], 5, Decimal("0.01")), *rows[1:]],
            "transaction.amount differs (1×)",
            id="a column",
        ),
        pytest.param(
            lambda rows: [with_column(rows[0], -1, b"{}"), *rows[1:]], "transaction.raw differs (1×)", id="raw"
        ),
    ],
)
def test_what_is_wrong_is_named_and_counted(change: Callable[[list[Row]], list[Row]], fault: str) -> None:
    """By table and column; never by value."""
    with pytest.raises(AuditFailedError) as failed:
        check(in_transactions(change), WANTED)

    assert str(failed.value).endswith(fault)


def test_the_state_before_the_change_does_not_pass_after_it() -> None:
    """Who writes nothing of a changed sync is found."""
    with pytest.raises(AuditFailedError, match="differs"):
        check(tables(), expected(WORLD, changed=True))


@pytest.mark.parametrize(
    ("pages", "distinct", "refused", "passes"),
    [
        pytest.param(10, 10, 0, True, id="everything once"),
        pytest.param(12, 10, 0, True, id="something twice"),
        pytest.param(10, 9, 0, False, id="a page left out"),
        pytest.param(10, 10, 1, False, id="a call refused"),
    ],
)
def test_the_bank_must_have_been_asked_for_everything(pages: int, distinct: int, refused: int, passes: bool) -> None:
    """A sync that finds nothing new has nothing else to show for itself."""
    served = Served(pages=pages, distinct=distinct, refused=refused, tokens=0, most_in_flight=0)
    try:
        check_served(served, 10)
    except AuditFailedError:
        assert not passes
    else:
        assert passes
