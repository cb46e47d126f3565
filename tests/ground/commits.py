"""A database that takes a statement and refuses its commit, as a constraint checked at the end of a transaction does.

What must happen after a commit is then seen not to happen: the statement succeeded, so code that acts before the commit
acts here too.
"""

import sqlalchemy as sa

_CHILD = "refused_commit"
_PARENT = "refused_commit_parent"


def refuse_commits(database_url: str, table: str, *, on: str = "UPDATE", when: str = "true") -> None:
    """Let every transaction fail at its commit that changed a row of `table`.

    Args:
        on: `UPDATE` or `INSERT`.
        when: condition on `NEW` and, for an update, `OLD`, in SQL both databases understand.
    """
    _run(
        database_url,
        f"CREATE TABLE IF NOT EXISTS {_PARENT} (id INTEGER PRIMARY KEY)",
        f"CREATE TABLE IF NOT EXISTS {_CHILD} "
        f"(id INTEGER REFERENCES {_PARENT} (id) DEFERRABLE INITIALLY DEFERRED, note INTEGER)",
    )
    insert = f"INSERT INTO {_CHILD} (id) VALUES (1)"
    if database_url.startswith("sqlite"):
        body = f'CREATE TRIGGER refused_commit_{table} AFTER {on} ON "{table}" WHEN {when} BEGIN {insert}; END'
        _run(database_url, body)
        return
    function = f"refused_commit_{table}()"
    _run(
        database_url,
        f"CREATE FUNCTION {function} RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {insert}; RETURN NULL; END$$",
        f'CREATE TRIGGER refused_commit_{table} AFTER {on} ON "{table}" '
        f"FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {function}",
    )


def take_commits(database_url: str, table: str) -> None:
    """Let its commits succeed again."""
    if database_url.startswith("sqlite"):
        _run(database_url, f"DROP TRIGGER refused_commit_{table}")
    else:
        _run(database_url, f'DROP TRIGGER refused_commit_{table} ON "{table}"')


def engine_of(database_url: str) -> sa.Engine:
    """A synchronous engine of its own: another connection than any the product has."""
    url = sa.make_url(database_url)
    driver = "sqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg"
    return sa.create_engine(url.set(drivername=driver), poolclass=sa.NullPool)


def _run(database_url: str, *statements: str) -> None:
    engine = engine_of(database_url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()
