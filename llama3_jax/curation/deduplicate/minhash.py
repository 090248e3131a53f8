"""MinHash signatures and their bands (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3).

Legend: N texts, H hashes of a signature, B bands.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from llama3_jax.curation.text_buffer import NEWLINE, buffer, folded, look_up, mix, text_batches, word_classes

_SPACE = 32
_NO_WIDTH = 0x7F
"""Stands for accents that are characters of their own, until they are taken out."""


@dataclass(frozen=True, kw_only=True)
class MinHash:
    """Two documents become candidates with probability 1 - (1 - s**(num_hashes / bands))**bands, where s is the Jaccard
    similarity of their sets of shingles.

    Section 3.1.1 says MinHash and prints no number. The defaults are ours, those of FineWeb (Penedo et al. 2024): half of
    the pairs at s = 0.69, 77% at 0.75, 92% at 0.8, 99.9% at 0.9; 0.1% at 0.3.
    """

    shingle_words: int = 5
    """Words in a row that make a shingle; a shorter text is one shingle."""
    num_hashes: int = 112
    bands: int = 14
    seed: int = 1

    def __post_init__(self):
        for name in ("shingle_words", "num_hashes", "bands"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")
        if self.num_hashes % self.bands:
            near = self.bands * max(1, round(self.num_hashes / self.bands))
            raise ValueError(f"num_hashes={self.num_hashes} do not split into {self.bands} bands; use {near}, say")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed}; use 0 <= seed < 2**32")

    def probability(self, jaccard: float) -> float:
        """That two documents of this similarity share a band."""
        return 1 - (1 - jaccard ** (self.num_hashes // self.bands)) ** self.bands


def signatures(texts: pa.Array | pa.ChunkedArray | Sequence[str], settings: MinHash) -> np.ndarray:
    """The signature of each text: uint32, [N, num_hashes]; by Daft's kernel over `spaced_words`.

    A text with fewer words than a shingle is one shingle; one without any word, say a row of dashes, is compared as it
    stands. So short texts agree only if they are the same. Two empty texts are the same.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # Daft reads it while it is imported
    from daft import Series

    signature_NH = [np.zeros((0, settings.num_hashes), np.uint32)]
    for batch in text_batches(texts):
        hashes = Series.from_arrow(spaced_words(batch), "text").minhash(
            num_hashes=settings.num_hashes, ngram_size=settings.shingle_words, seed=settings.seed, hash_function="xxhash3_64"
        )
        values = hashes.to_arrow()
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        signature_NH.append(values.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), settings.num_hashes))
    return np.concatenate(signature_NH)


def spaced_words(texts: Sequence[str]) -> pa.LargeStringArray:
    """Each text as its words with one space between them: in lower case, without accents, punctuation or symbols; each
    character of a script without spaces (Han, kana, Thai, Lao, Khmer, Myanmar) is a word, and so is an emoji.

    A text without words is itself, white space collapsed.
    """
    held = buffer(texts)
    if not len(held.ends):
        return pa.array([], pa.large_string())
    plain = look_up(_spaced(), held.points)
    plain[held.ends] = NEWLINE
    marks = plain == _NO_WIDTH
    if marks.any():
        plain = plain[~marks]
    blank = plain == _SPACE
    spare = blank.copy()  # all but the first space in a row after a word
    spare[1:] &= blank[:-1] | (plain[:-1] == NEWLINE)
    plain = plain[~spare]
    classes = look_up(word_classes(), plain)
    single = classes == 2
    if single.any():
        inside = classes != 0
        beside = (single[1:] | single[:-1]) & inside[1:] & inside[:-1] & (classes[1:] != 3)
        plain = np.insert(plain, np.flatnonzero(beside) + 1, _SPACE)
    data = np.frombuffer(plain.tobytes().decode("utf-32-le").encode(), np.uint8)
    closing = np.flatnonzero(data == NEWLINE)
    stays = data != NEWLINE
    trailing = closing[data[closing - 1] == _SPACE] - 1
    stays[trailing] = False
    offsets = np.concatenate([[0], np.cumsum(stays)[closing]])
    words = pa.LargeStringArray.from_buffers(len(closing), pa.py_buffer(offsets), pa.py_buffer(data[stays]))
    wordless = np.flatnonzero(np.diff(offsets) == 0)
    if len(wordless):
        strings = words.to_pylist()
        for row in wordless.tolist():
            strings[row] = " ".join(texts[row].split()).encode("utf-8", "backslashreplace").decode()
        words = pa.array(strings, pa.large_string())
    return words


def band_keys(signature_NH: np.ndarray, settings: MinHash, languages: Sequence[str]) -> np.ndarray:
    """64 bits of each band of each signature, with its number and the document's language: uint64, [N, bands].

    Among the 2e11 keys of 15e9 documents in 14 bands, about 1,200 pairs agree in 64 bits without having the same band:
    one document in six million gains a stranger. 128 bits would double the shuffle.

    Args:
        signature_NH: uint32, as `signatures` makes them with the same settings.
    """
    num_texts, num_hashes = signature_NH.shape
    if num_hashes != settings.num_hashes or num_texts != len(languages):
        raise ValueError(
            f"signatures of shape {signature_NH.shape} for {len(languages)} languages and num_hashes={settings.num_hashes}; "
            "use the settings that made the signatures, and a language for each"
        )
    rows = num_hashes // settings.bands
    salts = {name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") for name in set(languages)}
    salt_N = np.array([salts[language] for language in languages], np.uint64)
    key_NB = salt_N[:, None] ^ mix(np.arange(1, settings.bands + 1))
    for row in range(rows):
        key_NB = mix(key_NB ^ mix(signature_NH[:, row::rows].astype(np.uint64) + np.uint64((row + 1) << 32)))
    return key_NB


@functools.cache
def _spaced() -> np.ndarray:
    """Code point -> lower case without accents, a space for what is in no word."""
    table, classes = folded(False).copy(), word_classes()
    table[(table == 0) & (classes != 0)] = _NO_WIDTH
    table[0xFE00:0xFE10] = _NO_WIDTH  # variation selectors, which follow symbols
    table[ord("_")] = ord("_")
    table[classes == 0] = _SPACE
    return table
