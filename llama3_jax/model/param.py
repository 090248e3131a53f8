"""A parameter states its shape, logical dims and scale once; its sharding follows from the dims.

Initialisation is our choice (the paper prints none): normal, with a standard deviation named where it is declared.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llama3_jax.sharding.axes import named, spec

PARAM_DTYPE = jnp.float32


def normal(key: Array, shape: tuple[int, ...], dims: tuple[str | None, ...], std: float) -> nnx.Param:
    """A normal parameter of this standard deviation, sharded by `dims`."""
    draw = jax.random.normal(key, shape, PARAM_DTYPE, out_sharding=named(spec(*dims)))
    return nnx.Param(draw * std, dims=dims)


def ones(shape: tuple[int, ...], dims: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(jnp.ones(shape, PARAM_DTYPE, out_sharding=named(spec(*dims))), dims=dims)


def fan_in(size: int) -> float:
    """Standard deviation that keeps the variance of a sum over `size` inputs."""
    return size**-0.5
