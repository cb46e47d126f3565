"""Indexes beside a key open with what they are for, not with the tenant; the audit is found by its subject.

While PostgreSQL has no statistics of a table it takes one row in two hundred for a tenant's, so every index that opens
with the tenant looks as good as the key for finding one row, and the end of a claim read whole tables by it.  With the
tenant last such an index answers only what it was made for.  An import asks the audit for its subjects with every
batch, and read all of it.

Why it is safe on a live table: no row changes.  On PostgreSQL writers of a table wait while its indexes are built, some
seconds for a million consents.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_MOVED = (
    ("connection", ("user_ref",)),
    ("consent", ("connection_id",)),
    ("consent", ("status", "expires_at")),
    ("expiry_flag", ("decided_at",)),
    ("event", ("received_at",)),
)
_ROOT: dict[str, Any] = {name: sa.text("base_consent_id IS NULL") for name in ("sqlite_where", "postgresql_where")}
_LISTED = "ix_transaction_tenant_connection_id_account_id_booking_date_time"  # shortened where it is too long
_DATED = "ix_transaction_dated"


def upgrade() -> None:
    for table, columns in _MOVED:
        op.drop_index(_name(table, ("tenant", *columns)), table)
        op.create_index(_name(table, (*columns, "tenant")), table, [*columns, "tenant"])
    op.drop_index("uq_consent_root", "consent")
    op.create_index("uq_consent_root", "consent", ["connection_id", "tenant"], unique=True, **_ROOT)
    op.drop_index(op.f(_LISTED), "transaction")
    op.create_index(_DATED, "transaction", ["booking_date_time", "account_id", "connection_id", "tenant"])
    op.create_index("ix_audit_subject_tenant", "audit", ["subject", "tenant"])
    op.create_index("ix_event_digest_tenant", "event", ["digest", "tenant"])


def downgrade() -> None:
    op.drop_index("ix_event_digest_tenant", "event")
    op.drop_index("ix_audit_subject_tenant", "audit")
    op.drop_index(_DATED, "transaction")
    op.create_index(op.f(_LISTED), "transaction", ["tenant", "connection_id", "account_id", "booking_date_time"])
    op.drop_index("uq_consent_root", "consent")
    op.create_index("uq_consent_root", "consent", ["tenant", "connection_id"], unique=True, **_ROOT)
    for table, columns in reversed(_MOVED):
        op.drop_index(_name(table, (*columns, "tenant")), table)
        op.create_index(_name(table, ("tenant", *columns)), table, ["tenant", *columns])


def _name(table: str, columns: tuple[str, ...]) -> str:
    return f"ix_{table}_{'_'.join(columns)}"
