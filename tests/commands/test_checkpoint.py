"""`llama3 checkpoint` says what is there, and finds what is not as it was written."""

import json

import numpy as np
import pytest

from llama3_jax.checkpoint.manifest import hash_of_fields
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.commands.main import main


@pytest.fixture
def run_directory(tmp_path):
    """Three checkpoints of one run, the last of another config."""
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=3)
    for step, width in ((10, 1), (200, 1), (3000, 2)):
        meta = {
            "run": {"phases": [{"name": "initial"}, {"name": "anneal"}], "width": width},
            "cursor": {"phase": int(step > 100), "stage": "short", "step": step, "tokens": 64 * step, "positions": [step]},
            "averaged": 4 if step > 100 else 0,
        }
        store.save(step, {"w": np.arange(1000.0, dtype=np.float32) + step}, meta)
    store.close()
    return tmp_path


def run(capsys, *arguments):
    code = main(["checkpoint", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_ls(run_directory, capsys):
    (run_directory / "checkpoints" / "00004000.partial").mkdir()
    code, out, _ = run(capsys, "ls", run_directory)
    header, first, second, third, leftover = out.splitlines()
    assert code == 0 and header.split() == ["step", "tokens", "size", "averaged", "config", "phase/stage"]
    assert first.split()[:2] == ["10", "640"] and first.endswith("initial/short")
    assert third.split()[:2] == ["3,000", "192,000"] and third.endswith("anneal/short") and third.split()[4] == "4"
    hashes = [line.split()[5] for line in (first, second, third)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert leftover.startswith("00004000.partial: being written")


def test_verify(run_directory, capsys):
    code, out, _ = run(capsys, "verify", run_directory)
    assert code == 0 and out.count("sound") == 3
    files = (path for path in (run_directory / "checkpoints/00000200/arrays").rglob("*") if path.is_file())
    victim = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    code, out, _ = run(capsys, "verify", run_directory)
    assert code == 1 and out.count("sound") == 2
    (line,) = [line for line in out.splitlines() if "DAMAGED" in line]
    assert line.startswith("step 200") and str(victim) in line and "changed" in line


def test_what_cannot_be_read_is_listed_with_the_reason(run_directory, capsys):
    manifest = run_directory / "checkpoints/00000010/manifest.json"
    fields = json.loads(manifest.read_text())
    fields["format_version"] = 99
    fields.pop("sha256")
    manifest.write_text(json.dumps(fields | {"sha256": hash_of_fields(fields)}))
    (run_directory / "checkpoints/00000200/manifest.json").write_text("{")
    code, out, _ = run(capsys, "ls", run_directory)
    assert code == 0 and "format 99" in out and "cannot be read" in out and "anneal/short" in out
    code, out, _ = run(capsys, "verify", run_directory)
    assert code == 1 and out.count("DAMAGED") == 1 and out.count("NOT READABLE") == 1 and out.count("sound") == 1


def test_what_is_no_run_directory(tmp_path, capsys):
    code, out, err = run(capsys, "ls", tmp_path)
    assert code == 1 and not out and "no complete checkpoint; give the run directory" in err
    (tmp_path / "checkpoints").mkdir()
    code, out, err = run(capsys, "verify", tmp_path)
    assert code == 1 and not out and "no complete checkpoint" in err
