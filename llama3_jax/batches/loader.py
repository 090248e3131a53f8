"""Batches of a stage through Grain: read ahead by threads, placed on the mesh.

Row k of a stage is a pure function of (seed, mix, stage, k). Each process assembles only the rows that its devices
hold, and no iterator state is ever saved: a loader is made for a step number.

Shape letters: A micro-batches, B rows of a micro-batch, S positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import grain
import jax
import numpy as np
from jax.sharding import NamedSharding

from llama3_jax.batches.batch import Batch
from llama3_jax.batches.rows import pack
from llama3_jax.batches.timeline import Span

READ_THREADS = 2
PREFETCH_BATCHES = 4


Arrange = Callable[[Batch], Batch]


def _as_they_are(batch: Batch) -> Batch:
    return batch


class StageRows:
    """Random access to the rows of a stage: `rows[k]` is a `Batch` of [S] arrays."""

    def __init__(self, span: Span):
        self._span = span
        self._stretches = list(span.stretches.values())

    def __len__(self) -> int:
        return self._span.num_steps * self._span.stage.num_rows

    def __getitem__(self, row: int) -> Batch:
        source, ordinal = self._span.mix.locate(row)
        return pack(self._stretches[source][ordinal], self._span.stage.sequence_length, source)


def stage_batches(
    span: Span, sharding: NamedSharding, *, microbatches: int, first_step: int, arrange: Arrange = _as_they_are
) -> Iterator[Batch]:
    """The global batches [A, B, S] of `span` from step `first_step` of the run on, each placed as `sharding` says.

    Args: arrange: puts the positions of rows (NumPy, [A, B, S]) in the order in which the devices hold them.
    """
    stage = span.stage
    shape = (microbatches, stage.num_rows // microbatches, stage.sequence_length)
    mine = rows_of(sharding.addressable_devices, sharding, shape)

    def place(local: np.ndarray) -> jax.Array:
        def piece(index: tuple[slice, ...]) -> np.ndarray:
            low, high, _ = index[1].indices(shape[1])
            return local[index[0], low - mine.start : high - mine.start, index[2]]

        return jax.make_array_from_callback(shape, sharding, piece)

    for batch in local_batches(span, mine, microbatches=microbatches, first_step=first_step, arrange=arrange):
        yield jax.tree.map(place, batch)


def local_batches(
    span: Span, mine: range, *, microbatches: int, first_step: int, arrange: Arrange = _as_they_are
) -> Iterable[Batch]:
    """The rows `mine` of each micro-batch of the batches of `span`, numpy [A, len(mine), S], read ahead by threads."""
    stage, rows = span.stage, StageRows(span)
    in_microbatch = stage.num_rows // microbatches

    def assemble(step: int) -> Batch:
        first = (step - span.first_step) * stage.num_rows
        loaded = [rows[first + a * in_microbatch + b] for a in range(microbatches) for b in mine]
        shape = (microbatches, len(mine), stage.sequence_length)
        return arrange(jax.tree.map(lambda *leaves: np.stack(leaves).reshape(shape), *loaded))

    steps = grain.MapDataset.range(first_step, span.end_step).map(assemble)
    return steps.to_iter_dataset(grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=PREFETCH_BATCHES))


def rows_of(devices: Iterable[jax.Device], sharding: NamedSharding, shape: tuple[int, ...]) -> range:
    """The rows of a micro-batch that these devices of `sharding` hold between them."""
    places = sharding.devices_indices_map(shape)
    bounds = [places[device][1].indices(shape[1])[:2] for device in devices]
    return range(min(low for low, _ in bounds), max(high for _, high in bounds))
