"""Logits and gradients of Hugging Face's Llama in float32, each document run there alone."""

import jax
import numpy as np
import pytest
from tiny_model import documents, new_model, packed, placed

from llama3_jax.bench.torch import hugging_face, in_their_layout
from llama3_jax.model.attention import PackedAttend
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.model.next_token import next_token_loss

torch = pytest.importorskip("torch", reason="the Hugging Face oracle needs torch")
transformers = pytest.importorskip("transformers", reason="the Hugging Face oracle needs transformers")

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("one_device")]

SHAPE = dict(num_layers=2, model_dim=32, num_heads=8, head_dim=8, ffw_dim=48, vocab_size=60, context_length=64)
SCALING = RopeScaling(factor=8, original_context_length=32)
CONFIGS = {
    "group_1": ModelConfig(num_kv_heads=8, **SHAPE),
    "group_2_tied_scaled": ModelConfig(num_kv_heads=4, tie_embeddings=True, rope_scaling=SCALING, rope_theta=100.0, **SHAPE),
    "group_4_scaled": ModelConfig(num_kv_heads=2, rope_scaling=SCALING, **SHAPE),
    "group_8_tied": ModelConfig(num_kv_heads=1, tie_embeddings=True, norm_eps=1e-3, **SHAPE),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients(name):
    cfg = CONFIGS[name]
    model, docs = new_model(cfg), documents(cfg, 33, 1, 14, 40)
    batch = placed(packed([docs[:3], docs[3:]], 48))

    @jax.jit
    def ours(model, batch):
        x_BSD, _ = model.layers(model.embed(batch.tokens, "float32"), batch.positions, PackedAttend(batch, model.cfg))
        return model.logits(x_BSD), jax.grad(lambda model: next_token_loss(model, batch)[0])(model)

    logits_BSV, gradient = ours(model, batch)
    theirs, loss = hugging_face(model, "eager").train(False), 0
    for row, first, tokens in ((0, 0, docs[0]), (0, 33, docs[1]), (0, 34, docs[2]), (1, 0, docs[3])):
        tokens = torch.from_numpy(tokens).long()
        logits = theirs(tokens[None]).logits[0]
        np.testing.assert_allclose(logits_BSV[row, first : first + len(tokens)], logits.detach().numpy(), atol=1e-4, rtol=0)
        if len(tokens) > 1:
            loss = loss + torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="sum")
    loss.backward()
    their_gradient = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    our_gradient = in_their_layout(gradient)
    assert our_gradient.keys() == their_gradient.keys()
    for name, value in our_gradient.items():
        np.testing.assert_allclose(value, their_gradient[name], atol=1e-4, rtol=1e-5, err_msg=name)
