"""Webhooks to the product: endpoints, and the messages that wait for them.

Why it is safe on a live table: new tables only.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhook_endpoint",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("endpoint_id", sa.String(24), nullable=False),
        sa.Column("url", sa.String(2048), nullable=False),
        sa.Column("description", sa.String(200)),
        sa.Column("types", sa.String(800), comment="types it wants, each between spaces; NULL: every one"),
        sa.Column(
            "secrets", sa.LargeBinary(), nullable=False, comment="sealed JSON list of signing secrets, newest first"
        ),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("failing_since", INSTANT, comment="first failed attempt since the last one that succeeded"),
        sa.Column("quiet_until", INSTANT, comment="nothing is sent before: the last attempts failed"),
        sa.Column("disabled_at", INSTANT, comment="nothing is sent since then; messages are kept"),
        sa.Column("disabled_why", sa.String(40), comment="operator | gone | failing"),
        sa.PrimaryKeyConstraint("tenant", "endpoint_id", name="pk_webhook_endpoint"),
    )
    op.create_table(
        "webhook_message",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("endpoint_id", sa.String(24), nullable=False),
        sa.Column("message_id", sa.String(32), nullable=False, comment="webhook-id: the same with every attempt"),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column(
            "connection_id", sa.String(128), nullable=False, comment="'' for a message about none: order is by it"
        ),
        sa.Column(
            "gen", sa.BigInteger(), nullable=False, comment="of the claim whose changes it tells; 0: it tells none"
        ),
        sa.Column("data", JSON, nullable=False, comment="ids, counts, dates and codes only"),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("not_before", INSTANT, nullable=False, comment="next attempt"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("last_status", sa.Integer(), comment="HTTP status of the last answer"),
        sa.Column("last_error", sa.String(64), comment="stable code of the last failure"),
        sa.Column("ended_at", INSTANT),
        sa.Column("outcome", sa.String(20), comment="delivered | folded | given_up"),
        sa.Column("folded_into", sa.BigInteger(), comment="id of the message that tells it too"),
        sa.CheckConstraint("outcome IN ('delivered', 'folded', 'given_up')", name="ck_webhook_message_outcome"),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_message"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_webhook_message_waiting",
        "webhook_message",
        ["endpoint_id", "connection_id", "id"],
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("ix_webhook_message_created_at_tenant", "webhook_message", ["created_at", "tenant"])


def downgrade() -> None:
    op.drop_table("webhook_message")
    op.drop_table("webhook_endpoint")
