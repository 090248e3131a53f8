"""A save never harms what is there: not the state in training, not the checkpoints before it."""

import errno
import shutil
import subprocess
import sys
from collections import namedtuple

import damage
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.checkpoint import store as store_module
from llama3_jax.checkpoint.restore import restore
from llama3_jax.checkpoint.settings import Saving
from llama3_jax.checkpoint.store import CheckpointStore


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2)
    yield store
    store.close()


def tree(step: int) -> dict:
    return {"w": jnp.full((50,), float(step))}


def save(store, *steps):
    for step in steps:
        store.save(step, tree(step), {})
    store.wait()


def value(store, step):
    path, manifest = store.path(step), store_module.verify(store.path(step))
    sharding = tree(0)["w"].sharding
    return float(restore(path, manifest, {"w": jax.ShapeDtypeStruct((50,), jnp.float32, sharding=sharding)})["w"][0])


def test_overwriting_the_state_right_after_save_does_not_reach_the_disk(tmp_path, mesh):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0 - 7, state), donate_argnums=0)
    sharding = NamedSharding(mesh(data=2, model=2), PartitionSpec("data", "model"))
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=5)
    expected, state = {}, None
    for step in range(5):
        state = {
            name: jax.device_put(jax.random.normal(jax.random.key(2 * step + n), (1000, 500)), sharding)
            for n, name in enumerate(("w", "moment"))
        }
        expected[step] = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
        store.save(step, state, {})
        for _ in range(3):
            state = overwrite(state)
    store.close()
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    for step in range(5):
        found = restore(store.path(step), store_module.verify(store.path(step)), like)
        for name in like:
            np.testing.assert_array_equal(np.asarray(found[name]), expected[step][name])


def test_the_last_and_every_so_many_are_kept(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2, keep_every=30)
    save(store, *range(10, 80, 10))
    assert store.steps() == [30, 60, 70]
    store.close()


def test_keeping_one_keeps_the_newest(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=1)
    for step in (1, 2, 3):
        save(store, step)
        assert store.steps() == [step] and value(store, step) == step
    store.close()


def test_a_damaged_later_one_does_not_push_out_what_is_saved(tmp_path):
    """After damage to 60 a run goes on from 40 and may stop, and save, before it is at 60 again."""
    store = CheckpointStore(tmp_path, keep_last=1, keep_every=20)
    save(store, 40, 60)
    (store.path(60) / "manifest.json").unlink()
    assert store.latest(report=lambda text: None)[1].step == 40
    save(store, 50)
    assert store.latest(report=lambda text: None)[1].step == 50
    save(store, 60)
    assert store.latest(report=pytest.fail)[1].step == 60 and value(store, 60) == 60
    store.close()


def test_a_damaged_one_does_not_count_among_those_that_stay(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=2)
    save(store, 10, 20, 30)
    damage.delete(store.path(30))
    save(store, 40)
    assert store.steps() == [20, 30, 40], "30 is of no use, so 20 stays"
    save(store, 50)
    assert store.steps() == [40, 50]
    store.close()


def test_a_deletion_that_is_interrupted_leaves_nothing_that_is_chosen(store, monkeypatch):
    save(store, 1, 2)
    removed = []

    def killed(path, **how):
        if path.name.endswith(".deleting"):
            next(iter(damage.files(path))).unlink()
            removed.append(path.name)
            raise OSError(errno.EIO, "killed here")

    monkeypatch.setattr(shutil, "rmtree", killed)
    store.save(3, tree(3), {})
    with pytest.raises(OSError):
        store.wait()
    monkeypatch.undo()
    assert removed == ["00000001.deleting"]
    assert store.steps() == [2, 3] and store.latest(report=pytest.fail)[1].step == 3
    store.clear_leftovers()
    assert sorted(path.name for path in store.directory.iterdir()) == ["00000002", "00000003"]


