"""Casts happen where they are written: strict promotion everywhere, float32 weight gradients under bfloat16 compute."""

import jax
import numpy as np
import pytest
from tiny_model import documents, new_model, packed, placed

from llama3_jax.model.config import ModelConfig
from llama3_jax.model.next_token import next_token_loss
from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat

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


@pytest.mark.usefixtures("one_device")
def test_bfloat16_is_near_float32():
    model = new_model(CFG)
    exact, exact_bars = jax.jit(gradient(Precision.FLOAT32))(model, batch())
    near, near_bars = jax.jit(gradient(Precision.BFLOAT16))(model, batch())
    assert near != exact
    np.testing.assert_allclose(near, exact, rtol=1e-2)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(near_bars), jax.tree.leaves(exact_bars), strict=True):
        assert np.linalg.norm(a - b) <= 5e-2 * np.linalg.norm(b), jax.tree_util.keystr(path)
