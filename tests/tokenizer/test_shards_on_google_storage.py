"""gs:// is read as s3:// is: found by pattern, fetched once, compared with checksums."""

import numpy as np
import pytest
from etils import epath

from llama3_jax.batches.shards import open_shards
from llama3_jax.tokenizer.token_shard import TokenShardWriter

DOCUMENTS = [np.arange(first, first + 7, dtype=np.uint32) for first in range(0, 300, 10)]


@pytest.fixture
def shard(lake, tmp_path, monkeypatch, request):
    """The URL of a shard in a folder of the test's own."""
    path = tmp_path / "web-0.arrayrecord"
    with TokenShardWriter(path, source="web", tokenizer_fingerprint="f", vocab_size=10_000) as shard:
        for document in DOCUMENTS:
            shard.write(document)
    monkeypatch.setenv("LLAMA3_SHARD_CACHE", str(tmp_path / "cache"))
    folder = epath.Path(lake) / "tokens" / request.node.name
    for file in tmp_path.glob("web-0.*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / path.name


def test_a_pattern_finds_shards_and_each_is_fetched_once(shard, tmp_path):
    (found,) = open_shards([str(shard.parent / "web-*.arrayrecord")], tokenizer_fingerprint="f")
    assert str(found.path) == str(shard)
    assert not list((tmp_path / "cache").glob("*.arrayrecord")), "opening fetches headers only"
    found[0]
    shard.unlink()
    for number, document in enumerate(DOCUMENTS):
        np.testing.assert_array_equal(found[number], document)


def test_what_came_damaged_is_named(shard):
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    (found,) = open_shards([str(shard)], tokenizer_fingerprint="f")
    with pytest.raises(ValueError, match=f"{shard} was changed or damaged"):
        found[0]
