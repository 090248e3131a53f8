"""One training batch as arrays; knows no mesh and imports no loader.

Shape letters: B rows, S positions.
"""

from __future__ import annotations

from typing import NamedTuple

from jax import Array


class Batch(NamedTuple):
    """Packed rows, all [B, S]; with gradient accumulation a leading dim counts the micro-batches."""

    tokens: Array
    """int32 token ids."""
    targets: Array
    """int32: the next token of the same document."""
    loss_weight: Array
    """float32: 0 where the next token is not this document's, or carries no loss."""
    segment_ids: Array
    """int32: 1, 2, ... for the documents of a row, 0 for padding."""
    positions: Array
    """int32: 0, 1, ... in each document's piece of the row."""
    order: Array
    """int32: where in its row a position stands; 0, 1, ... unless positions were dealt out over devices."""
    source: Array
    """int32: number of the source in the order of the run's source names; -1 for padding."""
