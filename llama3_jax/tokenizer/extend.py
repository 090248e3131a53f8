"""More tokens for a vocabulary that exists, learnt on languages it splits badly, without a change to those it splits well.

Section 3.2: 28,000 tokens on top of 100,000 support other languages better and leave English as it was. How is not printed;
this is ours. New merges begin where the old ranks end, so they join what the old merges leave. A merge is not learnt if it joins
two tokens that stand side by side in a piece of protected text: every protected piece then keeps its ids. Nor can it become one
token that was learnt inside another word, since between two tokens it is cut as it is alone. `changed` counts on any text which
do not.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import tiktoken

from llama3_jax.tokenizer.bpe import SPLIT_PATTERN

Pair = tuple[int, int]


def extend(base: Sequence[bytes], words: Mapping[str, int], protected: Collection[str], num_new: int) -> list[bytes]:
    """The tokens of `base`, and `num_new` that the most frequent merges of `words` give, in rank order.

    Deterministic. Args:
        words: pieces of text to be split better, with counts (`words.count_words`).
        protected: pieces whose ids stay as they are.
    Raises: ValueError if the words give fewer merges.
    """
    encode = _encoder(base)
    merging = _Merging(base, [(encode(word), count) for word, count in sorted(words.items())])
    kept_pairs: set[Pair] = set()
    for piece in protected:
        ids = encode(piece)
        kept_pairs.update(zip(ids, ids[1:], strict=False))
    for pair in merging.most_frequent():
        if len(merging.tokens) == len(base) + num_new:
            break
        if pair not in kept_pairs:
            merging.merge(pair)
    if len(merging.tokens) < len(base) + num_new:
        raise ValueError(
            f"the texts gave {len(merging.tokens) - len(base)} new merges, {num_new} are asked for; give more text that is not "
            "protected, or ask for fewer"
        )
    return merging.tokens


def changed(before: Sequence[bytes], after: Sequence[bytes], words: Mapping[str, int]) -> tuple[int, int]:
    """(pieces whose ids differ, pieces altogether), both as often as they occur."""
    old, new = _encoder(before), _encoder(after)
    return sum(count for word, count in words.items() if old(word) != new(word)), sum(words.values())


def _encoder(tokens: Sequence[bytes]):
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("extended", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return encoding.encode_ordinary


class _Merging:
    """Words as sequences of tokens, the counts of neighbours in them, and where each pair of neighbours stands."""

    def __init__(self, base: Sequence[bytes], words: list[tuple[list[int], int]]):
        self.tokens = list(base)
        self._known = {token: number for number, token in enumerate(base)}
        self._ids, self._counts = [ids for ids, _ in words], [count for _, count in words]
        self._pairs: dict[Pair, int] = defaultdict(int)
        self._places: dict[Pair, set[int]] = defaultdict(set)
        for place, ids in enumerate(self._ids):
            self._add(place, ids, +1)
        self._heap = [self._entry(pair) for pair in self._pairs]
        heapq.heapify(self._heap)

    def _joined(self, pair: Pair) -> bytes:
        return self.tokens[pair[0]] + self.tokens[pair[1]]

    def most_frequent(self) -> Iterator[Pair]:
        """Pairs, the most frequent first, among equals by their bytes; each once at its count, so one that is passed over
        does not come again unless its count changes."""
        while self._heap:
            count, _, pair = heapq.heappop(self._heap)
            if self._pairs.get(pair, 0) == -count:
                yield pair

    def merge(self, pair: Pair) -> None:
        """Makes a token of a pair, everywhere.

        Neighbours that now spell a token that was known but out of reach become that one at once, as encoding will have it.
        """
        self._replace(pair, len(self.tokens))

    def _replace(self, pair: Pair, number: int) -> None:
        token = self._joined(pair)
        if number == len(self.tokens):
            self.tokens.append(token)
            self._known[token] = number
        touched: set[Pair] = set()
        for place in self._places.pop(pair):
            ids = self._ids[place]
            self._add(place, ids, -1, touched)
            self._ids[place] = _replaced(ids, pair, number)
            self._add(place, self._ids[place], +1, touched)
        for each in sorted(touched):
            if self._pairs.get(each, 0) <= 0:
                self._pairs.pop(each, None)
                self._places.pop(each, None)
        for each in sorted(touched & self._pairs.keys()):
            if each in self._pairs and (known := self._known.get(self._joined(each))) is not None:
                self._replace(each, known)
            elif each in self._pairs:
                heapq.heappush(self._heap, self._entry(each))

    def _add(self, place: int, ids: list[int], sign: int, touched: set[Pair] | None = None) -> None:
        for pair in zip(ids, ids[1:], strict=False):
            self._pairs[pair] += sign * self._counts[place]
            (self._places[pair].add if sign > 0 else self._places[pair].discard)(place)
            if touched is not None:
                touched.add(pair)

    def _entry(self, pair: Pair) -> tuple[int, bytes, Pair]:
        return -self._pairs[pair], self._joined(pair), pair


def _replaced(ids: list[int], pair: Pair, number: int) -> list[int]:
    out, at = [], 0
    while at < len(ids):
        if at + 1 < len(ids) and (ids[at], ids[at + 1]) == pair:
            out.append(number)
            at += 2
        else:
            out.append(ids[at])
            at += 1
    return out
