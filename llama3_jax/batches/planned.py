"""Packing by plan: which document stands in which row is worked out from the lengths alone, window by window.

A chunk is the documents of one window of the stream from a position on (of several windows, or epochs, where these are
small). Its rows are planned when one of them is asked for, and a few plans are kept: memory does not grow with the corpus.

Shape letters: I pieces of a chunk, R its rows.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from llama3_jax.batches.permutation import permutation
from llama3_jax.batches.source import Tally
from llama3_jax.batches.stream import TokenStream

FEWEST_ROWS = 64
"""Rows' worth of tokens that a chunk has at least: a small source is planned over several epochs, lest each end in padding."""
MOST_ROWS = 1 << 16
"""Rows' worth of tokens that a chunk has at most."""
KEPT_PLANS = 8

Assign = Callable[[np.ndarray, int], np.ndarray]
"""(sizes [I], row length) -> the row of each piece [I], numbered from 0."""


class Pieces(NamedTuple):
    """What is put into rows, in the order of the stream."""

    start: np.ndarray
    """int64 [I]: token position."""
    size: np.ndarray
    """int64 [I]: tokens up to where the next one begins."""
    ends: np.ndarray
    """bool [I]: whether its last token is its document's."""
    whole: np.ndarray
    """bool [I]: whether it is a document from its first token to its last."""


class Plan(NamedTuple):
    """Which tokens stand in which row."""

    start: np.ndarray
    """int64 [I]: token position of each piece, row by row."""
    size: np.ndarray
    """int64 [I]: its tokens in the row."""
    begin: np.ndarray
    """int64 [R + 1]: the first piece of each row."""
    documents: int
    """Documents that end in it."""
    cut: int
    """Those of them that are not whole in a row."""

    @property
    def num_rows(self) -> int:
        return self.begin.size - 1


