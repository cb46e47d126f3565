"""The views for readers of the database: what they show, how they are made, and by which plans they are read.

A million transactions: `python -m tests.store.test_sql_views`.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from syncworker.errors import SetupError
from syncworker.store import migrate, tables, view_maker
from syncworker.store.dialect import Instant
from syncworker.store.sql_views import LEFT_OUT, TYPES, VIEWS, comment_of, said
from syncworker.store.tables import RECORD_TABLES, metadata, typed_columns
from tests.ground.postgres import PostgresServer
from tests.store.filled import _plain

pytestmark = pytest.mark.store

NOW = datetime(2026, 11, 21, 10, tzinfo=UTC)
BY_NAME = {view.name: view for view in VIEWS}
RECORDS = sorted({table.name for table in RECORD_TABLES.values()} | {"balance_history"})


def engine(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    made = engine(url)
    with made.begin() as own:
        yield own
    made.dispose()


def put(own: sa.Connection, table: sa.Table, **values: Any) -> None:
    """Insert a row; what is not given and must not be NULL is made up."""
    facts = {
        column.name: sa.literal(values[column.name], column.type) if column.name in values else _plain(column)
        for column in table.columns
        if column.name in values
        or (not column.nullable and column.server_default is None and column.autoincrement is not True)
    }
    own.execute(sa.insert(table).values(**facts))


def account(own: sa.Connection, number: int = 1, *, tenant: str = "default", **values: Any) -> None:
    """A connection `c…` of `u…` with one account: `a…` at the LFI, `acc_…` here."""
    mine = {"tenant": tenant, "connection_id": f"c{number}"}
    put(own, tables.connection, **mine, lfi="bank", user_ref=f"u{number}", restricted_at=values.pop("restricted", None))
    put(own, tables.account_reference, **mine, lfi_account_id=f"a{number}", account_id=f"acc_{number}", identity=None)
    put(own, tables.account, **mine, account_id="", key=f"a{number}", **values)


def balance(own: sa.Connection, number: int = 1, *, key: str = "ClosingAvailable/AED", **values: Any) -> None:
    mine = {"tenant": values.pop("tenant", "default"), "connection_id": f"c{number}", "account_id": f"a{number}"}
    put(own, tables.balance, **mine, key=key, **values)


def read(own: sa.Connection, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in own.execute(sa.text(sql), values)]


def views_there(url: str) -> set[str]:
    with connected(url) as own:
        return set(sa.inspect(own).get_view_names())


# -- the definitions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDS)
def test_every_typed_column_is_in_its_view_and_has_a_comment(name: str) -> None:
    """Bytes are in none."""
    table = metadata.tables[name]
    plain = [one for one in typed_columns(table) if not isinstance(table.c[one].type, sa.LargeBinary)]
    shown = {column.source for column in BY_NAME[f"v_{name}"].columns}

    assert [one for one in plain if f"{name}.{one}" not in shown] == []
    assert [one for one in plain if not comment_of(table, one)] == []


@pytest.mark.parametrize("table", LEFT_OUT)
def test_a_column_of_other_tables_is_shown_or_left_out_for_a_reason(table: str) -> None:
    """A new column of a consent, connection, cursor or change is decided about."""
    view = {"cursor": "v_listing"}.get(table, f"v_{table}")
    shown = {column.source.rpartition(".")[2] for column in BY_NAME[view].columns}
    elsewhere = {"account_id", "connection_id", "lfi"}
    left = {one.name for one in metadata.tables[table].columns} - shown - elsewhere

    assert left == set(LEFT_OUT[table])


def test_an_amount_has_its_integer_and_a_banks_instant_its_date_beside_it() -> None:
    """In every view, by the names of columns."""
    for view in VIEWS:
        names = [column.name for column in view.columns]
        for column in view.columns:
            if column.kind.value == "amount":
                assert names[names.index(column.name) + 1] == f"{column.name}_e5", view.name
    assert {"booked_at", "booking_date", "value_at", "value_date"} <= {
        one.name for one in BY_NAME["v_transaction"].columns
    }


def test_nothing_of_the_items_as_sent_is_shown() -> None:
    """No column comes from `raw`, a digest, or a column of bytes."""
    sources = [column.source.split(".") for view in VIEWS for column in view.columns if "," not in column.source]
    columns = [metadata.tables[table].c[name] for table, name in (one for one in sources if len(one) == 2)]

    assert [str(one) for one in columns if isinstance(one.type, sa.LargeBinary) or one.name == "raw"] == []


# -- as the database has them ----------------------------------------------------------------------------------------


def test_postgresql_knows_types_comments_and_the_readers_rights(postgresql_url: str) -> None:
    """As `VIEWS` says, column by column."""
    with connected(postgresql_url) as own:
        found = read(
            own,
            "SELECT c.relname, a.attname, format_type(a.atttypid, NULL), col_description(c.oid, a.attnum)"
            " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
            " WHERE c.relkind = 'v' AND c.relname LIKE 'v\\_%' ORDER BY c.relname, a.attnum",
        )
        views = read(
            own,
            "SELECT relname, obj_description(oid), reloptions FROM pg_class"
            " WHERE relkind = 'v' AND relname LIKE 'v\\_%'",
        )
    long = {"timestamptz": "timestamp with time zone"}
    texts = {"text": ("text", "character varying"), "bigint": ("bigint", "integer")}
    wanted = {(view.name, one.name): one for view in VIEWS for one in view.columns}
    assert [(view, name) for view, name, _, _ in found] == [
        (view.name, one.name) for view in sorted(VIEWS, key=lambda one: one.name) for one in view.columns
    ]
    for view, name, kind, comment in found:
        column = wanted[view, name]
        own_type = TYPES[column.kind][0]
        assert kind in texts.get(own_type, (long.get(own_type, own_type),)), (view, name)
        assert comment == said(column)
    assert {(name, comment) for name, comment, _ in views} == {(view.name, view.comment) for view in VIEWS}
    assert {tuple(options) for _, _, options in views} == {("security_invoker=true",)}


AMOUNTS = {
    "-120.5": "-120.50", "0": "0.00", "-0.00001": "-0.00001", "0.1": "0.10", "100": "100.00", "1.23456": "1.23456",
    "-1.2": "-1.20", "9999999999999.99999": "9999999999999.99999", "-9007199254740.993": "-9007199254740.993",
}  # fmt: skip


def test_an_amount_is_written_exactly_with_two_digits_at_least(database_url: str) -> None:
    """The same text on both databases, and an integer of 1/100,000 beside it."""
    with connected(database_url) as own:
        account(own)
        for number, amount in enumerate(AMOUNTS):
            balance(own, key=f"k{number}", signed_amount=Decimal(amount))
        balance(own, key="k9", signed_amount=None)
        found = read(own, "SELECT CAST(amount AS TEXT), amount_e5 FROM v_balance ORDER BY key")

    wanted = [(text, int(Decimal(text).scaleb(5))) for text in AMOUNTS.values()]
    assert found == [*wanted, (None, None)]


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        (datetime(2026, 11, 29, 19, 59, 59, 999_999, tzinfo=UTC), date(2026, 11, 29)),
        (datetime(2026, 11, 29, 20, tzinfo=UTC), date(2026, 11, 30)),
        (datetime(2026, 12, 31, 20, tzinfo=UTC), date(2027, 1, 1)),
    ],
)
def test_the_date_beside_an_instant_is_that_of_the_uae(database_url: str, instant: datetime, day: date) -> None:
    """The last microsecond of a day is still that day."""
    with connected(database_url) as own:
        account(own)
        balance(own, date_time=instant)
        ((at, found),) = read(own, "SELECT as_of_bank, as_of_bank_date FROM v_balance")

    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    assert (at, str(found)) == (instant, day.isoformat())


def test_a_row_has_our_ids_whose_it_is_and_when_its_listing_was_seen(database_url: str) -> None:
    """Names as every other door has them."""
    with connected(database_url) as own:
        account(own)
        balance(own)
        put(own, tables.cursor, tenant="default", connection_id="c1", account_id="a1", resource="balances",
            checked_at=NOW)  # fmt: skip
        named = read(own, "SELECT tenant, id, connection_id, user_ref, lfi, account_id, lfi_account_id FROM v_balance")
        ((checked, listed),) = read(
            own, "SELECT b.checked_at, l.checked_at FROM v_balance b JOIN v_listing l ON l.account_id = b.account_id"
        )

    assert named == [("default", "acc_1:ClosingAvailable/AED", "c1", "u1", "bank", "acc_1", "a1")]
    kept = Instant().process_result_value(checked, own.dialect)
    assert (kept, checked == listed) == (NOW, True)


def test_parties_of_a_connection_are_named_by_it(database_url: str) -> None:
    """The user who consented belongs to no account."""
    with connected(database_url) as own:
        account(own)
        put(own, tables.party, tenant="default", connection_id="c1", account_id="", key="P")
        put(own, tables.party, tenant="default", connection_id="c1", account_id="a1", key="P")
        found = read(own, "SELECT id, account_id, lfi_account_id FROM v_party ORDER BY id")

    assert found == [("acc_1:P", "acc_1", "a1"), ("c1:P", None, None)]


def test_what_an_lfi_shows_no_more_is_in_no_view(database_url: str) -> None:
    """A tombstone; the rows of an account that went; the rows of a restricted connection, which itself stays."""
    with connected(database_url) as own:
        account(own, 1)
        balance(own, 1)
        balance(own, 1, key="gone", gone_at=NOW)
        balance(own, 1, key="missed", missed_since=NOW)
        account(own, 2, gone_at=NOW)
        balance(own, 2)
        account(own, 3, restricted=NOW)
        balance(own, 3)
        put(own, tables.cursor, tenant="default", connection_id="c3", account_id="a3", resource="balances")
        balances = read(own, "SELECT id FROM v_balance ORDER BY id")
        accounts = read(own, "SELECT account_id FROM v_account")
        connections = read(own, "SELECT connection_id FROM v_connection ORDER BY 1")
        listings = read(own, "SELECT * FROM v_listing")

    assert balances == [("acc_1:ClosingAvailable/AED",), ("acc_1:missed",)]
    assert (accounts, connections, listings) == ([("acc_1",)], [("c1",), ("c2",), ("c3",)], [])


def test_rows_of_two_tenants_are_never_joined(database_url: str) -> None:
    """Both have a connection and an account of the same names."""
    with connected(database_url) as own:
        for tenant in ("one", "two"):
            account(own, tenant=tenant)
            balance(own, tenant=tenant, signed_amount=Decimal(1 if tenant == "one" else 2))
        own.execute(sa.update(tables.connection).where(tables.connection.c.tenant == "two").values(user_ref="other"))
        found = read(own, "SELECT tenant, user_ref, amount_e5 FROM v_balance ORDER BY tenant")

    assert found == [("one", "u1", 100_000), ("two", "other", 200_000)]


# -- changes ---------------------------------------------------------------------------------------------------------


def change(own: sa.Connection, key: str, *, resource: str = "balances", account_id: str = "a1", **values: Any) -> None:
    mine = {"tenant": "default", "connection_id": "c1", "account_id": account_id, "resource": resource}
    put(own, tables.change, **mine, key=key, **{"op": "added", "txid": 0, **values})


def test_a_change_names_its_row_as_its_view_does(database_url: str) -> None:
    """Accounts, rows of an account, and rows of the connection; a row that went is told of here alone."""
    with connected(database_url) as own:
        account(own)
        change(own, "a1", resource="accounts", account_id="")
        change(own, "ClosingAvailable/AED")
        change(own, "P", resource="parties", account_id="")
        change(own, "ClosingAvailable/AED", op="removed")
        found = read(own, "SELECT resource, id, account_id, lfi_account_id, op FROM v_change ORDER BY txid, seq")

    assert found == [
        ("accounts", "acc_1", "acc_1", "a1", "added"),
        ("balances", "acc_1:ClosingAvailable/AED", "acc_1", "a1", "added"),
        ("parties", "c1:P", None, None, "added"),
        ("balances", "acc_1:ClosingAvailable/AED", "acc_1", "a1", "removed"),
    ]


def test_changes_end_before_the_oldest_open_transaction(postgresql_url: str) -> None:
    """A younger transaction's rows wait for the older one's, so that a reader behind them misses none."""
    with connected(postgresql_url) as own:
        account(own)
    seen = []
    with psycopg.connect(postgresql_url) as older, psycopg.connect(postgresql_url, autocommit=True) as reader:
        insert = (
            "INSERT INTO change (tenant, txid, connection_id, account_id, resource, key, op, at, gen)"
            " VALUES ('default', pg_current_xact_id()::text::bigint, 'c1', 'a1', 'balances', %s, 'added', now(), 1)"
        )
        older.execute(insert, ["first"])
        reader.execute(insert, ["second"])
        seen.append(reader.execute("SELECT key FROM v_change ORDER BY txid, seq").fetchall())
        older.commit()
        seen.append(reader.execute("SELECT key FROM v_change ORDER BY txid, seq").fetchall())

    assert seen == [[], [("first",), ("second",)]]


# -- how they are made -----------------------------------------------------------------------------------------------


def made_at(url: str) -> list[tuple[Any, ...]]:
    """What tells whether views were made anew."""
    with connected(url) as own:
        if own.dialect.name == "postgresql":
            return read(
                own, "SELECT relname, oid FROM pg_class WHERE relkind = 'v' AND relname LIKE 'v\\_%' ORDER BY 1"
            )
        return read(own, "SELECT 'schema', schema_version FROM pragma_schema_version")


def test_every_view_is_there_and_can_be_read(database_url: str) -> None:
    """In a database just migrated."""
    with connected(database_url) as own:
        rows = [read(own, f"SELECT * FROM {view.name}") for view in VIEWS]

    assert (views_there(database_url), rows) == (set(BY_NAME), [[] for _ in VIEWS])
    assert migrate.views(database_url) == view_maker.Found()


def test_an_upgrade_with_nothing_to_do_leaves_the_views_alone(database_url: str) -> None:
    """They are the same objects before and after; nor does a look make any."""
    before = made_at(database_url)
    migrate.upgrade(database_url)
    migrate.check(database_url)

    assert made_at(database_url) == before


def test_a_view_that_is_missing_or_of_another_definition_is_named_and_made_again(database_url: str) -> None:
    """By `db upgrade` alone: a look leaves it missing."""
    with connected(database_url) as own:
        own.execute(sa.text("DROP VIEW v_account"))
        own.execute(sa.update(tables.sql_view).where(tables.sql_view.c.name == "v_balance").values(digest="old"))
    migrate.check(database_url)
    found = migrate.views(database_url)
    migrate.upgrade(database_url)

    assert (found.missing, found.outdated) == (("v_account",), ("v_balance",))
    assert [one.split(";")[0] for one in found.faults] == [
        "the view v_account is missing",
        "the view v_balance is not as this syncworker makes it",
    ]
    assert migrate.views(database_url) == view_maker.Found()


def test_a_view_that_is_made_no_more_is_dropped(database_url: str) -> None:
    """An older syncworker made it."""
    with connected(database_url) as own:
        own.execute(sa.text("CREATE VIEW v_old AS SELECT 1 AS one"))
        own.execute(sa.insert(tables.sql_view).values(name="v_old", digest="x"))
    found = migrate.views(database_url)
    migrate.upgrade(database_url)

    assert (found.outdated, views_there(database_url)) == (("v_old",), set(BY_NAME))


def test_migrations_run_without_views_and_bring_them_back(database_url: str) -> None:
    """0016 copies `consent` on SQLite, which views of it would not let it do."""
    migrate.downgrade(database_url, "0015")
    between = views_there(database_url)
    migrate.upgrade(database_url)

    assert (between, views_there(database_url)) == (set(), set(BY_NAME))


def test_a_migration_that_fails_leaves_the_views(database_url: str) -> None:
    """They go and come in the migrations' own transaction."""
    before = made_at(database_url)
    with pytest.raises(Exception, match="0000"):
        migrate.downgrade(database_url, "0000")

    assert made_at(database_url) == before


