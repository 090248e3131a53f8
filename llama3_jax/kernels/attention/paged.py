"""Attention of a few queries of each request to keys and values on pages: what decoding needs.

On H100 and H200, and on TPUs, a Pallas kernel reads each page that a query sees once and no other; elsewhere, and for shapes that
the kernels are not written for, pages are gathered first, which moves them three times.

Shape letters: R requests, S new positions, N query heads, K key/value heads, H head dim, L layers, P pages of the pool,
C positions of a page, M pages a request may own, X = K * H.
"""

from __future__ import annotations

from jax import Array

from llama3_jax.kernels.attention import reference
from llama3_jax.kernels.attention.choice import choose
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask

MOST_ROWS = 64
"""Queries times heads of a group that the kernels take; more are no few."""


def few(num_queries: int, group: int) -> bool:
    return num_queries * group <= MOST_ROWS


def paged_attention(
    q_RSNH: Array,
    k_LPCX: Array,
    v_LPCX: Array,
    layer: Array,
    table_RM: Array,
    mask: IntervalMask,
    *,
    implementation: Implementation = Implementation.AUTO,
) -> Array:
    """softmax(q k^T / sqrt(H)) v over the key intervals of `mask`, which are positions of a request.

    Args:
        q_RSNH: [R, S, N, H], few queries; k_LPCX, v_LPCX: the pool, heads side by side, in the same dtype.
        layer: int32, whose pages are read; table_RM: int32 [R, M], the page of each position // C of a request.

    Returns: [R, S, N, H] in q's dtype; exact zeros for a query that sees no key.
    """
    _, S, N, H = q_RSNH.shape
    C, X = k_LPCX.shape[2:]
    taken = choose(implementation, head_dim=H, dtype=q_RSNH.dtype.name)
    if few(S, N // (X // H)) and _divides(C):
        if taken is Implementation.HOPPER:
            from llama3_jax.kernels.attention import hopper_decode  # Pallas takes half a second to import

            return hopper_decode.attention(q_RSNH, k_LPCX, v_LPCX, layer, table_RM, mask)
        if taken is Implementation.TPU:
            from llama3_jax.kernels.attention import tpu_decode

            return tpu_decode.attention(q_RSNH, k_LPCX, v_LPCX, layer, table_RM, mask)
    return reference.attention(q_RSNH, *(gathered(pool, layer, table_RM, H) for pool in (k_LPCX, v_LPCX)), mask)


def gathered(pool_LPCX: Array, layer: Array, table_RM: Array, head_dim: int) -> Array:
    """The positions of each request side by side: [R, M * C, K, H]."""
    (R, M), C = table_RM.shape, pool_LPCX.shape[2]
    return pool_LPCX[layer, table_RM].reshape(R, M * C, -1, head_dim)


def _divides(page: int) -> bool:
    """Whether pages make up whole steps of the kernels, or steps whole pages, in rows that their memory is laid out by."""
    return page % 16 == 0 and (256 % page == 0 or page % 256 == 0)
