"""A stream is one fixed sequence of tokens, however it is read, and every epoch holds every document once."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numbered_documents import MemoryShard, concatenated, make_stream, number_documents

from llama3_jax.batches.stream import TokenStream
from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter

LENGTHS = [5, 1, 17, 2, 9, 30, 3, 3, 11, 8, 1, 40]

lengths = st.lists(st.integers(1, 20), min_size=1, max_size=12)


@given(lengths, st.integers(1, 6), st.integers(0, 3), st.data())
def test_any_stretch_is_a_slice_of_the_epochs(lengths, window, seed, data):
    stream = make_stream(lengths, seed=seed, window=window)
    whole = concatenated(stream.read(0, 3 * stream.num_tokens))
    assert whole.size == 3 * sum(lengths)
    position = data.draw(st.integers(0, whole.size))
    count = data.draw(st.integers(0, whole.size - position))
    pieces = make_stream(lengths, seed=seed, window=window).read(position, count)
    assert np.array_equal(concatenated(pieces), whole[position : position + count])


@given(lengths, st.lists(st.integers(1, 25), min_size=1, max_size=10))
def test_chunks_add_up_to_the_same_stream(lengths, chunks):
    stream, position, read = make_stream(lengths, window=4), 0, []
    for chunk in chunks:
        read += stream.read(position, chunk)
        position += chunk
    assert np.array_equal(concatenated(read), concatenated(stream.read(0, sum(chunks))))


@given(lengths, st.integers(1, 6))
def test_every_epoch_holds_every_document_once_and_whole(lengths, window):
    stream = make_stream(lengths, window=window)
    for epoch in range(3):
        pieces = stream.read(epoch * stream.num_tokens, stream.num_tokens)
        found = sorted((piece.tolist() for piece in pieces), key=lambda piece: piece[0])
        assert found == [document.tolist() for document in number_documents(lengths)]


def test_order_is_of_the_seed_and_the_epoch():
    first = concatenated(make_stream(LENGTHS, seed=1).read(0, 2 * sum(LENGTHS)))
    same = concatenated(make_stream(LENGTHS, seed=1).read(0, 2 * sum(LENGTHS)))
    other = concatenated(make_stream(LENGTHS, seed=2).read(0, 2 * sum(LENGTHS)))
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    one, two = np.split(first, 2)
    assert not np.array_equal(one, two)


def test_documents_of_a_window_stay_together():
    stream = make_stream([1] * 12, seed=0, num_shards=1, window=4)
    read = concatenated(stream.read(0, 12)).astype(int)
    windows = [set(read[first : first + 4] // 4) for first in (0, 4, 8)]
    assert sorted(windows, key=min) == [{0}, {1}, {2}]
    assert read.tolist() != sorted(read.tolist())


def test_order_is_not_of_the_order_of_shards():
    shards = [MemoryShard([document]) for document in number_documents(LENGTHS)]
    forward, backward = TokenStream(shards, seed=3), TokenStream(shards[::-1], seed=3)
    assert np.array_equal(concatenated(forward.read(0, 200)), concatenated(backward.read(0, 200)))


def test_order_is_not_of_file_names(tmp_path):
    documents = number_documents(LENGTHS)
    for name, part in (("a", documents[:5]), ("b", documents[5:])):
        with TokenShardWriter(
            tmp_path / f"{name}.arrayrecord", source="web", tokenizer_fingerprint="f", vocab_size=1000
        ) as writer:
            for document in part:
                writer.write(document)
    (tmp_path / "renamed").mkdir()
    for file in [file for file in tmp_path.iterdir() if file.is_file()]:
        shutil.copy(file, tmp_path / "renamed" / file.name.replace("a.", "z."))
    read = [
        concatenated(TokenStream([TokenShard(path) for path in sorted(folder.glob("*.arrayrecord"))], seed=0).read(3, 120))
        for folder in (tmp_path, tmp_path / "renamed")
    ]
    assert np.array_equal(*read) and read[0].size == 120


@pytest.mark.parametrize("window", [3, 1 << 16])
def test_without_a_seed_documents_come_once_in_stored_order(window):
    stream = make_stream(LENGTHS, seed=None, num_shards=1, window=window)
    assert np.array_equal(concatenated(stream.read(0, 10**6)), np.arange(sum(LENGTHS)))
    assert np.array_equal(concatenated(stream.read(stream.num_tokens - 2, 5)), np.arange(sum(LENGTHS))[-2:])
    assert stream.read(stream.num_tokens, 5) == []


def test_share_of_cut_documents():
    stream = make_stream([10, 10, 10, 10], seed=None)
    assert [stream.documents_cut(length) for length in (10, 20, 15, 7)] == [0.0, 0.0, 0.25, 1.0]