class Planned:
    """A source whose documents are put into rows by `assign`.

    Args:
        splits: a document longer than a row fills as many rows as it can, and its rest is a piece like any other; else it
            is one piece, and what is beyond the end of the row is dropped.
    """

    def __init__(self, stream: TokenStream, *, name: str, assign: Assign, splits: bool, seed: str):
        self.stream = stream
        self.name = name
        self.seed = seed
        self._assign = assign
        self._splits = splits
        self.plan = functools.lru_cache(maxsize=KEPT_PLANS)(self._plan)

    @property
    def num_tokens(self) -> int:
        return self.stream.num_tokens

    def stretch(self, start: int, num_rows: int, length: int) -> PlannedStretch:
        return PlannedStretch(self, start, num_rows, length)

    def chunk_end(self, position: int, length: int) -> int:
        """Where the chunk ends that begins at `position`."""
        end = position
        while end - position < FEWEST_ROWS * length:
            end = int(self.stream.ends(end)[-1])
        pieces = self._pieces(position, min(end, position + MOST_ROWS * length), length)
        return int(pieces.start[-1] + pieces.size[-1])

    def prefix_end(self, position: int, end: int, length: int, num_rows: int) -> int:
        """Where the longest beginning of a chunk ends that fits `num_rows` rows."""
        start, size, *_ = self._pieces(position, end, length)

        def fits(count: int) -> bool:
            return int(self._assign(size[:count], length).max()) < num_rows

        fitting, too_many, stride = 1, size.size, 1  # one piece always fits
        if self._splits:  # no row holds more than its length
            too_many = min(too_many, int(np.searchsorted(np.cumsum(size), num_rows * length, side="right")) + 1)
        while too_many - fitting > 1:  # the answer is close below the bound
            middle = max(too_many - stride, fitting + 1) if stride else (fitting + too_many) // 2
            if fits(middle):
                fitting, stride = middle, 0
            else:
                too_many, stride = middle, stride * 2
        return int(start[fitting - 1] + size[fitting - 1])

    def _pieces(self, position: int, end: int, length: int) -> Pieces:
        """The pieces that lie in [position, end), at least one."""
        ends, at = [], position
        while at < end:
            ends.append(self.stream.ends(at))
            at = int(ends[-1][-1])
        ends = np.concatenate(ends)
        starts = np.concatenate([[position], ends[:-1]])
        whole = np.ones(ends.size, bool)
        whole[0] = self.stream.document_start(position) == position
        closes = np.ones(ends.size, bool)
        if self._splits:
            counts = -(-(ends - starts) // length)
            number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            starts, document_ends = np.repeat(starts, counts) + number * length, np.repeat(ends, counts)
            ends = np.minimum(starts + length, document_ends)
            whole, closes = np.repeat(whole & (counts == 1), counts), ends == document_ends
        inside = slice(max(1, int(np.searchsorted(ends, end, side="right"))))
        return Pieces(starts[inside], (ends - starts)[inside], closes[inside], whole[inside])

    def _plan(self, position: int, end: int, length: int) -> Plan:
        pieces = self._pieces(position, end, length)
        row_of = self._assign(pieces.size, length)
        by_row = np.argsort(row_of, kind="stable")
        begin = np.concatenate([[0], np.cumsum(np.bincount(row_of))])
        size = pieces.size[by_row]
        before = np.cumsum(size) - size
        before -= np.repeat(before[begin[:-1]], np.diff(begin))
        room = length - before
        whole = pieces.whole[by_row] & (size <= room)
        return Plan(
            start=pieces.start[by_row], size=np.minimum(size, room), begin=begin, documents=int(pieces.ends.sum()),
            cut=int((pieces.ends[by_row] & ~whole).sum()),
        )  # fmt: skip


class _Chunk(NamedTuple):
    first_row: int
    num_rows: int
    position: int
    end: int


class PlannedStretch:
    """The rows of as many chunks as a stage needs; the rows of a chunk are shuffled among themselves."""

    def __init__(self, source: Planned, start: int, num_rows: int, length: int):
        self.start = start
        self.order = source.name
        self.tally = Tally()
        self._source = source
        self._length = length
        self._chunks: list[_Chunk] = []
        position, row = start, 0
        while row < num_rows:
            end = source.chunk_end(position, length)
            plan = source.plan(position, end, length)
            if plan.num_rows > num_rows - row:
                end = source.prefix_end(position, end, length, num_rows - row)
                plan = source.plan(position, end, length)
                rows = num_rows - row  # if the piece that comes next fits none of them, the last is all padding
            else:
                rows = plan.num_rows
            tokens = int(plan.size.sum())
            self.tally += Tally(
                positions=rows * length, tokens=tokens, documents=plan.documents, cut=plan.cut,
                dropped=end - position - tokens,
            )  # fmt: skip
            self._chunks.append(_Chunk(row, rows, position, end))
            position, row = end, row + rows
        self.end = position
        self._first_rows = [chunk.first_row for chunk in self._chunks]
        self._order = functools.lru_cache(maxsize=KEPT_PLANS)(self._order_chunk)

    def __getitem__(self, ordinal: int) -> list[np.ndarray]:
        number = bisect_right(self._first_rows, ordinal) - 1
        chunk = self._chunks[number]
        row = int(self._order(number)[ordinal - chunk.first_row])
        plan = self._source.plan(chunk.position, chunk.end, self._length)
        if row >= plan.num_rows:
            return []
        pieces = slice(plan.begin[row], plan.begin[row + 1])
        start, size = plan.start[pieces].tolist(), plan.size[pieces].tolist()
        if sum(size) == self._length:
            size[-1] += 1  # the last position of a full row knows its target
        return [part for place in zip(start, size, strict=True) for part in self._source.stream.read(*place)]

    def _order_chunk(self, number: int) -> np.ndarray:
        chunk = self._chunks[number]
        return permutation(chunk.num_rows, "rows", self._source.seed, chunk.position, self._length)
