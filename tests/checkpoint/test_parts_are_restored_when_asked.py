"""Weights alone, a base below new adapters, another dtype: by request, with what was missing, surplus and converted named."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.checkpoint.manifest import verify
from llama3_jax.checkpoint.restore import restore, restore_part
from llama3_jax.checkpoint.store import CheckpointStore

W = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    store = CheckpointStore(tmp_path_factory.mktemp("parts"))
    half = jnp.asarray(W, jnp.bfloat16) * 3
    store.save(1, {"model": {"w": jnp.asarray(W), "half": half}, "moments": {"w": jnp.ones(3)}, "step": jnp.int32(1)}, {})
    store.close()
    return store.path(1), verify(store.path(1))


def fresh(**dtypes):
    return {name: jnp.full((8, 6), -1.0, dtype) for name, dtype in dtypes.items()}


def test_weights_alone(saved):
    tree, taken = restore_part(*saved, fresh(w=jnp.float32, half=jnp.bfloat16), prefix="model.")
    assert np.asarray(tree["w"]).tobytes() == W.tobytes()
    assert taken.restored == ("model.half", "model.w") and taken.missing == taken.cast == ()
    assert taken.surplus == ("moments.w", "step")
    assert str(taken) == "2 arrays taken; surplus: moments.w, step"


def test_new_adapters_keep_their_values_over_a_base(saved, mesh):
    sharding = NamedSharding(mesh(data=2, model=2), PartitionSpec("data", "model"))
    tree = jax.device_put(fresh(w=jnp.float32), sharding) | {"adapter": {"a": jnp.full((8, 2), 7.0), "b": jnp.zeros((2, 6))}}
    adapted, taken = restore_part(*saved, tree, prefix="model.")
    assert np.asarray(adapted["w"]).tobytes() == W.tobytes() and adapted["w"].sharding == sharding
    assert adapted["adapter"]["a"] is tree["adapter"]["a"] and adapted["adapter"]["b"] is tree["adapter"]["b"]
    assert taken.missing == ("model.adapter.a", "model.adapter.b")
    assert taken.surplus == ("model.half", "moments.w", "step")
    assert "missing: model.adapter.a, model.adapter.b; surplus: model.half" in str(taken)


def test_another_dtype_is_converted_and_named(saved):
    tree, taken = restore_part(*saved, fresh(w=jnp.bfloat16, half=jnp.float32), prefix="model.")
    assert tree["w"].dtype == jnp.bfloat16 and tree["half"].dtype == jnp.float32
    assert np.asarray(tree["w"]).tobytes() == W.astype(ml_dtypes.bfloat16).tobytes(), "rounded to nearest"
    assert np.array_equal(np.asarray(tree["half"]), np.asarray(jnp.asarray(W, jnp.bfloat16) * 3).astype(np.float32)), "exact"
    assert taken.cast == ("model.half: bfloat16 -> float32", "model.w: float32 -> bfloat16")


def test_the_same_is_refused_where_it_was_not_asked_for(saved):
    described = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), fresh(w=jnp.bfloat16)
    )
    with pytest.raises(ValueError, match=r"model.half is not expected.*model.w is float32\[8, 6\], expected bfloat16\[8, 6\]"):
        restore(*saved, described, prefix="model.")


def test_other_shapes_and_strangers_are_refused(saved):
    with pytest.raises(ValueError, match=r"model.w is \[8, 6\], expected \[8, 7\]"):
        restore_part(*saved, {"w": jnp.zeros((8, 7)), "half": jnp.zeros((8, 6))}, prefix="model.")
    with pytest.raises(ValueError, match="no array named model"):
        restore_part(*saved, {"other": jnp.zeros(3)}, prefix="model.")
