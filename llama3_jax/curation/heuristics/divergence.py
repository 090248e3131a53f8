"""Documents of outlier tokens: the Kullback-Leibler divergence of a document's words from those of its language."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llama3_jax.curation.heuristics.batch import Batch, repeated
from llama3_jax.curation.heuristics.rule import Rule
from llama3_jax.curation.text_buffer import mix

BUCKETS = 2**18
"""Words are counted by 18 bits of their hash, so that the distribution of any corpus has one size."""


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """D(document || corpus) in nats a token (section 3.1.1; the threshold is not printed, this one is ours).

    D = sum over the document's words w of p(w) ln(p(w) / q(w)), where p is the share in the document and
    q = (n(w) + 1) / (N + 2**18) that of the corpus, the document itself taken out of it.

    A document of n different words has at least ln n more than one of a single word, whatever they are; the bound is on
    D + H - ln(N + 2**18) + c = the mean of -ln q, less that of an ordinary document: so a short document is not an outlier
    for being short.
    """

    max_excess: float | None = 4.0
    """Nats a token by which the mean surprise -ln q of a document's words may exceed that of the corpus."""
    min_corpus_tokens: int = 100_000
    """Of a language; below, nothing is known about what is usual."""


def token_counts(texts: Sequence[str]) -> np.ndarray:
    """How often each bucket of words occurs: int64, [2**18]."""
    texts = texts.to_pylist() if hasattr(texts, "to_pylist") else texts
    return np.bincount(_tokens(Batch(texts)), minlength=BUCKETS).astype(np.int64)


class Corpus:
    """What is usual: the words of a language, from what `token_counts` gives of its documents."""

    def __init__(self, counts: np.ndarray):
        self.counts = counts
        self.total = float(counts.sum())

    @functools.cached_property
    def surprise(self) -> float:
        """The mean of -ln q over the words of the corpus, in nats."""
        share = self.counts / self.total
        return float(-(share * np.log((self.counts + 1.0) / (self.total + BUCKETS))).sum())


def divergence_rules(batch: Batch, settings: Divergence, corpus: Corpus | None) -> Iterator[Rule]:
    excess = np.full(batch.count, np.nan)
    divergence = np.full(batch.count, np.nan)
    if corpus is not None and corpus.total >= settings.min_corpus_tokens:
        tokens, texts = _tokens(batch), batch.words.texts
        times, _ = repeated(mix(tokens), texts)
        own = batch.num_words[texts]
        shared = np.maximum(corpus.counts[tokens] - times, 0)
        surprise = -np.log((shared + 1.0) / (corpus.total - own + BUCKETS))
        mean = batch.share(batch.per_text(batch.words, surprise), batch.num_words)
        negative_entropy = batch.share(batch.per_text(batch.words, np.log(times / own)), batch.num_words)
        divergence = mean + negative_entropy
        excess = mean - corpus.surprise
    yield Rule("divergence.nats", divergence)
    yield Rule("divergence.excess", excess, at_most=settings.max_excess)


def _tokens(batch: Batch) -> np.ndarray:
    return (batch.word_hashes >> np.uint64(46)).astype(np.int64)
