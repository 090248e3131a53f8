"""Casts happen where they are written: strict promotion everywhere, float32 weight gradients under bfloat16 compute."""

import jax
import numpy as np
import pytest
from tiny_model import documents, new_model, packed, placed

from llama3_jax.model.config import ModelConfig
from llama3_jax.model.next_token import next_token_loss
from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat
from llama3_jax.train.abstract import abstract_batch, abstract_state
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import NextToken
from llama3_jax.train.step import make_step

B, S = 2, 12
CFG = ModelConfig(
    num_layers=2, model_dim=8, num_heads=4, num_kv_heads=2, head_dim=6, ffw_dim=10, vocab_size=32, context_length=16
)
WEIGHTS = ("w_q", "w_k", "w_v", "w_o", "w_gate", "w_up", "w_down")


def batch():
    return placed(packed([documents(CFG, 5, 7), documents(CFG, 9)], S))


def gradient(precision, remat=Remat.NONE):
    def loss(model, batch):
        return next_token_loss(model, batch, precision=precision, remat=remat)[0]

    return jax.value_and_grad(loss)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("precision", Precision)
def test_no_cast_is_implicit(precision):
    with jax.numpy_dtype_promotion("strict"):
        loss, bars = jax.eval_shape(gradient(precision, Remat.SAVE_ATTENTION), new_model(CFG), batch())
    assert loss.dtype == "float32"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(bars)} == {"float32"}


@pytest.mark.parametrize("parts", [1, 2])
def test_weight_gradients_are_summed_in_float32(parts, mesh, intermediates):
    """A weight's gradient is the matmul that sums over rows and positions; its result is float32 and already sharded.

    Looked up in the program, because a CPU may compute bfloat16 matmuls in float32 and hide a mistake.
    """
    with jax.set_mesh(mesh(data=parts)):
        model = new_model(CFG)
        equations = intermediates(gradient(Precision.BFLOAT16), model, batch())
        bars = jax.eval_shape(gradient(Precision.BFLOAT16), model, batch())[1]
    over_batch = []
    for equation in equations:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            if [equation.invars[0].aval.shape[dim] for dim in contracted] == [B, S]:
                over_batch.append(equation)
    assert len(over_batch) == len(WEIGHTS)
    assert {equation.invars[0].aval.dtype.name for equation in over_batch} == {"bfloat16"}, "compute is bfloat16"
    assert {equation.outvars[0].aval.dtype.name for equation in over_batch} == {"float32"}
    assert {np.dtype(equation.params["preferred_element_type"]).name for equation in over_batch} == {"float32"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(bars)} == {"float32"}
    assert {"data" in str(equation.outvars[0].aval.sharding.spec) for equation in over_batch} == {True}


def test_gradients_meet_and_accumulate_in_float32(mesh, intermediates):
    """In the program of a step of two micro-batches: whatever is summed over devices that see different tokens, norms,
    embedding, head, keys and values included; and the sums over micro-batches."""
    devices, optimizer = mesh(data=2, sequence=2, model=2), AdamW()
    with jax.set_mesh(devices):
        state, pieces = abstract_state(CFG, optimizer, devices), abstract_batch((2, B, S), devices)
        equations = intermediates(
            make_step(NextToken(precision=Precision.BFLOAT16), optimizer), state, pieces, jax.ShapeDtypeStruct((), "float32")
        )
    tokens = {"data", "sequence"}
    opened = [e for e in equations if e.primitive.name == "reshard" and e.invars[0].aval.sharding.spec.unreduced & tokens]
    assert len(opened) == len(WEIGHTS) + 3, "the weights of a layer, and the scales of its two norms and the final one"
    summed = [
        e
        for e in equations
        if e.primitive.name in ("psum", "reduce_scatter") and tokens & set(e.params.get("axes") or e.params["axis_name"])
    ]
    assert len([e for e in summed if e.primitive.name == "reduce_scatter"]) == 4, "embedding, head, keys and values"
    assert {variable.aval.dtype.name for e in opened + summed for variable in e.invars} == {"float32"}

    shapes = sorted(leaf.shape for leaf in jax.tree.leaves(state.model))
    carried = [e.outvars for e in equations if e.primitive.name == "scan" and e.params["length"] == 2]
    sums = [each for each in carried if sorted(v.aval.shape for v in each if v.aval.ndim) == shapes]
    assert len(sums) == 1, "the loop over micro-batches"
    assert {variable.aval.dtype.name for variable in sums[0]} == {"float32"}


@pytest.mark.usefixtures("one_device")
def test_bfloat16_is_near_float32():
    model = new_model(CFG)
    exact, exact_bars = jax.jit(gradient(Precision.FLOAT32))(model, batch())
    near, near_bars = jax.jit(gradient(Precision.BFLOAT16))(model, batch())
    assert near != exact
    np.testing.assert_allclose(near, exact, rtol=1e-2)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(near_bars), jax.tree.leaves(exact_bars), strict=True):
        assert np.linalg.norm(a - b) <= 5e-2 * np.linalg.norm(b), jax.tree_util.keystr(path)
