"""How much of a document it says more than once (Llama 3, section 3.1.1; Rae et al. 2021, table A1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llama3_jax.curation.heuristics.batch import Batch, ngrams, repeated
from llama3_jax.curation.heuristics.rule import Rule
from llama3_jax.curation.text_buffer import Hasher


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """Duplicated n-gram coverage with digits alike, which finds the repeated lines of logs and error messages that line
    deduplication does not, since each is unique. The paper prints neither n nor a threshold: these are ours."""

    ngram_words: int = 8
    max_coverage: float | None = 0.35
    """Share of the characters of words that lie in an n-gram said before in the document."""
    max_line_share: float | None = 0.4
    """Share of the characters that stand on lines said before, digits alike; of documents of at least `min_lines`. Not of the
    lines: who speaks in a play is named again and again, and nearly every program has more than one brace."""
    min_lines: int = 10

    def __post_init__(self):
        if self.ngram_words < 1:
            raise ValueError(f"ngram_words={self.ngram_words}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class GopherRepetition:
    """The rules of Rae et al. 2021, table A1, on words instead of their tokens; null switches one off."""

    duplicate_lines: float | None = 0.30
    duplicate_paragraphs: float | None = 0.30
    duplicate_line_characters: float | None = 0.20
    duplicate_paragraph_characters: float | None = 0.20
    top_ngrams: Mapping[str, float] = field(default_factory=lambda: {"2": 0.20, "3": 0.18, "4": 0.16})
    """n -> share of characters in the most frequent n-gram."""
    duplicate_ngrams: Mapping[str, float] = field(
        default_factory=lambda: {"5": 0.15, "6": 0.14, "7": 0.13, "8": 0.12, "9": 0.11, "10": 0.10}
    )
    """n -> share of characters in n-grams that occur more than once."""

    def __post_init__(self):
        for name in ("top_ngrams", "duplicate_ngrams"):
            for n in getattr(self, name):
                if not n.isdigit() or int(n) < 1:
                    raise ValueError(f"{name} has the key {n!r}; use numbers of words, 1 or more")


def repetition_rules(batch: Batch, settings: Repetition) -> Iterator[Rule]:
    keys, first = ngrams(batch.word_hashes, batch.words.texts, settings.ngram_words)
    _, before = repeated(keys, batch.words.texts[first])
    coverage = batch.share(_covered(batch, first[before], settings.ngram_words), batch.word_characters)
    yield Rule("repetition.coverage", coverage, at_most=settings.max_coverage)

    full, hashes = _folded_lines(batch)
    texts, lengths = batch.lines.texts[full], (batch.lines.ends - batch.lines.starts)[full]
    _, before = repeated(hashes, texts)
    share = batch.share(np.bincount(texts, before * lengths, batch.count), np.bincount(texts, lengths, batch.count))
    share[np.bincount(texts, minlength=batch.count) < settings.min_lines] = np.nan
    yield Rule("repetition.line_share", share, at_most=settings.max_line_share)


def gopher_repetition_rules(batch: Batch, settings: GopherRepetition) -> Iterator[Rule]:
    name = "gopher_repetition"
    spans, hashes = batch.lines, batch.line_hashes
    full = spans.ends > spans.starts
    yield from _duplicates(
        batch, f"{name}.duplicate_line", hashes[full], spans.texts[full], (spans.ends - spans.starts)[full],
        settings.duplicate_lines, settings.duplicate_line_characters,
    )  # fmt: skip
    paragraph = full & np.concatenate([[True], ~full[:-1] | (spans.texts[1:] != spans.texts[:-1])]) if len(full) else full
    keys, texts, lengths = _paragraphs(spans, hashes, full, paragraph)
    yield from _duplicates(
        batch, f"{name}.duplicate_paragraph", keys, texts, lengths,
        settings.duplicate_paragraphs, settings.duplicate_paragraph_characters,
    )  # fmt: skip
    for n, first, counts, before in _repeated_ngrams(
        batch, sorted({int(n) for n in (*settings.top_ngrams, *settings.duplicate_ngrams)})
    ):
        if str(n) in settings.top_ngrams:
            yield Rule(f"{name}.top_{n}_gram", _top_ngram(batch, n, first, counts, before), at_most=settings.top_ngrams[str(n)])
        if str(n) in settings.duplicate_ngrams:
            share = batch.share(_covered(batch, first[before], n), batch.word_characters)
            yield Rule(f"{name}.duplicate_{n}_grams", share, at_most=settings.duplicate_ngrams[str(n)])


def _repeated_ngrams(batch: Batch, sizes: Sequence[int]) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each size the n-grams that may be repeated: their first words, how often each occurs, whether it did before.

    What is repeated in n words is so in its first and its last n - 1.
    """
    hashes, texts = batch.exact_word_hashes, batch.words.texts
    begins: np.ndarray | None = None
    for n in sizes:
        keys, first = ngrams(hashes, texts, n, begins)
        counts, before = repeated(keys, texts[first])
        yield n, first, counts, before
        often = np.zeros(len(hashes) + 1, bool)
        often[first[counts > 1]] = True
        begins = np.flatnonzero(often[:-1] & often[1:])


