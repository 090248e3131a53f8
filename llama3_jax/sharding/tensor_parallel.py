"""Tensor parallelism with a sequence-parallel residual stream (section 3.3.2; Korthikanti et al. 2022, figure 5).

Between the blocks a device of the model axis keeps its share of a row's positions, so that norms and additions are done
once; attention and feed-forward split heads and columns instead, over all positions. Positions are gathered on the way
in and partial sums are scattered on the way out, once for each block and direction, however many matmuls it has: the
types of the arrays say so (`reduced`, `unreduced`), and the backward pass is the same with the two exchanged.

Shape letters: B batch, S positions, D model.
"""

from __future__ import annotations

import jax
from jax import Array
from jax.sharding import PartitionSpec, reshard

from llama3_jax.sharding.axes import RULES, spec


def residual_dim(num_positions: int) -> str:
    """The logical dim of positions between blocks: split over the model axis too where they divide.

    A decoding step has one position, which every device of the model axis then works on.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    parts = shape[RULES.position] * shape[RULES.heads]
    return "position" if num_positions % parts else "residual"


def residual(num_positions: int) -> PartitionSpec:
    """The partition of hidden states [B, S, D] between blocks."""
    return spec("batch", residual_dim(num_positions), None)


def into_block(x_BSD: Array) -> Array:
    """All positions on each device of the model axis; the cotangent comes back as partial sums."""
    return reshard(x_BSD, spec("batch", "position", None, reduced=("heads",)))


BLOCK_SUMS = spec("batch", "position", None, unreduced=("heads",))
"""The partition of what a block computes: on each device the part of its heads or columns."""


def out_of_block(sum_BSD: Array) -> Array:
    """The sum over the model axis of arrays that are partitioned as `BLOCK_SUMS`, in the layout of the residual stream."""
    return reshard(sum_BSD, residual(sum_BSD.shape[1]))
