"""A training step before any of its arrays exists: shapes, dtypes and shardings, and the program compiled for them.

The mesh may be of devices that are not here: a TPU topology, an H100 known by its description alone.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled

from llama3_jax.batches.batch import Batch
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import spec
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import Objective
from llama3_jax.train.step import TrainState, make_step


def abstract_state(model: ModelConfig, optimizer: AdamW, mesh: Mesh) -> TrainState:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        shapes = jax.eval_shape(lambda: TrainState.create(Transformer(model, key=jax.random.key(0)), optimizer))
    return jax.tree.map(lambda leaf: _on(mesh, leaf.shape, leaf.dtype, leaf.sharding and leaf.sharding.spec), shapes)


def abstract_batch(shape: tuple[int, int, int], mesh: Mesh) -> Batch:
    """A batch of (micro-batches, rows, positions)."""
    dtypes = {name: jnp.float32 if name == "loss_weight" else jnp.int32 for name in Batch._fields}
    return Batch(**{name: _on(mesh, shape, dtype, spec(None, "batch", "position")) for name, dtype in dtypes.items()})


def compile_step(objective: Objective, optimizer: AdamW, state: TrainState, shape: tuple[int, int, int], mesh: Mesh) -> Compiled:
    """The step (state, batch, learning rate) -> (state, metrics); the state that goes in is used up.

    Args:
        state: real or abstract.
        shape: of the batch.
    """
    rate = _on(mesh, (), jnp.float32, None)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        step = jax.jit(make_step(objective, optimizer), donate_argnums=0).trace(state, abstract_batch(shape, mesh), rate)
        return step.lower(**_platform(mesh)).compile()


def _platform(mesh: Mesh) -> dict[str, tuple[str]]:
    """What jax must be told of devices that are not here; the GPU among them is NVIDIA's."""
    device = mesh.devices.flat[0]
    if device in jax.devices():
        return {}
    return {"lowering_platforms": ({"gpu": "cuda"}.get(device.platform, device.platform),)}


def bytes_per_device(state: TrainState) -> int:
    """Bytes of parameters and optimizer state that one device holds."""
    leaves = jax.tree.leaves(state)
    return sum(jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)


def _on(mesh: Mesh, shape: tuple[int, ...], dtype: jnp.dtype, partition: PartitionSpec | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, partition or PartitionSpec()))
