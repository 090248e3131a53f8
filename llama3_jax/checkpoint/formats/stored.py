"""A tensor in a file: read in whole rows, and no more of them at a time than asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import ml_dtypes
import numpy as np

from llama3_jax.checkpoint.formats.table import ALL

DTYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16), "float32": np.dtype(np.float32)}
"""Those that weights are kept in."""
BLOCK_BYTES = 2**25
"""Looked at, or read to be cut, at a time."""
WORTH_A_READ = 2**10
"""Bytes of a row, from which on a part of it is read alone; smaller ones are cut out of rows that are read whole."""


@dataclass(frozen=True)
class Stored:
    path: Path
    offset: int
    """Bytes from the beginning of the file."""
    dtype: np.dtype
    shape: tuple[int, ...]
    """At most two dims, in C order."""

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, rows: slice = ALL, columns: slice = ALL) -> np.ndarray:
        """Args: columns: of a matrix. Raises: OSError if the file cannot be read, or ends too early."""
        start, stop, _ = rows.indices(self.shape[0])
        with self.path.open("rb", buffering=0) as file:
            if len(self.shape) == 1 or columns.indices(self.shape[1]) == (0, self.shape[1], 1):
                return self._rows(file, start, stop)
            first, last, _ = columns.indices(self.shape[1])
            out = np.empty((stop - start, last - first), self.dtype)
            if out.strides[0] >= WORTH_A_READ:
                for row in range(start, stop):
                    self._fill(file, row * self.shape[1] + first, out[row - start])
                return out
            step = max(1, BLOCK_BYTES // (self.shape[1] * self.dtype.itemsize))
            for row in range(start, stop, step):
                block = self._rows(file, row, min(row + step, stop))
                out[row - start : row - start + len(block)] = block[:, first:last]
            return out

    def _rows(self, file: IO[bytes], start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, *self.shape[1:]), self.dtype)
        self._fill(file, start * math.prod(self.shape[1:]), out)
        return out

    def _fill(self, file: IO[bytes], first: int, out: np.ndarray) -> None:
        """The elements from `first` on into `out`."""
        left = memoryview(out.reshape(-1).view(np.uint8))
        file.seek(self.offset + first * self.dtype.itemsize)
        while left:
            got = file.readinto(left)
            if not got:
                raise OSError(f"{self.path} ended while it was read; fetch it again")
            left = left[got:]


def equal(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same numbers; they are read until they differ."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    step = max(1, BLOCK_BYTES // max(1, one.num_bytes // max(1, one.shape[0])))
    return all(
        np.array_equal(*(each.read(slice(row, row + step)).view(np.uint8) for each in (one, other)))
        for row in range(0, one.shape[0], step)
    )


def finite(array: np.ndarray) -> bool:
    """Whether no number of it is NaN or infinite; by their bits, in blocks, since the dtypes are not NumPy's."""
    bits, infinity = {"bfloat16": (np.uint16, 0x7F80), "float16": (np.uint16, 0x7C00), "float32": (np.uint32, 0x7F800000)}[
        array.dtype.name
    ]
    rows = max(1, BLOCK_BYTES // max(1, array.nbytes // max(1, len(array))))
    magnitude = bits(np.iinfo(bits).max >> 1)
    return all(
        int(np.max(np.ascontiguousarray(array[row : row + rows]).view(bits) & magnitude, initial=0)) < infinity
        for row in range(0, len(array), rows)
    )
