"""What is done to rows on their way into a file."""

import pyarrow as pa

from syncworker.exports.schema import Table


class Pseudonyms:
    """Makes pseudonyms under a key of the tenant."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @property
    def key_id(self) -> str:
        """Names the key in a manifest and tells nothing of it."""
        raise NotImplementedError

    def hide(self, table: Table, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with personal columns as pseudonyms, or null."""
        raise NotImplementedError