def test_a_step_that_is_saved_again_is_never_half_there(store, monkeypatch):
    save(store, 1, 2)

    def killed(path, **how):
        if path.name.endswith(".deleting"):
            next(iter(damage.files(path))).unlink()
            raise OSError(errno.EIO, "killed here")

    monkeypatch.setattr(shutil, "rmtree", killed)
    store.save(2, tree(9), {})
    with pytest.raises(OSError, match="killed here"):
        store.wait()
    monkeypatch.undo()
    assert store.steps() == [1, 2] and store.latest(report=pytest.fail)[1].step == 2 and value(store, 2) == 9


FILL = """
import sys
from pathlib import Path
import jax.numpy as jnp
from llama3_jax.checkpoint.store import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), keep_last=2)
store.save(1, {"w": jnp.arange(50_000.0)}, {})
store.wait()
rest = Path(sys.argv[1]).parent / "rest"
store.save(2, {"w": jnp.arange(50_000.0)}, {})  # there is room for it now, and while it is written something else takes it
with rest.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
try:
    store.wait()
    store.save(3, {"w": jnp.arange(50_000.0)}, {})
    print("saved on a full disk")
except OSError as error:
    print(error)
rest.unlink()
print(store.steps(), store.latest(report=print)[1].step)
"""


def test_a_file_system_that_is_full_keeps_what_was_saved(tmp_path):
    """A real one, of half a megabyte."""
    mount = f"mount -t tmpfs -o size=600k none {tmp_path}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("a file system of a process's own is not allowed here")
    inside = ["sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", FILL, f"{tmp_path}/checkpoints"]
    done = subprocess.run(["unshare", "-Urm", *inside], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    refusal, found = done.stdout.strip().splitlines()[-2:]
    assert "free" in refusal and ("untouched" in refusal or "nothing saved so far is lost" in refusal), done
    assert found in ("[1] 1", "[1, 2] 2")


def test_a_step_saved_again_is_replaced(store):
    save(store, 1)
    store.save(1, tree(9), {})
    store.wait()
    assert store.steps() == [1] and value(store, 1) == 9


def test_a_full_disk_is_said_before_anything_is_written(store, monkeypatch):
    save(store, 1)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 1000 - 210, 210))
    with pytest.raises(OSError, match="needs 220 bytes.*210 free"):
        store.save(2, tree(2), {})
    monkeypatch.undo()
    assert [path.name for path in store.directory.iterdir()] == ["00000001"] and value(store, 1) == 1
    save(store, 2)
    assert store.steps() == [1, 2]


@pytest.mark.parametrize("asked", ["wait", "save", "close"])
def test_a_disk_that_fills_up_while_writing_is_told_to_whoever_comes_next(store, monkeypatch, asked):
    save(store, 1)

    def full(directory):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "hash_files", full)
    store.save(2, tree(2), {})
    ask = {"wait": store.wait, "close": store.close, "save": lambda: store.save(3, tree(3), {})}[asked]
    with pytest.raises(OSError, match="No space left.*before it are untouched"):
        ask()
    monkeypatch.undo()
    assert store.steps() == [1] and store.latest(report=pytest.fail)[1].step == 1 and value(store, 1) == 1
    save(store, 4)
    assert store.steps() == [1, 4]
    store.clear_leftovers()
    assert sorted(path.name for path in store.directory.iterdir()) == ["00000001", "00000004"]


def test_a_checkpoint_has_its_name_only_when_it_is_whole(store, monkeypatch):
    seen = []
    hash_files = store_module.hash_files
    monkeypatch.setattr(store_module, "hash_files", lambda path: seen.append((path.name, store.steps())) or hash_files(path))
    save(store, 1, 2)
    assert seen == [("00000001.partial", []), ("00000002.partial", [1])]


@pytest.mark.parametrize("wrong", [{"every_steps": 0}, {"keep_last": 0}, {"keep_every": 0}])
def test_retention_refuses_to_keep_nothing(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Saving(**{"every_steps": 10, **wrong})
