"""The inbox of event notifications, and the quarantine of what does not verify.

Why it is safe on a live table: two new tables, nothing else changes.  Workers of the older schema refuse the new one,
so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column(
            "digest", sa.LargeBinary(32), nullable=False, comment="SHA-256 by which the same event is known again"
        ),
        sa.Column("issuer", sa.String(512), nullable=False, comment="who signed it, verified"),
        sa.Column("jti", sa.String(256), comment="of the signed event; NULL: it has none"),
        sa.Column("bearer_jti", sa.String(64), comment="SHA-256 of issuer and jti of the bearer JWT it came with"),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False, comment="the id it names; '' when none could be read"),
        sa.Column("lfi", sa.String(64), nullable=False, comment="of the subject; '' when it is not known to us"),
        sa.Column("event_type", sa.String(40), nullable=False),
        sa.Column("happened_at", INSTANT, comment="EventDateTime"),
        sa.Column("status", sa.String(40), comment="as the event says; a hint, never believed"),
        sa.Column("status_updated_at", INSTANT),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("interaction_id", sa.String(64), nullable=False),
        sa.Column(
            "received",
            sa.Integer(),
            nullable=False,
            server_default="1",
            comment="how often it came, retries included",
        ),
        sa.Column("state", sa.String(20), nullable=False, comment="filed | done | quarantined"),
        sa.Column("outcome", sa.String(40), comment="what became of it"),
        sa.Column("acted_at", INSTANT),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="the signed claims: deflated and sealed"),
        sa.CheckConstraint("state IN ('filed', 'done', 'quarantined')", name=op.f("ck_event_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sa.UniqueConstraint("tenant", "issuer", "digest", name=op.f("uq_event_tenant_issuer_digest")),
        sa.UniqueConstraint("tenant", "issuer", "jti", name=op.f("uq_event_tenant_issuer_jti")),
        sa.UniqueConstraint("tenant", "bearer_jti", name=op.f("uq_event_tenant_bearer_jti")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_tenant_received_at", "event", ["tenant", "received_at"])
    op.create_index(
        "ix_event_quarantined",
        "event",
        ["tenant", "id"],
        sqlite_where=sa.text("state = 'quarantined'"),
        postgresql_where=sa.text("state = 'quarantined'"),
    )
    op.create_table(
        "refused_event",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, comment="SHA-256 of the body"),
        sa.Column("why", sa.String(40), nullable=False, comment="stable word for the check it failed"),
        sa.Column("address", sa.String(64), nullable=False, comment="where it came from, as we saw it"),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("kid", sa.String(128), comment="claimed, not believed"),
        sa.Column("issuer", sa.String(512), comment="claimed, not believed"),
        sa.Column("received_at", INSTANT, nullable=False, comment="first time"),
        sa.Column("last_at", INSTANT, nullable=False),
        sa.Column("received", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("body", sa.LargeBinary(), comment="sealed; only where a change of ours may let it verify, else NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refused_event")),
        sa.UniqueConstraint("tenant", "digest", name=op.f("uq_refused_event_tenant_digest")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_refused_event_tenant_last_at", "refused_event", ["tenant", "last_at"])


def downgrade() -> None:
    op.execute("DELETE FROM work WHERE kind = 'event'")
    op.drop_table("refused_event")
    op.drop_table("event")