def test_the_name_of_a_view_that_something_else_has_is_told(database_url: str) -> None:
    """It is not dropped: syncworker did not make it."""
    with connected(database_url) as own:
        own.execute(sa.text("DROP VIEW v_account"))
        own.execute(sa.delete(tables.sql_view).where(tables.sql_view.c.name == "v_account"))
        own.execute(sa.text("CREATE VIEW v_account AS SELECT 1 AS mine"))
    found = migrate.views(database_url)
    with pytest.raises(SetupError, match=r"^database_url: v_account was not made by syncworker, .*; rename or drop it"):
        migrate.upgrade(database_url)

    assert found.taken == ("v_account",)
    with connected(database_url) as own:
        assert read(own, "SELECT mine FROM v_account") == [(1,)]


def test_sqlite_keeps_views_of_others_and_their_triggers(sqlite_url: str) -> None:
    """They leave the file while tables change, and return as they were written."""
    view = 'CREATE VIEW "my ""view" AS SELECT tenant, count(*) AS n FROM v_account GROUP BY tenant'
    trigger = 'CREATE TRIGGER mine INSTEAD OF INSERT ON "my ""view" BEGIN SELECT 1; END'
    with connected(sqlite_url) as own:
        own.exec_driver_sql(view)
        own.exec_driver_sql(trigger)
    found = migrate.views(sqlite_url)
    migrate.downgrade(sqlite_url, "0015")
    migrate.upgrade(sqlite_url)

    with connected(sqlite_url) as own:
        kept = read(own, "SELECT sql FROM sqlite_master WHERE name IN ('my \"view', 'mine') ORDER BY type DESC")
    assert (found.others, kept) == (('my "view',), [(view,), (trigger,)])


