"""What a run that finds nothing new writes is one row a connection, not the rows of all its cursors.

A row of `cursor` holds the digests of the pages, two kilobytes of it, and each unchanged walk wrote it anew for two
instants.  They lie in `connection_check` now, where they are newer than the cursor's own.

Why it is safe on a live table: one table is new and empty, no row is written anew.  Without a check the instants of the
cursors count, as before.  On the way back the checks are written into the cursors.

Workers of the schema before refuse the new one, so stop them, migrate, start the new ones.
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")

POSTGRESQL_CHECKS = """
    SELECT k.tenant, k.connection_id, account.value AS account_id, resource.value AS resource,
           CAST(walk.value ->> 0 AS bigint) AS gen, CAST(walk.value ->> 1 AS timestamptz) AS at,
           CAST(walked.value ->> 0 AS timestamptz) AS due_at
    FROM connection_check AS k
    CROSS JOIN json_array_elements(k.listings -> 1) AS walk
    CROSS JOIN json_array_elements(walk.value -> 2) AS walked
    CROSS JOIN json_array_elements_text(walked.value -> 1) AS place
    CROSS JOIN json_array_elements_text(k.listings -> 0 -> CAST(place.value AS integer)) AS account
    CROSS JOIN json_array_elements_text(walked.value -> 2) AS resource
"""
SQLITE_CHECKS = """
    SELECT k.tenant, k.connection_id, account.value AS account_id, resource.value AS resource,
           json_extract(walk.value, '$[0]') AS gen, json_extract(walk.value, '$[1]') AS at,
           json_extract(walked.value, '$[0]') AS due_at
    FROM connection_check AS k
    JOIN json_each(k.listings, '$[1]') AS walk
    JOIN json_each(walk.value, '$[2]') AS walked
    JOIN json_each(walked.value, '$[1]') AS place
    JOIN json_each(k.listings, '$[0][' || place.value || ']') AS account
    JOIN json_each(walked.value, '$[2]') AS resource
"""


def upgrade() -> None:
    op.create_table(
        "connection_check",
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("connection_id", sa.String(128), nullable=False),
        sa.Column(
            "listings",
            sa.JSON,
            nullable=False,
            comment="listings whose last walk showed nothing new: its instant, when due next (store/freshness.py)",
        ),
        sa.Column("gen", sa.BigInteger, nullable=False, comment="of the newest run that found listings unchanged"),
        sa.Column("at", INSTANT, nullable=False, comment="end of that run"),
        sa.PrimaryKeyConstraint("tenant", "connection_id", name=op.f("pk_connection_check")),
        postgresql_with={"fillfactor": 50},
    )


def downgrade() -> None:
    checks = POSTGRESQL_CHECKS if op.get_bind().dialect.name == "postgresql" else SQLITE_CHECKS
    op.execute(
        f"""
        UPDATE cursor
        SET checked_at = c.at, attempted_at = c.at, due_at = c.due_at, outcome = 'unchanged', gen = c.gen
        FROM ({checks}) AS c
        WHERE cursor.tenant = c.tenant AND cursor.connection_id = c.connection_id
          AND cursor.account_id = c.account_id AND cursor.resource = c.resource AND c.gen >= cursor.gen
        """  # noqa: S608  the query is one of the two above
    )
    op.drop_table("connection_check")
