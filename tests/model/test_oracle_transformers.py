"""Logits and gradients of Hugging Face's Llama in float32, each document run there alone."""

import jax
import numpy as np
import pytest
from tiny_model import documents, new_model, packed, placed

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


def hugging_face(cfg, model):
    """Their model with our weights."""
    rope = {"rope_type": "default", "rope_theta": cfg.rope_theta}
    if (scaling := cfg.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }
    theirs = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=cfg.vocab_size,
            hidden_size=cfg.model_dim,
            intermediate_size=cfg.ffw_dim,
            num_hidden_layers=cfg.num_layers,
            num_attention_heads=cfg.num_heads,
            num_key_value_heads=cfg.num_kv_heads,
            head_dim=cfg.head_dim,
            max_position_embeddings=cfg.longest_sequence,
            rms_norm_eps=cfg.norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=cfg.tie_embeddings,
            attn_implementation="eager",
        )
    ).float()
    state = {name: torch.from_numpy(value.copy()) for name, value in their_names(cfg, model).items()}
    if cfg.tie_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state, strict=True)
    return theirs.train(False)


def their_names(cfg, tree):
    """Our parameters, or their gradients, in Hugging Face's layout and under its names."""

    def of(leaf):
        return np.asarray(leaf[...])

    def flat(x):
        return np.ascontiguousarray(x.reshape(cfg.model_dim, -1).T)

    named = {"model.embed_tokens.weight": of(tree.embedding), "model.norm.weight": of(tree.final_norm)}
    if not cfg.tie_embeddings:
        named["lm_head.weight"] = of(tree.head).T
    attention, ffw = tree.blocks.attention, tree.blocks.feed_forward
    for layer in range(cfg.num_layers):
        named |= {
            f"model.layers.{layer}.{name}": value
            for name, value in {
                "input_layernorm.weight": of(tree.blocks.attention_norm)[layer],
                "post_attention_layernorm.weight": of(tree.blocks.ffw_norm)[layer],
                "self_attn.q_proj.weight": flat(of(attention.w_q)[layer]),
                "self_attn.k_proj.weight": flat(of(attention.w_k)[layer]),
                "self_attn.v_proj.weight": flat(of(attention.w_v)[layer]),
                "self_attn.o_proj.weight": of(attention.w_o)[layer].reshape(-1, cfg.model_dim).T,
                "mlp.gate_proj.weight": of(ffw.w_gate)[layer].T,
                "mlp.up_proj.weight": of(ffw.w_up)[layer].T,
                "mlp.down_proj.weight": of(ffw.w_down)[layer].T,
            }.items()
        }
    return named


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients(name):
    cfg = CONFIGS[name]
    model, docs = new_model(cfg), documents(cfg, 33, 1, 14, 40)
    batch = placed(packed([docs[:3], docs[3:]], 48))

    @jax.jit
    def ours(model, batch):
        x_BSD, _ = model.layers(model.embed(batch.tokens, "float32"), batch.positions, PackedAttend(batch.segment_ids))
        return model.logits(x_BSD), jax.grad(lambda model: next_token_loss(model, batch)[0])(model)

    logits_BSV, gradient = ours(model, batch)
    theirs, loss = hugging_face(cfg, model), 0
    for row, first, tokens in ((0, 0, docs[0]), (0, 33, docs[1]), (0, 34, docs[2]), (1, 0, docs[3])):
        tokens = torch.from_numpy(tokens).long()
        logits = theirs(tokens[None]).logits[0]
        np.testing.assert_allclose(logits_BSV[row, first : first + len(tokens)], logits.detach().numpy(), atol=1e-4, rtol=0)
        if len(tokens) > 1:
            loss = loss + torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="sum")
    loss.backward()
    their_gradient = {name: parameter.grad.numpy() for name, parameter in theirs.named_parameters()}
    our_gradient = their_names(cfg, gradient)
    assert our_gradient.keys() == their_gradient.keys()
    for name, value in our_gradient.items():
        np.testing.assert_allclose(value, their_gradient[name], atol=1e-4, rtol=1e-5, err_msg=name)
