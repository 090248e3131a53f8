"""What a step minimises: (model, batch) -> (loss sum, weight sum, metrics).

Every objective returns sums, so that micro-batches and devices add up before the one division (the paper does not
print this; averages of averages weigh tokens unevenly).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from llama3_jax.batches.batch import Batch
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.model.next_token import next_token_loss
from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.fsdp import Fsdp

Objective = Callable[[Transformer, Batch], tuple[Array, Array, dict[str, Array]]]


@dataclass(frozen=True, kw_only=True)
class NextToken:
    """Cross entropy of the next token of the same document (section 3).

    Metrics: visible_pairs, the (query, key) pairs that attention must look at.
    """

    precision: Precision = Precision.FLOAT32
    remat: Remat = Remat.NONE
    fsdp: Fsdp = Fsdp.REGATHER
    attention: Implementation = Implementation.AUTO

    def __call__(self, model: Transformer, batch: Batch) -> tuple[Array, Array, dict[str, Array]]:
        loss, _ = next_token_loss(
            model, batch, precision=self.precision, remat=self.remat, fsdp=self.fsdp, attention=self.attention
        )
        visible_pairs = jnp.sum(jnp.where(batch.segment_ids > 0, batch.positions + 1, 0).astype(jnp.float32))
        return loss, jnp.sum(batch.loss_weight), {"visible_pairs": visible_pairs}
