"""Real banks: what the participants directory says about an LFI, and how that changed.

Why it is safe on a live table: `lfi` gains columns that may be NULL, which neither database rewrites the table for;
`lfi_change` is new.  An LFI added by command stays as it is: not from the directory.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(sa.dialects.postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    for column in (
        sa.Column("directory", JSON, comment="what the participants directory says about it; NULL: not from there"),
        sa.Column("directory_seen_at", INSTANT, comment="last reading of the directory that showed it"),
        sa.Column("directory_missing_since", INSTANT, comment="readings since then did not show it, or not as usable"),
    ):
        op.add_column("lfi", column)
    op.create_table(
        "lfi_change",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False, comment="when a reading of the directory showed it"),
        sa.Column("what", sa.String(40), nullable=False),
        sa.Column("version", sa.String(8), nullable=False, comment="of the standard; empty: of the LFI as a whole"),
        sa.Column("detail", sa.String(512), nullable=False, comment="what it was and what it is"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lfi_change")),
    )
    op.create_index(op.f("ix_lfi_change_tenant_slug_seen_at"), "lfi_change", ["tenant", "slug", "seen_at"])


def downgrade() -> None:
    op.drop_table("lfi_change")
    with op.batch_alter_table("lfi") as lfi:
        for name in ("directory_missing_since", "directory_seen_at", "directory"):
            lfi.drop_column(name)
