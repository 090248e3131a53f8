"""A paged key/value cache: a value that is passed in and returned, for one prompt or for many requests.

Requests own pages of a common pool through a table, so a request's memory grows by pages and pages can be shared.

Shape letters: L layers, P pages of the pool, C positions of a page, K key/value heads, H head dim, R requests,
M pages a request may own, X = K * H, S new positions, N query heads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from llama3_jax.kernels.attention.flash_attention import flash_attention
from llama3_jax.kernels.attention.mask import prefix_mask
from llama3_jax.kernels.attention.paged import few, gathered, paged_attention
from llama3_jax.model.config import ModelConfig
from llama3_jax.sharding.axes import named, spec
from llama3_jax.sharding.per_device import per_device

PAGE = 16
"""Positions of a page."""


class KVCache(NamedTuple):
    k_LPCX: Array
    v_LPCX: Array
    table_RM: Array
    """int32 page numbers of each request, in the order of its positions."""


def empty_cache(cfg: ModelConfig, *, num_requests: int, num_positions: int, dtype: str) -> KVCache:
    """Room for `num_positions` of each request, heads split over the model axis."""
    pages = -(-num_positions // PAGE)
    shape = (cfg.num_layers, num_requests * pages, PAGE, cfg.num_kv_heads * cfg.head_dim)
    pool = jnp.zeros(shape, dtype, out_sharding=named(spec(None, None, None, "kv_heads")))
    return KVCache(pool, pool, jnp.arange(num_requests * pages, dtype=jnp.int32).reshape(num_requests, pages))


class CachedAttend:
    """Writes the new keys and values into the cache, then attends to everything up to each query's position.

    Args: positions_RS: int32 position of each new token in its request; -1 is padding, written nowhere.
    """

    def __init__(self, positions_RS: Array):
        self.positions_RS = positions_RS

    def __call__(self, q_BSNH: Array, k_BSKH: Array, v_BSKH: Array, layer: Array, state: Any) -> tuple[Array, Any]:
        heads, kv_heads = (spec("batch", "position", dim, None) for dim in ("heads", "kv_heads"))
        pool = spec(None, None, None, "kv_heads")
        out_BSNH, *pools = per_device(
            _write_and_attend,
            in_specs=(heads, kv_heads, kv_heads, pool, pool, spec(), spec("batch", "position"), spec()),
            out_specs=(heads, pool, pool),
        )(q_BSNH, k_BSKH, v_BSKH, state.k_LPCX, state.v_LPCX, state.table_RM, self.positions_RS, layer)
        return out_BSNH, KVCache(*pools, state.table_RM)


def _write_and_attend(q_RSNH, k_RSKH, v_RSKH, k_LPCX, v_LPCX, table_RM, positions_RS, layer):
    P = k_LPCX.shape[1]
    page_RS = jnp.take_along_axis(table_RM, jnp.maximum(positions_RS, 0) // PAGE, axis=1)
    page_RS = jnp.where(positions_RS >= 0, page_RS, P)
    k_RSX, v_RSX = (new.reshape(*new.shape[:2], -1) for new in (k_RSKH, v_RSKH))
    k_LPCX = k_LPCX.at[layer, page_RS, positions_RS % PAGE].set(k_RSX, mode="drop")
    v_LPCX = v_LPCX.at[layer, page_RS, positions_RS % PAGE].set(v_RSX, mode="drop")
    mask = prefix_mask(positions_RS)
    if few(q_RSNH.shape[1], q_RSNH.shape[2] // k_RSKH.shape[2]):
        out_RSNH = paged_attention(q_RSNH, k_LPCX, v_LPCX, layer, table_RM, mask)
    else:
        out_RSNH = flash_attention(q_RSNH, *(gathered(pool, layer, table_RM, q_RSNH.shape[3]) for pool in (k_LPCX, v_LPCX)), mask)
    return out_RSNH, k_LPCX, v_LPCX
