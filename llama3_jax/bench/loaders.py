"""Loaders that read the same token shards: ours, a plain Grain pipeline, and a packing loop as torchtitan writes it.

Shape letters: B rows, S positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import grain
import numpy as np

from llama3_jax.batches.loader import PREFETCH_BATCHES, READ_THREADS, local_batches
from llama3_jax.batches.packing import Packing
from llama3_jax.batches.source import Source, Tally
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.stream import TokenStream
from llama3_jax.batches.timeline import timeline
from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter


class Loader(Protocol):
    name: str

    def batches(self) -> Iterator[np.ndarray]:
        """The token ids [B, S] of one batch after the other, whatever else comes with them."""
        ...


class Ours:
    """Random access to shuffled documents: tokens, targets, loss weights, segments, positions and sources."""

    def __init__(self, shards: Sequence[TokenShard], packing: Packing, num_rows: int, length: int, num_batches: int):
        self.name = f"llama3_jax, {packing.value}"
        self.source: Source = packing.source(TokenStream(shards, seed="bench"), seed="bench", longest_row=length)
        stage = Stage(
            name="bench", tokens=num_batches * num_rows * length, sequence_length=length, tokens_per_step=num_rows * length
        )
        (self._span,) = timeline([[stage]], {"bench": self.source})

    @property
    def tally(self) -> Tally:
        """Waste and truncation of the rows that are measured."""
        return self._span.stretches["bench"].tally

    def batches(self) -> Iterator[np.ndarray]:
        for batch in local_batches(self._span, range(self._span.stage.num_rows), microbatches=1, first_step=0):
            yield batch.tokens[0]


class PlainGrain:
    """Grain as its documentation puts it together: tokens, segments and positions; documents shuffled."""

    name = "Grain, concatenate and split"

    def __init__(self, shards: Sequence[TokenShard], num_rows: int, length: int):
        self._paths = [str(shard.path) for shard in shards]
        self._num_rows = num_rows
        self._length = length

    def batches(self) -> Iterator[np.ndarray]:
        documents = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(self._paths)).shuffle(seed=0).repeat()
        documents = documents.map(lambda record: {"tokens": np.frombuffer(record, np.uint32).astype(np.int32)})
        options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=PREFETCH_BATCHES * self._num_rows)
        rows = grain.experimental.ConcatThenSplitIterDataset(
            documents.to_iter_dataset(options), length_struct={"tokens": self._length}
        )
        for batch in rows.batch(self._num_rows):
            yield batch["tokens"]


class TorchtitanStyle:
    """Documents in stored order into a list of ids, from which rows are cut: inputs and labels, no segments."""

    name = "torchtitan-style loop"

    def __init__(self, shards: Sequence[TokenShard], num_rows: int, length: int):
        self._shards = shards
        self._num_rows = num_rows
        self._length = length

    def batches(self) -> Iterator[np.ndarray]:
        rows = self._rows()
        while True:
            inputs, _ = zip(*itertools.islice(rows, self._num_rows), strict=True)
            yield np.stack(inputs)

    def _rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        buffer: list[int] = []
        for shard in itertools.cycle(self._shards):
            for number in range(len(shard)):
                buffer.extend(shard[number].tolist())
                while len(buffer) > self._length:
                    row = np.array(buffer[: self._length + 1], np.int64)
                    buffer = buffer[self._length + 1 :]
                    yield row[:-1], row[1:]


def write_random_shards(directory: Path, *, num_documents: int, mean_tokens: int, vocab_size: int = 128_256) -> list[TokenShard]:
    """Four shards of documents with log-normal lengths, their ids as unevenly frequent as those of text."""
    rng = np.random.default_rng(0)
    sigma = 1.0
    lengths = rng.lognormal(np.log(mean_tokens) - sigma**2 / 2, sigma, num_documents).astype(np.int64) + 2
    paths = [directory / f"bench-{number}.arrayrecord" for number in range(4)]
    for path, mine in zip(paths, np.array_split(lengths, len(paths)), strict=True):
        with TokenShardWriter(path, source="bench", tokenizer_fingerprint="bench", vocab_size=vocab_size) as shard:
            for length in mine:
                shard.write(np.minimum(rng.pareto(0.6, length) * 20, vocab_size - 1).astype(np.uint32))
    return [TokenShard(path) for path in paths]
