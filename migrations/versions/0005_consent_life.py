"""What follows a consent's state: looks at the Hub, comparisons, our own revocations, the retention clock.

Why it is safe on a live table: the columns may be NULL, which neither database rewrites the table for.  Consents that
may still move get a row of work, due when their status was last heard of, so the first
looks come in that order; one heard of lately costs no call.

Workers of the older schema refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
TERMINAL = ("Rejected", "Revoked", "Expired", "Consumed")


def upgrade() -> None:
    op.add_column(
        "consent",
        sa.Column("revoke_asked_at", INSTANT, comment="revoked here; the Hub is told until it has it"),
    )
    op.add_column("consent", sa.Column("revoke_by", sa.String(40), comment="RevokedBy of that revocation"))
    op.add_column(
        "consent",
        sa.Column("ended_at", INSTANT, comment="when we saw its terminal status: the retention clock"),
    )
    op.add_column("consent", sa.Column("compared_at", INSTANT, comment="last complete comparison with the Hub"))
    op.add_column(
        "consent",
        sa.Column("drift", sa.String(120), comment="what that comparison could not mend, in words; NULL: nothing"),
    )
    op.add_column(
        "consent",
        sa.Column("webhook_active", sa.Boolean, comment="event notifications, as the Hub last showed; NULL: never"),
    )
    op.add_column(
        "consent",
        sa.Column("webhook_wanted", sa.Boolean, comment="switch the Hub has to be told of; NULL: it is told"),
    )
    consent = sa.table(
        "consent", *map(sa.column, ("tenant", "consent_id", "lfi", "status", "status_seen_at", "ended_at"))
    )
    work = sa.table("work", *map(sa.column, ("tenant", "kind", "subject", "lfi", "due_at")))
    ended = consent.c.status.in_(TERMINAL)
    op.execute(sa.update(consent).where(ended).values(ended_at=consent.c.status_seen_at))
    living = sa.select(
        consent.c.tenant, sa.literal("consent"), consent.c.consent_id, consent.c.lfi, consent.c.status_seen_at
    ).where(~ended)
    op.execute(sa.insert(work).from_select(["tenant", "kind", "subject", "lfi", "due_at"], living))


def downgrade() -> None:
    op.execute("DELETE FROM work WHERE kind = 'consent'")
    for column in (
        "webhook_wanted",
        "webhook_active",
        "drift",
        "compared_at",
        "ended_at",
        "revoke_by",
        "revoke_asked_at",
    ):
        op.drop_column("consent", column)
