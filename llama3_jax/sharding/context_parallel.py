"""Context parallelism (section 3.3.2): queries stay where they are, keys and values are gathered over the sequence axis.

The all-gather form works with any mask, and under grouped-query attention keys and values are small.

Shape letters: B batch, S a device's positions, K key/value heads, H head dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from llama3_jax.sharding.axes import RULES
from llama3_jax.sharding.per_device import all_gather, psum_scatter


@jax.custom_vjp
def gather_positions(x_BSKH: Array) -> Array:
    """All positions of keys or values, inside `per_device`; what the devices send back is summed in float32."""
    return all_gather(x_BSKH, RULES.position, 1)


def _forward(x_BSKH: Array):
    return gather_positions(x_BSKH), None


def _backward(_, bar_BTKH: Array):
    sum_BSKH = psum_scatter(bar_BTKH.astype(jnp.float32), RULES.position, 1)
    return (sum_BSKH.astype(bar_BTKH.dtype),)


gather_positions.defvjp(_forward, _backward)
