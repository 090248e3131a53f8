"""What AdamW moves and what it leaves; its values are checked in test_step.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import new_model

from llama3_jax.model.config import ModelConfig
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.optimizer import init, update

CFG = ModelConfig(num_layers=2, model_dim=8, num_heads=2, num_kv_heads=2, head_dim=4, ffw_dim=8, vocab_size=16, context_length=8)


def names(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_decay_reaches_every_weight_and_no_norm(one_device):
    """With a zero gradient a weight shrinks by rate * decay and the scale of a norm stays."""
    model, cfg = new_model(CFG), AdamW(weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, model)
    after, _ = jax.jit(update, static_argnums=0)(cfg, zero, jnp.float32(0), init(cfg, model), model, jnp.float32(0.1))
    kept = set()
    for name, new in names(after).items():
        shrink = np.asarray(new) / np.asarray(names(model)[name])
        assert np.allclose(shrink, 0.95) or np.all(shrink == 1), name
        if np.all(shrink == 1):
            kept.add(name.strip(".").removesuffix(".value"))
    assert kept == {"blocks.attention_norm", "blocks.ffw_norm", "final_norm"}


def test_moments_are_float32_and_lie_where_their_parameter_lies(mesh):
    with jax.set_mesh(mesh(data=2, model=2)):
        model = new_model(CFG)
        state = init(AdamW(), model)
    for moments in (state.mu, state.nu):
        for name, leaf in names(moments).items():
            assert leaf.dtype == jnp.float32 and not np.asarray(leaf).any()
            assert leaf.sharding == names(model)[name].sharding, name


@pytest.mark.parametrize("norm, seen", [(0.5, 1.0), (2.0, 0.5)])
def test_only_a_large_gradient_is_clipped(norm, seen):
    cfg = AdamW(clip_norm=1.0, beta1=0.0)
    model = {"w": jnp.ones(4)}
    gradient = {"w": jnp.full(4, norm / 2)}
    _, state = update(cfg, gradient, jnp.float32(norm), init(cfg, model), model, jnp.float32(0.1))
    np.testing.assert_allclose(state.mu["w"], seen * np.full(4, norm / 2), rtol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [{"beta1": 1.0}, {"beta2": -0.1}, {"epsilon": 0.0}, {"clip_norm": 0.0}, {"weight_decay": -0.1}],
    ids=str,
)
def test_what_the_settings_refuse(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]}"):
        AdamW(**wrong)
