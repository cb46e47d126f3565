"""Write arrangements, as `render` writes the rest: as items of the API, and as rows of the bank's own books.

Columns of the books, in the words of our tables:

- beneficiaries: beneficiary_type, added_via_of, reference, the creditor's account and bank
- direct_debits: mandate_identification, status, name, frequency, previous_payment_date_time, previous_payment_amount,
  previous_payment_currency
- standing_orders: standing_order_type, status, frequency, first_, next_, last_ and final_payment_date_time,
  number_of_payments, first_, next_, last_ and final_payment_amount and _currency, creditor_reference, purpose, the
  creditor's account and bank
- scheduled_payments: scheduled_type, scheduled_payment_date_time, amount, currency, creditor_reference, the creditor's
  account and bank
- statements: statement_date, opening_date, closing_date, opening_balance and closing_balance (signed),
  opening_currency, closing_currency, credit_line_amount and _currency, components, summary, next_payments
- product: sharia_structure, is_secured, is_salary_transfer_required, finance_rates (`locked`, `open` or null), and its
  terms as the version words them (`terms_columns`)
"""

from decimal import Decimal
from typing import Any

from syncworker.simulator.arrangements import (
    Arrangement,
    Beneficiary,
    DirectDebit,
    Money,
    Payee,
    Product,
    ScheduledPayment,
    StandingOrder,
    Statement,
)
from syncworker.simulator.render import Item, indicator, instant, money, plain_money, present, utc


def arrangement_item(arrangement: Arrangement) -> Item:
    """The item of the API, of the schema named like its class."""
    match arrangement:
        case Beneficiary():
            return _beneficiary(arrangement)
        case DirectDebit():
            return _direct_debit(arrangement)
        case StandingOrder():
            return _standing_order(arrangement)
        case ScheduledPayment():
            return _scheduled_payment(arrangement)
        case Statement():
            return _statement(arrangement)
        case Product():
            return _product(arrangement)


def arrangement_columns(arrangement: Arrangement) -> Item:
    """What the books say of it, column by column."""
    match arrangement:
        case Beneficiary():
            return {
                "beneficiary_type": arrangement.beneficiary_type,
                "added_via_of": arrangement.added_via_of,
                "reference": arrangement.reference,
                "creditor_agent_name": arrangement.payee.name,
                **_creditor_columns(arrangement.payee),
            }
        case DirectDebit():
            return _direct_debit_columns(arrangement)
        case StandingOrder():
            return _standing_order_columns(arrangement)
        case ScheduledPayment():
            return {
                "scheduled_type": arrangement.scheduled_type,
                "scheduled_payment_date_time": utc(arrangement.scheduled_at),
                **_sum("", arrangement.instructed),
                "creditor_reference": arrangement.reference,
                "debtor_reference": None,
                **_creditor_columns(arrangement.payee),
            }
        case Statement():
            return _statement_columns(arrangement)
        case Product():
            rates = arrangement.finance_rates
            return {
                "sharia_structure": arrangement.sharia_structure,
                "is_secured": arrangement.is_secured,
                "is_salary_transfer_required": arrangement.is_salary_transfer_required,
                "finance_rates": None if rates is None else "locked" if isinstance(rates, str) else "open",
            }


def _agent(payee: Payee) -> Item:
    return {"SchemeName": payee.agent_scheme, "Identification": payee.bic}


def _account(payee: Payee) -> list[Item]:
    return [{"SchemeName": payee.scheme, "Identification": payee.identification}]


def _creditor_columns(payee: Payee) -> Item:
    return {
        "holder_name": None,
        "holder_short_name": None,
        "creditor_scheme": payee.scheme,
        "creditor_identification": payee.identification,
        "creditor_agent_scheme": payee.agent_scheme,
        "creditor_agent_identification": payee.bic,
    }


def _amount(sum_: Money | None) -> Item | None:
    return None if sum_ is None else money(sum_.amount, sum_.currency)


def _sum(prefix: str, sum_: Money | None) -> Item:
    return {
        f"{prefix}amount": sum_ and format(sum_.amount, "f"),
        f"{prefix}currency": sum_ and sum_.currency,
    }


