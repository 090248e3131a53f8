"""Flash attention as Pallas Mosaic kernels for Hopper (sm_90a): forward, gradient of the queries, gradients of keys and values.

Each block of threads owns a line of the schedule: a tile of queries of one head, or a tile of keys of one key/value head. One
warpgroup copies what the line's visits need through the tensor memory accelerator, two others multiply and add up in registers,
each half of the tile. How long a line is, it reads from the schedule, so a tile without a visible pair costs nothing, in any
direction, and long lines go first. No output is added to from two sides: the result does not depend on an order.
FlashAttention-2 (Dao 2023) with the warp specialisation and the overlap of FlashAttention-3 (Shah et al. 2024).

Shape letters: B batch, S query positions, T key positions, N query heads, K key/value heads, G = N/K, H head dim, I intervals,
E = 2 I edges, L lines of a schedule, W = 2 warpgroups, P = B * (S rounded up to tiles), U = B * (T rounded up to tiles),
X = heads * H.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.hopper_forward import forward
from llama3_jax.kernels.attention.hopper_gradients import PARTS, key_gradients, query_gradient
from llama3_jax.kernels.attention.hopper_parts import LOG2_E, TILE, Setting
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.rows import edges, flat_bounds, rounded
from llama3_jax.kernels.attention.schedule import BlockSchedule


class Counted(NamedTuple):
    """Visits that the kernels made, for tests: of each head, tile and warpgroup."""

    forward_NLW: Array
    query_gradient_NLW: Array
    key_gradient_KLW: Array


def attention(
    q_BSNH: Array,
    k_BTKH: Array,
    v_BTKH: Array,
    mask: IntervalMask,
    schedule: BlockSchedule,
    blocks: BlockSizes,
    *,
    interpret: Any = None,
) -> Array:
    """Attention of `reference.attention` over the tiles of `schedule`, which `mask` and these block sizes made.

    Args: interpret: `plgpu.InterpretGPUParams` to run on a CPU.
    Raises: ValueError for tiles, head dims or dtypes that the kernels are not written for.
    """
    (B, S, N, H), K = q_BSNH.shape, k_BTKH.shape[2]
    if blocks != (TILE, TILE):
        raise ValueError(f"tiles of {blocks.queries} x {blocks.keys}; the kernels for Hopper have {TILE} x {TILE}")
    if H not in (64, 128) or q_BSNH.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"head_dim={H}, {q_BSNH.dtype}; the kernels for Hopper take 64 or 128, in bfloat16 or float16")
    out_PX = _attend(Setting(N // K, H, interpret), *_arguments(q_BSNH, k_BTKH, v_BTKH, mask), schedule)
    return out_PX.reshape(B, rounded(S, TILE), N, H)[:, :S]


def count_visits(
    q_BSNH: Array, k_BTKH: Array, v_BTKH: Array, mask: IntervalMask, schedule: BlockSchedule, *, interpret: Any
) -> Counted:
    """The visits that each kernel makes, told by the kernels themselves."""
    G = q_BSNH.shape[2] // k_BTKH.shape[2]
    setting = Setting(G, q_BSNH.shape[3], interpret, count=True)
    q_PX, k_UX, v_UX, edges_EP = _arguments(q_BSNH, k_BTKH, v_BTKH, mask)
    out_PX, lse_NP, forward_NLW = forward(setting, q_PX, k_UX, v_UX, edges_EP, schedule.by_query)
    inputs = (q_PX, k_UX, v_UX, out_PX, jnp.stack([lse_NP, lse_NP], axis=1), edges_EP)
    *_, query_NLW = query_gradient(setting, *inputs, schedule.by_query)
    *_, key_KLW = key_gradients(setting, *inputs, schedule.by_key)
    return Counted(forward_NLW, query_NLW // PARTS, key_KLW // (PARTS * G))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(setting, q_PX, k_UX, v_UX, edges_EP, schedule):
    return forward(setting, q_PX, k_UX, v_UX, edges_EP, schedule.by_query)[0]


def _forward(setting, q_PX, k_UX, v_UX, edges_EP, schedule):
    out_PX, lse_NP = forward(setting, q_PX, k_UX, v_UX, edges_EP, schedule.by_query)
    out_PX, lse_NP = checkpoint_name(out_PX, "attention_out"), checkpoint_name(lse_NP, "attention_lse")
    return out_PX, (q_PX, k_UX, v_UX, edges_EP, schedule, out_PX, lse_NP)


def _backward(setting, saved, out_bar_PX):
    q_PX, k_UX, v_UX, edges_EP, schedule, out_PX, lse_NP = saved
    product_PX = out_bar_PX.astype(jnp.float32) * out_PX.astype(jnp.float32)
    delta_NP = jnp.sum(product_PX.reshape(-1, lse_NP.shape[0], setting.head_dim), axis=-1).T
    stats_N2P = -jnp.stack([lse_NP / (setting.scale * LOG2_E), delta_NP], axis=1)
    inputs = (q_PX, k_UX, v_UX, out_bar_PX.astype(q_PX.dtype), stats_N2P, edges_EP)
    return *query_gradient(setting, *inputs, schedule.by_query), *key_gradients(setting, *inputs, schedule.by_key), None, None


_attend.defvjp(_forward, _backward)


def _arguments(q_BSNH: Array, k_BTKH: Array, v_BTKH: Array, mask: IntervalMask) -> tuple[Array, Array, Array, Array]:
    bounds_IP = flat_bounds(mask, BlockSizes(TILE, TILE), k_BTKH.shape[1])
    edges_E1P = edges(IntervalMask(*(side_IP.T[None] for side_IP in bounds_IP)))
    return _rows(q_BSNH), _rows(k_BTKH), _rows(v_BTKH), edges_E1P[:, 0]


def _rows(x_BSNH: Array) -> Array:
    """[rows end to end, heads side by side], as it lies in memory where no row is filled up."""
    B, S, N, H = x_BSNH.shape
    return jnp.pad(x_BSNH, ((0, 0), (0, -S % TILE), (0, 0), (0, 0))).reshape(-1, N * H)
