"""Saving and restoring take little memory beside the arrays themselves, and training waits for a small part of a save."""

import json
import subprocess
import sys

import pytest

GIB = 2**30
SAVE_AND_RESTORE = """
import gc, json, sys, threading, time
from pathlib import Path
import jax
from llama3_jax.checkpoint.manifest import verify
from llama3_jax.checkpoint.restore import restore
from llama3_jax.checkpoint.store import CheckpointStore

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])

def watch():
    while True:
        peak[0] = max(peak[0], resident())
        time.sleep(0.005)

peak = [0]
threading.Thread(target=watch, daemon=True).start()
rows = int(sys.argv[2]) // 4 // 1024 // 8
tree = jax.block_until_ready({f"w{i}": jax.random.normal(jax.random.key(i), (rows, 1024)) for i in range(8)})
store, found = CheckpointStore(Path(sys.argv[1])), {}
before = peak[0] = resident()
began = time.perf_counter()
store.save(1, tree, {})
found["blocked_s"] = time.perf_counter() - began
store.wait()
found |= {"save_s": time.perf_counter() - began, "save": peak[0] - before}
like = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding) for name, leaf in tree.items()}
del tree
gc.collect()
before = peak[0] = resident()
back = jax.block_until_ready(restore(store.path(1), verify(store.path(1)), like))
found["restore"] = peak[0] - before
store.close()
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_gibibytes_are_saved_and_restored_in_bounded_memory(tmp_path):
    size = 2 * GIB
    command = [sys.executable, "-c", SAVE_AND_RESTORE, str(tmp_path / "checkpoints"), str(size)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=800).stdout)
    print(found)
    assert found["save"] < 1.1 * size, "at most one copy of the arrays"
    assert found["restore"] < 1.5 * size, "the arrays themselves, and some pieces on their way"
    assert found["blocked_s"] < 0.1 * found["save_s"]
