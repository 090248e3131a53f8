"""Which implementation of attention runs where: what `auto` takes, and why another cannot be had."""

from __future__ import annotations

import jax

from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.device import Device, traced_for

FIRST_JAX_FOR_HOPPER = (0, 11)
HALVES = ("bfloat16", "float16")


def choose(wanted: Implementation, *, head_dim: int, dtype: str, device: Device | None = None) -> Implementation:
    """What is wanted, or, for `auto`, the fastest that runs.

    Args: dtype: of queries, keys and values; device: None takes that which is traced for.
    """
    device = device or traced_for()
    if wanted is not Implementation.AUTO:
        return wanted
    for kernel in (Implementation.TPU, Implementation.HOPPER):
        if not obstacle(kernel, head_dim=head_dim, dtype=dtype, device=device):
            return kernel
    return Implementation.XLA


def require(wanted: Implementation, *, head_dim: int, dtype: str, device: Device | None = None) -> Implementation:
    """As `choose`. Raises: ValueError if it cannot run there."""
    device = device or traced_for()
    if reason := obstacle(wanted, head_dim=head_dim, dtype=dtype, device=device):
        raise ValueError(f"attention={wanted.value} {reason}; use attention=auto or xla")
    return choose(wanted, head_dim=head_dim, dtype=dtype, device=device)


def described(wanted: Implementation, *, head_dim: int, dtype: str, device: Device | None = None) -> str:
    """What is taken, and, where `auto` falls back on a GPU, why."""
    device = device or traced_for()
    taken = choose(wanted, head_dim=head_dim, dtype=dtype, device=device)
    if wanted is Implementation.AUTO and taken is Implementation.XLA and device.platform == "gpu":
        return f"{taken.value} (hopper {obstacle(Implementation.HOPPER, head_dim=head_dim, dtype=dtype, device=device)})"
    return taken.value


def obstacle(implementation: Implementation, *, head_dim: int, dtype: str, device: Device) -> str:
    """Why an implementation does not run there; empty if it does."""
    if implementation is Implementation.TPU and device.platform != "tpu":
        return f"runs on TPUs, the devices here are {device.platform}"
    if implementation is Implementation.CUDNN:
        return _obstacle_to_cudnn(head_dim, dtype, device)
    if implementation is not Implementation.HOPPER:
        return ""
    if device.platform != "gpu" or not any(name in device.kind for name in ("H100", "H200", "GH200")):
        return f"runs on H100 and H200, the devices here are {device.kind}"
    if jax.__version_info__ < FIRST_JAX_FOR_HOPPER:
        return f"needs jax {'.'.join(map(str, FIRST_JAX_FOR_HOPPER))}, this is {jax.__version__}"
    if head_dim not in (64, 128) or dtype not in HALVES:
        return f"takes head dims of 64 and 128 in bfloat16 or float16, not {head_dim} in {dtype}"
    return ""


def _obstacle_to_cudnn(head_dim: int, dtype: str, device: Device) -> str:
    if device.platform != "gpu":
        return f"runs on NVIDIA GPUs, the devices here are {device.platform}"
    if head_dim % 8 or head_dim > 128 or dtype not in HALVES:
        return f"takes head dims of up to 128 that 8 divides, in bfloat16 or float16, not {head_dim} in {dtype}"
    return ""
