"""A table for items that could not become records.

Why it is safe on a live table: nothing that is there changes.  It is filled by the next walk of each listing.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "unreadable_item",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("resource", sa.String(40), nullable=False),
        sa.Column(
            "digest",
            sa.LargeBinary(16),
            nullable=False,
            comment="of the item's bytes as sent: by which it is known again",
        ),
        sa.Column("consent_id", sa.String(128), nullable=False, comment="with which it was shown last"),
        sa.Column("page", sa.Integer(), nullable=False, comment="from 1"),
        sa.Column(
            "path", sa.String(140), nullable=False, comment="place on the page, down to the member that is wrong"
        ),
        sa.Column("reason", sa.String(40), nullable=False),
        sa.Column("copies", sa.Integer(), nullable=False, comment="how often one walk showed these very bytes"),
        sa.Column("size", sa.Integer(), nullable=False, comment="bytes as sent"),
        sa.Column(
            "not_before",
            INSTANT,
            comment="where in time it lies; NULL: not known, or the listing has no window",
        ),
        sa.Column("not_after", INSTANT),
        sa.Column(
            "shown_since", INSTANT, comment="each complete walk that must show it did, since this one; NULL: none"
        ),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("last_seen_at", INSTANT, nullable=False),
        sa.Column("times", sa.Integer(), nullable=False, comment="walks that showed it"),
        sa.Column("item", sa.LargeBinary(), comment="sealed: its bytes as sent; NULL: too long to keep"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_unreadable_item")),
        sa.UniqueConstraint(
            "tenant", "connection_id", "account_id", "resource", "digest", name=op.f("uq_unreadable_item")
        ),
    )


def downgrade() -> None:
    op.drop_table("unreadable_item")
