"""Polyak averaging: the mean of the parameters along the annealing phase (section 3.4.3)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from llama3_jax.model.transformer import Transformer


@struct.dataclass
class Average:
    model: Transformer
    """Float32 mean of the parameters taken so far."""
    count: Array
    """int32: how many were taken."""

    @classmethod
    def empty(cls, model: Transformer) -> Average:
        return cls(model=jax.tree.map(jnp.zeros_like, model), count=jnp.zeros((), jnp.int32))

    def include(self, model: Transformer) -> Average:
        count = self.count + 1
        mean = jax.tree.map(lambda mean, new: mean + (new - mean) / count, self.model, model)
        return Average(model=mean, count=count)
