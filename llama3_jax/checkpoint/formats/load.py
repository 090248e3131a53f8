"""Weights of any format onto any mesh: each process reads what its own devices hold, and nothing else."""

from __future__ import annotations

import math
from typing import TypeVar

import jax
import numpy as np

from llama3_jax.checkpoint.formats.convert import require_finite
from llama3_jax.checkpoint.formats.table import BY_NAME, Tensor
from llama3_jax.checkpoint.formats.weights import Weights
from llama3_jax.checkpoint.tree import flatten, unflatten

Tree = TypeVar("Tree")


def load(weights: Weights, like: Tree) -> Tree:
    """The weights in the structure of `like`.

    Args: like: a `Transformer` of the same architecture whose leaves have the dtypes and shardings that are wanted: arrays or
        `jax.ShapeDtypeStruct`.
    Raises: OSError, ValueError as reading does; ValueError naming a tensor with NaN or infinity in it.
    """
    return unflatten(like, {name: _array(weights, name, leaf) for name, leaf in flatten(like).items()})


def _array(weights: Weights, name: str, leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    wanted = {_bounds(index, leaf.shape) for index in leaf.sharding.addressable_devices_indices_map(leaf.shape).values()}
    around = tuple((min(low), max(high)) for low, high in (zip(*dim, strict=True) for dim in zip(*wanted, strict=True)))
    together = math.prod(high - low for low, high in around)
    if together > sum(math.prod(high - low for low, high in part) for part in wanted):
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: _part(weights, name, index, leaf))
    mine = _part(weights, name, tuple(slice(*dim) for dim in around), leaf)  # once, for all devices here

    def part(index: tuple[slice, ...]) -> np.ndarray:
        bounds = zip(_bounds(index, leaf.shape), around, strict=True)
        return mine[tuple(slice(low - first, high - first) for (low, high), (first, _) in bounds)]

    return jax.make_array_from_callback(leaf.shape, leaf.sharding, part)


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))


def _part(weights: Weights, name: str, index: tuple[slice, ...], leaf: jax.Array | jax.ShapeDtypeStruct) -> np.ndarray:
    """A part of one of our arrays."""
    weight = BY_NAME[name]
    layers = range(*index[0].indices(leaf.shape[0])) if weight.layered else [None]
    inside = index[1:] if weight.layered else index
    shape = tuple(len(range(*each.indices(size))) for each, size in zip(inside, leaf.shape[-len(inside) :], strict=True))
    out = np.empty((len(layers), *shape), leaf.dtype)
    for number, layer in enumerate(layers):
        tensor = Tensor(weight, layer)
        theirs = weights.read(tensor, *tensor.part(inside, weights.config))
        require_finite(theirs, tensor, weights)
        out[number] = tensor.to_ours(theirs, shape)
    return out if weight.layered else out[0]
