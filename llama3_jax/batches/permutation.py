"""Seeded permutations, each from a key of its own."""

from __future__ import annotations

import hashlib

import numpy as np


def permutation(size: int, *key: int | str) -> np.ndarray:
    """int64 [size]; the same for the same key, and unrelated for any other (a key begins with its purpose)."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little"))).permutation(size)
