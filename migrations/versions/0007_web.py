"""API keys.

Why it is safe on a live table: one new table, nothing else changes.  Workers of the older schema refuse the new one,
so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
JSON = sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=False, comment="the key's public part"),
        sa.Column("name", sa.String(64), nullable=False, comment="who uses it, in the operator's words"),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column(
            "digest", sa.LargeBinary(32), nullable=False, comment="SHA-256 of the key; the key itself is nowhere"
        ),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, comment="refused from then on; NULL: never"),
        sa.Column("last_used_at", INSTANT, comment="to the minute"),
        sa.Column("revoked_at", INSTANT),
        sa.PrimaryKeyConstraint("tenant", "key_id", name=op.f("pk_api_key")),
    )


def downgrade() -> None:
    op.drop_table("api_key")
