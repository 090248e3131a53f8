"""A packed row asks for the next token of the same document, and cutting a document costs none of them."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numbered_documents import make_stream, number_documents

from llama3_jax.batches.rows import pack


def test_a_row_of_two_documents_and_a_cut_one():
    row = pack([np.array([5, 6, 2]), np.array([7, 2]), np.array([8, 9])], 6, source=3)
    assert row.tokens.tolist() == [5, 6, 2, 7, 2, 8]
    assert row.targets.tolist() == [6, 2, 0, 2, 0, 9]
    assert row.loss_weight.tolist() == [1, 1, 0, 1, 0, 1]
    assert row.segment_ids.tolist() == [1, 1, 1, 2, 2, 3]
    assert row.positions.tolist() == [0, 1, 2, 0, 1, 0]
    assert row.source.tolist() == [3] * 6
    assert {leaf.dtype.name for leaf in row} == {"int32", "float32"} and row.loss_weight.dtype == np.float32


def test_the_extra_token_is_only_a_target():
    inside = pack([np.array([5, 6, 7, 8])], 3, source=0)
    assert inside.targets.tolist() == [6, 7, 8] and inside.loss_weight.tolist() == [1, 1, 1]
    beyond = pack([np.array([5, 6, 2]), np.array([7])], 3, source=0)
    assert beyond.targets.tolist() == [6, 2, 0] and beyond.loss_weight.tolist() == [1, 1, 0]


def test_padding_belongs_to_nothing():
    row = pack([np.array([5, 2])], 4, source=1)
    assert row.loss_weight.tolist() == [1, 0, 0, 0]
    assert row.segment_ids.tolist() == [1, 1, 0, 0]
    assert row.source.tolist() == [1, 1, -1, -1]
    empty = pack([], 3, source=1)
    assert not empty.loss_weight.any() and not empty.segment_ids.any() and empty.source.tolist() == [-1] * 3


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10), st.integers(1, 16))
def test_rows_of_a_stream_hold_every_pair_of_its_documents_once(lengths, sequence_length):
    stream = make_stream(lengths, seed=None, num_shards=1)
    asked = Counter()
    for position in range(0, stream.num_tokens, sequence_length):
        row = pack(stream.read(position, sequence_length + 1), sequence_length, source=0)
        scored = row.loss_weight > 0
        asked.update(zip(row.tokens[scored].tolist(), row.targets[scored].tolist(), strict=True))
    documents = number_documents(lengths)
    assert asked == Counter(pair for text in documents for pair in zip(text[:-1].tolist(), text[1:].tolist(), strict=True))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10), st.integers(1, 16))
def test_positions_count_each_piece_from_zero(lengths, sequence_length):
    stream = make_stream(lengths, seed=None, num_shards=1)
    row = pack(stream.read(0, sequence_length + 1), sequence_length, source=0)
    filled = row.segment_ids > 0
    starts = {segment: np.flatnonzero(row.segment_ids == segment)[0] for segment in set(row.segment_ids[filled].tolist())}
    assert [p for p in row.positions[filled]] == [i - starts[row.segment_ids[i]] for i in np.flatnonzero(filled)]
