"""The interaction id of a token call under way, so that no token call is missing in `call`.

Why it is safe on a live table: the column is new and may be NULL, so no row is written anew.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "token",
        sa.Column(
            "intent_call",
            sa.String(64),
            comment="interaction id of a token call that has no row in `call` yet; NULL: none",
        ),
    )


def downgrade() -> None:
    op.drop_column("token", "intent_call")
