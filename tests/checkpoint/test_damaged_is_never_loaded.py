"""A checkpoint that is not as it was written is named, reported and passed over."""

import json
import shutil

import damage
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.checkpoint.manifest import NAME, DamagedCheckpoint, read_manifest, verify
from llama3_jax.checkpoint.store import CheckpointStore, restore


def tree(step: int) -> dict:
    return {"model": {"w": jnp.arange(600.0).reshape(20, 30) + step, "b": jnp.full((7,), step, jnp.int32)}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    store = CheckpointStore(directory)
    for step in (1, 2):
        store.save(step, tree(step), {"cursor": {"step": step}})
    store.close()
    return directory


@pytest.fixture
def store(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints")
    return CheckpointStore(tmp_path / "checkpoints")


def restored(found) -> dict:
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree(0))
    return restore(*found, like)


def test_a_sound_one_is_taken(store):
    path, manifest = store.latest(report=pytest.fail)
    assert (path.name, manifest.step, manifest.meta) == ("00000002", 2, {"cursor": {"step": 2}})
    assert manifest.arrays == {"model.w": ["float32", [20, 30]], "model.b": ["int32", [7]]}


@pytest.mark.parametrize("spoil", damage.ALL, ids=lambda spoil: spoil.__name__)
def test_damage_is_named_and_the_one_before_is_used(store, spoil):
    blamed, said = spoil(store.path(2)), []
    with pytest.raises(DamagedCheckpoint, match=blamed):
        verify(store.path(2))
    path, manifest = store.latest(report=said.append)
    assert (path.name, manifest.step) == ("00000001", 1)
    assert len(said) == 1 and "checkpoint 2 is damaged" in said[0] and blamed in said[0]
    assert np.array_equal(restored((path, manifest))["model"]["w"], tree(1)["model"]["w"])


def test_damage_of_any_file_is_seen(store):
    for path in damage.files(store.path(2)):
        data = path.read_bytes()
        for spoiled in (data[:-1], data + b"x", bytes([data[0] ^ 1]) + data[1:]):
            path.write_bytes(spoiled)
            with pytest.raises(DamagedCheckpoint, match=path.name):
                verify(store.path(2))
        path.write_bytes(data)
    verify(store.path(2))


def test_a_flipped_bit_of_the_manifest_is_seen(store):
    """Or changes nothing, such as a blank that becomes a line break."""
    path = store.path(2) / NAME
    data, sound = path.read_bytes(), verify(store.path(2))
    for place in range(len(data)):
        spoiled = bytearray(data)
        spoiled[place] ^= 1 << place % 8
        path.write_bytes(spoiled)
        try:
            assert verify(store.path(2)) == sound, (place, bytes(spoiled[place - 20 : place + 20]))
        except ValueError:
            pass


def test_nothing_is_used_when_all_are_damaged(store):
    said = []
    for step in (1, 2):
        damage.flip_bit(store.path(step))
    with pytest.raises(ValueError, match="sound"):
        store.latest(report=said.append)
    assert len(said) == 2


def test_a_newer_format_is_no_damage_and_stops_the_run(store):
    path = store.path(2) / NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(ValueError, match="format 99.*install") as refused:
        read_manifest(store.path(2))
    assert not isinstance(refused.value, DamagedCheckpoint)
    with pytest.raises(ValueError, match="format 99"):
        store.latest()


def test_what_a_killed_process_left_is_never_chosen_and_is_cleared(store):
    for name in ("00000003.partial", "00000004.deleting"):
        shutil.copytree(store.path(2), store.directory / name)
    (store.directory / "notes.txt").write_text("mine")
    assert store.steps() == [1, 2]
    assert store.latest(report=pytest.fail)[1].step == 2
    store.clear_leftovers()
    assert sorted(path.name for path in store.directory.iterdir()) == ["00000001", "00000002", "notes.txt"]


def test_an_empty_place_has_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path / "none")
    store.clear_leftovers()
    assert store.steps() == [] and store.latest() is None
