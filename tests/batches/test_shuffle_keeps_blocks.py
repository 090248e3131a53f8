"""A shuffled stream is its stream in another order of blocks: nothing lost, nothing twice, nothing torn."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numbered_documents import make_shuffled, make_stream

from llama3_jax.batches.shuffle import ShuffledStream

LENGTHS = [7, 30, 3, 12, 1, 55] * 9


def tokens(stream, position, length):
    """The row without the token that follows it."""
    return np.concatenate(stream.row(position, length))[:length]


@given(block=st.integers(1, 400), length=st.integers(1, 90), window=st.integers(1, 9))
def test_every_epoch_reads_every_token_once(block, length, window):
    stream = ShuffledStream(make_stream(LENGTHS, seed=3), seed=5, block=block, window=window)
    size = stream.num_tokens
    for epoch in (0, 1):
        cuts = [*range(0, size, length), size]
        read = [tokens(stream, epoch * size + a, b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
        assert sorted(np.concatenate(read)) == list(range(size))


def test_a_row_inside_a_block_is_as_it_stands_and_knows_the_next_token():
    plain = make_stream(LENGTHS, seed=3)
    stream = ShuffledStream(plain, seed=5, block=64)
    whole = np.concatenate(plain.read(0, plain.num_tokens))
    place = {int(token): index for index, token in enumerate(whole)}
    for position in range(0, plain.num_tokens // 64 * 64, 16):
        row = np.concatenate(stream.row(position, 16))
        start = place[int(row[0])]
        assert start % 16 == 0
        np.testing.assert_array_equal(row, whole[start : start + 17])


def test_a_short_stage_draws_on_the_whole_source():
    """The first tenth of 100 long documents: a plain stream gives ten of them, blocks give most."""
    stream = make_shuffled([1000] * 100, block=100)
    documents = {int(token) // 1000 for token in tokens(stream, 0, 10_000)}
    assert len(documents) > 50


def test_epochs_and_seeds_have_their_own_order():
    stream = ShuffledStream(make_stream([1000] * 4, seed=None), seed=5, block=10)
    other = ShuffledStream(make_stream([1000] * 4, seed=None), seed=6, block=10)
    orders = [tokens(stream, 0, 3000), tokens(other, 0, 3000)]
    assert not np.array_equal(*orders)
    np.testing.assert_array_equal(orders[0], tokens(ShuffledStream(stream.stream, seed=5, block=10), 0, 3000))
