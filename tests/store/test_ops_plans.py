"""What SQLite does without statistics for the lists and figures of operators: rows are found by number, time or key."""

import re
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from syncworker.standard.values import Slug
from syncworker.store.ops_filters import State, Trouble, Wanted
from syncworker.store.ops_lists import Page
from syncworker.store.unit_of_work import Store, UnitOfWork

pytestmark = pytest.mark.store


def page(**wanted: Any) -> Callable[[UnitOfWork], Awaitable[Any]]:
    """The list with some filters."""
    return lambda unit: unit.ops_connections.page(Wanted(**wanted))


AT = datetime(2026, 12, 1, tzinfo=UTC)
READS: dict[str, Callable[[UnitOfWork], Awaitable[Any]]] = {
    "overview": lambda unit: unit.overviews.read(rule="", recent_mark=1),
    "traffic": lambda unit: unit.runs.traffic(since=AT),
    "runs by quarter": lambda unit: unit.ops_traffic.runs_by_quarter(since=AT),
    "calls by hour": lambda unit: unit.ops_traffic.calls_by_hour(since=AT),
    "runs": lambda unit: unit.ops_traffic.runs(),
    "runs of an LFI": lambda unit: unit.ops_traffic.runs(lfi="bank"),
    "runs of a connection": lambda unit: unit.ops_traffic.runs(connection_id="c"),
    "calls of an LFI": lambda unit: unit.ops_traffic.sample(lfi=Slug("bank"), since=AT),
    "unanswered": lambda unit: unit.ops_traffic.unanswered(lfi=Slug("bank"), since=AT),
    "events": lambda unit: unit.ops_lists.events(Page()),
    "refused": lambda unit: unit.ops_lists.refused(Page()),
    "messages": lambda unit: unit.ops_lists.messages(Page()),
    "connections": page(),
    **{f"connections {one.value}": page(state=one) for one in State},
    **{f"connections {one.value}": page(trouble=one) for one in Trouble},
}
SLOW = re.compile(
    r"SEARCH (run|refused_event|connection) USING (COVERING )?INDEX \S+ \(tenant=\?\)"  # all rows of the tenant
    r"|SEARCH event USING (COVERING )?INDEX sqlite_autoindex\S+ \(tenant=\?\)"
    r"|SEARCH consent USING INDEX \S+ \(status=\? AND expires_at>\?\)$"  # all consents of a status
)


@contextmanager
def asked() -> Iterator[dict[str, Any]]:
    """Statements by what was given."""
    found: dict[str, Any] = {}

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith(("SELECT", "WITH")):
            found[statement] = parameters

    sa.event.listen(sa.engine.Engine, "before_cursor_execute", note)
    yield found
    sa.event.remove(sa.engine.Engine, "before_cursor_execute", note)


@pytest.mark.parametrize("name", READS)
async def test_nothing_reads_all_rows_of_a_tenant_to_find_some(
    sqlite_url: str, open_store: Callable[..., Store], name: str
) -> None:
    """Without statistics SQLite prefers equality with the tenant to any range: such a condition is hidden from it."""
    store = open_store(sqlite_url)
    with asked() as statements:
        async with store.looking() as unit:
            await READS[name](unit)
    plain = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    steps = [
        row[3]
        for statement, parameters in statements.items()
        for row in plain.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
    ]
    plain.close()

    assert steps
    assert [step for step in steps if SLOW.search(step)] == []
