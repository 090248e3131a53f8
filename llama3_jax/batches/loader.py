"""Batches of a stage through Grain: read ahead by threads, placed on the mesh.

Row k of a stage is a pure function of (seed, mix, stage, k). Each process assembles only the rows that its devices
hold, and no iterator state is ever saved: a loader is made for a step number.

Shape letters: A micro-batches, B rows of a micro-batch, S positions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from llama3_jax.batches.batch import Batch
from llama3_jax.batches.permutation import permutation
from llama3_jax.batches.rows import pack
from llama3_jax.batches.shuffle import ShuffledStream
from llama3_jax.batches.timeline import Span

READ_THREADS = 2
PREFETCH_BATCHES = 4


SHUFFLED_ROWS = 1 << 16
"""Rows of a source that are shuffled among themselves.

The last of three shuffles: a stream shuffles documents, so that a row does not hold neighbours of the crawl; blocks of it
are shuffled, so that a stage draws on the whole source; and the rows of a stage, so that a batch is not one block.
"""


class StageRows:
    """Random access to the rows of a stage: `rows[k]` is a `Batch` of [S] arrays.

    A source's part of the stage is one stretch of its stream, cut into rows whose order is then shuffled.
    """

    def __init__(self, span: Span, streams: Sequence[ShuffledStream], *, seed: int):
        self._span = span
        self._streams = streams
        self._seed = seed
        self._counts = span.mix.counts(len(self))
        self._order = functools.lru_cache(maxsize=2 * len(streams))(self._order_block)

    def __len__(self) -> int:
        return self._span.num_steps * self._span.stage.num_rows

    def __getitem__(self, row: int) -> Batch:
        length = self._span.stage.sequence_length
        source, ordinal = self._span.mix.locate(row)
        block, offset = divmod(ordinal, SHUFFLED_ROWS)
        ordinal = block * SHUFFLED_ROWS + int(self._order(source, block)[offset])
        pieces = self._streams[source].row(self._span.positions[source] + ordinal * length, length)
        return pack(pieces, length, source)

    def _order_block(self, source: int, block: int) -> np.ndarray:
        size = min(SHUFFLED_ROWS, int(self._counts[source]) - block * SHUFFLED_ROWS)
        return permutation(size, "rows", self._seed, self._span.first_step, source, block)


def stage_batches(
    span: Span, streams: Sequence[ShuffledStream], sharding: NamedSharding, *, microbatches: int, seed: int, first_step: int
) -> Iterator[Batch]:
    """The global batches [A, B, S] of `span` from step `first_step` of the run on, each placed as `sharding` says."""
    stage = span.stage
    shape = (microbatches, stage.num_rows // microbatches, stage.sequence_length)
    mine = _local_rows(sharding, shape)

    def assemble(step: int) -> Batch:
        """This process's rows of a step: numpy [A, its B, S]."""
        first = (step - span.first_step) * stage.num_rows
        loaded = [rows[first + a * shape[1] + b] for a in range(shape[0]) for b in mine]
        return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(shape[0], len(mine), shape[2]), *loaded)

    def place(local: np.ndarray) -> jax.Array:
        def piece(index: tuple[slice, ...]) -> np.ndarray:
            low, high, _ = index[1].indices(shape[1])
            return local[index[0], low - mine.start : high - mine.start, index[2]]

        return jax.make_array_from_callback(shape, sharding, piece)

    rows = StageRows(span, streams, seed=seed)
    steps = grain.MapDataset.range(first_step, span.end_step).map(assemble)
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=PREFETCH_BATCHES)
    for batch in steps.to_iter_dataset(options):
        yield jax.tree.map(place, batch)


def _local_rows(sharding: NamedSharding, shape: tuple[int, ...]) -> range:
    """The rows of a micro-batch that this process's devices hold between them."""
    bounds = [index[1].indices(shape[1])[:2] for index in sharding.addressable_devices_indices_map(shape).values()]
    return range(min(low for low, _ in bounds), max(high for _, high in bounds))
