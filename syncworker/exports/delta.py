"""Delta tables: increments appended, each exactly once."""

import pyarrow as pa

from syncworker.exports.layout import TableEntry
from syncworker.exports.schema import Table
from syncworker.exports.targets import S3Access


class DeltaWriter:
    """A `TableWriter` of one Delta table at `TARGET/NAME-delta/TABLE`."""

    def __init__(
        self, table: Table, root: str, *, name: str, number: int, op: bool, s3: S3Access | None = None
    ) -> None:
        raise NotImplementedError

    def write(self, batch: pa.RecordBatch, *, lfi: str | None) -> None: ...
    def close(self) -> TableEntry:
        raise NotImplementedError

    def abort(self) -> None: ...
