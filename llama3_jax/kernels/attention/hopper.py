"""Flash attention as Pallas Mosaic kernels for Hopper (sm_90a): forward, gradient of the queries, gradients of keys and values.

Each block of threads owns a line of the schedule: a tile of queries of one head, or a tile of keys of one key/value head. One
warpgroup copies what the line's visits need through the tensor memory accelerator, two others multiply and add up in registers,
each half of the tile. How long a line is, it reads from the schedule, so a tile without a visible pair costs nothing, in any
direction, and long lines go first. No output is added to from two sides: the result does not depend on an order.
FlashAttention-2 (Dao 2023) with the warp specialisation of FlashAttention-3 (Shah et al. 2024).

A product whose left side is in registers has no counterpart in the interpreter: interpreted, it goes through shared memory.

Shape letters: B batch, S query positions, T key positions, N query heads, K key/value heads, G = N/K, H head dim, I intervals,
P = B * (S rounded up to tiles), U = B * (T rounded up to tiles), R queries and J keys that a warpgroup multiplies at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.mask import IntervalMask
from llama3_jax.kernels.attention.reference import HIDDEN
from llama3_jax.kernels.attention.rows import flat_bounds, rounded
from llama3_jax.kernels.attention.schedule import MASKED, BlockSchedule, Visits, unpack

WARPGROUPS = 2
"""That multiply; one more copies."""
ROWS = 64
"""Of a tile that a warpgroup owns: what a matrix instruction takes."""
TILE = WARPGROUPS * ROWS
"""Queries, and keys, of a tile."""
STEP_OF_GRADIENTS = 64
"""Keys, or queries, that the backward kernels take at a time: three products share the registers."""
STAGES = 2
COPYING_REGISTERS = 32
LOWEST = HIDDEN / 2
LOG2_E = math.log2(math.e)
ACROSS = plgpu.Layout.WGMMA
ALONG_ROWS, ALONG_COLUMNS = ACROSS.reduce(1), ACROSS.reduce(0)
"""One value for each row, or column, of a tile of scores."""


class Setting(NamedTuple):
    """What the kernels are specialised to."""

    group: int
    head_dim: int
    interpret: Any
    """Of `pallas`; None compiles."""

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5


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
    (B, S, N, H), (_, T, K, _) = q_BSNH.shape, k_BTKH.shape
    if blocks != (TILE, TILE):
        raise ValueError(f"tiles of {blocks.queries} x {blocks.keys}; the kernels for Hopper have {TILE} x {TILE}")
    if H not in (64, 128) or q_BSNH.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(f"head_dim={H}, {q_BSNH.dtype}; the kernels for Hopper take 64 or 128, in bfloat16 or float16")
    setting = Setting(N // K, H, interpret)
    bounds = flat_bounds(mask, blocks, T)
    q_PX, k_UX, v_UX = _rows(q_BSNH), _rows(k_BTKH), _rows(v_BTKH)
    out_PX = _attend(setting, q_PX, k_UX, v_UX, bounds, schedule)
    return out_PX.reshape(B, rounded(S, TILE), N, H)[:, :S]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(setting, q_PX, k_UX, v_UX, bounds, schedule):
    return _forward_pass(setting, q_PX, k_UX, v_UX, bounds, schedule)[0]


def _forward(setting, q_PX, k_UX, v_UX, bounds, schedule):
    out_PX, lse_NP = _forward_pass(setting, q_PX, k_UX, v_UX, bounds, schedule)
    out_PX, lse_NP = checkpoint_name(out_PX, "attention_out"), checkpoint_name(lse_NP, "attention_lse")
    return out_PX, (q_PX, k_UX, v_UX, bounds, schedule, out_PX, lse_NP)


def _backward(setting, saved, out_bar_PX):
    q_PX, k_UX, v_UX, bounds, schedule, out_PX, lse_NP = saved
    product_PX = out_bar_PX.astype(jnp.float32) * out_PX.astype(jnp.float32)
    delta_NP = jnp.sum(product_PX.reshape(-1, lse_NP.shape[0], setting.head_dim), axis=-1).T
    inputs = (q_PX, k_UX, v_UX, out_bar_PX.astype(q_PX.dtype), lse_NP, delta_NP)
    q_bar_PX = _query_gradient(setting, *inputs, bounds, schedule.by_query)
    k_bar_UX, v_bar_UX = _key_gradients(setting, *inputs, bounds, schedule.by_key)
    return q_bar_PX, k_bar_UX, v_bar_UX, None, None


_attend.defvjp(_forward, _backward)


# The kernels. `line` holds what of the schedule a kernel reads: visits, and of each line its first, its number, its turn.


def _forward_kernel(q_ref, k_ref, v_ref, start_ref, end_ref, *refs, setting):
    *line, out_ref, lse_ref, q_smem, lse_smem, q_there, staged = refs
    tile, first, length = _own_line(line)
    head, half = lax.axis_index("head"), lax.axis_index("warpgroup")
    rows = pl.ds(tile * TILE + half * ROWS, ROWS)
    columns = _columns(head, setting)

    def compute(pipeline):
        q, lse = q_smem.at[half], lse_smem.at[half]
        plgpu.copy_gmem_to_smem(q_ref.at[rows, columns], q, q_there.at[half])
        plgpu.barrier_wait(q_there.at[half])
        acc_RH, top_R, total_R = pipeline(
            (_full((ROWS, setting.head_dim), 0), _full((ROWS,), LOWEST, ALONG_ROWS), _full((ROWS,), 0, ALONG_ROWS))
        )
        seen_R = total_R > 0
        total_R = jnp.where(seen_R, total_R, 1.0)
        q[...] = (acc_RH / _across(total_R, acc_RH.shape, 0)).astype(q.dtype)
        lse[...] = jnp.where(seen_R, top_R * (setting.scale * LOG2_E) + jnp.log2(total_R), -HIDDEN)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q, out_ref.at[rows, columns])
        plgpu.copy_smem_to_gmem(lse, lse_ref.at[head, rows])
        plgpu.wait_smem_to_gmem(0)

    def visit(index, k, v, k_read, v_read, carry):
        acc_RH, top_R, total_R = carry
        q = q_smem.at[half]
        _, key_tile, flags = unpack(line[0][first + index[0]])
        score_RJ = _multiply(q, k.transpose((1, 0)), (ROWS, TILE))
        plgpu.barrier_arrive(k_read)
        score_RJ = _masked(score_RJ, flags, start_ref, end_ref, rows, key_tile * TILE, 0)
        new_R = jnp.maximum(top_R, score_RJ.max(axis=1))
        factor = setting.scale * LOG2_E
        prob_RJ = jnp.exp2(score_RJ * factor - _across(new_R * factor, score_RJ.shape, 0))
        shrink_R = jnp.exp2((top_R - new_R) * factor)
        total_R = total_R * shrink_R + prob_RJ.sum(axis=1)
        acc_RH = acc_RH * _across(shrink_R, acc_RH.shape, 0)
        acc_RH = _add_product(acc_RH, prob_RJ.astype(q.dtype), v, staged, half)
        plgpu.barrier_arrive(v_read)
        return acc_RH, new_R, total_R

    def of_keys(step):
        return unpack(line[0][first + step])[1], head // setting.group

    stream = plgpu.BlockSpec((TILE, setting.head_dim), of_keys, transforms=_swizzled())
    _pipeline(visit, compute, (length,), [stream, stream])(k_ref, v_ref)


def _query_gradient_kernel(q_ref, k_ref, v_ref, out_bar_ref, lse_ref, delta_ref, start_ref, end_ref, *refs, setting):
    *line, q_bar_ref, q_smem, out_bar_smem, there, staged = refs
    tile, first, length = _own_line(line)
    head, half = lax.axis_index("head"), lax.axis_index("warpgroup")
    rows = pl.ds(tile * TILE + half * ROWS, ROWS)
    columns = _columns(head, setting)
    steps = TILE // STEP_OF_GRADIENTS

    def compute(pipeline):
        q, out_bar = q_smem.at[half], out_bar_smem.at[half]
        for source, target, barrier in ((q_ref, q, there.at[half]), (out_bar_ref, out_bar, there.at[WARPGROUPS + half])):
            plgpu.copy_gmem_to_smem(source.at[rows, columns], target, barrier)
            plgpu.barrier_wait(barrier)
        lse_R, delta_R = (plgpu.load(x.at[head, rows], layout=ALONG_ROWS, optimized=False) for x in (lse_ref, delta_ref))
        q_bar_RH, *_ = pipeline((_full((ROWS, setting.head_dim), 0), lse_R, delta_R))
        q[...] = (q_bar_RH * setting.scale).astype(q.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(q, q_bar_ref.at[rows, columns])
        plgpu.wait_smem_to_gmem(0)

    def visit(index, k, v, k_read, v_read, carry):
        q_bar_RH, lse_R, delta_R = carry
        q, out_bar = q_smem.at[half], out_bar_smem.at[half]
        _, key_tile, flags = unpack(line[0][first + index[0] // steps])
        shape = (ROWS, STEP_OF_GRADIENTS)
        score_RJ = _multiply(q, k.transpose((1, 0)), shape)
        key = key_tile * TILE + index[0] % steps * STEP_OF_GRADIENTS
        score_RJ = _masked(score_RJ, flags, start_ref, end_ref, rows, key, 0)
        prob_RJ = jnp.exp2(score_RJ * (setting.scale * LOG2_E) - _across(lse_R, shape, 0))
        prob_bar_RJ = _multiply(out_bar, v.transpose((1, 0)), shape)
        plgpu.barrier_arrive(v_read)
        score_bar_RJ = prob_RJ * (prob_bar_RJ - _across(delta_R, shape, 0))
        q_bar_RH = _add_product(q_bar_RH, score_bar_RJ.astype(q.dtype), k, staged, half)
        plgpu.barrier_arrive(k_read)
        return q_bar_RH, lse_R, delta_R

    def of_keys(step):
        return unpack(line[0][first + step // steps])[1] * steps + step % steps, head // setting.group

    stream = plgpu.BlockSpec((STEP_OF_GRADIENTS, setting.head_dim), of_keys, transforms=_swizzled())
    _pipeline(visit, compute, (length * steps,), [stream, stream])(k_ref, v_ref)


def _key_gradients_kernel(q_ref, k_ref, v_ref, out_bar_ref, lse_ref, delta_ref, start_ref, end_ref, *refs, setting):
    """Scores are transposed: a warpgroup owns rows of keys, and queries pass by, those of all heads of the group."""
    *line, k_bar_ref, v_bar_ref, k_smem, v_smem, there, staged = refs
    tile, first, length = _own_line(line)
    head, half = lax.axis_index("head"), lax.axis_index("warpgroup")
    own = pl.ds(tile * TILE + half * ROWS, ROWS)
    columns = _columns(head, setting)
    steps = TILE // STEP_OF_GRADIENTS

    def compute(pipeline):
        k, v = k_smem.at[half], v_smem.at[half]
        for source, target, barrier in ((k_ref, k, there.at[half]), (v_ref, v, there.at[WARPGROUPS + half])):
            plgpu.copy_gmem_to_smem(source.at[own, columns], target, barrier)
            plgpu.barrier_wait(barrier)
        zero = _full((ROWS, setting.head_dim), 0)
        k_bar_JH, v_bar_JH = pipeline((zero, zero))
        k[...] = (k_bar_JH * setting.scale).astype(k.dtype)
        v[...] = v_bar_JH.astype(v.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(k, k_bar_ref.at[own, columns])
        plgpu.copy_smem_to_gmem(v, v_bar_ref.at[own, columns])
        plgpu.wait_smem_to_gmem(0)

    def visit(index, q, out_bar, q_read, out_bar_read, carry):
        k_bar_JH, v_bar_JH = carry
        k, v = k_smem.at[half], v_smem.at[half]
        step, member = index[0] // setting.group, index[0] % setting.group
        query_head = head * setting.group + member
        query_tile, _, flags = unpack(line[0][first + step // steps])
        queries = pl.ds(query_tile * TILE + step % steps * STEP_OF_GRADIENTS, STEP_OF_GRADIENTS)
        shape = (ROWS, STEP_OF_GRADIENTS)
        score_JR = _multiply(k, q.transpose((1, 0)), shape)
        score_JR = _masked(score_JR, flags, start_ref, end_ref, queries, tile * TILE + half * ROWS, 1)
        lse_R = plgpu.load(lse_ref.at[query_head, queries], layout=ALONG_COLUMNS, optimized=False)
        prob_JR = jnp.exp2(score_JR * (setting.scale * LOG2_E) - _across(lse_R, shape, 1))
        v_bar_JH = _add_product(v_bar_JH, prob_JR.astype(k.dtype), out_bar, staged, half)
        prob_bar_JR = _multiply(v, out_bar.transpose((1, 0)), shape)
        plgpu.barrier_arrive(out_bar_read)
        delta_R = plgpu.load(delta_ref.at[query_head, queries], layout=ALONG_COLUMNS, optimized=False)
        score_bar_JR = prob_JR * (prob_bar_JR - _across(delta_R, shape, 1))
        k_bar_JH = _add_product(k_bar_JH, score_bar_JR.astype(k.dtype), q, staged, half)
        plgpu.barrier_arrive(q_read)
        return k_bar_JH, v_bar_JH

    def of_queries(n):
        step, member = n // setting.group, n % setting.group
        return unpack(line[0][first + step // steps])[0] * steps + step % steps, head * setting.group + member

    stream = plgpu.BlockSpec((STEP_OF_GRADIENTS, setting.head_dim), of_queries, transforms=_swizzled())
    _pipeline(visit, compute, (length * steps * setting.group,), [stream, stream])(q_ref, out_bar_ref)


def _own_line(line) -> tuple[Array, Array, Array]:
    """The tile of this block of threads, the first of its visits and their number; long lines go first."""
    _, first_ref, length_ref, turn_ref = line
    tile = turn_ref[lax.axis_index("line")]
    return tile, first_ref[tile], length_ref[tile]


def _masked(score, flags, start_ref, end_ref, queries, first_key, query_dim: int):
    """Hidden pairs at HIDDEN, where the visit has any. Args: query_dim: of `score`; keys are along the other one."""
    layout = (ALONG_ROWS, ALONG_COLUMNS)[query_dim]

    def masked():
        key = first_key + plgpu.broadcasted_iota(jnp.int32, score.shape, 1 - query_dim, layout=ACROSS)

        def one_more(interval, shown):
            start, end = (
                _across(plgpu.load(side.at[interval, queries], layout=layout, optimized=False), score.shape, query_dim)
                for side in (start_ref, end_ref)
            )
            return jnp.where((start <= key) & (key < end), score, shown)

        # a loop, so that the bounds of one interval at a time are in registers
        return lax.fori_loop(0, start_ref.shape[0], one_more, plgpu.layout_cast(jnp.full_like(score, HIDDEN), ACROSS))

    return lax.cond(flags & MASKED != 0, masked, lambda: score)


def _multiply(a, b, shape: tuple[int, int]):
    """a b, both in shared memory."""

    def product(acc):
        plgpu.wgmma(acc, a, b)
        return acc[...]

    return pl.run_scoped(product, plgpu.ACC(shape, jnp.float32))


def _add_product(acc, a, b, staged, half):
    """acc + a b, with acc and a in registers; a goes through `staged` where there is such a place."""
    if staged is None:
        return pl.run_state(lambda ref: plgpu.wgmma(ref, a, b))(plgpu.ACC.init(acc))
    place = staged.at[half]
    place[...] = a
    plgpu.commit_smem()
    return acc + _multiply(place, b, acc.shape)


def _full(shape, value, layout=ACROSS):
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def _across(x, shape, dim: int):
    return lax.broadcast_in_dim(x, shape, [dim])


def _columns(head, setting: Setting):
    return pl.ds(head * setting.head_dim, setting.head_dim)


def _swizzled():
    return plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)


def _pipeline(visit: Callable, compute: Callable, grid, in_specs):
    return plgpu.emit_pipeline_warp_specialized(
        visit, grid=grid, max_concurrent_steps=STAGES, num_compute_wgs=WARPGROUPS, memory_registers=COPYING_REGISTERS,
        wg_axis="warpgroup", manual_consumed_barriers=True, compute_context=compute, in_specs=in_specs,
    )  # fmt: skip


# Their calls.


def _forward_pass(setting, q_PX, k_UX, v_UX, bounds, schedule):
    P, N = q_PX.shape[0], q_PX.shape[1] // setting.head_dim
    return _call(
        _forward_kernel, setting, schedule.by_query, N, (q_PX, k_UX, v_UX, *bounds),
        [jax.ShapeDtypeStruct(q_PX.shape, q_PX.dtype), jax.ShapeDtypeStruct((N, P), jnp.float32)],
        [
            _smem(setting.head_dim, q_PX.dtype), plgpu.SMEM((WARPGROUPS, ROWS), jnp.float32),
            plgpu.Barrier(num_barriers=WARPGROUPS), _staging(setting, TILE, q_PX.dtype),
        ],
    )  # fmt: skip


def _query_gradient(setting, q_PX, k_UX, v_UX, out_bar_PX, lse_NP, delta_NP, bounds, visits):
    arrays = (q_PX, k_UX, v_UX, out_bar_PX, lse_NP, delta_NP, *bounds)
    return _call(
        _query_gradient_kernel, setting, visits, lse_NP.shape[0], arrays, jax.ShapeDtypeStruct(q_PX.shape, q_PX.dtype),
        _gradient_scratch(setting, q_PX.dtype),
    )  # fmt: skip


def _key_gradients(setting, q_PX, k_UX, v_UX, out_bar_PX, lse_NP, delta_NP, bounds, visits):
    arrays = (q_PX, k_UX, v_UX, out_bar_PX, lse_NP, delta_NP, *bounds)
    like = jax.ShapeDtypeStruct(k_UX.shape, k_UX.dtype)
    return _call(
        _key_gradients_kernel, setting, visits, lse_NP.shape[0] // setting.group, arrays, [like, like],
        _gradient_scratch(setting, q_PX.dtype),
    )  # fmt: skip


def _gradient_scratch(setting: Setting, dtype) -> list:
    own = _smem(setting.head_dim, dtype)
    return [own, own, plgpu.Barrier(num_barriers=2 * WARPGROUPS), _staging(setting, STEP_OF_GRADIENTS, dtype)]


def _smem(columns: int, dtype):
    return plgpu.SMEM((WARPGROUPS, ROWS, columns), dtype, transforms=_swizzled())


def _staging(setting: Setting, columns: int, dtype):
    return None if setting.interpret is None else _smem(columns, dtype)


def _call(kernel, setting: Setting, visits: Visits, num_heads: int, arrays, out_type, scratch):
    scratch_names = [each for each in scratch if each is not None]

    def body(*refs):
        kernel(*refs, *([None] if len(scratch_names) < len(scratch) else []), setting=setting)

    lines = visits.length_L.shape[0]
    return plgpu.kernel(
        body, out_type=out_type, scratch_types=scratch_names, grid=(num_heads, lines), grid_names=("head", "line"),
        num_threads=WARPGROUPS + 1, thread_name="warpgroup", compiler_params=plgpu.CompilerParams(approx_math=True),
        **({} if setting.interpret is None else {"interpret": setting.interpret}),
    )(*arrays, visits.visit_M, visits.first_L, visits.length_L, visits.turn_L)  # fmt: skip


def _rows(x_BSNH: Array) -> Array:
    """[rows end to end, heads side by side], as it lies in memory where no row is filled up."""
    B, S, N, H = x_BSNH.shape
    return jnp.pad(x_BSNH, ((0, 0), (0, -S % TILE), (0, 0), (0, 0))).reshape(-1, N * H)
