"""A checkpoint that is not as it was written is named, reported and passed over."""

import errno
import shutil
from pathlib import Path
from random import Random

import damage
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.checkpoint.manifest import NAME, DamagedCheckpoint, read_manifest, verify
from llama3_jax.checkpoint.restore import restore
from llama3_jax.checkpoint.store import CheckpointStore


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


@pytest.mark.parametrize("number", range(100))
def test_a_hundred_random_damages(store, number):
    random = Random(number)
    spoil = damage.RANDOM[number % len(damage.RANDOM)]
    blamed, said = spoil(random, store.path(2)), []
    found = store.latest(report=said.append)
    assert found[1].step == 1 and len(said) == 1, spoil
    assert "checkpoint 2 is damaged" in said[0] and blamed in said[0]
    assert np.array_equal(restored(found)["model"]["w"], tree(1)["model"]["w"])


def test_directories_that_changed_places_are_seen(store):
    one, two, aside = store.path(1), store.path(2), store.directory / "aside"
    for source, target in ((one, aside), (two, one), (aside, two)):
        source.rename(target)
    with pytest.raises(ValueError, match="holds the checkpoint of step 1: directories were renamed or exchanged"):
        store.latest(report=lambda line: None)


def test_a_file_that_cannot_be_read_is_damage(store, monkeypatch):
    victim = damage.files(store.path(2))[0]
    opened = Path.open

    def refuse(path, *how, **more):
        if path == victim:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *how, **more)

    monkeypatch.setattr(Path, "open", refuse)  # tests may run as a user whom no permission stops
    said = []
    assert store.latest(report=said.append)[1].step == 1
    assert f"{victim} cannot be read (Permission denied)" in said[0]


def test_a_checkpoint_of_another_owner_is_named_and_passed_over(store):
    said = []

    def foreign(manifest):
        return "" if manifest.step == 1 else "the tokenizer"

    assert store.latest(report=said.append, foreign=foreign)[1].step == 1
    assert said == ["checkpoint 2 is of another run, not used and replaced when its step is saved: the tokenizer"]
    with pytest.raises(ValueError, match="checkpoint 1 is of another run.*the data"):
        store.latest(report=said.append, foreign=lambda manifest: "the data")


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
    with pytest.raises(
        ValueError, match="no checkpoint below .* can be used.*\n.*checkpoint 2 is damaged.*\n.*checkpoint 1 is damaged"
    ):
        store.latest(report=said.append)
    assert len(said) == 2


def test_a_newer_format_is_no_damage_and_stops_the_run(store):
    damage.claim_version(store.path(2), 99)
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
