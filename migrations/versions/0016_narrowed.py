"""What a consent is narrowed to, the version it was made in, and a second chain of consents in one connection.

A connection may go on with a new chain, whose root names no base, when its first root cannot be named any more (a
request on v2.1 takes UUIDs alone).  So a consent's base need not be the connection's id, and a connection may have
several roots: `base_is_root` and `uq_consent_root` go.

Why it is safe on a live table: the new columns may be NULL.  PostgreSQL reads `consent` once for the new check; SQLite
copies the table, which holds one row for each consent.  Columns of consents that are there already are filled by the
next token answer or look at the Hub.

A downgrade fails, and changes nothing, once a connection has a second chain.

Workers of the older schema refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(sa.dialects.postgresql.JSONB(none_as_null=True), "postgresql")
OLD_CHECK = ("base_is_root", "base_consent_id IS NULL OR base_consent_id = connection_id")
NEW_CHECK = ("root_has_no_base", "base_consent_id IS NULL OR base_consent_id <> consent_id")
COMMENTS = (
    ("connection", "connection_id", "root ConsentId of the chain", "root ConsentId of its first chain"),
    ("consent", "base_consent_id", None, "root of its chain; NULL: it is the root"),
)


def upgrade() -> None:
    columns = (
        sa.Column("account_types", JSON, comment="AccountType, in the consent's words; NULL: every kind"),
        sa.Column("account_sub_types", JSON, comment="AccountSubType, in the consent's words; NULL: every kind"),
        sa.Column("on_behalf_of", JSON, comment="OnBehalfOf"),
        sa.Column("made_in", sa.String(8), comment="version it was made in, where that is none we speak: v1.1"),
    )
    for column in columns:
        op.add_column("consent", column)
    op.add_column(
        "authorization",
        sa.Column("connection_id", sa.String(128), comment="the connection it joins; NULL: the one its root names"),
    )
    op.drop_index("uq_consent_root", "consent")
    _change_check(OLD_CHECK, NEW_CHECK)
    if op.get_bind().dialect.name == "postgresql":
        for table, name, before, after in COMMENTS:
            op.alter_column(table, name, comment=after, existing_comment=before)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, name, before, after in COMMENTS:
            op.alter_column(table, name, comment=before, existing_comment=after)
    _change_check(NEW_CHECK, OLD_CHECK)
    no_base = sa.text("base_consent_id IS NULL")
    op.create_index(
        "uq_consent_root",
        "consent",
        ["connection_id", "tenant"],
        unique=True,
        sqlite_where=no_base,
        postgresql_where=no_base,
    )
    op.drop_column("authorization", "connection_id")
    for column in ("made_in", "on_behalf_of", "account_sub_types", "account_types"):
        op.drop_column("consent", column)


def _change_check(old: tuple[str, str], new: tuple[str, str]) -> None:
    """Put one check of `consent` in the place of another."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f(f"ck_consent_{old[0]}"), "consent", type_="check")
        op.create_check_constraint(op.f(f"ck_consent_{new[0]}"), "consent", new[1])
        return
    # SQLite drops no check: the table is copied, and a copy has the checks named here alone.  Keys of other tables that
    # point to it are not looked at while a migration runs (`foreign_keys` is off on its connection).
    with op.batch_alter_table("consent", recreate="always") as consent:
        consent.create_check_constraint(op.f(f"ck_consent_{new[0]}"), new[1])
