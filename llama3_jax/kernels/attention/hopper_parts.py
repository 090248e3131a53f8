"""What the kernels for Hopper are made of: a line of the schedule, tiles that pass by in shared memory, masks and products.

A product whose left side is in registers has no counterpart in the interpreter: interpreted, it goes through shared memory.

Shape letters: R queries and J keys that a warpgroup multiplies at a time, E edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from llama3_jax.kernels.attention.reference import HIDDEN
from llama3_jax.kernels.attention.schedule import MASKED, Visits

WARPGROUPS = 2
"""That multiply; one more copies."""
ROWS = 64
"""Of a tile that a warpgroup owns: what a matrix instruction takes."""
TILE = WARPGROUPS * ROWS
"""Queries, and keys, of a tile."""
COPYING_REGISTERS, MULTIPLYING_REGISTERS = 24, 240
"""Of a thread of each kind: together no more than the 3 x 168 that they are launched with, or they would wait for ever."""
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
    count: bool = False
    """Whether kernels give one more result: how much each warpgroup of each head and tile multiplied, int32 [heads, tiles, 2]."""

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5

    def columns(self, head):
        """Of a head, in arrays that have them side by side."""
        return pl.ds(head * self.head_dim, self.head_dim)


class Line(NamedTuple):
    """Of the schedule: the visits of a tile."""

    tile: Array
    length: Array
    visit: Callable[[Array], Array]
    """By number; past the last one it is anything."""
    tally: Callable[[], None]
    """To be called once for what is multiplied at a time; counts, for tests, and does nothing otherwise."""


class Stream(NamedTuple):
    """Tiles that pass by: one warpgroup copies them to places in shared memory, the others read them there."""

    places: tuple
    """[stages, ...] each: a tile and what goes with it."""
    there: Any
    read: Any

    @property
    def stages(self) -> int:
        return self.places[0].shape[0]

    def fill(self, step, *sources) -> None:
        """Copies what is needed at a step, once what lies there has been read. Args: sources: a list is parts of one."""
        slot = step % self.stages

        @pl.when(step >= self.stages)
        def wait():
            plgpu.barrier_wait(self.read.at[slot])

        for source, places in zip(sources, self.places, strict=True):
            parts = source if isinstance(source, list) else [source]
            rows = places.shape[1] // len(parts)
            for number, part in enumerate(parts):
                place = places.at[slot, pl.ds(number * rows, rows)] if len(parts) > 1 else places.at[slot]
                plgpu.copy_gmem_to_smem(part, place, self.there.at[slot])

    def take(self, step) -> list:
        """Waits until it is there."""
        plgpu.barrier_wait(self.there.at[step % self.stages])
        return self.at(step)

    def at(self, step) -> list:
        return [places.at[step % self.stages] for places in self.places]

    def release(self, step) -> None:
        plgpu.barrier_arrive(self.read.at[step % self.stages])


class Own(NamedTuple):
    """What a warpgroup that multiplies has for a whole line."""

    places: tuple
    """[WARPGROUPS, ...] each"""
    there: Any

    def fill(self, warpgroup, *sources) -> list:
        for source, places in zip(sources, self.places, strict=True):
            plgpu.copy_gmem_to_smem(source, places.at[warpgroup], self.there.at[warpgroup])
        plgpu.barrier_wait(self.there.at[warpgroup])
        return [places.at[warpgroup] for places in self.places]


def stream(stages: int, *kinds, parts: int = 1, readers: int = WARPGROUPS) -> Stream:
    """What a `Stream` needs.

    Args: kinds: (shape, dtype) of a tile and of what goes with it; parts: that each comes in; readers: warpgroups.
    """
    return Stream(
        tuple(memory((stages, *shape), dtype) for shape, dtype in kinds),
        plgpu.Barrier(num_arrivals=len(kinds) * parts, num_barriers=stages),
        plgpu.Barrier(num_arrivals=readers, num_barriers=stages),
    )


def own(*kinds) -> Own:
    places = tuple(memory((WARPGROUPS, *shape), dtype) for shape, dtype in kinds)
    return Own(places, plgpu.Barrier(num_arrivals=len(kinds), num_barriers=WARPGROUPS))


def memory(shape, dtype):
    """Shared; in the layout that matrix instructions read, for what they multiply."""
    for_matrices = jnp.dtype(dtype).itemsize == 2
    return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)) * for_matrices)


def launch(kernel, setting: Setting, visits: Visits, num_heads: int, arrays, out_type, scratch: dict, *, left_columns: int):
    """Runs a kernel for each head and line of the schedule.

    Args:
        kernel: (line, *refs of arrays and results, setting=, **scratch) -> pair of what copies and what multiplies.
        left_columns: of products' left sides that are in registers.
    """
    staged = setting.interpret and memory((WARPGROUPS, ROWS, left_columns), arrays[0].dtype)

    def body(*refs, **scratch):
        (*inputs, visit_ref, first_ref, length_ref, turn_ref), outputs = refs[: len(arrays) + 4], refs[len(arrays) + 4 :]
        tile, warpgroup = turn_ref[lax.axis_index("line")], lax.axis_index("warpgroup")
        first, last = first_ref[tile], visit_ref.shape[0] - 1
        *outputs, counts_ref = outputs if setting.count else (*outputs, None)
        place = lax.axis_index("head"), tile, warpgroup

        def tally():
            if setting.count:
                counts_ref[place] += 1

        line = Line(tile, length_ref[tile], lambda number: visit_ref[jnp.minimum(first + number, last)], tally)
        copy, multiply = kernel(line, *inputs, *outputs, setting=setting, **{"staged": None, **scratch})

        @pl.when(warpgroup == WARPGROUPS)
        def copying():
            plgpu.set_max_registers(COPYING_REGISTERS, action="decrease")
            copy()

        @pl.when(warpgroup < WARPGROUPS)
        def multiplying():
            plgpu.set_max_registers(MULTIPLYING_REGISTERS, action="increase")
            if setting.count:
                counts_ref[place] = jnp.int32(0)
            multiply(warpgroup)

    if setting.count:
        out_type = [*out_type, jax.ShapeDtypeStruct((num_heads, visits.length_L.shape[0], WARPGROUPS), jnp.int32)]

    return plgpu.kernel(
        body, out_type=out_type, scratch_types=scratch | ({"staged": staged} if staged else {}),
        grid=(visits.length_L.shape[0], num_heads), grid_names=("line", "head"), num_threads=WARPGROUPS + 1,
        thread_name="warpgroup", compiler_params=plgpu.CompilerParams(approx_math=True),
        **({"interpret": setting.interpret} if setting.interpret else {}),
    )(*arrays, visits.visit_M, visits.first_L, visits.length_L, visits.turn_L)  # fmt: skip


def store(*pairs) -> None:
    """Args: pairs: (values in registers, place in shared memory, where they go)."""
    for values, place, _ in pairs:
        place[...] = values.astype(place.dtype)
    plgpu.commit_smem()
    for _, place, target in pairs:
        plgpu.copy_smem_to_gmem(place, target)
    plgpu.wait_smem_to_gmem(0)


def masked(then: Callable, score, flags, edges_E, first_key, query_dim: int):
    """`then` of the scores, which are as `shown` where the visit has any hidden pair.

    It is part of the branches, and does not follow them: past them ptxas waits at once for the product that is under way, and
    computes after it what could have been computed meanwhile. For two intervals a branch has not the registers.
    """

    def hide():
        return shown(score, edges_E, first_key, query_dim)

    hidden = flags & MASKED != 0
    if edges_E.shape[0] > 2:
        return then(lax.cond(hidden, hide, lambda: score))
    return lax.cond(hidden, lambda: then(hide()), lambda: then(score))


def shown(score, edges_E, first_key, query_dim: int):
    """Hidden pairs at HIDDEN.

    Args: edges_E: [E, queries] in shared memory; query_dim: of `score`; keys are along the other one.
    """
    key = first_key + plgpu.broadcasted_iota(jnp.int32, score.shape, 1 - query_dim, layout=ACROSS)

    def edge(number):
        return along_queries(edges_E.at[number], score.shape, query_dim)

    last = edges_E.shape[0] - 1
    score = jnp.where((key < edge(0)) | (edge(last) <= key), HIDDEN, score)
    for number in range(1, last, 2):
        score = jnp.where((edge(number) <= key) & (key < edge(number + 1)), HIDDEN, score)
    return score


def along_queries(ref, shape, query_dim: int):
    """What is in memory for each query, over a tile of scores."""
    layout = (ALONG_ROWS, ALONG_COLUMNS)[query_dim]
    return across(plgpu.load(ref, layout=layout, optimized=False), shape, query_dim)


def on_the_left(x, staged, warpgroup):
    """x, in registers, as the left side of a product."""
    if staged is None:
        return x
    place = staged.at[warpgroup]
    place[...] = x
    plgpu.commit_smem()
    return place


def begin(accumulator, total, staged) -> None:
    """Products are added to `total` from now on; interpreted, where an accumulator cannot be set, at the `end`."""
    if staged is None:
        accumulator[...] = total


def end(accumulator, total, staged, *, under_way: int = 0):
    """The sum of `total` and the products, once they are done. Args: under_way: products begun later, which may not be."""
    products = plgpu.wgmma_accumulator_load(accumulator, wait_n=under_way)
    return products if staged is None else products + total


def accumulators(*shapes: tuple[int, int]) -> list:
    return [plgpu.ACC(shape, jnp.float32) for shape in shapes]


def full(shape, value, layout=ACROSS):
    return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), layout)


def across(x, shape, dim: int):
    return lax.broadcast_in_dim(x, shape, [dim])
