"""Make the views of `store.sql_views` in a database, drop them before its tables change, and say what they lack.

`store.migrate` calls this inside the transaction of its migrations.  `sql_view` holds the name and digest of each view
that was made, so that views whose definition is the same stay, and only views of ours are dropped.

SQLite checks every view of the file whenever a table is renamed, and a migration renames.  So the views of others leave
the file too, and return as they were written.  PostgreSQL does not drop a view that another one reads: such a view is
named, and nothing is changed.  What roles were granted on a view is granted again on the new one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from syncworker.errors import SetupError
from syncworker.store.sql_views import VIEWS
from syncworker.store.tables import sql_view

REMAKE: Final = "syncworker db upgrade"


@dataclass(frozen=True, slots=True)
class Found:
    """What the views of a database at the newest schema are like; all empty: as they should be.

    Attributes:
        missing: names of views that are not there.
        outdated: names of views made by another definition than this syncworker's.
        taken: names of views whose place another relation has.
        others: views of others that the next `db upgrade` meets: on PostgreSQL those that read ours, on SQLite all.
    """

    missing: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def as_wanted(self) -> bool:
        """Every view of ours is there, by its present definition."""
        return not (self.missing or self.outdated or self.taken)

    @property
    def faults(self) -> list[str]:
        """What has to be mended, in words; empty: nothing."""
        faults = [f"the view {name} is missing; run: {REMAKE}" for name in self.missing]
        faults += [f"the view {name} is not as this syncworker makes it; run: {REMAKE}" for name in self.outdated]
        faults += [
            f"{name} was not made by syncworker, which makes a view of that name; rename or drop it, and run: {REMAKE}"
            for name in self.taken
        ]
        return faults


@dataclass(frozen=True, slots=True)
class Kept:
    """What was there beside our definitions, to be put back.

    Attributes:
        grants: statements that grant again what roles had on our views.
        others: statements that make the views of others again, and their triggers (SQLite).
        names: of these views.
    """

    grants: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()


_RELATIONS: Final = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type IN ('view', 'table')",
    "postgresql": (
        "SELECT relname FROM pg_class WHERE relkind IN ('v', 'm', 'r', 'p', 'f')"
        " AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())"
    ),
}
_READERS: Final = """
SELECT DISTINCT n.nspname || '.' || reader.relname, ours.relname
FROM pg_depend d
JOIN pg_rewrite r ON r.oid = d.objid
JOIN pg_class reader ON reader.oid = r.ev_class
JOIN pg_namespace n ON n.oid = reader.relnamespace
JOIN pg_class ours ON ours.oid = d.refobjid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND reader.oid <> ours.oid
  AND ours.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
  AND ours.relname = ANY(:names)
ORDER BY 1, 2
"""
_GRANTS: Final = """
SELECT format('GRANT %s%s ON %I TO %s%s', g.privilege_type,
              CASE WHEN g.attname IS NULL THEN '' ELSE format(' (%I)', g.attname) END, g.relname,
              CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
              CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), g.relname, g.attname
