"""What a phase does not say it keeps from the phase before: rotary scaling and mesh."""

import dataclasses

import pytest

from llama3_jax.batches.stage import Stage
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.model.precision import Precision
from llama3_jax.sharding.mesh_config import MeshConfig
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.learning_rate import Continue
from llama3_jax.train.loop import Recipe
from llama3_jax.train.phase import Phase

MODEL = ModelConfig(
    num_layers=2, model_dim=16, num_heads=4, num_kv_heads=2, head_dim=4, ffw_dim=32, vocab_size=64, context_length=64
)
BY_TWO, BY_FOUR = (RopeScaling(factor=factor, original_context_length=64) for factor in (2, 4))
OTHER_MESH = MeshConfig(data=2, sequence=2)


def phase(name, **given) -> Phase:
    stage = Stage(name="s", tokens=64, sequence_length=64, tokens_per_step=64)
    return Phase(name=name, stages=(stage,), learning_rate=Continue(), **given)


def recipe(*phases, model=MODEL) -> Recipe:
    return Recipe(
        model=model, phases=phases, spans=(), optimizer=AdamW(), mesh=MeshConfig(data=4), seed=0,
        precision=Precision.FLOAT32, attention=Implementation.AUTO, max_skipped_steps=0,
    )  # fmt: skip


def test_a_rotary_scaling_stays_until_another():
    run = recipe(phase("a"), phase("b", rope_scaling=BY_TWO), phase("c"), phase("d", rope_scaling=BY_FOUR), phase("e"))
    assert [run.model_config(number).rope_scaling for number in range(5)] == [None, BY_TWO, BY_TWO, BY_FOUR, BY_FOUR]
    assert [run.model_config(number).longest_sequence for number in range(5)] == [64, 128, 128, 256, 256]
    assert all(dataclasses.replace(run.model_config(number), rope_scaling=None) == MODEL for number in range(5))


def test_a_model_that_begins_scaled_stays_so():
    run = recipe(phase("a"), phase("b"), model=dataclasses.replace(MODEL, rope_scaling=BY_TWO))
    assert [run.model_config(number).rope_scaling for number in range(2)] == [BY_TWO, BY_TWO]


def test_a_mesh_stays_until_another():
    run = recipe(phase("a"), phase("b", mesh=OTHER_MESH), phase("c"), phase("d", mesh=MeshConfig(model=2)))
    meshes = [run.mesh_config(number) for number in range(4)]
    assert meshes == [MeshConfig(data=4), OTHER_MESH, OTHER_MESH, MeshConfig(model=2)]


@pytest.mark.parametrize("wrong", [{"average_every": 0}, {"stages": ()}])
def test_a_phase_refuses_what_it_cannot_be(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Phase(**{"name": "a", "stages": phase("a").stages, "learning_rate": Continue(), **wrong})
