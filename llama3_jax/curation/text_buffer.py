"""The texts of a batch as one array of code points, and what is computed on it with no loop over characters: lines, words,
and 64-bit hashes of pieces. Equal pieces have equal hashes wherever they stand, in any batch and process."""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

NEWLINE = 10
_MULTIPLIER = 0x9E3779B97F4A7C15
_COMMON = 0x1F000
"""Code points beyond are emoji and rare Han characters: words of their own that stand for themselves."""
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))
"""Thai, Lao, Myanmar, Khmer, kana and Han: scripts written without spaces, in which each character counts as a word."""


class Buffer(NamedTuple):
    """Texts one after another, each closed by a line feed of ours."""

    points: np.ndarray
    """uint32 code points."""
    ends: np.ndarray
    """int64, of each text the place of its closing line feed."""

    @property
    def starts(self) -> np.ndarray:
        return np.concatenate([[0], self.ends[:-1] + 1]).astype(np.int64) if len(self.ends) else self.ends


class Spans(NamedTuple):
    """Pieces of a buffer, in order."""

    starts: np.ndarray
    ends: np.ndarray
    texts: np.ndarray
    """Of each piece, the number of its text."""

    def first_of(self, num_texts: int) -> np.ndarray:
        """Of each text, the number of its first piece; one more entry for the end."""
        return np.searchsorted(self.texts, np.arange(num_texts + 1))


CHARACTERS = 2**19
"""At a time: arrays over so many characters stay near the core, and everything goes two to five times as fast."""


def text_batches(texts: pa.Array | pa.ChunkedArray | Sequence[str], characters: int = CHARACTERS) -> Iterator[list[str]]:
    """The texts in order, in lists that end with the text that makes them so long.

    Raises: ValueError for a text that is null.
    """
    batch, length = [], 0
    for number, text in enumerate(texts.to_pylist() if hasattr(texts, "to_pylist") else texts):
        if text is None:
            raise ValueError(f"text {number} is null; drop it or make it empty")
        batch.append(text)
        length += len(text)
        if length >= characters:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def buffer(texts: pa.Array | pa.ChunkedArray | Sequence[str]) -> Buffer:
    """The code points of all texts."""
    strings = texts if isinstance(texts, list) else texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    if not strings:
        return Buffer(np.zeros(0, np.uint32), np.zeros(0, np.int64))
    joined = "\n".join(strings) + "\n"
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.fromiter(map(len, strings), np.int64, len(strings))
    return Buffer(points, np.cumsum(lengths + 1) - 1)


def lines(held: Buffer) -> Spans:
    """What str.split("\\n") gives of each text."""
    ends = np.flatnonzero(held.points == NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64) if len(ends) else ends
    return Spans(starts, ends, np.searchsorted(held.ends, starts))


@functools.cache
def folded(zero_digits: bool) -> np.ndarray:
    """Code point -> lower case without accents, digits as 0 if asked, and 0 for what is neither letter nor number."""
    table = np.arange(sys.maxunicode + 1, dtype=np.uint32)
    table[:_COMMON] = 0
    for point in range(_COMMON):
        character = chr(point)
        category = unicodedata.category(character)
        if category[0] == "N":
            table[point] = ord("0") if zero_digits and category == "Nd" else point
        elif category[0] == "L":
            plain = unicodedata.normalize("NFD", character) if not 0xAC00 <= point <= 0xD7A3 else character
            table[point] = ord(plain[0].lower()[0])
        elif category[0] == "M" and unicodedata.combining(character) == 0:
            table[point] = point  # vowel signs of Indic scripts are letters in all but name
    return table


@functools.cache
def word_classes() -> np.ndarray:
    """Code point -> 0 between words, 1 in a word, 2 a word of its own, 3 a mark that goes with what is before it."""
    table = np.full(sys.maxunicode + 1, 2, np.uint8)
    for point in range(_COMMON):
        category = unicodedata.category(chr(point))
        table[point] = {"L": 1, "N": 1, "M": 3}.get(category[0], 0)
    for first, last in _UNSPACED:
        table[first : last + 1][table[first : last + 1] == 1] = 2
    table[ord("_")] = 1
    return table


def look_up(table: np.ndarray, points: np.ndarray) -> np.ndarray:
    return table.take(points, mode="clip")  # never out of bounds, and NumPy is three times faster when it need not look


def words(held: Buffer) -> Spans:
    """Runs of letters, digits and marks; each character of a script without spaces is a word of its own."""
    classes = look_up(word_classes(), held.points)
    inside = classes != 0
    before = np.concatenate([[0], classes[:-1]]).astype(np.uint8) if len(classes) else classes
    begins = inside & ((before == 0) | (classes == 2) | ((classes == 1) & _after_single(classes)))
    ends_here = inside & np.concatenate([~inside[1:] | begins[1:], [True]]) if len(classes) else inside
    starts, ends = np.flatnonzero(begins), np.flatnonzero(ends_here) + 1
    return Spans(starts, ends, np.searchsorted(held.ends, starts))


def _after_single(classes: np.ndarray) -> np.ndarray:
    """Whether the last character before, marks aside, is a word of its own."""
    single = classes == 2
    after = np.concatenate([[False], single[:-1]])
    if (after & (classes == 3)).any():
        base = np.maximum.accumulate(np.where(classes != 3, np.arange(len(classes)), 0))
        after[1:] = single[base[:-1]]
    return after


def mix(keys: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which every bit of the result depends on every one given (MurmurHash3's finalizer)."""
    keys = np.array(keys, dtype=np.uint64)
    for constant in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        keys ^= keys >> np.uint64(33)
        keys *= np.uint64(constant)
    keys ^= keys >> np.uint64(33)
    return keys


@functools.cache
def _mixed() -> np.ndarray:
    """Code point -> its 64 mixed bits."""
    return mix(np.arange(1, sys.maxunicode + 2))


class Hasher:
    """64 bits of each of some pieces of a row: a polynomial in an odd multiplier over mixed symbols, by running sums modulo
    2**64, which are made once. Two different pieces of ordinary text agree with a probability of about 2**-64."""

    def __init__(self, symbols: np.ndarray):
        """Args:
            symbols: uint32 code points, or uint64 hashes.
        """
        terms = look_up(_mixed(), symbols) if symbols.dtype == np.uint32 else mix(symbols + np.uint64(1))
        terms *= _powers(_MULTIPLIER, len(symbols))
        self._sums = np.zeros(len(symbols) + 1, dtype=np.uint64)
        np.cumsum(terms, out=self._sums[1:])

    def __call__(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """uint64, of each piece `symbols[start:end]`."""
        if not len(starts):
            return np.zeros(0, np.uint64)
        shift_back = _powers(pow(_MULTIPLIER, -1, 2**64), len(self._sums))[starts]
        polynomial = (self._sums[ends] - self._sums[starts]) * shift_back
        return mix(polynomial + (ends - starts).astype(np.uint64) * np.uint64(_MULTIPLIER))


_POWERS: dict[int, np.ndarray] = {}


def _powers(base: int, length: int) -> np.ndarray:
    """base**0, base**1, ... modulo 2**64; kept, since every batch wants them."""
    held = _POWERS.get(base)
    if held is None or len(held) < length:
        held = np.full(max(length, 2**16), np.uint64(base))
        held[0] = 1
        _POWERS[base] = held = np.cumprod(held, dtype=np.uint64)
    return held[:length]


