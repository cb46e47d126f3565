"""Refreshes: what the product wants to be read now, and how it ended.

Why it is safe on a live table: both tables are new, and the new column of `work` may be NULL, so no row is written anew
but those that a sync was asked for and has not begun: they keep meaning every listing.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
JSON = sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")
OPEN = sa.text("ended_at IS NULL")


def upgrade() -> None:
    op.add_column(
        "work",
        sa.Column(
            "asked_all_gen",
            sa.BigInteger,
            comment="started_gen when all listings were asked for; NULL: at most those that open refreshes want",
        ),
    )
    op.execute(sa.text("UPDATE work SET asked_all_gen = asked_gen WHERE asked_at IS NOT NULL"))
    op.create_table(
        "refresh",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("refresh_id", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False, comment="the API key it was asked for with"),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("attended", sa.Boolean, nullable=False, comment="asked for by a customer who was present"),
        sa.Column(
            "idempotency", sa.LargeBinary(32), comment="digest of API key and Idempotency-Key; NULL after 24 hours"
        ),
        sa.Column(
            "body", sa.LargeBinary(32), comment="digest of the body, keyed by the Idempotency-Key; as long as that"
        ),
        sa.PrimaryKeyConstraint("tenant", "refresh_id", name="pk_refresh"),
    )
    op.create_index("uq_refresh_idempotency", "refresh", ["idempotency", "tenant"], unique=True)
    op.create_index("ix_refresh_created_at_tenant", "refresh", ["created_at", "tenant"])
    op.create_table(
        "refresh_part",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("refresh_id", sa.String(32), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("asked_gen", sa.BigInteger, nullable=False, comment="work.started_gen then: later runs serve it"),
        sa.Column(
            "context",
            sa.String(20),
            nullable=False,
            comment="random, the same for one customer's session; '': no customer is present",
        ),
        sa.Column("customer", sa.LargeBinary, comment="sealed; destroyed at the end"),
        sa.Column(
            "wish", JSON, nullable=False, comment="resources, account, max_age in seconds; what is left out: all"
        ),
        sa.Column("joined", sa.Boolean, nullable=False, comment="another refresh waited for the same run already"),
        sa.Column("ended_at", INSTANT),
        sa.Column("run_gen", sa.BigInteger, comment="run.gen of the run that served it; NULL: none did"),
        sa.Column("outcome", sa.String(20), comment="complete | partial | failed"),
        sa.Column("reason", sa.String(40), comment="why it is not complete"),
        sa.Column("error", sa.String(64), comment="stable error code"),
        sa.Column("retry_at", INSTANT, comment="when time may have mended it"),
        sa.Column("listings", JSON, comment="outcome of every listing that was wanted"),
        sa.PrimaryKeyConstraint("tenant", "refresh_id", "connection_id", name="pk_refresh_part"),
    )
    op.create_index(
        "ix_refresh_part_open",
        "refresh_part",
        ["connection_id", "tenant"],
        sqlite_where=OPEN,
        postgresql_where=OPEN,
    )


def downgrade() -> None:
    op.drop_table("refresh_part")
    op.drop_table("refresh")
    op.drop_column("work", "asked_all_gen")
