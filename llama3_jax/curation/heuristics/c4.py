"""Rules of C4 (Raffel et al. 2020, section 2.2): lines that are no sentences go, and pages that are no prose."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llama3_jax.curation.heuristics.batch import Batch
from llama3_jax.curation.heuristics.rule import Rule
from llama3_jax.curation.text_buffer import look_up

_TERMINAL = np.array([ord(sign) for sign in ".!?\"'\u201d\u3002\uff01\uff1f\u061f\u0964"])

_JAVASCRIPT = re.compile("[jJ][aA][vV][aA][sS][cC][rR][iI][pP][tT]")
_LOREM = re.compile("[lL][oO][rR][eE][mM] [iI][pP][sS][uU][mM]")


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
    last = batch.last_character(batch.lines)
    words_before = np.searchsorted(batch.words.starts, batch.lines.starts)
    num_words = np.searchsorted(batch.words.starts, batch.lines.ends) - words_before
    stays = np.isin(last, _TERMINAL) & (num_words >= settings.min_words_per_line)
    first_line = batch.lines.first_of(batch.count)
    out = []
    for number, text in enumerate(batch.texts):
        of_text = stays[first_line[number] : first_line[number + 1]]
        script = _JAVASCRIPT.search(text) is not None
        if of_text.all() and not script:
            out.append(text)
            continue
        rows = zip(text.split("\n"), of_text.tolist(), strict=True)
        out.append("\n".join(row for row, kept in rows if kept and not (script and _JAVASCRIPT.search(row))))
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
    marks = look_up(_ends_a_sentence(), points)
    follows = np.concatenate([points[1:] <= 32, [True]]) if len(points) else marks
    ends = marks & (follows | (points > 0x3000))
    yield Rule("c4.sentences", batch.characters(ends), at_least=settings.min_sentences)
    lorem = np.array([float(_LOREM.search(text) is not None) for text in batch.texts])
    yield Rule("c4.lorem_ipsum", lorem, at_most=0 if settings.reject_lorem_ipsum else None)
    curly = batch.characters(points == ord("{"))
    yield Rule("c4.curly_brackets", curly, at_most=0 if settings.reject_curly_brackets else None)
