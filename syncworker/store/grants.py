"""Make a PostgreSQL's roles, rights and policies what `roles` says: compare, list the statements, run them.

A plan is the difference between `roles` and the server's catalogs: it is empty where all is as it should be, it takes
no lock without need, and it also takes back what a role has beyond its line.  The roles of a database are found by the
policies on its table `connection`; no table of ours repeats them.

`db roles apply` runs a plan, and `db upgrade` the part of it that the owner can run, so that a new table and views made
anew have their rights when the migration is committed.  Everything here works without a superuser: the owner of the
tables, with CREATEROLE for what concerns the roles themselves.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from syncworker.errors import RequestError, SetupError
from syncworker.store.roles import (
    ACCESS,
    PREFIX,
    SETTINGS,
    TEMPORARY,
    TENANT_SETTING,
    VERSIONS,
    Kind,
    Role,
    has_tenant,
    privileges,
    role_name,
)

VIEWS: Final = "v\\_%"
"""Names of the views that readers may use, as LIKE has it."""

_TABLES_PRIVILEGES: Final = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
_POSTGRESQL_16: Final = 160_000


class Needs(StrEnum):
    """Which right a statement needs."""

    OWNER = "owner of the tables"
    SCHEMA = "owner of the schema"
    DATABASE = "owner of the database"
    CREATEROLE = "CREATEROLE"
    BYPASSRLS = "superuser, or CREATEROLE and BYPASSRLS from PostgreSQL 16 on"


@dataclass(frozen=True, slots=True)
class Step:
    """One statement.

    Attributes:
        optional: roles work without it; it is left out where the right is missing.
        role: a role that is there and is changed.
        possible: whether the session has the right.
    """

    sql: str
    needs: Needs = Needs.OWNER
    optional: bool = False
    role: str | None = None
    possible: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done.

    Attributes:
        user: who would do it.
        roles: the roles the database has afterwards.
        notes: what no statement of ours mends, in words.
    """

    user: str
    roles: Sequence[Role]
    steps: Sequence[Step]
    notes: Sequence[str] = ()

    @property
    def impossible(self) -> list[Step]:
        """Statements for which the user lacks the right, and without which the roles do not work."""
        return [step for step in self.steps if not step.possible and not step.optional]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a session stands to row level security.

    Attributes:
        user: of the session.
        kind: of its role, or of the one it is a member of; `None`: none of ours.
        bound: whether policies hold for it: it neither owns the tables nor bypasses them.
        owner: of the tables.
        secured: tables under row level security, of `tables` that have tenants.
        pending: statements that `db roles apply` would run.
    """

    user: str
    kind: Kind | None
    bound: bool
    owner: str
    roles: Sequence[Role]
    secured: int
    tables: int
    pending: int = 0
    notes: Sequence[str] = field(default=())


def plan(own: sa.Connection, *, prefix: str | None = None, tenants: Collection[str] = ()) -> Plan:
    """What has to be done so that the roles are there and may do what they should.

    Args:
        prefix: of the roles' names, for roles made now; `None`: as those there are, or `roles.PREFIX`.
        tenants: each gets an analyst role, beside the tenants that have one.

    Raises:
        SetupError: the database has no schema of ours.
        RequestError: a prefix that is none, or another than the roles have that are there.
    """
    found = _Catalog(own)
    known = found.known_roles()
    worker = next((role.name for role in known if role.kind is Kind.WORKER), None)
    if prefix is None:
        prefix = worker.removesuffix(f"_{Kind.WORKER.value}") if worker else PREFIX
    elif worker is not None and worker != role_name(Kind.WORKER, prefix=prefix):
        raise RequestError(f"--prefix: this database has its roles already, {worker} and its like; leave --prefix out")
    wanted = {
        role.policy: role
        for role in (
            *(Role(role_name(kind, prefix=prefix), kind) for kind in Kind if kind is not Kind.ANALYST),
            *(Role(role_name(Kind.ANALYST, one, prefix=prefix), Kind.ANALYST, one) for one in sorted(tenants)),
        )
    }
    roles = list({**wanted, **{role.policy: role for role in known}}.values())
    steps = [*_role_steps(found, roles), *_database_steps(found, roles), *_table_steps(found, roles)]
    return Plan(found.user, roles, [found.judged(step) for step in steps], _notes(found, roles))


def apply(own: sa.Connection, *, prefix: str | None = None, tenants: Collection[str] = ()) -> Plan:
    """Do it, within the transaction of `own`; the plan that was run.

    Raises:
        SetupError: a right is missing, or something stands against it; names what, and nothing is done.
        RequestError: as `plan`.
    """
    made = plan(own, prefix=prefix, tenants=tenants)
    if made.impossible:
        raise SetupError(_refusal(made))
    steps = [step for step in made.steps if step.possible]
    for step in steps:
        own.exec_driver_sql(_escaped(step.sql))
    left = [step for step in plan(own, prefix=prefix, tenants=tenants).steps if step.possible]
    if left:
        raise SetupError(f"db roles apply: the server did not take this up: {left[0].sql}; look at who granted it")
    return Plan(made.user, made.roles, steps, made.notes)


def renew(own: sa.Connection) -> int:
    """Give the roles there are their rights on tables and views made since, within the transaction of `own`.

    What needs more than the tables' owner is left to `apply`.  Harmless on SQLite and where no roles are.

    Returns:
        Statements run.
    """
    if own.dialect.name != "postgresql" or own.scalar(sa.text("SELECT to_regclass('connection')")) is None:
        return 0
    found = _Catalog(own)
    roles = [role for role in found.known_roles() if role.name in found.roles]
    steps = list(_table_steps(found, roles)) if roles else []
    for step in steps:
        own.exec_driver_sql(_escaped(step.sql))
    return len(steps)


def standing(own: sa.Connection) -> Standing:
    """How the session of `own` stands to row level security; changes nothing.

    Raises:
        SetupError: the database has no schema of ours.
    """
    found = _Catalog(own)
    known = found.known_roles()
    with_tenant = [table for table in found.tables if has_tenant(table)]
    bound = not (found.may_own or found.bypasses)
    mine = next((role.kind for role in known if role.name == found.user), None)
    if mine is None and bound:  # a login of its own that is a member
        mine = next((role.kind for role in known if found.may("pg_has_role(:name, 'USAGE')", name=role.name)), None)
    made = plan(own) if known else None
    return Standing(
        user=found.user,
        kind=mine,
        bound=bound,
        owner=found.owner,
        roles=known,
        secured=sum(found.secured[table] for table in with_tenant),
        tables=len(with_tenant),
        pending=0 if made is None else sum(not step.optional for step in made.steps),
        notes=() if made is None else made.notes,
    )


def role_of(own: sa.Connection, name: str) -> Role:
    """One of the roles there are.

    Raises:
        RequestError: none of ours.
    """
    known = {role.name: role for role in _Catalog(own).known_roles()}
    if name not in known:
        raise RequestError(f"role: {name!r} is none of this database's roles ({', '.join(sorted(known)) or 'none'})")
    return known[name]


def set_password(own: sa.Connection, role: Role, password: bytes) -> None:
    """Give a role a password, within the transaction of `own`; the server is sent its SCRAM verifier alone.

    Raises:
        StoreRefusedError: the session may not; needs CREATEROLE, from PostgreSQL 16 on with ADMIN on the role.
    """
    import psycopg

    driver = own.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    verifier = driver.pgconn.encrypt_password(password, role.name.encode(), b"scram-sha-256").decode()
    own.exec_driver_sql(_escaped(f"ALTER ROLE {_quoted(role.name)} PASSWORD {_literal(verifier)}"))


class _Catalog:
    """What the server's catalogs say of our tables and of the session; read once, but for rights on the tables."""

    def __init__(self, own: sa.Connection) -> None:
        self._own = own
        self.user, self.database, self.version = own.execute(
            sa.text("SELECT current_user::text, current_database()::text, current_setting('server_version_num')::int")
        ).one()
        place = own.execute(
            sa.text(
                "SELECT c.relnamespace::regnamespace::text, c.relnamespace, pg_get_userbyid(c.relowner)::text,"
                " pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = to_regclass('connection')"
            )
        ).one_or_none()
        if place is None:
            raise SetupError("db roles: the database has no schema yet; run: syncworker db upgrade")
        self.schema, self._namespace, self.owner, self.may_own = place
        self.roles: dict[str, Mapping[str, Any]] = {
            row["rolname"]: dict(row)
            for row in own.execute(
                sa.text(
                    "SELECT rolname::text, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication"
                    " FROM pg_roles"
                )
            ).mappings()
        }
        self._possible: dict[tuple[Needs, str | None], bool] = {}
        mine = self.roles[self.user]
        self.is_superuser = bool(mine["rolsuper"])
        self.bypasses = self.is_superuser or bool(mine["rolbypassrls"])
        relations = own.execute(
            sa.text(
                "SELECT c.relname::text AS name, c.relkind::text AS kind, c.relrowsecurity AS secured,"
                " coalesce(c.reloptions @> ARRAY['security_invoker=true'], false)"
                " OR coalesce(c.reloptions @> ARRAY['security_invoker=on'], false) AS invoker"
                " FROM pg_class c WHERE c.relnamespace = :place"
                " AND (c.relkind IN ('r', 'p') OR (c.relkind = 'v' AND c.relname LIKE :views)) ORDER BY c.relname"
            ),
            {"place": self._namespace, "views": VIEWS},
        ).all()
        self.tables = [one.name for one in relations if one.kind != "v" and one.name in ACCESS]
        self.has_versions = any(one.name == VERSIONS for one in relations)
        self.secured = {one.name: bool(one.secured) for one in relations}
        self.views = [one.name for one in relations if one.kind == "v" and one.invoker]
        self.unfit_views = [one.name for one in relations if one.kind == "v" and not one.invoker]

    def known_roles(self) -> list[Role]:
        """The roles there are, by the policies on `connection`."""
        rows = self._own.execute(
            sa.text(
                "SELECT policyname::text AS policy, roles[1]::text AS role, qual FROM pg_policies"
                " WHERE schemaname = :place AND tablename = 'connection' AND policyname LIKE 'syncworker\\_%'"
                " ORDER BY policyname"
            ),
            {
                "place": self._own.scalar(
                    sa.text("SELECT nspname FROM pg_namespace WHERE oid = :n"), {"n": self._namespace}
                )
            },
        ).all()
        found = []
        for policy, role, qual in rows:
            kind = next((one for one in Kind if policy.startswith(f"syncworker_{one.value}")), None)
            if kind is None:
                continue
            one = Role(role, kind, _tenant_of(qual) if kind is Kind.ANALYST else None)
            if one.policy == policy:
                found.append(one)
        return sorted(found, key=lambda one: (list(Kind).index(one.kind), one.name))

    def policies(self) -> dict[tuple[str, str], tuple[str, tuple[str, ...], str | None, str | None, bool]]:
        """By table and name: command, roles, USING, WITH CHECK, permissive; those of our names and all others."""
        rows = self._own.execute(
            sa.text(
                "SELECT c.relname::text, p.polname::text, p.polcmd::text,"
                " ARRAY(SELECT CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r)::text END"
                " FROM unnest(p.polroles) r),"
                " pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid), p.polpermissive"
                " FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid WHERE c.relnamespace = :place"
            ),
            {"place": self._namespace},
        )
        return {
            (table, name): (command, tuple(to), using, check, ok) for table, name, command, to, using, check, ok in rows
        }

    def rights(self, names: Collection[str]) -> dict[tuple[str, str], set[tuple[str, str | None, bool]]]:
        """By relation and grantee (`public` too): (privilege, column, whether it may be passed on)."""
        rows = self._own.execute(
            sa.text(
                "SELECT c.relname::text, CASE a.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(a.grantee)::text END,"
                " a.privilege_type, NULL, a.is_grantable FROM pg_class c, aclexplode(c.relacl) a"
                " WHERE c.relnamespace = :place AND c.relname = ANY(:names)"
                " UNION ALL"
                " SELECT c.relname::text,"
                " CASE a.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(a.grantee)::text END,"
                " a.privilege_type, t.attname::text, a.is_grantable"
                " FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid AND NOT t.attisdropped,"
                " aclexplode(t.attacl) a"
                " WHERE c.relnamespace = :place AND c.relname = ANY(:names)"
            ),
            {"place": self._namespace, "names": list(names)},
        )
        found: dict[tuple[str, str], set[tuple[str, str | None, bool]]] = {}
        for relation, grantee, privilege, column, grantable in rows:
            found.setdefault((relation, grantee), set()).add((privilege, column, grantable))
        return found

    def columns(self) -> dict[str, set[str]]:
        """Columns of each table as they are in this database, which may not have the newest schema."""
        rows = self._own.execute(
            sa.text(
                "SELECT c.relname::text, t.attname::text FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid"
                " WHERE c.relnamespace = :place AND c.relkind IN ('r', 'p') AND t.attnum > 0 AND NOT t.attisdropped"
            ),
            {"place": self._namespace},
        )
        found: dict[str, set[str]] = {}
        for table, column in rows:
            found.setdefault(table, set()).add(column)
        return found

    def sequences(self) -> list[tuple[str, str]]:
        """Sequences behind the columns of our tables, each with its table."""
        return [
            (name, table)
            for name, table in self._own.execute(
                sa.text(
                    "SELECT s.relname::text, c.relname::text FROM pg_class s"
                    " JOIN pg_depend d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass"
                    " AND d.deptype IN ('a', 'i') JOIN pg_class c ON c.oid = d.refobjid"
                    " WHERE s.relkind = 'S' AND s.relnamespace = :place ORDER BY 1"
                ),
                {"place": self._namespace},
            )
            if table in ACCESS
        ]

    def settings(self) -> dict[str, dict[str, str]]:
        """What sessions of each role begin with in this database."""
        rows = self._own.execute(
            sa.text(
                "SELECT pg_get_userbyid(s.setrole)::text, s.setconfig FROM pg_db_role_setting s"
                " JOIN pg_database d ON d.oid = s.setdatabase AND d.datname = current_database() WHERE s.setrole <> 0"
            )
        )
        pairs = {role: [one.split("=", 1) for one in settings] for role, settings in rows}
        return {role: {name.lower(): value for name, value in held} for role, held in pairs.items()}

    def members(self) -> list[tuple[str, str]]:
        """(member, of which role)."""
        rows = self._own.execute(
            sa.text("SELECT pg_get_userbyid(member)::text, pg_get_userbyid(roleid)::text FROM pg_auth_members")
        )
        return [(member, role) for member, role in rows]

    def may(self, question: str, **values: str) -> bool:
        """The answer of one of the server's `has_…_privilege`."""
        return bool(self._own.scalar(sa.text(f"SELECT {question}"), values))

    def judged(self, step: Step) -> Step:
        """The step, with whether the session has the right for it."""
        about = step.needs, step.role
        if about not in self._possible:
            self._possible[about] = self.is_superuser or self._has_right(step)
        return replace(step, possible=self._possible[about])

    def _has_right(self, step: Step) -> bool:
        mine = self.roles[self.user]
        match step.needs:
            case Needs.OWNER:
                return bool(self.may_own)
            case Needs.SCHEMA:
                return self.may(
                    "pg_has_role(nspowner, 'USAGE') FROM pg_namespace WHERE oid = to_regnamespace(:name)::oid",
                    name=self.schema,
                )
            case Needs.DATABASE:
                return self.may("pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()")
            case Needs.CREATEROLE:
                if step.role is None or self.version < _POSTGRESQL_16:
                    return bool(mine["rolcreaterole"])
                admin = "pg_has_role(quote_ident(:name)::regrole::oid, 'MEMBER WITH ADMIN OPTION')"
                return bool(mine["rolcreaterole"]) and self.may(admin, name=step.role)
            case Needs.BYPASSRLS:
                return self.version >= _POSTGRESQL_16 and bool(mine["rolcreaterole"] and mine["rolbypassrls"])


