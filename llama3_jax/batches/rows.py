"""Rows: documents packed end to end, cut where the row ends (concatenate and split: no position is wasted).

Shape letters: S positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama3_jax.batches.batch import Batch


def pack(pieces: Sequence[np.ndarray], sequence_length: int, source: int) -> Batch:
    """One row [S] from the `sequence_length + 1` tokens that `pieces` hold, one piece a document.

    The extra token is the target of the last position, so that a cut costs no target. Positions restart with each
    document or piece of one; the last token of a document (its EOS) has no target. Fewer tokens leave padding.
    """
    tokens = np.zeros(sequence_length + 1, np.int32)
    segment_ids = np.zeros(sequence_length, np.int32)
    positions = np.arange(sequence_length, dtype=np.int32)
    loss_weight = np.ones(sequence_length, np.float32)
    filled = 0
    for number, piece in enumerate(pieces, start=1):
        first, filled = filled, filled + piece.size
        tokens[first:filled] = piece
        segment_ids[first:filled] = number
        positions[first:filled] -= first
        loss_weight[filled - 1 : filled] = 0  # its last token; beyond the row if that is only a target
    positions[filled:] = loss_weight[filled:] = 0
    source_of = np.full(sequence_length, source, np.int32)
    source_of[filled:] = -1
    return Batch(
        tokens=tokens[:-1], targets=tokens[1:] * (loss_weight > 0), loss_weight=loss_weight, segment_ids=segment_ids,
        positions=positions, order=np.arange(sequence_length, dtype=np.int32), source=source_of,
    )  # fmt: skip
