"""Always on: what every worker must know of an LFI's trouble, which run made a call, who gets on, whose clock is wrong.

Why it is safe on a live table: `breaker`, `call_budget` and `clock_offset` are new and empty; the added columns may be
NULL or have a constant default, for which neither database rewrites the table.

Workers of 0002 refuse the new schema, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.add_column(
        "lfi",
        sa.Column("gate_closed_at", INSTANT, comment="when the gate was closed: it opens as gradually as it was long"),
    )
    op.create_table(
        "breaker",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("operations", sa.String(20), nullable=False, comment="class of calls: data | token | consent"),
        sa.Column("opened_at", INSTANT, nullable=False, comment="first trip since it was last closed"),
        sa.Column("until", INSTANT, nullable=False, comment="no such call before this; then one trial"),
        sa.Column("trips", sa.Integer(), nullable=False, comment="in a row; each waits longer"),
        sa.Column("reason", sa.String(64), nullable=False, comment="stable code of what tripped it last"),
        sa.Column("closed_at", INSTANT, comment="a trial succeeded; NULL while calls are kept back"),
        sa.PrimaryKeyConstraint("tenant", "lfi", "operations", name=op.f("pk_breaker")),
    )
    op.create_table(
        "call_budget",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("next_free", INSTANT, nullable=False, comment="when the next call may start; all workers move it on"),
        sa.PrimaryKeyConstraint("tenant", "lfi", name=op.f("pk_call_budget")),
    )
    op.add_column(
        "call",
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="1", comment="2 and up: a short retry"),
    )
    op.add_column("call", sa.Column("run_id", sa.BigInteger(), comment="the run it was made for; NULL: none"))
    op.add_column("worker", sa.Column("canary_asked_at", INSTANT, comment="when a canary was last sent to it"))
    op.add_column("worker", sa.Column("canary_at", INSTANT, comment="when one last came round"))
    op.create_table(
        "clock_offset",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("host", sa.String(100), nullable=False, comment="whose clock was compared"),
        sa.Column("peer", sa.String(64), nullable=False, comment="with whose: an LFI's slug, or 'database:'"),
        sa.Column("offset_ms", sa.BigInteger(), nullable=False, comment="the peer's clock less the host's"),
        sa.Column("within_ms", sa.BigInteger(), nullable=False, comment="how far the offset may be from the truth"),
        sa.Column("measured_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "host", "peer", name=op.f("pk_clock_offset")),
    )
    op.create_index(
        op.f("ix_work_crashed"),
        "work",
        ["tenant", "kind"],
        sqlite_where=sa.text("crashes > 0"),
        postgresql_where=sa.text("crashes > 0"),
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_work_crashed"), "work")
    op.drop_table("clock_offset")
    with op.batch_alter_table("worker") as worker:
        worker.drop_column("canary_at")
        worker.drop_column("canary_asked_at")
    with op.batch_alter_table("call") as call:
        call.drop_column("run_id")
        call.drop_column("attempt")
    op.drop_table("call_budget")
    op.drop_table("breaker")
    with op.batch_alter_table("lfi") as lfi:
        lfi.drop_column("gate_closed_at")
