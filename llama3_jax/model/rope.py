"""Rotary position embedding and the frequency scaling of Llama 3.1 (section 3.2; scaling from the released code).

Pairs are (j, j + H/2), as in Hugging Face's weights; Meta's pair (2j, 2j+1) and are permuted when they are loaded.

Shape letters: B batch, S positions, N heads, H head dim, R = H/2 frequencies.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from llama3_jax.model.config import ModelConfig


class Rotation(NamedTuple):
    """float32 [B, S, H/2]; worked out once per batch and shared by all layers."""

    cos_BSR: Array
    sin_BSR: Array


def inverse_frequencies(cfg: ModelConfig) -> np.ndarray:
    """float32 [H/2], radians per position: theta^(-2i/H), scaled if the config says so."""
    plain_R = cfg.rope_theta ** (-np.arange(0, cfg.head_dim, 2, dtype=np.float64) / cfg.head_dim)
    scaling = cfg.rope_scaling
    if scaling is None:
        return plain_R.astype(np.float32)
    wavelength_R = 2 * math.pi / plain_R
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth_R = np.clip((scaling.original_context_length / wavelength_R - low) / (high - low), 0.0, 1.0)
    return ((1 - smooth_R) * plain_R / scaling.factor + smooth_R * plain_R).astype(np.float32)


def rotation(cfg: ModelConfig, positions_BS: Array) -> Rotation:
    """Angles in float32: bfloat16 positions fail past a few hundred."""
    angle_BSR = positions_BS[..., None].astype(jnp.float32) * inverse_frequencies(cfg)
    return Rotation(jnp.cos(angle_BSR), jnp.sin(angle_BSR))


def rotate(x_BSNH: Array, turn: Rotation) -> Array:
    """`x` turned by its position, in float32, back in its own dtype."""
    first, second = jnp.split(x_BSNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = turn.cos_BSR[:, :, None], turn.sin_BSR[:, :, None]
    turned_BSNH = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned_BSNH.astype(x_BSNH.dtype)
