"""The backward pass on Hopper, in two kernels: one along the keys of each query tile, one along the queries of each key tile.

Probabilities are made again from the sums that the forward pass left. `stats` is, for each query of a head, what scores and
gradients of probabilities begin with: those sums, as scores, and the product of its output and its output's gradient, negated.

Shape letters: R queries and J keys that a warpgroup multiplies at a time, H head dim; others as in `hopper`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama3_jax.kernels.attention.hopper_parts import (
    LOG2_E,
    ROWS,
    TILE,
    Setting,
    accumulators,
    along_queries,
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
from llama3_jax.kernels.attention.schedule import Visits, unpack

STEP = 64
"""Keys, or queries, taken at a time: three products share the registers."""
KEY_STAGES, QUERY_STAGES = 3, 2
"""Of keys and values that pass by queries, and the other way round, where more would not fit into the registers."""
PARTS = TILE // STEP


def query_gradient(
    setting: Setting, q_PX: Array, k_UX: Array, v_UX: Array, out_bar_PX: Array, stats_N2P: Array, edges_EP: Array, visits: Visits
) -> list[Array]:
    """([P, X],)"""
    H, dtype = setting.head_dim, q_PX.dtype
    scratch = {
        "queries": own(((ROWS, H), dtype), ((ROWS, H), dtype), ((2, ROWS), jnp.float32), ((edges_EP.shape[0], ROWS), jnp.int32)),
        "keys": stream(KEY_STAGES, ((STEP, H), dtype)),
        "values": stream(KEY_STAGES, ((STEP, H), dtype)),
    }
    arrays = (q_PX, k_UX, v_UX, out_bar_PX, stats_N2P, edges_EP)
    results = [jax.ShapeDtypeStruct(q_PX.shape, dtype)]
    return launch(_query_gradient, setting, visits, stats_N2P.shape[0], arrays, results, scratch, left_columns=STEP)


def key_gradients(
    setting: Setting, q_PX: Array, k_UX: Array, v_UX: Array, out_bar_PX: Array, stats_N2P: Array, edges_EP: Array, visits: Visits
) -> list[Array]:
    """Those of keys and of values, [U, X] each."""
    H, dtype = setting.head_dim, q_PX.dtype
    scratch = {
        "keys": own(((ROWS, H), dtype), ((ROWS, H), dtype)),
        "queries": stream(
            QUERY_STAGES, ((STEP, H), dtype), ((STEP, H), dtype), ((2, STEP), jnp.float32), ((edges_EP.shape[0], STEP), jnp.int32)
        ),
    }
    arrays = (q_PX, k_UX, v_UX, out_bar_PX, stats_N2P, edges_EP)
    results = [jax.ShapeDtypeStruct(k_UX.shape, dtype)] * 2
    num_heads = stats_N2P.shape[0] // setting.group
    return launch(_key_gradients, setting, visits, num_heads, arrays, results, scratch, left_columns=STEP)


def _probabilities(setting: Setting) -> Callable[[Array], Array]:
    """Of scores less the sums that the forward pass left."""
    return lambda score: jnp.exp2(score * (setting.scale * LOG2_E))


def _query_gradient(line, *refs, setting, queries, keys, values, staged):
    q_ref, k_ref, v_ref, out_bar_ref, stats_ref, edges_ref, q_bar_ref = refs
    head = lax.axis_index("head")
    steps = line.length * PARTS
    probabilities = _probabilities(setting)

    def copy():
        columns = setting.columns(head // setting.group)

        def one(step, visit):
            rows, following = pl.ds(unpack(visit)[1] * TILE + step % PARTS * STEP, STEP), line.visit((step + 1) // PARTS)
            keys.fill(step, k_ref.at[rows, columns])
            values.fill(step, v_ref.at[rows, columns])
            return following

        lax.fori_loop(0, steps, one, line.visit(0))

    def multiply(warpgroup):
        rows, columns = pl.ds(line.tile * TILE + warpgroup * ROWS, ROWS), setting.columns(head)
        q, out_bar, stats_2R, edges_E = queries.fill(
            warpgroup, q_ref.at[rows, columns], out_bar_ref.at[rows, columns], stats_ref.at[head, :, rows], edges_ref.at[:, rows]
        )

        def one(step, q_bar_RH):
            _, key_tile, flags = unpack(line.visit(step // PARTS))
            line.tally()
            lse_RJ, delta_RJ = (along_queries(stats_2R.at[n], (ROWS, STEP), 0) for n in (0, 1))

            def scores(score, prob_bar):
                begin(score, lse_RJ, staged)
                begin(prob_bar, delta_RJ, staged)
                (k,) = keys.take(step)
                plgpu.wgmma(score, q, k.transpose((1, 0)))
                (v,) = values.take(step)
                plgpu.wgmma(prob_bar, out_bar, v.transpose((1, 0)))
                score_RJ = end(score, lse_RJ, staged, under_way=1)
                prob_RJ = masked(probabilities, score_RJ, flags, edges_E, key_tile * TILE + step % PARTS * STEP, 0)
                prob_bar_RJ = end(prob_bar, delta_RJ, staged)
                values.release(step)
                return prob_RJ * prob_bar_RJ

            score_bar_RJ = pl.run_scoped(scores, *accumulators((ROWS, STEP), (ROWS, STEP))).astype(q.dtype)

            def product(q_bar):
                begin(q_bar, q_bar_RH, staged)
                plgpu.wgmma(q_bar, on_the_left(score_bar_RJ, staged, warpgroup), keys.at(step)[0])
                return end(q_bar, q_bar_RH, staged)

            new_RH = pl.run_scoped(product, *accumulators(q_bar_RH.shape))
            keys.release(step)
            return new_RH

        q_bar_RH = lax.fori_loop(0, steps, one, full((ROWS, setting.head_dim), 0))
        store((q_bar_RH * setting.scale, q, q_bar_ref.at[rows, columns]))

    return copy, multiply


def _key_gradients(line, *refs, setting, keys, queries, staged):
    """Scores are transposed: a warpgroup owns rows of keys, and queries pass by, those of all heads of the group."""
    q_ref, k_ref, v_ref, out_bar_ref, stats_ref, edges_ref, k_bar_ref, v_bar_ref = refs
    head = lax.axis_index("head")
    parts = PARTS * setting.group
    steps = line.length * parts
    probabilities = _probabilities(setting)

    def copy():
        def one(step, visit):
            following = line.visit((step + 1) // parts)
            rows = pl.ds(unpack(visit)[0] * TILE + step % parts // setting.group * STEP, STEP)
            query_head = head * setting.group + step % setting.group
            columns = setting.columns(query_head)
            q, out_bar = q_ref.at[rows, columns], out_bar_ref.at[rows, columns]
            queries.fill(step, q, out_bar, stats_ref.at[query_head, :, rows], edges_ref.at[:, rows])
            return following

        lax.fori_loop(0, steps, one, line.visit(0))

    def multiply(warpgroup):
        first_key = line.tile * TILE + warpgroup * ROWS
        rows, columns = pl.ds(first_key, ROWS), setting.columns(head)
        k, v = keys.fill(warpgroup, k_ref.at[rows, columns], v_ref.at[rows, columns])

        def one(step, sums):
            k_bar_JH, v_bar_JH = sums
            flags = unpack(line.visit(step // parts))[2]
            line.tally()
            q, out_bar, stats_2R, edges_E = queries.take(step)

            lse_JR, delta_JR = (along_queries(stats_2R.at[n], (ROWS, STEP), 1) for n in (0, 1))

            def product(accumulator, total_JH, left_JR, right):
                begin(accumulator, total_JH, staged)
                plgpu.wgmma(accumulator, on_the_left(left_JR.astype(k.dtype), staged, warpgroup), right)

            def products(score, prob_bar, v_bar, k_bar):
                begin(score, lse_JR, staged)
                begin(prob_bar, delta_JR, staged)
                plgpu.wgmma(score, k, q.transpose((1, 0)))
                plgpu.wgmma(prob_bar, v, out_bar.transpose((1, 0)))
                prob_JR = masked(probabilities, end(score, lse_JR, staged, under_way=1), flags, edges_E, first_key, 1)
                product(v_bar, v_bar_JH, prob_JR, out_bar)
                score_bar_JR = prob_JR * end(prob_bar, delta_JR, staged, under_way=1)
                product(k_bar, k_bar_JH, score_bar_JR, q)
                return end(k_bar, k_bar_JH, staged), end(v_bar, v_bar_JH, staged)

            shapes = (ROWS, STEP), (ROWS, STEP), v_bar_JH.shape, k_bar_JH.shape
            sums = pl.run_scoped(products, *accumulators(*shapes))
            queries.release(step)
            return sums

        zero = full((ROWS, setting.head_dim), 0)
        k_bar_JH, v_bar_JH = lax.fori_loop(0, steps, one, (zero, zero))
        store((k_bar_JH * setting.scale, k, k_bar_ref.at[rows, columns]), (v_bar_JH, v, v_bar_ref.at[rows, columns]))

    return copy, multiply
