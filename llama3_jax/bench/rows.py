"""Batches of random documents whose number and lengths are others in every batch."""

from __future__ import annotations

import jax
import numpy as np

from llama3_jax.batches.batch import Batch
from llama3_jax.batches.rows import pack


def random_batch(seed: int, *, vocab_size: int, num_rows: int, sequence_length: int, documents_per_row: int) -> Batch:
    """NumPy arrays [1, B, S]: rows without padding, cut at random places into `documents_per_row` documents."""
    rng = np.random.default_rng(seed)

    def row() -> Batch:
        cuts = np.sort(rng.choice(np.arange(1, sequence_length), documents_per_row - 1, replace=False))
        tokens = rng.integers(0, vocab_size, sequence_length + 1).astype(np.int32)
        return pack(np.split(tokens, cuts), sequence_length, 0)

    return jax.tree.map(lambda *leaves: np.stack(leaves)[None], *(row() for _ in range(num_rows)))


def visible_keys(batch: Batch) -> float:
    """Keys that a position sees, on average."""
    return float(np.mean(np.where(batch.segment_ids > 0, batch.positions + 1, 0)))
