"""A stream read in blocks whose order is shuffled, so that a stage of any length draws on the whole source.

Rows are cut from blocks as long as the longest row of the run: a short first stage then sees pieces of many documents,
and a later stage with longer rows goes on in the same order, without reading anything twice.
"""

from __future__ import annotations

import functools

import numpy as np

from llama3_jax.batches.permutation import permutation
from llama3_jax.batches.stream import TokenStream

WINDOW = 1 << 16
"""Blocks that are shuffled among themselves."""


class ShuffledStream:
    """Position p of the shuffled stream is a position of `stream` in the same epoch, one to one.

    Args: block: tokens that stay together; the last, shorter block of an epoch stays last.
    """

    def __init__(self, stream: TokenStream, *, seed: int | str, block: int, window: int = WINDOW):
        self.stream = stream
        self._seed = seed
        self.block = block
        self._window = window
        self._order = functools.lru_cache(maxsize=8)(self._order_window)

    @property
    def num_tokens(self) -> int:
        return self.stream.num_tokens

    def row(self, position: int, length: int) -> list[np.ndarray]:
        """The pieces of `length` tokens from `position` on, and the token that follows the last of them.

        A row inside one block is as it stands in the documents; one that reaches into the next block has a cut there.
        """
        pieces = []
        while length:
            place, room = self._locate(position)
            taken = min(length, room)
            position, length = position + taken, length - taken
            pieces += self.stream.read(place, taken + (length == 0))
        return pieces

    def _locate(self, position: int) -> tuple[int, int]:
        """(position in the stream, tokens from there to the end of the block)."""
        epoch, offset = divmod(position, self.stream.num_tokens)
        number, inside = divmod(offset, self.block)
        if number < self.stream.num_tokens // self.block:
            window, slot = divmod(number, self._window)
            number = window * self._window + int(self._order(epoch, window)[slot])
        start = number * self.block
        end = min(start + self.block, self.stream.num_tokens)
        return epoch * self.stream.num_tokens + start + inside, end - start - inside

    def _order_window(self, epoch: int, window: int) -> np.ndarray:
        size = min(self._window, self.stream.num_tokens // self.block - window * self._window)
        return permutation(size, "blocks", self._seed, epoch, window)
