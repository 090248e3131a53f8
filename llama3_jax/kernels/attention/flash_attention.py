"""The one public attention function and the choice of its implementation.

Shape letters: B batch, S query positions, T key positions, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
from jax import Array

from llama3_jax.kernels.attention import cudnn, reference, xla
from llama3_jax.kernels.attention.block_sizes import BlockSizes, block_sizes
from llama3_jax.kernels.attention.choice import choose
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.schedule import BlockSchedule, block_schedule
from llama3_jax.kernels.device import traced_for


@partial(jax.tree_util.register_dataclass, data_fields=["schedule"], meta_fields=["implementation", "blocks"])
@dataclass(frozen=True)
class Plan:
    """How a mask is gone about: worked out once per batch and shared by all layers."""

    implementation: Implementation
    blocks: BlockSizes | None
    schedule: BlockSchedule | None
    """None for the reference, which looks at everything, and for cuDNN, which has its own."""


def plan(
    mask: IntervalMask,
    *,
    num_keys: int,
    head_dim: int,
    group: int,
    dtype: str,
    implementation: Implementation = Implementation.AUTO,
    blocks: BlockSizes | None = None,
) -> Plan:
    """What `flash_attention` is to do about `mask`.

    Args:
        group: query heads that share a key/value head.
        dtype: of queries, keys and values.
        blocks: of tiles; None takes those of the table.
    """
    implementation = choose(implementation, head_dim=head_dim, dtype=dtype)
    if implementation in (Implementation.REFERENCE, Implementation.CUDNN):
        return Plan(implementation, None, None)
    blocks = blocks or block_sizes(
        implementation, chip=traced_for().kind, head_dim=head_dim, group=group, num_queries=mask.start_BSI.shape[1],
        num_keys=num_keys,
    )  # fmt: skip
    schedule = block_schedule(mask, num_keys=num_keys, block_q=blocks.queries, block_k=blocks.keys)
    return Plan(implementation, blocks, schedule)


def flash_attention(
    q_BSNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    mask: IntervalMask,
    planned: Plan | None = None,
    *,
    implementation: Implementation = Implementation.AUTO,
) -> Array:
    """softmax(q k^T / sqrt(H)) v over the key intervals of `mask`, differentiable in q, k and v (section 3.2).

    Args:
        q_BSNH: [B, S, N, H], any float dtype; scores and sums are float32 whatever it is.
        k_BTKH, v_BTKH: [B, T, K, H]; query head n reads key/value head n // (N // K).
        planned: `plan(mask, ...)`, whose implementation and tiles are used; made here if it is not given.
        implementation: without a plan.

    Returns: [B, S, N, H] in q's dtype; exact zeros for a query that sees no key.

    Raises: ValueError if the heads do not group.
    """
    N, (_, T, K, H) = q_BSNH.shape[2], k_BTKH.shape
    if N % K:
        raise ValueError(f"{N} query heads do not group over {K} key/value heads; use a multiple of {K}")
    planned = planned or plan(
        mask, num_keys=T, head_dim=H, group=N // K, dtype=q_BSNH.dtype.name, implementation=implementation
    )
    if planned.implementation is Implementation.REFERENCE:
        return reference.attention(q_BSNH, k_BTKH, v_BTKH, mask)
    if planned.implementation is Implementation.CUDNN:
        return cudnn.attention(q_BSNH, k_BTKH, v_BTKH)
    return _kernel(planned.implementation)(q_BSNH, k_BTKH, v_BTKH, mask, planned.schedule, planned.blocks)


def _kernel(implementation: Implementation):
    if implementation is Implementation.XLA:
        return xla.attention
    if implementation is Implementation.TPU:
        from llama3_jax.kernels.attention import tpu  # Pallas takes half a second to import

        return tpu.attention
    from llama3_jax.kernels.attention import hopper

    return hopper.attention
