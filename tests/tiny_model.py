"""Tiny random models and packed batches on the mesh that is set, made in NumPy so that nothing is compiled for them."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.batches.rows import pack
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import RULES, spec
from llama3_jax.sharding.context_parallel import dealt


def new_model(cfg, seed=0):
    """Normal weights of about the right size; the scales of the norms are random too, so that one left out shows."""
    rng, mesh = np.random.default_rng(seed), jax.sharding.get_mesh()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        shapes = jax.eval_shape(lambda key: Transformer(cfg, key=key), jax.eval_shape(lambda: jax.random.key(0)))

    def draw(path, leaf):
        centre, std = (1, 0.3) if "norm" in jax.tree_util.keystr(path) else (0, cfg.model_dim**-0.5)
        value = rng.normal(centre, std, leaf.shape).astype(np.float32)
        return jax.device_put(value, NamedSharding(mesh, leaf.sharding.spec))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def documents(cfg, *lengths, seed=0):
    """Random token ids of documents of these lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, cfg.vocab_size, length).astype(np.int32) for length in lengths]


def packed(rows, S):
    """Rows of documents as a batch [B, S] of NumPy arrays."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(pack(row, S, 0) for row in rows))


def placed(batch):
    """`batch` on the mesh that is set, dealt out over its sequence axis; leading dims before [B, S] count micro-batches."""
    mesh = jax.sharding.get_mesh()

    def put(leaf):
        partition = PartitionSpec(*[None] * (leaf.ndim - 2), *spec("batch", "position"))
        return jax.device_put(leaf, NamedSharding(mesh, partition))

    return jax.tree.map(put, dealt(batch, mesh.shape[RULES.position]))
