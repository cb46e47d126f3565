"""Each listing counts its own attempts, and what a person has to look at is a row of its own.

Why it is safe on a live table: columns with a constant default, which PostgreSQL adds without rewriting the tables,
and a new table.  Listings that fail just now begin to count at 0.

Workers of 0010 refuse the new schema, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column(
            "attempts",
            sa.Integer(),
            nullable=False,
            server_default="0",
            comment="ends in a row that time is to mend; 0 once the listing was read",
        ),
        sa.Column("failing_since", INSTANT, comment="when the newest of those faults was met first"),
    ):
        op.add_column("cursor", column)
    op.add_column(
        "work",
        sa.Column(
            "retry", sa.Boolean(), nullable=False, server_default=sa.false(), comment="of the last end: time mends it"
        ),
    )
    op.create_table(
        "finding",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("operation", sa.String(64), nullable=False, comment="operationId; '' for a run as a whole"),
        sa.Column("code", sa.String(64), nullable=False, comment="error or note that a person has to look at"),
        sa.Column("first_seen_at", INSTANT, nullable=False, comment="since it was last resolved"),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False, comment="listings that met it since first_seen_at"),
        sa.Column("connection_id", sa.String(128), nullable=False, comment="the last one that met it"),
        sa.Column("consent_id", sa.String(128), nullable=False),
        sa.Column("interaction_id", sa.String(64), comment="of the last call that met it"),
        sa.Column("reason", sa.String(200), comment="the LFI's own words, cleaned"),
        sa.Column("resolved_at", INSTANT, comment="a read of the operation showed it gone"),
        sa.PrimaryKeyConstraint("tenant", "lfi", "operation", "code", name="pk_finding"),
    )


def downgrade() -> None:
    op.drop_table("finding")
    op.drop_column("work", "retry")  # in place on SQLite too: its indexes have conditions that a copy would lose
    op.drop_column("cursor", "failing_since")
    op.drop_column("cursor", "attempts")
