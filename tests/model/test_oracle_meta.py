"""Logits of Meta's own Llama 3 (PyPI `llama_models`) in float32, each document run there alone, and with its KV cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import documents, new_model, packed, placed

from llama3_jax.model.attention import PackedAttend
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.model.kv_cache import CachedAttend, empty_cache

torch = pytest.importorskip("torch", reason="Meta's model needs torch")
parallel = pytest.importorskip("fairscale.nn.model_parallel.initialize", reason="Meta's model needs fairscale")
reference = pytest.importorskip("llama_models.llama3.model", reason="Meta's model is in llama_models")

pytestmark = [pytest.mark.oracle, pytest.mark.usefixtures("one_device", "one_process")]

SHAPE = dict(num_layers=2, num_heads=8, ffw_dim=352, vocab_size=60, context_length=512)
SCALING = RopeScaling(factor=8, low_freq_factor=1, high_freq_factor=4, original_context_length=8192)
"""Written into Meta's code."""
CONFIGS = {
    "group_1": ModelConfig(num_kv_heads=8, model_dim=64, head_dim=8, rope_theta=10_000.0, **SHAPE),
    "group_2_scaled": ModelConfig(num_kv_heads=4, model_dim=64, head_dim=8, rope_scaling=SCALING, **SHAPE),
    "group_4": ModelConfig(num_kv_heads=2, model_dim=64, head_dim=8, norm_eps=1e-3, **SHAPE),
    "group_8_scaled": ModelConfig(num_kv_heads=1, model_dim=128, head_dim=16, rope_scaling=SCALING, **SHAPE),
}
ROUNDING = dict(atol=2e-5, rtol=2e-5)
"""Theirs includes that of the rotary frequencies, which are worked out in float32; half of it is seen."""


@pytest.fixture(scope="module")
def one_process():
    """The process group that fairscale's layers want, of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel.initialize_model_parallel(1)
    yield
    parallel.destroy_model_parallel()
    torch.distributed.destroy_process_group()


def meta(cfg, model, *, scaled=None):
    """Their model with our weights: (token ids [B, S], first position) -> logits of these positions."""
    theirs = reference.Transformer(
        reference.ModelArgs(
            dim=cfg.model_dim,
            n_layers=cfg.num_layers,
            n_heads=cfg.num_heads,
            n_kv_heads=cfg.num_kv_heads,
            vocab_size=cfg.vocab_size,
            multiple_of=cfg.ffw_dim,  # 8/3 of the width rounded up to a multiple of this
            norm_eps=cfg.norm_eps,
            rope_theta=cfg.rope_theta,
            use_scaled_rope=cfg.rope_scaling is not None if scaled is None else scaled,
            max_batch_size=2,
            max_seq_len=cfg.context_length,
        )
    )
    state = {name: torch.from_numpy(np.array(value)) for name, value in their_names(cfg, model).items()}
    theirs.load_state_dict(state, strict=True)
    return lambda tokens_BS, first: theirs(torch.from_numpy(tokens_BS).long(), first).numpy()


def their_names(cfg, model):
    """Our parameters in Meta's layout and under its names."""

    def flat(x):
        return x.reshape(cfg.model_dim, -1).T

    def interleaved(x):
        """Pairs (j, j + H/2) of a head to (2j, 2j + 1)."""
        return flat(x.reshape(cfg.model_dim, -1, 2, cfg.head_dim // 2).swapaxes(2, 3))

    named = {
        "tok_embeddings.weight": model.embedding[...],
        "norm.weight": model.final_norm[...],
        "output.weight": model.head[...].T,
    }
    blocks, attention, ffw = model.blocks, model.blocks.attention, model.blocks.feed_forward
    for layer in range(cfg.num_layers):
        named |= {
            f"layers.{layer}.{name}": value
            for name, value in {
                "attention_norm.weight": blocks.attention_norm[layer],
                "ffn_norm.weight": blocks.ffw_norm[layer],
                "attention.wq.weight": interleaved(attention.w_q[layer]),
                "attention.wk.weight": interleaved(attention.w_k[layer]),
                "attention.wv.weight": flat(attention.w_v[layer]),
                "attention.wo.weight": attention.w_o[layer].reshape(-1, cfg.model_dim).T,
                "feed_forward.w1.weight": ffw.w_gate[layer].T,
                "feed_forward.w2.weight": ffw.w_down[layer].T,
                "feed_forward.w3.weight": ffw.w_up[layer].T,
            }.items()
        }
    return named


@jax.jit
def packed_logits(model, batch):
    x_BSD = model.embed(batch.tokens, "float32")
    x_BSD, _ = model.layers(x_BSD, batch.positions, PackedAttend(batch, model.cfg))
    return model.logits(x_BSD)


@jax.jit
def cached_logits(model, tokens_RS, positions_RS, cache):
    x_RSD, cache = model.layers(model.embed(tokens_RS, "float32"), positions_RS, CachedAttend(positions_RS), cache)
    return model.logits(x_RSD), cache


@pytest.mark.parametrize("name", CONFIGS)
def test_logits(name):
    cfg = CONFIGS[name]
    model, docs = new_model(cfg), documents(cfg, 150, 1, 109, 300)
    logits_BSV = packed_logits(model, placed(packed([docs[:3], docs[3:]], 300)))
    theirs = meta(cfg, model)
    for row, first, tokens in ((0, 0, docs[0]), (0, 150, docs[1]), (0, 151, docs[2]), (1, 0, docs[3])):
        oracle = theirs(tokens[None], 0)[0]
        np.testing.assert_allclose(logits_BSV[row, first : first + len(tokens)], oracle, **ROUNDING)
    if cfg.rope_scaling:
        plain = meta(cfg, model, scaled=False)(tokens[None], 0)[0]
        assert np.abs(plain - oracle).max() > 1e-2, "at these positions the scaling does matter"


@pytest.mark.parametrize("name", ["group_2_scaled", "group_4"])
def test_logits_with_a_cache(name):
    """A prompt, single tokens, and several at once behind them."""
    cfg = CONFIGS[name]
    model, tokens_RS = new_model(cfg), np.stack(documents(cfg, 280, 280))
    cache, theirs = empty_cache(cfg, num_requests=2, num_positions=280, dtype="float32"), meta(cfg, model)
    for first, end in ((0, 263), (263, 264), (264, 265), (265, 280)):
        piece_RS = tokens_RS[:, first:end]
        positions_RS = jnp.broadcast_to(jnp.arange(first, end, dtype=jnp.int32), piece_RS.shape)
        logits_RSV, cache = cached_logits(model, *placed((piece_RS, positions_RS)), cache)
        np.testing.assert_allclose(logits_RSV, theirs(piece_RS, first), **ROUNDING)
