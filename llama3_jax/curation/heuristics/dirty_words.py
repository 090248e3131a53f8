"""Counts of listed words, against adult sites that no block list has (section 3.1.1)."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llama3_jax.curation.heuristics.batch import Batch, ngrams
from llama3_jax.curation.heuristics.rule import Rule


@dataclass(frozen=True, kw_only=True)
class DirtyWords:
    """Neither list nor threshold is printed: bring your lists; the thresholds are ours. Null switches one off."""

    lists: Mapping[str, str]
    """Language -> a UTF-8 file of one word or phrase a line; a language without a list is not judged."""
    max_share: float | None = 0.01
    """Of the words of a document."""
    max_count: int | None = None
    """Whatever the length of the document; only of use where no source has books."""


def dirty_word_rules(batch: Batch, settings: DirtyWords, language: str) -> Iterator[Rule]:
    path = settings.lists.get(language)
    counts = np.full(batch.count, np.nan) if path is None else _counts(batch, _keys(path, Path(path).stat().st_mtime_ns))
    yield Rule("dirty_words.share", batch.share(counts, batch.num_words), at_most=settings.max_share)
    yield Rule("dirty_words.count", counts, at_most=settings.max_count)


@functools.lru_cache(maxsize=64)
def _keys(path: str, version: int) -> Mapping[int, np.ndarray]:
    """Number of words -> the hashes of all phrases that long; `version` is another when the file is.

    Raises: FileNotFoundError, ValueError with the path.
    """
    phrases = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    keys: dict[int, list[np.uint64]] = {}
    for phrase in phrases:
        batch = Batch([unicodedata.normalize("NFC", phrase)])
        length = len(batch.word_hashes)
        if length:
            key, _ = ngrams(batch.word_hashes, batch.words.texts, length)
            keys.setdefault(length, []).append(key[0])
    if not keys:
        raise ValueError(f"{path} lists no word; write one word or phrase a line")
    return {length: np.unique(np.array(found, np.uint64)) for length, found in keys.items()}


def _counts(batch: Batch, keys: Mapping[int, np.ndarray]) -> np.ndarray:
    counts = np.zeros(batch.count)
    for length, listed in keys.items():
        found, first = ngrams(batch.word_hashes, batch.words.texts, length)
        place = np.minimum(np.searchsorted(listed, found), len(listed) - 1)
        counts += np.bincount(batch.words.texts[first], listed[place] == found, batch.count)
    return counts
