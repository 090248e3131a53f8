"""The average is the float32 mean of the models that were included."""

import jax
import jax.numpy as jnp
import numpy as np

from llama3_jax.train.average import Average


def models(count):
    rng = np.random.default_rng(0)
    return [{"w": jnp.asarray(rng.normal(3, 1, (4, 5)), jnp.float32), "b": jnp.full(2, 1e6 + i)} for i in range(count)]


def test_mean_of_what_was_included():
    included = models(7)
    average, include = Average.empty(included[0]), jax.jit(Average.include)
    assert int(average.count) == 0 and not np.asarray(average.model["w"]).any()
    for number, model in enumerate(included, start=1):
        average = include(average, model)
        assert int(average.count) == number
        for name in model:
            exact = np.mean([np.asarray(each[name], np.float64) for each in included[:number]], axis=0)
            assert average.model[name].dtype == jnp.float32
            np.testing.assert_allclose(average.model[name], exact, rtol=1e-6)


def test_one_model_is_its_own_average():
    (model,) = models(1)
    jax.tree.map(np.testing.assert_array_equal, Average.empty(model).include(model).model, model)


def test_including_leaves_the_old_average_as_it_was():
    first, second = models(2)
    before = Average.empty(first).include(first)
    before.include(second)
    jax.tree.map(np.testing.assert_array_equal, before.model, first)
