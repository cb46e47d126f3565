"""Exports: the numbers of each series, what is being made, and how it ended.

Why it is safe on a live table: the table is new, and nothing of an older one is written anew.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
OPEN = sa.text("ended_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "export",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(63), nullable=False, comment="of the series, as its folder's"),
        sa.Column("number", sa.BigInteger, nullable=False, comment="reserved before anything is written"),
        sa.Column("target", sa.String(1024), nullable=False, comment="where its folders are, as the operator wrote it"),
        sa.Column("format", sa.String(10), nullable=False, comment="parquet | ndjson | csv | delta"),
        sa.Column("kind", sa.String(12), comment="full | incremental; NULL: not decided yet"),
        sa.Column("reason", sa.String(40), comment="why it is a full one where an increment was due"),
        sa.Column("base", sa.BigInteger, comment="number of the full export it stands on"),
        sa.Column("as_of", INSTANT, comment="instant of the snapshot"),
        sa.Column("to_cursor", sa.Text, comment="where in the feed the next increment begins"),
        sa.Column("rows", sa.BigInteger),
        sa.Column("bytes", sa.BigInteger),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("lease_until", INSTANT, comment="another process may take it over then; NULL once it has ended"),
        sa.Column("ended_at", INSTANT),
        sa.Column("outcome", sa.String(20), comment="done | adopted | abandoned | failed"),
        sa.Column("error", sa.String(64), comment="stable error code"),
        sa.PrimaryKeyConstraint("tenant", "name", "number", name="pk_export"),
    )
    op.create_index(
        "uq_export_open", "export", ["name", "tenant"], unique=True, sqlite_where=OPEN, postgresql_where=OPEN
    )


def downgrade() -> None:
    op.drop_table("export")
