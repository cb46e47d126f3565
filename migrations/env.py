"""Alembic's entrance: runs the migrations on the connection that `syncworker.store.migrate` opened.

Everything happens in the transaction that `syncworker.store.migrate` began, on SQLite too, so a migration that fails
leaves nothing behind.

In development: `python -m syncworker db upgrade`; a new migration is written by hand, read like code, and must leave
`compare_metadata` without a difference (tests/store).
"""

import sqlalchemy as sa
from alembic import context

from syncworker.store.tables import metadata

connection = context.config.attributes.get("connection")
if not isinstance(connection, sa.Connection):
    raise SystemExit("migrations run through `syncworker db upgrade`, which opens the database")

context.configure(
    connection=connection,
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    transactional_ddl=True,  # SQLite can, when nothing commits in between (store.migrate)
)
with context.begin_transaction():
    context.run_migrations()
