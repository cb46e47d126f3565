"""Authorisations minted when the user opens them, flags near expiry, one root for each connection.

Why it is safe on a live table: two new tables; the new column may be NULL, which neither database rewrites the table
for; the unique index is built over what 0001 already forbids to be otherwise, for a consent without a base *is* the
connection it belongs to (building it locks out writers of `consent` for the moment a few hundred thousand rows take).
Consents in use get a row of work that looks for thresholds already passed.

Workers of the older schema refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
JSON = sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")
IN_USE = ("Authorized", "Suspended")


def upgrade() -> None:
    op.add_column(
        "authorization",
        sa.Column("intent_id", sa.String(64), comment="the intent whose opening pushed it; NULL: none"),
    )
    op.create_table(
        "authorization_intent",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("intent_id", sa.String(64), nullable=False, comment="random: whoever knows it may open it"),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("user_ref", sa.String(128), comment="NULL: the root ConsentId will stand for the user"),
        sa.Column("version", sa.String(8), comment="of the standard; NULL: the highest there is when it is opened"),
        sa.Column("base_consent_id", sa.String(128), comment="root of the connection that is renewed"),
        sa.Column("terms", JSON, nullable=False, comment="what the user is asked for"),
        sa.Column("return_url", sa.String(2048), comment="where the product wants its user back"),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False, comment="the link's end"),
        sa.Column("opened", sa.Integer, nullable=False, server_default="0", comment="requests pushed for it"),
        sa.Column("consent_id", sa.String(128), comment="of the request pushed last"),
        sa.Column("completed_at", INSTANT, comment="tokens came home"),
        sa.PrimaryKeyConstraint("tenant", "intent_id", name=op.f("pk_authorization_intent")),
    )
    op.create_index(
        "ix_authorization_intent_tenant_base_consent_id", "authorization_intent", ["tenant", "base_consent_id"]
    )
    op.create_table(
        "expiry_flag",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("consent_id", sa.String(128), nullable=False),
        sa.Column("days", sa.Integer, nullable=False, comment="threshold: so many days before ExpirationDateTime"),
        sa.Column("expires_at", INSTANT, nullable=False, comment="the consent's end as it was then"),
        sa.Column("decided_at", INSTANT, nullable=False),
        sa.Column("skipped", sa.String(20), comment="why nobody was told: passed | succeeded | short; NULL: flagged"),
        sa.ForeignKeyConstraint(
            ["tenant", "consent_id"],
            ["consent.tenant", "consent.consent_id"],
            name=op.f("fk_expiry_flag_tenant_consent"),
        ),
        sa.PrimaryKeyConstraint("tenant", "consent_id", "days", name=op.f("pk_expiry_flag")),
    )
    op.create_index("ix_expiry_flag_tenant_decided_at", "expiry_flag", ["tenant", "decided_at"])
    no_base = sa.text("base_consent_id IS NULL")
    op.create_index(
        "uq_consent_root",
        "consent",
        ["tenant", "connection_id"],
        unique=True,
        sqlite_where=no_base,
        postgresql_where=no_base,
    )
    consent = sa.table("consent", *map(sa.column, ("tenant", "consent_id", "lfi", "status", "status_seen_at")))
    work = sa.table("work", *map(sa.column, ("tenant", "kind", "subject", "lfi", "due_at")))
    living = sa.select(
        consent.c.tenant, sa.literal("flag"), consent.c.consent_id, consent.c.lfi, consent.c.status_seen_at
    ).where(consent.c.status.in_(IN_USE))
    op.execute(sa.insert(work).from_select(["tenant", "kind", "subject", "lfi", "due_at"], living))


def downgrade() -> None:
    op.execute("DELETE FROM work WHERE kind = 'flag'")
    op.drop_index("uq_consent_root", "consent")
    op.drop_table("expiry_flag")
    op.drop_table("authorization_intent")
    op.drop_column("authorization", "intent_id")
