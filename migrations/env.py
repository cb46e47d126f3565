"""Alembic's entrance: runs the migrations on the connection that `syncworker.store.migrate` opened.

Everything happens in one transaction, on SQLite too, so a migration that fails leaves nothing behind.  On PostgreSQL an
advisory lock lets one migration run at a time; the others wait for it and then find nothing to do.

In development: `python -m syncworker db upgrade`; a new migration is written by hand, read like code, and must leave
`compare_metadata` without a difference (tests/store).
"""

import sqlalchemy as sa
from alembic import context

from syncworker.store.tables import metadata

LOCK = 7_310_579_012_026
"""A number of our own among PostgreSQL's advisory locks."""

connection = context.config.attributes.get("connection")
if not isinstance(connection, sa.Connection):
    raise SystemExit("migrations run through `syncworker db upgrade`, which opens the database")

context.configure(
    connection=connection,
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    transactional_ddl=True,  # SQLite can, when nobody commits behind our back (store.migrate)
)
with context.begin_transaction():
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    context.run_migrations()
