"""Lines are the same if they differ in case, accents, punctuation and digits only."""

import unicodedata
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama3_jax.curation.deduplicate.lines import frequent, line_hashes, without_lines

TEXTS = st.lists(st.text(alphabet="aAbé\u0301漢が한ไ .,-\n\n\t\r07٣😀❤\ufe0f\u200d𝒳$", max_size=30), max_size=8)


def plain(line):
    """The normalisation, a character at a time."""
    kept = []
    for character in line:
        category = unicodedata.category(character)
        if category == "Nd":
            kept.append("0" if ord(character) < 0x1F000 else character)
        elif category[0] == "L" and ord(character) < 0x1F000 and not 0xAC00 <= ord(character) <= 0xD7A3:
            kept.append(unicodedata.normalize("NFD", character)[0].lower()[0])
        elif category[0] in "LN" or (category[0] == "M" and not unicodedata.combining(character)):
            kept += [] if "\ufe00" <= character <= "\ufe0f" else [character]
    return "".join(kept)


@given(TEXTS)
def test_lines_are_those_of_a_plain_loop(texts):
    hashes, documents, numbers = line_hashes(texts)
    expected = [(d, n, plain(line)) for d, text in enumerate(texts) for n, line in enumerate(text.split("\n")) if plain(line)]
    assert list(zip(documents.tolist(), numbers.tolist(), strict=True)) == [(d, n) for d, n, _ in expected]
    assert hashes.dtype == np.uint64
    by_hash = dict(zip(hashes.tolist(), (line for *_, line in expected), strict=True))
    assert [by_hash[one] for one in hashes.tolist()] == [line for *_, line in expected]
    assert len(by_hash) == len({line for *_, line in expected})


@given(TEXTS, st.integers(0, 8))
def test_hashes_do_not_depend_on_the_batch(texts, cut):
    whole, parts = line_hashes(pa.array(texts, pa.string())), [line_hashes(texts[:cut]), line_hashes(texts[cut:])]
    assert np.array_equal(whole[0], np.concatenate([part[0] for part in parts]))


def test_documents_are_numbered_over_batches(monkeypatch):
    monkeypatch.setattr("llama3_jax.curation.text_buffer.text_batches.__defaults__", (3,))
    _, documents, numbers = line_hashes(["a\nb", "", "c", "\nd\n", "e"])
    assert documents.tolist() == [0, 0, 2, 3, 4]
    assert numbers.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("Read More!", "read more", True),
        ("Posted on 12.03.2021", "posted on 07/11/1999", True),
        ("Posted on 1.3.2021", "posted on 07/11/1999", False),
        ("Café £5", "cafe\u0301 $6", True),
        ("٣ a", "4 a", True),
        ("ＡＢ", "ａｂ", True),
        ("a 😀", "a", True),
        ("ab", "ba", False),
        ("日本", "本日", False),
    ],
)
def test_same_lines(one, other, same):
    hashes, *_ = line_hashes([one, other])
    assert (hashes[0] == hashes[1]) == same


def test_lines_of_nothing_are_not_counted():
    assert len(line_hashes(["\n \n---\n* * *\n}\n😀\n❤\ufe0f\r\n", ""])[0]) == 0


def test_different_lines_have_different_hashes():
    lines = [f"{a}{b}{c}" for a in "abcdefgh" for b in "abcdefghij" for c in "pqrstuvw"]
    lines += ["a" * n for n in range(2, 3000)] + ["ab" * n for n in range(2, 500)] + ["ba" * n for n in range(2, 500)]
    hashes, *_ = line_hashes(lines)
    assert len(np.unique(hashes)) == len({plain(line) for line in lines})


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), max_size=20))
def test_frequent_lines_are_those_beyond_the_limit(rows):
    counts = Counter()
    for key, count in rows:
        counts[key] += count
    keys = np.array([key for key, _ in rows], np.uint64)
    hashes, occurrences = frequent(keys, np.array([count for _, count in rows], np.int64))
    assert dict(zip(hashes.tolist(), occurrences.tolist(), strict=True)) == {key: n for key, n in counts.items() if n > 6}


def test_a_line_may_occur_six_times():
    text = "\n".join(["Subscribe now!"] * 6 + ["subscribe NOW"] + ["six times"] * 6)
    hashes, _, numbers = line_hashes([text])
    often, occurrences = frequent(hashes, np.ones(len(hashes), np.int64))
    assert occurrences.tolist() == [7]
    assert without_lines(text, numbers[np.isin(hashes, often)]) == "\n".join(["six times"] * 6)


@given(st.text(alphabet="ab\n\r", max_size=20), st.sets(st.integers(0, 20)))
def test_only_the_removed_lines_go(text, removed):
    lines = text.split("\n")
    assert without_lines(text, sorted(removed)) == "\n".join(line for n, line in enumerate(lines) if n not in removed)
