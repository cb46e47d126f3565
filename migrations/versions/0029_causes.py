"""What an operator is shown: causes with beginning and end, when connections go stale, what is usual at an LFI.

`cause` keeps what was wrong, from when to when and how much it hit at worst.  `staleness` says of each connection when
the first of its listings passes its target.  `usual` has the median latency and duration of each LFI and resource.
`ops_look` says when housekeeping last looked.

Why it is safe on a live table: all four tables are new and empty; housekeeping fills them, a few hundred connections
with each tick.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0027"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OPEN = sa.text("ended_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "cause",
        sa.Column("id", BIG_ID, nullable=False, autoincrement=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(40), nullable=False, comment="what is wrong, a constant word"),
        sa.Column("key", sa.String(200), nullable=False, comment="kind and what it is about: the same while it lasts"),
        sa.Column("began_at", INSTANT, nullable=False),
        sa.Column("seen_at", INSTANT, nullable=False, comment="last look that found it"),
        sa.Column("ended_at", INSTANT, comment="first look that did not find it; NULL: it lasts"),
        sa.Column("stale", sa.Integer, nullable=False, comment="connections it made stale, at worst"),
        sa.Column("failing", sa.Integer, nullable=False, comment="connections whose last sync it made fail, at worst"),
        sa.Column("waiting", sa.Integer, nullable=False, comment="rows of work and messages it kept, at worst"),
        sa.PrimaryKeyConstraint("id", name="pk_cause"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_cause_open", "cause", ["key", "tenant"], unique=True, sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_index("ix_cause_ended_at_tenant", "cause", ["ended_at", "tenant"])
    op.create_table(
        "staleness",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("stale_at", INSTANT, nullable=False, comment="when the first of its listings passes its target"),
        sa.Column("resource", sa.String(40), nullable=False, comment="that listing's"),
        sa.Column("account_id", sa.String(40), nullable=False, comment="that listing's; '' for none"),
        sa.Column("checked_at", INSTANT, comment="last complete walk of that listing; NULL: never"),
        sa.Column("run_ended_at", INSTANT, nullable=False, comment="work.last_ended_at when it was judged"),
        sa.Column("rule", sa.String(16), nullable=False, comment="digest of cadence and margin it was judged by"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", name="pk_staleness"),
    )
    op.create_table(
        "usual",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(40), nullable=False, comment="'' for a run as a whole"),
        sa.Column("median_ms", sa.Integer, nullable=False, comment="of a call; of a run, from begin to end"),
        sa.Column("samples", sa.Integer, nullable=False),
        sa.Column("measured_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "lfi", "resource", name="pk_usual"),
    )
    op.create_table(
        "ops_look",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(20), nullable=False, comment="tick | status: which process looked"),
        sa.Column("at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_ops_look"),
    )


def downgrade() -> None:
    for table in ("ops_look", "usual", "staleness", "cause"):
        op.drop_table(table)
