"""Attention as it is written in a textbook; every other implementation is tested against it.

Shape letters: B batch, S query positions, T key positions, N query heads, K key/value heads, G = N/K, H head dim.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from llama3_jax.kernels.attention.mask import IntervalMask, dense

HIDDEN = -1e30
"""A score that underflows to exactly zero probability, yet stays finite."""


def attention(q_BSNH: Array, k_BTKH: Array, v_BTKH: Array, mask: IntervalMask) -> Array:
    """softmax(q k^T / sqrt(H)) v with float32 scores; queries that see no key give exact zeros."""
    B, S, N, H = q_BSNH.shape
    K = k_BTKH.shape[2]
    q_BSKGH = q_BSNH.reshape(B, S, K, N // K, H)
    score_BKGST = jnp.einsum("bskgh,btkh->bkgst", q_BSKGH, k_BTKH, preferred_element_type=jnp.float32) * H**-0.5
    visible_BST = dense(mask, k_BTKH.shape[1])[:, None, None]
    prob_BKGST = jnp.where(visible_BST, jax.nn.softmax(jnp.where(visible_BST, score_BKGST, HIDDEN)), 0.0)
    out_BSKGH = jnp.einsum("bkgst,btkh->bskgh", prob_BKGST.astype(v_BTKH.dtype), v_BTKH)
    return out_BSKGH.reshape(B, S, N, H)
