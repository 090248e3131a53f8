"""Loss and gradients of a training step are those of one device, however data, sequence and model share the devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from layouts import LAYOUTS
from tiny_model import documents, new_model, packed, placed

from llama3_jax.kernels.attention import block_sizes
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.remat import Remat
from llama3_jax.model.transformer import Transformer
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import NextToken
from llama3_jax.train.step import TrainState, make_step

CFG = ModelConfig(
    num_layers=2, model_dim=16, num_heads=16, num_kv_heads=8, head_dim=4, ffw_dim=16, vocab_size=64, context_length=64
)
S, ROWS = 32, 2 * ((9, 5, 18), (32,), (1, 30), (3,) * 10, (17, 15), (20,), (1, 1, 1, 29), (8, 8, 8, 8))
MICROBATCHES = 2


@pytest.fixture(scope="module", autouse=True)
def small_blocks():
    """So that a row is several blocks, also on a piece of the sequence axis."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_sizes, "XLA_BLOCK", 8)
        yield


def run(devices, **how):
    """(loss, metrics, gradient as NumPy) of a step of two micro-batches; the gradient is Adam's first moment without memory."""
    optimizer = AdamW(beta1=0.0, clip_norm=1e30)
    with jax.set_mesh(devices):
        batch = packed([documents(CFG, *row, seed=number) for number, row in enumerate(ROWS)], S)
        batch = placed(jax.tree.map(lambda leaf: leaf.reshape(MICROBATCHES, -1, S), batch))
        state = TrainState.create(new_model(CFG), optimizer)
        step = jax.jit(make_step(NextToken(**how), optimizer)).lower(state, batch, jnp.float32(0)).compile()
        results = [step(state, batch, jnp.float32(0)) for _ in range(2)]
    (loss, metrics, gradient), again = ((m["loss"], m, jax.tree.map(np.asarray, s.moments.mu)) for s, m in results)
    jax.tree.map(np.testing.assert_array_equal, (loss, metrics, gradient), again)
    for (path, leaf), parameter in zip(
        jax.tree_util.tree_leaves_with_path(results[0][0].moments.mu), jax.tree.leaves(state.model), strict=True
    ):
        assert leaf.sharding == parameter.sharding, jax.tree_util.keystr(path)
    return float(loss), jax.tree.map(float, metrics), gradient


@pytest.fixture(scope="module")
def one(mesh):
    return run(mesh())


FAST = {(2, 2, 2), (8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 1)}


@pytest.mark.parametrize(
    "data, sequence, model", [each if each in FAST else pytest.param(*each, marks=pytest.mark.slow) for each in LAYOUTS]
)
def test_loss_and_gradients(data, sequence, model, mesh, one):
    """And a second run of the same program is the same to the last bit."""
    assert_same(run(mesh(data=data, sequence=sequence, model=model)), one)


@pytest.mark.parametrize("fsdp", Fsdp)
@pytest.mark.parametrize(
    "remat", [each if each in (Remat.NONE, Remat.FULL) else pytest.param(each, marks=pytest.mark.slow) for each in Remat]
)
def test_whatever_waits_for_the_backward_pass(remat, fsdp, mesh, one):
    assert_same(run(mesh(data=2, sequence=2, model=2), remat=remat, fsdp=fsdp), one)


def assert_same(ours, one):
    (loss, metrics, gradient), (expected_loss, expected_metrics, expected) = ours, one
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert metrics == pytest.approx(expected_metrics, rel=1e-5)
    assert metrics["batch_hash"] == expected_metrics["batch_hash"]
    for (path, bar), right in zip(jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(bar - right) <= 1e-5 * np.linalg.norm(right), jax.tree_util.keystr(path)


def test_initial_parameters(mesh):
    """The same numbers from the same key, whatever the mesh, with the spread that each declares."""

    def initial(**axes):
        with jax.set_mesh(mesh(**axes)):
            return jax.jit(partial(Transformer, CFG))(key=jax.random.key(0))

    one, many = initial(), initial(data=2, model=4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), one, many)
    assert many.head[...].sharding.spec == PartitionSpec(("data", "sequence"), "model")
    assert np.std(one.blocks.attention.w_q[...]) == pytest.approx(CFG.model_dim**-0.5, rel=0.1)
    assert np.std(one.blocks.feed_forward.w_down[...]) == pytest.approx((CFG.ffw_dim * 2 * CFG.num_layers) ** -0.5, rel=0.1)
    assert np.all(np.asarray(one.blocks.ffw_norm[...]) == 1)
