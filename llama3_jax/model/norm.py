"""Root-mean-square normalisation (section 3.2): in float32, cast back, then scaled.

Shape letters: B batch, S positions, D model, L layers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import reshard

from llama3_jax.sharding.axes import spec
from llama3_jax.sharding.tensor_parallel import residual_dim


def rms_norm(x_BSD: Array, scale_D: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) in float32, cast to x's dtype and then multiplied, the order of the released code.

    Args: scale_D: float32, as `scale_of_rows` gives it; a bfloat16 x is multiplied by it unrounded.
    """
    x32_BSD = x_BSD.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32_BSD), axis=-1, keepdims=True)
    return _scaled((x32_BSD * lax.rsqrt(mean_square + eps)).astype(x_BSD.dtype), scale_D)


def scale_of_rows(scale: Array, num_positions: int) -> Array:
    """A scale [D], or the scales of all layers [L, D], whose gradient is left as each device's sum over its rows.

    Applied outside the layer scan, so that the gradients of all layers meet in one reduction.
    """
    return reshard(scale, spec(*[None] * scale.ndim, reduced=("batch", residual_dim(num_positions))))


@jax.custom_vjp
def _scaled(x_BSD: Array, scale_D: Array) -> Array:
    return (x_BSD.astype(jnp.float32) * reshard(scale_D, spec(None))).astype(x_BSD.dtype)


def _forward(x_BSD: Array, scale_D: Array):
    return _scaled(x_BSD, scale_D), (x_BSD, scale_D)


def _backward(saved: tuple[Array, Array], y_bar_BSD: Array):
    x_BSD, scale_D = saved
    y_bar32_BSD = y_bar_BSD.astype(jnp.float32)
    x_bar_BSD = (y_bar32_BSD * reshard(scale_D, spec(None))).astype(x_BSD.dtype)
    sums = spec(None, unreduced=("batch", residual_dim(x_BSD.shape[1])))
    return x_bar_BSD, lax.reduce_sum(y_bar32_BSD * x_BSD.astype(jnp.float32), (0, 1), out_sharding=sums)


_scaled.defvjp(_forward, _backward)