def test_postgresql_names_a_view_of_others_that_is_in_the_way(postgresql_url: str) -> None:
    """Nothing is changed until it is dropped; while no view has to be made anew it disturbs nothing."""
    with connected(postgresql_url) as own:
        own.execute(sa.text("CREATE SCHEMA mine"))
        own.execute(sa.text("CREATE VIEW mine.totals AS SELECT user_ref, sum(amount) FROM v_balance GROUP BY 1"))
    migrate.upgrade(postgresql_url)
    found = migrate.views(postgresql_url)
    with pytest.raises(SetupError, match=r"^database_url: the view mine\.totals reads v_balance.*; drop mine\.totals"):
        migrate.downgrade(postgresql_url, "0015")

    assert (found.as_wanted, found.others, migrate.current(postgresql_url)) == (True, ("mine.totals",), migrate.head())


def test_what_roles_were_granted_on_a_view_is_granted_again(
    postgres_server: PostgresServer, postgresql_url: str
) -> None:
    """On views and on columns, to a role and to all."""
    grants = (
        "SELECT grantee, table_name, privilege_type, is_grantable FROM information_schema.role_table_grants"
        " WHERE table_name LIKE 'v\\_%' AND grantee <> current_user ORDER BY 1, 2, 3"
    )
    columns = (
        "SELECT grantee, table_name, column_name FROM information_schema.column_privileges"
        " WHERE table_name = 'v_account' AND grantee <> current_user"
    )
    with psycopg.connect(postgresql_url, autocommit=True) as own:
        own.execute('CREATE ROLE "sql reader"')
        try:
            own.execute('GRANT SELECT ON v_balance, v_transaction TO "sql reader" WITH GRANT OPTION')
            own.execute('GRANT SELECT (account_id) ON v_account TO "sql reader"')
            own.execute("GRANT SELECT ON v_consent TO PUBLIC")
            before = own.execute(grants).fetchall(), own.execute(columns).fetchall()
            migrate.downgrade(postgresql_url, "0019")
            migrate.upgrade(postgresql_url)
            own.execute("UPDATE sql_view SET digest = 'old'")
            between = own.execute(grants).fetchall()
            own.execute('GRANT SELECT ON v_balance, v_transaction TO "sql reader" WITH GRANT OPTION')
            own.execute('GRANT SELECT (account_id) ON v_account TO "sql reader"')
            own.execute("GRANT SELECT ON v_consent TO PUBLIC")
            migrate.upgrade(postgresql_url)
            after = own.execute(grants).fetchall(), own.execute(columns).fetchall()
        finally:
            own.execute('DROP OWNED BY "sql reader"')
            own.execute('DROP ROLE "sql reader"')

    assert (len(before[0]), len(before[1]), between) == (3, 1, [])
    assert after == before


