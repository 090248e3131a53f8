"""A new run may begin with the parameters of another: weights alone, said aloud, or a clear refusal before training."""

import numpy as np
import pytest
from tiny_run import SHORT, write_run

from llama3_jax import commands
from llama3_jax.checkpoint.manifest import read_manifest
from llama3_jax.checkpoint.restore import read_array
from llama3_jax.commands.export import export_weights
from llama3_jax.train.journal import read_metrics


@pytest.fixture(scope="module")
def run_file(tmp_path_factory, shared_programs):
    return write_run(tmp_path_factory.mktemp("init_from"))


@pytest.fixture(scope="module")
def teacher(tiny):
    return tiny.directory


def first_step(directory):
    return next(record for record in read_metrics(directory / "metrics.jsonl") if record.get("step") == 1)


SCALED = "model.rope_scaling={factor: 4, original_context_length: 32}"
"""As in the last phase of the teacher's run."""


def begin(run_file, name, *overrides):
    return commands.train(run_file, [f"name={name}", *SHORT, SCALED, *overrides], runs=run_file.parent / "runs").directory


def test_a_run_begins_with_the_weights_of_another(run_file, teacher, tmp_path, capsys):
    vocabulary = f"data.tokenizer_path={teacher}/tokenizer.model"
    student = begin(run_file, "student", f"init_from={teacher}", vocabulary)
    said = capsys.readouterr().out
    newest = teacher / "checkpoints/00000028"
    assert f"parameters begin as those of {newest}: " in said and "surplus: " in said
    assert "state.moments" in said and "missing" not in said, "its optimizer state is not taken, and named"
    exported = begin(run_file, "exported", f"init_from={export_weights(teacher, out=tmp_path / 'exported')}", vocabulary)
    assert first_step(student)["loss"] == first_step(exported)["loss"] < first_step(teacher)["loss"] - 0.5
    one = begin(run_file, "one", f"init_from={teacher}/checkpoints/00000025", vocabulary)
    assert first_step(one)["loss"] != first_step(student)["loss"]
    capsys.readouterr()
    begin(run_file, "student", f"init_from={teacher}", vocabulary)
    assert "parameters begin" not in capsys.readouterr().out, "a run that goes on has its own"


def test_nothing_but_the_weights_is_taken(run_file, teacher):
    quiet = [f"init_from={teacher}", f"data.tokenizer_path={teacher}/tokenizer.model", "optimizer.weight_decay=0"]
    student = begin(run_file, "still", *quiet, "phases.0.learning_rate.peak=0", "phases.0.learning_rate.final=0")
    path = student / "checkpoints" / "00000002"
    names = read_manifest(path).arrays
    assert read_array(path, "state.step") == 2
    for name in names:
        if name.startswith("state.model."):
            expected = read_array(teacher / "checkpoints/00000028", name.replace("state.model.", "average.model."))
            np.testing.assert_array_equal(read_array(path, name), expected)


@pytest.mark.parametrize(
    "override, why",
    [
        ("init_from=nowhere", "init_from=nowhere is no checkpoint, and has none"),
        ("model.ffw_dim=48", r"w_gate is \[2, 32, 64\], expected \[2, 32, 48\]"),
        ("model.num_layers=3", r"w_gate is \[2, 32, 64\], expected \[3, 32, 64\]"),
        ("model.rope_scaling=null", r"trained otherwise than this run would use it.*\n  rope_scaling: {factor: 4"),
        ("model.rope_theta=10000", r"trained otherwise.*\n  rope_theta: 500000.0 -> 10000"),
        ("data.tokenizer_path=null", "another tokenizer than this run's.*data.tokenizer_path="),
    ],
)
def test_what_does_not_fit_is_refused_before_training(run_file, teacher, override, why):
    name = override.partition("=")[0].replace(".", "_")
    more = ["data.max_bytes_per_source=9000"] if "tokenizer" in override else []
    with pytest.raises((ValueError, FileNotFoundError), match=why):
        begin(run_file, name, f"init_from={teacher}", f"data.tokenizer_path={teacher}/tokenizer.model", override, *more)
    assert not (run_file.parent / "runs" / name / "checkpoints").exists()
