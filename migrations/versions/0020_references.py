"""Names of our own for accounts, keys of a tenant, and how far the columns of rows held are filled.

Every account that is held gets its reference here, so that no reader meets an account without one.  Their identities,
and the columns of rows that are held, are filled by the workers: both need the key ring, and take longer than a
migration may.

Why it is safe on a live table: three new tables; no row of another changes.
"""

import secrets
import string
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
_CHARACTERS = string.digits + string.ascii_letters
_ROWS = 1_000


def upgrade() -> None:
    op.create_table(
        "tenant_key",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("purpose", sa.String(20), nullable=False, comment="what it is for: identity"),
        sa.Column("key", sa.LargeBinary, nullable=False, comment="sealed: 32 random bytes, the same for ever"),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "purpose", name="pk_tenant_key"),
    )
    reference = op.create_table(
        "account_reference",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("lfi_account_id", sa.String(40), nullable=False, comment="AccountId, as the LFI names it"),
        sa.Column("account_id", sa.String(24), nullable=False, comment="ours: acc_ and 20 random letters and digits"),
        sa.Column(
            "identity",
            sa.String(68),
            comment="idn_ and an HMAC of the IBAN under the tenant's key; NULL: no IBAN, or erased",
        ),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "connection_id", "lfi_account_id", name="pk_account_reference"),
    )
    op.create_table(
        "filling",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("table_name", sa.String(40), nullable=False, comment="the record table whose columns are filled"),
        sa.Column("columns_version", sa.Integer, nullable=False, comment="which columns its rows are to have"),
        sa.Column(
            "connection_id", sa.String(128), comment="key of the last row looked at; NULL: none yet, or all of them"
        ),
        sa.Column("account_id", sa.String(40)),
        sa.Column("key", sa.String(256)),
        sa.Column("rows_done", sa.BigInteger, nullable=False),
        sa.Column("rows_about", sa.BigInteger, nullable=False, comment="rows of the table when it began"),
        sa.Column(
            "skipped", sa.BigInteger, nullable=False, comment="rows whose item does not open or cannot be decoded"
        ),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, comment="NULL while it goes on"),
        sa.PrimaryKeyConstraint("tenant", "table_name", name="pk_filling"),
    )
    if not op.get_context().as_sql:
        _refer_to_accounts(op.get_bind(), reference)
    op.create_index(
        "ix_account_reference_account_id_tenant", "account_reference", ["account_id", "tenant"], unique=True
    )
    op.create_index("ix_account_reference_identity_tenant", "account_reference", ["identity", "tenant"])


def _refer_to_accounts(connection: sa.Connection, reference: sa.Table) -> None:
    """A reference for every account that is held, those the LFI no longer shows included."""
    now = datetime.now(UTC)
    at = now.strftime("%Y-%m-%dT%H:%M:%S.%f") + "Z" if connection.dialect.name == "sqlite" else now
    account = sa.table("account", sa.column("tenant"), sa.column("connection_id"), sa.column("key"))
    place = (account.c.tenant, account.c.connection_id, account.c.key)
    query = sa.select(*place).order_by(*place).limit(_ROWS)
    chunk = query
    while rows := connection.execute(chunk).all():
        connection.execute(
            sa.insert(reference),
            [
                {
                    "tenant": tenant,
                    "connection_id": connection_id,
                    "lfi_account_id": key,
                    "account_id": "acc_" + "".join(secrets.choice(_CHARACTERS) for _ in range(20)),
                    "created_at": at,
                }
                for tenant, connection_id, key in rows
            ],
        )
        chunk = query.where(sa.tuple_(*place) > sa.tuple_(*(sa.literal(value) for value in rows[-1])))


def downgrade() -> None:
    op.drop_table("filling")
    op.drop_table("account_reference")
    op.drop_table("tenant_key")
