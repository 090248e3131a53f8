"""Rules of C4 (Raffel et al. 2020, section 2.2): lines that are no sentences go, and pages that are no prose."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np

from llama3_jax.curation.heuristics.batch import Batch
from llama3_jax.curation.heuristics.rule import Rule
from llama3_jax.curation.text_buffer import look_up

_TERMINAL = np.array([ord(sign) for sign in ".!?\"'\u201d\u3002\uff01\uff1f\u061f\u0964"])


@dataclass(frozen=True, kw_only=True)
class C4:
    """Published numbers; the terminal marks of other scripts than Latin are ours."""

    remove_lines: bool = True
    """Lines without a terminal mark, of few words, or with "javascript"."""
    min_words_per_line: int = 3
    min_sentences: int | None = 5
    reject_lorem_ipsum: bool = True
    reject_curly_brackets: bool = True


def without_bad_lines(texts: Sequence[str], settings: C4) -> list[str]:
    """The texts without the lines that the rules remove."""
    if not settings.remove_lines:
        return list(texts)
    batch = Batch(texts)
    first_word, after_words = batch.words_of_lines
    stays = np.isin(batch.last_of_lines, _TERMINAL) & (after_words - first_word >= settings.min_words_per_line)
    line_of = np.searchsorted(batch.lines.ends, batch.find("javascript"))
    stays[line_of] = False
    first_line = batch.lines.first_of(batch.count)
    out = []
    for number, text in enumerate(batch.texts):
        of_text = stays[first_line[number] : first_line[number + 1]]
        out.append(text if of_text.all() else "\n".join(compress(text.split("\n"), of_text.tolist())))
    return out


@functools.cache
def _ends_a_sentence() -> np.ndarray:
    """Code point -> whether it is a terminal mark that is no quotation mark."""
    table = np.zeros(sys.maxunicode + 1, bool)
    table[_TERMINAL] = True
    table[[ord(sign) for sign in "\"'\u201d"]] = False
    return table


def c4_rules(batch: Batch, settings: C4) -> Iterator[Rule]:
    points = batch.held.points
    ends = np.flatnonzero(np.append(points[1:] <= 32, True) | (points > 0x3000)) if len(points) else points
    ends = ends[look_up(_ends_a_sentence(), points[ends])]
    yield Rule("c4.sentences", batch.characters(ends), at_least=settings.min_sentences)
    lorem = (batch.characters(batch.find("lorem ipsum")) > 0).astype(np.float64)
    yield Rule("c4.lorem_ipsum", lorem, at_most=0 if settings.reject_lorem_ipsum else None)
    curly = batch.characters(np.flatnonzero(points == ord("{")))
    yield Rule("c4.curly_brackets", curly, at_most=0 if settings.reject_curly_brackets else None)
