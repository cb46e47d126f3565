"""The calls of a run in the row of the run.

Why it is safe on a live table: the columns are new and may be NULL, so no row is written anew; rows of `call` stay
where they are and are read as before.  The index of `run` is built while its writers wait: they are stopped for an
upgrade.

On the way back each packed call becomes a row of `call` again.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
BATCH = 500

# the first format of store/calls.py and the ids of standard/interaction.py, as they were when this was written
OPERATIONS = (
    "GetAccounts",
    "GetAccountsAccountId",
    "GetAccountsAccountIdBalances",
    "GetAccountsAccountIdTransactions",
    "GetScheduledPayments",
    "GetAccountsAccountIdStandingOrders",
    "GetAccountsAccountIdDirectDebits",
    "GetAccountsAccountIdBeneficiaries",
    "GetAccountAccountIdStatements",
    "GetAccountsAccountIdProduct",
    "PartiesByAccountId_read",
    "Parties_read",
)
FACTORS = (0xD6E8FEB86659, 0x9E3779B97F4B)
MARKS = (1 << 48) - 1


def columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("call_mark", sa.BigInteger, comment="in each packed call's interaction id; NULL: no call is packed"),
        sa.Column("called_from", INSTANT, comment="when the first packed call began, by the worker's clock"),
        sa.Column("called_until", INSTANT, comment="when the last one did"),
        sa.Column("called", sa.Integer, comment="how many calls are packed; the others of the run are rows of `call`"),
        sa.Column("retried", sa.Integer, comment="short retries among them"),
        sa.Column("unanswered", sa.Integer, comment="of them without an answer, or with 5xx"),
        sa.Column("rate_limited", sa.Integer, comment="of them answered 429"),
        sa.Column("attended", sa.Integer, comment="of them made with the customer present"),
        sa.Column("called_bytes", sa.BigInteger, comment="received with them"),
        sa.Column("called_millifils", sa.BigInteger, comment="their price"),
        sa.Column("packed", sa.LargeBinary, comment="the calls themselves, see store/calls.py; never words of an LFI"),
    )


def upgrade() -> None:
    for column in columns():
        op.add_column("run", column)
    op.create_index(op.f("ix_run_call_mark_tenant"), "run", ["call_mark", "tenant"])


def downgrade() -> None:
    connection = op.get_bind()
    after = 0
    run = sa.table(
        "run",
        sa.column("id", sa.BigInteger),
        *(sa.column(name) for name in ("tenant", "lfi", "consent_id", "call_mark", "called_from")),
        sa.column("packed", sa.LargeBinary),
    )
    call = sa.table("call", *(sa.column(name) for name in CALL))
    query = sa.select(run).where(run.c.packed.is_not(None), run.c.id > sa.bindparam("after")).order_by(run.c.id)
    while some := connection.execute(query.limit(BATCH), {"after": after}).mappings().all():
        after = some[-1]["id"]
        connection.execute(sa.insert(call), [row for one in some for row in _unpacked(one)])
    op.drop_index(op.f("ix_run_call_mark_tenant"), "run")
    for column in reversed(columns()):
        op.drop_column("run", column.name)


CALL = (
    "tenant", "run_id", "lfi", "consent_id", "operation", "status", "error", "interaction_id", "started_at",
    "duration_ms", "bytes_in", "attended", "price_millifils", "attempt",
)  # fmt: skip


def _unpacked(run: Any) -> list[dict[str, Any]]:
    """The packed calls of a run, as rows of `call`."""
    number, _, tails, *columns = msgspec.msgpack.decode(bytes(run["packed"]))
    if number != 1:
        raise ValueError(f"run {run['id']}: its calls are packed in format {number}, unknown to this migration")
    count = len(tails) // 10
    columns = [column if isinstance(column, list) else [column] * count for column in columns]
    head = run["call_mark"]
    for factor in FACTORS:
        head = (head ^ head >> 24) * factor & MARKS
    head ^= head >> 24
    rows = []
    for at, (operation, status, error, after, *rest) in enumerate(zip(*columns, strict=True)):
        digits = f"{head:012x}{tails[at * 10 : at * 10 + 10].hex()}"
        interaction_id = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        name = OPERATIONS[operation] if isinstance(operation, int) else operation
        began = _later(run["called_from"], after)
        frame = (run["tenant"], run["id"], run["lfi"], run["consent_id"])
        rows.append(dict(zip(CALL, (*frame, name, status, error, interaction_id, began, *rest), strict=True)))
    return rows


def _later(moment: Any, milliseconds: int) -> Any:
    """An instant as the database holds it: text of fixed width on SQLite."""
    if not isinstance(moment, str):
        return moment + timedelta(milliseconds=milliseconds)
    later = datetime.fromisoformat(moment) + timedelta(milliseconds=milliseconds)
    return f"{later.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
