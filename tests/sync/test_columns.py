"""What the typed columns say of an item, column by column, and what becomes of members of another type."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from syncworker.standard.resources import BY_NAME, ResourceName
from syncworker.store.tables import PERSONAL, RECORD_TABLES, SEALED_COLUMNS, metadata, typed_columns
from syncworker.sync.decode import Identifier, columns_of, decode, identifiers_of

pytestmark = pytest.mark.unit

N = ResourceName
AED = "AED"


def amount(number: str, currency: str = AED) -> dict[str, str]:
    return {"Amount": number, "Currency": currency}


def read(resource: ResourceName, item: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """The columns that are not NULL, and what was odd."""
    row = BY_NAME[resource]
    keyed = {"TransactionId": "k", "StatementId": "k", "PartyId": "k", "BeneficiaryId": "k", "StandingOrderId": "k"}
    keyed |= {"ScheduledPaymentId": "k", "AccountId": "k"}
    whole = {name: keyed[name] for name in row.key if name in keyed} | item
    scope = {"AccountId": "acc"} if row.per_account else {}
    decoded = decode(row, "acc" if row.per_account else "", json.dumps(scope | {row.items: [whole]}).encode())
    (record,) = decoded.records
    told = dict(zip(typed_columns(RECORD_TABLES[resource]), record.columns, strict=True))
    assert columns_of(resource, record.raw) == record.columns, "an item that is held says the same"
    return {name: value for name, value in told.items() if value is not None}, dict(decoded.notes)


AT = datetime(2026, 5, 1, 21, 30, tzinfo=UTC)
SENT_AT = "2026-05-02T01:30:00+04:00"
CREDITOR = {
    "CreditorAgent": {"SchemeName": "BICFI", "Identification": "SANDAEAD"},
    "CreditorAccount": [{"SchemeName": "IBAN", "Identification": "AE07"}, {"SchemeName": "EWallet"}],
}
CREDITOR_COLUMNS = {
    "creditor_scheme": "IBAN",
    "creditor_identification": "AE07",
    "creditor_agent_scheme": "BICFI",
    "creditor_agent_identification": "SANDAEAD",
}
HOLDER = {"AccountHolderName": "Sara Bhat", "AccountHolderShortName": "S. Bhat"}
HOLDER_COLUMNS = {"holder_name": "Sara Bhat", "holder_short_name": "S. Bhat"}


@pytest.mark.parametrize(
    ("resource", "item", "told"),
    [
        pytest.param(
            N.ACCOUNTS,
            HOLDER
            | {
                "StatusUpdateDateTime": SENT_AT,
                "MaturityDate": SENT_AT,
                "Servicer": {"SchemeName": "BICFI", "Identification": "SANDAEAD"},
                "IsShariaCompliant": False,
            },
            HOLDER_COLUMNS
            | {
                "status_update_date_time": AT,
                "maturity_date": AT,
                "servicer_scheme": "BICFI",
                "servicer_identification": "SANDAEAD",
                "is_sharia_compliant": False,
            },
            id="an account",
        ),
        pytest.param(
            N.BALANCES,
            {
                "Type": "InterimBooked",
                "Amount": amount("5"),
                "CreditLine": [{"Included": False, "Type": "Pre-Agreed", "Amount": amount("1000.00")}],
                "Components": [{"BalanceCategory": "Principal", "Amount": amount("4.50")}],
            },
            {
                "type": "InterimBooked",
                "currency": AED,
                "amount": Decimal(5),
                "credit_lines": [{"included": False, "type": "Pre-Agreed", "amount": "1000.00", "currency": AED}],
                "components": [{"balance_category": "Principal", "amount": "4.50", "currency": AED}],
            },
            id="credit lines and lending components of a balance",
        ),
        pytest.param(
            N.TRANSACTIONS,
            {
                "CreditDebitIndicator": "Credit",
                "DebtorAgent": {"SchemeName": "BICFI", "Identification": "SANDAEAD", "Name": "Sandbox"},
                "DebtorAccount": {"SchemeName": "IBAN", "Identification": "AE08", "Name": "Omar"},
                "CreditorAgent": {"Identification": "not the other side of a Credit"},
                "Balance": {"CreditDebitIndicator": "Debit", "Type": "InterimBooked", "Amount": amount("7.25")},
                "ChargeAmount": amount("1.05") | {"ChargeIncluded": True},
                "ChargeAmountVat": amount("0.05"),
                "Flags": ["Payroll", "Cashback"],
                "PaymentModes": "Online",
                "TransactionMutability": "Mutable",
                "LocalTimeZone": "UTC+04:00",
                "StatementReference": "S-1",
                "PaymentPurposeCode": "SAL",
            },
            {
                "credit_debit_indicator": "Credit",
                "counterparty_name": "Omar",
                "counterparty_scheme": "IBAN",
                "counterparty_identification": "AE08",
                "counterparty_agent_scheme": "BICFI",
                "counterparty_agent_identification": "SANDAEAD",
                "counterparty_agent_name": "Sandbox",
                "running_balance": Decimal("-7.25"),
                "running_balance_currency": AED,
                "running_balance_type": "InterimBooked",
                "charge_amount": Decimal("1.05"),
                "charge_currency": AED,
                "charge_included": True,
                "charge_vat_amount": Decimal("0.05"),
                "charge_vat_currency": AED,
                "flags": ["Payroll", "Cashback"],
                "payment_mode": "Online",
                "mutability": "Mutable",
                "local_time_zone": "UTC+04:00",
                "statement_reference": "S-1",
                "payment_purpose_code": "SAL",
            },
            id="a transfer received",
        ),
        pytest.param(
            N.TRANSACTIONS,
            {
                "CurrencyExchange": {
                    "SourceCurrency": "USD",
                    "TargetCurrency": AED,
                    "UnitCurrency": "USD",
                    "ExchangeRate": 3.67251234567,
                    "ContractIdentification": "FX-1",
                    "QuotationDate": SENT_AT,
                    "InstructedAmount": amount("10", "USD"),
                },
                "CardInstrument": {
                    "CardSchemeName": "VISA",
                    "InstrumentType": "Chip",
                    "Name": "SARA BHAT",
                    "Identification": "************1234",
                },
                "TerminalId": 12345678901234567890,
                "MerchantDetails": {"MerchantId": "00012345"},
                "GeoLocation": {"Latitude": "25.2", "Longitude": "55.3"},
                "IsPrimaryInstrument": True,
            },
            {
                "exchange_source_currency": "USD",
                "exchange_target_currency": AED,
                "exchange_unit_currency": "USD",
                "exchange_rate": "3.67251234567",
                "exchange_contract": "FX-1",
                "exchange_quoted_at": AT,
                "exchange_instructed_amount": Decimal(10),
                "exchange_instructed_currency": "USD",
                "card_scheme": "VISA",
                "card_instrument_type": "Chip",
                "card_name": "SARA BHAT",
                "card_masked_number": "************1234",
                "terminal_id": "12345678901234567890",
                "merchant_id": "00012345",
                "latitude": "25.2",
                "longitude": "55.3",
                "is_primary_instrument": True,
            },
            id="a card payment in another currency",
        ),
        pytest.param(
            N.TRANSACTIONS,
            {
                "BankTransactionCode": {
                    "Domain": "Payments", "DomainCode": "PMNT", "Family": "Received", "FamilyCode": "RCDT",
                    "SubFamily": "Salary", "SubFamilyCode": "SALA",
                },
                "ProprietaryBankTransactionCode": {"Code": "77", "Issuer": "bank"},
                "BillDetails": {"BillerId": 17, "BillNumber": "0501234567", "BillPaymentType": "Post-Paid"},
                "Allocations": {"BalanceCategory": "Interest", "Amount": amount("3.10")},
            },
            {
                "bank_transaction_domain": "Payments",
                "bank_transaction_domain_code": "PMNT",
                "bank_transaction_family": "Received",
                "bank_transaction_family_code": "RCDT",
                "bank_transaction_sub_family": "Salary",
                "bank_transaction_sub_family_code": "SALA",
                "proprietary_transaction_code": "77",
                "proprietary_transaction_code_issuer": "bank",
                "biller_id": "17",
                "bill_number": "0501234567",
                "bill_payment_type": "Post-Paid",
                "allocation_category": "Interest",
                "allocation_amount": Decimal("3.10"),
                "allocation_currency": AED,
            },
            id="codes, a bill and what a loan's instalment paid",
        ),
        pytest.param(
            N.BENEFICIARIES,
            HOLDER | CREDITOR | {"CreditorAgent": CREDITOR["CreditorAgent"] | {"Name": "Sandbox"}},  # type: ignore[operator]
            HOLDER_COLUMNS | CREDITOR_COLUMNS | {"creditor_agent_name": "Sandbox"},
            id="a beneficiary: of several accounts the first",
        ),
        pytest.param(
            N.STANDING_ORDERS,
            HOLDER
            | CREDITOR
            | {
                "CreditorReference": "Rent",
                "Purpose": "Home",
                "LastPaymentAmount": amount("90"),
                "FinalPaymentAmount": amount("95", "KWD"),
            },
            HOLDER_COLUMNS
            | CREDITOR_COLUMNS
            | {
                "creditor_reference": "Rent",
                "purpose": "Home",
                "last_payment_amount": Decimal(90),
                "last_payment_currency": AED,
                "final_payment_amount": Decimal(95),
                "final_payment_currency": "KWD",
            },
            id="a standing order",
        ),
        pytest.param(
            N.SCHEDULED_PAYMENTS,
            HOLDER | CREDITOR | {"CreditorReference": "theirs", "DebtorReference": "ours"},
            HOLDER_COLUMNS | CREDITOR_COLUMNS | {"creditor_reference": "theirs", "debtor_reference": "ours"},
            id="a scheduled payment",
        ),
        pytest.param(
            N.STATEMENTS,
            {
                "CreditLine": amount("5000"),
                "ClosingBalance": {
                    "CreditDebitIndicator": "Debit",
                    "Amount": amount("10"),
                    "Components": [{"BalanceCategory": "Interest", "Amount": amount("0.10")}],
                },
                "Summary": [
                    {"CreditDebitIndicator": "Debit", "SubTransactionType": "Fee", "Amount": amount("1.50"),
                     "Count": 2},
                    {"CreditDebitIndicator": "Debit", "SubTransactionType": "Interest", "Amount": amount("0.00")},
                    {"CreditDebitIndicator": "Credit", "SubTransactionType": "Rewards", "Amount": amount("3.00")},
                ],
                "ExpectedNextStatement": [{"Type": "Fee", "Amount": amount("1.50")}],
                "NextPayment": [{"Date": "2026-06-01", "Type": "Minimum", "Amount": amount("100")}],
            },
            {
                "credit_line_amount": Decimal(5000),
                "credit_line_currency": AED,
                "closing_balance": Decimal(-10),
                "closing_currency": AED,
                "closing_components": [{"balance_category": "Interest", "amount": "0.10", "currency": AED}],
                "summary": [
                    {"credit_debit_indicator": "Debit", "sub_transaction_type": "Fee", "amount": "-1.50",
                     "currency": AED, "count": "2"},
                    {"credit_debit_indicator": "Debit", "sub_transaction_type": "Interest", "amount": "0.00",
                     "currency": AED},
                    {"credit_debit_indicator": "Credit", "sub_transaction_type": "Rewards", "amount": "3.00",
                     "currency": AED},
                ],
                "expected_next": [{"type": "Fee", "amount": "1.50", "currency": AED}],
                "next_payments": [{"date": "2026-06-01", "type": "Minimum", "amount": "100", "currency": AED}],
            },
            id="a statement",
        ),
        pytest.param(
            N.PRODUCT,
            {
                "FinanceRates": {"RateType": "FixedProfit", "Rate": 4.25,
                                 "Tiers": [{"LTVTierDetails": [{"LTVStart": 0}]}]},
                "Charges": [
                    {"Type": "LatePayment", "Charge": [{"Rate": 1.5, "MaximumChargeAmount": amount("100")}],
                     "DonatedToCharity": True, "SupplementaryInformation": {"a": 1}},
                ],
                "DepositRates": {"RateType": "FixedInterest", "RateDetails": [{"AnnualRate": 3}]},
                "Tenor": {"OriginalTenor": "P25Y", "RemainingTenor": "P24Y6M"},
                "AssetBacked": [{"Type": "Collateral", "AssetType": "Property"}],
                "RewardsBenefits": [{"Type": "Points", "Balance": "1200"},
                                    {"Type": "Cashback", "Balance": amount("2")}],
            },
            {
                "finance_rates": "open",
                "rates": {"rate_type": "FixedProfit", "rate": "4.25",
                          "tiers": [{"ltv_tier_details": [{"ltv_start": "0"}]}]},
                "charges": [
                    {"type": "LatePayment",
                     "charge": [{"rate": "1.5", "maximum_charge_amount": {"amount": "100", "currency": AED}}],
                     "donated_to_charity": True},
                ],
                "deposit_rates": {"rate_type": "FixedInterest", "rate_details": [{"annual_rate": "3"}]},
                "original_tenor": "P25Y",
                "remaining_tenor": "P24Y6M",
                "asset_backed": [{"type": "Collateral", "asset_type": "Property"}],
                "rewards_benefits": [{"type": "Points", "balance": "1200"},
                                     {"type": "Cashback", "balance": {"amount": "2", "currency": AED}}],
            },
            id="a product of v2.1",
        ),
        pytest.param(
            N.PRODUCT,
            {
                "ProductId": "P-1", "ProductType": "Loan", "ProductName": "Home", "IsIslamic": True,
                "LendingRates": [{"LendingRateType": "Fixed", "Rate": "4.10"}],
                "Charges": [{"Name": "Late", "ChargeType": "Fee", "Amount": amount("25.00")}],
            },
            {
                "product_id": "P-1", "product_type": "Loan", "product_name": "Home", "is_islamic": True,
                "finance_rates": "open",
                "rates": [{"lending_rate_type": "Fixed", "rate": "4.10"}],
                "charges": [{"name": "Late", "charge_type": "Fee", "amount": "25.00", "currency": AED}],
            },
            id="a product before v2.1",
        ),
        pytest.param(N.PRODUCT, {"FinanceRates": "a.b.c.d.e"}, {"finance_rates": "locked"}, id="rates that are locked"),
        pytest.param(
            N.ACCOUNT_PARTIES,
            {"VerifiedClaims": [{"Claims": {"IdentityType": "Person", "FullName": "Sara Bhat", "Surname": "Bhat"}}]},
            {"kind": "Person", "name": "Sara Bhat"},
            id="a person",
        ),
        pytest.param(
            N.ACCOUNT_PARTIES,
            {"VerifiedClaims": [{"Verification": {}}, {"Claims": {"GivenName": "Sara", "Surname": "Bhat"}}]},
            {"kind": "Person", "name": "Sara Bhat"},
            id="a person of v1.2, without a full name",
        ),
        pytest.param(
            N.PARTIES,
            {"VerifiedClaims": [{"Claims": {"BusinessName": "Dune Trading"}}]},
            {"kind": "Business", "name": "Dune Trading"},
            id="a business that does not say that it is one",
        ),
        pytest.param(
            N.PARTIES,
            {"VerifiedClaims": [{"Claims": {"IdentityType": "Trust", "BusinessName": "Dune"}}]},
            {"kind": "Trust", "name": "Dune"},
            id="a kind that is not in the standard is kept",
        ),
    ],
)  # fmt: skip
def test_an_item_fills_its_columns(resource: ResourceName, item: dict[str, Any], told: dict[str, Any]) -> None:
    """Amounts exact and signed, lists as JSON with amounts as text, and nothing odd about it."""
    assert read(resource, item) == (told, {})


@pytest.mark.parametrize(
    ("resource", "item", "column", "value", "notes"),
    [
        (N.TRANSACTIONS, {"ChargeAmount": "free"}, "charge_amount", None, {}),
        (N.TRANSACTIONS, {"ChargeAmount": {"Amount": "-1"}}, "charge_amount", None, {"charge_amount.not_an_amount": 1}),
        (N.TRANSACTIONS, {"ChargeAmount": {"ChargeIncluded": "true"}}, "charge_included", True,
         {"charge_included.wrong_type": 1}),
        (N.TRANSACTIONS, {"Balance": {"Amount": amount("1")}}, "running_balance", None, {"running_balance.no_sign": 1}),
        (N.TRANSACTIONS, {"Balance": [1]}, "running_balance", None, {}),
        (N.TRANSACTIONS, {"Flags": "Payroll"}, "flags", None, {"flags.wrong_type": 1}),
        (N.TRANSACTIONS, {"Flags": ["a\u0000b"]}, "flags", ["a\ufffdb"], {}),
        (N.TRANSACTIONS, {"Flags": []}, "flags", [], {}),
        (N.TRANSACTIONS, {"CurrencyExchange": {"ExchangeRate": "3.6725"}}, "exchange_rate", "3.6725", {}),
        (N.TRANSACTIONS, {"CurrencyExchange": {"ExchangeRate": "about 3"}}, "exchange_rate", None,
         {"exchange_rate.not_a_number": 1}),
        (N.TRANSACTIONS, {"CurrencyExchange": {"ExchangeRate": True}}, "exchange_rate", None,
         {"exchange_rate.not_a_number": 1}),
        (N.TRANSACTIONS, {"CurrencyExchange": {"ExchangeRate": "1e9999"}}, "exchange_rate", None,
         {"exchange_rate.not_a_number": 1}),
        (N.TRANSACTIONS, {"CurrencyExchange": {"ExchangeRate": "0." + "3" * 60}}, "exchange_rate", None,
         {"exchange_rate.too_long": 1}),
        (N.TRANSACTIONS, {"DebtorAccount": [{"Name": "listed"}], "CreditDebitIndicator": "Credit"}, "counterparty_name",
         "listed", {}),
        (N.TRANSACTIONS, {"CardInstrument": {"Identification": ["x"]}}, "card_masked_number", None,
         {"card_masked_number.wrong_type": 1}),
        (N.BENEFICIARIES, {"CreditorAccount": {"Identification": "AE1"}}, "creditor_identification", "AE1", {}),
        (N.BENEFICIARIES, {"CreditorAccount": []}, "creditor_identification", None, {}),
        (N.BALANCES, {"Type": "X", "Amount": amount("1"), "CreditLine": 5}, "credit_lines", None,
         {"credit_lines.wrong_type": 1}),
        (N.BALANCES, {"Type": "X", "Amount": amount("1"), "CreditLine": [{"Amount": "5", "Type": None}]},
         "credit_lines", [{"amount": "5"}], {}),
        (N.STATEMENTS, {"Summary": [{"CreditDebitIndicator": "Debit", "Amount": amount("much")}]}, "summary",
         [{"credit_debit_indicator": "Debit", "amount": "much", "currency": AED}], {}),
        (N.PARTIES, {"VerifiedClaims": {"Claims": {"FullName": "not a list"}}}, "name", "not a list", {}),
        (N.PARTIES, {"VerifiedClaims": [{"Claims": {"FullName": ["x"]}}]}, "name", None, {"name.wrong_type": 1}),
        (N.PRODUCT, {"FinanceRates": {"RateType": "A"}, "LendingRates": [{"Rate": "1"}]}, "rates",
         {"rate_type": "A"}, {}),
        (N.PRODUCT, {"LendingRates": [{"Rate": "1"}], "FinanceRates": {"RateType": "A"}}, "rates",
         {"rate_type": "A"}, {}),
    ],
)  # fmt: skip
def test_reading_is_tolerant(
    resource: ResourceName, item: dict[str, Any], column: str, value: Any, notes: dict[str, int]
) -> None:
    """What does not fit becomes NULL and is counted; the item passes."""
    told, odd = read(resource, item)
    assert (told.get(column), odd) == (value, notes)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"a":\xff}'])
def test_bytes_that_are_no_object_have_no_columns(raw: bytes) -> None:
    """As columns, and as identifiers of an account."""
    assert (columns_of(N.TRANSACTIONS, raw), identifiers_of(raw)) == (None, ())


def test_an_item_that_had_to_be_repaired_has_its_columns() -> None:
    """Half of a surrogate pair, as a bank leaves that cuts a text."""
    values = columns_of(N.TRANSACTIONS, rb'{"TransactionId":"t","StatementReference":"a\ud83c"}')
    assert values is not None
    assert values[typed_columns(RECORD_TABLES[N.TRANSACTIONS]).index("statement_reference")] == "a\ufffd"


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        pytest.param([], [], id="none"),
        pytest.param(None, [], id="null"),
        pytest.param("AE07", [], id="text"),
        pytest.param(
            [{"SchemeName": "IBAN", "Identification": "AE07", "Name": "Sara"}, 5, {"Identification": 1001}],
            [Identifier("IBAN", "AE07", "Sara"), Identifier(None, "1001", None)],
            id="in the bank's order",
        ),
        pytest.param({"SchemeName": "IBAN"}, [Identifier("IBAN", None, None)], id="one object"),
        pytest.param(
            [{"Identification": "9" * 500}], [Identifier(None, "9" * 400, None)], id="cut at what the standard allows"
        ),
    ],
)
def test_identifiers_are_read_as_sent(sent: Any, told: list[Identifier]) -> None:
    """What is none is left out."""
    found = identifiers_of(json.dumps({"AccountIdentifiers": sent}).encode())
    assert list(found) == told
    assert "AE07" not in repr(found)


def test_personal_columns_are_columns() -> None:
    """Of the tables they are named for; and what is sealed is personal."""
    for table, columns in (*PERSONAL.items(), *SEALED_COLUMNS.items()):
        assert columns <= {column.name for column in metadata.tables[table].columns}
        assert SEALED_COLUMNS.get(table, frozenset()) <= PERSONAL[table]


def test_a_day_of_a_statement_stays_a_day() -> None:
    """Dates of statements are dates, those of accounts instants."""
    told, _ = read(N.STATEMENTS, {"OpeningDate": "2026-05-01"})
    assert told == {"opening_date": date(2026, 5, 1)}
