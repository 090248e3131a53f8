"""The forward pass on Hopper: while a tile's probabilities multiply the values, the next tile's scores are softened.

Shape letters: R queries and J keys that a warpgroup multiplies at a time, H head dim; others as in `hopper`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama3_jax.kernels.attention.hopper_parts import (
    ALONG_ROWS,
    LOG2_E,
    ROWS,
    TILE,
    WARPGROUPS,
    Setting,
    accumulators,
    across,
    begin,
    end,
    full,
    launch,
    masked,
    on_the_left,
    own,
    store,
    stream,
)
from llama3_jax.kernels.attention.reference import HIDDEN
from llama3_jax.kernels.attention.schedule import Visits, unpack

STAGES = 2
LOWEST = HIDDEN / 2


def forward(setting: Setting, q_PX: Array, k_UX: Array, v_UX: Array, edges_EP: Array, visits: Visits) -> list[Array]:
    """(out [P, X] in q's dtype, base 2 logarithms of the softmax sums: float32 [N, P])"""
    (P, X), H, dtype = q_PX.shape, setting.head_dim, q_PX.dtype
    scratch = {
        "queries": own(((ROWS, H), dtype), ((edges_EP.shape[0], ROWS), jnp.int32)),
        "keys": stream(STAGES, ((TILE, H), dtype)),
        "values": stream(STAGES, ((TILE, H), dtype)),
        "lse_smem": plgpu.SMEM((WARPGROUPS, ROWS), jnp.float32),
    }
    results = [jax.ShapeDtypeStruct((P, X), dtype), jax.ShapeDtypeStruct((X // H, P), jnp.float32)]
    arrays = (q_PX, k_UX, v_UX, edges_EP)
    return launch(_kernel, setting, visits, X // H, arrays, results, scratch, left_columns=TILE)


def _kernel(line, *refs, setting, queries, keys, values, lse_smem, staged):
    q_ref, k_ref, v_ref, edges_ref, out_ref, lse_ref = refs
    head = lax.axis_index("head")
    factor = setting.scale * LOG2_E

    def copy():
        columns = setting.columns(head // setting.group)

        def one(step, visit):
            rows, following = pl.ds(unpack(visit)[1] * TILE, TILE), line.visit(step + 1)
            keys.fill(step, k_ref.at[rows, columns])
            values.fill(step, v_ref.at[rows, columns])
            return following

        lax.fori_loop(0, line.length, one, line.visit(0))

    def multiply(warpgroup):
        rows, columns = pl.ds(line.tile * TILE + warpgroup * ROWS, ROWS), setting.columns(head)
        q, edges_E = queries.fill(warpgroup, q_ref.at[rows, columns], edges_ref.at[:, rows])
        nothing = full((ROWS, setting.head_dim), 0), full((ROWS,), LOWEST, ALONG_ROWS), full((ROWS,), 0, ALONG_ROWS)

        def soften(score_RJ, visit, top_R, total_R):
            """(probabilities, what sums so far shrink by, highest score and sum of the probabilities so far)"""
            _, key_tile, flags = unpack(visit)

            def softened(score_RJ):
                new_R = jnp.maximum(top_R, score_RJ.max(axis=1))
                prob_RJ = jnp.exp2(score_RJ * factor - across(new_R * factor, score_RJ.shape, 0))
                shrink_R = jnp.exp2((top_R - new_R) * factor)
                return prob_RJ.astype(q.dtype), shrink_R, new_R, total_R * shrink_R + prob_RJ.sum(axis=1)

            return masked(softened, score_RJ, flags, edges_E, key_tile * TILE, 0)

        def first(score):
            visit = line.visit(0)
            line.tally()
            (k,) = keys.take(0)
            plgpu.wgmma(score, q, k.transpose((1, 0)))
            score_RJ = score[...]
            keys.release(0)
            prob_RJ, _, top_R, total_R = soften(score_RJ, visit, *nothing[1:])
            return prob_RJ, top_R, total_R

        def one(step, carry):
            acc_RH, prob_RJ, top_R, total_R = carry
            visit = line.visit(step)
            line.tally()

            def products(score, acc):
                begin(acc, acc_RH, staged)
                (k,) = keys.take(step)
                plgpu.wgmma(score, q, k.transpose((1, 0)))
                (v,) = values.take(step - 1)
                plgpu.wgmma(acc, on_the_left(prob_RJ, staged, warpgroup), v)
                score_RJ = plgpu.wgmma_accumulator_load(score, wait_n=1)
                keys.release(step)
                next_RJ, shrink_R, new_R, new_total_R = soften(score_RJ, visit, top_R, total_R)
                sum_RH = end(acc, acc_RH, staged)
                values.release(step - 1)
                return sum_RH * across(shrink_R, sum_RH.shape, 0), next_RJ, new_R, new_total_R

            return pl.run_scoped(products, *accumulators((ROWS, TILE), acc_RH.shape))

        def last(acc_RH, prob_RJ):
            def product(acc):
                begin(acc, acc_RH, staged)
                (v,) = values.take(line.length - 1)
                plgpu.wgmma(acc, on_the_left(prob_RJ, staged, warpgroup), v)
                return end(acc, acc_RH, staged)

            return pl.run_scoped(product, *accumulators(acc_RH.shape))

        def walk():
            begun = pl.run_scoped(first, *accumulators((ROWS, TILE)))
            acc_RH, prob_RJ, top_R, total_R = lax.fori_loop(1, line.length, one, (nothing[0], *begun))
            return last(acc_RH, prob_RJ), top_R, total_R

        acc_RH, top_R, total_R = lax.cond(line.length > 0, walk, lambda: nothing)
        seen_R = total_R > 0
        total_R = jnp.where(seen_R, total_R, 1.0)
        lse_R = jnp.where(seen_R, top_R * factor + jnp.log2(total_R), -HIDDEN)
        store(
            (acc_RH / across(total_R, acc_RH.shape, 0), q, out_ref.at[rows, columns]),
            (lse_R, lse_smem.at[warpgroup], lse_ref.at[head, rows]),
        )

    return copy, multiply
