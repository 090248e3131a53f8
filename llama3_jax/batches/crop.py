"""Crop: a row begins with a new document, and the one that fills it is cut there, its rest passed over.

Shape letters: I documents.
"""

from __future__ import annotations

from bisect import bisect_left

import numpy as np


def crop(sizes: np.ndarray, length: int) -> np.ndarray:
    """int64 [I]: the row of each document of `sizes`, in order; only the last of a row may reach beyond `length`."""
    ends = np.cumsum(sizes).tolist()
    rows, first = [], 0
    while first < len(ends):
        full = (ends[first - 1] if first else 0) + length
        last = min(bisect_left(ends, full, first), len(ends) - 1)
        rows.append(last + 1 - first)
        first = last + 1
    return np.repeat(np.arange(len(rows)), rows)
