"""The likelihood of packed rows: what pre-training minimises and what evaluation reports."""

from __future__ import annotations

from jax import Array

from llama3_jax.batches.batch import Batch
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.model.attention import PackedAttend
from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.fsdp import Fsdp


def next_token_loss(
    model: Transformer,
    batch: Batch,
    *,
    precision: Precision = Precision.FLOAT32,
    remat: Remat = Remat.NONE,
    fsdp: Fsdp = Fsdp.REGATHER,
    attention: Implementation = Implementation.AUTO,
) -> tuple[Array, Array]:
    """Cross entropy of the next token of the same document.

    Returns: (sum of loss_weight * nll over the batch: float32, nats, differentiable; nll_BS: float32, nats, without
    gradient).
    """
    attend = PackedAttend(batch, model.cfg, dtype=precision.dtype, implementation=attention)
    x_BSD = model.embed(batch.tokens, precision.dtype)
    x_BSD, _ = model.layers(x_BSD, batch.positions, attend, remat=remat, fsdp=fsdp)
    return model.loss(x_BSD, batch.targets, batch.loss_weight)
