"""Which views for readers were made, and by which definition; a connection is found by an index.

A reader of the views names no tenant, and the key of `connection` opens with it.  Readers see the comments of columns
too: three that older migrations gave are said in plainer words.

The views themselves are made by `db upgrade` behind the last migration, and dropped before the first: a table that a
view reads cannot be changed.

Why it is safe on a live table: the table is new, and `connection`, which gets an index, is small.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

COMMENTS = (
    (
        "expiry_flag",
        "skipped",
        "why nobody was told: passed | succeeded | short; NULL: flagged",
        "why no event was sent: passed | succeeded | short; NULL: one was",
    ),
    (
        "authorization_intent",
        "intent_id",
        "random: whoever knows it may open it",
        "random: a browser that has it may open the intent",
    ),
    ("work", "parked_at", "set: nobody claims it until a person acts", "set: no worker claims it until a person acts"),
)


def upgrade() -> None:
    op.create_table(
        "sql_view",
        sa.Column("name", sa.String(64), nullable=False, comment="a view that `db upgrade` made"),
        sa.Column("digest", sa.String(64), nullable=False, comment="SHA-256 of its definition and comments, as made"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sql_view")),
    )
    op.create_index(op.f("ix_connection_connection_id_tenant"), "connection", ["connection_id", "tenant"])
    if op.get_context().dialect.supports_comments:
        for table, column, before, now in COMMENTS:
            op.alter_column(table, column, comment=now, existing_comment=before)


def downgrade() -> None:
    if op.get_context().dialect.supports_comments:
        for table, column, before, now in COMMENTS:
            op.alter_column(table, column, comment=before, existing_comment=now)
    op.drop_index(op.f("ix_connection_connection_id_tenant"), "connection")
    op.drop_table("sql_view")
