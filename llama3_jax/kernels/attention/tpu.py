"""Flash attention as Pallas kernels for TPU: forward, gradient of the queries, gradients of keys and values.

Each kernel goes through the visits of a schedule, which it reads ahead of its inputs: the grid is as long as there are visits,
so a tile without a visible pair costs nothing, in any direction. The query heads of a group are stacked in a tile, and share
the keys they read. Scores are transposed, so that what is kept for each query (maximum, sum, bounds) lies along the lanes.
FlashAttention-2 (Dao 2023, algorithms 1 and 2) in base 2, with the gradients in two passes: no tile of an output is visited
twice, so the result does not depend on an order.

A chip of two cores shares the heads out between them. Where there is one key/value head alone, as under tensor parallelism, its
query heads are shared out instead, and the gradients of its keys added up.

Shape letters: B batch, S query positions, T key positions, N query heads, K key/value heads, H head dim, I intervals, R shares of
heads (K, or 2 of a single key/value head), G = N/R, P = B * (S rounded up to query tiles), U = B * (T rounded up to key tiles),
J keys of a tile, C = G * (queries of a tile): the stacked columns of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.reference import HIDDEN
from llama3_jax.kernels.attention.rows import flat_bounds, rounded
from llama3_jax.kernels.attention.schedule import EMPTY, FIRST, LAST, MASKED, BlockSchedule, Visits, unpack
from llama3_jax.kernels.device import traced_for

LANES = 128
"""Queries of a tile are a multiple of it, and so are its keys."""
SCHEDULE_BYTES = 2**19
"""That a schedule may take of a core's scalar memory, which is 1 MiB."""
VMEM_BYTES = 100 * 2**20
LOWEST = HIDDEN / 2
LOG2_E = math.log2(math.e)


class Counted(NamedTuple):
    """Visits that the kernels made, for tests: of each share of heads and position."""

    forward_RP: Array
    query_gradient_RP: Array
    key_gradient_RU: Array


def attention(
    q_BSNH: Array, k_BTKH: Array, v_BTKH: Array, mask: IntervalMask, schedule: BlockSchedule, blocks: BlockSizes
) -> Array:
    """Attention of `reference.attention` over the tiles of `schedule`, which `mask` and these block sizes made.

    Raises: ValueError for tiles that a TPU cannot hold, or a schedule longer than its scalar memory.
    """
    return _from_queries(_attend(blocks, *_arguments(q_BSNH, k_BTKH, v_BTKH, mask, schedule, blocks)), q_BSNH.shape, blocks)


def count_visits(
    q_BSNH: Array, k_BTKH: Array, v_BTKH: Array, mask: IntervalMask, schedule: BlockSchedule, blocks: BlockSizes
) -> Counted:
    """The visits that each kernel makes, told by the kernels themselves."""
    q_RGPH, k_KUH, v_KUH, bounds, schedule = _arguments(q_BSNH, k_BTKH, v_BTKH, mask, schedule, blocks)
    out_RGPH, lse_RGP, forward_RP = _forward_pass(blocks, q_RGPH, k_KUH, v_KUH, bounds, schedule, count=True)
    inputs = (q_RGPH, k_KUH, v_KUH, bounds, out_RGPH, lse_RGP, lse_RGP)
    *_, query_RP = _query_gradient(blocks, *inputs, schedule, count=True)
    *_, key_RU = _key_gradients(blocks, *inputs, schedule, count=True)
    return Counted(forward_RP, query_RP, key_RU)