def _beneficiary(row: Beneficiary) -> Item:
    return present(
        {
            "BeneficiaryId": row.beneficiary_id,
            "BeneficiaryType": row.beneficiary_type,
            "AddedViaOF": row.added_via_of,
            "Reference": row.reference,
            "SupplementaryData": row.supplementary,
            "CreditorAgent": _agent(row.payee) | {"Name": row.payee.name},
            "CreditorAccount": _account(row.payee),
        }
    )


def _direct_debit(row: DirectDebit) -> Item:
    return present(
        {
            "DirectDebitId": row.direct_debit_id,
            "MandateIdentification": row.mandate,
            "DirectDebitStatusCode": row.status,
            "Name": row.name,
            "Frequency": row.frequency,
            "PreviousPaymentDateTime": row.previous_at and instant(row.previous_at),
            "PreviousPaymentAmount": _amount(row.previous),
        }
    )


def _direct_debit_columns(row: DirectDebit) -> Item:
    return {
        "mandate_identification": row.mandate,
        "status": row.status,
        "name": row.name,
        "frequency": row.frequency,
        "previous_payment_date_time": row.previous_at and utc(row.previous_at),
        **_sum("previous_payment_", row.previous),
    }


def _standing_order(row: StandingOrder) -> Item:
    return present(
        {
            "StandingOrderId": row.standing_order_id,
            "StandingOrderType": row.kind,
            "Frequency": row.frequency,
            "CreditorReference": row.reference,
            "Purpose": row.purpose,
            "FirstPaymentDateTime": instant(row.first_at),
            "NextPaymentDateTime": row.next_at and instant(row.next_at),
            "LastPaymentDateTime": row.last_at and instant(row.last_at),
            "FinalPaymentDateTime": row.final_at and instant(row.final_at),
            "NumberOfPayments": row.payments,
            "StandingOrderStatusCode": row.status,
            "FirstPaymentAmount": _amount(row.first),
            "NextPaymentAmount": _amount(row.next),
            "LastPaymentAmount": _amount(row.last),
            "FinalPaymentAmount": _amount(row.final),
            "CreditorAgent": _agent(row.payee),
            "CreditorAccount": _account(row.payee),
        }
    )


def _standing_order_columns(row: StandingOrder) -> Item:
    return {
        "standing_order_type": row.kind,
        "status": row.status,
        "frequency": row.frequency,
        "first_payment_date_time": utc(row.first_at),
        "next_payment_date_time": row.next_at and utc(row.next_at),
        "last_payment_date_time": row.last_at and utc(row.last_at),
        "final_payment_date_time": row.final_at and utc(row.final_at),
        "number_of_payments": row.payments,
        **_sum("first_payment_", row.first),
        **_sum("next_payment_", row.next),
        **_sum("last_payment_", row.last),
        **_sum("final_payment_", row.final),
        "creditor_reference": row.reference,
        "purpose": row.purpose,
        **_creditor_columns(row.payee),
    }


def _scheduled_payment(row: ScheduledPayment) -> Item:
    return present(
        {
            "ScheduledPaymentId": row.scheduled_payment_id,
            "ScheduledType": row.scheduled_type,
            "ScheduledPaymentDateTime": instant(row.scheduled_at),
            "CreditorReference": row.reference,
            "InstructedAmount": _amount(row.instructed),
            "CreditorAgent": _agent(row.payee),
            "CreditorAccount": _account(row.payee),
        }
    )


