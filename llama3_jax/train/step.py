"""One training step: gradients over micro-batches in float32, one decision whether to take them, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array, lax

from llama3_jax.batches.batch import Batch
from llama3_jax.model.transformer import Transformer
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.batch_hash import batch_hash
from llama3_jax.train.objective import Objective
from llama3_jax.train.optimizer import init, update


@struct.dataclass
class TrainState:
    """Everything that training changes."""

    step: Array
    """int32: batches consumed, skipped ones included."""
    model: Transformer
    moments: Any
    """Adam's."""
    skipped: Array
    """int32: steps not taken because their gradients were not finite."""

    @classmethod
    def create(cls, model: Transformer, optimizer: AdamW) -> TrainState:
        counters = {name: jnp.zeros((), jnp.int32) for name in ("step", "skipped")}  # two buffers: a step uses up both
        return cls(model=model, moments=init(optimizer, model), **counters)


StepFunction = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def make_step(objective: Objective, optimizer: AdamW) -> StepFunction:
    """The step to jit: (state, batch [A, B, S], learning rate) -> (state, metrics).

    Metrics: loss (nats per supervised token), grad_norm (before clipping), supervised_tokens, skipped (0 or 1),
    batch_hash (uint32) and what the objective adds, summed over the batch.
    """

    def step(state: TrainState, batch: Batch, rate: Array) -> tuple[TrainState, dict[str, Array]]:
        gradient, loss, weight, extra = _sum_gradients(objective, state.model, batch)
        scale = 1.0 / jnp.maximum(weight, 1.0)
        loss = loss * scale
        norm = optax.tree.norm(gradient) * scale  # of the sum, so that scaling is part of the update and no pass of its own
        gradient = jax.tree.map(lambda leaf: leaf * scale, gradient)
        good = jnp.isfinite(norm) & jnp.isfinite(loss)
        model, moments = update(optimizer, gradient, norm, state.moments, state.model, rate)
        model, moments = jax.tree.map(lambda new, old: jnp.where(good, new, old), (model, moments), (state.model, state.moments))
        skipped = 1 - good.astype(jnp.int32)
        state = state.replace(step=state.step + 1, model=model, moments=moments, skipped=state.skipped + skipped)
        metrics = {"loss": loss, "grad_norm": norm, "supervised_tokens": weight, "skipped": skipped, **extra}
        return state, metrics | {"batch_hash": batch_hash(batch)}

    return step


def _sum_gradients(objective: Objective, model: Transformer, batch: Batch):
    """Float32 gradient of the loss sum, and the sums, over the micro-batches."""

    def loss_and_sums(model, piece):
        loss, weight, extra = objective(model, piece)
        return loss, (weight, extra)

    def one(piece: Batch):
        (loss, (weight, extra)), gradient = jax.value_and_grad(loss_and_sums, has_aux=True)(model, piece)
        return gradient, loss, weight, extra

    if batch.tokens.shape[0] == 1:
        return one(jax.tree.map(lambda leaf: leaf[0], batch))
    shapes = jax.eval_shape(one, jax.tree.map(lambda leaf: leaf[0], batch))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, out_sharding=leaf.sharding), shapes)
    return lax.scan(lambda sums, piece: (jax.tree.map(jnp.add, sums, one(piece)), None), zeros, batch)[0]
