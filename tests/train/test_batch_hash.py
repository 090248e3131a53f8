"""The checksum of a batch is that of a NumPy oracle, and of nothing but what stands in the batch and where."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from llama3_jax.batches.batch import Batch
from llama3_jax.sharding.axes import spec
from llama3_jax.train.batch_hash import TRAINED_ON, batch_hash

ROWS, S = 8, 16
MASK = 2**32 - 1


def finalised(x: int) -> int:
    x = ((x ^ x >> 16) * 0x85EBCA6B) & MASK
    x = ((x ^ x >> 13) * 0xC2B2AE35) & MASK
    return x ^ x >> 16


def oracle(batch: Batch) -> int:
    """One element at a time, in Python's integers."""
    total = 0
    for number, name in enumerate(("tokens", "targets", "loss_weight", "segment_ids", "positions")):
        flat = getattr(batch, name).reshape(-1).view(np.uint32).tolist()
        total += sum(finalised(value ^ finalised((5 * place + number) & MASK)) for place, value in enumerate(flat))
    return total & MASK


def new_batch(seed: int = 0) -> Batch:
    draw = np.random.default_rng(seed)
    numbers = {name: draw.integers(-1, 100, (1, ROWS, S), dtype=np.int32) for name in Batch._fields}
    order = np.broadcast_to(np.arange(S, dtype=np.int32), (1, ROWS, S))
    return Batch(**numbers | {"loss_weight": draw.random((1, ROWS, S), np.float32), "order": order})


def hashed(batch: Batch) -> int:
    result = jax.jit(batch_hash)(batch)
    assert result.dtype == np.uint32
    return int(result)


def test_it_is_that_of_the_oracle():
    for seed in range(3):
        assert hashed(new_batch(seed)) == oracle(new_batch(seed))


@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_microbatches_do_not_show(pieces):
    batch = new_batch()
    cut = jax.tree.map(lambda leaf: leaf.reshape(pieces, ROWS // pieces, S), batch)
    assert hashed(cut) == hashed(batch)


def test_the_order_of_positions_does_not_show():
    batch, order = new_batch(), np.random.default_rng(1).permuted(new_batch().order, axis=-1)
    moved = jax.tree.map(lambda leaf: np.take_along_axis(leaf, order, axis=-1), batch)
    assert hashed(moved) == hashed(batch) != hashed(moved._replace(order=batch.order))


@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "sequence": 2, "model": 2}, {"sequence": 4}])
def test_the_mesh_does_not_show(axes, mesh):
    devices = mesh(**axes)
    placed = jax.device_put(new_batch(), NamedSharding(devices, spec(None, "batch", "position")))
    with jax.set_mesh(devices):
        assert hashed(placed) == hashed(new_batch())


@pytest.mark.parametrize("name", TRAINED_ON)
def test_any_element_shows(name):
    batch, seen = new_batch(), set()
    program = jax.jit(batch_hash)
    for row in range(ROWS):
        for position in range(S):
            changed = getattr(batch, name).copy()
            changed[0, row, position] += 1
            seen.add(int(program(batch._replace(**{name: changed}))))
    assert len(seen - {hashed(batch)}) == ROWS * S


def test_rows_that_change_places_show():
    batch, seen = new_batch(), set()
    for one in range(ROWS):
        for other in range(one):
            order = np.arange(ROWS)
            order[[one, other]] = other, one
            seen.add(hashed(jax.tree.map(lambda leaf, order=order: leaf[:, order], batch)))
    assert len(seen - {hashed(batch)}) == ROWS * (ROWS - 1) // 2


def test_arrays_that_change_places_show():
    batch = new_batch()
    assert hashed(batch._replace(tokens=batch.targets, targets=batch.tokens)) != hashed(batch)


def test_the_number_of_the_source_does_not_show():
    batch = new_batch()
    assert hashed(batch._replace(source=batch.source + 1)) == hashed(batch)
