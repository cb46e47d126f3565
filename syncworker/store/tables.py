"""The schema: one row per what, in the words of the standard.

Every table carries `tenant`, and every key opens with it; indexes beside the key end with it (migration 0015).  Keys contain no NULL: a resource that belongs to the
connection and not to an account uses `account_id = ''`.  Each *record* table (account, balance, transaction, party …)
has the same frame (`_record`) around the typed columns people query; the LFI's own item lies beside them in `raw`.

Amounts are kept twice: as the LFI sent them, and signed (`Debit` negative).  Instants are UTC (`dialect.Instant`).

Lists of objects are JSON columns: the standard's members in snake_case, every number as exact text, an `Amount` as
`amount` and `currency` of the object it stands in, signed where the object has a `CreditDebitIndicator`.
"""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from syncworker.standard.resources import ResourceName
from syncworker.store.dialect import Instant, Money

metadata: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BIG_ID: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts rows in INTEGER alone
CONSENT_ID: Final = sa.String(128)
ACCOUNT_ID: Final = sa.String(40)
KEY: Final = sa.String(256)
JSON: Final = sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")
JSON_OR_NULL: Final = sa.JSON(none_as_null=True).with_variant(
    sa.dialects.postgresql.JSONB(none_as_null=True), "postgresql"
)
DIGEST: Final = sa.LargeBinary(16)
TEXT: Final = sa.Text()
"""Text of any length, for columns that most rows leave NULL.

PostgreSQL takes a `varchar(n)` without statistics for half its greatest length.  A row with fifty of them would be
wider than a page, and a table of such rows would be taken for an empty one.
"""


def _tenant() -> sa.Column[str]:
    return sa.Column("tenant", sa.String(64), primary_key=True)


lfi = sa.Table(
    "lfi",
    metadata,
    _tenant(),
    sa.Column("slug", sa.String(64), primary_key=True),
    sa.Column(
        "declared", JSON, nullable=False, comment="the declaration given to `lfis add`; paths of keys, never keys"
    ),
    sa.Column("added_at", Instant, nullable=False),
    sa.Column("not_before", Instant, comment="the gate: no call before this instant (429)"),
    sa.Column("gate_closed_at", Instant, comment="when the gate was closed: it opens as gradually as it was long"),
    sa.Column("directory", JSON_OR_NULL, comment="what the participants directory says about it; NULL: not from there"),
    sa.Column("directory_seen_at", Instant, comment="last reading of the directory that showed it"),
    sa.Column("directory_missing_since", Instant, comment="readings since then did not show it, or not as usable"),
)

breaker = sa.Table(
    "breaker",
    metadata,
    _tenant(),
    sa.Column("lfi", sa.String(64), primary_key=True),
    sa.Column("operations", sa.String(20), primary_key=True, comment="class of calls: data | token | consent"),
    sa.Column("opened_at", Instant, nullable=False, comment="first trip since it was last closed"),
    sa.Column("until", Instant, nullable=False, comment="no such call before this; then one trial"),
    sa.Column("trips", sa.Integer, nullable=False, comment="in a row; each waits longer"),
    sa.Column("reason", sa.String(64), nullable=False, comment="stable code of what tripped it last"),
    sa.Column("closed_at", Instant, comment="a trial succeeded; NULL while calls are kept back"),
)

call_budget = sa.Table(
    "call_budget",
    metadata,
    _tenant(),
    sa.Column("lfi", sa.String(64), primary_key=True),
    sa.Column("next_free", Instant, nullable=False, comment="when the next call may start; all workers move it on"),
)

ignored_filter = sa.Table(
    "ignored_filter",
    metadata,
    _tenant(),
    sa.Column("lfi", sa.String(64), primary_key=True),
    sa.Column("resource", sa.String(40), primary_key=True),
    sa.Column(
        "seen_at",
        Instant,
        nullable=False,
        comment="when a walk last proved it; forgotten after 30 days, or once an answer is narrower",
    ),
)

lfi_change = sa.Table(
    "lfi_change",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("slug", sa.String(64), nullable=False),
    sa.Column("seen_at", Instant, nullable=False, comment="when a reading of the directory showed it"),
    sa.Column("what", sa.String(40), nullable=False),
    sa.Column("version", sa.String(8), nullable=False, comment="of the standard; empty: of the LFI as a whole"),
    sa.Column("detail", sa.String(512), nullable=False, comment="what it was and what it is"),
    sa.Index(None, "tenant", "slug", "seen_at"),
)

