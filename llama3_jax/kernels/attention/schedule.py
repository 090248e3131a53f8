"""Which tiles of scores an attention pass visits: those with a visible pair and no others, forward and backward.

Queries of all rows are cut into query tiles, keys of all rows into key tiles; a tile never lies in two rows. The forward pass
and the gradient of the queries go along each query tile (`by_query`), the gradients of keys and values along each key tile
(`by_key`). Built once per batch, outside the layer scan, where the batch is.

Shape letters: B batch, S query positions, I intervals, Q query tiles of a row, J key tiles of a row, L lines (B*Q or B*J),
M = B*Q*J the most visits possible.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from llama3_jax.kernels.attention.mask import IntervalMask

MASKED, FIRST, LAST, EMPTY = 1, 2, 4, 8
"""Of a visit: some pair in it is hidden; it is the first, or the last, of its line; nothing is visible in its line."""
_FLAG_BITS, _KEY_BITS, _QUERY_BITS = 4, 13, 14


class Visits(NamedTuple):
    """Visits line by line; a line is a query tile, or a key tile. Entries from `steps` on are unused."""

    count: Array
    """int32 scalar: visits with a visible pair; they come first."""
    steps: Array
    """int32 scalar: those, and one for each line without any, whose output is zero."""
    visit_M: Array
    """int32 [M]: query tile, key tile and flags, packed (`unpack`)."""
    first_L: Array
    """int32 [L]: where the visits of each line begin."""
    length_L: Array
    """int32 [L]: visits of each line with a visible pair."""
    turn_L: Array
    """int32 [L]: lines, the longest first."""


class BlockSchedule(NamedTuple):
    by_query: Visits
    by_key: Visits


def unpack(visit: Array) -> tuple[Array, Array, Array]:
    """Query tile and key tile, numbered over all rows, and the flags."""
    return visit >> (_KEY_BITS + _FLAG_BITS), (visit >> _FLAG_BITS) & (2**_KEY_BITS - 1), visit & (2**_FLAG_BITS - 1)


def block_schedule(mask: IntervalMask, *, num_keys: int, block_q: int, block_k: int) -> BlockSchedule:
    """The visits that `mask` needs; S need not be a multiple of `block_q`, nor the keys of `block_k`.

    Exact: a tile is listed if and only if some query in it sees some key in it.

    Raises: ValueError for more tiles than a schedule can number.
    """
    sees_BQJ, full_BQJ = _tiles(mask, num_keys, block_q, block_k)
    B, Q, J = sees_BQJ.shape
    if B * Q > 2**_QUERY_BITS or B * J > 2**_KEY_BITS:
        raise ValueError(
            f"{B} rows of {mask.start_BSI.shape[1]} queries and {num_keys} keys make {B * Q} query tiles and {B * J} key tiles "
            f"of {block_q} and {block_k}, at most {2**_QUERY_BITS} and {2**_KEY_BITS} fit a schedule; use fewer rows per "
            "device, or larger tiles"
        )
    row_B = jnp.arange(B, dtype=jnp.int32)[:, None, None]
    query_BQJ = row_B * Q + jnp.arange(Q, dtype=jnp.int32)[:, None]
    key_BQJ = row_B * J + jnp.arange(J, dtype=jnp.int32)
    place_BQJ = (query_BQJ << (_KEY_BITS + _FLAG_BITS)) | (key_BQJ << _FLAG_BITS) | jnp.where(full_BQJ, 0, MASKED)
    by_query = _visits(sees_BQJ, place_BQJ)
    by_key = _visits(sees_BQJ.swapaxes(1, 2), place_BQJ.swapaxes(1, 2))
    return BlockSchedule(by_query, by_key)


def pad_queries(mask: IntervalMask, block_q: int) -> IntervalMask:
    """`mask` with empty queries appended up to a multiple of `block_q`."""
    missing = -mask.start_BSI.shape[1] % block_q
    return IntervalMask(*(jnp.pad(side_BSI, ((0, 0), (0, missing), (0, 0))) for side_BSI in mask))


def _tiles(mask: IntervalMask, num_keys: int, block_q: int, block_k: int) -> tuple[Array, Array]:
    """bool [B, Q, J]: has a tile a visible pair; is every pair of it visible (by one interval of each query)."""
    start_BSI, end_BSI = pad_queries(mask, block_q)
    B, S, _ = start_BSI.shape
    low_J = jnp.arange(-(-num_keys // block_k), dtype=jnp.int32) * block_k
    high_J = jnp.minimum(low_J + block_k, num_keys)
    sees_BSJ = jnp.any(jnp.maximum(start_BSI[..., None], low_J) < jnp.minimum(end_BSI[..., None], high_J), axis=2)
    # keys that fill up the last tile are no keys: nobody sees them
    full_BSJ = jnp.any((start_BSI[..., None] <= low_J) & (low_J + block_k <= jnp.minimum(end_BSI, num_keys)[..., None]), axis=2)
    by_tile = (B, S // block_q, block_q, low_J.size)
    return jnp.any(sees_BSJ.reshape(by_tile), axis=2), jnp.all(full_BSJ.reshape(by_tile), axis=2)


def _visits(sees_BLC: Array, place_BLC: Array) -> Visits:
    """Lines are on the second dim, what is visited along them on the third."""
    seen_so_far = jnp.cumsum(sees_BLC, axis=2)
    first_BLC = sees_BLC & (seen_so_far == 1)
    last_BLC = sees_BLC & (seen_so_far == seen_so_far[..., -1:])
    empty_BLC = (seen_so_far[..., -1:] == 0) & (jnp.arange(sees_BLC.shape[2]) == 0)
    flags_BLC = jnp.where(first_BLC, FIRST, 0) | jnp.where(last_BLC, LAST, 0) | jnp.where(empty_BLC, FIRST | LAST | EMPTY, 0)
    turn_M = jnp.where(sees_BLC, 0, jnp.where(empty_BLC, 1, 2)).reshape(-1)
    order_M = jnp.argsort(turn_M, stable=True)
    count = jnp.sum(sees_BLC, dtype=jnp.int32)
    steps = count + jnp.sum(empty_BLC, dtype=jnp.int32)
    visit_M = (place_BLC | flags_BLC).reshape(-1)[order_M].astype(jnp.int32)
    length_L = jnp.sum(sees_BLC, axis=2, dtype=jnp.int32).reshape(-1)
    first_L = jnp.cumsum(length_L, dtype=jnp.int32) - length_L
    return Visits(count, steps, visit_M, first_L, length_L, jnp.argsort(-length_L, stable=True).astype(jnp.int32))
