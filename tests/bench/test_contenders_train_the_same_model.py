"""Every step of a comparison does the same work: same losses, step after step, from the same parameters and batches."""

import jax
import numpy as np
import pytest
from tiny_model import new_model

from llama3_jax.bench import torch
from llama3_jax.bench.bare import BareStep
from llama3_jax.bench.ours import Ours
from llama3_jax.bench.rows import random_batch
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.model.precision import Precision
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import NextToken

SHAPE = dict(num_layers=2, model_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, ffw_dim=24, vocab_size=40, context_length=32)
PLAIN = ModelConfig(**SHAPE)
TIED = ModelConfig(tie_embeddings=True, rope_scaling=RopeScaling(factor=8, original_context_length=16), **SHAPE)
OPTIMIZER, RATE = AdamW(clip_norm=0.5), 1e-2
BATCHES = [random_batch(seed, vocab_size=40, num_rows=4, sequence_length=32, documents_per_row=4) for seed in range(4)]


def losses(contender):
    return [contender.step(batch) for batch in BATCHES]


def ours(cfg, devices):
    return Ours(new_model(cfg), NextToken(), OPTIMIZER, RATE, (1, 4, 32), devices)


@pytest.mark.parametrize("cfg, axes", [(PLAIN, {}), (TIED, {}), (PLAIN, {"data": 2, "sequence": 2, "model": 2})])
def test_bare_step(cfg, axes, mesh):
    devices = mesh(**axes)
    with jax.set_mesh(devices):
        bare = BareStep(new_model(cfg), OPTIMIZER, RATE, "float32", False, devices)
        again = BareStep(new_model(cfg), OPTIMIZER, RATE, "float32", True, devices)
        step = ours(cfg, devices)
        expected = losses(bare)
        np.testing.assert_allclose(losses(step), expected, rtol=1e-5)
        np.testing.assert_allclose(losses(again), expected, rtol=1e-6)
    assert len(set(expected)) == len(BATCHES)
    assert 0 < step.peak_bytes and 0 < bare.peak_bytes and 0 < bare.compile_s


@pytest.mark.oracle
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("cfg", [PLAIN, TIED], ids=["plain", "tied"])
def test_torch_step(cfg, mesh):
    if not torch.installed():
        pytest.skip("torch and transformers are not installed")
    theirs = torch.TorchStep(new_model(cfg), OPTIMIZER, RATE, Precision.FLOAT32, compiled=False)
    np.testing.assert_allclose(losses(theirs), losses(ours(cfg, mesh())), rtol=2e-5)
