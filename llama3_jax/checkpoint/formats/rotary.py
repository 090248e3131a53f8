"""Whether a rotary setting is that of the weights: what can be known of it without running the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llama3_jax.checkpoint.formats.stored import Stored
from llama3_jax.model.config import ModelConfig

UNSCALED_CONTEXT = 8192
"""Positions that the released weights without scaling were trained on: Llama 3, April 2024."""
THETA = 500_000.0
CLOSE = 2.0**-7
"""What bfloat16 leaves of a frequency."""


def require_scaling(cfg: ModelConfig, where: str, key: str) -> None:
    """Raises: ValueError for Llama 3.1 or later without the scaling that its weights were trained with."""
    if cfg.rope_theta == THETA and cfg.context_length > UNSCALED_CONTEXT and cfg.rope_scaling is None:
        raise ValueError(
            f"{where} has a context of {cfg.context_length} positions at rope_theta {THETA:g} and no {key}: these are weights of "
            f"Llama 3.1 or later without the RoPE scaling they were trained with; put {key} back (factor 8; 32 for 3.2), or give "
            f"{UNSCALED_CONTEXT} positions if they are of Llama 3"
        )


def require_frequencies(stored: Stored, cfg: ModelConfig, where: str, config: str) -> None:
    """Args: stored: inverse frequencies, scaled or not, that a file keeps beside the weights. Raises: ValueError if they are
    not those of the config."""
    from llama3_jax.model.rope import inverse_frequencies  # jax

    found = stored.read().astype(np.float32)
    right = [inverse_frequencies(each) for each in (cfg, replace(cfg, rope_scaling=None))]
    if not any(found.shape == each.shape and np.allclose(found, each, rtol=CLOSE, atol=0) for each in right):
        raise ValueError(
            f"{where} holds rotary frequencies that are not those of {config} (rope_theta {cfg.rope_theta:g}, head dim "
            f"{cfg.head_dim}); take the {config} that came with these weights"
        )
