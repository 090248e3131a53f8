"""Rows of a batch end to end, each filled up to whole tiles: a tile is then known by one number, and a key by one position.

Shape letters: B batch, S query positions, I intervals, P = B * (S rounded up to tiles of queries).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

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


def edges(mask: IntervalMask) -> Array:
    """int32 [E, B, S]: where the keys that a query sees begin and end by turns, from its first interval to its last; E = 2 I."""
    order_BSI = jnp.argsort(mask.start_BSI, axis=2)
    start_BSI, end_BSI = (jnp.take_along_axis(side_BSI, order_BSI, axis=2) for side_BSI in mask)
    edges_BSE = jnp.stack([start_BSI, lax.cummax(end_BSI, axis=2)], axis=3).reshape(*start_BSI.shape[:2], -1)
    return jnp.moveaxis(edges_BSE, 2, 0)


def seen_range(mask: IntervalMask) -> tuple[Array, Array]:
    """int32 [B] each: the first key that any query of a row sees, and where the last one ends; nothing is (0, 0)."""
    sees_BSI = mask.start_BSI < mask.end_BSI
    end_B = jnp.max(jnp.where(sees_BSI, mask.end_BSI, 0), axis=(1, 2))
    return jnp.min(jnp.where(sees_BSI, mask.start_BSI, end_B[:, None, None]), axis=(1, 2)), end_B


def rows_of_queries(q_RSNH: Array, num_kv_heads: int, num_rows: int) -> Array:
    """[R, K, W, H]: the queries of all heads of a group as rows beside their key/value head, filled up to `num_rows`."""
    R, S, N, H = q_RSNH.shape
    q_RKWH = q_RSNH.reshape(R, S, num_kv_heads, -1, H).transpose(0, 2, 1, 3, 4).reshape(R, num_kv_heads, -1, H)
    return jnp.pad(q_RKWH, ((0, 0), (0, 0), (0, num_rows - q_RKWH.shape[2]), (0, 0)))


def queries_of_rows(out_RKWH: Array, num_queries: int, num_heads: int) -> Array:
    """[R, S, N, H] of what came of `rows_of_queries`."""
    R, K, _, H = out_RKWH.shape
    G = num_heads // K
    out_RKSGH = out_RKWH[:, :, : num_queries * G].reshape(R, K, num_queries, G, H)
    return out_RKSGH.transpose(0, 2, 1, 3, 4).reshape(R, num_queries, num_heads, H)


def rounded(size: int, block: int) -> int:
    return size + -size % block
