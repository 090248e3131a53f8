"""One copy of a model to generate with: its heads and vocabulary stay split, everything else is gathered."""

from __future__ import annotations

import jax
from jax.sharding import Mesh, NamedSharding

from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import make_mesh
from llama3_jax.sharding.mesh_config import MeshConfig


def one_replica(model: Transformer, mesh: Mesh) -> tuple[Transformer, Mesh]:
    """The model on a mesh of its tensor-parallel devices alone, where `generate` runs.

    Raises: ValueError in a job of several processes, whose parameters one process does not hold.
    """
    if jax.process_count() > 1:
        raise ValueError("generation inside a job of several processes is not built yet; generate from its checkpoint")
    if mesh.size == mesh.shape["model"]:
        return model, mesh
    replica = make_mesh(MeshConfig(model=mesh.shape["model"]))
    shardings = jax.tree.map(lambda leaf: NamedSharding(replica, leaf.sharding.spec), model)
    return jax.device_put(model, shardings), replica
