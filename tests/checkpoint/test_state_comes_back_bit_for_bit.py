"""A train state saved on one mesh is the same bits on another."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from layouts import LAYOUTS

from llama3_jax.checkpoint.manifest import verify
from llama3_jax.checkpoint.restore import restore
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.checkpoint.tree import flatten, unflatten
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.transformer import Transformer
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.average import Average
from llama3_jax.train.step import TrainState

CFG = ModelConfig(
    num_layers=2, model_dim=16, num_heads=8, num_kv_heads=8, head_dim=4, ffw_dim=32, vocab_size=64, context_length=32
)


def abstract(placed) -> dict:
    """A state and an average as shapes, dtypes and shardings."""

    def make():
        state = TrainState.create(Transformer(CFG, key=jax.random.key(0)), AdamW())
        return {"state": state, "average": Average.empty(state.model)}

    with jax.set_mesh(placed):
        shapes = jax.eval_shape(make)

    def place(leaf):
        partition = leaf.sharding.spec if leaf.sharding else PartitionSpec()
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(placed, partition))

    return jax.tree.map(place, shapes)


def randomize(like: dict) -> dict:
    """Random numbers everywhere, moments and counters included."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.device_put((100 * random.normal(size=leaf.shape)).astype(leaf.dtype), leaf.sharding), like
    )


def describe(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def assert_same_bits(one, two):
    one, two = flatten(one), flatten(two)
    assert one.keys() == two.keys()
    for name in one:
        assert one[name].dtype == two[name].dtype
        assert np.asarray(one[name]).tobytes() == np.asarray(two[name]).tobytes(), name


@pytest.fixture(scope="module")
def saved(tmp_path_factory, mesh):
    tree = randomize(abstract(mesh(data=2, model=2)))
    directory = tmp_path_factory.mktemp("checkpoints")
    store = CheckpointStore(directory)
    store.save(7, tree, {"cursor": {"step": 7, "positions": [3, 4]}})
    store.close()
    return store.path(7), tree


def test_same_mesh(saved):
    path, tree = saved
    manifest = verify(path)
    back = restore(path, manifest, describe(tree))
    assert_same_bits(tree, back)
    assert [leaf.sharding for leaf in jax.tree.leaves(back)] == [leaf.sharding for leaf in jax.tree.leaves(tree)]
    assert manifest.meta == {"cursor": {"step": 7, "positions": [3, 4]}}
    assert back["state"].model.cfg == CFG and type(back["state"]) is TrainState


@pytest.fixture(scope="module")
def saved_everywhere(tmp_path_factory, mesh):
    """Checkpoints of the same numbers written on every layout, and the numbers."""
    store = CheckpointStore(tmp_path_factory.mktemp("everywhere"), keep_last=len(LAYOUTS))
    for number, (data, sequence, model) in enumerate(LAYOUTS):
        tree = randomize(abstract(mesh(data=data, sequence=sequence, model=model)))
        store.save(number, tree, {})
    store.close()
    return [store.path(number) for number in range(len(LAYOUTS))], jax.tree.map(np.asarray, tree)


@pytest.mark.parametrize("data, sequence, model", [(1, 1, 1), *LAYOUTS])
def test_written_on_any_mesh(saved_everywhere, mesh, data, sequence, model):
    paths, tree = saved_everywhere
    like = abstract(mesh(data=data, sequence=sequence, model=model))
    for path in paths:
        back = restore(path, verify(path), like)
        assert_same_bits(tree, back)
        assert [leaf.sharding for leaf in jax.tree.leaves(back)] == [leaf.sharding for leaf in jax.tree.leaves(like)]


def test_names_say_where_a_leaf_stands(saved):
    names = verify(saved[0]).arrays
    assert {"state.step", "state.model.embedding", "state.model.blocks.attention.w_q", "average.count"} <= names.keys()
    assert names["state.model.blocks.attention.w_q"] == ["float32", [2, 16, 8, 4]]
    assert [name for name in names if "mu.blocks.attention.w_q" in name], "moments are named after their parameters"
    assert not [name for name in names if "value" in name or "[" in name]


def test_flat_names_are_unique_and_come_back(saved):
    _, tree = saved
    named = flatten(tree)
    assert len(named) == len(jax.tree.leaves(tree))
    assert_same_bits(tree, unflatten(describe(tree), named))


def test_every_leaf_that_does_not_fit_is_listed(saved):
    path, tree = saved
    like = {"state": describe(tree)["state"].model, "extra": jax.ShapeDtypeStruct((3,), jnp.float32)}
    with pytest.raises(ValueError) as refused:
        restore(path, verify(path), like)
    text = str(refused.value)
    assert "extra is missing" in text and "state.embedding is missing" in text
    assert "state.model.embedding is not expected" in text and "average.count is not expected" in text

    model = describe(tree)["state"].model
    model.embedding = jax.ShapeDtypeStruct((65, 16), jnp.float32)
    model.final_norm = jax.ShapeDtypeStruct((16,), jnp.bfloat16)
    with pytest.raises(ValueError) as refused:
        restore(path, verify(path), model, prefix="state.model.")
    text = str(refused.value)
    assert "state.model.embedding is float32[64, 16], expected float32[65, 16]" in text
    assert "state.model.final_norm is float32[16], expected bfloat16[16]" in text
    assert text.count(";") == 1


def test_a_prefix_takes_its_part(saved):
    path, tree = saved
    for prefix, part in (("state.model.", tree["state"].model), ("average.model.", tree["average"].model)):
        assert_same_bits(part, restore(path, verify(path), describe(part), prefix=prefix))


def test_a_prefix_does_not_read_the_rest(tmp_path):
    tree = {
        "model": {"w": jax.random.normal(jax.random.key(0), (1000,))},
        "moments": {"w": jax.random.normal(jax.random.key(1), (4_000_000,))},
    }
    store = CheckpointStore(tmp_path)
    store.save(1, tree, {})
    store.close()
    manifest = verify(store.path(1))
    before = bytes_read()
    back = restore(store.path(1), manifest, describe(tree["model"]), prefix="model.")
    taken = bytes_read() - before
    assert_same_bits(tree["model"], back)
    assert taken < 4_000_000, "of 16 MB of moments next to nothing"
    restore(store.path(1), manifest, describe(tree))
    assert bytes_read() - before - taken > 10_000_000, "the counter does see what is read"


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])
