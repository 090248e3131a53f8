"""AdamW (section 3.4) over a model tree, with clipping by the global norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from llama3_jax.train.adamw import AdamW


def init(cfg: AdamW, model: Any) -> optax.OptState:
    """Zero moments with the shape, dtype and sharding of each parameter."""
    return _adam(cfg).init(model)


def update(cfg: AdamW, gradient: Any, norm: Array, state: optax.OptState, model: Any, rate: Array) -> tuple[Any, optax.OptState]:
    """One step. Args: norm: global norm of `gradient`. Returns: (new model, new state)."""
    shrink = jnp.minimum(1.0, cfg.clip_norm / norm)
    gradient = jax.tree.map(lambda leaf: leaf * shrink, gradient)
    direction, state = _adam(cfg).update(gradient, state)

    def move(path, parameter, toward):
        decay = 0.0 if "norm" in jax.tree_util.keystr(path) else cfg.weight_decay
        return parameter - rate * (toward + decay * parameter)

    return jax.tree_util.tree_map_with_path(move, model, direction), state


def _adam(cfg: AdamW) -> optax.GradientTransformation:
    return optax.scale_by_adam(cfg.beta1, cfg.beta2, cfg.epsilon)
