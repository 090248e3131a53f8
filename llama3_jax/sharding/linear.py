"""A matmul whose weight is gathered where it is used and whose gradient is reduced in float32.

Section 3.3.2: parameters are sharded over the data axis, and their gradients are reduce-scattered in float32.
Autodiff of a plain gather-then-einsum would sum partial gradients in the compute dtype before they are scattered, so
the backward pass is written by hand: the weight gradient is one contraction with a float32 result that lands on the
parameter's own sharding.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec, reshard


def gather(weight: Array, partition: PartitionSpec, dtype: str | jnp.dtype) -> Array:
    """`weight` in `dtype`, collected over every axis that `partition` does not name."""
    return reshard(weight, partition).astype(dtype)


def linear(equation: str, x: Array, weight: Array, *, gathered: PartitionSpec, out: PartitionSpec) -> Array:
    """`einsum(equation, x, weight)` in x's dtype.

    Args:
        equation: two operands, each letter in exactly two of the three terms or in all, e.g. `"bsd,df->bsf"`.
        weight: in its stored dtype and sharding.
        gathered: the partition of the weight during the product: its tensor-parallel axes only.
        out: the partition of the result; a contraction over a split dim is summed to reach it.
    """
    return _linear(equation, gathered, out, x, weight)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _linear(equation: str, gathered: PartitionSpec, out: PartitionSpec, x: Array, weight: Array) -> Array:
    return jnp.einsum(equation, x, gather(weight, gathered, x.dtype), out_sharding=out)


def _forward(equation: str, gathered: PartitionSpec, out: PartitionSpec, x: Array, weight: Array):
    return _linear(equation, gathered, out, x, weight), (x, weight)


def _backward(equation: str, gathered: PartitionSpec, out: PartitionSpec, saved: tuple[Array, Array], y_bar: Array):
    x, weight = saved
    operands, y_dims = equation.split("->")
    x_dims, w_dims = operands.split(",")
    x_bar = jnp.einsum(
        f"{y_dims},{w_dims}->{x_dims}",
        y_bar,
        gather(weight, gathered, x.dtype),
        out_sharding=jax.typeof(x).sharding,
    )
    w_bar = jnp.einsum(
        f"{x_dims},{y_dims}->{w_dims}",
        x,
        y_bar,
        preferred_element_type=jnp.float32,
        out_sharding=jax.typeof(weight).sharding,
    )
    return x_bar, w_bar.astype(weight.dtype)


_linear.defvjp(_forward, _backward)
