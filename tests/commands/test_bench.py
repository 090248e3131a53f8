"""`llama3 bench train` prints what it promises, from a file, overrides or a notebook."""

import re
from dataclasses import replace

import pytest

from llama3_jax import commands
from llama3_jax.bench import torch
from llama3_jax.commands import bench
from llama3_jax.commands.bench_run import BenchRun
from llama3_jax.commands.main import main
from llama3_jax.config.load import load
from llama3_jax.model.remat import Remat
from llama3_jax.train import machine

TINY = [
    "model.num_layers=2", "model.model_dim=32", "model.num_heads=4", "model.num_kv_heads=2", "model.head_dim=8",
    "model.ffw_dim=48", "model.vocab_size=128", "sequence_length=64", "rounds=2", "num_rows=2", "yardsticks=[bare]",
]  # fmt: skip


@pytest.fixture(scope="module")
def result():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "CPU_SIZE", 64)
        return commands.bench_train("bench_packed", [*TINY, "mesh.data=2", "mesh.model=2"])


@pytest.mark.slow
def test_the_result(result):
    assert [each.name for each in result.comparison.timings] == ["llama3_jax", "bare jax step"]
    assert result.tokens_per_step == 128
    assert 0 < result.memory["full"][0] <= result.memory["none"][0] and result.memory.keys() == {each.value for each in Remat}
    assert result.collectives[True, "all-gather", ("data",)] == 14


@pytest.mark.slow
def test_the_report(result, capsys, monkeypatch):
    monkeypatch.setattr(bench, "run_bench", lambda run: result)
    assert main(["bench", "train", "bench_packed", *TINY, "mesh.data=2", "mesh.model=2"]) == 0
    report = capsys.readouterr().out
    for name in ("llama3_jax", "bare jax step"):
        row = re.search(rf"^{name} +([\d,]+) +([\d.]+)% +([\d.]+)x +([\d,]+) +([\d.]+) s +([\d,]+) MiB +[45]\.\d+$", report, re.M)
        assert row and float(row[2]) > 0, report
    assert re.search(r"^llama3_jax .* 1\.00x", report, re.M)
    assert re.search(r"matmul peak: \d+ GFLOP/s", report)
    for remat in Remat:
        assert re.search(rf"^  {remat.value} +\d+ MiB", report, re.M)
    assert re.search(r"in a loop +all-gather +data +14$", report, re.M)


@pytest.mark.slow
@pytest.mark.parametrize("axes, why", [({}, "not installed"), ({"data": 2}, "one device only")])
def test_a_yardstick_that_is_left_out_is_named(axes, why, result, capsys, monkeypatch):
    monkeypatch.setattr(torch, "installed", lambda: False)
    monkeypatch.setattr(bench, "run_bench", lambda run: replace(result, run=run))
    asked = [f"mesh.{axis}={size}" for axis, size in axes.items()]
    assert main(["bench", "train", "bench_packed", *TINY[:-1], *asked]) == 0
    (line,) = re.findall(r"^transformers \+ torch: .*$", capsys.readouterr().out, re.M)
    assert why in line


@pytest.mark.parametrize("name", ["bench_dense", "bench_packed", "bench_1b", "bench_8b"])
def test_shipped_files_are_sound(name, capsys):
    assert main(["bench", "train", name, "--print-config"]) == 0
    assert f"configs/{name}.yaml" in capsys.readouterr().out
    run = load(BenchRun, name).value
    assert (run.model.num_layers, run.model.model_dim) == {
        "bench_dense": (8, 512), "bench_packed": (4, 256), "bench_1b": (16, 2048), "bench_8b": (4, 4096)
    }[name]  # fmt: skip


def test_overrides_alone_change_the_default_file(capsys):
    assert main(["bench", "train", "rounds=3", "num_rows=8", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"rounds: 3 +# command line", shown) and re.search(r"num_layers: 8 +# configs/bench_dense.yaml", shown)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["rounds=0"], ["rounds=0", "1 or more"]),
        (["documents_per_row=400"], ["documents_per_row=400", "256"]),
        (["mesh.data=3"], ["num_rows=4", "mesh.data=3"]),
        (["mesh.model=8"], ["mesh.model=8", "num_kv_heads=4"]),
        (["sequence_length=1024"], ["sequence_length=1024", "512"]),
        (["yardsticks=[tensorflow]"], ["tensorflow", "torch"]),
        (["bench_dens"], ["bench_dense"]),
        (["quickstart"], ["num_rows"]),
    ],
)
def test_what_is_wrong_is_named(arguments, words, capsys):
    assert main(["bench", "train", *arguments]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said
