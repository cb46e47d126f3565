"""Zstandard frames: what is kept compressed and read now and then.

To make a compressor costs more than a small frame, so one is kept for each kind of frame.  The library is the standard
one from Python 3.14 on, and its backport below.
"""

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL: Final = 1


class Frames:
    """Frames of one kind."""

    def __init__(self, prefix: bytes = b"") -> None:
        """Makes ready.

        Args:
            prefix: what every frame begins as if it followed on; needed to read it, and so a storage format.
        """
        self._prefix = zstd.ZstdDict(prefix, is_raw=True) if prefix else None
        self._compressor = zstd.ZstdCompressor(LEVEL, zstd_dict=self._prefix and self._prefix.as_digested_dict)

    def pack(self, data: bytes) -> bytes:
        """One frame that holds `data`."""
        return self._compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)

    def unpack(self, frame: bytes, *, bytes_max: int) -> bytes:
        """What `pack` was given.

        Raises:
            ValueError: not a whole frame, or more than `bytes_max`.
        """
        reader = zstd.ZstdDecompressor(self._prefix)
        try:
            data = reader.decompress(frame, bytes_max)
        except zstd.ZstdError:
            raise ValueError("cannot be read") from None
        if not reader.eof:
            raise ValueError("is cut off or too long")
        return data
