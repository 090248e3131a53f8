"""Checkpoints at gs:// are what they are on a disk: the same bits, whole or not there, damage named, none lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.checkpoint import bucket
from llama3_jax.checkpoint.manifest import NAME, DamagedCheckpoint, verify
from llama3_jax.checkpoint.restore import read_array, restore
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.tokenizer.object_store import put, remove, sizes_below


@pytest.fixture
def url(lake, request):
    return f"{lake}/{request.node.name.replace('[', '/').rstrip(']')}"


@pytest.fixture
def store(url):
    store = CheckpointStore(url, keep_last=2)
    yield store
    store.close()


def tree(step: int) -> dict:
    return {"model": {"w": jnp.arange(600.0).reshape(20, 30) + step, "b": jnp.full((7,), step, jnp.bfloat16)}}


def save(store, *steps):
    for step in steps:
        store.save(step, tree(step), {"cursor": {"step": step}})
    store.wait()


def largest(checkpoint) -> str:
    sizes = sizes_below(checkpoint)
    return max(sizes.keys() - {NAME}, key=sizes.get)


def test_what_is_saved_comes_back_bit_for_bit_on_another_mesh(store, mesh):
    sharded = NamedSharding(mesh(data=2, model=2), PartitionSpec("data", "model"))
    saved = {"w": jax.device_put(jax.random.normal(jax.random.key(0), (64, 48)), sharded), "step": jnp.int32(7)}
    store.save(7, saved, {"cursor": {"rows": [1, 2]}})
    store.wait()
    path, manifest = store.latest(report=pytest.fail)
    assert str(path) == f"{store.directory}/00000007" and manifest.meta == {"cursor": {"rows": [1, 2]}}
    other = NamedSharding(mesh(data=4), PartitionSpec(None, "data"))
    like = {"w": jax.ShapeDtypeStruct((64, 48), jnp.float32, sharding=other), "step": saved["step"]}
    found = restore(path, manifest, like)
    assert found["w"].sharding == other and found["step"] == 7
    np.testing.assert_array_equal(np.asarray(found["w"]), np.asarray(saved["w"]))
    np.testing.assert_array_equal(read_array(path, "w"), np.asarray(saved["w"]))


def test_the_last_stay_and_a_step_may_be_saved_again(store):
    save(store, 1, 2, 3)
    assert store.steps() == [2, 3]
    store.save(3, tree(9), {})
    store.wait()
    assert store.steps() == [2, 3] and read_array(store.path(3), "model.w")[0, 0] == 9
    assert {name.split("/")[0] for name in sizes_below(store.directory)} == {"00000002", "00000003"}, "nothing else is left"
    assert not [name for name in sizes_below(store.path(3)) if name.startswith(".")], "nor a mark"


def truncate(checkpoint):
    path = checkpoint / largest(checkpoint)
    path.write_bytes(path.read_bytes()[:-1])
    return path.name


def flip_a_bit(checkpoint):
    path = checkpoint / largest(checkpoint)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    return path.name


def delete(checkpoint):
    name = largest(checkpoint)
    remove(checkpoint, [name])
    return name


def add(checkpoint):
    (checkpoint / "arrays" / "surprise").write_bytes(b"hello")
    return "surprise"


def lose_the_manifest(checkpoint):
    remove(checkpoint, [NAME])
    return NAME


def spoil_the_manifest(checkpoint):
    (checkpoint / NAME).write_text('{"format_version": 1, "surprise": 3}')
    return NAME


def take_the_manifest_of_the_one_before(checkpoint):
    (checkpoint / NAME).write_bytes((checkpoint.parent / "00000001" / NAME).read_bytes())
    return str(checkpoint)


@pytest.fixture(scope="module")
def saved(lake):
    """A store with the checkpoints 1 and 2, and the objects of the second."""
    store = CheckpointStore(f"{lake}/damaged")
    save(store, 1, 2)
    store.close()
    return store, {name: (store.path(2) / name).read_bytes() for name in sizes_below(store.path(2))}


@pytest.fixture
def pair(saved):
    """Mended after the test."""
    store, objects = saved
    yield store
    remove(store.path(2), sizes_below(store.path(2)).keys() - objects.keys())
    for name, data in objects.items():
        put(store.path(2) / name, data)
    assert store.latest(report=pytest.fail)[1].step == 2


@pytest.mark.parametrize(
    "spoil",
    [truncate, flip_a_bit, delete, add, lose_the_manifest, spoil_the_manifest, take_the_manifest_of_the_one_before],
    ids=lambda spoil: spoil.__name__,
)
def test_damage_is_named_and_the_one_before_is_used(pair, spoil):
    blamed, said = spoil(pair.path(2)), []
    with pytest.raises(DamagedCheckpoint, match=blamed):
        verify(pair.path(2))
    assert pair.latest(report=said.append)[1].step == 1
    assert len(said) == 1 and "checkpoint 2 is damaged" in said[0] and blamed in said[0]


@pytest.mark.parametrize("when", ["half written", "all but called whole"])
def test_a_save_that_was_killed_is_never_chosen_and_is_cleared(store, when, monkeypatch):
    save(store, 1)
    monkeypatch.setattr(bucket.Bucket, "commit", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    store.save(2, tree(2), {})
    with pytest.raises(OSError, match="killed here.*before it are untouched"):
        store.wait()
    if when == "half written":
        remove(store.path(2), [NAME, *sorted(sizes_below(store.path(2)).keys() - {".partial", NAME})[::2]])
    again = CheckpointStore(store.directory, keep_last=2)
    assert again.steps() == [1] and again.latest(report=pytest.fail)[1].step == 1
    again.clear_leftovers()
    assert {name.split("/")[0] for name in sizes_below(store.directory)} == {"00000001"}


@pytest.mark.parametrize("survivors", [1, 100])
def test_a_removal_that_was_killed_leaves_nothing_that_is_chosen(store, survivors, monkeypatch):
    save(store, 1, 2)

    def killed(url, names):
        if names := sorted(names)[survivors:]:
            remove(url, names)
        raise OSError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(bucket, "remove", lambda url, names: killed(url, names) if "00000001" in str(url) else remove(url, names))
        store.save(3, tree(3), {})
        with pytest.raises(OSError, match="killed here"):
            store.wait()
    again = CheckpointStore(store.directory, keep_last=2)
    assert again.steps() == [2, 3] and again.latest(report=pytest.fail)[1].step == 3
    again.clear_leftovers()
    assert {name.split("/")[0] for name in sizes_below(store.directory)} == {"00000002", "00000003"}


def test_a_store_that_does_not_answer_is_no_damage(pair, monkeypatch):
    """Else a run would go back, and write over what is whole."""
    victim = largest(pair.path(2)).rpartition("/")[2]
    opened = type(epath.Path("gs://lake/x")).open

    def refuse(path, *how, **more):
        if path.name == victim:
            raise ConnectionResetError("the network is gone")
        return opened(path, *how, **more)

    monkeypatch.setattr(type(epath.Path("gs://lake/x")), "open", refuse)
    with pytest.raises(OSError, match="cannot be read: the network is gone; run the same command again"):
        pair.latest(report=pytest.fail)
    monkeypatch.undo()


def test_an_empty_place_has_no_checkpoint(store):
    store.clear_leftovers()
    assert store.steps() == [] and store.latest() is None


@pytest.mark.parametrize("url", ["s3://lake/run", "az://lake/run"])
def test_a_store_that_orbax_does_not_write_to_is_refused(url):
    with pytest.raises(ValueError, match=f"cannot lie at {url}.*gs://"):
        CheckpointStore(url)
