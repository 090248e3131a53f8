"""All rules on a batch of documents of one language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llama3_jax.curation.heuristics.batch import Batch
from llama3_jax.curation.heuristics.c4 import c4_rules, without_bad_lines
from llama3_jax.curation.heuristics.dirty_words import dirty_word_rules
from llama3_jax.curation.heuristics.divergence import Corpus, divergence_rules
from llama3_jax.curation.heuristics.gopher import gopher_quality_rules
from llama3_jax.curation.heuristics.repetition import gopher_repetition_rules, repetition_rules
from llama3_jax.curation.heuristics.rule import Rule
from llama3_jax.curation.heuristics.settings import Heuristics, Rules
from llama3_jax.curation.text_buffer import text_batches

_CHARACTERS = 2**18
"""Of the documents that are taken together: tables of their words stay in the cache of a core."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the rules say of each document."""

    texts: list[str]
    """Without the lines that C4's rules remove."""
    reason: list[str | None]
    """The first rule that is broken; None keeps."""
    value: np.ndarray
    """What was measured for it; NaN where none is broken."""
    values: Mapping[str, np.ndarray]
    """Every measurement, by the name of its rule."""


def measure(texts: Sequence[str], settings: Heuristics, *, language: str, reference: np.ndarray | None = None) -> Measured:
    """Judges documents of one language; each one's verdict is the same in any batch.

    Args:
        reference: what `token_counts` gives of the corpus; None leaves the divergence out.
    """
    rules = settings.of(language)
    texts = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    reason: list[str | None] = [None] * len(texts)
    value, values = np.full(len(texts), np.nan), {}
    corpus = None if reference is None else Corpus(reference)
    judged: list[str] = []
    for batch in text_batches(texts, _CHARACTERS):
        batch = batch if rules.c4 is None else without_bad_lines(batch, rules.c4)
        first, last = len(judged), len(judged) + len(batch)
        judged += batch
        for rule in _rules(Batch(batch), rules, language, corpus):
            values.setdefault(rule.name, np.full(len(texts), np.nan))[first:last] = rule.values
            for row in np.flatnonzero(rule.broken()).tolist():
                if reason[first + row] is None:
                    reason[first + row], value[first + row] = rule.name, rule.values[row]
    return Measured(texts=judged, reason=reason, value=value, values=values)


def _rules(batch: Batch, rules: Rules, language: str, corpus: Corpus | None) -> Iterator[Rule]:
    if rules.repetition is not None:
        yield from repetition_rules(batch, rules.repetition)
    if rules.dirty_words is not None:
        yield from dirty_word_rules(batch, rules.dirty_words, language)
    if rules.divergence is not None:
        yield from divergence_rules(batch, rules.divergence, corpus)
    if rules.gopher_quality is not None:
        yield from gopher_quality_rules(batch, rules.gopher_quality)
    if rules.gopher_repetition is not None:
        yield from gopher_repetition_rules(batch, rules.gopher_repetition)
    if rules.c4 is not None:
        yield from c4_rules(batch, rules.c4)


def bounds_of(rules: Rules) -> dict[str, list[float]]:
    """Name of a measurement -> the bounds that it has under these rules."""
    found = _rules(Batch([""]), replace(rules, dirty_words=None), "", None)
    bounds = {rule.name: [bound for bound in (rule.at_least, rule.at_most) if bound is not None] for rule in found}
    if (words := rules.dirty_words) is not None:
        named = (("dirty_words.share", words.max_share), ("dirty_words.count", words.max_count))
        bounds |= {name: [bound] for name, bound in named if bound is not None}
    return bounds
