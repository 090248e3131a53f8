"""Which keys a query sees, as at most two contiguous intervals of key positions.

Causality, documents packed in a row, padding, sliding windows, a prompt shared by several responses, prefill and
decode are all intervals, so one O(S) type serves them and nothing of size S x S exists (section 3.2: attention stays
inside a document).

Shape letters: B batch, S query positions, T key positions, I intervals per query (1 or 2), X segment ids (0 to S).
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


def document_mask(segment_ids_BS: Array, *, window: int | None = None, causal: bool = True) -> IntervalMask:
    """Attention inside each document of packed rows.

    Args:
        segment_ids_BS: int32 [B, S]; equal neighbours belong to one document; 0 is padding and sees nothing.
        window: a query sees at most this many keys, itself included; causal only.
        causal: whether a query sees no later key than itself.
    """
    start_BS, end_BS = _documents(segment_ids_BS)
    if causal:
        position_BS = _positions(segment_ids_BS)
        end_BS = jnp.minimum(end_BS, position_BS + 1)
        start_BS = start_BS if window is None else jnp.maximum(start_BS, position_BS + 1 - window)
    return _where_not_padding(segment_ids_BS, IntervalMask(start_BS[..., None], end_BS[..., None]))


def own_document_mask(segment_ids_BS: Array, positions_BS: Array, order_BS: Array) -> IntervalMask:
    """`document_mask` for some positions of a row, in any order: keys are those of the whole row.

    Args:
        segment_ids_BS: int32 [B, S]; 0 is padding and sees nothing.
        positions_BS: int32 [B, S]: 0, 1, ... in each document.
        order_BS: int32 [B, S]: where in its row a position stands.
    """
    mask = IntervalMask((order_BS - positions_BS)[..., None], order_BS[..., None] + 1)
    return _where_not_padding(segment_ids_BS, mask)


def shared_prompt_mask(segment_ids_BS: Array, part_ids_BS: Array) -> IntervalMask:
    """Several responses to one prompt in a row: each sees the prompt and itself, causally, and no other response.

    Args:
        segment_ids_BS: int32 [B, S]; equal neighbours belong to one prompt and its responses; 0 is padding.
        part_ids_BS: int32 [B, S]; 0 for the prompt, which comes first, and another number for each response after it.
    """
    position_BS, opens_BS = _positions(segment_ids_BS), _opens(segment_ids_BS)
    prompt_BS, _ = _documents(segment_ids_BS)
    prompt_end_BS = _running_max(jnp.where(part_ids_BS == 0, position_BS + 1, jnp.where(opens_BS, position_BS, 0)))
    own_BS = _running_max(jnp.where(opens_BS | _opens(part_ids_BS), position_BS, 0))
    start_BSI = jnp.stack([prompt_BS, own_BS], axis=-1)
    end_BSI = jnp.stack([jnp.where(part_ids_BS == 0, 0, prompt_end_BS), position_BS + 1], axis=-1)
    return _where_not_padding(segment_ids_BS, IntervalMask(start_BSI, end_BSI))


def cross_mask(query_segment_ids_BS: Array, key_segment_ids_BT: Array) -> IntervalMask:
    """Each query sees all keys of the same segment: text and the image, video or speech that it belongs to.

    Args:
        query_segment_ids_BS: int32 [B, S], between 0 and S; 0 sees nothing.
        key_segment_ids_BT: int32 [B, T]; equal numbers stand together; 0 is seen by nobody.
    """
    (B, S), T = query_segment_ids_BS.shape, key_segment_ids_BT.shape[1]
    row_B1, position_BT = jnp.arange(B)[:, None], _positions(key_segment_ids_BT)
    first_BX = jnp.full((B, S + 1), T, jnp.int32).at[row_B1, key_segment_ids_BT].min(position_BT, mode="drop")
    end_BX = jnp.zeros((B, S + 1), jnp.int32).at[row_B1, key_segment_ids_BT].max(position_BT + 1, mode="drop")
    start_BSI, end_BSI = (jnp.take_along_axis(side, query_segment_ids_BS, axis=1)[..., None] for side in (first_BX, end_BX))
    return _where_not_padding(query_segment_ids_BS, IntervalMask(start_BSI, end_BSI))


def prefix_mask(position_BS: Array) -> IntervalMask:
    """Each query sees the keys up to its own position: prefill and decode over a KV cache; -1 is padding."""
    return IntervalMask(jnp.zeros_like(position_BS)[..., None], position_BS[..., None] + 1)


def dense(mask: IntervalMask, num_keys: int) -> Array:
    """bool [B, S, T]: the mask written out, for references and tests."""
    key_T = jnp.arange(num_keys, dtype=jnp.int32)
    return jnp.any((mask.start_BSI[..., None] <= key_T) & (key_T < mask.end_BSI[..., None]), axis=2)


def _documents(segment_ids_BS: Array) -> tuple[Array, Array]:
    """Where the document of each position begins and ends."""
    S = segment_ids_BS.shape[1]
    opens_BS = _opens(segment_ids_BS)
    start_BS = _running_max(jnp.where(opens_BS, _positions(segment_ids_BS), 0))
    closes_BS = jnp.concatenate([opens_BS[:, 1:], jnp.ones_like(opens_BS[:, :1])], axis=1)
    later_BS = _running_max(jnp.where(closes_BS, S - _positions(segment_ids_BS), 0)[:, ::-1])[:, ::-1]
    return start_BS, S + 1 - later_BS


def _opens(ids_BS: Array) -> Array:
    """bool [B, S]: where a position has another id than the one before it."""
    return jnp.concatenate([jnp.ones_like(ids_BS[:, :1], bool), ids_BS[:, 1:] != ids_BS[:, :-1]], axis=1)


def _positions(ids_BS: Array) -> Array:
    return jnp.broadcast_to(jnp.arange(ids_BS.shape[1], dtype=jnp.int32), ids_BS.shape)


def _where_not_padding(segment_ids_BS: Array, mask: IntervalMask) -> IntervalMask:
    return mask._replace(end_BSI=jnp.where(segment_ids_BS[..., None] > 0, mask.end_BSI, 0))


def _running_max(x_BS: Array) -> Array:
    """The largest value so far along S, in log2(S) shifts (an associative scan keeps batch sharding)."""
    shift = 1
    while shift < x_BS.shape[1]:
        x_BS = jnp.concatenate([x_BS[:, :shift], jnp.maximum(x_BS[:, shift:], x_BS[:, :-shift])], axis=1)
        shift *= 2
    return x_BS
