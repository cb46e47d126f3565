"""Account-opening requests and their history.

Why it is safe on a live table: it only makes new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "opening",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("opening_id", sa.String(36), nullable=False, comment="ours; the LFI's own is account_id"),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("version", sa.String(16), nullable=False, comment="version of the account-opening API"),
        sa.Column("user_ref", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(128), comment="AccountId; NULL until an answer named it"),
        sa.Column(
            "state", sa.String(20), nullable=False, comment="one word for all versions, and ours before the answer"
        ),
        sa.Column("status", sa.String(60), comment="OpeningStatus as sent"),
        sa.Column("status_updated_at", INSTANT, comment="OpeningStatusUpdateDateTime"),
        sa.Column("state_since", INSTANT, nullable=False, comment="when we saw it enter this state"),
        sa.Column("heard_at", INSTANT, comment="when the LFI last answered about it"),
        sa.Column("overdue_at", INSTANT, comment="set: longer in this state than it should be"),
        sa.Column("ended_at", INSTANT),
        sa.Column("http_status", sa.Integer, comment="of the answer to the POST"),
        sa.Column("error", sa.String(64), comment="stable code: why it is unknown or refused"),
        sa.Column("webhook_active", sa.Boolean, comment="event notifications; NULL: never asked for"),
        sa.Column("request", sa.LargeBinary, comment="sealed: the body sent; personal data"),
        sa.Column("raw", sa.LargeBinary, comment="sealed: `Data` as last seen; account identifiers"),
        sa.Column("information", sa.LargeBinary, comment="sealed: AdditionalStatusInformation"),
        sa.Column("redirect_url", sa.LargeBinary, comment="sealed: where the user must be sent"),
        sa.Column("share", JSON, comment="the data-sharing consent wished for once it is opened: permissions, days"),
        sa.Column("intent_id", sa.String(64), comment="authorization_intent made of that wish"),
        sa.Column("consent_id", sa.String(128), comment="the consent begun at once, without an intent"),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "opening_id", name="pk_opening"),
    )
    op.create_index("ix_opening_tenant_account_id", "opening", ["tenant", "account_id"])
    op.create_index("ix_opening_tenant_state", "opening", ["tenant", "state"])
    op.create_table(
        "opening_history",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("opening_id", sa.String(36), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("status", sa.String(60)),
        sa.Column("status_updated_at", INSTANT),
        sa.Column("source", sa.String(10), nullable=False, comment="who said so: ours | answer | poll | person"),
        sa.Column("error", sa.String(64)),
        sa.ForeignKeyConstraint(
            ["tenant", "opening_id"], ["opening.tenant", "opening.opening_id"], name="fk_opening_history_tenant_opening"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_opening_history"),
    )
    op.create_index("ix_opening_history_tenant_opening_id", "opening_history", ["tenant", "opening_id"])


def downgrade() -> None:
    op.execute("DELETE FROM work WHERE kind = 'opening'")
    op.drop_table("opening_history")
    op.drop_table("opening")
