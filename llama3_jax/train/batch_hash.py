"""A checksum of what a step was trained on, taken on the devices from the arrays that the gradients were taken of.

Each element is mixed with its place in the global batch by an integer finaliser, and all are summed modulo 2^32. A sum
does not care in what order or on which device it is made, and the place is that in the row, wherever its positions are, so
that the checksum is the same on every mesh, for any number of hosts and micro-batches; any element that changes and any two
rows that change places change it, but for one chance in 2^32.

Shape letters: A micro-batches, B rows of a micro-batch, S positions.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from llama3_jax.batches.batch import Batch

TRAINED_ON = ("tokens", "targets", "loss_weight", "segment_ids", "positions")
"""In this order; `source` is known to be counted, and changes no gradient."""


def batch_hash(batch: Batch) -> Array:
    """uint32 of a batch [A, B, S]; the same for [A * n, B / n, S], whose rows follow each other in the same order."""
    A, B, S = batch.tokens.shape
    a, b = (lax.broadcasted_iota(jnp.uint32, (A, B, S), dim) for dim in range(2))
    place_ABS = (a * B + b) * S + batch.order.astype(jnp.uint32)
    total_ABS = jnp.zeros_like(place_ABS)
    for number, name in enumerate(TRAINED_ON):
        bits_ABS = lax.bitcast_convert_type(getattr(batch, name), jnp.uint32)
        key_ABS = _mixed(place_ABS * jnp.uint32(len(TRAINED_ON)) + jnp.uint32(number))
        total_ABS = total_ABS + _mixed(bits_ABS ^ key_ABS)
    return jnp.sum(total_ABS, dtype=jnp.uint32)


def _mixed(x: Array) -> Array:
    """The finaliser of MurmurHash3: a bijection of 32 bits in which each bit of the input moves half of the output's."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
