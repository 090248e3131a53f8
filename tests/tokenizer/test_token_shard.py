"""A shard gives back what was written, and refuses to be read when it is not what it says it is."""

import hashlib
import json
import os
import pickle
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.tokenizer import token_shard
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
    """Another header, itself sound."""
    header = path.with_suffix(".json")
    fields = json.loads(header.read_text()) | changes
    del fields["checksum"]
    fields["checksum"] = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
    header.write_text(json.dumps(fields))


def flip_a_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


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
        lengths = np.asarray(shard.lengths)
        assert lengths.tolist() == list(map(len, documents)) and lengths.dtype == np.int64
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
    edit_header(path, format_version=3)
    with pytest.raises(ValueError, match="format_version 3"):
        TokenShard(path)


def test_a_header_with_other_fields_is_refused(path):
    edit_header(path, color="blue")
    with pytest.raises(ValueError, match="color"):
        TokenShard(path)


def test_lengths_of_other_documents_are_refused(path):
    np.save(path.with_suffix(".lengths.npy"), np.array([3, 1, 999]))
    with pytest.raises(ValueError, match="lengths"):
        TokenShard(path)
    np.save(path.with_suffix(".lengths.npy"), np.array([1, 3, 999, 2]))
    with pytest.raises(ValueError, match="web-train-00000.lengths.npy"):
        TokenShard(path).lengths[1:2]


def test_lengths_are_read_by_the_stretch(path):
    lengths = TokenShard(path).lengths
    assert len(lengths) == 4 and lengths[-2] == 999
    assert [lengths[1:3].tolist(), lengths[2:].tolist(), lengths[3:1].tolist(), lengths[:9].tolist()] == [
        [1, 999], [999, 2], [], [3, 1, 999, 2],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="step 2"):
        lengths[::2]


def test_many_documents_at_once_come_in_the_order_asked_for(path):
    shard = TokenShard(path)
    assert [document.size for document in shard.read([2, -1, 0, 2])] == [999, 2, 3, 999]
    assert shard.read([]) == []


def test_another_vocabulary_is_refused(path):
    TokenShard(path, tokenizer_fingerprint="a" * 64)
    with pytest.raises(ValueError, match="b" * 12):
        TokenShard(path, tokenizer_fingerprint="b" * 64)


@pytest.mark.parametrize("place", range(0, 480, 7))
def test_a_header_with_a_flipped_bit_is_refused(path, place):
    header = path.with_suffix(".json")
    flip_a_bit(header, place % header.stat().st_size)
    with pytest.raises(ValueError, match="web-train-00000"):
        TokenShard(path)


@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.99])
def test_one_flipped_bit_is_noticed_before_the_first_document(path, place):
    flip_a_bit(path, int(place * path.stat().st_size))  # documents, the index, or padding that no reader looks at
    shard = TokenShard(path)
    for _ in range(2):
        with pytest.raises(ValueError, match="web-train-00000.arrayrecord was changed or damaged"):
            shard[0]
    with pytest.raises(ValueError, match=path.name):
        shard.verify()


def test_a_shard_is_compared_with_its_checksum_once_while_other_threads_wait(path, monkeypatch):
    compared, begun, go_on = [], threading.Event(), threading.Event()

    def slowly(file):
        compared.append(file.name)
        begun.set()
        assert go_on.wait(10)
        return real(file)

    real = token_shard.digest_of
    monkeypatch.setattr(token_shard, "digest_of", slowly)
    shard = TokenShard(path)
    assert compared == []
    with ThreadPoolExecutor(4) as threads:
        read = [threads.submit(shard.__getitem__, number) for number in range(4)]
        assert begun.wait(10)
        assert not any(one.done() for one in read)
        go_on.set()
        assert [one.result().size for one in read] == [3, 1, 999, 2]
    assert compared == [path.name]


def test_a_shard_damaged_after_its_first_use_is_named_too(tmp_path):
    rng = np.random.default_rng(0)
    path = write(tmp_path / "web.arrayrecord", [rng.integers(0, VOCAB_SIZE, 900) for _ in range(200)])
    shard = TokenShard(path)
    shard[0]
    data = bytearray(path.read_bytes())
    data[200_000:200_400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="web.arrayrecord was changed or damaged"):
        shard.read(range(200))
