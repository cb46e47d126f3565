"""From a page's bytes to records: nothing lost, nothing rejected for what we do not use."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncworker.errors import StandardViolationError
from syncworker.lfi.splitting import PartlyReadable
from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.store.tables import RECORD_TABLES, typed_columns
from syncworker.sync.decode import TYPED, Decoded, Items, Reason, canonical, decode

pytestmark = pytest.mark.unit

N = ResourceName

TRANSACTION = {
    "TransactionId": "T-1",
    "TransactionDateTime": "2026-05-01T21:30:00Z",
    "TransactionType": "POS",
    "SubTransactionType": "Purchase",
    "CreditDebitIndicator": "Debit",
    "Status": "Booked",
    "BookingDateTime": "2026-05-02T01:30:00+0400",
    "ValueDateTime": "2026-05-01T21:30:00.125Z",
    "Amount": {"Amount": "9999999999999.99999", "Currency": "AED"},
    "TransactionReference": "R",
    "TransactionInformation": "شراء",
    "MerchantDetails": {"MerchantId": 18446744073709551616, "MerchantName": "Noor", "MerchantCategoryCode": "0742"},
    "CreditorAccount": [{"SchemeName": "IBAN", "Identification": "AE0", "Name": "Baqala"}],
    "DebtorAccount": {"Name": "not the counterparty of a Debit"},
}


def page(resource: ResourceName, *items: Any, **members: Any) -> bytes:
    """`Data` of a page that holds these items."""
    scope = {"AccountId": "acc"} if BY_NAME[resource].per_account else {}
    return json.dumps(scope | {BY_NAME[resource].items: list(items)} | members, ensure_ascii=False).encode()


def read(resource: ResourceName, *items: Any) -> Decoded:
    return decode(BY_NAME[resource], "acc" if BY_NAME[resource].per_account else "", page(resource, *items))


def columns(resource: ResourceName, item: Any) -> dict[str, Any]:
    (record,) = read(resource, item).records
    return dict(zip(typed_columns(RECORD_TABLES[resource]), record.columns, strict=True))


def test_every_typed_column_is_read() -> None:
    """The decoder's table and the database's name the same columns."""
    assert {name: set(TYPED[name].columns) for name in N} == {
        name: set(typed_columns(RECORD_TABLES[name])) for name in N
    }


def test_a_transaction_fills_its_columns() -> None:
    """Money exact and signed, instants in UTC, the booking's date as the UAE counts it."""
    booked = datetime(2026, 5, 1, 21, 30, tzinfo=UTC)
    assert {name: value for name, value in columns(N.TRANSACTIONS, TRANSACTION).items() if value is not None} == {
        "status": "Booked",
        "credit_debit_indicator": "Debit",
        "amount": Decimal("9999999999999.99999"),
        "signed_amount": Decimal("-9999999999999.99999"),
        "currency": "AED",
        "booking_date_time": booked,
        "booking_date": date(2026, 5, 2),
        "value_date_time": booked.replace(microsecond=125_000),
        "transaction_date_time": booked,
        "transaction_type": "POS",
        "sub_transaction_type": "Purchase",
        "transaction_reference": "R",
        "transaction_information": "شراء",
        "merchant_name": "Noor",
        "merchant_category_code": "0742",
        "counterparty_name": "Baqala",
        "counterparty_scheme": "IBAN",
        "counterparty_identification": "AE0",
        "merchant_id": "18446744073709551616",
    }