# -- plans -----------------------------------------------------------------------------------------------------------

QUERIES = {
    "transactions of an account between dates": (
        "SELECT id, booking_date, amount FROM v_transaction"
        " WHERE account_id = 'acc_7' AND booking_date BETWEEN '2026-11-01' AND '2026-11-30'"
    ),
    "balances of a user": "SELECT id, type, amount, checked_at FROM v_balance WHERE user_ref = 'u7'",
    "accounts of a user": "SELECT account_id, status, checked_at FROM v_account WHERE user_ref = 'u7'",
    "changes of a connection": (
        "SELECT id, op FROM v_change WHERE connection_id = 'c7' AND (txid, seq) > (0, 0) ORDER BY txid, seq LIMIT 500"
    ),
    "transactions of a connection": "SELECT id, amount FROM v_transaction WHERE connection_id = 'c7'",
    "listings of an account": "SELECT resource, checked_at FROM v_listing WHERE account_id = 'acc_7'",
}
EACH = 5
"""Transactions and changes of an account."""


def crowd(own: sa.Connection, accounts: int) -> None:
    """So many connections of one account each, with `EACH` transactions and changes."""
    first = sa.select(sa.literal(1).label("i")).cte("n", recursive=True)
    n = first.union_all(sa.select(first.c.i + 1).where(first.c.i < accounts))
    m_first = sa.select(sa.literal(1).label("j")).cte("m", recursive=True)
    m = m_first.union_all(sa.select(m_first.c.j + 1).where(m_first.c.j < EACH))
    i, j = sa.cast(n.c.i, sa.String), sa.cast(m.c.j, sa.String)
    c, a = "c" + i, "a" + i
    rows: list[tuple[sa.Table, dict[str, Any], bool]] = [
        (tables.connection, {"connection_id": c, "user_ref": "u" + i}, False),
        (tables.account_reference, {"connection_id": c, "lfi_account_id": a, "account_id": "acc_" + i}, False),
        (tables.account, {"connection_id": c, "account_id": sa.literal(""), "key": a}, False),
        (tables.balance, {"connection_id": c, "account_id": a, "key": sa.literal("k")}, False),
        (tables.cursor, {"connection_id": c, "account_id": a, "resource": sa.literal("balances")}, False),
        (tables.connection_check, {"connection_id": c, "listings": sa.literal([[], []], tables.JSON)}, False),
        (tables.transaction, {"connection_id": c, "account_id": a, "key": "k" + j,
                              "booking_date_time": sa.literal(NOW, Instant()),
                              "booking_date": sa.literal(NOW.date(), sa.Date())}, True),
        (tables.change, {"connection_id": c, "account_id": a, "key": "k" + j, "op": sa.literal("added"),
                         "txid": sa.literal(1)}, True),
    ]  # fmt: skip
    for table, values, many in rows:
        facts = {
            column.name: values.get(column.name, _plain(column))
            for column in table.columns
            if column.name in values
            or (not column.nullable and column.server_default is None and column.autoincrement is not True)
        }
        query = sa.select(*facts.values()).select_from(n.join(m, sa.true()) if many else n)
        own.execute(sa.insert(table).from_select(list(facts), query))


