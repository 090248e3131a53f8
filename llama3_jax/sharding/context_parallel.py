"""Context parallelism (section 3.3.2): queries stay where they are, keys and values are gathered over the sequence axis.

The all-gather form works with any mask, and under grouped-query attention keys and values are small. What attention costs a
query depends on its place in its document, so equal shares of a row are unequal work: a row is cut into blocks, and these are
dealt out by cost where the batch is placed on the devices (the paper cuts a row into 2 * CP chunks and pairs the first with the
last, which is this where one document fills the row). Gathered keys and values are put back in the order of the row.

Shape letters: B batch, S a device's positions, T all of a row, X blocks of a row, K key/value heads, H head dim.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llama3_jax.batches.batch import Batch
from llama3_jax.sharding.axes import RULES
from llama3_jax.sharding.per_device import all_gather, axis_size, psum_scatter

LARGEST_BLOCK = 256


class Deal(NamedTuple):
    """Where the blocks of each row are, among those that a gather over the sequence axis brings together."""

    natural_BX: Array
    """int32: the block of the row that each gathered block is."""
    gathered_BX: Array
    """int32: where each block of the row is among the gathered ones."""


def block_size(num_positions: int, num_pieces: int) -> int:
    """Positions of a block: as many as divide a piece, at most LARGEST_BLOCK and at least two blocks a piece, if they can."""
    piece, block = num_positions // num_pieces, LARGEST_BLOCK
    while block > 1 and (piece % block or piece == block):
        block //= 2
    return block


def dealt(batch: Batch, num_pieces: int) -> Batch:
    """NumPy arrays [..., T] with the positions of each row in the order in which devices of the sequence axis hold them.

    Each device gets as many blocks as the others, and nearly the same number of pairs of tiles to visit.
    """
    if num_pieces == 1:
        return batch
    T = batch.tokens.shape[-1]
    block = block_size(T, num_pieces)
    cost_NX = block_costs(batch, block).reshape(-1, T // block)
    order_NX = np.stack([_deal(cost_X, num_pieces) for cost_X in cost_NX])
    order_NT = (order_NX[..., None] * block + np.arange(block)).reshape(batch.tokens.shape)
    return Batch(*(np.take_along_axis(leaf, order_NT, axis=-1) for leaf in batch))


def block_costs(batch: Batch, block: int) -> np.ndarray:
    """Tiles of keys that each block of queries visits: from the start of its first document to its own end."""
    shape = (*batch.tokens.shape[:-1], -1, block)
    place = np.arange(batch.tokens.shape[-1])
    seeing = batch.segment_ids > 0
    first = np.where(seeing, place - batch.positions, place.size).reshape(shape).min(axis=-1) // block
    end = -(-np.where(seeing, place + 1, 0).reshape(shape).max(axis=-1) // block)
    return np.maximum(end - first, 0)


def _deal(cost_X: np.ndarray, num_pieces: int) -> np.ndarray:
    """Blocks in the order of the devices: dealt from the dearest down, there and back; a device holds its own in order."""
    by_cost = np.argsort(-cost_X, kind="stable").reshape(-1, num_pieces)
    by_cost[1::2] = by_cost[1::2, ::-1]
    return np.sort(by_cost.T, axis=1).reshape(-1)


def gathered_deal(order_BS: Array) -> Deal | None:
    """How the rows were dealt, inside `per_device`; None where a device holds whole rows.

    Args: order_BS: where in its row each of a device's positions stands.
    """
    pieces = axis_size(RULES.position)
    if pieces == 1:
        return None
    block = block_size(order_BS.shape[1] * pieces, pieces)
    natural_BX = all_gather(order_BS[:, ::block] // block, RULES.position, 1)
    return Deal(natural_BX, jnp.argsort(natural_BX, axis=1).astype(jnp.int32))


@jax.custom_vjp
def gather_positions(x_BSKH: Array, deal: Deal | None) -> Array:
    """All positions of keys or values in the order of the row, inside `per_device`; what the devices send back is summed in
    float32."""
    x_BTKH = all_gather(x_BSKH, RULES.position, 1)
    return x_BTKH if deal is None else _blocks_taken(x_BTKH, deal.gathered_BX)


def _forward(x_BSKH: Array, deal: Deal | None):
    return gather_positions(x_BSKH, deal), deal


def _backward(deal: Deal | None, bar_BTKH: Array):
    gathered_BTKH = bar_BTKH if deal is None else _blocks_taken(bar_BTKH, deal.natural_BX)
    sum_BSKH = psum_scatter(gathered_BTKH.astype(jnp.float32), RULES.position, 1)
    return sum_BSKH.astype(bar_BTKH.dtype), None


gather_positions.defvjp(_forward, _backward)


def _blocks_taken(x_BTKH: Array, blocks_BX: Array) -> Array:
    B, T, K, H = x_BTKH.shape
    X = blocks_BX.shape[1]
    by_block = x_BTKH.reshape(B, X, T // X * K * H)
    return jnp.take_along_axis(by_block, blocks_BX[..., None], axis=1).reshape(B, T, K, H)
