"""Pseudonyms: equal where values are, no other way round."""

from decimal import Decimal

import pyarrow as pa
import pytest

from syncworker.errors import RequestError
from syncworker.exports.rows import Pseudonyms, Rows
from syncworker.exports.schema import TABLES, Hiding, arrow_schema, chosen
from syncworker.store.tables import PERSONAL
from tests.exports import made

pytestmark = pytest.mark.unit

KEY = bytes(range(32))
IBAN = "AE070331234567890123456"


def test_a_pseudonym_is_known_by_its_value_alone() -> None:
    """Written down: exports of a year ago are joined with today's."""
    pseudonyms = Pseudonyms(KEY)

    assert pseudonyms.of("Amal") == Pseudonyms(KEY).of("Amal") == "psn_uwfwoy73rrcsdgilkhtv"
    assert pseudonyms.of("Amal") != pseudonyms.of("amal")
    assert pseudonyms.of("Amal") != Pseudonyms(bytes(32)).of("Amal")
    assert pseudonyms.key_id != Pseudonyms(bytes(32)).key_id


def test_an_iban_has_one_pseudonym_however_it_is_written() -> None:
    """A bank writes it in groups of four, another one in small letters."""
    pseudonyms = Pseudonyms(KEY)

    assert len({pseudonyms.of(one) for one in (IBAN, "AE07 0331 2345 6789 0123 456", IBAN.lower())}) == 1


def test_a_key_is_long_enough_and_shown_nowhere() -> None:
    """Short keys can be tried out."""
    with pytest.raises(ValueError, match="has 32 bytes or more"):
        Pseudonyms(b"short")
    assert repr(Pseudonyms(KEY)) == f"Pseudonyms({Pseudonyms(KEY).key_id})"


@pytest.mark.parametrize("op", [False, True])
def test_personal_columns_are_hidden_and_all_others_stay(op: bool) -> None:
    """Names and numbers as pseudonyms, free text as null; null stays null."""
    rows = made.made(made.TRANSACTION, 50)
    rows[0] |= {"counterparty_name": "Amal", "transaction_information": "PAID TO AMAL", "latitude": "25.2"}
    rows[1] |= {"counterparty_name": "Amal", "counterparty_identification": IBAN}
    (batch,) = made.batches(made.TRANSACTION, made.changes(rows) if op else rows, op=op, sizes=(100,))
    pseudonyms = Pseudonyms(KEY)

    hidden = pseudonyms.hide(made.TRANSACTION, batch)

    assert hidden.schema.equals(arrow_schema(made.TRANSACTION, op=op))
    for column in made.TRANSACTION.columns:
        before, after = batch.column(column.name).to_pylist(), hidden.column(column.name).to_pylist()
        match column.hiding:
            case Hiding.KEPT:
                assert after == before
            case Hiding.BLANK:
                assert after == [None] * 50
            case Hiding.PSEUDONYM:
                assert after == [None if one is None else pseudonyms.of(one) for one in before]
    assert hidden.column("counterparty_name")[0] == hidden.column("counterparty_name")[1]


def test_every_personal_column_of_the_tables_is_hidden() -> None:
    """A new personal column of a table is hidden by itself: at least by null."""
    shown = {
        (table.name, column.name)
        for table in TABLES.values()
        for column in table.columns
        if column.name in PERSONAL.get(table.name, ()) and column.hiding is Hiding.KEPT
    }

    assert shown == set()


def test_tables_are_chosen_by_name() -> None:
    """In the order of an export; a name that is none says which there are."""
    assert [one.name for one in chosen(["transaction", "account"])] == ["account", "transaction"]
    assert len(chosen([])) == len(TABLES)
    with pytest.raises(RequestError, match="tables: there is no transactions; choose of connection, consent"):
        chosen(["transactions"])


def test_text_is_made_of_slices_as_of_whole_batches() -> None:
    """A slice keeps the buffers of its batch; what lies before and behind must not be read."""
    rows = made.made(made.TRANSACTION, 90)
    (whole,) = made.batches(made.TRANSACTION, rows, op=False, sizes=(90,))
    (small,) = made.batches(made.TRANSACTION, rows[30:60], op=False, sizes=(30,))

    sliced = Rows(made.TRANSACTION, whole.slice(30, 30), op=False)

    assert sliced.canonical.equals(Rows(made.TRANSACTION, small, op=False).canonical)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00"), ("-0.00001", "-0.00001"), ("0.1", "0.10"), ("-120.5", "-120.50"), ("100", "100.00"),
        ("1.23400", "1.234"), ("9999999999999.99999", "9999999999999.99999"), ("-9999999999999.9", "-9999999999999.90"),
    ],
)  # fmt: skip
def test_an_amount_is_written_as_the_views_write_it(amount: str, text: str) -> None:
    """Two places at least, and no zero beyond them."""
    row = {"amount": Decimal(amount)}
    (batch,) = made.batches(made.TRANSACTION, [row], op=False, sizes=(1,))

    assert Rows(made.TRANSACTION, batch, op=False).text.column("amount") == pa.array([text])
