"""Which LFIs ignore the dates of a window, so that a history shown whole is not bought again for each slice of it.

Why it is safe on a live table: the table is new and empty; what belongs in it is found out again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ignored_filter",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(40), nullable=False),
        sa.Column(
            "seen_at",
            INSTANT,
            nullable=False,
            comment="when a walk last proved it; forgotten after 30 days, or once an answer is narrower",
        ),
        sa.PrimaryKeyConstraint("tenant", "lfi", "resource", name="pk_ignored_filter"),
    )


def downgrade() -> None:
    op.drop_table("ignored_filter")
