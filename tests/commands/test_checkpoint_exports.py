"""Averages and exported weights are what float64 says, generate like a run, and are written whole or not at all."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax import commands
from llama3_jax.checkpoint.manifest import read_manifest
from llama3_jax.checkpoint.mean import average
from llama3_jax.checkpoint.restore import read_array
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.commands.main import main


@pytest.fixture(scope="module")
def run_directory(tiny, shared_programs):
    return tiny.directory


def parameters(directory, step, prefix="state.model."):
    path = directory / "checkpoints" / f"{step:08d}"
    names = [name for name in read_manifest(path).arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): read_array(path, name) for name in names}


def run(capsys, *arguments):
    code = main(["checkpoint", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_mean_of_any_checkpoints(run_directory, tmp_path, capsys):
    code, out, _ = run(capsys, "average", run_directory, "--steps", 25, 5, 15, "--out", tmp_path / "mean")
    assert code == 0 and f"written: {tmp_path / 'mean'}" in out
    found = parameters(tmp_path / "mean", 25)
    of_steps = [parameters(run_directory, step) for step in (5, 15, 25)]
    assert found.keys() == of_steps[0].keys()
    for name in found:
        expected = np.mean([each[name].astype(np.float64) for each in of_steps], axis=0)
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-7)
    meta = read_manifest(tmp_path / "mean/checkpoints/00000025").meta
    assert meta["made_from"]["steps"] == [5, 15, 25] and meta["averaged"] == 0


def test_an_exponential_average_weighs_the_later_more(run_directory, tmp_path, capsys):
    assert run(capsys, "average", run_directory, "--steps", 5, 10, 15, "--exponential", 0.75, "--out", tmp_path / "e")[0] == 0
    name = "blocks.attention.w_q"
    five, ten, fifteen = (parameters(run_directory, step)[name].astype(np.float64) for step in (5, 10, 15))
    expected = 0.75 * (0.75 * five + 0.25 * ten) + 0.25 * fifteen
    np.testing.assert_allclose(parameters(tmp_path / "e", 15)[name], expected, rtol=1e-6, atol=1e-7)


def test_bfloat16_is_averaged_in_float32(tmp_path):
    store, values = CheckpointStore(tmp_path, keep_last=9), np.random.default_rng(0).normal(size=(9, 50)).astype(np.float32)
    for step, value in enumerate(values):
        store.save(step, {"model": {"w": jnp.asarray(value, jnp.bfloat16)}}, {})
    store.close()
    checkpoints = [(store.path(step), read_manifest(store.path(step)), "model.") for step in range(9)]
    expected = np.mean(np.asarray(jnp.asarray(values, jnp.bfloat16), np.float64), axis=0)
    np.testing.assert_allclose(average(checkpoints)["w"], expected, rtol=1e-5, atol=1e-7)


def test_exported_weights_are_the_average_and_generate_the_same_text(run_directory, capsys):
    code, out, _ = run(capsys, "export-weights", run_directory)
    exported = run_directory / "exports" / "weights-00000028"
    assert code == 0 and str(exported) in out
    found, expected = parameters(exported, 28), parameters(run_directory, 28, "average.model.")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    prompt = ["the red king"]
    assert commands.generate(exported, prompt, max_new_tokens=8) == commands.generate(run_directory, prompt, max_new_tokens=8)
    assert run(capsys, "verify", exported)[0] == 0
    assert "anneal/anneal" in run(capsys, "ls", exported)[1]
    code, _, err = run(capsys, "export-weights", run_directory)
    assert code == 1 and "exists already" in err


def test_weights_of_a_step_before_anything_is_averaged_are_the_parameters(run_directory, tmp_path, capsys):
    assert run(capsys, "export-weights", run_directory, "--step", 10, "--out", tmp_path / "w")[0] == 0
    found, expected = parameters(tmp_path / "w", 10), parameters(run_directory, 10)
    assert all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["average", "--steps", 5, 6], "has no checkpoint of step 6; it has 5, 8, 10"),
        (["average", "--exponential", 1.5], "decay=1.5"),
        (["export-weights", "--step", 1], "has no checkpoint of step 1"),
        (["export-weights", "--steps", 5], "export-weights has no --steps"),
        (["ls", "--out", "x"], "ls has no --out"),
    ],
)
def test_what_cannot_be_done_is_said(run_directory, tmp_path, capsys, arguments, why):
    code, _, err = run(capsys, arguments[0], run_directory, *arguments[1:])
    assert code == 1 and why in err


def test_damaged_and_different_models_are_refused(run_directory, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run_directory / "checkpoints", copy / "checkpoints")
    shutil.copyfile(run_directory / "tokenizer.model", copy / "tokenizer.model")
    (copy / "checkpoints/00000010/manifest.json").write_text(json.dumps({"format_version": 1}))
    code, _, err = run(capsys, "average", copy, "--steps", 5, 10)
    assert code == 1 and "00000010" in err and not (copy / "exports").exists()
    store = CheckpointStore(copy / "checkpoints", keep_last=9)
    meta = read_manifest(store.path(5)).meta
    store.save(10, {"state": {"model": {"embedding": np.zeros((3, 4), np.float32)}}}, meta)
    store.close()
    code, _, err = run(capsys, "average", copy, "--steps", 5, 10)
    assert code == 1 and "different models" in err
    assert "embedding is (3, 4) in" in err and "blocks.attention.w_q is missing" in err
