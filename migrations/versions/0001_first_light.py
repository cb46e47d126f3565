"""First light: every table of the first release.

Why it is safe on a live table: there is none yet.

The column types are written out here and not taken from the code: a migration says what it did on its day.

Revision 0001, the first.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
MONEY = sa.Numeric(18, 5).with_variant(sa.BigInteger(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "lfi",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("slug", sa.String(64), nullable=False),
        sa.Column(
            "declared", JSON, nullable=False, comment="the declaration given to `lfis add`; paths of keys, never keys"
        ),
        sa.Column("added_at", INSTANT, nullable=False),
        sa.Column("not_before", INSTANT, comment="the gate: no call before this instant (429)"),
        sa.PrimaryKeyConstraint("tenant", "slug", name=op.f("pk_lfi")),
    )

    op.create_table(
        "connection",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False, comment="root ConsentId of the chain"),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("user_ref", sa.String(128), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("last_data_at", INSTANT, comment="date of last data received"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", name=op.f("pk_connection")),
    )
    op.create_index(op.f("ix_connection_tenant_user_ref"), "connection", ["tenant", "user_ref"])

    op.create_table(
        "consent",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("consent_id", sa.String(128), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("version", sa.String(8), nullable=False, comment="version of the standard"),
        sa.Column("status", sa.String(40), nullable=False),
        sa.Column("status_updated_at", INSTANT),
        sa.Column("status_seen_at", INSTANT, nullable=False, comment="when we last heard the status"),
        sa.Column("permissions", JSON, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("from_date", sa.Date()),
        sa.Column("to_date", sa.Date()),
        sa.Column("base_consent_id", sa.String(128)),
        sa.Column("revoked_by", sa.String(40)),
        sa.Column("paused_at", INSTANT, comment="ours alone: no calls while set"),
        sa.Column(
            "needs_consent", sa.String(64), comment="why the user has to consent again; NULL while the grant lives"
        ),
        sa.Column("user_type", sa.String(20), nullable=False),
        sa.Column("purpose", sa.String(40), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("raw", JSON, comment="`Data` of the consent as last seen"),
        sa.PrimaryKeyConstraint("tenant", "consent_id", name=op.f("pk_consent")),
        sa.CheckConstraint(
            "base_consent_id IS NULL OR base_consent_id = connection_id", name=op.f("ck_consent_base_is_root")
        ),
        sa.ForeignKeyConstraint(
            ["tenant", "connection_id"],
            ["connection.tenant", "connection.connection_id"],
            name=op.f("fk_consent_tenant_connection"),
        ),
    )
    op.create_index(op.f("ix_consent_tenant_connection_id"), "consent", ["tenant", "connection_id"])
    op.create_index(op.f("ix_consent_tenant_status_expires_at"), "consent", ["tenant", "status", "expires_at"])

    op.create_table(
        "token",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("consent_id", sa.String(128), nullable=False),
        sa.Column("access_token", sa.LargeBinary(), comment="sealed"),
        sa.Column("refresh_token", sa.LargeBinary(), comment="sealed"),
        sa.Column(
            "spares",
            sa.LargeBinary(),
            comment="sealed JSON list: refresh tokens of answers that lost a swap, newest first",
        ),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="only grows; the swap compares it"),
        sa.Column("issued_at", INSTANT),
        sa.Column("expires_at", INSTANT),
        sa.Column("certificate", sa.String(64), comment="x5t#S256 of the transport certificate the token is bound to"),
        sa.Column("holder", sa.String(64), comment="who holds the lease"),
        sa.Column("lease_until", INSTANT),
        sa.Column("intent_at", INSTANT, comment="a refresh was begun and has no answer yet: in doubt"),
        sa.Column("intent_version", sa.BigInteger()),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("lost_cause", sa.String(64), comment="why the grant is gone for good"),
        sa.Column("refreshed_count", sa.BigInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("tenant", "consent_id", name=op.f("pk_token")),
        sa.ForeignKeyConstraint(
            ["tenant", "consent_id"], ["consent.tenant", "consent.consent_id"], name=op.f("fk_token_tenant_consent")
        ),
    )

    op.create_table(
        "authorization",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("state", sa.String(128), nullable=False),
        sa.Column("consent_id", sa.String(128), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("version", sa.String(8), nullable=False),
        sa.Column("user_ref", sa.String(128), nullable=False),
        sa.Column("issuer", sa.String(512), nullable=False),
        sa.Column("nonce", sa.String(128), nullable=False),
        sa.Column("code_verifier", sa.LargeBinary(), comment="sealed; destroyed with the first use"),
        sa.Column("request_uri", sa.LargeBinary(), comment="sealed"),
        sa.Column("request", JSON, nullable=False, comment="authorization_details as sent"),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False, comment="the request_uri's end"),
        sa.Column("used_at", INSTANT),
        sa.Column("outcome", sa.String(64), comment="authorized, declined, expired, failed …"),
        sa.PrimaryKeyConstraint("tenant", "state", name=op.f("pk_authorization")),
        sa.UniqueConstraint("tenant", "consent_id", name=op.f("uq_authorization_tenant_consent_id")),
    )

    op.create_table(
        "work",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False, comment="sync | token"),
        sa.Column("subject", sa.String(128), nullable=False, comment="sync: connection_id; token: consent_id"),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("asked_at", INSTANT, comment="someone wants it now; cleared by the end of the run that serves it"),
        sa.Column(
            "asked_gen", sa.BigInteger(), nullable=False, server_default="0", comment="started_gen when it was asked"
        ),
        sa.Column("gen", sa.BigInteger(), nullable=False, server_default="0", comment="counts claims; newer wins"),
        sa.Column(
            "started_gen",
            sa.BigInteger(),
            nullable=False,
            server_default="0",
            comment="newest claim a worker began: tells a lost hint from a crash, and a message delivered twice",
        ),
        sa.Column("lease_until", INSTANT),
        sa.Column(
            "attempts", sa.Integer(), nullable=False, server_default="0", comment="claims since the last good end"
        ),
        sa.Column(
            "crashes", sa.Integer(), nullable=False, server_default="0", comment="claims in a row that had no end"
        ),
        sa.Column("parked_at", INSTANT, comment="set: nobody claims it until a person acts"),
        sa.Column("last_started_at", INSTANT),
        sa.Column("last_ended_at", INSTANT),
        sa.Column("last_good_at", INSTANT),
        sa.Column("last_outcome", sa.String(40)),
        sa.Column("last_error", sa.String(64), comment="stable error code"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work")),
        sa.UniqueConstraint("tenant", "kind", "subject", name=op.f("uq_work_tenant_kind_subject")),
    )
    op.create_index(
        op.f("ix_work_due"),
        "work",
        ["lfi", "kind", "due_at"],
        sqlite_where=sa.text("parked_at IS NULL"),
        postgresql_where=sa.text("parked_at IS NULL"),
    )
    op.create_index(
        op.f("ix_work_leased"),
        "work",
        ["tenant", "kind", "lfi", "lease_until"],
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    )

    op.create_table(
        "account",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(256), nullable=False, comment="the item's natural key within the account"),
        sa.Column("status", sa.String(40)),
        sa.Column("currency", sa.String(3)),
        sa.Column("account_type", sa.String(40)),
        sa.Column("account_sub_type", sa.String(40)),
        sa.Column("nickname", sa.String(140)),
        sa.Column("description", sa.String(140)),
        sa.Column("opening_date", INSTANT),
        sa.Column(
            "raw", sa.LargeBinary(), nullable=False, comment="the item as sent: deflated, sealed where it must be"
        ),
        sa.Column(
            "digest", sa.LargeBinary(16), nullable=False, comment="of the canonical item and the decoder's version"
        ),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.Column("missed_since", INSTANT, comment="a complete walk did not show it; not yet proved gone"),
        sa.Column("gone_at", INSTANT, comment="proved absent at the LFI; kept, and revived if it returns"),
        sa.Column("gen", sa.BigInteger(), nullable=False, comment="generation of the claim that wrote it"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", "account_id", "key", name=op.f("pk_account")),
    )

    op.create_table(
        "balance",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(256), nullable=False, comment="the item's natural key within the account"),
        sa.Column("type", sa.String(40)),
        sa.Column("currency", sa.String(3)),
        sa.Column("credit_debit_indicator", sa.String(10)),
        sa.Column("amount", MONEY),
        sa.Column("signed_amount", MONEY),
        sa.Column("date_time", INSTANT),
        sa.Column(
            "raw", sa.LargeBinary(), nullable=False, comment="the item as sent: deflated, sealed where it must be"
        ),
        sa.Column(
            "digest", sa.LargeBinary(16), nullable=False, comment="of the canonical item and the decoder's version"
        ),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.Column("missed_since", INSTANT, comment="a complete walk did not show it; not yet proved gone"),
        sa.Column("gone_at", INSTANT, comment="proved absent at the LFI; kept, and revived if it returns"),
        sa.Column("gen", sa.BigInteger(), nullable=False, comment="generation of the claim that wrote it"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", "account_id", "key", name=op.f("pk_balance")),
    )

    op.create_table(
        "balance_history",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(256), nullable=False, comment="Type and Currency, as in balance.key"),
        sa.Column("date_time", INSTANT, nullable=False),
        sa.Column("credit_debit_indicator", sa.String(10)),
        sa.Column("amount", MONEY),
        sa.Column("signed_amount", MONEY),
        sa.Column("seen_at", INSTANT, nullable=False),
        sa.Column("gen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant", "connection_id", "account_id", "key", "date_time", name=op.f("pk_balance_history")
        ),
    )

    op.create_table(
        "transaction",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(256), nullable=False, comment="the item's natural key within the account"),
        sa.Column("status", sa.String(20)),
        sa.Column("credit_debit_indicator", sa.String(10)),
        sa.Column("amount", MONEY),
        sa.Column("signed_amount", MONEY),
        sa.Column("currency", sa.String(3)),
        sa.Column("booking_date_time", INSTANT),
        sa.Column("booking_date", sa.Date(), comment="local date in the UAE"),
        sa.Column("value_date_time", INSTANT),
        sa.Column("transaction_date_time", INSTANT),
        sa.Column("transaction_type", sa.String(40)),
        sa.Column("sub_transaction_type", sa.String(40)),
        sa.Column("transaction_reference", sa.String(210)),
        sa.Column("transaction_information", sa.String(500)),
        sa.Column("merchant_name", sa.String(350)),
        sa.Column("merchant_category_code", sa.String(8)),
        sa.Column("counterparty_name", sa.String(140), comment="creditor of a Debit, debtor of a Credit"),
        sa.Column(
            "raw", sa.LargeBinary(), nullable=False, comment="the item as sent: deflated, sealed where it must be"
        ),
        sa.Column(
            "digest", sa.LargeBinary(16), nullable=False, comment="of the canonical item and the decoder's version"
        ),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.Column("missed_since", INSTANT, comment="a complete walk did not show it; not yet proved gone"),
        sa.Column("gone_at", INSTANT, comment="proved absent at the LFI; kept, and revived if it returns"),
        sa.Column("gen", sa.BigInteger(), nullable=False, comment="generation of the claim that wrote it"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", "account_id", "key", name=op.f("pk_transaction")),
    )
    op.create_index(
        op.f("ix_transaction_tenant_connection_id_account_id_booking_date_time"),
        "transaction",
        ["tenant", "connection_id", "account_id", "booking_date_time"],
    )

    op.create_table(
        "party",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("key", sa.String(256), nullable=False, comment="the item's natural key within the account"),
        sa.Column("party_type", sa.String(40)),
        sa.Column("party_category", sa.String(40)),
        sa.Column("account_role", sa.String(40)),
        sa.Column(
            "raw", sa.LargeBinary(), nullable=False, comment="the item as sent: deflated, sealed where it must be"
        ),
        sa.Column(
            "digest", sa.LargeBinary(16), nullable=False, comment="of the canonical item and the decoder's version"
        ),
        sa.Column("first_seen_at", INSTANT, nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.Column("missed_since", INSTANT, comment="a complete walk did not show it; not yet proved gone"),
        sa.Column("gone_at", INSTANT, comment="proved absent at the LFI; kept, and revived if it returns"),
        sa.Column("gen", sa.BigInteger(), nullable=False, comment="generation of the claim that wrote it"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", "account_id", "key", name=op.f("pk_party")),
    )

    op.create_table(
        "account_grant",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("consent_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("granted_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, comment="a complete walk of /accounts no longer showed it"),
        sa.PrimaryKeyConstraint("tenant", "consent_id", "account_id", name=op.f("pk_account_grant")),
    )

    op.create_table(
        "cursor",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("resource", sa.String(40), nullable=False),
        sa.Column("pages", sa.LargeBinary(), comment="digest and keys of each page of the last complete walk"),
        sa.Column("window_from", sa.Date(), comment="what the last walk asked from"),
        sa.Column("high_water", INSTANT, comment="newest booked BookingDateTime seen"),
        sa.Column(
            "open_since",
            INSTANT,
            comment="oldest booking of a row still Pending or missed: the next walk reaches back to it",
        ),
        sa.Column("checked_at", INSTANT, comment="last complete walk, changed or not"),
        sa.Column("attempted_at", INSTANT),
        sa.Column("changed_at", INSTANT),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("outcome", sa.String(40)),
        sa.Column("error", sa.String(64)),
        sa.Column("refused_until", INSTANT, comment="a definite refusal, remembered"),
        sa.Column("gen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "connection_id", "account_id", "resource", name=op.f("pk_cursor")),
    )

    op.create_table(
        "coverage",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("resource", sa.String(40), nullable=False),
        sa.Column("from_date", sa.Date(), nullable=False, comment="inclusive; 0001-01-01: from the first available"),
        sa.Column("to_date", sa.Date(), nullable=False, comment="inclusive"),
        sa.Column("walked_at", INSTANT, nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("items", sa.Integer(), nullable=False),
        sa.Column("gen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant", "connection_id", "account_id", "resource", "from_date", name=op.f("pk_coverage")
        ),
    )

    op.create_table(
        "change",
        sa.Column("seq", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column(
            "txid",
            sa.BigInteger(),
            nullable=False,
            comment="the writing transaction: a reader stops before the oldest one open; SQLite: 0",
        ),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("account_id", sa.String(40), nullable=False),
        sa.Column("resource", sa.String(40), nullable=False),
        sa.Column("key", sa.String(256), nullable=False),
        sa.Column("op", sa.String(10), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("gen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_change")),
        sa.CheckConstraint("op IN ('added', 'modified', 'removed')", name=op.f("ck_change_op")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_change_tenant_txid_seq"), "change", ["tenant", "txid", "seq"])

    op.create_table(
        "run",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column("consent_id", sa.String(128), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("gen", sa.BigInteger(), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=False),
        sa.Column("outcome", sa.String(40), nullable=False, comment="ok | unchanged | partial | failed"),
        sa.Column("error", sa.String(64)),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("pages_unchanged", sa.Integer(), nullable=False),
        sa.Column("added", sa.Integer(), nullable=False),
        sa.Column("modified", sa.Integer(), nullable=False),
        sa.Column("removed", sa.Integer(), nullable=False),
        sa.Column("steps", JSON, nullable=False, comment="outcome of every (account, resource)"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index(op.f("ix_run_tenant_connection_id_started_at"), "run", ["tenant", "connection_id", "started_at"])

    op.create_table(
        "call",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("lfi", sa.String(64), nullable=False),
        sa.Column("consent_id", sa.String(128), nullable=False, comment="'' for a call that belongs to no consent"),
        sa.Column("operation", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.String(64)),
        sa.Column("interaction_id", sa.String(64), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("attended", sa.Boolean(), nullable=False),
        sa.Column("price_millifils", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_call")),
    )
    op.create_index(op.f("ix_call_tenant_lfi_started_at"), "call", ["tenant", "lfi", "started_at"])

    op.create_table(
        "worker",
        sa.Column("name", sa.String(128), nullable=False, comment="host and process"),
        sa.Column("kind", sa.String(20), nullable=False, comment="worker | beat"),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("progress_at", INSTANT, nullable=False, comment="liveness is progress, not a living process"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_worker")),
    )

    op.create_table(
        "audit",
        sa.Column("id", BIG_ID, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("what", sa.String(64), nullable=False, comment="a constant word for the event"),
        sa.Column("subject", sa.String(128), nullable=False),
        sa.Column("facts", JSON, nullable=False, comment="ids and codes only"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )


def downgrade() -> None:
    for name in (
        "audit",
        "worker",
        "call",
        "run",
        "change",
        "coverage",
        "cursor",
        "account_grant",
        "party",
        "transaction",
        "balance_history",
        "balance",
        "account",
        "work",
        "authorization",
        "token",
        "consent",
        "connection",
        "lfi",
    ):
        op.drop_table(name)
