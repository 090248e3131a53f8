"""`attention=cudnn` is causal over whole rows: it is refused, before training, wherever a row is not one document."""

from types import SimpleNamespace

import numpy as np
import pytest
from numbered_documents import make_source
from tiny_run import write_run

from llama3_jax.batches.packing import Packing
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.timeline import timeline
from llama3_jax.commands.bench_run import BenchRun
from llama3_jax.commands.main import main
from llama3_jax.commands.one_document import require_one_document_a_row
from llama3_jax.config.errors import ConfigError
from llama3_jax.config.load import load
from llama3_jax.kernels.attention import cudnn
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.device import Device

LENGTH = 64


@pytest.fixture
def run_file(tmp_path):
    return write_run(tmp_path)


def planned(lengths, packing, attention=Implementation.CUDNN):
    """A run over documents of these lengths, and its recipe."""
    stage = Stage(name="only", tokens=16 * LENGTH, sequence_length=LENGTH, tokens_per_step=2 * LENGTH)
    spans = timeline([[stage]], {"tales": make_source(lengths, packing=packing)})
    return SimpleNamespace(attention=attention, packing=packing), SimpleNamespace(spans=spans)


@pytest.mark.parametrize("lengths, packing", [([64, 70, 200, 65] * 8, Packing.CROP), ([64] * 32, Packing.BEST_FIT)])
def test_rows_of_one_document_are_taken(lengths, packing):
    run, recipe = planned(lengths, packing)
    require_one_document_a_row(run, recipe)
    (stretch,) = recipe.spans[0].stretches.values()
    assert all(len(stretch[row]) in (1, 2) and stretch[row][0].size >= LENGTH for row in range(16)), "and they are that"


@pytest.mark.parametrize(
    "lengths, packing, told",
    [
        ([64, 20, 200, 65] * 8, Packing.CROP, "0 positions of padding"),
        ([60] * 64, Packing.BEST_FIT, "padding"),
        ([96, 32] * 32, Packing.BEST_FIT, "packing=best_fit"),
        ([64] * 32, Packing.CONCATENATE, "packing=concatenate"),
    ],
)
def test_other_rows_are_refused(lengths, packing, told):
    refused = "attends across the documents of a row, and stage only takes 16 rows of 64 positions from source tales"
    with pytest.raises(ValueError, match=refused) as said:
        require_one_document_a_row(*planned(lengths, packing))
    assert told in str(said.value) and "use attention=auto" in str(said.value)
    require_one_document_a_row(*planned(lengths, packing, Implementation.AUTO))


def test_a_run_is_refused_before_training(run_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llama3_jax.commands.pretrain.device_of", lambda mesh: Device("gpu", "NVIDIA H100 80GB HBM3", 1))
    told = ["model.head_dim=8", "precision=bfloat16", "attention=cudnn"]
    assert main(["train", str(run_file), "--runs", str(tmp_path / "runs"), *told]) == 1
    assert "attention=cudnn attends across the documents of a row, and stage short takes" in capsys.readouterr().err


def test_on_a_machine_without_one(run_file, tmp_path, capsys):
    assert main(["train", str(run_file), "--runs", str(tmp_path / "runs"), "attention=cudnn"]) == 1
    assert "attention=cudnn runs on NVIDIA GPUs, the devices here are cpu; use attention=auto or xla" in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["documents_per_row=2"], "would attend across the documents_per_row=2 of a row"),
        (["documents_per_row=1", "mesh.sequence=2"], "mesh.sequence=2 gives each device pieces of them"),
    ],
)
def test_the_bench_refuses_them_too(overrides, told):
    with pytest.raises(ConfigError, match=told):
        load(BenchRun, "bench_packed", ["attention=cudnn", *overrides])


def test_queries_of_other_rows_are_refused():
    q, k = np.zeros((1, 8, 2, 64), np.float16), np.zeros((1, 16, 2, 64), np.float16)
    with pytest.raises(ValueError, match="8 queries for 16 keys; use attention=auto"):
        cudnn.attention(q, k, k)
