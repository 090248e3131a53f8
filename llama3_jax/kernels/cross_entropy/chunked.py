"""Cross entropy that never holds the logits of a whole row, split over the vocabulary (sections 3.2 and 3.3.2).

Positions are taken in chunks, and each device computes its own vocabulary entries of a chunk's logits; the maximum and
the sum of exponentials meet over the vocabulary axis. The loss sum is linear in its cotangent, so its gradients are
made in the forward pass, chunk by chunk while the logits exist, and the backward pass only scales them.

Shape letters: B batch, S positions, D model, V vocabulary, C positions of a chunk, X = B*S rounded up to chunks.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from llama3_jax.sharding.per_device import all_gather, axis_index, pmax, psum, psum_scatter

CHUNK = 512
"""Positions whose logits exist at the same time on a device."""


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def cross_entropy(
    x_BSD: Array,
    head_DV: Array,
    targets_BS: Array,
    weight_BS: Array,
    vocab_axis: str | None = None,
    embed_axes: tuple[str, ...] = (),
    chunk: int = CHUNK,
) -> tuple[Array, Array]:
    """Summed and per-token cross entropy of a device's own positions.

    Args:
        x_BSD: final hidden states in the compute dtype.
        head_DV: output matrix, this device's part of it; cast to x's dtype before it is gathered, its gradient is
            float32.
        targets_BS: int32 token ids over the whole vocabulary.
        weight_BS: float32; 0 where no loss is wanted.
        vocab_axis: the `shard_map` axis that splits V, or None if it is whole.
        embed_axes: the axes that split the D of `head_DV`, and see different positions.

    Returns: (sum of weight * nll: float32 scalar, nats; nll_BS: float32 [B, S], nats, without gradient).
    """
    loss, nll_BS, _ = _scan(x_BSD, head_DV, targets_BS, weight_BS, vocab_axis, embed_axes, chunk, with_gradients=False)
    return loss, nll_BS


def _forward(x_BSD, head_DV, targets_BS, weight_BS, vocab_axis, embed_axes, chunk):
    loss, nll_BS, gradients = _scan(x_BSD, head_DV, targets_BS, weight_BS, vocab_axis, embed_axes, chunk, with_gradients=True)
    return (loss, nll_BS), gradients


def _backward(vocab_axis, embed_axes, chunk, gradients, bars):
    """Over a split vocabulary each device is told its share of the loss's cotangent, and owes its share of x's."""
    loss_bar, _ = bars
    if vocab_axis:
        loss_bar = psum(loss_bar, vocab_axis)
    x_bar_BSD, head_bar_DV = gradients
    return (x_bar_BSD.astype(jnp.float32) * loss_bar).astype(x_bar_BSD.dtype), head_bar_DV * loss_bar, None, None


cross_entropy.defvjp(_forward, _backward)


def _scan(x_BSD, head_DV, targets_BS, weight_BS, vocab_axis, embed_axes, chunk, *, with_gradients):
    B, S, D = x_BSD.shape
    chunk = min(chunk, B * S)
    missing = -(B * S) % chunk
    x_XCD = jnp.pad(x_BSD.reshape(B * S, D), ((0, missing), (0, 0))).reshape(-1, chunk, D)
    targets_XC = jnp.pad(targets_BS.reshape(-1), (0, missing)).reshape(-1, chunk)
    weight_XC = jnp.pad(weight_BS.reshape(-1), (0, missing)).reshape(-1, chunk)
    columns = all_gather(head_DV.astype(x_BSD.dtype), embed_axes, 0)
    first = axis_index(vocab_axis) * columns.shape[1] if vocab_axis else 0

    def over_vocab(reduce, value):
        return reduce(value, vocab_axis) if vocab_axis else value

    def step(carry, chunk_inputs):
        loss, head_bar_DV = carry
        x_CD, targets_C, weight_C = chunk_inputs
        logits_CV = jnp.einsum("cd,dv->cv", x_CD, columns, preferred_element_type=jnp.float32)
        top_C = over_vocab(pmax, jnp.max(logits_CV, axis=-1))
        exp_CV = jnp.exp(logits_CV - top_C[:, None])
        total_C = over_vocab(psum, jnp.sum(exp_CV, axis=-1))
        hit_CV = (targets_C - first)[:, None] == jnp.arange(columns.shape[1])
        gold_C = over_vocab(psum, jnp.sum(jnp.where(hit_CV, logits_CV, 0.0), axis=-1))
        nll_C = jnp.log(total_C) + top_C - gold_C
        loss = loss + jnp.sum(nll_C * weight_C)
        if not with_gradients:
            return (loss, head_bar_DV), (nll_C, None)
        logits_bar_CV = (weight_C[:, None] * (exp_CV / total_C[:, None] - hit_CV.astype(jnp.float32))).astype(x_CD.dtype)
        x_bar_CD = jnp.einsum("cv,dv->cd", logits_bar_CV, columns, preferred_element_type=jnp.float32)
        head_bar_DV += jnp.einsum("cd,cv->dv", x_CD, logits_bar_CV, preferred_element_type=jnp.float32)
        return (loss, head_bar_DV), (nll_C, x_bar_CD.astype(x_CD.dtype))

    head_bar_DV = jnp.zeros(columns.shape, jnp.float32) if with_gradients else None
    (loss, head_bar_DV), (nll_XC, x_bar_XCD) = lax.scan(
        step, (jnp.zeros((), jnp.float32), head_bar_DV), (x_XCD, targets_XC, weight_XC)
    )
    nll_BS = nll_XC.reshape(-1)[: B * S].reshape(B, S)
    if not with_gradients:
        return loss, nll_BS, None
    x_bar_BSD = x_bar_XCD.reshape(-1, D)[: B * S].reshape(B, S, D)
    head_bar_DV = psum_scatter(head_bar_DV, embed_axes, 0)
    return loss, nll_BS, (x_bar_BSD, head_bar_DV.astype(head_DV.dtype))
