"""A checkpoint that several processes wrote together holds the same bits for any other number of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llama3_jax.checkpoint.manifest import verify
from llama3_jax.checkpoint.restore import read_array
from llama3_jax.checkpoint.store import CheckpointStore

DEVICES = 8
SHAPES = {"split_both_ways": (16, 8), "split_once": (24,), "whole": (3, 5), "count": ()}

MOVE = """
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.checkpoint.manifest import read_manifest
from llama3_jax.checkpoint.restore import restore
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.sharding.axes import make_mesh
from llama3_jax.sharding.mesh_config import MeshConfig

coordinator, processes, index, before, after, data = sys.argv[1:]
if int(processes) > 1:
    jax.distributed.initialize(coordinator, int(processes), int(index), cluster_detection_method="deactivate")
mesh = make_mesh(MeshConfig(data=int(data), model=8 // int(data)))
parts = {"split_both_ways": ("data", "model"), "split_once": (("data", "model"),), "whole": (), "count": ()}
store, step = CheckpointStore(Path(before)), 7
like = {
    name: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=NamedSharding(mesh, PartitionSpec(*parts[name])))
    for name, (dtype, shape) in read_manifest(store.path(step)).arrays.items()
}
arrays = restore(store.path(step), read_manifest(store.path(step)), like)
store = CheckpointStore(Path(after))
store.save(step, arrays, {})
store.close()
assert store.path(step).is_dir()  # it is complete when any process says so
"""


def move(processes: int, before: Path, after: Path, data: int) -> None:
    """Restores in `processes` processes on a mesh of `data` x 8/data devices, and saves there."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(DEVICES // processes)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MOVE, coordinator, str(processes), str(index), str(before), str(after), str(data)],
            env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )
        for index in range(processes)
    ]  # fmt: skip
    try:
        for process in started:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
def test_the_bits_stay(tmp_path):
    chance = np.random.default_rng(0)
    made = {name: chance.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    store = CheckpointStore(tmp_path / "made")
    store.save(7, made, {})
    store.close()
    before = store.directory
    for processes, data in ((2, 4), (4, 1), (8, 2), (1, 8)):
        after = tmp_path / f"by_{processes}"
        move(processes, before, after, data)
        saved = CheckpointStore(after).path(7)
        assert verify(saved).arrays == {name: ["float32", list(shape)] for name, shape in SHAPES.items()}
        for name, array in made.items():
            assert read_array(saved, name).tobytes() == array.tobytes(), (processes, name)
        before = after
