"""Documents that hold evaluation sets: n-grams of words that both have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llama3_jax.curation.heuristics.batch import Batch, ngrams


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """When a document counts as contaminated. Section 5.1.4 measures with 8-grams; that documents are left out of training
    by 13-grams is GPT-3's practice (Brown et al. 2020, appendix C). The bounds are ours."""

    long_ngram: int = 13
    """Words; an evaluation text that is shorter counts as one n-gram of its own length, from `short_ngram` words on."""
    max_long_matches: int | None = 0
    """n-grams of this length that a document may share with an evaluation set."""
    short_ngram: int = 8
    max_short_share: float | None = 0.5
    """Share of a document's words that may lie in shared n-grams of this length."""

    def __post_init__(self):
        if not 1 <= self.short_ngram <= self.long_ngram:
            raise ValueError(f"short_ngram={self.short_ngram}, long_ngram={self.long_ngram}; use 1 <= short <= long")


class EvaluationIndex:
    """The n-grams of evaluation sets: sorted keys of each length with the number of their set."""

    def __init__(self, keys: Mapping[int, np.ndarray], sets: Mapping[int, np.ndarray], names: Sequence[str]):
        self.keys, self.sets, self.names = keys, sets, list(names)

    @classmethod
    def of(cls, texts: Mapping[str, Sequence[str]], settings: Contamination) -> EvaluationIndex:
        """Of the texts of each evaluation set, by its name. Of an n-gram in several sets, the first is named."""
        keys: dict[int, list[np.ndarray]] = {}
        sets: dict[int, list[np.ndarray]] = {}
        for number, name in enumerate(sorted(texts)):
            batch = Batch(list(texts[name]))
            spans, hashes = batch.words.texts, batch.word_hashes
            lengths = batch.num_words.astype(int)
            wanted = {settings.short_ngram: lengths >= settings.short_ngram, settings.long_ngram: lengths >= settings.long_ngram}
            for length in range(settings.short_ngram, settings.long_ngram):
                wanted[length] = wanted.get(length, False) | (lengths == length)
            for length, chosen in wanted.items():
                found, first = ngrams(hashes, spans, length)
                found = found[chosen[spans[first]]] if len(found) else found
                keys.setdefault(length, []).append(found)
                sets.setdefault(length, []).append(np.full(len(found), number, np.int32))
        merged_keys, merged_sets = {}, {}
        for length in keys:
            merged_keys[length], first = np.unique(np.concatenate(keys[length]), return_index=True)
            merged_sets[length] = np.concatenate(sets[length])[first]
        return cls(merged_keys, merged_sets, sorted(texts))


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Of each document: shared n-grams of the long length, share of words in shared short ones, the set of the first."""

    long_matches: np.ndarray
    short_share: np.ndarray
    sets: list[str]

    def reasons(self, settings: Contamination) -> tuple[list[str | None], np.ndarray]:
        """Why each document is rejected, and the measure."""
        reasons: list[str | None] = [None] * len(self.sets)
        values = np.full(len(self.sets), np.nan)
        for name, measured, most in (
            ("long_ngrams", self.long_matches, settings.max_long_matches),
            ("short_ngrams", self.short_share, settings.max_short_share),
        ):
            if most is not None:
                for row in np.flatnonzero(measured > most).tolist():
                    if reasons[row] is None:
                        reasons[row], values[row] = f"contamination.{name}", measured[row]
        return reasons, values


def overlap(texts: Sequence[str], index: EvaluationIndex, settings: Contamination) -> Overlap:
    """What each document shares with the evaluation sets."""
    batch = Batch(texts)
    long_matches, short_share = np.zeros(batch.count), np.zeros(batch.count)
    first_set = np.full(batch.count, -1)
    for length in sorted(index.keys, reverse=True):
        listed = index.keys[length]
        keys, first = ngrams(batch.word_hashes, batch.words.texts, length)
        if not len(listed) or not len(keys):
            continue
        place = np.minimum(np.searchsorted(listed, keys), len(listed) - 1)
        hit = listed[place] == keys
        rows = batch.words.texts[first[hit]]
        if length == settings.short_ngram:
            change = np.zeros(len(batch.words.texts) + 1, np.int64)
            np.add.at(change, first[hit], 1)
            np.add.at(change, first[hit] + length, -1)
            covered = batch.per_text(batch.words, np.cumsum(change[:-1]) > 0)
            short_share = np.nan_to_num(batch.share(covered, batch.num_words))
        if length != settings.short_ngram or settings.short_ngram == settings.long_ngram:
            long_matches += np.bincount(rows, minlength=batch.count)
        unnamed = first_set[rows] < 0
        first_set[rows[unnamed][::-1]] = index.sets[length][place[hit]][unnamed][::-1]
    names = [index.names[number] if number >= 0 else "" for number in first_set.tolist()]
    return Overlap(long_matches=long_matches, short_share=short_share, sets=names)
