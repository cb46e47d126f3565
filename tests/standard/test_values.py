"""Money and ids as banks write them."""

from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncworker.standard.values import read_id, read_money

pytestmark = pytest.mark.unit

UNITS = 10**18 - 1
"""Hundred thousandths in the largest amount NUMERIC(18, 5) holds."""

EXACT = Context(prec=200)


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("0E-10", "0"), ("0.0000000000", "0"), ("0E+5", "0"), ("-0.00", "0"), ("100.0000000000", "100"),
        ("12.345000", "12.345"), ("1E+3", "1000"), ("1e12", "1000000000000"), ("9999999999999.99999",) * 2,
        ("0.00001",) * 2, ("0.0000100", "0.00001"), ("10E-6", "0.00001"), ("1" + "0" * 40 + "E-40", "1"),
        (12, "12"), (Decimal("1E+2"), "100"), (Decimal("1.500000000"), "1.5"),
    ],
)  # fmt: skip
def test_an_exact_amount_is_read_however_it_is_written(written: str | int | Decimal, means: str) -> None:
    """As text and as a JSON number; never with an exponent of its own that a database would have to write out."""
    amount = read_money(written)
    assert amount == Decimal(means)
    assert -5 <= amount.as_tuple().exponent <= 0  # type: ignore[operator]
    assert not amount.is_signed()


@pytest.mark.parametrize(
    "written",
    [
        "1.234567", "0.000001", "1E-6", "0.000015", "1,234.50", "1_000", "", "x", "NaN", "sNaN", "Infinity", "-1",
        "-0.00001", "10000000000000", "1E13", "1E+1000000000", "1E-1000000000", "1E+99999999999999999999",
        "0." + "0" * 200, "1" * 200, 10**13, 10**400, Decimal("1E+1000000"), Decimal("0.0000001"),
    ],
)  # fmt: skip
def test_what_would_lose_a_digit_is_no_amount(written: str | int | Decimal) -> None:
    """At once, whatever the exponent, and without repeating the value."""
    with pytest.raises(ValueError, match=r"^Amount: [a-z]") as refused:
        read_money(written)
    assert not str(written).isdigit() or str(written) not in str(refused.value)


@given(st.integers(0, UNITS), st.integers(-60, 20), st.booleans(), st.booleans())
def test_any_writing_of_a_representable_amount_is_exact(units: int, scale: int, as_text: bool, lower: bool) -> None:
    """Any scale and exponent in which the value can be written."""
    value = Decimal(units).scaleb(-5, context=EXACT)
    written = value.quantize(Decimal(1).scaleb(scale, context=EXACT), context=EXACT) if scale <= -5 else value
    if scale > -5 and value.normalize(EXACT).as_tuple().exponent >= scale:  # type: ignore[operator]
        written = value.quantize(Decimal(1).scaleb(scale, context=EXACT), context=EXACT)
    text = str(written).lower() if lower else str(written)
    assert read_money(text if as_text else written) == value


@given(st.decimals(allow_nan=True, allow_infinity=True))
def test_an_amount_is_exact_or_refused(number: Decimal) -> None:
    """There is no third way."""
    fits = (
        number.is_finite()
        and number >= 0
        and (number == 0 or number.adjusted() < 13)
        and (number == 0 or number.normalize(EXACT).as_tuple().exponent >= -5)  # type: ignore[operator]
    )
    if fits:
        assert read_money(number) == number
    else:
        with pytest.raises(ValueError, match="Amount"):
            read_money(number)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "a"), (" a ", " a "), ("0", "0"), ("", None), (" ", None), ("\u00a0\u2003\t\n", None), (0, "0"),
        (12, "12"), (10**40, "1" + "0" * 40), (-5, "-5"), (True, None), (False, None), (1.0, None), (None, None),
        (Decimal(1), None), ([], None), (["a"], None), ({}, None), (b"a", None),
    ],
)  # fmt: skip
def test_an_id_is_text_or_a_whole_number(value: object, expected: str | None) -> None:
    """Exactly as sent; blank is none, and a float never counts."""
    assert read_id(value) == expected


@given(st.text())
def test_only_white_space_is_blank(text: str) -> None:
    """Anything else is an id, kept as it is."""
    assert read_id(text) == (text if text.strip() else None)
