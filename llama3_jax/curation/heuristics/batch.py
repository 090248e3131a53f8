"""A batch of documents taken apart once for all rules: words, lines and their hashes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation.text_buffer import (
    NEWLINE,
    Spans,
    buffer,
    folded,
    hash_pieces,
    lines,
    look_up,
    mix,
    words,
)


class Batch:
    """Arrays over all documents; everything of a document depends on it alone."""

    def __init__(self, texts: Sequence[str]):
        self.texts = list(texts)
        self.count = len(self.texts)
        self.held = buffer(self.texts)
        self.symbols = look_up(folded(True), self.held.points)
        self.words = words(self.held)
        self.lines = lines(self.held)
        self.word_lengths = self.words.ends - self.words.starts
        self.num_words = self.per_text(self.words)

    def per_text(self, spans: Spans, weights: np.ndarray | None = None) -> np.ndarray:
        """Of each document the sum over its spans, or how many there are."""
        return np.bincount(spans.texts, weights, self.count).astype(np.float64)

    def share(self, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """part / whole, NaN for none of nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(whole > 0, part / whole, np.nan)

    def characters(self, which: np.ndarray) -> np.ndarray:
        """How many of each document's characters are of a kind.

        Args:
            which: bool, of each code point of the buffer.
        """
        sums = np.concatenate([[0], np.cumsum(which)])
        return (sums[self.held.ends] - sums[self.held.starts]).astype(np.float64)

    @functools.cached_property
    def word_hashes(self) -> np.ndarray:
        """64 bits of each word in lower case, digits as 0."""
        return hash_pieces(self.symbols, self.words.starts, self.words.ends)

    @functools.cached_property
    def exact_word_hashes(self) -> np.ndarray:
        """64 bits of each word as it is written."""
        return hash_pieces(self.held.points, self.words.starts, self.words.ends)

    @functools.cached_property
    def line_hashes(self) -> np.ndarray:
        return hash_pieces(self.held.points, self.lines.starts, self.lines.ends)

    @functools.cached_property
    def word_characters(self) -> np.ndarray:
        return self.per_text(self.words, self.word_lengths)

    def first_character(self, spans: Spans) -> np.ndarray:
        """The first code point of each span that is no blank; a line feed where there is none."""
        return self._seek(spans, forward=True)

    def last_character(self, spans: Spans) -> np.ndarray:
        return self._seek(spans, forward=False)

    def _seek(self, spans: Spans, forward: bool) -> np.ndarray:
        points = self.held.points
        solid = np.flatnonzero((points > 32) & (points != 0xA0) & (points != 0x3000))
        if not len(solid):
            return np.full(len(spans.starts), NEWLINE)
        if forward:
            place = np.searchsorted(solid, spans.starts)
            found = solid[np.minimum(place, len(solid) - 1)]
            inside = (place < len(solid)) & (found < spans.ends)
        else:
            place = np.searchsorted(solid, spans.ends) - 1
            found = solid[np.maximum(place, 0)]
            inside = (place >= 0) & (found >= spans.starts)
        return np.where(inside, points[found], NEWLINE)


def repeated(keys: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each key how often it occurs in its document, and whether it occurred there before.

    Args:
        texts: the document of each key, ascending.
    """
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    codes = pa.array(mix(keys + mix(texts))).dictionary_encode().indices.to_numpy()  # numbered as they first occur
    newest = np.maximum.accumulate(codes)
    before = np.ones(len(codes), bool)
    before[0] = False
    before[1:] = newest[1:] == newest[:-1]
    return np.bincount(codes)[codes], before


def ngrams(hashes: np.ndarray, texts: np.ndarray, n: int, first: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """64 bits of every n words in a row of one document, and the number of the first of them.

    Args:
        first: the words to begin at; None for all. Those with fewer than n words to the end of the document are left out.
    """
    if len(hashes) < n:
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    if first is None:
        first = np.flatnonzero(texts[: len(texts) - n + 1] == texts[n - 1 :])
    else:
        first = first[first + n <= len(texts)]
        first = first[texts[first] == texts[first + n - 1]]
    keys = hashes[first]
    for shift in range(1, n):
        keys *= np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
        keys += hashes[first + shift]
    return keys, first