@pytest.mark.parametrize(
    ("change", "column", "value", "notes"),
    [
        pytest.param({"Status": "Parked"}, "status", "Parked", {}, id="an unknown enum value is kept"),
        pytest.param({"Status": None}, "status", None, {}, id="null is no value"),
        pytest.param({"Status": ["x"]}, "status", None, {"status.wrong_type": 1}, id="a list is no text"),
        pytest.param({"Status": True}, "status", None, {"status.wrong_type": 1}, id="a boolean is no text"),
        pytest.param({"MerchantDetails": "x"}, "merchant_name", None, {}, id="a path that ends early"),
        pytest.param(
            {"MerchantDetails": {"MerchantCategoryCode": 5411}}, "merchant_category_code", "5411", {},
            id="a code typed as a number",
        ),
        pytest.param(
            {"Status": "x" * 21}, "status", "x" * 20, {"status.cut": 1}, id="longer than its column is cut"
        ),
        pytest.param(
            {"TransactionInformation": "a\u0000b"}, "transaction_information", "a\ufffdb",
            {"transaction_information.repaired": 1}, id="no NUL in a column",
        ),
        pytest.param({"Amount": {"Amount": "1.123456"}}, "amount", None, {"amount.not_an_amount": 1}, id="too fine"),
        pytest.param({"Amount": {"Amount": "x"}}, "amount", None, {"amount.not_an_amount": 1}, id="not a number"),
        pytest.param({"Amount": {"Amount": {}}}, "amount", None, {"amount.wrong_type": 1}, id="an object"),
        pytest.param({"Amount": {"Amount": 12.5}}, "amount", Decimal("12.5"), {}, id="an amount typed as a number"),
        pytest.param(
            {"CreditDebitIndicator": "Credit"}, "signed_amount", Decimal("9999999999999.99999"), {}, id="credit"
        ),
        pytest.param({"CreditDebitIndicator": "Neither"}, "signed_amount", None, {}, id="no known sign"),
        pytest.param(
            {"CreditDebitIndicator": "Credit"}, "counterparty_name", "not the counterparty of a Debit", {},
            id="the debtor of a Credit",
        ),
        pytest.param({"CreditDebitIndicator": ["Debit"]}, "counterparty_name", None, {
            "credit_debit_indicator.wrong_type": 1,
        }, id="a sign that is a list says nothing of the other side"),
        pytest.param({"CreditorAccount": {"Name": "one"}}, "counterparty_name", "one", {}, id="one account, no list"),
        pytest.param({"CreditorAccount": []}, "counterparty_name", None, {}, id="no account"),
        pytest.param(
            {"ValueDateTime": "2026-05-01T10:00:00"}, "value_date_time", datetime(2026, 5, 1, 6, tzinfo=UTC),
            {"value_date_time.no_offset": 1}, id="no offset is UAE time, noted",
        ),
        pytest.param(
            {"ValueDateTime": "yesterday"}, "value_date_time", None, {"value_date_time.not_an_instant": 1},
            id="not an instant",
        ),
        pytest.param(
            {"BookingDateTime": "9999-12-31T23:59:59Z"}, "booking_date", None, {}, id="a date beyond the calendar"
        ),
    ],
)  # fmt: skip
def test_reading_is_tolerant(change: dict[str, Any], column: str, value: Any, notes: dict[str, int]) -> None:
    """What does not fit becomes NULL and is counted; the item passes."""
    decoded = read(N.TRANSACTIONS, TRANSACTION | change)
    place = typed_columns(RECORD_TABLES[N.TRANSACTIONS]).index(column)
    assert (decoded.records[0].columns[place], dict(decoded.notes)) == (value, notes)


def test_unknown_members_are_kept_in_the_raw_item() -> None:
    """The item's own bytes, space and order included, are what is stored."""
    raw = b'{ "PartyId":"p", "PartyCategory" : "Retail","Surprise":[1.10, {"x":null}] }'
    decoded = decode(BY_NAME[N.PARTIES], "", b'{"Party":' + raw + b"}")
    assert [record.raw for record in decoded.records] == [raw]


def test_a_single_object_and_a_list_are_both_read() -> None:
    """`/parties` is one object, and a list of one means the same (trap 17)."""
    one = decode(BY_NAME[N.PARTIES], "", b'{"Party":{"PartyId":"p"}}')
    listed = decode(BY_NAME[N.PARTIES], "", b'{"Party":[{"PartyId":"p"}]}')
    assert one == listed


def test_a_statement_date_beyond_the_calendar_is_none() -> None:
    """As some write "no date yet"; in the UAE it is the year 10000 already."""
    decoded = read(N.STATEMENTS, {"StatementId": "s", "StatementDate": "9999-12-31T23:59:59Z"})
    assert (decoded.records[0].columns[0], dict(decoded.notes)) == (None, {"statement_date.not_a_date": 1})


def test_a_balance_is_keyed_by_type_and_currency() -> None:
    """A balance has no id; its sign never goes into the key (trap 20)."""
    balance = {"Type": "InterimBooked", "Amount": {"Amount": "1", "Currency": "KWD"}, "CreditDebitIndicator": "Debit"}
    assert [record.key for record in read(N.BALANCES, balance).records] == ["InterimBooked|KWD"]