def _arguments(q_BSNH, k_BTKH, v_BTKH, mask, schedule, blocks):
    for name, size in (("queries", blocks.queries), ("keys", blocks.keys)):
        if size % LANES:
            raise ValueError(f"tiles of {size} {name} do not fit a TPU; use a multiple of {LANES}")
    if (num_bytes := 4 * schedule.by_query.visit_M.size) > SCHEDULE_BYTES:
        raise ValueError(
            f"a schedule of {num_bytes} bytes does not fit the {SCHEDULE_BYTES} that a TPU core has for it; use larger tiles "
            f"than {blocks.queries} x {blocks.keys}, fewer rows per device, or a larger mesh.sequence"
        )
    K, group = k_BTKH.shape[2], q_BSNH.shape[2] // k_BTKH.shape[2]
    shares = 2 if K == 1 and group % 2 == 0 and traced_for().cores > 1 else K
    bounds = flat_bounds(mask, blocks, k_BTKH.shape[1])
    return _to_queries(q_BSNH, shares, blocks), _to_keys(k_BTKH, blocks), _to_keys(v_BTKH, blocks), bounds, schedule


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(blocks, q_RGPH, k_KUH, v_KUH, bounds, schedule):
    return _forward_pass(blocks, q_RGPH, k_KUH, v_KUH, bounds, schedule)[0]


def _forward(blocks, q_RGPH, k_KUH, v_KUH, bounds, schedule):
    out_RGPH, lse_RGP = _forward_pass(blocks, q_RGPH, k_KUH, v_KUH, bounds, schedule)
    out_RGPH, lse_RGP = checkpoint_name(out_RGPH, "attention_out"), checkpoint_name(lse_RGP, "attention_lse")
    return out_RGPH, (q_RGPH, k_KUH, v_KUH, bounds, schedule, out_RGPH, lse_RGP)


def _backward(blocks, saved, out_bar_RGPH):
    q_RGPH, k_KUH, v_KUH, bounds, schedule, out_RGPH, lse_RGP = saved
    delta_RGP = jnp.sum(out_bar_RGPH.astype(jnp.float32) * out_RGPH.astype(jnp.float32), axis=-1)
    inputs = (q_RGPH, k_KUH, v_KUH, bounds, out_bar_RGPH.astype(q_RGPH.dtype), lse_RGP, delta_RGP)
    (q_bar_RGPH,) = _query_gradient(blocks, *inputs, schedule)
    k_bar_KUH, v_bar_KUH = _key_gradients(blocks, *inputs, schedule)
    return q_bar_RGPH, k_bar_KUH, v_bar_KUH, None, None


_attend.defvjp(_forward, _backward)


# The kernels. A reference `_ref` is what of an array the visit sees; scratch stays from visit to visit.


def _forward_kernel(visits, q_ref, k_ref, v_ref, start_ref, end_ref, out_ref, lse_ref, *rest):
    *counted, acc_HC, max_1C, sum_1C = rest
    group, block_q, head_dim = q_ref.shape

    def begin():
        acc_HC[...] = jnp.zeros_like(acc_HC)
        max_1C[...] = jnp.full_like(max_1C, LOWEST)
        sum_1C[...] = jnp.zeros_like(sum_1C)

    def visit(masked):
        score_JC = _scores(visits, q_ref, k_ref, start_ref, end_ref, masked)
        old_1C = max_1C[...]
        new_1C = jnp.maximum(old_1C, jnp.max(score_JC, axis=0, keepdims=True))
        prob_JC = jnp.exp2(score_JC - new_1C)
        shrink_1C = jnp.exp2(old_1C - new_1C)
        max_1C[...] = new_1C
        sum_1C[...] = shrink_1C * sum_1C[...] + jnp.sum(prob_JC, axis=0, keepdims=True)
        acc_HC[...] = shrink_1C * acc_HC[...] + _dot(v_ref[...], prob_JC.astype(v_ref.dtype), (0, 0))

    def end():
        total_1C = sum_1C[...]
        seen_1C = total_1C > 0
        total_1C = jnp.where(seen_1C, total_1C, 1.0)
        out_ref[...] = (acc_HC[...] / total_1C).T.reshape(out_ref.shape).astype(out_ref.dtype)
        lse_1C = jnp.where(seen_1C, max_1C[...] + jnp.log2(total_1C), -HIDDEN)
        lse_ref[...] = lse_1C.reshape(group, block_q)

    _at_visit(visits, begin, visit, end, counted)


