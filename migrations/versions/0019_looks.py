"""When each listing looks again at items that could not be read.

Why it is safe on a live table: one column is new and may be NULL, so no row is written anew.  Listings that hold such
items already begin to look with their next walk that reaches far back.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")


def upgrade() -> None:
    op.add_column(
        "cursor", sa.Column("look_again_at", INSTANT, comment="when items that could not be read are looked at again")
    )


def downgrade() -> None:
    op.drop_column("cursor", "look_again_at")
