"""A few queries of each request against keys and values on pages, on Hopper.

A request's keys are cut into pieces, and each block of threads owns a piece of one key/value head, so that one long request keeps
the whole chip busy as well as many short ones do: pages pass by once, for all queries of the head's group. What the pieces found
is put together outside (flash decoding, Dao et al. 2023).

Shape letters: R requests, S queries, N query heads, K key/value heads, G = N/K, H head dim, L layers, P pages of the pool, C
positions of a page, M pages a request may own, X = K * H, E edges, J pieces, W rows of queries (S * G, filled up to 64).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama3_jax.kernels.attention.hopper_parts import (
    ALONG_ROWS,
    LOG2_E,
    ROWS,
    accumulators,
    across,
    begin,
    end,
    full,
    memory,
    on_the_left,
    shown,
    stream,
)
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.reference import HIDDEN
from llama3_jax.kernels.attention.rows import edges, queries_of_rows, rows_of_queries, seen_range

STEP = 64
"""Keys taken at a time."""
STAGES = 3
FILL = 132
"""Pieces that there are at least, if they can be had: one for each multiprocessor of the chip."""
SHORTEST = 512
"""Keys of a piece, at least: each costs the time to begin."""
LOWEST = HIDDEN / 2


def attention(
    q_RSNH: Array,
    k_LPCX: Array,
    v_LPCX: Array,
    layer: Array,
    table_RM: Array,
    mask: IntervalMask,
    *,
    interpret: Any = None,
) -> Array:
    """Attention of `paged.paged_attention`.

    Args: interpret: `plgpu.InterpretGPUParams` to run on a CPU.
    """
    R, S, N, H = q_RSNH.shape
    _, P, C, X = k_LPCX.shape
    K, G, M = X // H, N // (X // H), table_RM.shape[1]
    wanted, kept = -(-FILL // (R * K)), -(-S * G // 8) * 8
    length = max(SHORTEST, -(-M * C // wanted // STEP) * STEP)
    J = -(-M * C // length)
    edges_ERW = jnp.pad(jnp.repeat(edges(mask), G, axis=2), ((0, 0), (0, 0), (0, ROWS - S * G)))
    first_R, end_R = seen_range(mask)
    dtype, part = q_RSNH.dtype, min(C, STEP)
    scratch = {
        "q_smem": memory((ROWS, H), dtype), "edges_smem": plgpu.SMEM((edges_ERW.shape[0], ROWS), jnp.int32),
        "q_there": plgpu.Barrier(num_arrivals=2), "lse_smem": plgpu.SMEM((ROWS,), jnp.float32),
        "keys": stream(STAGES, ((STEP, H), dtype), parts=STEP // part, readers=1),
        "values": stream(STAGES, ((STEP, H), dtype), parts=STEP // part, readers=1),
        "out_smem": plgpu.SMEM((ROWS, H), jnp.float32), **({"staged": memory((1, ROWS, STEP), dtype)} if interpret else {}),
    }  # fmt: skip

    def body(*refs, **scratch):
        _kernel(*refs, part=part, page=C, pool=P * C, pages=M, length=length, kept=kept, **{"staged": None, **scratch})

    out_JRKWH, lse_JRKW = plgpu.kernel(
        body, grid=(J, R, K), grid_names=("piece", "request", "head"), num_threads=2, thread_name="warpgroup",
        out_type=[jax.ShapeDtypeStruct((J, R, K, kept, H), jnp.float32), jax.ShapeDtypeStruct((J, R, K, ROWS), jnp.float32)],
        scratch_types=scratch, compiler_params=plgpu.CompilerParams(approx_math=True),
        **({"interpret": interpret} if interpret else {}),
    )(
        rows_of_queries(q_RSNH, K, ROWS), k_LPCX.reshape(-1, X), v_LPCX.reshape(-1, X), edges_ERW, table_RM.reshape(-1),
        first_R, end_R, layer.reshape(1),
    )  # fmt: skip
    top_RKW = jnp.max(lse_JRKW, axis=0)
    weight_JRKW = jnp.exp2(lse_JRKW - top_RKW)[..., : S * G]
    out_RKWH = jnp.einsum("jrkw,jrkwh->rkwh", weight_JRKW, out_JRKWH[..., : S * G, :]) / jnp.sum(weight_JRKW, axis=0)[..., None]
    return queries_of_rows(out_RKWH, S, N).astype(q_RSNH.dtype)


def _kernel(
    q_ref, k_ref, v_ref, edges_ref, table_ref, first_ref, end_ref, layer_ref, out_ref, lse_ref, *, part, page, pool, pages,
    length, kept, q_smem, edges_smem, q_there, lse_smem, keys, values, out_smem, staged,
):  # fmt: skip
    """Args: part, page, pool: positions copied at once, of a page, of a layer; pages: of a request; length: of a piece."""
    piece, request, head = (lax.axis_index(name) for name in ("piece", "request", "head"))
    warpgroup, H = lax.axis_index("warpgroup"), q_smem.shape[1]
    end_key = jnp.minimum((piece + 1) * length, end_ref[request])
    first_key = jnp.maximum(piece * length, first_ref[request] // STEP * STEP)
    steps = jnp.maximum(end_key - first_key + STEP - 1, 0) // STEP

    @pl.when(warpgroup == 1)
    def copying():
        columns, first_of_layer = pl.ds(head * H, H), layer_ref[0] * pool

        def one(step, _):
            # where no key is left, the last one's page again: what a page that nobody owns holds must not be multiplied
            last = (end_key - 1) // part * part
            positions = [jnp.minimum(first_key + step * STEP + start, last) for start in range(0, STEP, part)]
            rows = [first_of_layer + table_ref[request * pages + at // page] * page + at % page for at in positions]
            for target, source in ((keys, k_ref), (values, v_ref)):
                target.fill(step, [source.at[pl.ds(row, part), columns] for row in rows])

        lax.fori_loop(0, steps, one, None)

    @pl.when(warpgroup == 0)
    def multiplying():
        plgpu.copy_gmem_to_smem(q_ref.at[request, head], q_smem, q_there)
        plgpu.copy_gmem_to_smem(edges_ref.at[:, request], edges_smem, q_there)
        plgpu.barrier_wait(q_there)
        factor = H**-0.5 * LOG2_E

        def one(step, carry):
            acc_WH, top_W, total_W = carry

            def scores(score):
                (k,) = keys.take(step)
                plgpu.wgmma(score, q_smem, k.transpose((1, 0)))
                return score[...]

            score_WT = shown(pl.run_scoped(scores, *accumulators((ROWS, STEP))), edges_smem, first_key + step * STEP, 0)
            keys.release(step)
            new_W = jnp.maximum(top_W, score_WT.max(axis=1))
            prob_WT = jnp.exp2(score_WT * factor - across(new_W * factor, score_WT.shape, 0))
            shrink_W = jnp.exp2((top_W - new_W) * factor)
            shrunk_WH = acc_WH * across(shrink_W, acc_WH.shape, 0)

            def product(acc):
                begin(acc, shrunk_WH, staged)
                (v,) = values.take(step)
                plgpu.wgmma(acc, on_the_left(prob_WT.astype(q_smem.dtype), staged, 0), v)
                return end(acc, shrunk_WH, staged)

            acc_WH = pl.run_scoped(product, *accumulators(acc_WH.shape))
            values.release(step)
            return acc_WH, new_W, total_W * shrink_W + prob_WT.sum(axis=1)

        nothing = full((ROWS, H), 0), full((ROWS,), LOWEST, ALONG_ROWS), full((ROWS,), 0, ALONG_ROWS)
        acc_WH, top_W, total_W = lax.fori_loop(0, steps, one, nothing)
        seen_W = total_W > 0
        total_W = jnp.where(seen_W, total_W, 1.0)
        out_smem[...] = acc_WH / across(total_W, acc_WH.shape, 0)
        lse_smem[...] = jnp.where(seen_W, top_W * factor + jnp.log2(total_W), HIDDEN)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(out_smem.at[pl.ds(0, kept)], out_ref.at[piece, request, head])
        plgpu.copy_smem_to_gmem(lse_smem, lse_ref.at[piece, request, head])
        plgpu.wait_smem_to_gmem(0)
