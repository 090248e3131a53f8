"""Documents that hold evaluation sets: n-grams of words that both have."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llama3_jax.curation.text_buffer import Hasher, buffer, folded, look_up, text_batches, word_classes, words

_PARTS = 4
_QUARTERS = [block >> 7 for block in (0x0E00, 0x0E80, 0x1000, 0x1080, 0x1780)]
"""Thai, Lao, Myanmar and Khmer, by blocks of 128 code points."""


@dataclass(frozen=True, kw_only=True)
class Contamination:
    """When a document counts as contaminated. Section 5.1.4 measures contamination with 8-grams; that training documents are
    left out for sharing a 13-gram with an evaluation is GPT-3's practice (Brown et al. 2020, appendix C), though GPT-3 cuts
    a window where this leaves out the document. The bounds are ours."""

    long_ngram: int = 13
    """Words. An evaluation text that has fewer, but more than `short_ngram`, counts as one n-gram: as many of its words as
    are whole ones."""
    max_long_matches: int | None = 0
    """Places in a document where such an n-gram of an evaluation set may stand; null: any number."""
    short_ngram: int = 8
    """Words. An evaluation text that has fewer matches nothing: too many documents have a short answer somewhere."""
    max_short_share: float | None = 0.5
    """Share of a document's words that may lie in n-grams of this length that an evaluation set has too; null: all."""
    max_texts: int | None = 10
    """Different evaluation texts that may have an n-gram; what more have is the form of a question and says nothing of
    its content. Null: any number."""

    def __post_init__(self):
        if not 1 <= self.short_ngram <= self.long_ngram:
            raise ValueError(f"short_ngram={self.short_ngram}, long_ngram={self.long_ngram}; use 1 <= short <= long")
        if self.max_long_matches is not None and self.max_long_matches < 0:
            raise ValueError(f"max_long_matches={self.max_long_matches}; use 0 or more, or null for any number")
        if self.max_short_share is not None and not 0 <= self.max_short_share <= 1:
            raise ValueError(f"max_short_share={self.max_short_share} is a share; use 0 to 1, or null for all")
        if self.max_texts is not None and self.max_texts < 1:
            raise ValueError(f"max_texts={self.max_texts}; use 1 or more, or null for any number")


