"""What the machine at hand can do, measured, so that a run can be compared with it."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from llama3_jax.model.precision import Precision

CPU_SIZE, ACCELERATOR_SIZE = 2048, 8192
REPEATS = 5


def matmul_flops_per_s(precision: Precision) -> float:
    """The best of a few square matmuls on the first device, FLOP/s: the machine's practical ceiling.

    On a CPU this is the whole machine, however many devices are emulated on it; elsewhere it is one device.
    """
    device = jax.devices()[0]
    size = CPU_SIZE if device.platform == "cpu" else ACCELERATOR_SIZE
    with jax.default_device(device):
        key = jax.random.key(0)
        a, b = (jax.random.normal(k, (size, size), jnp.float32).astype(precision.dtype) for k in jax.random.split(key))
        multiply = jax.jit(jnp.matmul)
        jax.block_until_ready(multiply(a, b))
        best = float("inf")
        for _ in range(REPEATS):
            started = time.perf_counter()
            jax.block_until_ready(multiply(a, b))
            best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
