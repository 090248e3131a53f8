"""The models of table 3 and of Llama 3.2, without a device that could hold them; and what a config refuses."""

import math
from dataclasses import replace

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import AXES

COMMON = dict(num_kv_heads=8, vocab_size=128_256)
LLAMA_31 = dict(context_length=8192, rope_scaling=RopeScaling(factor=8), **COMMON)
LLAMA_32 = dict(context_length=8192, rope_scaling=RopeScaling(factor=32), tie_embeddings=True, **COMMON)
SIZES = {
    "8b": (
        ModelConfig(num_layers=32, model_dim=4096, num_heads=32, head_dim=128, ffw_dim=14336, **LLAMA_31),
        8_030_261_248,
    ),
    "70b": (
        ModelConfig(num_layers=80, model_dim=8192, num_heads=64, head_dim=128, ffw_dim=28672, **LLAMA_31),
        70_553_706_496,
    ),
    "405b": (
        ModelConfig(num_layers=126, model_dim=16384, num_heads=128, head_dim=128, ffw_dim=53248, **LLAMA_31),
        405_853_388_800,
    ),
    "3.2_1b": (
        ModelConfig(num_layers=16, model_dim=2048, num_heads=32, head_dim=64, ffw_dim=8192, **LLAMA_32),
        1_235_814_400,
    ),
    "3.2_3b": (
        ModelConfig(num_layers=28, model_dim=3072, num_heads=24, head_dim=128, ffw_dim=8192, **LLAMA_32),
        3_212_749_824,
    ),
}


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts(size):
    """Facts 1.2; the mesh is one that no machine here has."""
    cfg, published = SIZES[size]
    assert cfg.num_parameters == published
    key = jax.eval_shape(jax.random.key, 0)
    with jax.sharding.use_abstract_mesh(AbstractMesh((1, 16, 2, 8), AXES, (AxisType.Explicit,) * len(AXES))):
        model = jax.eval_shape(lambda key: Transformer(cfg, key=key), key)
    leaves = jax.tree.leaves(model)
    assert sum(leaf.size for leaf in leaves) == published
    assert {leaf.dtype.name for leaf in leaves} == {"float32"}
    per_device = sum(leaf.sharding.shard_shape(leaf.shape)[0] * leaf.size // leaf.shape[0] for leaf in leaves if leaf.ndim == 1)
    assert per_device == cfg.model_dim, "the only parameter of one dim is the final norm, which every device holds"


def test_405b_is_split_over_data_sequence_and_model():
    cfg, _ = SIZES["405b"]
    with jax.sharding.use_abstract_mesh(AbstractMesh((1, 16, 2, 8), AXES, (AxisType.Explicit,) * len(AXES))):
        model = jax.eval_shape(lambda key: Transformer(cfg, key=key), jax.eval_shape(jax.random.key, 0))
    local = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(model))
    norms = (2 * cfg.num_layers + 1) * cfg.model_dim
    assert local == (cfg.num_parameters - norms) // 256 + norms


def test_405b_training_compute():
    """Facts 1.2: 6 N D with 15.6T tokens is the 3.8e25 of the paper; N here leaves out the lookup and the norms."""
    cfg, parameters = SIZES["405b"]
    assert 6 * parameters * 15.6e12 == pytest.approx(3.8e25, rel=0.002)
    assert cfg.flops_per_token(0) == pytest.approx(6 * parameters, rel=0.006)
    norms = (2 * cfg.num_layers + 1) * cfg.model_dim
    assert cfg.flops_per_token(0) == 6 * (parameters - cfg.vocab_size * cfg.model_dim - norms)
    # scores and values: 2 matmuls x 2 FLOPs x 3 passes per key, query head and head dim
    assert cfg.flops_per_token(4096) - cfg.flops_per_token(0) == 12 * 126 * 128 * 128 * 4096


def test_longest_sequence():
    """The context, or what the scaling stretches the original one to where that is more."""
    cfg = SIZES["405b"][0]
    assert replace(cfg, rope_scaling=None).longest_sequence == 8192
    assert cfg.longest_sequence == 65_536
    assert replace(cfg, context_length=131_072).longest_sequence == 131_072
    assert replace(cfg, rope_scaling=RopeScaling(factor=16)).longest_sequence == 131_072


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: 0} for name in ("num_layers", "model_dim", "num_heads", "num_kv_heads", "head_dim", "ffw_dim")),
        {"vocab_size": 0},
        {"context_length": -1},
        {"num_heads": 33},
        {"head_dim": 127},
        {"rope_theta": 1.0},
        {"norm_eps": 0.0},
    ],
    ids=str,
)
def test_what_a_model_config_refuses(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]}"):
        replace(SIZES["8b"][0], **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": 0.5},
        {"low_freq_factor": 0.0},
        {"low_freq_factor": 4.0},
        {"high_freq_factor": 0.5},
        {"original_context_length": 0},
    ],
    ids=str,
)
def test_what_a_rope_scaling_refuses(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]}"):
        RopeScaling(**({"factor": 8.0} | wrong))
