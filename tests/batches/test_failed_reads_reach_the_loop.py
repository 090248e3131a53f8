"""A shard that cannot be used ends the loop over the batches with an error that names it, though threads do the reading."""

import numpy as np
import pytest

from llama3_jax.batches.loader import local_batches
from llama3_jax.batches.packing import Packing
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.stream import TokenStream
from llama3_jax.batches.timeline import timeline
from llama3_jax.tokenizer.patience import Patience
from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"web-{number}.arrayrecord" for number in range(2)]
    for number, path in enumerate(paths):
        with TokenShardWriter(path, source="web", tokenizer_fingerprint="f", vocab_size=1000) as shard:
            for document in range(40):
                shard.write(np.full(20, 40 * number + document, np.uint32))
    return paths


def batches(paths, packing, lines):
    """Two rows a step, of all documents: the loop touches both shards."""
    shards = [TokenShard(path, patience=Patience(lines.append, attempts=3, first_pause_s=0.001)) for path in paths]
    source = packing.source(TokenStream(shards, seed="0"), seed="0", longest_row=64)
    stage = Stage(name="all", tokens=1280, sequence_length=64, tokens_per_step=128)
    (span,) = timeline([[stage]], {"web": source})
    return list(local_batches(span, range(2), microbatches=1, first_step=0))


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("packing", Packing)
@pytest.mark.parametrize("suffix", [".arrayrecord", ".lengths.npy"])
def test_a_flipped_bit_is_a_value_error_naming_the_shard(paths, packing, suffix):
    lines = []
    assert len(batches(paths, packing, lines)) == 10
    flip_a_bit(paths[1].with_suffix(suffix))
    with pytest.raises(ValueError, match=f"web-1{suffix} was changed or damaged"):
        batches(paths, packing, lines)
    assert not lines, "what is damaged stays so: it is not read again"


def test_a_file_that_is_gone_is_an_os_error_after_the_attempts_told(paths, monkeypatch):
    lines = []
    check = TokenShard._check_sizes

    def check_then_remove(shard):
        check(shard)
        if shard.path == paths[0]:
            shard.path.unlink()

    monkeypatch.setattr(TokenShard, "_check_sizes", check_then_remove)
    with pytest.raises(OSError, match="web-0.arrayrecord cannot be read, tried 3 times"):
        batches(paths, Packing.CONCATENATE, lines)
    assert all("web-0.arrayrecord" in line for line in lines)
    assert any("attempt 1 of 3" in line for line in lines) and any("attempt 2 of 3" in line for line in lines)
