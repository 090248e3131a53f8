"""From logits to a token: temperature and nucleus sampling.

Shape letters: R requests, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from llama3_jax.generate.settings import Sampling


def sample(logits_RV: Array, key: Array, sampling: Sampling) -> Array:
    """int32 [R] token ids from float32 logits."""
    if sampling.temperature == 0:
        return jnp.argmax(logits_RV, axis=-1).astype(jnp.int32)
    below_RV = logits_RV - jnp.max(logits_RV, axis=-1, keepdims=True)
    prob_RV = jax.nn.softmax(below_RV / sampling.temperature)
    descending_RV = jnp.sort(prob_RV, axis=-1, descending=True)
    before_RV = jnp.cumsum(descending_RV, axis=-1) - descending_RV
    least_R = jnp.min(jnp.where(before_RV < sampling.top_p, descending_RV, jnp.inf), axis=-1)
    kept_RV = jnp.where(prob_RV >= least_R[:, None], jnp.log(prob_RV), -jnp.inf)
    return jax.random.categorical(key, kept_RV).astype(jnp.int32)