class EvaluationIndex:
    """The n-grams of evaluation sets: of each length, sorted 64-bit keys and the number of the set of each.

    With ten million keys, some five n-grams of a corpus of 1e13 words are taken for one that they are not.
    """

    def __init__(self, keys: Mapping[int, np.ndarray], sets: Mapping[int, np.ndarray], names: Sequence[str]):
        self.keys, self.sets, self.names = keys, sets, list(names)

    @classmethod
    def of(cls, texts: Mapping[str, Sequence[str]], settings: Contamination) -> EvaluationIndex:
        """Of the texts of each evaluation set, by its name. Of an n-gram in several sets, the first by name is told.

        An n-gram with more numbers than words is left out: 1, 2, 3, ... is in every table and says nothing.
        """
        names, distinct = sorted(texts), {}
        for number, name in enumerate(names):
            for text in texts[name]:
                distinct.setdefault(text, number)
        set_of_text = np.fromiter(distinct.values(), np.int32, len(distinct))
        found: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}
        for first_text, batch in _numbered_batches(list(distinct)):
            for length in range(settings.short_ngram, settings.long_ngram + 1):
                begin = None
                if length not in (settings.short_ngram, settings.long_ngram):
                    _, begin = np.unique(batch.texts, return_index=True)
                    begin = begin[batch.size_of_text[batch.texts[begin]] // _PARTS == length]
                keys, start, end = batch.ngrams(length, begin)
                telling = 2 * (batch.letters_before[end] - batch.letters_before[start]) >= end - start
                keys, start = keys[telling], start[telling]
                of_length = found.setdefault(length, ([], []))
                of_length[0].append(keys)
                of_length[1].append(batch.texts[start] + first_text)
        keys_of, sets_of = {}, {}
        for length, (keys, numbers) in found.items():
            pairs = np.unique(_pairs(np.concatenate(keys), np.concatenate(numbers)))
            kept, first, count = np.unique(pairs["key"], return_index=True, return_counts=True)
            rare = count <= (settings.max_texts or len(distinct))
            keys_of[length], sets_of[length] = kept[rare], set_of_text[pairs["text"][first[rare]]]
        return cls(keys_of, sets_of, names)

    def look_up(self, length: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the keys are those of n-grams of this length, and the set of each that is."""
        listed, table = self.keys[length], self._tables.get(length)
        if table is None:
            return np.zeros(0, np.int64), np.zeros(0, np.int32)
        maybe = np.flatnonzero(table[(keys & np.uint64(len(table) - 1)).astype(np.int64)])
        place = np.minimum(np.searchsorted(listed, keys[maybe]), len(listed) - 1)
        hit = listed[place] == keys[maybe]
        return maybe[hit], self.sets[length][place[hit]]

    @functools.cached_property
    def _tables(self) -> dict[int, np.ndarray]:
        """Of each length, whether a key may have these low bits: spares nearly every word the search."""
        tables = {}
        for length, keys in self.keys.items():
            if len(keys):
                tables[length] = np.zeros(1 << (16 * len(keys)).bit_length(), bool)
                tables[length][(keys & np.uint64(len(tables[length]) - 1)).astype(np.int64)] = True
        return tables


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """What each document shares with the evaluation sets."""

    long_matches: np.ndarray
    """float64, places where an n-gram of `long_ngram` words, or a whole shorter evaluation text, stands."""
    short_share: np.ndarray
    """float64, share of words that lie in shared n-grams of `short_ngram` words; 0 for no words."""
    longest: np.ndarray
    """int64, most words in a row that lie in shared n-grams of any length."""
    sets: list[str]
    """The evaluation set of the first match of the longest n-gram that matches; empty for none."""

    def reasons(self, settings: Contamination) -> tuple[list[str | None], np.ndarray]:
        """Why each document is left out (None: it is not), and what was measured (NaN)."""
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
    """What each document shares with the evaluation sets; it depends on the document alone.

    Words are compared in lower case, without accents and punctuation. In scripts without spaces, so many characters are taken
    for a word: two of Han and kana, four of Thai, Lao, Khmer and Myanmar (marks aside). That is ours; with one, unrelated
    Thai pages share a 13-gram with XQuAD.
    """
    parts = [_overlap(batch, index, settings) for _, batch in _numbered_batches(texts)]
    long_matches, short_share, longest, sets = zip(*parts, strict=True) if parts else ((), (), (), ())
    return Overlap(
        long_matches=np.concatenate([np.zeros(0), *long_matches]),
        short_share=np.concatenate([np.zeros(0), *short_share]),
        longest=np.concatenate([np.zeros(0, np.int64), *longest]),
        sets=[index.names[number] if number >= 0 else "" for number in np.concatenate([np.zeros(0, np.int64), *sets]).tolist()],
    )


class _Words:
    """The words of a batch of texts, one after another."""

    def __init__(self, texts: Sequence[str]):
        held = buffer(texts)
        found = words(held)
        symbols = look_up(folded(False), held.points)
        counts = symbols != 0  # accents that are characters of their own do not count
        before = np.concatenate([[0], np.cumsum(counts)])
        starts, ends = before[found.starts], before[found.ends]
        full = ends > starts
        self.hashes = Hasher(symbols[counts])(starts[full], ends[full])
        self.texts = found.texts[full]
        """Of each word, the number of its text."""
        self.sizes = _sizes(held.points[found.starts[full]])
        """Of each word, in quarters of a word."""
        self.size_of_text = np.bincount(self.texts, self.sizes, len(texts)).astype(np.int64)
        digits = look_up(folded(True), held.points[found.starts[full]]) == ord("0")
        self.letters_before = np.concatenate([[0], np.cumsum(~digits)])
        """Up to each word, how many begin with no digit."""

    def ngrams(self, length: int, start: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pieces of a text that have so many words: of each 64 bits, its first word and the word behind its last.

        Args:
            start: where to begin; None for everywhere.
        """
        start = np.arange(len(self.texts)) if start is None else start
        if self._plain:
            end = start + length
        else:
            end = np.searchsorted(self._size_before, self._size_before[start] + _PARTS * length)
        inside = end <= len(self.texts)
        start, end = start[inside], end[inside]
        inside = self.texts[start] == self.texts[end - 1]
        start, end = start[inside], end[inside]
        return Hasher(self.hashes)(start, end), start, end

    @functools.cached_property
    def _plain(self) -> bool:
        return bool((self.sizes == _PARTS).all())

    @functools.cached_property
    def _size_before(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.sizes)])

    def per_text(self, chosen: np.ndarray) -> np.ndarray:
        """Of each text the size of the chosen words."""
        return np.bincount(self.texts[chosen], self.sizes[chosen], len(self.size_of_text)).astype(np.int64)


