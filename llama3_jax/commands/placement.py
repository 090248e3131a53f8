"""What of a model and its rows a mesh cannot split, named before any device is touched."""

from __future__ import annotations

from collections.abc import Iterator

from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.model.config import ModelConfig
from llama3_jax.sharding.mesh_config import MeshConfig


def misfits_of_model(model: ModelConfig, mesh: MeshConfig) -> Iterator[str]:
    for dim in ("num_heads", "num_kv_heads", "ffw_dim", "vocab_size"):
        size = getattr(model, dim)
        if size % mesh.model:
            yield f"mesh.model={mesh.model} does not divide model.{dim}={size}; use a divisor of {size}"
    if model.model_dim % (shards := mesh.data * mesh.sequence):
        yield (
            f"mesh.data={mesh.data} times mesh.sequence={mesh.sequence}, which split the parameters, do not divide "
            f"model.model_dim={model.model_dim}; use a product that divides {model.model_dim}, not {shards}"
        )


def misfits_of_attention(attention: Implementation, mesh: MeshConfig) -> Iterator[str]:
    if attention is Implementation.CUDNN and mesh.sequence > 1:
        yield (
            f"attention=cudnn is causal over whole rows, and mesh.sequence={mesh.sequence} gives each device pieces of them; "
            "use attention=auto, or mesh.sequence=1"
        )


def misfits_of_rows(sequence_length: int, model: ModelConfig, mesh: MeshConfig) -> Iterator[str]:
    if sequence_length % (pieces := mesh.sequence * mesh.model):
        yield (
            f"sequence_length={sequence_length} does not split over mesh.sequence={mesh.sequence} times "
            f"mesh.model={mesh.model}, which share a row's positions; use a multiple of {pieces}"
        )
    if sequence_length > model.longest_sequence:
        yield (
            f"sequence_length={sequence_length} is longer than the {model.longest_sequence} positions that RoPE "
            "allows here (model.context_length, or rope_scaling.factor * original_context_length); shorten it "
            "or use a larger rope_scaling"
        )
