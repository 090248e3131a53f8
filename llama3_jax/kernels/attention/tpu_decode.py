"""A few queries of each request against keys and values on pages, on a TPU.

One request at a time: while the pages of a step are multiplied, those of the next come in, all heads of a page in one copy. Pages
that no query sees are not touched.

Shape letters: R requests, S queries, N query heads, K key/value heads, G = N/K, H head dim, L layers, P pages of the pool, C
positions of a page, M pages a request may own, X = K * H, E edges, W rows of queries (S * G, filled up), T keys of a step.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.reference import HIDDEN
from llama3_jax.kernels.attention.rows import edges, queries_of_rows, rounded, rows_of_queries, seen_range

STEP = 256
"""Keys taken at a time."""
SUBLANES = 16
"""Rows of queries are a multiple of it."""
LOWEST = HIDDEN / 2


def attention(q_RSNH: Array, k_LPCX: Array, v_LPCX: Array, layer: Array, table_RM: Array, mask: IntervalMask) -> Array:
    """Attention of `paged.paged_attention`."""
    R, S, N, H = q_RSNH.shape
    L, P, C, X = k_LPCX.shape
    K, G = X // H, N // (X // H)
    W = rounded(S * G, SUBLANES)
    q_RKWH = rows_of_queries(q_RSNH, K, W)
    edges_RWE = jnp.pad(jnp.repeat(jnp.moveaxis(edges(mask), 0, 2), G, axis=1), ((0, 0), (0, W - S * G), (0, 0)))
    first_R, end_R = seen_range(mask)
    pages = table_RM + layer * P
    staging = pltpu.VMEM((2, STEP, X), k_LPCX.dtype)
    of_heads = pl.BlockSpec((None, K, W, H), lambda r, *_: (r, 0, 0, 0))
    of_request = pl.BlockSpec((None, W, edges_RWE.shape[2]), lambda r, *_: (r, 0, 0))
    sums = pltpu.VMEM((K, W, 1), jnp.float32)
    out_RKWH = pl.pallas_call(
        partial(_kernel, page=C, scale=H**-0.5),
        out_shape=jax.ShapeDtypeStruct((R, K, W, H), q_RSNH.dtype),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3, grid=(R,),
            in_specs=[of_heads, of_request, pl.BlockSpec(memory_space=pl.ANY), pl.BlockSpec(memory_space=pl.ANY)],
            out_specs=of_heads,
            scratch_shapes=[
                staging, staging, pltpu.SemaphoreType.DMA((2,)), pltpu.VMEM((K, W, H), jnp.float32), sums, sums
            ],
        ),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
    )(pages, first_R, end_R, q_RKWH, edges_RWE, k_LPCX.reshape(L * P, C, X), v_LPCX.reshape(L * P, C, X))  # fmt: skip
    return queries_of_rows(out_RKWH, S, N)


def _kernel(
    pages, first_R, end_R, q_ref, edges_ref, k_pool, v_pool, out_ref, k_staged, v_staged, arrived, acc_KWH, top_KW1, sum_KW1, *,
    page, scale,
):  # fmt: skip
    request = pl.program_id(0)
    K, W, H = q_ref.shape
    first_key, end_key = first_R[request] // STEP * STEP, end_R[request]
    steps = jnp.maximum(end_key - first_key + STEP - 1, 0) // STEP
    part = min(page, STEP)
    last = jnp.maximum(end_key - 1, 0) // part * part

    def copies(step):
        """Of the pages of a step; past the last key its page again, since what nobody owns must not be multiplied."""
        for pool, staged in ((k_pool, k_staged), (v_pool, v_staged)):
            for start in range(0, STEP, part):
                at = jnp.minimum(first_key + step * STEP + start, last)
                source = pool.at[pages[request, at // page], pl.ds(at % page, part)]
                yield pltpu.make_async_copy(source, staged.at[step % 2, pl.ds(start, part)], arrived.at[step % 2])

    def fetch(step):
        for copy in copies(step):
            copy.start()

    acc_KWH[...] = jnp.zeros_like(acc_KWH)
    top_KW1[...] = jnp.full_like(top_KW1, LOWEST)
    sum_KW1[...] = jnp.zeros_like(sum_KW1)
    pl.when(steps > 0)(lambda: fetch(0))

    def one(step, _):
        pl.when(step + 1 < steps)(lambda: fetch(step + 1))
        for copy in copies(step):
            copy.wait()
        key_WT = first_key + step * STEP + lax.broadcasted_iota(jnp.int32, (W, STEP), 1)
        hidden_WT = (key_WT < edges_ref[:, :1]) | (edges_ref[:, edges_ref.shape[1] - 1 :] <= key_WT)
        for number in range(1, edges_ref.shape[1] - 1, 2):
            hidden_WT |= (edges_ref[:, number : number + 1] <= key_WT) & (key_WT < edges_ref[:, number + 1 : number + 2])
        for head in range(K):
            k_TH, v_TH = (staged[step % 2, :, head * H : (head + 1) * H] for staged in (k_staged, v_staged))
            score_WT = lax.dot_general(q_ref[head], k_TH, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
            score_WT = jnp.where(hidden_WT, HIDDEN, score_WT * scale)
            old_W1 = top_KW1[head]
            new_W1 = jnp.maximum(old_W1, jnp.max(score_WT, axis=1, keepdims=True))
            prob_WT = jnp.exp(score_WT - new_W1)
            shrink_W1 = jnp.exp(old_W1 - new_W1)
            top_KW1[head] = new_W1
            sum_KW1[head] = sum_KW1[head] * shrink_W1 + jnp.sum(prob_WT, axis=1, keepdims=True)
            product_WH = lax.dot_general(
                prob_WT.astype(v_TH.dtype), v_TH, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32
            )
            acc_KWH[head] = acc_KWH[head] * shrink_W1 + product_WH

    lax.fori_loop(0, steps, one, None)
    total_KW1 = sum_KW1[...]
    out_ref[...] = (acc_KWH[...] / jnp.where(total_KW1 > 0, total_KW1, 1.0)).astype(out_ref.dtype)