def _duplicates(batch: Batch, name: str, keys, texts, lengths, of_number: float | None, of_characters: float | None):
    _, before = repeated(keys, texts)
    count = np.bincount(texts, minlength=batch.count)
    yield Rule(f"{name}s", batch.share(np.bincount(texts, before, batch.count), count), at_most=of_number)
    said = np.bincount(texts, before * lengths, batch.count)
    yield Rule(f"{name}_characters", batch.share(said, np.bincount(texts, lengths, batch.count)), at_most=of_characters)


def _paragraphs(spans, hashes, full, begins):
    """Runs of lines that are not empty: hash, document, characters of each."""
    number = np.cumsum(begins)[full] - 1
    total = int(begins.sum())
    place = np.arange(len(number)) - np.concatenate([[0], np.cumsum(np.bincount(number, minlength=total))])[number]
    mixed = hashes[full] * (np.uint64(2) * place.astype(np.uint64) + np.uint64(1))
    keys = np.zeros(total, np.uint64)
    np.add.at(keys, number, mixed)
    lengths = np.bincount(number, (spans.ends - spans.starts)[full], total)
    return keys, spans.texts[begins], lengths


def _top_ngram(batch: Batch, n: int, first: np.ndarray, counts: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Characters of the most frequent n-gram times its occurrences, over all of words; nothing where none is repeated."""
    texts = batch.words.texts[first]
    lengths = np.concatenate([[0], np.cumsum(batch.word_lengths)])
    size = lengths[first + n] - lengths[first]
    most = np.zeros(batch.count, np.int64)
    np.maximum.at(most, texts, counts)
    top = (counts == most[texts]) & (counts > 1) & ~before
    covered = np.zeros(batch.count)
    np.maximum.at(covered, texts[top], (counts * size)[top].astype(np.float64))
    return batch.share(covered, batch.word_characters)


def _covered(batch: Batch, first: np.ndarray, n: int) -> np.ndarray:
    """Characters of words that lie in an n-gram which begins at one of these words."""
    if not len(first):
        return np.zeros(batch.count)
    change = np.zeros(len(batch.word_lengths) + 1, np.int8)
    change[first] += 1  # each word begins one n-gram at most, and ends one
    change[first + n] -= 1
    inside = np.cumsum(change[:-1], dtype=np.int32) > 0
    return batch.per_text(batch.words, batch.word_lengths * inside)


def _folded_lines(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Which lines have words, and 64 bits of those of each such, digits alike."""
    first, after = batch.words_of_lines
    full = after > first
    return full, Hasher(batch.word_hashes)(first[full], after[full])
