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
    segment = np.zeros(sequence_length + 1, np.int32)
    position = np.zeros(sequence_length + 1, np.int32)
    filled = 0
    for number, piece in enumerate(pieces, start=1):
        part = slice(filled, filled + piece.size)
        tokens[part], segment[part], position[part] = piece, number, np.arange(piece.size)
        filled += piece.size
    supervised = (segment[1:] == segment[:-1]) & (segment[:-1] > 0)
    return Batch(
        tokens=tokens[:-1],
        targets=np.where(supervised, tokens[1:], 0),
        loss_weight=supervised.astype(np.float32),
        segment_ids=segment[:-1],
        positions=position[:-1],
        source=np.where(segment[:-1] > 0, source, -1).astype(np.int32),
    )