def plan_of(own: sa.Connection, query: str) -> dict[str, Any]:
    ((plan,),) = read(own, f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}")
    found = plan[0]["Plan"]
    assert isinstance(found, dict)
    return found


def read_whole(plan: Mapping[str, Any]) -> set[str]:
    """Tables that a plan reads as a whole; `feed_epoch` has one row."""
    own = {str(plan["Relation Name"])} - {"feed_epoch"} if plan["Node Type"] == "Seq Scan" else set()
    return own.union(*(read_whole(below) for below in plan.get("Plans", ())))


PAGES_MAX = 400
"""Pages of the whole query: some descents for each of its rows, however large the tables are."""


@pytest.fixture(scope="module", params=[False, True], ids=["without statistics", "with statistics"])
def crowded(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[str]:
    """Ten thousand accounts with fifty thousand transactions."""
    database = postgres_server.clone()
    url = postgres_server.url(database)
    with connected(url) as own:
        crowd(own, 10_000)
    if request.param:
        with psycopg.connect(url, autocommit=True) as own_driver:
            own_driver.execute("ANALYZE")
    yield url
    postgres_server.drop(database)


@pytest.mark.parametrize("name", QUERIES)
def test_what_is_asked_for_is_looked_up_by_an_index(crowded: str, name: str) -> None:
    """No table is read whole, and what is read does not grow with it."""
    with connected(crowded) as own:
        plan = plan_of(own, QUERIES[name])

    assert plan["Actual Rows"] > 0
    assert (read_whole(plan), plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] <= PAGES_MAX) == (set(), True)


