"""Concatenate and split: the stream is one sequence, cut where a row is full. No position is wasted, documents are cut."""

from __future__ import annotations

import functools

import numpy as np

from llama3_jax.batches.permutation import permutation
from llama3_jax.batches.shuffle import ShuffledStream
from llama3_jax.batches.source import Tally
from llama3_jax.batches.stream import TokenStream

SHUFFLED_ROWS = 1 << 16
"""Rows of a source that are shuffled among themselves.

The last of three shuffles: a stream shuffles documents, so that a row does not hold neighbours of the crawl; blocks of it
are shuffled, so that a stage draws on the whole source; and the rows of a stage, so that a batch is not one block.
"""


class Concatenated:
    """A source whose documents stand end to end."""

    def __init__(self, stream: TokenStream, *, seed: str, block: int):
        """Args: block: tokens that stay together in the shuffle, at least the longest row of the run."""
        self.stream = stream
        self._seed = seed
        self._shuffled = ShuffledStream(stream, seed=seed, block=block)

    @property
    def num_tokens(self) -> int:
        return self.stream.num_tokens

    def stretch(self, start: int, num_rows: int, length: int) -> ConcatenatedStretch:
        return ConcatenatedStretch(self._shuffled, start, num_rows, length, self._seed)


class ConcatenatedStretch:
    """Row by row the next `length` tokens, the rows then shuffled."""

    def __init__(self, shuffled: ShuffledStream, start: int, num_rows: int, length: int, seed: str):
        self.start = start
        self.end = start + num_rows * length
        self.order = f"concatenate, in blocks of {shuffled.block} tokens"
        self._shuffled = shuffled
        self._num_rows = num_rows
        self._length = length
        self._seed = seed
        self._order = functools.lru_cache(maxsize=2)(self._order_block)

    def __getitem__(self, ordinal: int) -> list[np.ndarray]:
        block, offset = divmod(ordinal, SHUFFLED_ROWS)
        ordinal = block * SHUFFLED_ROWS + int(self._order(block)[offset])
        return self._shuffled.row(self.start + ordinal * self._length, self._length)

    @functools.cached_property
    def tally(self) -> Tally:
        stream, tokens = self._shuffled.stream, self.end - self.start
        documents = round(tokens * stream.num_documents / stream.num_tokens)
        cut = round(documents * stream.documents_cut(self._length)) if documents else 0
        return Tally(positions=tokens, tokens=tokens, documents=documents, cut=cut)

    def _order_block(self, block: int) -> np.ndarray:
        size = min(SHUFFLED_ROWS, self._num_rows - block * SHUFFLED_ROWS)
        return permutation(size, "rows", self._seed, self.start, block)
