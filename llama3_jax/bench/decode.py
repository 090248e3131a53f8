"""Attention of decoding timed: ours against keys and values on pages, and the same after gathering them, in one run.

Shape letters: R requests, T positions of each, N query heads, K key/value heads, H head dim, P pages of the pool,
C positions of a page, M pages of a request, X = K * H.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

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
    arguments = draw(shape, dtype)

    def after_gathering(q_R1NH, k_LPCX, v_LPCX, layer, table_RM, position_R1):
        k_RTKH, v_RTKH = (gathered(pool, layer, table_RM, shape.head_dim) for pool in (k_LPCX, v_LPCX))
        return reference.attention(q_R1NH, k_RTKH, v_RTKH, prefix_mask(position_R1))

    def from_pages(q_R1NH, k_LPCX, v_LPCX, layer, table_RM, position_R1):
        return paged_attention(q_R1NH, k_LPCX, v_LPCX, layer, table_RM, prefix_mask(position_R1))

    programs = {"llama3_jax, from pages": jax.jit(from_pages), "gathered first": jax.jit(after_gathering)}
    one, other = (np.asarray(program(*arguments), np.float32) for program in programs.values())
    if not (difference := np.linalg.norm(one - other) / np.linalg.norm(other)) <= {"float32": 1e-4, "bfloat16": 2e-2}[dtype]:
        raise ValueError(f"from pages and gathered first differ by {difference:.1e}: they do not do the same work")
    seconds = timed([lambda program=program: program(*arguments) for program in programs.values()], rounds)
    return [
        Measured(name=name, seconds=statistics.median(each), spread=(max(each) - min(each)) / statistics.median(each))
        for name, each in zip(programs, seconds, strict=True)
    ]


def draw(shape: DecodeShape, dtype: str) -> tuple[Array, ...]:
    """q, pools of two layers, the second layer, a table of pages in any order, and the last position of each request."""
    rng, X = np.random.default_rng(0), shape.num_kv_heads * shape.head_dim
    M = -(-shape.positions // shape.page)
    P = shape.requests * M
    k_LPCX, v_LPCX = (jax.random.normal(jax.random.key(n), (2, P, shape.page, X), dtype) for n in range(2))
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