def _query_gradient_kernel(
    visits, q_ref, k_ref, v_ref, start_ref, end_ref, out_bar_ref, lse_ref, delta_ref, q_bar_ref, *rest
):
    *counted, acc_HC = rest

    def begin():
        acc_HC[...] = jnp.zeros_like(acc_HC)

    def visit(masked):
        _, score_bar_JC = _score_gradients(
            visits, q_ref, k_ref, v_ref, start_ref, end_ref, out_bar_ref, lse_ref, delta_ref, masked
        )
        acc_HC[...] += _dot(k_ref[...], score_bar_JC, (0, 0))

    def end():
        q_bar_ref[...] = (acc_HC[...] * q_ref.shape[-1] ** -0.5).T.reshape(q_bar_ref.shape).astype(q_bar_ref.dtype)

    _at_visit(visits, begin, visit, end, counted)


def _key_gradients_kernel(
    visits, q_ref, k_ref, v_ref, start_ref, end_ref, out_bar_ref, lse_ref, delta_ref, k_bar_ref, v_bar_ref, *rest
):
    *counted, k_acc_JH, v_acc_JH = rest

    def begin():
        k_acc_JH[...] = jnp.zeros_like(k_acc_JH)
        v_acc_JH[...] = jnp.zeros_like(v_acc_JH)

    def visit(masked):
        prob_JC, score_bar_JC = _score_gradients(
            visits, q_ref, k_ref, v_ref, start_ref, end_ref, out_bar_ref, lse_ref, delta_ref, masked
        )
        v_acc_JH[...] += _dot(prob_JC.astype(out_bar_ref.dtype), _stacked(out_bar_ref), (1, 0))
        k_acc_JH[...] += _dot(score_bar_JC, _stacked(q_ref), (1, 0))

    def end():
        k_bar_ref[...] = (k_acc_JH[...] * q_ref.shape[-1] ** -0.5).astype(k_bar_ref.dtype)
        v_bar_ref[...] = v_acc_JH[...].astype(v_bar_ref.dtype)

    _at_visit(visits, begin, visit, end, counted)


def _at_visit(visits, begin: Callable[[], None], visit: Callable[[bool], None], end: Callable[[], None], counted: list) -> None:
    """`begin` at the first visit of a line, `visit` unless nothing is visible there, `end` at the last."""
    _, _, flags = unpack(visits[pl.program_id(1)])

    @pl.when(flags & FIRST != 0)
    def _():
        begin()
        for count in counted:
            count[...] = jnp.zeros_like(count)

    for masked in (False, True):

        @pl.when(flags & (MASKED | EMPTY) == (MASKED if masked else 0))
        def _(masked=masked):
            visit(masked)
            for count in counted:
                count[...] += 1

    pl.when(flags & LAST != 0)(end)


def _scores(visits, q_ref, k_ref, start_ref, end_ref, masked: bool) -> Array:
    """float32 scores in base 2; the scale is applied to them, since it would round narrower queries."""
    score_JC = _dot(k_ref[...], _stacked(q_ref), (1, 1)) * (q_ref.shape[-1] ** -0.5 * LOG2_E)
    if not masked:
        return score_JC
    _, key_tile, _ = unpack(visits[pl.program_id(1)])
    key_JC = key_tile * k_ref.shape[0] + lax.broadcasted_iota(jnp.int32, score_JC.shape, 0)
    group, visible_JC = q_ref.shape[0], None
    for interval in range(start_ref.shape[0]):
        start_1C, end_1C = (jnp.concatenate([side[interval : interval + 1, :]] * group, axis=1) for side in (start_ref, end_ref))
        inside_JC = (start_1C <= key_JC) & (key_JC < end_1C)
        visible_JC = inside_JC if visible_JC is None else visible_JC | inside_JC
    return jnp.where(visible_JC, score_JC, HIDDEN)


