"""Flash attention in plain XLA: a loop over the scheduled block visits, so cost follows the documents in a row.

Forward is the online softmax of FlashAttention-2 (Dao 2023, algorithm 1), backward recomputes each visited block from
the saved log-sum-exp. No S x S array exists, and a block that no query sees is never read, in either direction.

Shape letters: B batch, S query positions, T key positions, N query heads, K key/value heads, G = N/K, H head dim,
I intervals, X = B * (query blocks), Y = B * (key blocks), Q = G * block_q rows of a query tile (the group is stacked),
J = block_k keys of a tile.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.reference import HIDDEN
from llama3_jax.kernels.attention.schedule import BlockSchedule, pad_queries, unpack

LOWEST = HIDDEN / 2
"""The running maximum before any visit: below every score, and so far above HIDDEN that a hidden pair adds exactly zero."""


class _Tiles(NamedTuple):
    """How rows and heads are cut; static."""

    num_q: int
    num_k: int
    block_q: int
    block_k: int
    group: int


def attention(
    q_BSNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    mask: IntervalMask,
    schedule: BlockSchedule,
    blocks: BlockSizes,
) -> Array:
    """Attention of `reference.attention` over the blocks of `schedule`, which `mask` and these block sizes made."""
    B, S, N, H = q_BSNH.shape
    K, (block_q, block_k) = k_BTKH.shape[2], blocks
    tiles = _Tiles(-(-S // block_q), -(-k_BTKH.shape[1] // block_k), block_q, block_k, N // K)
    q_XKQH = _query_tiles(q_BSNH, tiles)
    bounds_XQI = jax.tree.map(lambda side: side.reshape(B * tiles.num_q, block_q, -1), pad_queries(mask, block_q))
    out_XKQH = _visits(tiles, q_XKQH, _key_tiles(k_BTKH, tiles), _key_tiles(v_BTKH, tiles), bounds_XQI, schedule)
    return _from_query_tiles(out_XKQH, q_BSNH.shape, tiles)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _visits(tiles, q_XKQH, k_YKJH, v_YKJH, bounds_XQI, schedule):
    return _forward(tiles, q_XKQH, k_YKJH, v_YKJH, bounds_XQI, schedule)[0]


def _forward(tiles: _Tiles, q_XKQH, k_YKJH, v_YKJH, bounds_XQI, schedule):
    X, K, Q, H = q_XKQH.shape

    def visit(n, carry):
        acc_XKQH, max_XKQ, sum_XKQ = carry
        x, y, j = _locate(tiles, schedule.by_query.visit_M[n])
        v_KJH = _at(v_YKJH, y)
        score_KQJ = _scores(tiles, _at(q_XKQH, x), _at(k_YKJH, y), bounds_XQI, x, j)
        old_KQ = _at(max_XKQ, x)
        new_KQ = jnp.maximum(old_KQ, jnp.max(score_KQJ, axis=-1))
        prob_KQJ = jnp.exp(score_KQJ - new_KQ[..., None])
        shrink_KQ = jnp.exp(old_KQ - new_KQ)
        out_KQH = _dot("kqj,kjh->kqh", prob_KQJ.astype(v_KJH.dtype), v_KJH)
        return (
            _put(acc_XKQH, x, _at(acc_XKQH, x) * shrink_KQ[..., None] + out_KQH),
            _put(max_XKQ, x, new_KQ),
            _put(sum_XKQ, x, _at(sum_XKQ, x) * shrink_KQ + jnp.sum(prob_KQJ, axis=-1)),
        )

    start = (
        jnp.zeros((X, K, Q, H), jnp.float32),
        jnp.full((X, K, Q), LOWEST, jnp.float32),
        jnp.zeros((X, K, Q), jnp.float32),
    )
    acc_XKQH, max_XKQ, sum_XKQ = lax.fori_loop(0, schedule.by_query.count, visit, start)
    seen_XKQ = sum_XKQ > 0
    out_XKQH = (acc_XKQH / jnp.where(seen_XKQ, sum_XKQ, 1.0)[..., None]).astype(q_XKQH.dtype)
    lse_XKQ = jnp.where(seen_XKQ, max_XKQ + jnp.log(jnp.where(seen_XKQ, sum_XKQ, 1.0)), -HIDDEN)
    out_XKQH, lse_XKQ = checkpoint_name(out_XKQH, "attention_out"), checkpoint_name(lse_XKQ, "attention_lse")
    return out_XKQH, (q_XKQH, k_YKJH, v_YKJH, bounds_XQI, schedule, out_XKQH, lse_XKQ)


def _backward(tiles: _Tiles, saved, out_bar_XKQH):
    q_XKQH, k_YKJH, v_YKJH, bounds_XQI, schedule, out_XKQH, lse_XKQ = saved
    scale = q_XKQH.shape[-1] ** -0.5
    delta_XKQ = jnp.sum(out_bar_XKQH.astype(jnp.float32) * out_XKQH.astype(jnp.float32), axis=-1)

    def visit(n, carry):
        q_bar_XKQH, k_bar_YKJH, v_bar_YKJH = carry
        x, y, j = _locate(tiles, schedule.by_query.visit_M[n])
        q_KQH, k_KJH, v_KJH, out_bar_KQH = _at(q_XKQH, x), _at(k_YKJH, y), _at(v_YKJH, y), _at(out_bar_XKQH, x)
        prob_KQJ = jnp.exp(_scores(tiles, q_KQH, k_KJH, bounds_XQI, x, j) - _at(lse_XKQ, x)[..., None])
        prob_bar_KQJ = _dot("kqh,kjh->kqj", out_bar_KQH, v_KJH)
        score_bar_KQJ = (prob_KQJ * (prob_bar_KQJ - _at(delta_XKQ, x)[..., None]) * scale).astype(q_KQH.dtype)
        v_bar_KJH = _dot("kqj,kqh->kjh", prob_KQJ.astype(out_bar_KQH.dtype), out_bar_KQH)
        return (
            _put(q_bar_XKQH, x, _at(q_bar_XKQH, x) + _dot("kqj,kjh->kqh", score_bar_KQJ, k_KJH)),
            _put(k_bar_YKJH, y, _at(k_bar_YKJH, y) + _dot("kqj,kqh->kjh", score_bar_KQJ, q_KQH)),
            _put(v_bar_YKJH, y, _at(v_bar_YKJH, y) + v_bar_KJH),
        )

    start = tuple(jnp.zeros(primal.shape, jnp.float32) for primal in (q_XKQH, k_YKJH, v_YKJH))
    q_bar_XKQH, k_bar_YKJH, v_bar_YKJH = lax.fori_loop(0, schedule.by_query.count, visit, start)
    return (
        q_bar_XKQH.astype(q_XKQH.dtype),
        k_bar_YKJH.astype(k_YKJH.dtype),
        v_bar_YKJH.astype(v_YKJH.dtype),
        None,
        None,
    )


_visits.defvjp(_forward, _backward)


def _locate(tiles: _Tiles, visit: Array) -> tuple[Array, Array, Array]:
    """Tile numbers (query, key) over all rows, and the key block inside its row."""
    x, y, _ = unpack(visit)
    return x, y, y % tiles.num_k


def _scores(tiles: _Tiles, q_KQH, k_KJH, bounds_XQI: IntervalMask, x, j) -> Array:
    """Scaled float32 scores with hidden pairs at HIDDEN, whose exponential is zero against any maximum or log-sum."""
    start_QI, end_QI = _at(bounds_XQI.start_BSI, x), _at(bounds_XQI.end_BSI, x)
    key_J = j * tiles.block_k + jnp.arange(tiles.block_k, dtype=jnp.int32)
    visible_QJ = jnp.any((start_QI[..., None] <= key_J) & (key_J < end_QI[..., None]), axis=1)
    visible_QJ = jnp.tile(visible_QJ, (tiles.group, 1))
    score_KQJ = _dot("kqh,kjh->kqj", q_KQH, k_KJH) * q_KQH.shape[-1] ** -0.5
    return jnp.where(visible_QJ, score_KQJ, HIDDEN)


def _at(tiles: Array, number: Array) -> Array:
    """One tile; a visit's numbers are in range, so no bounds are checked."""
    return lax.dynamic_index_in_dim(tiles, number, keepdims=False)


