"""A loader may run for a million steps: neither memory, nor open files, nor shared memory grow."""

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from llama3_jax.batches.loader import local_batches
from llama3_jax.batches.packing import Packing
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.stream import TokenStream
from llama3_jax.batches.timeline import timeline
from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter

NUM_SHARDS = 80
"""More than are kept open at a time."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    directory, rng = tmp_path_factory.mktemp("soak"), np.random.default_rng(0)
    paths = [directory / f"web-{number:03d}.arrayrecord" for number in range(NUM_SHARDS)]
    for path in paths:
        with TokenShardWriter(path, source="web", tokenizer_fingerprint="f", vocab_size=1000) as shard:
            for length in rng.integers(2, 60, 40):
                shard.write(rng.integers(0, 1000, length).astype(np.uint32))
    return [TokenShard(path) for path in paths]


def used():
    """(resident bytes, open files, files in shared memory)"""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir("/proc/self/fd")), len(os.listdir("/dev/shm"))


def soak(shards, packing, steps, warm_up):
    """What is used after `warm_up` steps of two rows, and after `steps` more."""
    source = packing.source(TokenStream(shards, seed="0"), seed="0", longest_row=64)
    stage = Stage(name="soak", tokens=(warm_up + steps) * 128, sequence_length=64, tokens_per_step=128)
    (span,) = timeline([[stage]], {"web": source})
    before, count = None, 0
    for count, batch in enumerate(local_batches(span, range(2), microbatches=1, first_step=0), start=1):
        assert batch.tokens.shape == (1, 2, 64)
        if count == warm_up:
            before = used()
    assert count == warm_up + steps
    return before, used()


@pytest.mark.parametrize("packing", Packing)
def test_some_thousand_steps_leave_nothing_behind(shards, packing):
    before, after = soak(shards, packing, steps=4_000, warm_up=1_000)
    assert after[0] < 1.02 * before[0]
    assert after[1] <= before[1] + 2 and after[2] <= before[2]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_steps_leave_nothing_behind(shards):
    """Every epoch has an order of its own: thousands of them, and as many plans."""
    before, after = soak(shards, Packing.BEST_FIT, steps=1_000_000, warm_up=20_000)
    print(f"resident {before[0] / 2**20:.1f} -> {after[0] / 2**20:.1f} MiB, files {before[1]} -> {after[1]}")
    assert after[0] < 1.01 * before[0]
    assert after[1] <= before[1] + 2 and after[2] <= before[2]
