"""The one public attention function and the choice of its implementation.

Shape letters: B batch, S query positions, T key positions, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

from jax import Array

from llama3_jax.kernels.attention import reference, xla
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.schedule import BlockSchedule, block_schedule

BLOCK = 256
"""Queries and keys of one tile of the `xla` implementation; shorter rows use one tile of their own length."""


def plan(mask: IntervalMask, *, num_keys: int, implementation: Implementation = Implementation.AUTO) -> BlockSchedule | None:
    """What `implementation` wants to know about `mask`, worked out once per batch and shared by all layers."""
    if implementation.resolve() is Implementation.REFERENCE:
        return None
    block_q, block_k = _blocks(mask.start_BSI.shape[1], num_keys)
    return block_schedule(mask, num_keys=num_keys, block_q=block_q, block_k=block_k)


def flash_attention(
    q_BSNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    mask: IntervalMask,
    schedule: BlockSchedule | None = None,
    *,
    implementation: Implementation = Implementation.AUTO,
) -> Array:
    """softmax(q k^T / sqrt(H)) v over the key intervals of `mask`, differentiable in q, k and v (section 3.2).

    Args:
        q_BSNH: [B, S, N, H], any float dtype; scores and sums are float32 whatever it is.
        k_BTKH, v_BTKH: [B, T, K, H]; query head n reads key/value head n // (N // K).
        schedule: `plan(mask, ...)` for the same implementation, made here if it is not given.

    Returns: [B, S, N, H] in q's dtype; exact zeros for a query that sees no key.

    Raises: ValueError if the heads do not group.
    """
    N, K = q_BSNH.shape[2], k_BTKH.shape[2]
    if N % K:
        raise ValueError(f"{N} query heads do not group over {K} key/value heads; use a multiple of {K}")
    if implementation.resolve() is Implementation.REFERENCE:
        return reference.attention(q_BSNH, k_BTKH, v_BTKH, mask)
    if schedule is None:
        schedule = plan(mask, num_keys=k_BTKH.shape[1], implementation=implementation)
    block_q, block_k = _blocks(q_BSNH.shape[1], k_BTKH.shape[1])
    return xla.attention(q_BSNH, k_BTKH, v_BTKH, mask, schedule, block_q=block_q, block_k=block_k)


def _blocks(num_queries: int, num_keys: int) -> tuple[int, int]:
    return min(BLOCK, num_queries), min(BLOCK, num_keys)
