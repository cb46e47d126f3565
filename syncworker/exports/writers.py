"""Parts of a table as files."""

from typing import Protocol

import pyarrow as pa

from syncworker.exports.layout import Format, TableEntry
from syncworker.exports.schema import Table
from syncworker.exports.targets import Target


class TableWriter(Protocol):
    """Writes one table of one export; for one thread at a time, and not for the event loop's."""

    def write(self, batch: pa.RecordBatch, *, lfi: str | None) -> None:
        """Rows of `arrow_schema(table, op=…)`, sorted; in a full export `lfi` names their folder."""

    def close(self) -> TableEntry:
        """All rows are in: what the manifest says of the table."""

    def abort(self) -> None:
        """Leave nothing that a reader takes for a part; also after an error of `write` or `close`."""


def table_writer(
    table: Table,
    target: Target,
    *,
    folder: str,
    format: Format,  # noqa: A002
    op: bool,
    rows_per_part: int = 1_048_576,
) -> TableWriter:
    """A writer of parts below `folder` of a target."""
    raise NotImplementedError
