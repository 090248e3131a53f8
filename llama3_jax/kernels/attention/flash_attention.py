"""The one public attention function and the choice of its implementation.

Shape letters: B batch, S query positions, T key positions, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

from jax import Array

from llama3_jax.kernels.attention import reference, xla
from llama3_jax.kernels.attention.block_sizes import BlockSizes, block_sizes
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.schedule import BlockSchedule, block_schedule
from llama3_jax.kernels.device import traced_for


def plan(
    mask: IntervalMask,
    *,
    num_keys: int,
    head_dim: int,
    group: int,
    implementation: Implementation = Implementation.AUTO,
    blocks: BlockSizes | None = None,
) -> BlockSchedule | None:
    """What `implementation` wants to know about `mask`, worked out once per batch and shared by all layers; None for the
    reference, which looks at everything.

    Args: group: query heads that share a key/value head; blocks: of tiles, None takes those of the table.
    """
    implementation = implementation.resolve()
    if implementation is Implementation.REFERENCE:
        return None
    blocks = blocks or _blocks(implementation, mask.start_BSI.shape[1], num_keys, head_dim, group)
    return block_schedule(mask, num_keys=num_keys, block_q=blocks.queries, block_k=blocks.keys)


def flash_attention(
    q_BSNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    mask: IntervalMask,
    schedule: BlockSchedule | None = None,
    *,
    implementation: Implementation = Implementation.AUTO,
    blocks: BlockSizes | None = None,
) -> Array:
    """softmax(q k^T / sqrt(H)) v over the key intervals of `mask`, differentiable in q, k and v (section 3.2).

    Args:
        q_BSNH: [B, S, N, H], any float dtype; scores and sums are float32 whatever it is.
        k_BTKH, v_BTKH: [B, T, K, H]; query head n reads key/value head n // (N // K).
        schedule: `plan(mask, ...)` for the same implementation and blocks, made here if it is not given.
        blocks: of tiles; None takes those of the table.

    Returns: [B, S, N, H] in q's dtype; exact zeros for a query that sees no key.

    Raises: ValueError if the heads do not group.
    """
    (_, S, N, H), (_, T, K, _) = q_BSNH.shape, k_BTKH.shape
    if N % K:
        raise ValueError(f"{N} query heads do not group over {K} key/value heads; use a multiple of {K}")
    implementation = implementation.resolve()
    if implementation is Implementation.REFERENCE:
        return reference.attention(q_BSNH, k_BTKH, v_BTKH, mask)
    if schedule is None:
        schedule = plan(mask, num_keys=T, head_dim=H, group=N // K, implementation=implementation, blocks=blocks)
    blocks = blocks or _blocks(implementation, S, T, H, N // K)
    if implementation is Implementation.XLA:
        return xla.attention(q_BSNH, k_BTKH, v_BTKH, mask, schedule, blocks)
    from llama3_jax.kernels.attention import tpu  # Pallas takes half a second to import

    return tpu.attention(q_BSNH, k_BTKH, v_BTKH, mask, schedule, blocks)


def _blocks(implementation: Implementation, num_queries: int, num_keys: int, head_dim: int, group: int) -> BlockSizes:
    return block_sizes(
        implementation, chip=traced_for().kind, head_dim=head_dim, group=group, num_queries=num_queries, num_keys=num_keys
    )
