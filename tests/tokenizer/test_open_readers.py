"""However many shards a run has, a process holds few of them open, and no thread loses the one it reads."""

import gc
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from llama3_jax.tokenizer import token_shard
from llama3_jax.tokenizer.open_readers import LIMIT, OpenReaders
from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter

NUM_SHARDS, NUM_THREADS, NUM_READS = 3 * LIMIT, 8, 4000


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
def test_file_handles_are_bounded_while_threads_read_everywhere(tmp_path, monkeypatch):
    readers = OpenReaders()  # that of the process holds what other tests read
    monkeypatch.setattr(token_shard, "OPEN_READERS", readers)
    shards = []
    for number in range(NUM_SHARDS):
        path = tmp_path / f"{number}.arrayrecord"
        with TokenShardWriter(path, source="web", tokenizer_fingerprint="f", vocab_size=10**6) as writer:
            for document in range(4):
                writer.write(np.full(50, 4 * number + document))
        shards.append(TokenShard(path))
    before, seen = open_files(), []

    def read(place):
        shard, document = divmod(int(place), 4)
        found = shards[shard][document]
        if document == 0:
            seen.append(open_files())
        return found[0] == place and shards[shard].lengths[document] == 50

    places = np.random.default_rng(0).integers(0, 4 * NUM_SHARDS, NUM_READS)
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        assert all(threads.map(read, places))
    # besides the readers in the table: one that each thread is about to put there, one it still reads with, and lengths
    assert LIMIT / 2 < max(seen) - before <= LIMIT + 4 * NUM_THREADS
    gc.collect()
    assert len(readers) <= LIMIT and open_files() - before <= LIMIT
