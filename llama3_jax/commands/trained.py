"""A model to use: of a run directory, or of weights in any format."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from llama3_jax.checkpoint.formats.load import load
from llama3_jax.checkpoint.formats.table import BY_NAME, Tensor
from llama3_jax.checkpoint.manifest import Directory, Manifest, verify
from llama3_jax.checkpoint.restore import restore
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.checkpoint.tree import flatten, unflatten
from llama3_jax.commands.export import parameters_prefix
from llama3_jax.commands.run_directory import TOKENIZER, checkpoints_of
from llama3_jax.commands.weights import foreign_format, open_weights
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
    """The run's compute dtype; of weights in bfloat16 that, of others float32."""
    tokenizer: Tokenizer


def load_trained(directory: Directory, *, step: int | None = None) -> Trained:
    """The averaged parameters of a checkpoint, or the last ones where nothing is averaged, on one device; or weights in
    Hugging Face's or Meta's format.

    Raises: FileNotFoundError if there is no such checkpoint; ValueError if it is damaged or of another tokenizer.
    """
    if foreign_format(directory):
        return _foreign(directory, step)
    store = CheckpointStore(checkpoints_of(directory))
    steps = store.steps()
    if not steps:
        raise FileNotFoundError(
            f"{directory} has no complete checkpoint and no weights in another format (config.json, params.json); train "
            "further, or give another directory"
        )
    if step is not None and step not in steps:
        raise FileNotFoundError(f"{directory} has no checkpoint of step {step}; it has {', '.join(map(str, steps))}")
    found = store.latest() if step is None else (store.path(step), verify(store.path(step)))
    path, manifest = found
    tokenizer = Tokenizer.load(directory / TOKENIZER)
    if manifest.meta["tokenizer"] != tokenizer.fingerprint:
        raise ValueError(f"{path} was trained with another tokenizer than the one in {directory}")
    mesh, prefix = make_mesh(MeshConfig()), parameters_prefix(manifest)
    stored = {name: dtype for name, (dtype, _) in manifest.arrays.items()}
    like = _abstract(from_mapping(ModelConfig, manifest.meta["model"]), mesh, lambda name: stored[prefix + name])
    model = restore(path, manifest, like, prefix=prefix)
    return Trained(_with_norms_in_float32(model), mesh, _precision(manifest, stored[f"{prefix}embedding"]), tokenizer)


def _foreign(directory: Directory, step: int | None) -> Trained:
    opened, mesh = open_weights(directory, step=step), make_mesh(MeshConfig())
    weights = opened.weights

    def dtype(name: str) -> str:
        stored = weights.dtype(Tensor(BY_NAME[name], 0 if BY_NAME[name].layered else None)).name
        return stored if stored == "bfloat16" else "float32"

    model = load(weights, _abstract(weights.config, mesh, dtype))
    return Trained(_with_norms_in_float32(model), mesh, Precision(dtype("embedding")), opened.tokenizer)


def _abstract(cfg: ModelConfig, mesh: Mesh, dtype) -> Transformer:
    """The leaves of a model, not there yet. Args: dtype: of each, by its name."""
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: Transformer(cfg, key=jax.random.key(0)))
    named = {
        name: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype(name)), sharding=NamedSharding(mesh, leaf.sharding.spec))
        for name, leaf in flatten(shapes).items()
    }
    return unflatten(shapes, named)


def _with_norms_in_float32(model: Transformer) -> Transformer:
    """As the model multiplies by their scales, whatever they were stored in."""
    return unflatten(model, {n: leaf.astype(jnp.float32) if "norm" in n else leaf for n, leaf in flatten(model).items()})


def _precision(manifest: Manifest, stored: str) -> Precision:
    """Of the run; of weights that were converted, and are no run's, as they are stored."""
    run = manifest.meta.get("run")
    return Precision(run["precision"] if run else stored if stored == "bfloat16" else "float32")