def _sizes(points: np.ndarray) -> np.ndarray:
    """Of words that begin with these code points: in scripts without spaces a character is half or a quarter of a word."""
    sizes = np.full(len(points), _PARTS)
    alone = (look_up(word_classes(), points) == 2) & (points < 0x1F000)
    if alone.any():
        block = points >> 7
        sizes[alone] = 2
        sizes[alone & np.isin(block, _QUARTERS)] = 1
    return sizes


def _overlap(
    batch: _Words, index: EvaluationIndex, settings: Contamination
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    count = len(batch.size_of_text)
    long_matches, short_size, sets = np.zeros(count), np.zeros(count, np.int64), np.full(count, -1)
    covered = np.zeros(len(batch.texts), bool)
    for length in sorted(index.keys, reverse=True):
        keys, start, end = batch.ngrams(length)
        hit, of_set = index.look_up(length, keys)
        if not len(hit):
            continue
        texts, of_length = batch.texts[start[hit]], _cover(len(batch.texts), start[hit], end[hit])
        covered |= of_length
        if length == settings.short_ngram:
            short_size = batch.per_text(of_length)
        if length > settings.short_ngram or length == settings.long_ngram:
            long_matches += np.bincount(texts, minlength=count)
        _, first = np.unique(texts, return_index=True)
        first = first[sets[texts[first]] < 0]
        sets[texts[first]] = of_set[first]
    return long_matches, short_size / np.maximum(1, batch.size_of_text), _longest(covered, batch), sets


def _cover(num_words: int, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Which words lie in pieces from `start` to before `end`."""
    change = np.zeros(num_words + 1, np.int64)
    np.add.at(change, start, 1)
    np.add.at(change, end, -1)
    return np.cumsum(change[:-1]) > 0


def _longest(covered: np.ndarray, batch: _Words) -> np.ndarray:
    """Of each text, the most covered words in a row."""
    longest = np.zeros(len(batch.size_of_text), np.int64)
    places = np.flatnonzero(covered)
    if len(places):
        begins = np.ones(len(places), bool)
        begins[1:] = (np.diff(places) != 1) | (np.diff(batch.texts[places]) != 0)
        first = np.flatnonzero(begins)
        np.maximum.at(longest, batch.texts[places[first]], np.add.reduceat(batch.sizes[places], first))
    return longest // _PARTS


def _numbered_batches(texts: Sequence[str]) -> Iterator[tuple[int, _Words]]:
    first = 0
    for batch in text_batches(texts):
        yield first, _Words(batch)
        first += len(batch)


def _pairs(keys: np.ndarray, texts: np.ndarray) -> np.ndarray:
    pairs = np.empty(len(keys), [("key", np.uint64), ("text", np.int64)])
    pairs["key"], pairs["text"] = keys, texts
    return pairs
