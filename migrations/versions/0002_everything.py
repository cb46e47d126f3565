"""Everything: a table for each resource of the standard, what rows said before, and how far the backfill came.

Why it is safe on a live table: the record tables are new; `cursor` gains columns that may be NULL, or have a constant
default, which neither database rewrites the table for.  Listings that 0001 read were read whole: what their coverage
says is where their history is complete from.

Workers of 0001 refuse the new schema, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
MONEY = sa.Numeric(18, 5).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    record(
        "account_detail",
        sa.Column("status", sa.String(40)),
        sa.Column("currency", sa.String(3)),
        sa.Column("account_type", sa.String(40)),
        sa.Column("account_sub_type", sa.String(40)),
        sa.Column("nickname", sa.String(140)),
        sa.Column("description", sa.String(140)),
        sa.Column("opening_date", INSTANT),
    )
    record(
        "beneficiary",
        sa.Column("beneficiary_type", sa.String(40)),
        sa.Column("added_via_of", sa.Boolean(), comment="added through Open Finance"),
        sa.Column("reference", sa.String(140)),
    )
    record(
        "direct_debit",
        sa.Column("mandate_identification", sa.String(140)),
        sa.Column("status", sa.String(40)),
        sa.Column("name", sa.String(140)),
        sa.Column("frequency", sa.String(40)),
        sa.Column("previous_payment_date_time", INSTANT),
        sa.Column("previous_payment_amount", MONEY),
        sa.Column("previous_payment_currency", sa.String(3)),
    )
    record(
        "standing_order",
        sa.Column("standing_order_type", sa.String(40)),
        sa.Column("status", sa.String(40)),
        sa.Column(
            "frequency", sa.String(140), comment="as sent: the standard's pattern is prose and contradicts itself"
        ),
        sa.Column("first_payment_date_time", INSTANT),
        sa.Column("next_payment_date_time", INSTANT),
        sa.Column("last_payment_date_time", INSTANT),
        sa.Column("final_payment_date_time", INSTANT),
        sa.Column("number_of_payments", sa.String(35)),
        sa.Column("first_payment_amount", MONEY),
        sa.Column("first_payment_currency", sa.String(3)),
        sa.Column("next_payment_amount", MONEY),
        sa.Column("next_payment_currency", sa.String(3)),
    )
    record(
        "scheduled_payment",
        sa.Column("scheduled_type", sa.String(40)),
        sa.Column("scheduled_payment_date_time", INSTANT),
        sa.Column("amount", MONEY),
        sa.Column("currency", sa.String(3)),
    )
    record(
        "statement",
        sa.Column("statement_date", sa.Date()),
        sa.Column("opening_date", sa.Date(), comment="what the listing's filter compares"),
        sa.Column("closing_date", sa.Date()),
        sa.Column("opening_balance", MONEY, comment="signed"),
        sa.Column("opening_currency", sa.String(3)),
        sa.Column("closing_balance", MONEY, comment="signed"),
        sa.Column("closing_currency", sa.String(3)),
    )
    record(
        "product",
        sa.Column("sharia_structure", sa.String(40)),
        sa.Column("is_secured", sa.Boolean()),
        sa.Column("is_salary_transfer_required", sa.Boolean()),
        sa.Column("finance_rates", sa.String(10), comment="open | locked: a JWE only the user's code opens"),
    )

    op.create_table(
        "record_history",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("resource", sa.String(40), nullable=False),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("valid_from", INSTANT, nullable=False, comment="when the row began to say so"),
        sa.Column("valid_until", INSTANT, nullable=False, comment="when it ceased to"),
        sa.Column("op", sa.String(10), nullable=False, comment="what ended it"),
        sa.Column("raw", sa.LargeBinary(), comment="as the row kept it, seal included; NULL: it was a tombstone"),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.Column("gen", sa.BigInteger(), nullable=False, comment="generation of the claim that ended it"),
        sa.CheckConstraint("op IN ('modified', 'removed', 'revived')", name=op.f("ck_record_history_op")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_record_history")),
    )
    op.create_index(
        "ix_record_history_row",
        "record_history",
        ["tenant", "connection_id", "resource", "account_id", "key", "valid_until"],
    )

    for column in (
        sa.Column("first_available", INSTANT, comment="where the LFI says that its own history begins"),
        sa.Column("deep_at", INSTANT, comment="last walk that reached back for rows filed late"),
        sa.Column(
            "backfilled_to",
            sa.Date(),
            comment="set: the backfill is complete, from here on; 0001-01-01: all the LFI has",
        ),
        sa.Column(
            "empty_slices",
            sa.Integer(),
            nullable=False,
            server_default="0",
            comment="slices in a row that held nothing",
        ),
        sa.Column("backfill_due_at", INSTANT, comment="no slice before this: the last one was refused or broke off"),
    ):
        op.add_column("cursor", column)
    op.execute(
        """
        UPDATE cursor SET backfilled_to = (
            SELECT min(coverage.from_date) FROM coverage
            WHERE coverage.tenant = cursor.tenant AND coverage.connection_id = cursor.connection_id
              AND coverage.account_id = cursor.account_id AND coverage.resource = cursor.resource
        )
        """
    )


def downgrade() -> None:
    with op.batch_alter_table("cursor") as cursor:
        for name in ("backfill_due_at", "empty_slices", "backfilled_to", "deep_at", "first_available"):
            cursor.drop_column(name)
    op.drop_table("record_history")
    for name in (
        "product",
        "statement",
        "scheduled_payment",
        "standing_order",
        "direct_debit",
        "beneficiary",
        "account_detail",
    ):
        op.drop_table(name)


def record(name: str, *typed: sa.Column[object]) -> None:
    """A record table: the typed columns inside the frame that every record has since 0001."""
    op.create_table(
        name,
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(256), nullable=False, comment="the item's natural key within the account"),
        *typed,
        sa.Column(
            "raw", sa.LargeBinary(), nullable=False, comment="the item as sent: deflated, sealed where it must be"
        ),
        sa.Column(
            "digest", sa.LargeBinary(16), nullable=False, comment="of the canonical item and the decoder's version"
        ),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.Column("missed_since", INSTANT, comment="a complete walk did not show it; not yet proved gone"),
        sa.Column("gone_at", INSTANT, comment="proved absent at the LFI; kept, and revived if it returns"),
        sa.Column("gen", sa.BigInteger(), nullable=False, comment="generation of the claim that wrote it"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", "account_id", "key", name=op.f(f"pk_{name}")),
    )
