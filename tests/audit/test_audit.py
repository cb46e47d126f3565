"""The audit sees every kind of difference, and says nothing about content."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from syncworker.audit import AuditedRow, Difference, Kind, RowName, compare

pytestmark = pytest.mark.unit

COFFEE = AuditedRow(
    RowName("consent-1", "acc-1", "transactions", "tx-1"),
    {"TransactionId": "tx-1", "Amount": {"Amount": "12.50", "Currency": "AED"}},
    {"amount": Decimal("12.5"), "merchant_category_code": "0742"},
)
RENT = replace(COFFEE, name=replace(COFFEE.name, key="tx-2"))


def test_equal_sides_have_no_difference_whatever_their_spelling() -> None:
    """The books speak JSON, the tables bytes and typed values."""
    held = AuditedRow(
        COFFEE.name,
        b'{"Amount": {"Currency": "AED", "Amount": "12.50"}, "TransactionId": "tx-1"}',
        {"amount": "12.50000", "merchant_category_code": "0742", "more": "than the books state"},
    )

    report = compare([COFFEE], [held])

    assert (report.differences, report.rows, report.columns) == ((), {"transactions": 1}, 2)


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        pytest.param([COFFEE], [Difference(Kind.MISSING, RENT.name)], id="a row the tables lack"),
        pytest.param(
            [COFFEE, RENT, replace(COFFEE, name=replace(COFFEE.name, key="tx-9"))],
            [Difference(Kind.EXTRA, replace(COFFEE.name, key="tx-9"))],
            id="a row the books lack",
        ),
        pytest.param(
            [COFFEE, replace(RENT, columns={**RENT.columns, "amount": Decimal("12.51")})],
            [Difference(Kind.ALTERED, RENT.name, ("amount",))],
            id="an amount off by one fils",
        ),
        pytest.param(
            [COFFEE, replace(RENT, columns={**RENT.columns, "merchant_category_code": "742"})],
            [Difference(Kind.ALTERED, RENT.name, ("merchant_category_code",))],
            id="a code that lost its zero",
        ),
        pytest.param(
            [COFFEE, replace(RENT, item={"TransactionId": "tx-1", "Amount": {"Amount": "12.5", "Currency": "AED"}})],
            [Difference(Kind.ALTERED, RENT.name, ("raw",))],
            id="an item written otherwise",
        ),
    ],
)
def test_each_kind_of_difference_is_named(tables: list[AuditedRow], expected: list[Difference]) -> None:
    """One row that differs is one difference, both ways."""
    assert list(compare([COFFEE, RENT], tables).differences) == expected


def test_instants_are_compared_as_instants() -> None:
    """`+04:00` in the books is the same moment as UTC in the tables."""
    stated = replace(COFFEE, columns={"booking_date_time": "2026-11-01T04:00:00+04:00"})
    held = replace(COFFEE, columns={"booking_date_time": datetime(2026, 11, 1, tzinfo=UTC)})

    assert compare([stated], [held]).differences == ()


def test_a_difference_shows_no_content() -> None:
    """Names and amounts stay out of what gets printed."""
    report = compare([COFFEE], [replace(COFFEE, columns={"amount": Decimal(1), "merchant_category_code": "5411"})])

    assert "12.5" not in repr(report)
