"""Counters that only go up, and how old the data of each connection is: what metrics need.

Why it is safe on a live table: `counter` is new and empty; what was done before is in no counter.  `staleness.ages`
begins with NULL, which rewrites no row; housekeeping fills it after the next run of each connection.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "counter",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(20), nullable=False, comment="what is counted, a constant word"),
        sa.Column(
            "labels",
            sa.String(200),
            nullable=False,
            comment="LFI, operation, constant words, as the name has them, joined by commas",
        ),
        sa.Column("value", sa.BigInteger, nullable=False, comment="never less than it was"),
        sa.PrimaryKeyConstraint("tenant", "name", "labels", name="pk_counter"),
        postgresql_with={"fillfactor": 50},
    )
    op.add_column(
        "staleness",
        sa.Column(
            "ages", sa.LargeBinary, comment="oldest last walk of each resource (store/ages.py); NULL: not noted yet"
        ),
    )


def downgrade() -> None:
    op.drop_column("staleness", "ages")
    op.drop_table("counter")
