"""The LFI's own words about refused calls and authorisations; and how often an observer of calls failed in a process.

Why it is safe on a live table: two columns are new and may be NULL, the third has a constant default, so no row is
written anew; the index holds only rows with such words, and there are none yet.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

WORDS = "the LFI's words about it, masked; destroyed with the personal data"


def upgrade() -> None:
    op.add_column("call", sa.Column("reason", sa.String(500), comment=WORDS))
    op.add_column("authorization", sa.Column("reason", sa.String(500), comment=WORDS))
    op.add_column(
        "worker",
        sa.Column(
            "observers_failed",
            sa.Integer(),
            nullable=False,
            server_default="0",
            comment="how often an observer of calls failed in this process",
        ),
    )
    op.create_index(
        "ix_call_reason",
        "call",
        ["tenant", "consent_id", "id"],
        sqlite_where=sa.text("reason IS NOT NULL"),
        postgresql_where=sa.text("reason IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_call_reason", "call")
    op.drop_column("worker", "observers_failed")
    op.drop_column("authorization", "reason")
    op.drop_column("call", "reason")
