"""Sessions of the dashboard: which browsers are signed in, with which API key.

Why it is safe on a live table: the table is new, and nothing else refers to it.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "ops_session",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, comment="SHA-256 of the id in the browser's cookie"),
        sa.Column(
            "key_id",
            sa.String(16),
            nullable=False,
            comment="the API key it was begun with; it ends with the key",
        ),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False, comment="to the minute"),
        sa.PrimaryKeyConstraint("tenant", "digest", name="pk_ops_session"),
        sa.ForeignKeyConstraint(
            ["tenant", "key_id"], ["api_key.tenant", "api_key.key_id"], name="fk_ops_session_tenant_api_key"
        ),
    )


def downgrade() -> None:
    op.drop_table("ops_session")
