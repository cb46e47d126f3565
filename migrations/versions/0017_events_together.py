"""One answer of the Hub serves every event of a consent that waits for it: such events are found by an index.

Why it is safe on a live table: the column is new and empty, which means that the Hub was not asked yet; the index holds
filed events alone, which are few at any time.  Building it reads the table once, and writers of `event` wait meanwhile:
seconds for a million rows.

Workers of the schema before refuse this one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.add_column(
        "event", sa.Column("asked_at", INSTANT, comment="when the question began whose answer it was last held against")
    )
    op.create_index(
        "ix_event_filed",
        "event",
        ["tenant", "subject"],
        sqlite_where=sa.text("state = 'filed'"),
        postgresql_where=sa.text("state = 'filed'"),
    )


def downgrade() -> None:
    op.drop_index("ix_event_filed", "event")
    op.drop_column("event", "asked_at")
