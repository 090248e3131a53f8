"""The packed transformer, values and gradients, against a float64 NumPy Llama that sees one document at a time."""

from functools import partial

import jax
import numpy as np
import numpy_llama
import pytest
from tiny_model import documents, new_model, packed, placed

from llama3_jax.model.attention import PackedAttend
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.model.next_token import next_token_loss
from llama3_jax.model.remat import Remat

SCALING = RopeScaling(factor=8, original_context_length=16)
SHAPE = dict(num_layers=2, model_dim=16, head_dim=8, ffw_dim=24, vocab_size=40, context_length=32, rope_theta=100.0)
CONFIGS = {
    "grouped_tied_scaled": ModelConfig(num_heads=4, num_kv_heads=2, tie_embeddings=True, rope_scaling=SCALING, **SHAPE),
    "ungrouped_untied_plain": ModelConfig(num_heads=2, num_kv_heads=2, norm_eps=1e-3, **SHAPE),
}
S = 24

pytestmark = pytest.mark.usefixtures("one_device")


@jax.jit
def logits(model, batch):
    x_BSD = model.embed(batch.tokens, "float32")
    x_BSD, _ = model.layers(x_BSD, batch.positions, PackedAttend(batch, model.cfg))
    return model.logits(x_BSD)


@partial(jax.jit, static_argnums=2)
def loss_and_gradient(model, batch, remat=Remat.NONE):
    """((loss sum, nll [B, S]), gradient)"""
    return jax.value_and_grad(lambda model: next_token_loss(model, batch, remat=remat), has_aux=True)(model)


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, one_device):
    """(config, model, rows of documents, their batch)"""
    cfg = CONFIGS[request.param]
    docs = documents(cfg, 11, 1, 7, 20)
    rows = [docs[:3], docs[3:]]
    return cfg, new_model(cfg), rows, placed(packed(rows, S))


def test_logits_of_packed_documents(case):
    cfg, model, rows, batch = case
    ours, w = np.asarray(logits(model, batch)), numpy_llama.weights(model)
    assert ours.dtype == np.float32
    for row, docs in zip(ours, rows, strict=True):
        first = 0
        for tokens in docs:
            oracle = numpy_llama.logits(cfg, w, tokens)
            np.testing.assert_allclose(row[first : first + len(tokens)], oracle, rtol=1e-5, atol=1e-5)
            first += len(tokens)


def test_loss_and_directional_derivatives(case):
    """The gradient of every parameter tensor, along a random direction, against central differences in float64."""
    cfg, model, rows, batch = case
    (loss, nll_BS), gradient = loss_and_gradient(model, batch)
    w, gradient = numpy_llama.weights(model), numpy_llama.weights(gradient)

    def oracle(w):
        return sum(numpy_llama.loss(cfg, w, tokens) for docs in rows for tokens in docs)

    np.testing.assert_allclose(loss, oracle(w), rtol=1e-6)
    np.testing.assert_allclose(np.sum(np.asarray(nll_BS) * batch.loss_weight), loss, rtol=1e-6)
    rng = np.random.default_rng(1)
    assert gradient.keys() == w.keys()
    for name in w:
        # towards the gradient, with noise: far from orthogonal, so that the quotient is well conditioned
        toward = gradient[name] / np.linalg.norm(gradient[name]) + rng.normal(size=w[name].shape) / w[name].size ** 0.5
        step = 1e-4
        slope = (oracle(w | {name: w[name] + step * toward}) - oracle(w | {name: w[name] - step * toward})) / (2 * step)
        np.testing.assert_allclose(np.sum(gradient[name] * toward), slope, rtol=2e-5, err_msg=name)


def test_padding_and_neighbours_change_no_loss(case):
    """The same document alone, behind another one, and under changed neighbours: the same likelihood of each token."""
    cfg, model, rows, batch = case
    (_, nll_BS), _ = loss_and_gradient(model, batch)
    others = documents(cfg, 11, 1, 20, seed=5)
    (_, changed_BS), _ = loss_and_gradient(model, placed(packed([[others[0], others[1], rows[0][2]], [others[2]]], S)))
    (_, alone_BS), _ = loss_and_gradient(model, placed(packed([[rows[0][2]], rows[1]], S)))
    third = slice(12, 18)
    np.testing.assert_array_equal(np.asarray(nll_BS)[0, third], np.asarray(changed_BS)[0, third])
    np.testing.assert_allclose(np.asarray(nll_BS)[0, third], np.asarray(alone_BS)[0, :6], rtol=1e-5)


@pytest.mark.parametrize("remat", [Remat.SAVE_ATTENTION, Remat.FULL])
def test_what_is_recomputed_changes_no_number(remat):
    cfg = CONFIGS["grouped_tied_scaled"]
    model, batch = new_model(cfg), placed(packed([documents(cfg, 11, 1, 7), documents(cfg, 20)], S))
    plain, recomputed = (loss_and_gradient(model, batch, each) for each in (Remat.NONE, remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), plain, recomputed)
