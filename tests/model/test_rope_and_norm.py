"""Rotary frequencies, their scaling and rotation, and RMSNorm, against float64."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpy_llama
import pytest

from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.model.norm import rms_norm, scale_of_rows
from llama3_jax.model.rope import inverse_frequencies, rotate, rotation

CFG = ModelConfig(
    num_layers=1, model_dim=8, num_heads=1, num_kv_heads=1, head_dim=128, ffw_dim=8, vocab_size=8, context_length=8192
)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("scaling", [None, RopeScaling(factor=8), RopeScaling(factor=32, low_freq_factor=2)])
def test_inverse_frequencies(head_dim, scaling):
    cfg = replace(CFG, head_dim=head_dim, rope_scaling=scaling)
    np.testing.assert_allclose(inverse_frequencies(cfg), numpy_llama.frequencies(cfg), rtol=1e-7)


@pytest.mark.parametrize("head_dim, split", [(128, (29, 6, 29)), (64, (15, 3, 14))])
def test_scaling_keeps_short_waves_and_slows_long_ones(head_dim, split):
    """Facts 1.3: how many frequencies are kept, blended and divided by 8 with an original context of 8192."""
    plain = replace(CFG, head_dim=head_dim)
    before = inverse_frequencies(plain)
    after = inverse_frequencies(replace(plain, rope_scaling=RopeScaling(factor=8)))
    kept, divided = after == before, after == before / 8
    assert (kept.sum(), (~kept & ~divided).sum(), divided.sum()) == split
    assert np.all(np.diff(after) < 0) and kept[0] and divided[-1]


def test_published_theta():
    np.testing.assert_allclose(inverse_frequencies(CFG)[[0, 1, 63]], 500_000.0 ** -np.array([0, 2 / 128, 126 / 128]), rtol=1e-6)


def turned(x, positions, cfg):
    return np.asarray(rotate(jnp.asarray(x), rotation(cfg, jnp.asarray(positions))), np.float64)


def test_scores_depend_on_relative_position_alone():
    cfg = replace(CFG, head_dim=16)
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 6, 2, 16)).astype(np.float32)
    positions = rng.integers(0, 50, (1, 6)).astype(np.int32)
    scores = [
        np.einsum("bsnh,btnh->bnst", turned(q, positions + shift, cfg), turned(k, positions + shift, cfg))
        for shift in (0, 29, 400)
    ]
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)
    np.testing.assert_allclose(scores[2], scores[0], atol=5e-4)
    assert np.abs(scores[0] - np.einsum("bsnh,btnh->bnst", turned(q, positions, cfg), turned(k, positions + 1, cfg))).max() > 0.1


def test_rotation_pairs_the_halves_and_keeps_length():
    cfg = replace(CFG, head_dim=4)
    x = np.array([1.0, 10.0, 2.0, 20.0], np.float32).reshape(1, 1, 1, 4)
    angle = 3 * numpy_llama.frequencies(cfg)
    z = np.array([1 + 2j, 10 + 20j]) * np.exp(1j * angle)
    np.testing.assert_allclose(turned(x, [[3]], cfg).ravel(), [*z.real, *z.imag], rtol=1e-6)
    np.testing.assert_array_equal(turned(x, [[0]], cfg), x)


def test_angles_are_float32_however_long_the_row_is():
    cfg = replace(CFG, head_dim=4)
    turn = rotation(cfg, jnp.array([[131_071]], jnp.int32))
    assert turn.cos_BSR.dtype == turn.sin_BSR.dtype == jnp.float32
    oracle = 131_071 * np.asarray(inverse_frequencies(cfg), np.float64)
    np.testing.assert_allclose(np.ravel(turn.cos_BSR), np.cos(oracle), atol=1e-2)
    bfloat16 = rotate(jnp.ones((1, 1, 1, 4), jnp.bfloat16), turn)
    assert bfloat16.dtype == jnp.bfloat16


def normed(x, scale, eps=1e-5):
    return rms_norm(jnp.asarray(x), scale_of_rows(jnp.asarray(scale), x.shape[1]), eps)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("eps", [1e-5, 1e-1])
def test_rms_norm(eps):
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(2, 3, 16)).astype(np.float32), rng.normal(size=16).astype(np.float32)
    x[0, 0] = 0
    x[0, 1] *= 1e-3
    oracle = x.astype(np.float64) / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + eps) * scale
    np.testing.assert_allclose(normed(x, scale, eps), oracle, rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures("one_device")
def test_rms_norm_of_bfloat16_squares_in_float32_and_rounds_no_scale():
    scale = 1 + 2.0**-12  # a bfloat16 cannot hold it
    ours = normed(np.full((1, 1, 1024), 1 / 3, jnp.bfloat16), np.full(1024, scale, np.float32))
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float32), 1.0, atol=2**-8)
    near = normed(np.full((1, 1, 1024), 1.0, jnp.bfloat16), np.full(1024, 1 + 2.0**-8 + 2.0**-10, np.float32))
    assert np.all(np.asarray(near, np.float32) == 1 + 2.0**-7), "1 + 2^-8 rounded first would be the even 1"
