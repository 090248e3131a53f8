"""A matmul whose weight is gathered where it is used and whose gradient is reduced in float32.

Section 3.3.2: parameters are sharded over the devices that see different tokens, and their gradients are
reduce-scattered in float32. Autodiff of a plain gather-then-einsum would sum partial gradients in the compute dtype, so
the backward pass is written by hand: the weight gradient is one contraction with a float32 result, left as partial
sums, that are reduced onto the parameter's own sharding.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec, reshard

from llama3_jax.sharding.axes import cotangent, spec
from llama3_jax.sharding.fsdp import Fsdp

GATHERED_WEIGHT = "gathered_weight"
"""The checkpoint name of a weight in the compute dtype, gathered."""


def linear(
    equation: str,
    x: Array,
    weight: Array,
    *,
    gathered: PartitionSpec,
    out: PartitionSpec,
    fsdp: Fsdp = Fsdp.REGATHER,
) -> Array:
    """`einsum(equation, x, weight)` in x's dtype.

    Args:
        equation: two operands, each letter in exactly two of the three terms, e.g. `"bsd,df->bsf"`; x begins with rows
            and positions.
        weight: in its stored dtype and sharding.
        gathered: the partition of the weight during the product: its tensor-parallel axes only.
        out: the partition of the result; one that is `unreduced` leaves partial sums.
        fsdp: whether the gathered weight waits for the backward pass.
    """
    stored = jax.typeof(weight)
    plan = _Plan(equation, gathered, out, fsdp, jax.typeof(x).sharding.spec, stored.sharding.spec, stored.dtype)
    return _linear(plan, x, weight)


class _Plan(NamedTuple):
    """What is known while tracing."""

    equation: str
    gathered: PartitionSpec
    out: PartitionSpec
    fsdp: Fsdp
    x: PartitionSpec
    stored: PartitionSpec
    stored_dtype: jnp.dtype


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _linear(plan: _Plan, x: Array, weight: Array) -> Array:
    return _forward(plan, x, weight)[0]


def _forward(plan: _Plan, x: Array, weight: Array):
    whole = _gather(plan, weight, x.dtype)
    y = jnp.einsum(plan.equation, x, whole, out_sharding=plan.out)
    return y, (x, whole if plan.fsdp is Fsdp.KEEP else weight)


def _backward(plan: _Plan, saved: tuple[Array, Array], y_bar: Array):
    x, weight = saved
    whole = weight if plan.fsdp is Fsdp.KEEP else _gather(plan, weight, x.dtype)
    operands, y_dims = plan.equation.split("->")
    x_dims, w_dims = operands.split(",")
    x_bar = jnp.einsum(f"{y_dims},{w_dims}->{x_dims}", y_bar, whole, out_sharding=cotangent(plan.x))
    partial_sums = plan.gathered.update(unreduced=spec(unreduced=("batch", "position")).unreduced)
    w_bar = jnp.einsum(f"{x_dims},{y_dims}->{w_dims}", x, y_bar, preferred_element_type=jnp.float32, out_sharding=partial_sums)
    return x_bar, reshard(w_bar, plan.stored).astype(plan.stored_dtype)


_linear.defvjp(_forward, _backward)


def _gather(plan: _Plan, weight: Array, dtype: jnp.dtype) -> Array:
    """Cast before it moves: the same numbers, fewer bytes."""
    return checkpoint_name(reshard(weight.astype(dtype), plan.gathered), GATHERED_WEIGHT)
