"""What the rules count with, against plain Python."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.curation.heuristics.batch import Batch, repeated
from llama3_jax.curation.text_buffer import NEWLINE, mix

TEXTS = st.lists(st.text(alphabet=st.sampled_from(list("aABb _\n.\u00a0\u30001\té日🙂")), max_size=40), max_size=6)
BLANKS = "".join(map(chr, range(33))) + "\u00a0\u3000"


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_lines_begin_and_end_with_what_is_no_blank(texts):
    batch = Batch(texts)
    stripped = [line.strip(BLANKS) for text in texts for line in text.split("\n")]
    assert batch.first_of_lines.tolist() == [ord(line[0]) if line else NEWLINE for line in stripped]
    assert batch.last_of_lines.tolist() == [ord(line[-1]) if line else NEWLINE for line in stripped]


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from(["a", "ab", "aab", "b a", "a b"]))
def test_a_phrase_is_found_whatever_its_case_and_wherever_the_texts_end(texts, phrase):
    batch, joined = Batch(texts), "".join(text + "\n" for text in texts)
    places = [place for place in range(len(joined)) if joined[place : place + len(phrase)].lower() == phrase]
    assert batch.find(phrase).tolist() == places
    within = [sum(text[place : place + len(phrase)].lower() == phrase for place in range(len(text))) for text in texts]
    assert batch.characters(batch.find(phrase)).tolist() == within


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_sums_over_the_words_of_each_text(texts):
    batch = Batch(texts)
    weights = np.sqrt(np.arange(len(batch.words.starts), dtype=np.float64))
    for values in (weights, batch.word_lengths, batch.word_lengths > 1):
        plain = [values[batch.words.texts == number].sum() for number in range(len(texts))]
        np.testing.assert_allclose(batch.per_text(batch.words, values), plain, rtol=1e-14)
    assert batch.num_words.tolist() == [int((batch.words.texts == number).sum()) for number in range(len(texts))]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=60))
def test_what_occurs_more_than_once_in_a_text(drawn):
    """Also where keys differ in their lowest bits only, and so share a slot."""
    drawn = sorted(drawn, key=lambda pair: pair[0])
    texts = np.array([text for text, _ in drawn], np.int64)
    keys = mix(np.array([key // 2 for _, key in drawn], np.int64)) + np.array([key % 2 for _, key in drawn], np.uint64)
    counts, before = repeated(keys, texts)
    pairs = list(zip(texts.tolist(), keys.tolist(), strict=True))
    of_pair = Counter(pairs)
    assert counts.tolist() == [of_pair[pair] for pair in pairs]
    assert before.tolist() == [pair in pairs[:number] for number, pair in enumerate(pairs)]


def test_no_words_are_no_keys():
    assert Batch(()).word_hashes.tolist() == []
