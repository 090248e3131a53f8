"""Which keys a query sees, as at most two contiguous intervals of key positions.

Causality, documents packed in a row, padding, sliding windows, a prompt shared by several responses, prefill and
decode are all intervals, so one O(S) type serves them and nothing of size S x S exists (section 3.2: attention stays
inside a document).

Shape letters: B batch, S query positions, T key positions, I intervals per query (1 or 2).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class IntervalMask(NamedTuple):
    """Query s of row b sees key t when `start_BSI[b, s, i] <= t < end_BSI[b, s, i]` for some i.

    An empty interval (start >= end) sees nothing: a query with only empty ones yields exact zeros.
    """

    start_BSI: Array
    """int32 [B, S, I]"""
    end_BSI: Array
    """int32 [B, S, I]"""


def document_mask(segment_ids_BS: Array, *, window: int | None = None) -> IntervalMask:
    """Causal attention inside each document of packed rows.

    Args:
        segment_ids_BS: int32 [B, S]; equal neighbours belong to one document; 0 is padding and sees nothing.
        window: a query sees at most this many keys, itself included.
    """
    B, S = segment_ids_BS.shape
    position_BS = jnp.broadcast_to(jnp.arange(S, dtype=jnp.int32), (B, S))
    opens_BS = jnp.concatenate([jnp.ones((B, 1), bool), segment_ids_BS[:, 1:] != segment_ids_BS[:, :-1]], axis=1)
    start_BS = _running_max(jnp.where(opens_BS, position_BS, 0))
    if window is not None:
        start_BS = jnp.maximum(start_BS, position_BS + 1 - window)
    end_BS = jnp.where(segment_ids_BS > 0, position_BS + 1, 0)
    return IntervalMask(start_BS[..., None], end_BS[..., None])


def prefix_mask(position_BS: Array) -> IntervalMask:
    """Each query sees the keys up to its own position: prefill and decode over a KV cache; -1 is padding."""
    return IntervalMask(jnp.zeros_like(position_BS)[..., None], position_BS[..., None] + 1)


def dense(mask: IntervalMask, num_keys: int) -> Array:
    """bool [B, S, T]: the mask written out, for references and tests."""
    key_T = jnp.arange(num_keys, dtype=jnp.int32)
    return jnp.any((mask.start_BSI[..., None] <= key_T) & (key_T < mask.end_BSI[..., None]), axis=2)


def _running_max(x_BS: Array) -> Array:
    """The largest value so far along S, in log2(S) shifts (an associative scan keeps batch sharding)."""
    shift = 1
    while shift < x_BS.shape[1]:
        x_BS = jnp.concatenate([x_BS[:, :shift], jnp.maximum(x_BS[:, shift:], x_BS[:, :-shift])], axis=1)
        shift *= 2
    return x_BS
