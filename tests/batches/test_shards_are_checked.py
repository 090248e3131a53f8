"""A run opens the shards it names, and only those of its own vocabulary."""

import numpy as np
import pytest

from llama3_jax.batches.shards import Shards, open_shards
from llama3_jax.tokenizer.token_shard import TokenShardWriter


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        path = tmp_path / f"web-{number}.arrayrecord"
        with TokenShardWriter(path, source="web", tokenizer_fingerprint="ours", vocab_size=1000) as writer:
            writer.write(np.arange(10 + number, dtype=np.uint32))
    return tmp_path


def test_patterns_find_each_shard_once(folder):
    patterns = [f"{folder}/web-*.arrayrecord", f"{folder}/web-1.arrayrecord"]
    assert [len(shard[0]) for shard in open_shards(patterns, tokenizer_fingerprint="ours")] == [10, 11, 12]


def test_a_pattern_without_a_match_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"code-\*\.arrayrecord"):
        open_shards([f"{folder}/web-*.arrayrecord", f"{folder}/code-*.arrayrecord"], tokenizer_fingerprint="ours")


def test_shards_of_another_vocabulary_are_refused(folder):
    with pytest.raises(ValueError, match="web-0.*tokenizer ours"):
        open_shards([f"{folder}/web-0.arrayrecord"], tokenizer_fingerprint="theirs")


def test_a_shard_cut_short_is_refused(folder):
    path = folder / "web-2.arrayrecord"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="web-2.*cut short"):
        open_shards([f"{folder}/web-*.arrayrecord"], tokenizer_fingerprint="ours")


def test_train_and_held_out_have_the_same_sources():
    with pytest.raises(ValueError, match="train is empty"):
        Shards(tokenizer_path="t", train={}, held_out={})
    with pytest.raises(ValueError, match="'code'"):
        Shards(tokenizer_path="t", train={"web": ("a",), "code": ("b",)}, held_out={"web": ("c",)})
