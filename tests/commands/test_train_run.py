"""The main job, whole and small: what a run leaves, and that it can be continued, repeated and generated from."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import STEPS, write_run

from llama3_jax import commands
from llama3_jax.checkpoint.manifest import verify
from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.train.journal import read_metrics
from llama3_jax.train.preemption import EXIT_INTERRUPTED

COMPUTED = ("loss", "grad_norm", "tokens", "learning_rate", "supervised_tokens", "phase", "stage")


def steps_of(directory: Path) -> dict[int, tuple]:
    """What each step computed, bit for bit."""
    records = [record for record in read_metrics(directory / "metrics.jsonl") if "loss" in record]
    assert len({record["step"] for record in records}) == len(records)
    return {record["step"]: tuple(record[name] for name in COMPUTED) for record in records}


def evaluations_of(directory: Path) -> dict[int, dict]:
    """What was said of held-out text, bit for bit."""
    records = [record for record in read_metrics(directory / "metrics.jsonl") if "eval_loss" in record]
    assert len({record["step"] for record in records}) == len(records)
    return {record["step"]: record for record in records}


def command(run_file: Path, runs: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "llama3_jax", "train", str(run_file), "--runs", str(runs), *more]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory for the runs of this file, which share compiled programs, those in other processes too."""
    import jax

    place = tmp_path_factory.mktemp("main_job")
    cache = {"jax_compilation_cache_dir": str(place / "programs"), "jax_persistent_cache_min_compile_time_secs": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cache.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield place
    jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="module")
def run_file(place):
    return write_run(place)


@pytest.fixture(scope="module")
def finished(run_file, place):
    """The unbroken run."""
    return commands.train(run_file, runs=place / "runs")


@pytest.mark.smoke
def test_a_run_leaves_what_the_design_promises(finished):
    directory = finished.directory
    for name in ("config.yaml", "metrics.jsonl", "log.txt", "tokenizer.model", "data/corpus.json", "plots/summary.png"):
        assert (directory / name).stat().st_size > 0, name
    assert list((directory / "tensorboard").iterdir()) and list((directory / "samples").iterdir())
    steps = steps_of(directory)
    assert sorted(steps) == list(range(1, STEPS + 1))
    assert {step[5] for step in steps.values()} == {"initial", "long_context", "anneal"}
    assert steps[STEPS][3] == 0, "annealing ends at a learning rate of zero"
    assert steps[STEPS][0] < steps[1][0], "it learns"
    assert finished.scores["eval_loss"] < math.log(576)
    assert finished.scores["bits_per_byte"] > 0
    assert set(finished.samples) == {"tales", "lists"}


def test_the_ramp_grows_batch_and_sequence(finished):
    shapes = {
        record["stage"]: (record["batch_tokens"], record["sequence_length"])
        for record in read_metrics(finished.directory / "metrics.jsonl")
        if "loss" in record
    }
    assert shapes == {"short": (64, 16), "wide": (128, 32), "to_64": (128, 64), "anneal": (128, 64)}


def test_a_finished_run_says_so_and_changes_nothing(finished, run_file, place, capsys):
    before = (finished.directory / "metrics.jsonl").read_bytes()
    again = commands.train(run_file, runs=place / "runs")
    assert "complete" in capsys.readouterr().out
    assert again.scores == finished.scores and again.samples == finished.samples
    assert (finished.directory / "metrics.jsonl").read_bytes() == before


def test_the_same_seed_gives_the_same_bits(finished, run_file, place):
    again = commands.train(run_file, ["name=again"], runs=place / "runs")
    assert steps_of(again.directory) == steps_of(finished.directory)


def test_generation_repeats_with_its_seed_and_stays_text(finished):
    prompts = ["the red king", "- the\n- "]
    texts = commands.generate(finished.directory, prompts, max_new_tokens=12, seed=3)
    assert texts == commands.generate(finished.directory, prompts, max_new_tokens=12, seed=3)
    assert texts[0] == commands.generate(finished.directory, prompts[:1], max_new_tokens=12, seed=3)[0]


def test_a_prompt_longer_than_the_context_is_refused(finished):
    with pytest.raises(ValueError, match="context"):
        commands.generate(finished.directory, ["king " * 500], max_new_tokens=4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_continues_bit_for_bit(finished, run_file, place, number):
    name = f"name=told_{number.name}"
    often = "held_out.every_steps=1"
    process = subprocess.Popen(command(run_file, place / "runs", name, often), stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("initial/wide: compiled"):
            process.send_signal(number)
            break
    process.stdout.read()
    assert process.wait(timeout=60) == EXIT_INTERRUPTED
    directory = place / "runs" / name.removeprefix("name=")
    saved = CheckpointStore(directory / "checkpoints").steps()
    assert saved and saved[-1] < STEPS
    commands.train(run_file, [name, often], runs=place / "runs")
    assert steps_of(directory) == steps_of(finished.directory)
    evaluated = evaluations_of(directory)
    assert sorted(evaluated) == list(range(1, STEPS + 1)), "the step it was stopped at is evaluated too"
    assert evaluations_of(finished.directory).items() <= evaluated.items()


@pytest.mark.parametrize("moment", ["step 7/", "writing"])
def test_a_killed_run_continues_bit_for_bit(finished, run_file, place, moment):
    """SIGKILL in the middle of training, and while a checkpoint is being written."""
    name = f"killed_{moment.split()[0]}"
    directory = place / "runs" / name
    process = subprocess.Popen(command(run_file, place / "runs", f"name={name}"), stdout=subprocess.PIPE, text=True)
    if moment == "writing":
        deadline = time.monotonic() + 120
        while not list(directory.glob("checkpoints/*.partial")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
    else:
        wait_for_step(directory, 7, process)
    process.kill()
    process.wait()
    commands.train(run_file, [f"name={name}"], runs=place / "runs")
    assert steps_of(directory) == steps_of(finished.directory)
    assert evaluations_of(directory) == evaluations_of(finished.directory)
    assert not list(directory.glob("checkpoints/*.partial"))
    for step in (store := CheckpointStore(directory / "checkpoints")).steps():
        verify(store.path(step))


def wait_for_step(directory: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        path = directory / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.005)


def test_the_run_is_the_same_on_a_mesh(finished, run_file, place):
    overrides = ["name=meshed", "mesh.data=2", "mesh.sequence=2", "mesh.model=2"]
    meshed = steps_of(commands.train(run_file, overrides, runs=place / "runs").directory)
    for step, alone in steps_of(finished.directory).items():
        assert meshed[step][0] == pytest.approx(alone[0], rel=2e-4), f"loss of step {step}"
    assert meshed[1][0] == pytest.approx(steps_of(finished.directory)[1][0], rel=1e-6)


def test_a_run_moves_to_another_mesh_when_it_continues(finished, run_file, place):
    name = "name=moved"
    process = subprocess.Popen(command(run_file, place / "runs", name), stdout=subprocess.DEVNULL)
    directory = place / "runs" / "moved"
    wait_for_step(directory, 12, process)
    process.kill()
    process.wait()
    commands.train(run_file, [name, "mesh.data=2", "mesh.model=2"], runs=place / "runs")
    for step, values in steps_of(directory).items():
        assert values[0] == pytest.approx(steps_of(finished.directory)[step][0], rel=2e-4)
