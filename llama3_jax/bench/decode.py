"""Attention of decoding timed: ours against keys and values on pages, and the same after gathering them, in one run.

Shape letters: R requests, T positions of each, N query heads, K key/value heads, H head dim, P pages of the pool,
C positions of a page, M pages of a request, X = K * H.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llama3_jax.bench import float64
from llama3_jax.bench.attention_shape import DecodeShape
from llama3_jax.bench.timed import timed
from llama3_jax.kernels.attention import reference
from llama3_jax.kernels.attention.mask import prefix_mask
from llama3_jax.kernels.attention.paged import gathered, paged_attention

READ_BYTES = {"cpu": 2**28, "gpu": 2**31, "tpu": 2**31}
"""What is read to see how fast memory is: several times what a cache holds."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    name: str
    seconds: float
    """Of one layer: the median over rounds."""
    spread: float


def compare(shape: DecodeShape, *, dtype: str, rounds: int) -> list[Measured]:
    """Ours first. Raises: ValueError if the results differ: they would not do the same work."""
    arguments = draw(shape, dtype, seed=0)

    def after_gathering(q_R1NH, k_LPCX, v_LPCX, layer, table_RM, position_R1):
        k_RTKH, v_RTKH = (gathered(pool, layer, table_RM, shape.head_dim) for pool in (k_LPCX, v_LPCX))
        return reference.attention(q_R1NH, k_RTKH, v_RTKH, prefix_mask(position_R1))

    programs = {"llama3_jax, from pages": jax.jit(_from_pages), "gathered first": jax.jit(after_gathering)}
    one, other = (program(*arguments) for program in programs.values())
    if not (difference := float64.relative_error(one, other)) <= float64.furthest_apart(dtype):
        raise ValueError(f"from pages and gathered first differ by {difference:.1e}: they do not do the same work")
    seconds = timed([lambda program=program: program(*arguments) for program in programs.values()], rounds)
    return [
        Measured(name=name, seconds=statistics.median(each), spread=(max(each) - min(each)) / statistics.median(each))
        for name, each in zip(programs, seconds, strict=True)
    ]


def error(shape: DecodeShape, *, dtype: str, seed: int) -> float:
    """Of ours, relative, from float64 for the first request, on arrays that are others each time.

    Raises: ValueError if it is larger than rounding makes it.
    """
    shape = replace(shape, requests=min(shape.requests, 2))
    q_R1NH, *pools, layer, table_RM, position_R1 = draw(shape, dtype, seed)
    out_R1NH = jax.jit(_from_pages)(q_R1NH, *pools, layer, table_RM, position_R1)
    k_TKH, v_TKH = (gathered(pool, layer, table_RM[:1], shape.head_dim)[0, : shape.positions] for pool in pools)
    everything = np.ones((1, shape.positions), bool)
    expected_1NH = float64.output(q_R1NH[0], k_TKH, v_TKH, everything)
    found, limit = float64.relative_error(out_R1NH[0], expected_1NH), float64.largest_error(dtype)
    if not found <= limit:
        raise ValueError(
            f"attention from pages is {found:.1e} from float64, rounding makes {limit:.0e} of {dtype} at most; use seed={seed} "
            "to see it again"
        )
    return found


def _from_pages(q_R1NH, k_LPCX, v_LPCX, layer, table_RM, position_R1):
    return paged_attention(q_R1NH, k_LPCX, v_LPCX, layer, table_RM, prefix_mask(position_R1))


def draw(shape: DecodeShape, dtype: str, seed: int) -> tuple[Array, ...]:
    """q, pools of two layers, the second layer, a table of pages in any order, and the last position of each request."""
    rng, X = np.random.default_rng(seed), shape.num_kv_heads * shape.head_dim
    M = -(-shape.positions // shape.page)
    P = shape.requests * M
    k_LPCX, v_LPCX = (jax.random.normal(key, (2, P, shape.page, X), dtype) for key in jax.random.split(jax.random.key(seed)))
    q_R1NH = jnp.asarray(rng.normal(size=(shape.requests, 1, shape.num_heads, shape.head_dim)), dtype)
    table_RM = jnp.asarray(rng.permutation(P).reshape(-1, M), jnp.int32)
    return q_R1NH, k_LPCX, v_LPCX, jnp.int32(1), table_RM, jnp.full((shape.requests, 1), shape.positions - 1, jnp.int32)


def bytes_per_s(rounds: int) -> float:
    """How fast this device reads its memory: the best of a few sums over a large array."""
    size = READ_BYTES[jax.default_backend()]
    x_RC = jnp.ones((size // 2**14, 2**13), jnp.bfloat16)
    add = jax.jit(lambda x_RC: jnp.sum(x_RC.astype(jnp.float32), axis=1))
    (seconds,) = timed([lambda: add(x_RC)], rounds)
    return size / min(seconds)
