"""The distinct pieces that the split pattern cuts texts into, with how often each occurs: all that byte-pair merges depend on."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import regex

from llama3_jax.tokenizer.bpe import SPLIT_PATTERN

CHUNK_CHARS = 4_000_000
MOST_WORDS = 20_000_000
"""Distinct pieces kept at a time; past it the rarest are forgotten, so that memory is bounded."""

_SPLIT = regex.compile(SPLIT_PATTERN)


def count_words(texts: Iterable[str], *, num_processes: int = 1, most_words: int = MOST_WORDS) -> Counter[str]:
    """Pieces and counts, the same for any number of processes. Texts are streamed."""
    total: Counter[str] = Counter()
    for counted in _counted(_chunks(texts), num_processes):
        total += counted
        least = 1
        while len(total) > most_words:
            least += 1
            total = Counter({word: count for word, count in total.items() if count >= least})
    return total


def in_own_scripts(words: Mapping[str, int], least_share: float = 0.01) -> dict[str, int]:
    """The pieces without letters of a script that makes up less than this share of all letters: a Greek word that an English text
    quotes is no English."""
    letters: Counter[str] = Counter()
    scripts = {word: {_script(character) for character in word if character.isalpha()} for word in words}
    for word, count in words.items():
        letters.update({script: count * sum(_script(each) == script for each in word) for script in scripts[word]})
    own = {script for script, count in letters.items() if count >= least_share * letters.total()}
    return {word: count for word, count in words.items() if scripts[word] <= own}


@functools.cache
def _script(character: str) -> str:
    """The first word of a character's name: LATIN, CYRILLIC, CJK, ..."""
    return unicodedata.name(character, "").split(" ")[0]


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk, size = [], 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= CHUNK_CHARS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _counted(chunks: Iterator[list[str]], num_processes: int) -> Iterator[Counter[str]]:
    if num_processes == 1:
        yield from map(_count, chunks)
        return
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        waiting = []
        for chunk in chunks:  # no more than a few are read ahead
            waiting.append(pool.submit(_count, chunk))
            if len(waiting) > 2 * num_processes:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _count(texts: list[str]) -> Counter[str]:
    return Counter(piece for text in texts for piece in _SPLIT.findall(text))