@pytest.mark.parametrize(
    "item",
    [
        pytest.param({}, id="no key"),
        pytest.param({"TransactionId": ""}, id="empty"),
        pytest.param({"TransactionId": None}, id="null"),
        pytest.param({"TransactionId": ["x"]}, id="a list"),
        pytest.param({"TransactionId": "x" * 257}, id="too long"),
        pytest.param({"TransactionId": "a\u0000"}, id="with NUL"),
        pytest.param("text", id="no object at all"),
    ],
)
def test_an_item_without_a_usable_key_is_counted_and_left_out(item: Any) -> None:
    """The others of its page pass."""
    decoded = read(N.TRANSACTIONS, item, TRANSACTION)
    assert ([record.key for record in decoded.records], decoded.violations) == (["T-1"], 1)


@pytest.mark.parametrize(
    ("item", "reason", "path"),
    [
        pytest.param(b"{}", Reason.ID_MISSING, ".TransactionId", id="no id"),
        pytest.param(b'{"TransactionId":null}', Reason.ID_MISSING, ".TransactionId", id="null"),
        pytest.param(b'{"TransactionId":""}', Reason.ID_MISSING, ".TransactionId", id="empty"),
        pytest.param(b'{"TransactionId":" \\u00a0\\u2003\\t"}', Reason.ID_MISSING, ".TransactionId", id="blank"),
        pytest.param(b'{"TransactionId":["x"]}', Reason.ID_OF_ANOTHER_TYPE, ".TransactionId", id="a list"),
        pytest.param(b'{"TransactionId":{"x":1}}', Reason.ID_OF_ANOTHER_TYPE, ".TransactionId", id="an object"),
        pytest.param(b'{"TransactionId":true}', Reason.ID_OF_ANOTHER_TYPE, ".TransactionId", id="a truth"),
        pytest.param(b'{"TransactionId":1.0}', Reason.ID_OF_ANOTHER_TYPE, ".TransactionId", id="with a point"),
        pytest.param(b'{"TransactionId":1e3}', Reason.ID_OF_ANOTHER_TYPE, ".TransactionId", id="with an exponent"),
        pytest.param(b'{"TransactionId":"%s"}' % (b"x" * 257), Reason.ID_TOO_LONG, ".TransactionId", id="too long"),
        pytest.param(b'{"TransactionId":"a\\u0000"}', Reason.ID_NOT_STORABLE, ".TransactionId", id="NUL"),
        pytest.param(b'{"TransactionId":"a\\ud83c"}', Reason.ID_NOT_STORABLE, ".TransactionId", id="half a pair"),
        pytest.param(b'"text"', Reason.NOT_AN_OBJECT, "", id="text"),
        pytest.param(b"null", Reason.NOT_AN_OBJECT, "", id="null for an item"),
        pytest.param(b'{"TransactionId":"T\xff"}', Reason.NOT_UTF_8, "", id="not UTF-8"),
        pytest.param(b'{"TransactionId":"T","A":NaN}', Reason.NOT_JSON, "", id="NaN"),
        pytest.param(b'{"TransactionId":"T","A":"\n"}', Reason.NOT_JSON, "", id="a bare line feed in text"),
        pytest.param(b'{"TransactionId":"T","A":"\\x"}', Reason.NOT_JSON, "", id="an unknown escape"),
        pytest.param(
            b'{"TransactionId":"T","A":%s}' % (b"9" * 5000), Reason.NUMBER_OUT_OF_RANGE, "", id="5,000 digits"
        ),
        pytest.param(b'{"TransactionId":"T","A":1e99999999999999999999}', Reason.NUMBER_OUT_OF_RANGE, "", id="1e99…"),
        pytest.param(
            b'{"TransactionId":"T","A":%s%s}' % (b"[" * 5000, b"]" * 5000), Reason.NESTED_TOO_DEEP, "", id="deep"
        ),
    ],
)
def test_an_unreadable_item_is_kept_apart(item: bytes, reason: Reason, path: str) -> None:
    """Its bytes, its place and why; those before and behind it are records."""
    good = [b'{"TransactionId":"a"}', b'{"TransactionId":"z"}']
    data = b'{"AccountId":"acc","Transaction":[' + b" , ".join([good[0], item, good[1]]) + b"]}"
    decoded = decode(BY_NAME[N.TRANSACTIONS], "acc", data, page=7)
    (apart,) = decoded.unreadable
    assert [record.key for record in decoded.records] == ["a", "z"]
    assert (apart.page, apart.path, apart.raw) == (7, f"Data.Transaction[1]{path}", item)
    assert apart.reason in {reason, Reason.NUMBER_TOO_LONG if reason is Reason.NUMBER_OUT_OF_RANGE else reason}
    assert set(decoded.notes) <= {"item.no_usable_key", "item.unreadable"}
    assert item.decode(errors="replace") not in repr(apart)


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        pytest.param(b'"9998"', "9998", id="text"),
        pytest.param(b"9998", "9998", id="a number is text"),
        pytest.param(b"123456789012345678901234567890", "123456789012345678901234567890", id="beyond 64 bits"),
        pytest.param(b'"007"', "007", id="zeros in front are kept"),
        pytest.param(b'" a "', " a ", id="space around it is kept"),
        pytest.param(b'"\xd9\x84"', "\u0644", id="any letters"),
    ],
)
def test_an_id_is_kept_as_sent(typed: bytes, key: str) -> None:
    """Typed as text or as a whole number, in items and for the account they belong to."""
    data = b'{"AccountId":' + typed + b',"Transaction":[{"TransactionId":' + typed + b"}]}"
    decoded = decode(BY_NAME[N.TRANSACTIONS], key, data)
    assert ([record.key for record in decoded.records], decoded.violations) == ([key], 0)


