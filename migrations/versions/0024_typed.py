"""Typed columns people query, and the identifiers of accounts as rows.

Why it is safe on a live table: every column is new and may be NULL, so no row is written anew, and the table that is
new is empty.  Rows that are there are filled afterwards from the items held, in bounded batches.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.

The way back drops the columns: what stood in them is in the items held.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
MONEY = sa.Numeric(18, 5).with_variant(sa.BigInteger(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

COLUMNS: dict[str, tuple[tuple[str, Any, str | None], ...]] = {
    "account": (
        ("holder_name", sa.Text(), "AccountHolderName"),
        ("holder_short_name", sa.Text(), "AccountHolderShortName"),
        ("status_update_date_time", INSTANT, "when the bank says that the status changed"),
        ("maturity_date", INSTANT, "end of a term deposit or of a loan"),
        ("servicer_scheme", sa.Text(), "BICFI or Other"),
        ("servicer_identification", sa.Text(), "the bank that keeps the account, mostly its BIC"),
        ("is_sharia_compliant", sa.Boolean(), "since v2.1"),
    ),
    "account_detail": (
        ("holder_name", sa.Text(), "AccountHolderName"),
        ("holder_short_name", sa.Text(), "AccountHolderShortName"),
        ("status_update_date_time", INSTANT, "when the bank says that the status changed"),
        ("maturity_date", INSTANT, "end of a term deposit or of a loan"),
        ("servicer_scheme", sa.Text(), "BICFI or Other"),
        ("servicer_identification", sa.Text(), "the bank that keeps the account, mostly its BIC"),
        ("is_sharia_compliant", sa.Boolean(), "since v2.1"),
    ),
    "balance": (
        ("credit_lines", JSON, "CreditLine: list of {included, type, amount, currency}"),
        ("components", JSON, "lending, since v2.1: list of {balance_category, amount, currency}"),
    ),
    "transaction": (
        ("counterparty_scheme", sa.Text(), "of the counterparty's account, the first one shown"),
        ("counterparty_identification", sa.Text(), "the counterparty's IBAN or account number"),
        ("counterparty_agent_scheme", sa.Text(), "of the counterparty's bank"),
        ("counterparty_agent_identification", sa.Text(), "the counterparty's bank, mostly its BIC"),
        ("counterparty_agent_name", sa.Text(), "name of the counterparty's bank"),
        ("running_balance", MONEY, "Balance after the transaction, signed"),
        ("running_balance_currency", sa.String(3), None),
        ("running_balance_type", sa.Text(), None),
        ("charge_amount", MONEY, None),
        ("charge_currency", sa.String(3), None),
        ("charge_included", sa.Boolean(), "the amount contains the charge"),
        ("charge_vat_amount", MONEY, None),
        ("charge_vat_currency", sa.String(3), None),
        ("exchange_source_currency", sa.String(3), None),
        ("exchange_target_currency", sa.String(3), None),
        ("exchange_unit_currency", sa.String(3), None),
        ("exchange_rate", sa.Text(), "exact decimal number"),
        ("exchange_contract", sa.Text(), "ContractIdentification"),
        ("exchange_quoted_at", INSTANT, "QuotationDate"),
        ("exchange_instructed_amount", MONEY, None),
        ("exchange_instructed_currency", sa.String(3), None),
        ("flags", JSON, "list of texts: Payroll, Cashback …"),
        ("payment_mode", sa.Text(), "PaymentModes"),
        ("mutability", sa.Text(), "TransactionMutability"),
        ("local_time_zone", sa.Text(), None),
        ("statement_reference", sa.Text(), None),
        ("payment_purpose_code", sa.Text(), None),
        ("bank_transaction_domain", sa.Text(), None),
        ("bank_transaction_domain_code", sa.Text(), None),
        ("bank_transaction_family", sa.Text(), None),
        ("bank_transaction_family_code", sa.Text(), None),
        ("bank_transaction_sub_family", sa.Text(), None),
        ("bank_transaction_sub_family_code", sa.Text(), None),
        ("proprietary_transaction_code", sa.Text(), None),
        ("proprietary_transaction_code_issuer", sa.Text(), None),
        ("terminal_id", sa.Text(), "text: up to 20 digits"),
        ("merchant_id", sa.Text(), "text: up to 20 digits"),
        ("card_scheme", sa.Text(), None),
        ("card_instrument_type", sa.Text(), "how the card was read: Chip, Contactless …"),
        ("card_name", sa.Text(), None),
        ("card_masked_number", sa.Text(), None),
        ("is_primary_instrument", sa.Boolean(), "since v2.0"),
        ("biller_id", sa.Text(), None),
        ("bill_number", sa.Text(), None),
        ("bill_payment_type", sa.Text(), None),
        ("latitude", sa.Text(), None),
        ("longitude", sa.Text(), None),
        ("allocation_category", sa.Text(), "Allocations, lending, since v2.1"),
        ("allocation_amount", MONEY, None),
        ("allocation_currency", sa.String(3), None),
    ),
    "party": (
        ("kind", sa.Text(), "Person | Business: IdentityType, else told by the claims there are"),
        ("name", sa.LargeBinary(), "sealed: FullName, BusinessName, or given name and surname"),
    ),
    "beneficiary": (
        ("holder_name", sa.Text(), "AccountHolderName"),
        ("holder_short_name", sa.Text(), "AccountHolderShortName"),
        ("creditor_scheme", sa.Text(), "of CreditorAccount, the first one shown"),
        ("creditor_identification", sa.Text(), "the creditor's IBAN, account number, e-wallet …"),
        ("creditor_agent_scheme", sa.Text(), "of the creditor's bank"),
        ("creditor_agent_identification", sa.Text(), "the creditor's bank, mostly its BIC"),
        ("creditor_agent_name", sa.Text(), "name of the beneficiary's bank"),
    ),
    "standing_order": (
        ("last_payment_amount", MONEY, None),
        ("last_payment_currency", sa.String(3), None),
        ("final_payment_amount", MONEY, None),
        ("final_payment_currency", sa.String(3), None),
        ("creditor_reference", sa.Text(), None),
        ("purpose", sa.Text(), None),
        ("holder_name", sa.Text(), "AccountHolderName"),
        ("holder_short_name", sa.Text(), "AccountHolderShortName"),
        ("creditor_scheme", sa.Text(), "of CreditorAccount, the first one shown"),
        ("creditor_identification", sa.Text(), "the creditor's IBAN, account number, e-wallet …"),
        ("creditor_agent_scheme", sa.Text(), "of the creditor's bank"),
        ("creditor_agent_identification", sa.Text(), "the creditor's bank, mostly its BIC"),
    ),
    "scheduled_payment": (
        ("creditor_reference", sa.Text(), None),
        ("debtor_reference", sa.Text(), None),
        ("holder_name", sa.Text(), "AccountHolderName"),
        ("holder_short_name", sa.Text(), "AccountHolderShortName"),
        ("creditor_scheme", sa.Text(), "of CreditorAccount, the first one shown"),
        ("creditor_identification", sa.Text(), "the creditor's IBAN, account number, e-wallet …"),
        ("creditor_agent_scheme", sa.Text(), "of the creditor's bank"),
        ("creditor_agent_identification", sa.Text(), "the creditor's bank, mostly its BIC"),
    ),
    "statement": (
        ("credit_line_amount", MONEY, None),
        ("credit_line_currency", sa.String(3), None),
        ("opening_components", JSON, "list of {balance_category, amount, currency}"),
        ("closing_components", JSON, "list of {balance_category, amount, currency}"),
        ("summary", JSON, "totals: list of {sub_transaction_type, amount (signed), currency …}"),
        ("expected_next", JSON, "ExpectedNextStatement: list of {type, amount, currency}"),
        ("next_payments", JSON, "NextPayment: list of {date, type, amount, currency}"),
    ),
    "product": (
        ("product_id", sa.Text(), "before v2.1"),
        ("product_type", sa.Text(), "before v2.1"),
        ("product_name", sa.Text(), "before v2.1"),
        ("is_islamic", sa.Boolean(), "before v2.1; since then ShariaStructure"),
        ("charges", JSON, "list of objects with the standard's members in snake_case"),
        ("rates", JSON, "what financing costs: FinanceRates, an object, or LendingRates, a list; open ones"),
        ("deposit_rates", JSON, "DepositRates: an object since v2.1, a list before"),
        ("original_tenor", sa.Text(), "ISO 8601 duration"),
        ("remaining_tenor", sa.Text(), "ISO 8601 duration"),
        ("asset_backed", JSON, "collateral and transfer of ownership: list of objects"),
        ("rewards_benefits", JSON, "list of objects"),
    ),
}


def upgrade() -> None:
    for table, columns in COLUMNS.items():
        for name, kind, comment in columns:
            op.add_column(table, sa.Column(name, kind, comment=comment))
    op.create_table(
        "account_identifier",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False, comment="the bank's, as account.key"),
        sa.Column("position", sa.Integer(), nullable=False, comment="place in AccountIdentifiers, from 1"),
        sa.Column(
            "scheme",
            sa.String(40),
            comment="IBAN, AccountNumber, MaskedPAN, MortgageReference, FinanceReference",
        ),
        sa.Column("identification", sa.String(400), comment="NULL where raw items are sealed by setting"),
        sa.Column(
            "name", sa.String(350), comment="the account's name under this identifier; NULL where raw items are sealed"
        ),
        sa.Column("gen", sa.BigInteger(), nullable=False, comment="generation of the claim that wrote it"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", "account_id", "position", name="pk_account_identifier"),
    )
    op.create_index("ix_account_identifier_identification_tenant", "account_identifier", ["identification", "tenant"])


def downgrade() -> None:
    op.drop_table("account_identifier")
    for table, columns in reversed(COLUMNS.items()):
        for name, _, _ in reversed(columns):
            op.drop_column(table, name)
