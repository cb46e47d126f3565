"""Claims that stay on their page: no index knows of leases, a list of open claims per kind and LFI does.

Why it is safe on a live table: the list is new and filled from the leases there are; dropping an index takes a moment,
and the room that `fillfactor` leaves is made in pages written from now on.  In a large table that is there already it
arises as its rows are written anew, each once within its cadence; `VACUUM FULL work`, while nobody works, makes it at
once.

Workers of 0009 refuse the new schema, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "open_claims",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column(
            "work_ids",
            sa.JSON(),
            nullable=False,
            comment="every row with a lease is in it, and some whose lease has ended since",
        ),
        sa.PrimaryKeyConstraint("tenant", "kind", "lfi", name="pk_open_claims"),
    )
    on_postgresql = op.get_bind().dialect.name == "postgresql"
    together = sa.func.json_agg if on_postgresql else sa.func.json_group_array
    work = sa.table("work", *(sa.column(name) for name in ("id", "tenant", "kind", "lfi", "lease_until")))
    lists = sa.table("open_claims", *(sa.column(name) for name in ("tenant", "kind", "lfi", "work_ids")))
    leased = sa.select(work.c.tenant, work.c.kind, work.c.lfi, together(work.c.id)).where(
        work.c.lease_until.is_not(None)
    )
    op.execute(sa.insert(lists).from_select(list(lists.c), leased.group_by(work.c.tenant, work.c.kind, work.c.lfi)))
    op.drop_index("ix_work_leased", "work")
    if on_postgresql:
        op.execute("ALTER TABLE work SET (fillfactor = 80)")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE work RESET (fillfactor)")
    op.create_index(
        "ix_work_leased",
        "work",
        ["tenant", "kind", "lfi", "lease_until"],
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    )
    op.drop_table("open_claims")