@pytest.mark.parametrize("told", ["null", '""', '" "'])
def test_an_account_that_is_not_told_is_the_one_that_was_asked_for(told: str) -> None:
    """Null and blank name no account, as a missing member does not."""
    decoded = decode(BY_NAME[N.TRANSACTIONS], "acc", f'{{"AccountId":{told},"Transaction":[]}}'.encode())
    assert decoded == Decoded(Items(), ())


def test_half_a_surrogate_pair_is_repaired_in_its_column() -> None:
    """As a bank writes that cuts a text at 35 UTF-16 units; the item's bytes stay as sent, whole pairs too."""
    item = rb'{"TransactionId":"t","TransactionInformation":"\ud83c\udf19 \\ud83c \ud83c","Status":"\uDF19"}'
    data = b'{"AccountId":"acc","Transaction":[' + item + b',{"TransactionId":"u"}]}'
    decoded = decode(BY_NAME[N.TRANSACTIONS], "acc", data)
    told = dict(zip(typed_columns(RECORD_TABLES[N.TRANSACTIONS]), decoded.records[0].columns, strict=True))
    assert [record.key for record in decoded.records] == ["t", "u"]
    assert (told["transaction_information"], told["status"]) == ("\U0001f319 \\ud83c \ufffd", "\ufffd")
    assert (decoded.records[0].raw, dict(decoded.notes), decoded.violations) == (item, {"item.repaired": 1}, 0)
    assert canonical(item)


HOSTILE = [
    b"NaN",
    b"-Infinity",
    b"01",
    b"1e99999999999999999999",
    b"9" * 600,
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\x"',
    b'"\x00"',
    b'"\xff\xfe"',
    b"[" * 60 + b"]" * 60,
    b"[" * 2000 + b"]" * 2000,
    b'{"a":1,"a":{}}',
    b"tru",
    b"",
    b"'",
    b"{]",
    b'"]}"',
    b'"\\\\"',
    b'"\\""',
    b"//",
    b"{} {}",
    b'{"a"}',
    b"[,]",
    b"\xef\xbb\xbf1",
]