FROM (
  SELECT c.relname, NULL::name AS attname, x.* FROM pg_class c, aclexplode(c.relacl) x
  WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
    AND c.relname = ANY(:names) AND x.grantee <> c.relowner
  UNION ALL
  SELECT c.relname, a.attname, x.* FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, aclexplode(a.attacl) x
  WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())
    AND c.relname = ANY(:names) AND x.grantee <> c.relowner
) g
"""


def digests(database: str) -> dict[str, str]:
    """Digest of each view this syncworker makes, by name."""
    return {view.name: view.digest(database) for view in VIEWS}


def found(own: sa.Connection) -> Found:
    """Compare the views of a database at the newest schema with those this syncworker makes."""
    wanted, made, there = digests(own.dialect.name), _made(own), _relations(own)
    others = _views_on_sqlite(own) if own.dialect.name == "sqlite" else [one for one, _ in _readers(own, made)]
    return Found(
        missing=tuple(name for name in wanted if name not in there),
        outdated=tuple(sorted(name for name in made.keys() & there if made[name] != wanted.get(name))),
        taken=tuple(name for name in wanted if name in there and name not in made),
        others=tuple(dict.fromkeys(name for name in others if name not in made and name not in wanted)),
    )


def renew(own: sa.Connection) -> None:
    """Make the views that are missing or of another definition, at the newest schema; the others stay.

    Raises:
        SetupError: as `drop` and `make`.
    """
    seen = found(own)
    if not seen.as_wanted:
        make(own, Kept(grants=_drop(own, seen.outdated)))


def drop(own: sa.Connection) -> Kept:
    """Drop the views that were made here, and on SQLite those of others; gives what `make` puts back.

    Raises:
        SetupError: a view of others on PostgreSQL reads one of ours; nothing was changed.
    """
    there = _relations(own)
    made = _made(own).keys() & there if sql_view.name in there else set()
    grants = _drop(own, made)
    return Kept(grants) if own.dialect.name == "postgresql" else _drop_others(own)


def _drop(own: sa.Connection, names: Iterable[str]) -> tuple[str, ...]:
    """Drop views of ours; gives what roles were granted on them, as statements."""
    those = sorted(names)
    if not those:
        return ()
    grants: list[str] = []
    if own.dialect.name == "postgresql":
        for reader, ours in _readers(own, those):
            raise SetupError(
                f"database_url: the view {reader} reads {ours}, which has to be made anew;"
                f" drop {reader}, run: {REMAKE}, and make it again"
            )
        grants = _granted(own, those)
    for name in those:
        own.exec_driver_sql(f"DROP VIEW {name}")
    own.execute(sa.delete(sql_view).where(sql_view.c.name.in_(those)))
    return tuple(grants)


def make(own: sa.Connection, kept: Kept) -> None:
    """Make all views that are not there, and put back what was kept; for a database at the newest schema.

    Raises:
        SetupError: another relation has the name of a view.
    """
    name, made, there = own.dialect.name, _made(own), _relations(own)
    taken = [view.name for view in VIEWS if view.name in kept.names or (view.name in there and view.name not in made)]
    if taken:
        raise SetupError(f"database_url: {Found(taken=(taken[0],)).faults[0]}")
    missing = [view for view in VIEWS if view.name not in there]
    statements = [view.ddl(name) for view in missing]
    if name == "postgresql":
        statements += [comment for view in missing for comment in view.comments()]
    _run_all(own, [*statements, *kept.grants, *kept.others])
    if missing:
        own.execute(sa.delete(sql_view).where(sql_view.c.name.in_([view.name for view in missing])))
        own.execute(sa.insert(sql_view), [{"name": view.name, "digest": view.digest(name)} for view in missing])


def put_back(own: sa.Connection, kept: Kept) -> None:
    """What `drop` took of others, for a schema that has no views of ours."""
    _run_all(own, kept.others)


def _granted(own: sa.Connection, names: Iterable[str]) -> list[str]:
    """Of views and columns that are made again."""
    columns = {view.name: {column.name for column in view.columns} for view in VIEWS}
    rows = own.execute(sa.text(_GRANTS), {"names": sorted(names)}).all()
    return [
        statement
        for statement, view, column in rows
        if view in columns and (column is None or column in columns[view])
    ]  # fmt: skip


def _drop_others(own: sa.Connection) -> Kept:
    """On SQLite."""
    rows = own.exec_driver_sql(
        "SELECT tbl_name, sql FROM sqlite_master WHERE type = 'view' OR type = 'trigger' AND tbl_name IN"
        " (SELECT name FROM sqlite_master WHERE type = 'view') ORDER BY type = 'trigger', rowid"
    ).all()
    for name in _views_on_sqlite(own):
        own.exec_driver_sql(f'DROP VIEW "{name.replace(chr(34), chr(34) * 2)}"')
    return Kept(others=tuple(str(text) for _, text in rows), names=frozenset(str(name) for name, _ in rows))


def _run_all(own: sa.Connection, statements: Sequence[str]) -> None:
    """On PostgreSQL in one trip: there are some hundreds of comments."""
    if not statements:
        return
    if own.dialect.name == "postgresql":
        driver: Any = own.connection.driver_connection
        driver.execute(";\n".join(statements))
        return
    for statement in statements:
        own.exec_driver_sql(statement)


def _made(own: sa.Connection) -> dict[str, str]:
    return {row.name: row.digest for row in own.execute(sa.select(sql_view.c.name, sql_view.c.digest))}


def _relations(own: sa.Connection) -> set[str]:
    return {str(name) for name in own.exec_driver_sql(_RELATIONS[own.dialect.name]).scalars()}


def _views_on_sqlite(own: sa.Connection) -> list[str]:
    rows = own.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'view' ORDER BY name").scalars()
    return [str(name) for name in rows]


def _readers(own: sa.Connection, names: Iterable[str]) -> list[tuple[str, str]]:
    """Views of others that read ours: name with its schema, and which one of ours it reads."""
    return [tuple(row) for row in own.execute(sa.text(_READERS), {"names": sorted(names)})]