def _statement(row: Statement) -> Item:
    components = [{"BalanceCategory": name, "Amount": money(part, row.currency)} for name, part in row.components]
    closing = _signed(row.closing_balance, row.currency)
    return present(
        {
            "StatementId": row.statement_id,
            "StatementDate": row.issued_on.isoformat(),
            "OpeningDate": row.opening_date.isoformat(),
            "ClosingDate": row.closing_date.isoformat(),
            "CreditLine": None if row.credit_line is None else money(row.credit_line, row.currency),
            "OpeningBalance": _signed(row.opening_balance, row.currency),
            "ClosingBalance": closing | ({"Components": components} if components else {}),
            "Summary": [
                {
                    "CreditDebitIndicator": "Credit" if total.credit else "Debit",
                    "TransactionType": total.kind,
                    "SubTransactionType": total.sub_kind,
                    "Amount": money(total.amount, row.currency),
                    "Count": total.count,
                }
                for total in row.totals
            ],
            "NextPayment": row.minimum
            and [
                {
                    "Date": row.minimum[0].isoformat(),
                    "Amount": money(row.minimum[1], row.currency),
                    "Type": "Minimum",
                }
            ],
        }
    )


def _statement_columns(row: Statement) -> Item:
    return {
        "statement_date": row.issued_on.isoformat(),
        "opening_date": row.opening_date.isoformat(),
        "closing_date": row.closing_date.isoformat(),
        "opening_balance": format(row.opening_balance, "f"),
        "opening_currency": row.currency,
        "closing_balance": format(row.closing_balance, "f"),
        "closing_currency": row.currency,
        "credit_line_amount": None if row.credit_line is None else format(row.credit_line, "f"),
        "credit_line_currency": None if row.credit_line is None else row.currency,
        "opening_components": None,
        "closing_components": [
            {"balance_category": name, **plain_money(part, row.currency)} for name, part in row.components
        ]
        or None,
        "summary": [
            {
                "credit_debit_indicator": "Credit" if total.credit else "Debit",
                "transaction_type": total.kind,
                "sub_transaction_type": total.sub_kind,
                **plain_money(total.amount, row.currency),
                "count": str(total.count),
            }
            | ({} if total.credit or not total.amount else _debit(total.amount, row.currency))
            for total in row.totals
        ],
        "expected_next": None,
        "next_payments": row.minimum
        and [{"date": row.minimum[0].isoformat(), "type": "Minimum", **plain_money(row.minimum[1], row.currency)}],
    }


def _debit(amount: Decimal, currency: str) -> Item:
    return {"amount": f"-{plain_money(amount, currency)['amount']}"}


def terms_columns(item: Item) -> Item:
    """Columns of a product whose members a version words in its own way, of the item as the version shows it."""
    tenor = item.get("Tenor", {})
    rates = item.get("FinanceRates", item.get("LendingRates"))
    return {
        "product_id": item.get("ProductId"),
        "product_type": item.get("ProductType"),
        "product_name": item.get("ProductName"),
        "is_islamic": item.get("IsIslamic"),
        "charges": _worded(item.get("Charges")),
        "rates": None if isinstance(rates, str) else _worded(rates),
        "deposit_rates": _worded(item.get("DepositRates")),
        "original_tenor": tenor.get("OriginalTenor"),
        "remaining_tenor": tenor.get("RemainingTenor"),
        "asset_backed": _worded(item.get("AssetBacked")),
        "rewards_benefits": _worded(item.get("RewardsBenefits")),
    }


def _worded(part: Any) -> Any:
    """A part of an item in the words of a column: members in snake_case, amounts beside the rest, numbers as text."""
    if isinstance(part, dict):
        found: Item = {}
        for name, value in part.items():
            if name == "Amount" and isinstance(value, dict):
                found |= {"amount": value["Amount"], "currency": value["Currency"]}
            elif not name.startswith("Supplementary"):
                found["".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]] = _worded(
                    value
                )
        return found
    if isinstance(part, list | tuple):
        return [_worded(one) for one in part]
    return str(part) if isinstance(part, int | Decimal) and not isinstance(part, bool) else part


def _product(row: Product) -> Item:
    members: dict[str, Any] = {
        "ShariaStructure": row.sharia_structure,
        "FinanceRates": row.finance_rates,
        "IsSecured": row.is_secured,
        "IsSalaryTransferRequired": row.is_salary_transfer_required,
    }
    return present(members) | dict(row.terms)


def _signed(amount: Decimal, currency: str) -> Item:
    return {"CreditDebitIndicator": indicator(amount), "Amount": money(amount, currency)}
