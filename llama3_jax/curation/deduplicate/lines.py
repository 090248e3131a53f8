"""Lines as they are compared: normalised as CCNet says (Wenzek et al. 2020, section 3.2), by 64 bits."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from llama3_jax.curation.text_buffer import Hasher, buffer, folded, lines, look_up, text_batches


def line_hashes(texts: pa.Array | pa.ChunkedArray | Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every line that has a letter or a digit.

    Lines are compared as CCNet's paper says: in lower case, without accents, punctuation and symbols, and with every digit
    as 0. (Its code, `normalize_for_dedup`, is milder: it keeps accents and the punctuation of ASCII.) That white space does
    not count either is ours. Within a bucket of 3e9 different lines, one in 6e9 shares its 64 bits with another, and goes
    with it only if they are frequent together.

    Returns: of each such line its hash (uint64), the number of its text, and its number among `text.split("\\n")` (int64).
    """
    hashes, documents, numbers, first = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], 0
    for batch in text_batches(texts):
        hashed, document, number = _line_hashes(batch)
        hashes.append(hashed)
        documents.append(document + first)
        numbers.append(number)
        first += len(batch)
    return np.concatenate(hashes), np.concatenate(documents), np.concatenate(numbers)


def _line_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    held = buffer(texts)
    found = lines(held)
    symbols = look_up(_symbols(), held.points)
    counts = symbols != 0
    before = np.concatenate([[0], np.cumsum(counts)])
    starts, ends = before[found.starts], before[found.ends]
    full = ends > starts
    number = np.arange(len(found.starts)) - found.first_of(len(held.ends))[found.texts]
    return Hasher(symbols[counts])(starts[full], ends[full]), found.texts[full], number[full]


def frequent(hashes: np.ndarray, counts: np.ndarray, *, at_most: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Lines that occur more than `at_most` times (section 3.1.1: 6 times in each bucket of 30M documents).

    Args:
        hashes, counts: of partial counts, in any order; a hash may come several times.
    Returns: their hashes, sorted, and how often they occur (int64).
    """
    lines, where = np.unique(hashes, return_inverse=True)
    occurrences = np.zeros(len(lines), np.int64)
    np.add.at(occurrences, where, counts)
    often = occurrences > at_most
    return lines[often], occurrences[often]


def without_lines(text: str, removed: Sequence[int] | np.ndarray) -> str:
    """The text without the lines of these numbers, as `line_hashes` counts them; the others as they were."""
    gone = set(np.asarray(removed).tolist())
    return "\n".join(line for number, line in enumerate(text.split("\n")) if number not in gone)


@functools.cache
def _symbols() -> np.ndarray:
    """Code point -> what it counts as in a line, 0 for nothing: `folded`, and no emoji."""
    table = folded(True).copy()
    table[0xFE00:0xFE10] = 0  # variation selectors, which follow symbols
    for point in range(0x1F000, 0x20000):
        if unicodedata.category(chr(point))[0] not in "LN":
            table[point] = 0
    table[0xE0000:] = 0  # tags and private use
    return table
