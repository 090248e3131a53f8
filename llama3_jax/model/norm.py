"""Root-mean-square normalisation (section 3.2): in float32, cast back, then scaled.

Shape letters: B batch, S positions, D model, L layers.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import reshard

from llama3_jax.sharding.axes import spec
from llama3_jax.sharding.tensor_parallel import residual_dim


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x_BSD: Array, scale_D: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) in float32, cast to x's dtype and then multiplied, the order of the released code.

    The backward pass works everything out again from x, in float32.

    Args: scale_D: float32, as `scale_of_rows` gives it; a bfloat16 x is multiplied by it unrounded.
    """
    unit_BSD = (x_BSD.astype(jnp.float32) * _inverse_root(x_BSD, eps)).astype(x_BSD.dtype)
    return (unit_BSD.astype(jnp.float32) * reshard(scale_D, spec(None))).astype(x_BSD.dtype)


def scale_of_rows(scale: Array, num_positions: int) -> Array:
    """A scale [D], or the scales of all layers [L, D], whose gradient is left as each device's sum over its rows.

    Applied outside the layer scan, so that the gradients of all layers meet in one reduction.
    """
    return reshard(scale, spec(*[None] * scale.ndim, reduced=("batch", residual_dim(num_positions))))


def _inverse_root(x_BSD: Array, eps: float) -> Array:
    """float32 [B, S, 1]."""
    return lax.rsqrt(jnp.mean(jnp.square(x_BSD.astype(jnp.float32)), axis=-1, keepdims=True) + eps)


def _forward(x_BSD: Array, scale_D: Array, eps: float):
    return rms_norm(x_BSD, scale_D, eps), (x_BSD, scale_D)


def _backward(eps: float, saved: tuple[Array, Array], y_bar_BSD: Array):
    x_BSD, scale_D = saved
    root_BS1 = _inverse_root(x_BSD, eps)
    unit_BSD, y_bar32_BSD = x_BSD.astype(jnp.float32) * root_BS1, y_bar_BSD.astype(jnp.float32)
    unit_bar_BSD = y_bar32_BSD * reshard(scale_D, spec(None))
    along_BS1 = jnp.mean(unit_bar_BSD * unit_BSD, axis=-1, keepdims=True)
    sums = spec(None, unreduced=("batch", residual_dim(x_BSD.shape[1])))
    scale_bar_D = lax.reduce_sum(y_bar32_BSD * unit_BSD, (0, 1), out_sharding=sums)
    return ((unit_bar_BSD - along_BS1 * unit_BSD) * root_BS1).astype(x_BSD.dtype), scale_bar_D


rms_norm.defvjp(_forward, _backward)