def _score_gradients(visits, q_ref, k_ref, v_ref, start_ref, end_ref, out_bar_ref, lse_ref, delta_ref, masked: bool):
    """Probabilities, float32, and gradients of the scores before the scale, in the dtype they are multiplied in."""
    columns = (1, q_ref.shape[0] * q_ref.shape[1])
    prob_JC = jnp.exp2(_scores(visits, q_ref, k_ref, start_ref, end_ref, masked) - lse_ref[...].reshape(columns))
    prob_bar_JC = _dot(v_ref[...], _stacked(out_bar_ref), (1, 1))
    score_bar_JC = prob_JC * (prob_bar_JC - delta_ref[...].reshape(columns))
    return prob_JC, score_bar_JC.astype(q_ref.dtype)


def _stacked(ref) -> Array:
    """[G, queries, H] -> [C, H]"""
    return ref[...].reshape(-1, ref.shape[-1])


def _dot(a: Array, b: Array, contracted: tuple[int, int]) -> Array:
    dims = (((contracted[0],), (contracted[1],)), ((), ()))
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


# Their calls.


def _forward_pass(blocks, q_RGPH, k_KUH, v_KUH, bounds, schedule, count=False):
    R, G, P, H = q_RGPH.shape
    C = G * blocks.queries
    tile = _Tile(blocks, q_RGPH, k_KUH, bounds)
    return _call(
        _forward_kernel, schedule.by_query, (q_RGPH, k_KUH, v_KUH, *bounds),
        in_specs=(tile.of_queries, tile.of_keys, tile.of_keys, tile.of_bounds, tile.of_bounds),
        out_specs=(tile.of_queries, tile.of_statistics),
        out_shapes=(q_RGPH, jax.ShapeDtypeStruct((R, G, P), jnp.float32)),
        scratch=((H, C), (1, C), (1, C)), counted=(tile.of_query_count, (R, 1, P)) if count else None, name="attention_forward",
    )  # fmt: skip


def _query_gradient(blocks, q_RGPH, k_KUH, v_KUH, bounds, out_bar_RGPH, lse_RGP, delta_RGP, schedule, count=False):
    R, G, P, H = q_RGPH.shape
    tile = _Tile(blocks, q_RGPH, k_KUH, bounds)
    return _call(
        _query_gradient_kernel, schedule.by_query, (q_RGPH, k_KUH, v_KUH, *bounds, out_bar_RGPH, lse_RGP, delta_RGP),
        in_specs=tile.of_gradient_inputs, out_specs=(tile.of_queries,), out_shapes=(q_RGPH,),
        scratch=((H, G * blocks.queries),), counted=(tile.of_query_count, (R, 1, P)) if count else None,
        name="attention_query_gradient",
    )  # fmt: skip


