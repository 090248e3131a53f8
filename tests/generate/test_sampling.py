"""Which tokens `sample` may draw, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.generate.sampling import sample
from llama3_jax.generate.settings import Sampling

PROB = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
DRAWS = 4000


@pytest.fixture(scope="module")
def counts():
    def count(sampling, prob=PROB, draws=DRAWS):
        logits_RV = jnp.broadcast_to(jnp.log(jnp.asarray(prob, jnp.float32)), (draws, len(prob)))
        tokens = jax.jit(sample, static_argnums=2)(logits_RV, jax.random.key(0), sampling)
        assert tokens.dtype == jnp.int32
        return np.bincount(tokens, minlength=len(prob)) / draws

    return count


def near(observed, expected):
    """Within four standard deviations."""
    expected = np.asarray(expected)
    assert np.all(np.abs(observed - expected) <= 4 * np.sqrt(expected * (1 - expected) / DRAWS))
    assert not observed[expected == 0].any()


def test_temperature_one_draws_from_the_model(counts):
    near(counts(Sampling(temperature=1.0, top_p=1.0)), PROB)


def test_temperature_sharpens(counts):
    near(counts(Sampling(temperature=0.5, top_p=1.0)), PROB**2 / np.sum(PROB**2))


def test_temperature_zero_is_the_likeliest(counts):
    assert counts(Sampling(temperature=0.0, top_p=0.1)).tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "top_p, kept",
    [
        (0.01, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [1, 2, 3]),
        (0.96, [0, 1, 2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(top_p, kept, counts):
    nucleus = np.where(np.isin(np.arange(5), kept), PROB, 0.0)
    near(counts(Sampling(temperature=1.0, top_p=top_p)), nucleus / nucleus.sum())


def test_the_nucleus_is_taken_after_temperature(counts):
    """Squared, the likeliest has 0.55 of the probability, so 0.5 keeps it alone; before squaring it had 0.4."""
    assert counts(Sampling(temperature=0.5, top_p=0.5)).tolist() == [0, 1, 0, 0, 0]


def test_rows_are_drawn_independently():
    logits_RV = jnp.log(jnp.asarray([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], jnp.float32))
    tokens = np.stack([sample(logits_RV, jax.random.key(i), Sampling(temperature=1.0)) for i in range(20)])
    assert set(tokens[:, 0]) == {0, 1} and set(tokens[:, 1]) == {2}


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}], ids=str)
def test_what_the_settings_refuse(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}={wrong[name]}"):
        Sampling(**wrong)
