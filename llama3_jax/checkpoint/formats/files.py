"""Writing tensors into files whose size is known before."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

WRITE_BYTES = 2**25
"""Copied at a time, where an array does not lie in memory as in its file."""


def write_rows(path: Path, offset: int, array: np.ndarray) -> int:
    """Writes an array into a file that has its size, on the disk when this returns. Returns: its CRC-32."""
    checksum, step = 0, max(1, WRITE_BYTES // max(1, array.nbytes // max(1, len(array))))
    with path.open("r+b", buffering=0) as file:
        file.seek(offset)
        for row in range(0, len(array), step):
            left = memoryview(np.ascontiguousarray(array[row : row + step]).reshape(-1).view(np.uint8))
            checksum = zlib.crc32(left, checksum)
            while left:
                left = left[file.write(left) :]
        os.fdatasync(file.fileno())
    return checksum


def make_file(path: Path, size: int, content: bytes = b"") -> None:
    """A file of this size that begins with `content`."""
    with path.open("wb") as file:
        file.truncate(size)
        file.write(content)


def is_made(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