def _key_gradients(blocks, q_RGPH, k_KUH, v_KUH, bounds, out_bar_RGPH, lse_RGP, delta_RGP, schedule, count=False):
    R, (K, U, H) = q_RGPH.shape[0], k_KUH.shape
    tile = _Tile(blocks, q_RGPH, k_KUH, bounds)
    of_share = jax.ShapeDtypeStruct((R, U, H), k_KUH.dtype if R == K else jnp.float32)
    k_bar_RUH, v_bar_RUH, *counted = _call(
        _key_gradients_kernel, schedule.by_key, (q_RGPH, k_KUH, v_KUH, *bounds, out_bar_RGPH, lse_RGP, delta_RGP),
        in_specs=tile.of_gradient_inputs, out_specs=(tile.of_key_gradients,) * 2, out_shapes=(of_share,) * 2,
        scratch=((blocks.keys, H), (blocks.keys, H)), counted=(tile.of_key_count, (R, 1, U)) if count else None,
        name="attention_key_gradients",
    )  # fmt: skip
    k_bar_KUH, v_bar_KUH = (
        bar if R == K else jnp.sum(bar.reshape(K, R // K, U, H), axis=1).astype(k_KUH.dtype) for bar in (k_bar_RUH, v_bar_RUH)
    )
    return k_bar_KUH, v_bar_KUH, *counted


class _Tile:
    """What of each array a visit sees; grid positions are (share of heads, number of the visit)."""

    def __init__(self, blocks: BlockSizes, q_RGPH: Array, k_KUH: Array, bounds: IntervalMask):
        group, head_dim = q_RGPH.shape[1], q_RGPH.shape[3]
        shares_of_head = q_RGPH.shape[0] // k_KUH.shape[0]

        def query_tile(step, visits):
            return unpack(visits[step])[0]

        def key_tile(step, visits):
            return unpack(visits[step])[1]

        J, q = blocks.keys, blocks.queries
        self.of_queries = pl.BlockSpec((None, group, q, head_dim), lambda r, n, visits: (r, 0, query_tile(n, visits), 0))
        self.of_keys = pl.BlockSpec((None, J, head_dim), lambda r, n, visits: (r // shares_of_head, key_tile(n, visits), 0))
        self.of_key_gradients = pl.BlockSpec((None, J, head_dim), lambda r, n, visits: (r, key_tile(n, visits), 0))
        self.of_bounds = pl.BlockSpec((bounds.start_BSI.shape[0], q), lambda r, n, visits: (0, query_tile(n, visits)))
        self.of_statistics = pl.BlockSpec((None, group, q), lambda r, n, visits: (r, 0, query_tile(n, visits)))
        self.of_query_count = pl.BlockSpec((None, 1, q), lambda r, n, visits: (r, 0, query_tile(n, visits)))
        self.of_key_count = pl.BlockSpec((None, 1, J), lambda r, n, visits: (r, 0, key_tile(n, visits)))
        self.of_gradient_inputs = (
            self.of_queries, self.of_keys, self.of_keys, self.of_bounds, self.of_bounds, self.of_queries, self.of_statistics,
            self.of_statistics,
        )  # fmt: skip


def _call(kernel, visits: Visits, arrays, *, in_specs, out_specs, out_shapes, scratch, counted, name: str) -> list[Array]:
    """Args: counted: spec and shape of one more output, int32: the visits of each line."""
    out_shapes = [jax.ShapeDtypeStruct(like.shape, like.dtype) for like in out_shapes]
    if counted:
        out_specs, out_shapes = (*out_specs, counted[0]), [*out_shapes, jax.ShapeDtypeStruct(counted[1], jnp.int32)]
    return pl.pallas_call(
        kernel,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1, grid=(arrays[0].shape[0], visits.steps), in_specs=in_specs, out_specs=out_specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=out_shapes,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES),
        name=name,
    )(visits.visit_M, *arrays)  # fmt: skip


def _to_queries(x_BSNH: Array, shares: int, blocks: BlockSizes) -> Array:
    B, S, N, H = x_BSNH.shape
    x_BSNH = jnp.pad(x_BSNH, ((0, 0), (0, -S % blocks.queries), (0, 0), (0, 0)))
    return x_BSNH.reshape(-1, shares, N // shares, H).transpose(1, 2, 0, 3)


def _from_queries(x_RGPH: Array, shape: tuple[int, ...], blocks: BlockSizes) -> Array:
    B, S, N, H = shape
    return x_RGPH.transpose(2, 0, 1, 3).reshape(B, rounded(S, blocks.queries), N, H)[:, :S]


def _to_keys(x_BTKH: Array, blocks: BlockSizes) -> Array:
    B, T, K, H = x_BTKH.shape
    x_BTKH = jnp.pad(x_BTKH, ((0, 0), (0, -T % blocks.keys), (0, 0), (0, 0)))
    return x_BTKH.reshape(-1, K, H).transpose(1, 0, 2)

