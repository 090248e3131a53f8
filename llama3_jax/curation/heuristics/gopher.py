"""Rules of quality of Gopher (Rae et al. 2021, section A1.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llama3_jax.curation.heuristics.batch import Batch
from llama3_jax.curation.heuristics.rule import Rule

_BULLETS = np.array([ord(sign) for sign in "-*\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013"])


@dataclass(frozen=True, kw_only=True)
class GopherQuality:
    """Published numbers; null switches a rule off. `stop_words` are English: give other languages their own."""

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3.0
    """Characters."""
    max_mean_word_length: float | None = 10.0
    max_symbols_per_word: float | None = 0.1
    """Of # and of ellipses each."""
    max_bullet_lines: float | None = 0.9
    """Share of lines that begin with a bullet."""
    max_ellipsis_lines: float | None = 0.3
    """Share of lines that end with an ellipsis."""
    min_alphabetic_words: float | None = 0.8
    """Share of words with a letter."""
    min_stop_words: int | None = 2
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")


def gopher_quality_rules(batch: Batch, settings: GopherQuality) -> Iterator[Rule]:
    name = "gopher_quality"
    points = batch.held.points
    yield Rule(f"{name}.words", batch.num_words, settings.min_words, settings.max_words)
    yield Rule(
        f"{name}.mean_word_length", batch.share(batch.word_characters, batch.num_words), settings.min_mean_word_length,
        settings.max_mean_word_length,
    )  # fmt: skip
    dots = points == ord(".")
    three = np.zeros(len(points), bool)
    three[2:] = dots[2:] & dots[1:-1] & dots[:-2]
    ellipses = batch.characters(np.flatnonzero((points == 0x2026) | (three & ~np.concatenate([[False], three[:-1]]))))
    hashes = batch.characters(np.flatnonzero(points == ord("#")))
    yield Rule(f"{name}.hashes_per_word", batch.share(hashes, batch.num_words), at_most=settings.max_symbols_per_word)
    yield Rule(f"{name}.ellipses_per_word", batch.share(ellipses, batch.num_words), at_most=settings.max_symbols_per_word)
    first, last = batch.first_of_lines, batch.last_of_lines
    full = first != 10
    num_lines = batch.per_text(batch.lines, full)
    bullets = batch.per_text(batch.lines, full & np.isin(first, _BULLETS))
    yield Rule(f"{name}.bullet_lines", batch.share(bullets, num_lines), at_most=settings.max_bullet_lines)
    ends = batch.lines.ends
    dotted = (last == 0x2026) | (full & (ends >= 3) & three[np.maximum(ends - 1, 0)])
    yield Rule(f"{name}.ellipsis_lines", batch.share(batch.per_text(batch.lines, dotted & full), num_lines),
               at_most=settings.max_ellipsis_lines)  # fmt: skip
    alphabetic = batch.per_text(batch.words, _have_a_letter(batch))
    yield Rule(f"{name}.alphabetic_words", batch.share(alphabetic, batch.num_words), at_least=settings.min_alphabetic_words)
    yield Rule(f"{name}.stop_words", batch.per_text(batch.words, np.isin(batch.word_hashes, word_keys(settings.stop_words))),
               at_least=settings.min_stop_words)  # fmt: skip


def _have_a_letter(batch: Batch) -> np.ndarray:
    """Which words have a letter; most begin with one, and only the others are looked at further."""
    starts, ends = batch.words.starts, batch.words.ends
    found = batch.symbols[starts] > ord("9")
    rest = np.flatnonzero(~found)
    letters = np.append(np.flatnonzero(batch.symbols > ord("9")), len(batch.symbols))
    found[rest] = letters[np.searchsorted(letters, starts[rest])] < ends[rest]
    return found


def word_keys(listed: tuple[str, ...]) -> np.ndarray:
    """The hashes that `Batch.word_hashes` has for these words."""
    return Batch(listed).word_hashes
