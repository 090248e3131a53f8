"""The training step of every published run traces on the mesh it is written for, thousands of devices and all."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from llama3_jax.batches.batch import Batch
from llama3_jax.commands.run import TrainRun
from llama3_jax.config.load import load
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.axes import AXES, spec
from llama3_jax.train.objective import NextToken
from llama3_jax.train.step import TrainState, make_step

GB = 10**9
STATE_GB = {"llama3_1b": 0.5, "llama3_3b": 1.3, "llama3_8b": 0.8, "llama3_70b": 1.7, "llama3_405b": 4.9}
"""Parameters and moments on a device in the long-context phases, at most; an H100 has 80."""


@pytest.mark.parametrize("phase", ["initial", "anneal"])
@pytest.mark.parametrize("name", STATE_GB)
def test_step_traces_on_its_mesh(name, phase):
    check(name, phase, slice(-1, None))


@pytest.mark.slow
@pytest.mark.parametrize("name", STATE_GB)
def test_every_stage_traces_on_its_mesh(name):
    for phase in ("initial", "long_context", "anneal"):
        check(name, phase, slice(None))


def check(name: str, phase_name: str, stages: slice) -> None:
    run = load(TrainRun, name).value
    model, axes = run.model, run.mesh
    for phase in run.phases:
        model = dataclasses.replace(model, rope_scaling=phase.rope_scaling or model.rope_scaling)
        axes = phase.mesh or axes
        if phase.name == phase_name:
            break
    mesh = AbstractMesh(tuple(getattr(axes, axis) for axis in AXES), AXES, axis_types=(AxisType.Explicit,) * len(AXES))
    with jax.sharding.use_abstract_mesh(mesh):
        state = jax.eval_shape(lambda: TrainState.create(Transformer(model, key=jax.random.key(0)), run.optimizer))
        assert state_bytes(state) < STATE_GB[name] * GB
        step = make_step(
            NextToken(precision=run.precision, remat=phase.remat, fsdp=phase.fsdp, attention=run.attention), run.optimizer
        )
        for stage in phase.stages[stages]:
            pieces = stage.microbatches(axes.data)
            shape = (pieces, stage.num_rows // pieces, stage.sequence_length)
            rows = NamedSharding(mesh, spec(None, "batch", "position"))
            batch = Batch(
                **{
                    field: jax.ShapeDtypeStruct(shape, jnp.float32 if field == "loss_weight" else jnp.int32, sharding=rows)
                    for field in Batch._fields
                }
            )
            after, metrics = jax.eval_shape(step, state, batch, jax.ShapeDtypeStruct((), jnp.float32))
            assert metrics["loss"].shape == ()
            assert list(map(describe, jax.tree.leaves(after))) == list(map(describe, jax.tree.leaves(state)))


def describe(leaf: jax.ShapeDtypeStruct) -> tuple:
    return leaf.shape, leaf.dtype, leaf.sharding.spec if leaf.ndim else None


def state_bytes(state: TrainState) -> int:
    """Of one device."""
    return sum(
        jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape) if leaf.ndim else ())
        for leaf in jax.tree.leaves(state)
    )
