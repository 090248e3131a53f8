"""The trained model of a run directory."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding

from llama3_jax.checkpoint.manifest import Directory, verify
from llama3_jax.checkpoint.restore import restore
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.commands.export import parameters_prefix
from llama3_jax.commands.run_directory import checkpoints_of
from llama3_jax.config.schema import from_mapping
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.precision import Precision
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import make_mesh
from llama3_jax.sharding.mesh_config import MeshConfig
from llama3_jax.tokenizer.bpe import Tokenizer


class Trained(NamedTuple):
    model: Transformer
    mesh: Mesh
    precision: Precision
    """The run's compute dtype."""


def load_trained(directory: Directory, tokenizer: Tokenizer, *, step: int | None = None) -> Trained:
    """The averaged parameters of a checkpoint, or the last ones where nothing is averaged, on one device.

    Raises: FileNotFoundError if there is no such checkpoint; ValueError if it is damaged or of another tokenizer.
    """
    store = CheckpointStore(checkpoints_of(directory))
    steps = store.steps()
    if not steps:
        raise FileNotFoundError(f"{directory} has no complete checkpoint yet; train further, or give another run directory")
    if step is not None and step not in steps:
        raise FileNotFoundError(f"{directory} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    found = store.latest() if step is None else (store.path(step), verify(store.path(step)))
    path, manifest = found
    if manifest.meta["tokenizer"] != tokenizer.fingerprint:
        raise ValueError(f"{path} was trained with another tokenizer than the one in {directory}")
    cfg = from_mapping(ModelConfig, manifest.meta["model"])
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: Transformer(cfg, key=jax.random.key(0)))
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, leaf.sharding.spec)), shapes
    )
    model = restore(path, manifest, like, prefix=parameters_prefix(manifest))
    return Trained(model, mesh, Precision(manifest.meta["run"]["precision"]))
