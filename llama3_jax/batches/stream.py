"""A source as one endless stream of tokens that can be read at any position.

Documents follow each other in a shuffled order: windows of neighbouring documents are visited in a random order, and
the documents of a window are shuffled among themselves, anew in every epoch. The order is planned from the lengths
alone, one window at a time, so position p is found without reading what lies before it, in memory that does not grow
with the corpus. A position is a number of tokens: that is all a resumed run needs to know.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from llama3_jax.batches.permutation import permutation
from llama3_jax.tokenizer.token_shard import TokenShard

WINDOW = 1 << 16
"""Documents that are shuffled among themselves."""

_COUNTING_THREADS = 8


class _Order(NamedTuple):
    """Things in the order they are read, and the token count up to the end of each."""

    item: np.ndarray
    end: np.ndarray

    def find(self, position: int) -> tuple[int, int]:
        """(item at a token position, tokens of that item before it)."""
        slot = int(self.end.searchsorted(position, side="right"))
        return int(self.item[slot]), position - (int(self.end[slot - 1]) if slot else 0)


class TokenStream:
    """The documents of one source, in an order that depends on the seed and on what the shards hold.

    File names and their order do not matter: shards are taken by the digest of their content.
    """

    def __init__(self, shards: Sequence[TokenShard], *, seed: int | str | None, window: int = WINDOW):
        """Args: seed: of the shuffle; None reads documents once in stored order and then ends."""
        self._shards = sorted(shards, key=lambda shard: shard.header.sha256)
        self._shard_end = np.cumsum([len(shard) for shard in self._shards])
        self._seed = seed
        self._window = window
        self.num_documents = int(self._shard_end[-1])
        self._window_tokens = self._count_windows()
        self.num_tokens = int(self._window_tokens.sum())
        self._windows = functools.lru_cache(maxsize=2)(self._order_windows)
        self._documents = functools.lru_cache(maxsize=8)(self._order_documents)

    def read(self, position: int, count: int) -> list[np.ndarray]:
        """The tokens [position, position + count) as uint32 pieces, one for each document they touch.

        A stream without a seed ends after one epoch and then gives fewer.
        """
        pieces = []
        while count:
            epoch, offset = divmod(position, self.num_tokens)
            if epoch and self._seed is None:
                break
            window, offset = self._windows(epoch).find(offset)
            document, offset = self._documents(epoch, window).find(offset)
            piece = self._document(document)[offset : offset + count]
            pieces.append(piece)
            position += piece.size
            count -= piece.size
        return pieces

    def ends(self, position: int) -> np.ndarray:
        """int64: the positions at which documents end, from the one at `position` on to the end of its window."""
        epoch, offset = divmod(position, self.num_tokens)
        window, inside = self._windows(epoch).find(offset)
        ends = self._documents(epoch, window).end
        return position - inside + ends[np.searchsorted(ends, inside, side="right") :]

    def document_start(self, position: int) -> int:
        """The position at which the document at `position` begins."""
        epoch, offset = divmod(position, self.num_tokens)
        window, inside = self._windows(epoch).find(offset)
        return position - self._documents(epoch, window).find(inside)[1]

    def documents_cut(self, length: int) -> float:
        """Share of the documents of the first window that rows of `length` positions cut in two or more."""
        order = self._documents(0, self._windows(0).item[0])
        first = np.concatenate([[0], order.end[:-1]])
        return float(np.mean(first // length != (order.end - 1) // length))

    def _order_windows(self, epoch: int) -> _Order:
        order = self._permutation(self._window_tokens.size, "windows", epoch)
        return _Order(order, np.cumsum(self._window_tokens[order]))

    def _order_documents(self, epoch: int, window: int) -> _Order:
        first = window * self._window
        lengths = self._lengths(first, min(first + self._window, self.num_documents))
        order = self._permutation(lengths.size, "documents", epoch, window)
        return _Order(first + order, np.cumsum(lengths[order]))

    def _permutation(self, size: int, purpose: str, *key: int) -> np.ndarray:
        return np.arange(size) if self._seed is None else permutation(size, purpose, self._seed, *key)

    def _count_windows(self) -> np.ndarray:
        """int64 [windows]: tokens of each. Only shards that a window ends inside of are asked for their lengths."""

        def count(number: int) -> tuple[int, np.ndarray]:
            """(first window of a shard, tokens of the shard in that window and those after it)."""
            shard = self._shards[number]
            window, before = divmod(int(self._shard_end[number]) - len(shard), self._window)
            cuts = [0, *range(self._window - before, len(shard), self._window)]
            return window, np.add.reduceat(shard.lengths[:], cuts) if len(cuts) > 1 else np.array([shard.header.num_tokens])

        tokens = np.zeros(-(-self.num_documents // self._window), np.int64)
        numbers = range(len(self._shards))
        with ThreadPoolExecutor(_COUNTING_THREADS) as threads:  # starts none for few shards
            counted = threads.map(count, numbers) if len(numbers) > _COUNTING_THREADS else map(count, numbers)
            for window, counts in counted:
                tokens[window : window + counts.size] += counts
        return tokens

    def _lengths(self, first: int, last: int) -> np.ndarray:
        """int64: the lengths of documents [first, last) in stored order."""
        lengths = []
        for number in range(int(np.searchsorted(self._shard_end, first, side="right")), len(self._shards)):
            shard = self._shards[number]
            start = int(self._shard_end[number]) - len(shard)
            if start >= last:
                break
            lengths.append(shard.lengths[max(first - start, 0) : last - start])
        return np.concatenate(lengths)

    def _document(self, number: int) -> np.ndarray:
        shard = int(self._shard_end.searchsorted(number, side="right"))
        return self._shards[shard][number - (int(self._shard_end[shard - 1]) if shard else 0)]
