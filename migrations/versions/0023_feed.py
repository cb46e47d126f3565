"""The feed for readers: markers, erasures and restrictions, histories, one connection's feed.

`change` gets the history a row belongs to, a transaction's status before it was booked, what a marker stands for, and
three words more for what happened.  `feed_epoch` says which history the database is in, `feed_pruned` how far changes
were taken away, `connection.restricted_at` that the data of a connection cannot be read any more.

Why it is safe on a live table: new columns have a default or may be NULL, so no row is written anew on PostgreSQL.  The
two indexes of `change` are built while nothing can be written to it: some seconds for ten million rows.  Connections
that have ended already are marked by housekeeping, in small transactions.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.  The way back takes the
changes away that the schema before has no word for.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BEFORE = "op IN ('added', 'modified', 'removed')"
AFTER = "op IN ('added', 'modified', 'removed', 'backfilled', 'erased', 'restricted')"


def _columns() -> list[sa.Column[Any]]:
    return [
        sa.Column(
            "epoch",
            sa.Integer(),
            nullable=False,
            server_default="1",
            comment="history of the database it belongs to: see feed_epoch",
        ),
        sa.Column(
            "previous_status", sa.String(20), comment="of a transaction that this change moved from Pending to Booked"
        ),
        sa.Column(
            "scope",
            sa.String(10),
            comment="of a marker: history | news | all; erased: data | personal; else NULL",
        ),
    ]


def upgrade() -> None:
    op.create_table(
        "feed_epoch",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("epoch", sa.Integer(), nullable=False, comment="history the database is in; the first is 1"),
        sa.Column(
            "system_id",
            sa.String(64),
            nullable=False,
            comment="PostgreSQL: of the cluster; empty: not told",
        ),
        sa.Column("timeline", sa.BigInteger(), nullable=False, comment="of the cluster's log; SQLite: 0"),
        sa.Column(
            "txid",
            sa.BigInteger(),
            nullable=False,
            comment="transaction that wrote this row: a restored copy was written by another; SQLite: 0",
        ),
        sa.Column("seq", sa.BigInteger(), nullable=False, comment="highest number the feed had given then"),
        sa.Column("began_at", INSTANT, nullable=False, comment="when this history was first met"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feed_epoch")),
    )
    op.create_table(
        "feed_pruned",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("txid", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_feed_pruned")),
    )
    op.add_column(
        "connection",
        sa.Column("restricted_at", INSTANT, comment="set: no consent of it is in use, and its data cannot be read"),
    )
    op.drop_index(op.f("ix_change_tenant_txid_seq"), "change")
    _rebuild(AFTER, add=_columns())
    op.create_index(op.f("ix_change_tenant_epoch_txid_seq"), "change", ["tenant", "epoch", "txid", "seq"])
    op.create_index("ix_change_connection", "change", ["connection_id", "epoch", "txid", "seq"])


def downgrade() -> None:
    op.execute("DELETE FROM change WHERE op IN ('backfilled', 'erased', 'restricted')")
    op.drop_index("ix_change_connection", "change")
    op.drop_index(op.f("ix_change_tenant_epoch_txid_seq"), "change")
    _rebuild(BEFORE, drop=["epoch", "previous_status", "scope"])
    op.create_index(op.f("ix_change_tenant_txid_seq"), "change", ["tenant", "txid", "seq"])
    op.drop_column("connection", "restricted_at")
    op.drop_table("feed_pruned")
    op.drop_table("feed_epoch")


def _rebuild(check: str, *, add: list[sa.Column[Any]] = [], drop: list[str] = []) -> None:  # noqa: B006 - not changed
    """Columns and check of `change`."""
    name = op.f("ck_change_op")
    bind = op.get_bind()
    if bind.dialect.name == "postgresql":
        op.drop_constraint(name, "change", type_="check")
        for column in add:
            op.add_column("change", column)
        for column_name in drop:
            op.drop_column("change", column_name)
        op.create_check_constraint(name, "change", check)
        return
    # SQLite drops no check: the table is copied, and its numbers must go on where they were
    number = bind.execute(sa.text("SELECT seq FROM sqlite_sequence WHERE name = 'change'")).scalar()
    with op.batch_alter_table("change", recreate="always", table_kwargs={"sqlite_autoincrement": True}) as change:
        for column in add:
            change.add_column(column)
        for column_name in drop:
            change.drop_column(column_name)
        change.create_check_constraint(name, check)
    if number is not None:
        bind.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = 'change'"))
        bind.execute(sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES ('change', :seq)"), {"seq": number})
