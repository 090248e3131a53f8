"""NVIDIA's attention, as jax has it: causal over the whole row, whatever documents are in it."""

from __future__ import annotations

import jax
from jax import Array


def attention(q_BSNH: Array, k_BTKH: Array, v_BTKH: Array) -> Array:
    """`reference.attention` under the mask of rows that are one document each, which the caller vouches for.

    Raises: ValueError if queries and keys are not of the same rows.
    """
    if q_BSNH.shape[1] != k_BTKH.shape[1]:
        raise ValueError(
            f"attention=cudnn is causal over whole rows, and has {q_BSNH.shape[1]} queries for {k_BTKH.shape[1]} keys; use "
            "attention=auto"
        )
    return jax.nn.dot_product_attention(q_BSNH, k_BTKH, v_BTKH, is_causal=True, implementation="cudnn")
