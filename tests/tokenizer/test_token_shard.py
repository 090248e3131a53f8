"""A shard gives back what was written, and refuses to be read when it is not what it says it is."""

import json
import os
import pickle
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter

VOCAB_SIZE = 1000
DOCUMENTS = [np.arange(length, dtype=np.uint32) for length in (3, 1, 999, 2)]


def write(path: Path, documents=DOCUMENTS, *, fingerprint="a" * 64) -> Path:
    with TokenShardWriter(path, source="web", tokenizer_fingerprint=fingerprint, vocab_size=VOCAB_SIZE) as shard:
        for document in documents:
            shard.write(document)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "web-train-00000.arrayrecord")


def edit_header(path: Path, **changes) -> None:
    header = path.with_suffix(".json")
    header.write_text(json.dumps(json.loads(header.read_text()) | changes))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**32 - 2), min_size=1, max_size=40), min_size=1, max_size=20))
def test_documents_come_back(documents):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "web.arrayrecord"
        with TokenShardWriter(path, source="web", tokenizer_fingerprint="f", vocab_size=2**32 - 1) as writer:
            for document in documents:
                writer.write(np.array(document, np.uint32))
        shard = TokenShard(path, tokenizer_fingerprint="f")
        assert [shard[i].tolist() for i in range(len(shard))] == documents
        assert shard.lengths.tolist() == list(map(len, documents)) and shard.lengths.dtype == np.int64
        assert shard[0].dtype == np.uint32
        assert shard.header.num_tokens == writer.num_tokens == sum(map(len, documents))
        shard.verify()


def test_header_describes_the_file(path):
    header = TokenShard(path).header
    assert (header.source, header.tokenizer_fingerprint, header.vocab_size) == ("web", "a" * 64, VOCAB_SIZE)
    assert (header.num_documents, header.num_tokens, header.bytes) == (4, 1005, path.stat().st_size)
    assert sorted(file.suffix for file in path.parent.iterdir()) == [".arrayrecord", ".json", ".npy"]


def test_index_like_a_sequence(path):
    shard = TokenShard(path)
    assert shard[np.int64(-2)].size == 999
    with pytest.raises(IndexError):
        shard[4]


def test_copies_and_threads_read_the_same(path):
    shard = TokenShard(path)
    assert shard[0].size == 3  # opened before it is copied
    copy = pickle.loads(pickle.dumps(shard))
    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda i: copy[i % 4].tolist(), range(400)))
    assert read == [DOCUMENTS[i % 4].tolist() for i in range(400)]


@pytest.mark.parametrize(
    "ids",
    [[], [[1, 2]], [1.0], [VOCAB_SIZE], [-1]],
    ids=["empty", "matrix", "float", "too large", "negative"],
)
def test_only_ids_of_the_vocabulary_are_written(tmp_path, ids):
    with pytest.raises(ValueError):
        write(tmp_path / "web.arrayrecord", [np.array([1]), np.array(ids)])
    assert list(tmp_path.iterdir()) == []


def test_nothing_appears_without_documents_or_after_a_failure(tmp_path):
    with pytest.raises(ValueError):
        write(tmp_path / "web.arrayrecord", [])
    with pytest.raises(ValueError):
        write(tmp_path / "web.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_keeps_the_old_shard(path):
    with pytest.raises(ValueError):
        write(path, [np.array([1]), np.array([VOCAB_SIZE])])
    assert len(TokenShard(path)) == 4
    write(path, DOCUMENTS[:1])
    assert len(TokenShard(path)) == 1


@pytest.mark.parametrize("missing", [".json", ".lengths.npy", ".arrayrecord"])
def test_a_missing_part_is_refused(path, missing):
    path.with_suffix(missing).unlink()
    with pytest.raises(ValueError, match=path.stem):
        TokenShard(path)


def test_a_truncated_shard_is_refused(path):
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=path.name):
        TokenShard(path)


def test_a_newer_format_is_refused(path):
    edit_header(path, format_version=2)
    with pytest.raises(ValueError, match="format_version 2"):
        TokenShard(path)


def test_a_header_with_other_fields_is_refused(path):
    edit_header(path, color="blue")
    with pytest.raises(ValueError, match="color"):
        TokenShard(path)


@pytest.mark.parametrize("lengths", [[3, 1, 999], [3, 1, 999, 3]])
def test_lengths_that_disagree_are_refused(path, lengths):
    np.save(path.with_suffix(".lengths.npy"), np.array(lengths))
    with pytest.raises(ValueError, match="lengths"):
        TokenShard(path)


def test_lengths_of_other_documents_are_noticed_on_reading(path):
    np.save(path.with_suffix(".lengths.npy"), np.array([1, 3, 999, 2]))
    with pytest.raises(ValueError, match="document 0"):
        TokenShard(path)[0]


def test_another_vocabulary_is_refused(path):
    TokenShard(path, tokenizer_fingerprint="a" * 64)
    with pytest.raises(ValueError, match="b" * 12):
        TokenShard(path, tokenizer_fingerprint="b" * 64)


def test_verify_notices_one_changed_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=path.name):
        TokenShard(path).verify()
