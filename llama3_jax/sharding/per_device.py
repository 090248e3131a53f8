"""Programs written for what one device holds, and their communication; an axis of size one costs nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import PartitionSpec, reshard

Axis = str | tuple[str, ...]


def per_device(local: Callable, in_specs: tuple, out_specs: Any) -> Callable:
    """`local`, run by each device on its own part of the arguments (`jax.shard_map`).

    A cotangent is summed over the axes that its argument's partition does not mention. Axes of size one are mentioned
    for it, since XLA does not remove such a sum on every platform.
    """
    in_specs = jax.tree.map(_mention_single, in_specs, is_leaf=_is_spec)
    mapped = jax.shard_map(local, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def call(*arguments):
        return mapped(*jax.tree.map(_place, in_specs, arguments, is_leaf=_is_spec))

    return call


def axis_size(axis: Axis) -> int:
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape[name] for name in ((axis,) if isinstance(axis, str) else axis))


def axis_index(axis: str) -> Array | int:
    return lax.axis_index(axis) if axis_size(axis) > 1 else 0


def psum(x: Array, axis: Axis) -> Array:
    return lax.psum(x, axis) if axis_size(axis) > 1 else x


def pmax(x: Array, axis: Axis) -> Array:
    return lax.pmax(x, axis) if axis_size(axis) > 1 else x


def all_gather(x: Array, axis: Axis, dim: int) -> Array:
    return lax.all_gather(x, axis, axis=dim, tiled=True) if axis_size(axis) > 1 else x


def psum_scatter(x: Array, axis: Axis, dim: int) -> Array:
    return lax.psum_scatter(x, axis, scatter_dimension=dim, tiled=True) if axis_size(axis) > 1 else x


def _mention_single(partition: PartitionSpec) -> PartitionSpec:
    if not partition:
        return partition
    shape = jax.sharding.get_abstract_mesh().shape
    dims = [() if dim is None else (dim,) if isinstance(dim, str) else dim for dim in partition]
    single = tuple(axis for axis, size in shape.items() if size == 1 and axis not in sum(dims, ()))
    return PartitionSpec((*single, *dims[0]), *dims[1:])


def _place(partition: PartitionSpec, arguments: Any) -> Any:
    return jax.tree.map(lambda leaf: reshard(leaf, partition), arguments)


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)