@pytest.mark.parametrize("name", QUERIES)
def test_sqlite_searches_for_what_is_asked_for(sqlite_url: str, name: str) -> None:
    """Its plan says SEARCH of every table; what it takes apart of one row's JSON is no table."""
    with connected(sqlite_url) as own:
        plan = [row[3] for row in read(own, f"EXPLAIN QUERY PLAN {QUERIES[name]}")]

    assert any(line.startswith("SEARCH ") for line in plan)
    assert [line for line in plan if line.startswith("SCAN ") and "VIRTUAL TABLE" not in line] == []


def main(transactions: int) -> int:
    """Ask each query of tables of so many transactions; prints pages, time and what was read whole."""
    server, bad = PostgresServer(), 0
    try:
        migrate.upgrade(server.make_template())
        url = server.url(server.clone())
        with connected(url) as own:
            crowd(own, transactions // EACH)
        for analyzed in (False, True):
            if analyzed:
                with psycopg.connect(url, autocommit=True) as own_driver:
                    own_driver.execute("ANALYZE")
            for name, query in QUERIES.items():
                with connected(url) as own:
                    plan_of(own, query)
                    plan = plan_of(own, query)
                pages, whole = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], read_whole(plan)
                bad += bool(whole) or pages > PAGES_MAX
                sys.stdout.write(
                    f"{name} ({'with' if analyzed else 'without'} statistics): {plan['Actual Rows']} rows,"
                    f" {pages} pages, {plan['Actual Total Time']} ms, read whole: {sorted(whole)}\n"
                )
    finally:
        server.close()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
