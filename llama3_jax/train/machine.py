"""What the machine at hand can do, measured, so that a run can be compared with it."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.model.precision import Precision

CPU_SIZE, ACCELERATOR_SIZE = 2048, 8192
REPEATS, IN_A_ROW = 5, 10


def matmul_flops_per_s(precision: Precision) -> float:
    """The best of a few square matmuls, FLOP/s: the practical ceiling of one accelerator, or of the whole CPU.

    Devices that are emulated on a CPU share it, so they work on the matmul together, each on its rows. Not to be called
    where a mesh is set: there jax would spread each product over the mesh.
    """
    first, *others = jax.local_devices()
    size, devices = (CPU_SIZE, [first, *others]) if first.platform == "cpu" else (ACCELERATOR_SIZE, [first])
    rows = -(-size // len(devices))
    multiply = jax.jit(jnp.matmul)

    values = np.random.default_rng(0).standard_normal((size, size), np.float32).astype(jnp.dtype(precision.dtype))
    operands = [(jax.device_put(values[:rows], device), jax.device_put(values, device)) for device in devices]

    times = 1 if first.platform == "cpu" else IN_A_ROW  # an accelerator is handed several, so that it never waits

    def seconds() -> float:
        started = time.perf_counter()
        jax.block_until_ready([multiply(a, b) for _ in range(times) for a, b in operands])
        return (time.perf_counter() - started) / times

    seconds()  # compiles
    return 2.0 * rows * len(devices) * size**2 / min(seconds() for _ in range(REPEATS))