def _put(tiles: Array, number: Array, tile: Array) -> Array:
    return lax.dynamic_update_index_in_dim(tiles, tile, number, axis=0)


def _dot(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _query_tiles(x_BSNH: Array, tiles: _Tiles) -> Array:
    B, S, N, H = x_BSNH.shape
    x_BSNH = jnp.pad(x_BSNH, ((0, 0), (0, tiles.num_q * tiles.block_q - S), (0, 0), (0, 0)))
    x = x_BSNH.reshape(B, tiles.num_q, tiles.block_q, N // tiles.group, tiles.group, H).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(B * tiles.num_q, N // tiles.group, tiles.group * tiles.block_q, H)


def _from_query_tiles(x_XKQH: Array, shape: tuple[int, ...], tiles: _Tiles) -> Array:
    B, S, N, H = shape
    x = x_XKQH.reshape(B, tiles.num_q, N // tiles.group, tiles.group, tiles.block_q, H).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(B, tiles.num_q * tiles.block_q, N, H)[:, :S]


def _key_tiles(x_BTKH: Array, tiles: _Tiles) -> Array:
    B, T, K, H = x_BTKH.shape
    x_BTKH = jnp.pad(x_BTKH, ((0, 0), (0, tiles.num_k * tiles.block_k - T), (0, 0), (0, 0)))
    x = x_BTKH.reshape(B, tiles.num_k, tiles.block_k, K, H).transpose(0, 1, 3, 2, 4)
    return x.reshape(B * tiles.num_k, K, tiles.block_k, H)
