"""A batch of documents taken apart once for all rules: words, lines and their hashes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation.text_buffer import (
    Hasher,
    Spans,
    buffer,
    folded,
    lines,
    look_up,
    mix,
    words,
)

_SLOT_BITS = 18
"""Keys that share so many bits are compared; a table of them stays in the cache of a core."""


class Batch:
    """Arrays over all documents; everything of a document depends on it alone."""

    def __init__(self, texts: Sequence[str]):
        self.texts = list(texts)
        self.count = len(self.texts)
        self.held = buffer(self.texts)
        self.words = words(self.held)
        self.lines = lines(self.held)
        self.word_lengths = self.words.ends - self.words.starts
        self.num_words = self.per_text(self.words)

    def per_text(self, spans: Spans, weights: np.ndarray | None = None) -> np.ndarray:
        """float64, of each document the sum over its spans, or how many there are.

        Args:
            weights: of each span.
        """
        bounds = spans.first_of(self.count)
        first, last = bounds[:-1], bounds[1:]
        if weights is None:
            return (last - first).astype(np.float64)
        if weights.dtype.kind in "bi":
            sums = np.concatenate([[0], np.cumsum(weights)])
            return (sums[last] - sums[first]).astype(np.float64)
        found = np.zeros(self.count)
        some = last > first
        if some.any():  # each sum is over a document's own weights, so that it is the same in any batch
            found[some] = np.add.reduceat(weights, first[some])
        return found

    def share(self, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """part / whole, NaN for none of nothing."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(whole > 0, part / whole, np.nan)

    def characters(self, places: np.ndarray) -> np.ndarray:
        """float64, how many of these places of the buffer each document has.

        Args:
            places: ascending.
        """
        return (np.searchsorted(places, self.held.ends) - np.searchsorted(places, self.held.starts)).astype(np.float64)

    def find(self, phrase: str) -> np.ndarray:
        """Where in the buffer a phrase begins, whatever the case of its letters.

        Args:
            phrase: ASCII, in lower case.
        """
        points = self.held.points
        found = np.flatnonzero((points | 32) == ord(phrase[0]))
        for shift, character in enumerate(phrase[1:], start=1):
            found = found[: np.searchsorted(found, len(points) - shift)]
            here = points[found + shift]
            found = found[(here | 32 if character.isalpha() else here) == ord(character)]
        return found

    @functools.cached_property
    def symbols(self) -> np.ndarray:
        """Of each code point, its letter in lower case without accents, 0 for a digit."""
        return look_up(folded(True), self.held.points)

    @functools.cached_property
    def word_hashes(self) -> np.ndarray:
        """64 bits of each word in lower case, digits as 0."""
        return Hasher(self.symbols)(self.words.starts, self.words.ends)

    @functools.cached_property
    def _exact(self) -> Hasher:
        return Hasher(self.held.points)

    @functools.cached_property
    def exact_word_hashes(self) -> np.ndarray:
        """64 bits of each word as it is written."""
        return self._exact(self.words.starts, self.words.ends)

    @functools.cached_property
    def line_hashes(self) -> np.ndarray:
        """64 bits of each line as it is written."""
        return self._exact(self.lines.starts, self.lines.ends)

    @functools.cached_property
    def words_of_lines(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each line the number of its first word, and of the first one after it."""
        starts = self.words.starts
        return np.searchsorted(starts, self.lines.starts), np.searchsorted(starts, self.lines.ends)

    @functools.cached_property
    def word_characters(self) -> np.ndarray:
        return self.per_text(self.words, self.word_lengths)

    @functools.cached_property
    def first_of_lines(self) -> np.ndarray:
        """The first code point of each line that is no blank; a line feed where there is none."""
        starts, ends = self.lines.starts, self.lines.ends
        found = self.held.points[starts]
        blank = np.flatnonzero(_is_blank(found))
        if len(blank):
            place = np.append(self._solid, len(self.held.points))[np.searchsorted(self._solid, starts[blank])]
            found[blank] = self.held.points[np.minimum(place, ends[blank])]
        return found

    @functools.cached_property
    def last_of_lines(self) -> np.ndarray:
        """The last code point of each line that is no blank; a line feed where there is none."""
        starts, ends = self.lines.starts, self.lines.ends
        found = self.held.points[np.maximum(starts, ends - 1)]
        blank = np.flatnonzero(_is_blank(found))
        if len(blank):
            place = np.append(self._solid, -1)[np.searchsorted(self._solid, ends[blank]) - 1]
            found[blank] = self.held.points[np.where(place >= starts[blank], place, ends[blank])]
        return found

    @functools.cached_property
    def _solid(self) -> np.ndarray:
        """The places of all that is no blank."""
        return np.flatnonzero(~_is_blank(self.held.points))


def _is_blank(points: np.ndarray) -> np.ndarray:
    return (points <= 32) | (points == 0xA0) | (points == 0x3000)


def repeated(keys: np.ndarray, texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each key how often it occurs in its document, and whether it occurred there before.

    Args:
        keys: uint64, every bit of them at random.
        texts: the document of each key, ascending.
    """
    counts, before = np.ones(len(keys), np.int64), np.zeros(len(keys), bool)
    if not len(keys):
        return counts, before
    keys = keys + mix(mix(np.arange(texts[-1] + 1)))[texts]  # twice: keys may be mixed small numbers too
    slot = (keys >> np.uint64(64 - _SLOT_BITS)).astype(np.int32)
    maybe = np.flatnonzero(np.bincount(slot, minlength=1 << _SLOT_BITS)[slot] > 1)  # the others have a slot to themselves
    if not len(maybe):
        return counts, before
    codes = pa.array(keys[maybe]).dictionary_encode().indices.to_numpy()  # numbered as they first occur
    newest = np.maximum.accumulate(codes)
    before[maybe[1:]] = newest[1:] == newest[:-1]
    counts[maybe] = np.bincount(codes)[codes]
    return counts, before


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
