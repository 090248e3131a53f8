"""Root-mean-square normalisation (section 3.2): in float32, cast back, then scaled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def rms_norm(x_BSD: Array, scale_D: Array, eps: float) -> Array:
    """x / sqrt(mean(x^2) + eps) in float32, cast to x's dtype and then multiplied, the order of the released code."""
    x32_BSD = x_BSD.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32_BSD), axis=-1, keepdims=True)
    return (x32_BSD * jax.lax.rsqrt(mean_square + eps)).astype(x_BSD.dtype) * scale_D.astype(x_BSD.dtype)