connection = sa.Table(
    "connection",
    metadata,
    _tenant(),
    sa.Column("connection_id", CONSENT_ID, primary_key=True, comment="root ConsentId of its first chain"),
    sa.Column("lfi", sa.String(64), nullable=False),
    sa.Column("user_ref", sa.String(128), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("last_data_at", Instant, comment="date of last data received"),
    sa.Column("restricted_at", Instant, comment="set: no consent of it is in use, and its data cannot be read"),
    sa.Index(None, "user_ref", "tenant"),
    sa.Index(None, "connection_id", "tenant"),  # readers of the views, who name no tenant
)

consent = sa.Table(
    "consent",
    metadata,
    _tenant(),
    sa.Column("consent_id", CONSENT_ID, primary_key=True),
    sa.Column("connection_id", CONSENT_ID, nullable=False),
    sa.Column("lfi", sa.String(64), nullable=False),
    sa.Column("version", sa.String(8), nullable=False, comment="version of the standard"),
    sa.Column("status", sa.String(40), nullable=False),
    sa.Column("status_updated_at", Instant),
    sa.Column("status_seen_at", Instant, nullable=False, comment="when we last heard the status"),
    sa.Column("permissions", JSON, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("from_date", sa.Date),
    sa.Column("to_date", sa.Date),
    sa.Column("account_types", JSON_OR_NULL, comment="AccountType, in the consent's words; NULL: every kind"),
    sa.Column("account_sub_types", JSON_OR_NULL, comment="AccountSubType, in the consent's words; NULL: every kind"),
    sa.Column("on_behalf_of", JSON_OR_NULL, comment="OnBehalfOf"),
    sa.Column("made_in", sa.String(8), comment="version it was made in, where that is none we speak: v1.1"),
    sa.Column("base_consent_id", CONSENT_ID, comment="root of its chain; NULL: it is the root"),
    sa.Column("revoked_by", sa.String(40)),
    sa.Column("paused_at", Instant, comment="ours alone: no calls while set"),
    sa.Column("needs_consent", sa.String(64), comment="why the user has to consent again; NULL while the grant lives"),
    sa.Column("revoke_asked_at", Instant, comment="revoked here; the Hub is told until it has it"),
    sa.Column("revoke_by", sa.String(40), comment="RevokedBy of that revocation"),
    sa.Column("ended_at", Instant, comment="when we saw its terminal status: the retention clock"),
    sa.Column("compared_at", Instant, comment="last complete comparison with the Hub"),
    sa.Column("drift", sa.String(120), comment="what that comparison could not mend, in words; NULL: nothing"),
    sa.Column("webhook_active", sa.Boolean, comment="event notifications, as the Hub last showed; NULL: never"),
    sa.Column("webhook_wanted", sa.Boolean, comment="switch the Hub has to be told of; NULL: it is told"),
    sa.Column("user_type", sa.String(20), nullable=False),
    sa.Column("purpose", sa.String(40), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("raw", JSON, comment="`Data` of the consent as last seen"),
    sa.ForeignKeyConstraint(["tenant", "connection_id"], ["connection.tenant", "connection.connection_id"]),
    sa.CheckConstraint("base_consent_id IS NULL OR base_consent_id <> consent_id", name="root_has_no_base"),
    sa.Index(None, "connection_id", "tenant"),
    sa.Index(None, "status", "expires_at", "tenant"),
)  # fmt: skip

expiry_flag = sa.Table(
    "expiry_flag",
    metadata,
    _tenant(),
    sa.Column("consent_id", CONSENT_ID, primary_key=True),
    sa.Column("days", sa.Integer, primary_key=True, comment="threshold: so many days before ExpirationDateTime"),
    sa.Column("expires_at", Instant, nullable=False, comment="the consent's end as it was then"),
    sa.Column("decided_at", Instant, nullable=False),
    sa.Column("skipped", sa.String(20), comment="why no event was sent: passed | succeeded | short; NULL: one was"),
    sa.ForeignKeyConstraint(["tenant", "consent_id"], ["consent.tenant", "consent.consent_id"]),
    sa.Index(None, "decided_at", "tenant"),
)

token = sa.Table(
    "token",
    metadata,
    _tenant(),
    sa.Column("consent_id", CONSENT_ID, primary_key=True),
    sa.Column("access_token", sa.LargeBinary, comment="sealed"),
    sa.Column("refresh_token", sa.LargeBinary, comment="sealed"),
    sa.Column(
        "spares", sa.LargeBinary, comment="sealed JSON list: refresh tokens of answers that lost a swap, newest first"
    ),
    sa.Column("version", sa.BigInteger, nullable=False, comment="only grows; the swap compares it"),
    sa.Column("issued_at", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("certificate", sa.String(64), comment="x5t#S256 of the transport certificate the token is bound to"),
    sa.Column("holder", sa.String(64), comment="who holds the lease"),
    sa.Column("lease_until", Instant),
    sa.Column("intent_at", Instant, comment="a refresh was begun and has no answer yet: in doubt"),
    sa.Column("intent_version", sa.BigInteger),
    sa.Column(
        "intent_call", sa.String(64), comment="interaction id of a token call that has no row in `call` yet; NULL: none"
    ),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lost_cause", sa.String(64), comment="why the grant is gone for good"),
    sa.Column("refreshed_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.ForeignKeyConstraint(["tenant", "consent_id"], ["consent.tenant", "consent.consent_id"]),
)

authorization = sa.Table(
    "authorization",
    metadata,
    _tenant(),
    sa.Column("state", sa.String(128), primary_key=True),
    sa.Column("consent_id", CONSENT_ID, nullable=False),
    sa.Column("lfi", sa.String(64), nullable=False),
    sa.Column("version", sa.String(8), nullable=False),
    sa.Column("user_ref", sa.String(128), nullable=False),
    sa.Column("issuer", sa.String(512), nullable=False),
    sa.Column("nonce", sa.String(128), nullable=False),
    sa.Column("code_verifier", sa.LargeBinary, comment="sealed; destroyed with the first use"),
    sa.Column("request_uri", sa.LargeBinary, comment="sealed"),
    sa.Column("request", JSON, nullable=False, comment="authorization_details as sent"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False, comment="the request_uri's end"),
    sa.Column("used_at", Instant),
    sa.Column("outcome", sa.String(64), comment="authorized, declined, expired, failed …"),
    sa.Column("reason", sa.String(500), comment="the LFI's words about it, masked; destroyed with the personal data"),
    sa.Column("intent_id", sa.String(64), comment="the intent whose opening pushed it; NULL: none"),
    sa.Column("connection_id", CONSENT_ID, comment="the connection it joins; NULL: the one its root names"),
    sa.UniqueConstraint("tenant", "consent_id"),
)

authorization_intent = sa.Table(
    "authorization_intent",
    metadata,
    _tenant(),
    sa.Column(
        "intent_id", sa.String(64), primary_key=True, comment="random: a browser that has it may open the intent"
    ),
    sa.Column("lfi", sa.String(64), nullable=False),
    sa.Column("user_ref", sa.String(128), comment="NULL: the root ConsentId will stand for the user"),
    sa.Column("version", sa.String(8), comment="of the standard; NULL: the highest there is when it is opened"),
    sa.Column("base_consent_id", CONSENT_ID, comment="root of the connection that is renewed"),
    sa.Column("terms", JSON, nullable=False, comment="what the user is asked for"),
    sa.Column("return_url", sa.String(2048), comment="where the product wants its user back"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False, comment="the link's end"),
    sa.Column("opened", sa.Integer, nullable=False, server_default="0", comment="requests pushed for it"),
    sa.Column("consent_id", CONSENT_ID, comment="of the request pushed last"),
    sa.Column("completed_at", Instant, comment="tokens came home"),
    sa.Index(None, "tenant", "base_consent_id"),
)

opening = sa.Table(
    "opening",
    metadata,
    _tenant(),
    sa.Column("opening_id", sa.String(36), primary_key=True, comment="ours; the LFI's own is account_id"),
    sa.Column("lfi", sa.String(64), nullable=False),
    sa.Column("version", sa.String(16), nullable=False, comment="version of the account-opening API"),
    sa.Column("user_ref", sa.String(128), nullable=False),
    sa.Column("account_id", sa.String(128), comment="AccountId; NULL until an answer named it"),
    sa.Column("state", sa.String(20), nullable=False, comment="one word for all versions, and ours before the answer"),
    sa.Column("status", sa.String(60), comment="OpeningStatus as sent"),
    sa.Column("status_updated_at", Instant, comment="OpeningStatusUpdateDateTime"),
    sa.Column("state_since", Instant, nullable=False, comment="when we saw it enter this state"),
    sa.Column("heard_at", Instant, comment="when the LFI last answered about it"),
    sa.Column("overdue_at", Instant, comment="set: longer in this state than it should be"),
    sa.Column("ended_at", Instant),
    sa.Column("http_status", sa.Integer, comment="of the answer to the POST"),
    sa.Column("error", sa.String(64), comment="stable code: why it is unknown or refused"),
    sa.Column("webhook_active", sa.Boolean, comment="event notifications; NULL: never asked for"),
    sa.Column("request", sa.LargeBinary, comment="sealed: the body sent; personal data"),
    sa.Column("raw", sa.LargeBinary, comment="sealed: `Data` as last seen; account identifiers"),
    sa.Column("information", sa.LargeBinary, comment="sealed: AdditionalStatusInformation"),
    sa.Column("redirect_url", sa.LargeBinary, comment="sealed: where the user must be sent"),
    sa.Column("share", JSON, comment="the data-sharing consent wished for once it is opened: permissions, days"),
    sa.Column("intent_id", sa.String(64), comment="authorization_intent made of that wish"),
    sa.Column("consent_id", CONSENT_ID, comment="the consent begun at once, without an intent"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index(None, "tenant", "account_id"),
    sa.Index(None, "tenant", "state"),
)

opening_history = sa.Table(
    "opening_history",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("opening_id", sa.String(36), nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("status", sa.String(60)),
    sa.Column("status_updated_at", Instant),
    sa.Column("source", sa.String(10), nullable=False, comment="who said so: ours | answer | poll | person"),
    sa.Column("error", sa.String(64)),
    sa.ForeignKeyConstraint(["tenant", "opening_id"], ["opening.tenant", "opening.opening_id"]),
    sa.Index(None, "tenant", "opening_id"),
)

work = sa.Table(
    "work",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(20), nullable=False, comment="sync | token"),
    sa.Column("subject", CONSENT_ID, nullable=False, comment="sync: connection_id; token: consent_id"),
    sa.Column("lfi", sa.String(64), nullable=False),
    sa.Column("due_at", Instant, nullable=False),
    sa.Column("asked_at", Instant, comment="someone wants it now; cleared by the end of the run that serves it"),
    sa.Column("asked_gen", sa.BigInteger, nullable=False, server_default="0", comment="started_gen when it was asked"),
    sa.Column("asked_all_gen", sa.BigInteger,
              comment="started_gen when all listings were asked for; NULL: at most those that open refreshes want"),
    sa.Column("gen", sa.BigInteger, nullable=False, server_default="0", comment="counts claims; newer wins"),
    sa.Column("started_gen", sa.BigInteger, nullable=False, server_default="0",
              comment="newest claim a worker began: tells a lost hint from a crash, and a message delivered twice"),
    sa.Column("lease_until", Instant),  # in no index: PostgreSQL would write every claim into all of them
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0", comment="claims since the last good end"),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0", comment="claims in a row that had no end"),
    sa.Column("parked_at", Instant, comment="set: no worker claims it until a person acts"),
    sa.Column("last_started_at", Instant),
    sa.Column("last_ended_at", Instant),
    sa.Column("last_good_at", Instant),
    sa.Column("last_outcome", sa.String(40)),
    sa.Column("last_error", sa.String(64), comment="stable error code"),
    sa.Column(
        "retry", sa.Boolean, nullable=False, server_default=sa.false(), comment="of the last end: time mends it"
    ),
    sa.UniqueConstraint("tenant", "kind", "subject"),
    sa.Index("ix_work_due", "lfi", "kind", "due_at", sqlite_where=sa.text("parked_at IS NULL"),
             postgresql_where=sa.text("parked_at IS NULL")),
    sa.Index("ix_work_crashed", "tenant", "kind", sqlite_where=sa.text("crashes > 0"),
             postgresql_where=sa.text("crashes > 0")),
    postgresql_with={"fillfactor": 80},  # room on the page for the claim's and the worker's versions of a row
)  # fmt: skip

refresh = sa.Table(
    "refresh",
    metadata,
    _tenant(),
    sa.Column("refresh_id", sa.String(32), primary_key=True),
    sa.Column("key_id", sa.String(16), nullable=False, comment="the API key it was asked for with"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("attended", sa.Boolean, nullable=False, comment="asked for by a customer who was present"),
    sa.Column("idempotency", sa.LargeBinary(32), comment="digest of API key and Idempotency-Key; NULL after 24 hours"),
    sa.Column("body", sa.LargeBinary(32), comment="digest of the body, keyed by the Idempotency-Key; as long as that"),
    sa.Index("uq_refresh_idempotency", "idempotency", "tenant", unique=True),
    sa.Index(None, "created_at", "tenant"),
)

refresh_part = sa.Table(
    "refresh_part",
    metadata,
    _tenant(),
    sa.Column("refresh_id", sa.String(32), primary_key=True),
    sa.Column("connection_id", CONSENT_ID, primary_key=True),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("asked_gen", sa.BigInteger, nullable=False, comment="work.started_gen then: later runs serve it"),
    sa.Column("context", sa.String(20), nullable=False,
              comment="random, the same for one customer's session; '': no customer is present"),
    sa.Column("customer", sa.LargeBinary, comment="sealed; destroyed at the end"),
    sa.Column("wish", JSON, nullable=False, comment="resources, account, max_age in seconds; what is left out: all"),
    sa.Column("joined", sa.Boolean, nullable=False, comment="another refresh waited for the same run already"),
    sa.Column("ended_at", Instant),
    sa.Column("run_gen", sa.BigInteger, comment="run.gen of the run that served it; NULL: none did"),
    sa.Column("outcome", sa.String(20), comment="complete | partial | failed"),
    sa.Column("reason", sa.String(40), comment="why it is not complete"),
    sa.Column("error", sa.String(64), comment="stable error code"),
    sa.Column("retry_at", Instant, comment="when time may have mended it"),
    sa.Column("listings", JSON_OR_NULL, comment="outcome of every listing that was wanted"),
    sa.Index("ix_refresh_part_open", "connection_id", "tenant", sqlite_where=sa.text("ended_at IS NULL"),
             postgresql_where=sa.text("ended_at IS NULL")),
)  # fmt: skip

open_claims = sa.Table(
    "open_claims",
    metadata,
    sa.Column("tenant", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("lfi", sa.String(64), primary_key=True),
    sa.Column("work_ids", sa.JSON(), nullable=False,
              comment="every row with a lease is in it, and some whose lease has ended since"),
)  # fmt: skip


def _record(name: str, *typed: sa.Column[Any]) -> sa.Table:
    """A table of what LFIs told us: the typed columns inside the frame every record has."""
    return sa.Table(
        name,
        metadata,
        _tenant(),
        sa.Column("connection_id", CONSENT_ID, primary_key=True),
        sa.Column("account_id", ACCOUNT_ID, primary_key=True),
        sa.Column("key", KEY, primary_key=True, comment="the item's natural key within the account"),
        *typed,
        sa.Column("raw", sa.LargeBinary, nullable=False, comment="the item as sent: deflated, sealed where it must be"),
        sa.Column("digest", DIGEST, nullable=False, comment="of the canonical item and the decoder's version"),
        sa.Column("first_seen_at", Instant, nullable=False),
        sa.Column("changed_at", Instant, nullable=False),
        sa.Column("missed_since", Instant, comment="a complete walk did not show it; not yet proved gone"),
        sa.Column("gone_at", Instant, comment="proved absent at the LFI; kept, and revived if it returns"),
        sa.Column("gen", sa.BigInteger, nullable=False, comment="generation of the claim that wrote it"),
    )


def _account_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("status", sa.String(40)),
        sa.Column("currency", sa.String(3)),
        sa.Column("account_type", sa.String(40)),
        sa.Column("account_sub_type", sa.String(40)),
        sa.Column("nickname", sa.String(140)),
        sa.Column("description", sa.String(140)),
        sa.Column("opening_date", Instant),
        *_holder(),
        sa.Column("status_update_date_time", Instant, comment="when the bank says that the status changed"),
        sa.Column("maturity_date", Instant, comment="end of a term deposit or of a loan"),
        sa.Column("servicer_scheme", TEXT, comment="BICFI or Other"),
        sa.Column("servicer_identification", TEXT, comment="the bank that keeps the account, mostly its BIC"),
        sa.Column("is_sharia_compliant", sa.Boolean, comment="since v2.1"),
    )


def _holder() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("holder_name", TEXT, comment="AccountHolderName"),
        sa.Column("holder_short_name", TEXT, comment="AccountHolderShortName"),
    )


def _creditor() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("creditor_scheme", TEXT, comment="of CreditorAccount, the first one shown"),
        sa.Column("creditor_identification", TEXT, comment="the creditor's IBAN, account number, e-wallet …"),
        sa.Column("creditor_agent_scheme", TEXT, comment="of the creditor's bank"),
        sa.Column("creditor_agent_identification", TEXT, comment="the creditor's bank, mostly its BIC"),
    )


account = _record("account", *_account_columns())
account_detail = _record("account_detail", *_account_columns())

account_identifier = sa.Table(
    "account_identifier",
    metadata,
    _tenant(),
    sa.Column("connection_id", CONSENT_ID, primary_key=True),
    sa.Column("account_id", ACCOUNT_ID, primary_key=True, comment="the bank's, as account.key"),
    sa.Column("position", sa.Integer, primary_key=True, comment="place in AccountIdentifiers, from 1"),
    sa.Column("scheme", sa.String(40), comment="IBAN, AccountNumber, MaskedPAN, MortgageReference, FinanceReference"),
    sa.Column("identification", sa.String(400), comment="NULL where raw items are sealed by setting"),
    sa.Column(
        "name", sa.String(350), comment="the account's name under this identifier; NULL where raw items are sealed"
    ),
    sa.Column("gen", sa.BigInteger, nullable=False, comment="generation of the claim that wrote it"),
    sa.Index(None, "identification", "tenant"),
)

balance = _record(
    "balance",
    sa.Column("type", sa.String(40)),
    sa.Column("currency", sa.String(3)),
    sa.Column("credit_debit_indicator", sa.String(10)),
    sa.Column("amount", Money),
    sa.Column("signed_amount", Money),
    sa.Column("date_time", Instant),
    sa.Column("credit_lines", JSON_OR_NULL, comment="CreditLine: list of {included, type, amount, currency}"),
    sa.Column("components", JSON_OR_NULL, comment="lending, since v2.1: list of {balance_category, amount, currency}"),
)

balance_history = sa.Table(
    "balance_history",
    metadata,
    _tenant(),
    sa.Column("connection_id", CONSENT_ID, primary_key=True),
    sa.Column("account_id", ACCOUNT_ID, primary_key=True),
    sa.Column("key", KEY, primary_key=True, comment="Type and Currency, as in balance.key"),
    sa.Column("date_time", Instant, primary_key=True),
    sa.Column("credit_debit_indicator", sa.String(10)),
    sa.Column("amount", Money),
    sa.Column("signed_amount", Money),
    sa.Column("seen_at", Instant, nullable=False),
    sa.Column("gen", sa.BigInteger, nullable=False),
)

transaction = _record(
    "transaction",
    sa.Column("status", sa.String(20)),
    sa.Column("credit_debit_indicator", sa.String(10)),
    sa.Column("amount", Money),
    sa.Column("signed_amount", Money),
    sa.Column("currency", sa.String(3)),
    sa.Column("booking_date_time", Instant),
    sa.Column("booking_date", sa.Date, comment="local date in the UAE"),
    sa.Column("value_date_time", Instant),
    sa.Column("transaction_date_time", Instant),
    sa.Column("transaction_type", sa.String(40)),
    sa.Column("sub_transaction_type", sa.String(40)),
    sa.Column("transaction_reference", sa.String(210)),
    sa.Column("transaction_information", sa.String(500)),
    sa.Column("merchant_name", sa.String(350)),
    sa.Column("merchant_category_code", sa.String(8)),
    sa.Column("counterparty_name", sa.String(140), comment="creditor of a Debit, debtor of a Credit"),
    sa.Column("counterparty_scheme", TEXT, comment="of the counterparty's account, the first one shown"),
    sa.Column("counterparty_identification", TEXT, comment="the counterparty's IBAN or account number"),
    sa.Column("counterparty_agent_scheme", TEXT, comment="of the counterparty's bank"),
    sa.Column("counterparty_agent_identification", TEXT, comment="the counterparty's bank, mostly its BIC"),
    sa.Column("counterparty_agent_name", TEXT, comment="name of the counterparty's bank"),
    sa.Column("running_balance", Money, comment="Balance after the transaction, signed"),
    sa.Column("running_balance_currency", sa.String(3)),
    sa.Column("running_balance_type", TEXT),
    sa.Column("charge_amount", Money),
    sa.Column("charge_currency", sa.String(3)),
    sa.Column("charge_included", sa.Boolean, comment="the amount contains the charge"),
    sa.Column("charge_vat_amount", Money),
    sa.Column("charge_vat_currency", sa.String(3)),
    sa.Column("exchange_source_currency", sa.String(3)),
    sa.Column("exchange_target_currency", sa.String(3)),
    sa.Column("exchange_unit_currency", sa.String(3)),
    sa.Column("exchange_rate", TEXT, comment="exact decimal number"),
    sa.Column("exchange_contract", TEXT, comment="ContractIdentification"),
    sa.Column("exchange_quoted_at", Instant, comment="QuotationDate"),
    sa.Column("exchange_instructed_amount", Money),
    sa.Column("exchange_instructed_currency", sa.String(3)),
    sa.Column("flags", JSON_OR_NULL, comment="list of texts: Payroll, Cashback …"),
    sa.Column("payment_mode", TEXT, comment="PaymentModes"),
    sa.Column("mutability", TEXT, comment="TransactionMutability"),
    sa.Column("local_time_zone", TEXT),
    sa.Column("statement_reference", TEXT),
    sa.Column("payment_purpose_code", TEXT),
    sa.Column("bank_transaction_domain", TEXT),
    sa.Column("bank_transaction_domain_code", TEXT),
    sa.Column("bank_transaction_family", TEXT),
    sa.Column("bank_transaction_family_code", TEXT),
    sa.Column("bank_transaction_sub_family", TEXT),
    sa.Column("bank_transaction_sub_family_code", TEXT),
    sa.Column("proprietary_transaction_code", TEXT),
    sa.Column("proprietary_transaction_code_issuer", TEXT),
    sa.Column("terminal_id", TEXT, comment="text: up to 20 digits"),
    sa.Column("merchant_id", TEXT, comment="text: up to 20 digits"),
    sa.Column("card_scheme", TEXT),
    sa.Column("card_instrument_type", TEXT, comment="how the card was read: Chip, Contactless …"),
    sa.Column("card_name", TEXT),
    sa.Column("card_masked_number", TEXT),
    sa.Column("is_primary_instrument", sa.Boolean, comment="since v2.0"),
    sa.Column("biller_id", TEXT),
    sa.Column("bill_number", TEXT),
    sa.Column("bill_payment_type", TEXT),
    sa.Column("latitude", TEXT),
    sa.Column("longitude", TEXT),
    sa.Column("allocation_category", TEXT, comment="Allocations, lending, since v2.1"),
    sa.Column("allocation_amount", Money),
    sa.Column("allocation_currency", sa.String(3)),
)
sa.Index(
    "ix_transaction_dated",
    transaction.c.booking_date_time,  # the rows of one account are found by the key
    transaction.c.account_id,
    transaction.c.connection_id,
    transaction.c.tenant,
)

party = _record(
    "party",
    sa.Column("party_type", sa.String(40)),
    sa.Column("party_category", sa.String(40)),
    sa.Column("account_role", sa.String(40)),
    sa.Column("kind", TEXT, comment="Person | Business: IdentityType, else told by the claims there are"),
    sa.Column("name", sa.LargeBinary, comment="sealed: FullName, BusinessName, or given name and surname"),
)

beneficiary = _record(
    "beneficiary",
    sa.Column("beneficiary_type", sa.String(40)),
    sa.Column("added_via_of", sa.Boolean, comment="added through Open Finance"),
    sa.Column("reference", sa.String(140)),
    *_holder(),
    *_creditor(),
    sa.Column("creditor_agent_name", TEXT, comment="name of the beneficiary's bank"),
)

direct_debit = _record(
    "direct_debit",
    sa.Column("mandate_identification", sa.String(140)),
    sa.Column("status", sa.String(40)),
    sa.Column("name", sa.String(140)),
    sa.Column("frequency", sa.String(40)),
    sa.Column("previous_payment_date_time", Instant),
    sa.Column("previous_payment_amount", Money),
    sa.Column("previous_payment_currency", sa.String(3)),
)

standing_order = _record(
    "standing_order",
    sa.Column("standing_order_type", sa.String(40)),
    sa.Column("status", sa.String(40)),
    sa.Column("frequency", sa.String(140), comment="as sent: the standard's pattern is prose and contradicts itself"),
    sa.Column("first_payment_date_time", Instant),
    sa.Column("next_payment_date_time", Instant),
    sa.Column("last_payment_date_time", Instant),
    sa.Column("final_payment_date_time", Instant),
    sa.Column("number_of_payments", sa.String(35)),
    sa.Column("first_payment_amount", Money),
    sa.Column("first_payment_currency", sa.String(3)),
    sa.Column("next_payment_amount", Money),
    sa.Column("next_payment_currency", sa.String(3)),
    sa.Column("last_payment_amount", Money),
    sa.Column("last_payment_currency", sa.String(3)),
    sa.Column("final_payment_amount", Money),
    sa.Column("final_payment_currency", sa.String(3)),
    sa.Column("creditor_reference", TEXT),
    sa.Column("purpose", TEXT),
    *_holder(),
    *_creditor(),
)

scheduled_payment = _record(
    "scheduled_payment",
    sa.Column("scheduled_type", sa.String(40)),
    sa.Column("scheduled_payment_date_time", Instant),
    sa.Column("amount", Money),
    sa.Column("currency", sa.String(3)),
    sa.Column("creditor_reference", TEXT),
    sa.Column("debtor_reference", TEXT),
    *_holder(),
    *_creditor(),
)

statement = _record(
    "statement",
    sa.Column("statement_date", sa.Date),
    sa.Column("opening_date", sa.Date, comment="what the listing's filter compares"),
    sa.Column("closing_date", sa.Date),
    sa.Column("opening_balance", Money, comment="signed"),
    sa.Column("opening_currency", sa.String(3)),
    sa.Column("closing_balance", Money, comment="signed"),
    sa.Column("closing_currency", sa.String(3)),
    sa.Column("credit_line_amount", Money),
    sa.Column("credit_line_currency", sa.String(3)),
    sa.Column("opening_components", JSON_OR_NULL, comment="list of {balance_category, amount, currency}"),
    sa.Column("closing_components", JSON_OR_NULL, comment="list of {balance_category, amount, currency}"),
    sa.Column("summary", JSON_OR_NULL, comment="totals: list of {sub_transaction_type, amount (signed), currency …}"),
    sa.Column("expected_next", JSON_OR_NULL, comment="ExpectedNextStatement: list of {type, amount, currency}"),
    sa.Column("next_payments", JSON_OR_NULL, comment="NextPayment: list of {date, type, amount, currency}"),
)

product = _record(
    "product",
    sa.Column("sharia_structure", sa.String(40)),
    sa.Column("is_secured", sa.Boolean),
    sa.Column("is_salary_transfer_required", sa.Boolean),
    sa.Column("finance_rates", sa.String(10), comment="open | locked: a JWE only the user's code opens"),
    sa.Column("product_id", TEXT, comment="before v2.1"),
    sa.Column("product_type", TEXT, comment="before v2.1"),
    sa.Column("product_name", TEXT, comment="before v2.1"),
    sa.Column("is_islamic", sa.Boolean, comment="before v2.1; since then ShariaStructure"),
    sa.Column("charges", JSON_OR_NULL, comment="list of objects with the standard's members in snake_case"),
    sa.Column(
        "rates",
        JSON_OR_NULL,
        comment="what financing costs: FinanceRates, an object, or LendingRates, a list; open ones",
    ),
    sa.Column("deposit_rates", JSON_OR_NULL, comment="DepositRates: an object since v2.1, a list before"),
    sa.Column("original_tenor", TEXT, comment="ISO 8601 duration"),
    sa.Column("remaining_tenor", TEXT, comment="ISO 8601 duration"),
    sa.Column("asset_backed", JSON_OR_NULL, comment="collateral and transfer of ownership: list of objects"),
    sa.Column("rewards_benefits", JSON_OR_NULL, comment="list of objects"),
)

record_history = sa.Table(
    "record_history",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("connection_id", CONSENT_ID, nullable=False),
    sa.Column("account_id", ACCOUNT_ID, nullable=False),
    sa.Column("resource", sa.String(40), nullable=False),
    sa.Column("key", KEY, nullable=False),
    sa.Column("valid_from", Instant, nullable=False, comment="when the row began to say so"),
    sa.Column("valid_until", Instant, nullable=False, comment="when it ceased to"),
    sa.Column("op", sa.String(10), nullable=False, comment="what ended it"),
    sa.Column("raw", sa.LargeBinary, comment="as the row kept it, seal included; NULL: it was a tombstone"),
    sa.Column("digest", DIGEST, nullable=False),
    sa.Column("gen", sa.BigInteger, nullable=False, comment="generation of the claim that ended it"),
    sa.CheckConstraint("op IN ('modified', 'removed', 'revived')", name="op"),
    sa.Index("ix_record_history_row", "tenant", "connection_id", "resource", "account_id", "key", "valid_until"),
)

unreadable_item = sa.Table(
    "unreadable_item",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("connection_id", CONSENT_ID, nullable=False),
    sa.Column("account_id", ACCOUNT_ID, nullable=False),
    sa.Column("resource", sa.String(40), nullable=False),
    sa.Column("digest", DIGEST, nullable=False, comment="of the item's bytes as sent: by which it is known again"),
    sa.Column("consent_id", CONSENT_ID, nullable=False, comment="with which it was shown last"),
    sa.Column("page", sa.Integer, nullable=False, comment="from 1"),
    sa.Column("path", sa.String(140), nullable=False, comment="place on the page, down to the member that is wrong"),
    sa.Column("reason", sa.String(40), nullable=False),
    sa.Column("copies", sa.Integer, nullable=False, comment="how often one walk showed these very bytes"),
    sa.Column("size", sa.Integer, nullable=False, comment="bytes as sent"),
    sa.Column("not_before", Instant, comment="where in time it lies; NULL: not known, or the listing has no window"),
    sa.Column("not_after", Instant),
    sa.Column("shown_since", Instant, comment="each complete walk that must show it did, since this one; NULL: none"),
    sa.Column("first_seen_at", Instant, nullable=False),
    sa.Column("last_seen_at", Instant, nullable=False),
    sa.Column("times", sa.Integer, nullable=False, comment="walks that showed it"),
    sa.Column("item", sa.LargeBinary, comment="sealed: its bytes as sent; NULL: too long to keep"),
    sa.UniqueConstraint("tenant", "connection_id", "account_id", "resource", "digest", name="uq_unreadable_item"),
)

account_grant = sa.Table(
    "account_grant",
    metadata,
    _tenant(),
    sa.Column("consent_id", CONSENT_ID, primary_key=True),
    sa.Column("account_id", ACCOUNT_ID, primary_key=True),
    sa.Column("connection_id", CONSENT_ID, nullable=False),
    sa.Column("granted_at", Instant, nullable=False),
    sa.Column("ended_at", Instant, comment="a complete walk of /accounts no longer showed it"),
)

cursor = sa.Table(
    "cursor",
    metadata,
    _tenant(),
    sa.Column("connection_id", CONSENT_ID, primary_key=True),
    sa.Column("account_id", ACCOUNT_ID, primary_key=True),
    sa.Column("resource", sa.String(40), primary_key=True),
    sa.Column("pages", sa.LargeBinary, comment="digest and keys of each page of the last complete walk"),
    sa.Column("window_from", sa.Date, comment="what the last walk asked from"),
    sa.Column("high_water", Instant, comment="newest booked BookingDateTime seen"),
    sa.Column(
        "open_since",
        Instant,
        comment="oldest booking of a row still Pending or missed: the next walk reaches back to it",
    ),
    sa.Column("checked_at", Instant, comment="last complete walk, changed or not"),
    sa.Column("attempted_at", Instant),
    sa.Column("changed_at", Instant),
    sa.Column("due_at", Instant, nullable=False),
    sa.Column("outcome", sa.String(40)),
    sa.Column("error", sa.String(64)),
    sa.Column("refused_until", Instant, comment="a definite refusal, remembered"),
    sa.Column("first_available", Instant, comment="where the LFI says that its own history begins"),
    sa.Column("deep_at", Instant, comment="last walk that reached back for rows filed late"),
    sa.Column(
        "backfilled_to", sa.Date, comment="set: the backfill is complete, from here on; 0001-01-01: all the LFI has"
    ),
    sa.Column(
        "empty_slices", sa.Integer, nullable=False, server_default="0", comment="slices in a row that held nothing"
    ),
    sa.Column("backfill_due_at", Instant, comment="no slice before this: the last one was refused or broke off"),
    sa.Column(
        "attempts",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="ends in a row that time is to mend; 0 once the listing was read",
    ),
    sa.Column("failing_since", Instant, comment="when the newest of those faults was met first"),
    sa.Column("gen", sa.BigInteger, nullable=False),
    sa.Column("look_again_at", Instant, comment="when items that could not be read are looked at again"),
)

connection_check = sa.Table(
    "connection_check",
    metadata,
    _tenant(),
    sa.Column("connection_id", CONSENT_ID, primary_key=True),
    sa.Column(
        "listings",
        sa.JSON,
        nullable=False,
        comment="listings whose last walk showed nothing new: its instant, when due next (store/freshness.py)",
    ),
    sa.Column("gen", sa.BigInteger, nullable=False, comment="of the newest run that found listings unchanged"),
    sa.Column("at", Instant, nullable=False, comment="end of that run"),
    postgresql_with={"fillfactor": 50},  # room on the page for the next version of each row
)

finding = sa.Table(
    "finding",
    metadata,
    _tenant(),
    sa.Column("lfi", sa.String(64), primary_key=True),
    sa.Column("operation", sa.String(64), primary_key=True, comment="operationId; '' for a run as a whole"),
    sa.Column("code", sa.String(64), primary_key=True, comment="error or note that a person has to look at"),
    sa.Column("first_seen_at", Instant, nullable=False, comment="since it was last resolved"),
    sa.Column("last_seen_at", Instant, nullable=False),
    sa.Column("times", sa.BigInteger, nullable=False, comment="listings that met it since first_seen_at"),
    sa.Column("connection_id", CONSENT_ID, nullable=False, comment="the last one that met it"),
    sa.Column("consent_id", CONSENT_ID, nullable=False),
    sa.Column("interaction_id", sa.String(64), comment="of the last call that met it"),
    sa.Column("reason", sa.String(200), comment="the LFI's own words, cleaned"),
    sa.Column("resolved_at", Instant, comment="a read of the operation showed it gone"),
)

coverage = sa.Table(
    "coverage",
    metadata,
    _tenant(),
    sa.Column("connection_id", CONSENT_ID, primary_key=True),
    sa.Column("account_id", ACCOUNT_ID, primary_key=True),
    sa.Column("resource", sa.String(40), primary_key=True),
    sa.Column("from_date", sa.Date, primary_key=True, comment="inclusive; 0001-01-01: from the first available"),
    sa.Column("to_date", sa.Date, nullable=False, comment="inclusive"),
    sa.Column("walked_at", Instant, nullable=False),
    sa.Column("pages", sa.Integer, nullable=False),
    sa.Column("items", sa.Integer, nullable=False),
    sa.Column("gen", sa.BigInteger, nullable=False),
)

change = sa.Table(
    "change",
    metadata,
    sa.Column("seq", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("txid", sa.BigInteger, nullable=False,
              comment="the writing transaction: a reader stops before the oldest one open; SQLite: 0"),
    sa.Column("connection_id", CONSENT_ID, nullable=False),
    sa.Column("account_id", ACCOUNT_ID, nullable=False),
    sa.Column("resource", sa.String(40), nullable=False),
    sa.Column("key", KEY, nullable=False),
    sa.Column("op", sa.String(10), nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("gen", sa.BigInteger, nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="1",
              comment="history of the database it belongs to: see feed_epoch"),
    sa.Column("previous_status", sa.String(20),
              comment="of a transaction that this change moved from Pending to Booked"),
    sa.Column("scope", sa.String(10),
              comment="of a marker: history | news | all; erased: data | personal; else NULL"),
    sa.CheckConstraint("op IN ('added', 'modified', 'removed', 'backfilled', 'erased', 'restricted')", name="op"),
    sa.Index(None, "tenant", "epoch", "txid", "seq"),
    sa.Index("ix_change_connection", "connection_id", "epoch", "txid", "seq"),
    sqlite_autoincrement=True,
)  # fmt: skip

feed_epoch = sa.Table(
    "feed_epoch",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, nullable=False, comment="history the database is in; the first is 1"),
    sa.Column("system_id", sa.String(64), nullable=False,
              comment="PostgreSQL: of the cluster; empty: not told"),
    sa.Column("timeline", sa.BigInteger, nullable=False, comment="of the cluster's log; SQLite: 0"),
    sa.Column("txid", sa.BigInteger, nullable=False,
              comment="transaction that wrote this row: a restored copy was written by another; SQLite: 0"),
    sa.Column("seq", sa.BigInteger, nullable=False, comment="highest number the feed had given then"),
    sa.Column("began_at", Instant, nullable=False, comment="when this history was first met"),
)  # fmt: skip

feed_pruned = sa.Table(
    "feed_pruned",
    metadata,
    _tenant(),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("txid", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
)

run = sa.Table(
    "run",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("connection_id", CONSENT_ID, nullable=False),
    sa.Column("consent_id", CONSENT_ID, nullable=False),
    sa.Column("lfi", sa.String(64), nullable=False),
    sa.Column("gen", sa.BigInteger, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("ended_at", Instant, nullable=False),
    sa.Column("outcome", sa.String(40), nullable=False, comment="ok | unchanged | partial | failed"),
    sa.Column("error", sa.String(64)),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("pages", sa.Integer, nullable=False),
    sa.Column("pages_unchanged", sa.Integer, nullable=False),
    sa.Column("added", sa.Integer, nullable=False),
    sa.Column("modified", sa.Integer, nullable=False),
    sa.Column("removed", sa.Integer, nullable=False),
    sa.Column("steps", JSON, nullable=False, comment="outcome of every (account, resource)"),
    sa.Column("call_mark", sa.BigInteger, comment="in each packed call's interaction id; NULL: no call is packed"),
    sa.Column("called_from", Instant, comment="when the first packed call began, by the worker's clock"),
    sa.Column("called_until", Instant, comment="when the last one did"),
    sa.Column("called", sa.Integer, comment="how many calls are packed; the others of the run are rows of `call`"),
    sa.Column("retried", sa.Integer, comment="short retries among them"),
    sa.Column("unanswered", sa.Integer, comment="of them without an answer, or with 5xx"),
    sa.Column("rate_limited", sa.Integer, comment="of them answered 429"),
    sa.Column("attended", sa.Integer, comment="of them made with the customer present"),
    sa.Column("called_bytes", sa.BigInteger, comment="received with them"),
    sa.Column("called_millifils", sa.BigInteger, comment="their price"),
    sa.Column("packed", sa.LargeBinary, comment="the calls themselves, see store/calls.py; never words of an LFI"),
    sa.Index(None, "tenant", "connection_id", "started_at"),
    sa.Index(None, "call_mark", "tenant"),  # marks are in the order of time
)

call = sa.Table(
    "call",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("lfi", sa.String(64), nullable=False),
    sa.Column("consent_id", CONSENT_ID, nullable=False, comment="'' for a call that belongs to no consent"),
    sa.Column("operation", sa.String(64), nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.String(64)),
    sa.Column("interaction_id", sa.String(64), nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("duration_ms", sa.Integer, nullable=False),
    sa.Column("bytes_in", sa.BigInteger, nullable=False),
    sa.Column("attended", sa.Boolean, nullable=False),
    sa.Column("price_millifils", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="1", comment="2 and up: a short retry"),
    sa.Column("run_id", sa.BigInteger, comment="the run it was made for; NULL: none"),
    sa.Column("reason", sa.String(500), comment="the LFI's words about it, masked; destroyed with the personal data"),
    sa.Index(None, "tenant", "lfi", "started_at"),
    sa.Index(
        "ix_call_reason",
        "tenant",
        "consent_id",
        "id",
        sqlite_where=sa.text("reason IS NOT NULL"),
        postgresql_where=sa.text("reason IS NOT NULL"),
    ),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, comment="SHA-256 by which the same event is known again"),
    sa.Column("issuer", sa.String(512), nullable=False, comment="who signed it, verified"),
    sa.Column("jti", sa.String(256), comment="of the signed event; NULL: it has none"),
    sa.Column("bearer_jti", sa.String(64), comment="SHA-256 of issuer and jti of the bearer JWT it came with"),
    sa.Column("kind", sa.String(40), nullable=False),
    sa.Column("subject", CONSENT_ID, nullable=False, comment="the id it names; '' when none could be read"),
    sa.Column("lfi", sa.String(64), nullable=False, comment="of the subject; '' when it is not known to us"),
    sa.Column("event_type", sa.String(40), nullable=False),
    sa.Column("happened_at", Instant, comment="EventDateTime"),
    sa.Column("status", sa.String(40), comment="as the event says; a hint, never believed"),
    sa.Column("status_updated_at", Instant),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("interaction_id", sa.String(64), nullable=False),
    sa.Column(
        "received", sa.Integer, nullable=False, server_default="1", comment="how often it came, retries included"
    ),
    sa.Column("state", sa.String(20), nullable=False, comment="filed | done | quarantined"),
    sa.Column("outcome", sa.String(40), comment="what became of it"),
    sa.Column("acted_at", Instant),
    sa.Column("content", sa.LargeBinary, nullable=False, comment="the signed claims: deflated and sealed"),
    sa.Column("asked_at", Instant, comment="when the question began whose answer it was last held against"),
    sa.CheckConstraint("state IN ('filed', 'done', 'quarantined')", name="state"),
    sa.UniqueConstraint("tenant", "issuer", "digest"),
    sa.UniqueConstraint("tenant", "issuer", "jti"),
    sa.UniqueConstraint("tenant", "bearer_jti"),
    sa.Index(None, "received_at", "tenant"),
    sa.Index(None, "digest", "tenant"),  # of three that open with the tenant, any finds a repeat without statistics
    sa.Index(
        "ix_event_filed",
        "tenant",
        "subject",
        sqlite_where=sa.text("state = 'filed'"),
        postgresql_where=sa.text("state = 'filed'"),
    ),
    sa.Index(
        "ix_event_quarantined",
        "tenant",
        "id",
        sqlite_where=sa.text("state = 'quarantined'"),
        postgresql_where=sa.text("state = 'quarantined'"),
    ),
    sqlite_autoincrement=True,
)

refused_event = sa.Table(
    "refused_event",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, comment="SHA-256 of the body"),
    sa.Column("why", sa.String(40), nullable=False, comment="stable word for the check it failed"),
    sa.Column("address", sa.String(64), nullable=False, comment="where it came from, as we saw it"),
    sa.Column("media_type", sa.String(64), nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("kid", sa.String(128), comment="claimed, not believed"),
    sa.Column("issuer", sa.String(512), comment="claimed, not believed"),
    sa.Column("received_at", Instant, nullable=False, comment="first time"),
    sa.Column("last_at", Instant, nullable=False),
    sa.Column("received", sa.Integer, nullable=False, server_default="1"),
    sa.Column("body", sa.LargeBinary, comment="sealed; only where a change of ours may let it verify, else NULL"),
    sa.UniqueConstraint("tenant", "digest"),
    sa.Index(None, "tenant", "last_at"),
    sqlite_autoincrement=True,
)

api_key = sa.Table(
    "api_key",
    metadata,
    _tenant(),
    sa.Column("key_id", sa.String(16), primary_key=True, comment="the key's public part"),
    sa.Column("name", sa.String(64), nullable=False, comment="who uses it, in the operator's words"),
    sa.Column("scopes", JSON, nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False, comment="SHA-256 of the key; the key itself is nowhere"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, comment="refused from then on; NULL: never"),
    sa.Column("last_used_at", Instant, comment="to the minute"),
    sa.Column("revoked_at", Instant),
)

export = sa.Table(
    "export",
    metadata,
    _tenant(),
    sa.Column("name", sa.String(63), primary_key=True, comment="of the series, as its folder's"),
    sa.Column("number", sa.BigInteger, primary_key=True, comment="reserved before anything is written"),
    sa.Column("target", sa.String(1024), nullable=False, comment="where its folders are, as the operator wrote it"),
    sa.Column("format", sa.String(10), nullable=False, comment="parquet | ndjson | csv | delta"),
    sa.Column("kind", sa.String(12), comment="full | incremental; NULL: not decided yet"),
    sa.Column("reason", sa.String(40), comment="why it is a full one where an increment was due"),
    sa.Column("base", sa.BigInteger, comment="number of the full export it stands on"),
    sa.Column("as_of", Instant, comment="instant of the snapshot"),
    sa.Column("to_cursor", TEXT, comment="where in the feed the next increment begins"),
    sa.Column("rows", sa.BigInteger),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("lease_until", Instant, comment="another process may take it over then; NULL once it has ended"),
    sa.Column("ended_at", Instant),
    sa.Column("outcome", sa.String(20), comment="done | adopted | abandoned | failed"),
    sa.Column("error", sa.String(64), comment="stable error code"),
    sa.Index("uq_export_open", "name", "tenant", unique=True, sqlite_where=sa.text("ended_at IS NULL"),
             postgresql_where=sa.text("ended_at IS NULL")),
)  # fmt: skip

ops_session = sa.Table(
    "ops_session",
    metadata,
    _tenant(),
    sa.Column("digest", sa.LargeBinary(32), primary_key=True, comment="SHA-256 of the id in the browser's cookie"),
    sa.Column("key_id", sa.String(16), nullable=False, comment="the API key it was begun with; it ends with the key"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("last_seen_at", Instant, nullable=False, comment="to the minute"),
    sa.ForeignKeyConstraint(["tenant", "key_id"], ["api_key.tenant", "api_key.key_id"]),
)

webhook_endpoint = sa.Table(
    "webhook_endpoint",
    metadata,
    _tenant(),
    sa.Column("endpoint_id", sa.String(24), primary_key=True),
    sa.Column("url", sa.String(2048), nullable=False),
    sa.Column("description", sa.String(200)),
    sa.Column("types", sa.String(800), comment="types it wants, each between spaces; NULL: every one"),
    sa.Column("secrets", sa.LargeBinary, nullable=False, comment="sealed JSON list of signing secrets, newest first"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("failing_since", Instant, comment="first failed attempt since the last one that succeeded"),
    sa.Column("quiet_until", Instant, comment="nothing is sent before: the last attempts failed"),
    sa.Column("disabled_at", Instant, comment="nothing is sent since then; messages are kept"),
    sa.Column("disabled_why", sa.String(40), comment="operator | gone | failing"),
)

webhook_message = sa.Table(
    "webhook_message",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("endpoint_id", sa.String(24), nullable=False),
    sa.Column("message_id", sa.String(32), nullable=False, comment="webhook-id: the same with every attempt"),
    sa.Column("type", sa.String(40), nullable=False),
    sa.Column("connection_id", CONSENT_ID, nullable=False, comment="'' for a message about none: order is by it"),
    sa.Column("gen", sa.BigInteger, nullable=False, comment="of the claim whose changes it tells; 0: it tells none"),
    sa.Column("data", JSON, nullable=False, comment="ids, counts, dates and codes only"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("not_before", Instant, nullable=False, comment="next attempt"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_status", sa.Integer, comment="HTTP status of the last answer"),
    sa.Column("last_error", sa.String(64), comment="stable code of the last failure"),
    sa.Column("ended_at", Instant),
    sa.Column("outcome", sa.String(20), comment="delivered | folded | given_up"),
    sa.Column("folded_into", sa.BigInteger, comment="id of the message that tells it too"),
    sa.CheckConstraint("outcome IN ('delivered', 'folded', 'given_up')", name="outcome"),
    sa.Index(
        "ix_webhook_message_waiting",
        "endpoint_id",
        "connection_id",
        "id",
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
    sa.Index(None, "created_at", "tenant"),
    sqlite_autoincrement=True,
)

worker = sa.Table(
    "worker",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True, comment="host and process"),
    sa.Column("kind", sa.String(20), nullable=False, comment="worker | beat"),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("progress_at", Instant, nullable=False, comment="liveness is progress, not a living process"),
    sa.Column("canary_asked_at", Instant, comment="when a canary was last sent to it"),
    sa.Column("canary_at", Instant, comment="when one last came round"),
    sa.Column(
        "observers_failed",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="how often an observer of calls failed in this process",
    ),
)

clock_offset = sa.Table(
    "clock_offset",
    metadata,
    _tenant(),
    sa.Column("host", sa.String(100), primary_key=True, comment="whose clock was compared"),
    sa.Column("peer", sa.String(64), primary_key=True, comment="with whose: an LFI's slug, or 'database:'"),
    sa.Column("offset_ms", sa.BigInteger, nullable=False, comment="the peer's clock less the host's"),
    sa.Column("within_ms", sa.BigInteger, nullable=False, comment="how far the offset may be from the truth"),
    sa.Column("measured_at", Instant, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("what", sa.String(64), nullable=False, comment="a constant word for the event"),
    sa.Column("subject", CONSENT_ID, nullable=False),
    sa.Column("facts", JSON, nullable=False, comment="ids and codes only"),
    sa.Index(None, "subject", "tenant"),
)

tenant_key = sa.Table(
    "tenant_key",
    metadata,
    _tenant(),
    sa.Column("purpose", sa.String(20), primary_key=True, comment="what it is for: identity"),
    sa.Column("key", sa.LargeBinary, nullable=False, comment="sealed: 32 random bytes, the same for ever"),
    sa.Column("created_at", Instant, nullable=False),
)

account_reference = sa.Table(
    "account_reference",
    metadata,
    _tenant(),
    sa.Column("connection_id", CONSENT_ID, primary_key=True),
    sa.Column("lfi_account_id", ACCOUNT_ID, primary_key=True, comment="AccountId, as the LFI names it"),
    sa.Column("account_id", sa.String(24), nullable=False, comment="ours: acc_ and 20 random letters and digits"),
    sa.Column(
        "identity",
        sa.String(68),
        comment="idn_ and an HMAC of the IBAN under the tenant's key; NULL: no IBAN, or erased",
    ),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index(None, "account_id", "tenant", unique=True),
    sa.Index(None, "identity", "tenant"),
)

filling = sa.Table(
    "filling",
    metadata,
    _tenant(),
    sa.Column("table_name", sa.String(40), primary_key=True, comment="the record table whose columns are filled"),
    sa.Column("columns_version", sa.Integer, nullable=False, comment="which columns its rows are to have"),
    sa.Column("connection_id", CONSENT_ID, comment="key of the last row looked at; NULL: none yet, or all of them"),
    sa.Column("account_id", ACCOUNT_ID),
    sa.Column("key", KEY),
    sa.Column("rows_done", sa.BigInteger, nullable=False),
    sa.Column("rows_about", sa.BigInteger, nullable=False, comment="rows of the table when it began"),
    sa.Column("skipped", sa.BigInteger, nullable=False, comment="rows whose item does not open or cannot be decoded"),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("ended_at", Instant, comment="NULL while it goes on"),
)

counter = sa.Table(
    "counter",
    metadata,
    _tenant(),
    sa.Column("name", sa.String(20), primary_key=True, comment="what is counted, a constant word"),
    sa.Column("labels", sa.String(200), primary_key=True,
              comment="LFI, operation, constant words, as the name has them, joined by commas"),
    sa.Column("value", sa.BigInteger, nullable=False, comment="never less than it was"),
    postgresql_with={"fillfactor": 50},  # each row is written anew every few seconds: room for that on its page
)  # fmt: skip

cause = sa.Table(
    "cause",
    metadata,
    sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
    sa.Column("tenant", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(40), nullable=False, comment="what is wrong, a constant word"),
    sa.Column("key", sa.String(200), nullable=False, comment="kind and what it is about: the same while it lasts"),
    sa.Column("began_at", Instant, nullable=False),
    sa.Column("seen_at", Instant, nullable=False, comment="last look that found it"),
    sa.Column("ended_at", Instant, comment="first look that did not find it; NULL: it lasts"),
    sa.Column("stale", sa.Integer, nullable=False, comment="connections it made stale, at worst"),
    sa.Column("failing", sa.Integer, nullable=False, comment="connections whose last sync it made fail, at worst"),
    sa.Column("waiting", sa.Integer, nullable=False, comment="rows of work and messages it kept, at worst"),
    sa.Index(
        "ix_cause_open",
        "key",
        "tenant",
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    ),
    sa.Index(None, "ended_at", "tenant"),
    sqlite_autoincrement=True,
)

staleness = sa.Table(
    "staleness",
    metadata,
    _tenant(),
    sa.Column("connection_id", CONSENT_ID, primary_key=True),
    sa.Column("stale_at", Instant, nullable=False, comment="when the first of its listings passes its target"),
    sa.Column("resource", sa.String(40), nullable=False, comment="that listing's"),
    sa.Column("account_id", ACCOUNT_ID, nullable=False, comment="that listing's; '' for none"),
    sa.Column("checked_at", Instant, comment="last complete walk of that listing; NULL: never"),
    sa.Column("run_ended_at", Instant, nullable=False, comment="work.last_ended_at when it was judged"),
    sa.Column("rule", sa.String(16), nullable=False, comment="digest of cadence and margin it was judged by"),
    sa.Column("ages", sa.LargeBinary, comment="oldest last walk of each resource (store/ages.py); NULL: not noted yet"),
)

usual = sa.Table(
    "usual",
    metadata,
    _tenant(),
    sa.Column("lfi", sa.String(64), primary_key=True),
    sa.Column("resource", sa.String(40), primary_key=True, comment="'' for a run as a whole"),
    sa.Column("median_ms", sa.Integer, nullable=False, comment="of a call; of a run, from begin to end"),
    sa.Column("samples", sa.Integer, nullable=False),
    sa.Column("measured_at", Instant, nullable=False),
)

ops_look = sa.Table(
    "ops_look",
    metadata,
    _tenant(),
    sa.Column("name", sa.String(20), primary_key=True, comment="tick | status: which process looked"),
    sa.Column("at", Instant, nullable=False),
)

sql_view = sa.Table(
    "sql_view",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True, comment="a view that `db upgrade` made"),
    sa.Column("digest", sa.String(64), nullable=False, comment="SHA-256 of its definition and comments, as made"),
)

RECORD_TABLES: Final[dict[ResourceName, sa.Table]] = {
    ResourceName.ACCOUNTS: account,
    ResourceName.BALANCES: balance,
    ResourceName.TRANSACTIONS: transaction,
    ResourceName.ACCOUNT_PARTIES: party,
    ResourceName.PARTIES: party,
    ResourceName.BENEFICIARIES: beneficiary,
    ResourceName.DIRECT_DEBITS: direct_debit,
    ResourceName.STANDING_ORDERS: standing_order,
    ResourceName.SCHEDULED_PAYMENTS: scheduled_payment,
    ResourceName.STATEMENTS: statement,
    ResourceName.PRODUCT: product,
    ResourceName.ACCOUNT: account_detail,
}
"""Where each resource of the catalogue is kept."""

SEALED_RAW: Final = frozenset({"party"})
"""Record tables whose raw item is always sealed; others by setting."""

SEALED_COLUMNS: Final[Mapping[str, frozenset[str]]] = {"party": frozenset({"name"})}
"""Typed columns whose text is always sealed, by table."""

_HOLDER: Final = frozenset({"holder_name", "holder_short_name"})
PERSONAL: Final[Mapping[str, frozenset[str]]] = {
    "account": _HOLDER | {"nickname"},
    "account_detail": _HOLDER | {"nickname"},
    "account_identifier": frozenset({"identification", "name"}),
    "transaction": frozenset(
        {
            "transaction_information",  # banks write the names of both sides into it
            "transaction_reference",
            "counterparty_name",
            "counterparty_identification",
            "card_name",
            "card_masked_number",
            "bill_number",  # the user's number at a utility or a telephone company
            "latitude",
            "longitude",
        }
    ),
    "party": frozenset({"name"}),
    "beneficiary": _HOLDER | {"creditor_identification", "reference"},
    "direct_debit": frozenset({"name", "mandate_identification"}),
    "standing_order": _HOLDER | {"creditor_identification", "creditor_reference", "purpose"},
    "scheduled_payment": _HOLDER | {"creditor_identification", "creditor_reference", "debtor_reference"},
    "product": frozenset({"asset_backed"}),  # describes what a person owns: a home, a vehicle, a salary
}
"""Columns that tell who people are, by table; tables without any are left out.

Names, identifiers of people and of their accounts, places where they were, and free text that holds such.  Where raw
items are sealed by setting these columns stay NULL, and a reader without the right to personal data sees none of them.
"""

FRAME: Final = (
    "tenant",
    "connection_id",
    "account_id",
    "key",
    "raw",
    "digest",
    "first_seen_at",
    "changed_at",
    "missed_since",
    "gone_at",
    "gen",
)


def resource_of(table: sa.Table, account_id: str) -> ResourceName:
    """The resource of a record table's row; parties of an account and of a connection share one table."""
    names = [name for name, kept in RECORD_TABLES.items() if kept is table]
    return names[0] if len(names) == 1 else (ResourceName.PARTIES, ResourceName.ACCOUNT_PARTIES)[account_id != ""]


def typed_columns(table: sa.Table) -> tuple[str, ...]:
    """Names of a record table's typed columns, in table order."""
    return tuple(column.name for column in table.columns if column.name not in FRAME)
