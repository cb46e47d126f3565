"""docs/schema.md says what is in the database, all of it."""

from pathlib import Path

import pytest

from syncworker.cli import schema
from syncworker.store.sql_views import VIEWS
from syncworker.store.tables import metadata
from tests.cli.house import House

DOCS = Path(__file__).parents[2] / "docs"


def test_the_document_is_what_the_command_prints() -> None:
    """Make it again with `syncworker db schema > docs/schema.md`."""
    assert (DOCS / "schema.md").read_text(encoding="utf-8") == schema.page()


def test_every_table_is_in_one_group_and_says_what_a_row_is() -> None:
    """A new table is entered in `schema.GROUPS`."""
    named = [name for tables in schema.GROUPS.values() for name in tables]

    assert sorted(named) == sorted(metadata.tables)
    assert all(row for tables in schema.groups().values() for row in tables.values())


def test_every_column_of_a_view_has_a_comment_and_a_source() -> None:
    """None is left for a reader to guess."""
    columns = [(view.name, column) for view in VIEWS for column in view.columns]

    assert [(view, column.name) for view, column in columns if not (column.comment and column.source)] == []


@pytest.mark.live
def test_the_command_needs_no_settings_and_looks_at_no_database(tmp_path: Path) -> None:
    """Text as the document; `--json` as values."""
    house = House(tmp_path)
    text, values = house.run("db", "schema"), house.run("db", "schema", "--json")

    assert (text.code, text.stdout) == (0, schema.page())
    assert values.json == schema.described()
    assert not (tmp_path / ".syncworker").exists()