@given(
    at=st.integers(0, 4),
    member=st.sampled_from([b"TransactionId", b"Amount", b"BookingDateTime", b"Anything", b"\\ud83c", b"\xff"]),
    value=st.sampled_from(HOSTILE) | st.binary(max_size=12).filter(lambda some: not set(some) & set(b'"[]{},\\')),
    whole=st.booleans(),
)
def test_whatever_one_item_is_the_others_are_records(at: int, member: bytes, value: bytes, whole: bool) -> None:
    """As long as its brackets and quotes balance: it is a record or kept apart, never both."""
    items = [b'{"TransactionId":"t-%d","Amount":{"Amount":"1.5","Currency":"AED"}}' % number for number in range(5)]
    items[at] = value if whole and value.strip(b" \t\r\n") else b'{"TransactionId":"t-x","%s":%s}' % (member, value)
    data = b'{"AccountId":"acc","Transaction":[' + b",".join(items) + b"]}"
    for page in (data, PartlyReadable(data)):
        decoded = decode(BY_NAME[N.TRANSACTIONS], "acc", page)
        keys = [record.key for record in decoded.records]
        others = [f"t-{number}" for number in range(5) if number != at]
        assert [key for key in keys if key in others] == others
        assert len(keys) + decoded.violations == 5
        assert [record.raw for record in decoded.records if record.key in others] == items[:at] + items[at + 1 :]


def test_an_item_that_is_not_utf_8_is_counted_and_left_out() -> None:
    """Its bytes pass the envelope, which skips over items, but nobody can read them."""
    data = b'{"AccountId":"acc","Transaction":[{"TransactionId":"T\xff"},{"TransactionId":"ok"}]}'
    decoded = decode(BY_NAME[N.TRANSACTIONS], "acc", data)
    assert ([record.key for record in decoded.records], decoded.violations) == (["ok"], 1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"AccountId":"acc"}', id="no items: an absence that proves nothing"),
        pytest.param(b'{"AccountId":"acc","Balance":null}', id="null items"),
        pytest.param(b'{"AccountId":"acc","Balance":"x"}', id="text for items"),
        pytest.param(b'{"AccountId":"other","Balance":[]}', id="another account's"),
        pytest.param(b"[]", id="a list for Data"),
        pytest.param(b'{"AccountId":"acc","Balance":[{"Type":"x]}', id="a string without its end"),
        pytest.param(b'{"AccountId":"acc","Balance":[{"Type":"x"}', id="brackets that do not match"),
        pytest.param(b'{"AccountId":"acc","Balance":[{"Type":"x"},,{}]}', id="a comma too many"),
        pytest.param(b'{"AccountId":["acc"],"Balance":[]}', id="a list for the account's id"),
        pytest.param(b'{"AccountId":1.0,"Balance":[]}', id="a number with a point for the account's id"),
    ],
)
def test_a_page_nobody_can_trust_is_a_violation(data: bytes) -> None:
    """The whole page is refused: reading it as empty would bury everything."""
    with pytest.raises(StandardViolationError):
        decode(BY_NAME[N.BALANCES], "acc", data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.decimals(allow_nan=False, allow_infinity=False, places=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


ODD = JSON | st.sampled_from(
    ["Debit", "Credit", "1.5", "1e9", "NaN", "true", "2026-05-01", "2026-05-01T10:00:00", "9999-12-31T23:59:59Z"]
)


def odd_items(resource: ResourceName) -> st.SearchStrategy[dict[str, Any]]:
    """Items with a usable key and anything at all in the members that columns are read from."""
    paths = {path for _, either in TYPED[resource].columns.values() for path in either.split("|")}
    members: dict[str, set[str]] = {
        "CreditDebitIndicator": set(),
        "CreditorAccount": {"Name"},
        "DebtorAccount": {"Name"},
    }
    for path in paths | {"OpeningBalance.CreditDebitIndicator"}:
        first, *rest = path.split(".")
        members.setdefault(first, set()).update(rest[:1])
    values = {
        name: ODD | st.fixed_dictionaries({}, optional=dict.fromkeys(below, ODD)) if below else ODD
        for name, below in members.items()
    }
    return st.fixed_dictionaries({}, optional=values).map(
        lambda item: item | {path: "k" for path in BY_NAME[resource].key if "." not in path}
    )


@pytest.mark.parametrize("resource", N)
@settings(
    max_examples=25,  # of each resource
    deadline=None,  # the first draw of a process makes tables of all characters, which takes a busy machine seconds
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_item_stops_the_others(resource: ResourceName, data: st.DataObject) -> None:
    """Whatever its members are, it is a record or a counted violation, and the next item is read."""
    decoded = read(resource, json.loads(written(data.draw(odd_items(resource)), reverse=False)))
    assert len(decoded.records) + decoded.violations == 1


def written(value: Any, *, reverse: bool) -> str:
    """JSON text with members in one order or the other, numbers written exactly."""
    match value:
        case dict():
            members = sorted(value.items(), reverse=reverse)
            return "{" + ", ".join(f"{json.dumps(k)} : {written(v, reverse=reverse)}" for k, v in members) + "}"
        case list():
            return "[" + ",".join(written(one, reverse=reverse) for one in value) + "]"
        case Decimal():
            return f"{value:f}"
        case _:
            return json.dumps(value, ensure_ascii=reverse)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_the_digest_ignores_order_and_space(members: dict[str, Any]) -> None:
    """Two spellings of one item are no change."""
    item = members | {"PartyId": "p"}
    one, other = (
        decode(BY_NAME[N.PARTIES], "", f'{{"Party":{written(item, reverse=reverse)}}}'.encode()).records[0]
        for reverse in (False, True)
    )
    assert one.digest == other.digest


@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4), max_size=4))
def test_no_byte_of_an_item_is_lost(items: list[dict[str, Any]]) -> None:
    """The raw items, joined again, are the page."""
    texts = [written(item | {"PartyId": str(index)}, reverse=False) for index, item in enumerate(items)]
    data = ('{"AccountId":"acc","Party":[' + ",".join(texts) + "]}").encode()
    records = decode(BY_NAME[N.ACCOUNT_PARTIES], "acc", data).records
    assert b",".join(record.raw for record in records) == ",".join(texts).encode()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(b'{"a":1.10}', b'{"a":1.1}', id="digits after the point"),
        pytest.param(b'{"a":9007199254740993}', b'{"a":9007199254740992}', id="beyond a float"),
        pytest.param(b'{"a":"1"}', b'{"a":1}', id="text and number"),
        pytest.param(b'{"a":[1,2]}', b'{"a":[2,1]}', id="order of a list"),
        pytest.param(b'{"a":null}', b"{}", id="null and absent"),
    ],
)
def test_the_canonical_form_keeps_what_matters(one: bytes, other: bytes) -> None:
    """Two items that differ in value differ in digest."""
    assert canonical(one) != canonical(other)