def _role_steps(found: _Catalog, roles: Sequence[Role]) -> Iterator[Step]:
    """The roles themselves: never a password, never a right over the cluster but the worker's."""
    held = found.settings()
    for role in roles:
        name, there = _quoted(role.name), role.name if role.name in found.roles else None
        if there is None:
            yield Step(f"CREATE ROLE {name} LOGIN", Needs.CREATEROLE)
        for setting, value in SETTINGS[role.kind].items():
            if held.get(role.name, {}).get(setting) != value:
                where = f"ALTER ROLE {name} IN DATABASE {_quoted(found.database)}"
                yield Step(f"{where} SET {setting} = '{value}'", Needs.CREATEROLE, role=there)
        if role.kind is Kind.WORKER and not found.roles.get(role.name, {}).get("rolbypassrls"):
            yield Step(f"ALTER ROLE {name} BYPASSRLS", Needs.BYPASSRLS, optional=True, role=there)


def _database_steps(found: _Catalog, roles: Sequence[Role]) -> Iterator[Step]:
    """The database and its schema: our roles may come in, and PUBLIC may make nothing there."""
    database, schema = _quoted(found.database), found.schema
    for privilege in ("TEMPORARY", "CREATE"):
        if found.may("has_database_privilege('public', current_database(), :right)", right=privilege):
            yield Step(f"REVOKE {privilege} ON DATABASE {database} FROM PUBLIC", Needs.DATABASE, optional=True)
    if found.may("has_schema_privilege('public', to_regnamespace(:name)::oid, 'CREATE')", name=schema):
        yield Step(f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC", Needs.SCHEMA)
    for role in roles:
        there = role.name in found.roles
        for privilege in ("CONNECT", "TEMPORARY") if role.kind in TEMPORARY else ("CONNECT",):
            question = "has_database_privilege(:who, current_database(), :right)"
            own = privilege == "TEMPORARY"  # PUBLIC's is taken away, so the role needs one of its own
            if not (there and _has_own_database_right(found, role.name, privilege)) and (
                own or not found.may(question, who="public", right=privilege)
            ):
                public = found.may(question, who="public", right=privilege)
                yield Step(
                    f"GRANT {privilege} ON DATABASE {database} TO {_quoted(role.name)}",
                    Needs.DATABASE,
                    optional=public,
                )
        if not found.may("has_schema_privilege(:who, to_regnamespace(:name)::oid, 'USAGE')", who="public", name=schema):
            has = "has_schema_privilege(:who, to_regnamespace(:name)::oid, 'USAGE')"
            if not (there and found.may(has, who=role.name, name=schema)):
                yield Step(f"GRANT USAGE ON SCHEMA {schema} TO {_quoted(role.name)}", Needs.SCHEMA)


def _has_own_database_right(found: _Catalog, role: str, privilege: str) -> bool:
    return found.may(
        "EXISTS (SELECT FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database()"
        " AND a.grantee = to_regrole(quote_ident(:who))::oid AND a.privilege_type = :right)",
        who=role,
        right=privilege,
    )


def _table_steps(found: _Catalog, roles: Sequence[Role]) -> Iterator[Step]:
    """Policies first, then row level security, then rights: no moment shows rows that are not to be seen."""
    policies = found.policies()
    for table in filter(has_tenant, found.tables):
        for role in roles:
            yield from _policy_steps(table, role, policies.get((table, role.policy)))
            if role.kind is Kind.WEB:
                yield from _deletion_steps(table, role, policies.get((table, f"{role.policy}_deletes")))
        if not found.secured[table]:
            yield Step(f"ALTER TABLE {_quoted(table)} ENABLE ROW LEVEL SECURITY")
    relations = [*found.tables, *found.views, *found.unfit_views, *([VERSIONS] if found.has_versions else [])]
    sequences = found.sequences()
    rights, columns = found.rights([*relations, *(name for name, _ in sequences)]), found.columns()
    for relation in relations:
        extra = rights.get((relation, "public"), set())
        if extra:
            yield Step(f"REVOKE ALL ON {_quoted(relation)} FROM PUBLIC")
        for role in roles:
            wanted = _wanted(found, role, relation, columns.get(relation, set()))
            yield from _right_steps(relation, role.name, wanted, rights.get((relation, role.name), set()))
    for role in roles:
        counts = [name for name, table in sequences if ("INSERT", None) in privileges(role, table)]
        lacking = [name for name in counts if ("USAGE", None, False) not in rights.get((name, role.name), set())]
        if lacking:
            names = ", ".join(map(_quoted, lacking))
            yield Step(f"GRANT USAGE ON SEQUENCE {names} TO {_quoted(role.name)}")


def _policy_steps(
    table: str,
    role: Role,
    held: tuple[str, tuple[str, ...], str | None, str | None, bool] | None,
) -> Iterator[Step]:
    name = _quoted(role.policy)
    drop = Step(f"DROP POLICY {name} ON {_quoted(table)}")
    if not privileges(role, table) and table != "connection":
        if held is not None:
            yield drop
        return
    command, word = ("*", "ALL") if role.kind in (Kind.WORKER, Kind.WEB) else ("r", "SELECT")
    if role.kind is Kind.WORKER:
        using = said = "true"
    elif role.kind is Kind.ANALYST:
        literal = _literal(role.tenant or "")
        using, said = f"tenant = {literal}", f"((tenant)::text = {literal}::text)"
    else:
        using = f"tenant = current_setting('{TENANT_SETTING}', true)"
        said = f"((tenant)::text = current_setting('{TENANT_SETTING}'::text, true))"
    if held == (command, (role.name,), said, None, True):
        return
    if held is not None:
        yield drop
    yield Step(f"CREATE POLICY {name} ON {_quoted(table)} FOR {word} TO {_quoted(role.name)} USING ({using})")


def _deletion_steps(
    table: str,
    role: Role,
    held: tuple[str, tuple[str, ...], str | None, str | None, bool] | None,
) -> Iterator[Step]:
    """A policy that holds beside the one for all commands: which rows the web process may delete."""
    name, which = _quoted(f"{role.policy}_deletes"), ACCESS[table].web_deletes
    drop = Step(f"DROP POLICY {name} ON {_quoted(table)}")
    if which is None:
        if held is not None:
            yield drop
        return
    column, value = which
    if held == ("d", (role.name,), f"(({column})::text = {_literal(value)}::text)", None, False):
        return
    if held is not None:
        yield drop
    yield Step(
        f"CREATE POLICY {name} ON {_quoted(table)} AS RESTRICTIVE FOR DELETE TO {_quoted(role.name)}"
        f" USING ({column} = {_literal(value)})"
    )


def _wanted(found: _Catalog, role: Role, relation: str, columns: Collection[str]) -> set[tuple[str, str | None]]:
    if relation == VERSIONS:
        return set() if role.kind is Kind.ANALYST else {("SELECT", None)}
    if relation in found.views:
        return {("SELECT", None)}
    if relation in found.unfit_views:
        return set()
    return {(right, column) for right, column in privileges(role, relation) if column is None or column in columns}


def _right_steps(
    relation: str, role: str, wanted: set[tuple[str, str | None]], held: set[tuple[str, str | None, bool]]
) -> Iterator[Step]:
    """What takes away and gives; a privilege taken from the whole table is gone from its columns too."""
    plain = {(privilege, column) for privilege, column, passed_on in held if not passed_on}
    beyond = {(privilege, column) for privilege, column, _ in held} - (plain & wanted)
    if beyond:
        yield Step(f"REVOKE {_privileges(beyond)} ON {_quoted(relation)} FROM {_quoted(role)}")
        whole = {privilege for privilege, column in beyond if column is None}
        plain = {one for one in plain - beyond if one[0] not in whole}
    if wanted - plain:
        yield Step(f"GRANT {_privileges(wanted - plain)} ON {_quoted(relation)} TO {_quoted(role)}")


def _privileges(those: Iterable[tuple[str, str | None]]) -> str:
    by_privilege: dict[str, list[str]] = {}
    for privilege, column in sorted(those, key=lambda one: (_TABLES_PRIVILEGES.index(one[0]), one[1] or "")):
        by_privilege.setdefault(privilege, []).extend([] if column is None else [_quoted(column)])
    return ", ".join(f"{name} ({', '.join(columns)})" if columns else name for name, columns in by_privilege.items())


def _notes(found: _Catalog, roles: Sequence[Role]) -> list[str]:
    """What no statement of ours mends."""
    names = {role.name for role in roles}
    notes = []
    for role in roles:
        held = found.roles.get(role.name, {})
        for attribute, word in (
            ("rolsuper", "a superuser"),
            ("rolbypassrls", "exempt from row level security (BYPASSRLS)"),
            ("rolcreaterole", "allowed to make roles (CREATEROLE)"),
            ("rolcreatedb", "allowed to make databases (CREATEDB)"),
            ("rolreplication", "allowed to replicate (REPLICATION)"),
        ):
            if held.get(attribute) and not (role.kind is Kind.WORKER and attribute == "rolbypassrls"):
                notes.append(f"role {role.name} is {word}; take that away")
    notes += [
        f"role {member} is a member of {role}, and has its rights too; take that away"
        for member, role in sorted(found.members())
        if member in names
    ]
    notes += [
        f"view {view} runs with its owner's rights and would show every tenant; make it WITH (security_invoker = true)"
        for view in found.unfit_views
    ]
    others = {
        grantee
        for (_, grantee), held in found.rights(found.tables).items()
        if held and grantee not in {*names, found.owner, "public"}
    }
    notes += [
        f"role {other} has rights on tables and is none of these roles: no policy names it, so it sees no row"
        for other in sorted(others)
        if not found.roles[other]["rolsuper"] and not found.roles[other]["rolbypassrls"]
    ]
    ours = {role.policy for role in roles}
    notes += [
        f"policy {policy} on {table} is none of these; it may show more rows: remove it"
        for (table, policy), (*_, permissive) in sorted(found.policies().items())
        if table in found.tables and policy not in ours and permissive
    ]
    return notes


def _refusal(made: Plan) -> str:
    lacking: dict[Needs, list[Step]] = {}
    for step in made.impossible:
        lacking.setdefault(step.needs, []).append(step)
    what = "; ".join(f"{need.value} (for {len(steps)}, as {steps[0].sql})" for need, steps in lacking.items())
    return (
        f"db roles apply: user {made.user} lacks what some statements need, and nothing was done: {what}."
        " Run it as a user that has it, or have an administrator run those statements: `db roles plan` marks them"
    )


def _tenant_of(qual: str) -> str:
    """The tenant in an analyst's policy, read and never run; empty when the policy is not one of ours."""
    found = re.fullmatch(r"\(\(tenant\)::text = '((?:[^']|'')*)'::text\)", qual, re.DOTALL)
    return "" if found is None else found[1].replace("''", "'")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _escaped(statement: str) -> str:
    """As a driver takes it that reads `%` as a parameter."""
    return statement.replace("%", "%%")
