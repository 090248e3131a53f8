"""Rows of a batch end to end, each filled up to whole tiles: a tile is then known by one number, and a key by one position.

Shape letters: B batch, S query positions, I intervals, P = B * (S rounded up to tiles of queries).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.schedule import pad_queries


def flat_bounds(mask: IntervalMask, blocks: BlockSizes, num_keys: int) -> IntervalMask:
    """Bounds [I, P] as positions among the keys of all rows."""

    def flat(side_BSI: Array) -> Array:
        B, _, I = side_BSI.shape
        first_B = jnp.arange(B, dtype=jnp.int32) * rounded(num_keys, blocks.keys)
        inside_BSI = jnp.clip(side_BSI, 0, num_keys)  # so that they stay in their row
        return (inside_BSI + first_B[:, None, None]).reshape(-1, I).T

    return IntervalMask(*map(flat, pad_queries(mask, blocks.queries)))


def rounded(size: int, block: int) -> int:
    return size + -size % block