def test_a_record_says_nothing_about_itself() -> None:
    """Neither its repr nor the page's shows what the LFI sent."""
    assert "Noor" not in repr(read(N.TRANSACTIONS, TRANSACTION))


JWE = "a.b.c.d.e"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(
            {"ProductId": "P-1", "ProductType": "Loan", "LendingRates": [{"LendingRateType": "Fixed", "Rate": "4"}]},
            (None, None, "open"),
            id="v1.2",
        ),
        pytest.param(
            {"ProductId": "P-1", "ProductType": "Loan", "LendingRates": JWE, "IsSecured": True},
            (None, True, "locked"),
            id="v2.0",
        ),
        pytest.param(
            {"ShariaStructure": "Ijara", "IsSecured": False, "FinanceRates": {"RateType": "FixedProfit"}},
            ("Ijara", False, "open"),
            id="v2.1",
        ),
        pytest.param({"FinanceRates": JWE, "LendingRates": []}, (None, None, "locked"), id="both: the newer name wins"),
    ],
)
def test_a_product_fills_its_columns_in_every_version(item: dict[str, Any], expected: tuple[Any, ...]) -> None:
    """Other names are alternatives of one column; what a version lacks is NULL, and neither is an oddity."""
    names = ("sharia_structure", "is_secured", "finance_rates")
    assert tuple(columns(N.PRODUCT, item)[name] for name in names) == expected
    assert dict(read(N.PRODUCT, item).notes) == {}


def test_words_of_older_versions_are_kept() -> None:
    """A personal loan stays one, a party without a category is read, an instant as v1.1 wrote it is understood."""
    account = {"AccountId": "a", "AccountSubType": "PersonalLoan", "OpeningDate": "2024-01-31T10:00:00+0300"}
    told = columns(N.ACCOUNTS, account)
    assert (told["account_sub_type"], told["opening_date"]) == (
        "PersonalLoan",
        datetime(2024, 1, 31, 7, tzinfo=UTC),
    )
    party = {"PartyId": "p", "VerifiedClaims": [{"Claims": {"ResidentialAddress": {"Formatted": "Dubai"}}}]}
    assert set(columns(N.PARTIES, party).values()) == {None}
