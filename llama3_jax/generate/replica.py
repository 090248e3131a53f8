"""One copy of a model to generate with: its heads and vocabulary stay split, everything else is gathered."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding import processes
from llama3_jax.sharding.axes import AXES


def one_replica(model: Transformer, mesh: Mesh) -> tuple[Transformer, Mesh] | None:
    """The model on a mesh of tensor-parallel devices alone, where `generate` runs.

    In a job of several processes all must call this, and the first one gets the replica, if it holds the devices of one;
    the others, and all where the model axis runs across processes, get None.
    """
    if mesh.size == mesh.shape["model"]:
        return (model, mesh) if processes.count() == 1 else None
    groups = mesh.devices.reshape(-1, mesh.shape["model"])
    group = next((group for group in groups if {device.process_index for device in group} == {0}), None)
    if group is None:
        return None
    replica = Mesh(group.reshape([1] * (len(AXES) - 1) + [-1]), AXES, axis_types=(AxisType.Explicit,) * len(AXES))
    if processes.count() == 1:
        return jax.device_put(model, jax.tree.map(lambda leaf: NamedSharding(replica, leaf.sharding.spec), model)), replica
    gathered = jax.device_put(model, jax.tree.map(lambda leaf: NamedSharding(mesh, _only_model(leaf.sharding.spec)), model))
    if not processes.is_first():
        return None
    return jax.tree.map(lambda leaf: _on(replica, leaf), gathered), replica


def _only_model(partition: PartitionSpec) -> PartitionSpec:
    """A partition with the dims split over the model axis, and no other."""
    return PartitionSpec(*("model" if dim == "model" else None for dim in partition))


def _on(replica: Mesh, leaf: jax.Array) -> jax.Array:
    """An array that every group of the model axis holds, as the one of `replica` holds it."""
    held = [shard.data for shard in leaf.addressable_shards if shard.device in set(np.ravel(replica.devices))]
    return jax.make_array_from_single_device_arrays(leaf.shape, NamedSharding(replica, leaf.sharding.spec), held)
