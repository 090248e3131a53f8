"""Which (row, query block, key block) triples an attention pass visits: only those with a visible pair.

Shape letters: B batch, S query positions, I intervals, Q query blocks, J key blocks, M = B*Q*J the most visits possible.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from llama3_jax.kernels.attention.mask import IntervalMask


class BlockSchedule(NamedTuple):
    """Visits in row-major order of (row, query block, key block); entries from `count` on are unused."""

    count: Array
    """int32 scalar: the number of visits."""
    visit_M: Array
    """int32 [M]: (row * Q + query block) * J + key block."""


def block_schedule(mask: IntervalMask, *, num_keys: int, block_q: int, block_k: int) -> BlockSchedule:
    """The visits that `mask` needs; S need not be a multiple of `block_q`, nor T of `block_k`.

    Built once per batch, outside the layer scan. Exact: a block is listed if and only if some query in it sees some
    key in it.
    """
    num_k = -(-num_keys // block_k)
    start_BSI, end_BSI = pad_queries(mask, block_q)
    low_J = jnp.arange(num_k, dtype=jnp.int32) * block_k
    high_J = jnp.minimum(low_J + block_k, num_keys)
    sees_BSJ = jnp.any((jnp.maximum(start_BSI[..., None], low_J) < jnp.minimum(end_BSI[..., None], high_J)), axis=2)
    B, S, _ = sees_BSJ.shape
    active_M = jnp.any(sees_BSJ.reshape(B, S // block_q, block_q, num_k), axis=2).reshape(-1)
    (visit_M,) = jnp.nonzero(active_M, size=active_M.size, fill_value=0)
    return BlockSchedule(jnp.sum(active_M, dtype=jnp.int32), visit_M.astype(jnp.int32))


def pad_queries(mask: IntervalMask, block_q: int) -> IntervalMask:
    """`mask` with empty queries appended up to a multiple of `block_q`."""
    missing = -mask.start_BSI.shape[1] % block_q
    return IntervalMask(*(jnp.pad(side_BSI, ((0, 0), (0, missing), (0, 0))) for side_BSI in mask))
