"""The main job, whole and small: what a run leaves, and that it can be continued, repeated and generated from."""

from __future__ import annotations

import math
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_run import STEPS, newest_state, samples, sound_checkpoints, start, write_run, written

from llama3_jax import commands
from llama3_jax.train.gate import PhaseNotPassed
from llama3_jax.train.journal import read_metrics
from llama3_jax.train.preemption import EXIT_INTERRUPTED


def steps_of(directory: Path) -> dict[int, dict]:
    """What each step computed, bit for bit."""
    records = [record for record in written(directory) if "loss" in record]
    assert len({record["step"] for record in records}) == len(records)
    return {record["step"]: record for record in records}


def evaluations_of(directory: Path) -> dict[int, dict]:
    """What was said of held-out text, bit for bit."""
    records = [record for record in written(directory) if "eval_loss" in record]
    assert len({record["step"] for record in records}) == len(records)
    return {record["step"]: record for record in records}


@pytest.fixture(scope="module")
def place(tmp_path_factory, shared_programs):
    """A directory for the runs of this file."""
    return tmp_path_factory.mktemp("main_job")


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
    assert {step["phase"] for step in steps.values()} == {"initial", "long_context", "anneal"}
    assert steps[STEPS]["learning_rate"] == 0, "annealing ends at a learning rate of zero"
    assert steps[STEPS]["loss"] < steps[1]["loss"], "it learns"
    assert len({step["batch_hash"] for step in steps.values()}) == STEPS, "no batch is that of another step"
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


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_run_continues_bit_for_bit(finished, run_file, place, number):
    """Of the steps that were finished when it came none is lost."""
    directory = place / "runs" / f"told_{number.name}"
    changed = [f"name={directory.name}", "held_out.every_steps=1"]
    process = start(run_file, place / "runs", *changed)
    wait_for_step(directory, 10, process)
    process.send_signal(number)
    finished_steps = max(steps_of(directory))
    assert process.wait(timeout=60) == EXIT_INTERRUPTED
    saved = sound_checkpoints(directory)[-1]
    assert finished_steps <= saved < STEPS
    assert saved == max(steps_of(directory))
    commands.train(run_file, changed, runs=place / "runs")
    assert steps_of(directory) == steps_of(finished.directory)
    evaluated = evaluations_of(directory)
    assert sorted(evaluated) == list(range(1, STEPS + 1)), "the step it was stopped at is evaluated too"
    assert evaluations_of(finished.directory).items() <= evaluated.items()


@pytest.mark.parametrize("moment", ["step", "saving"])
def test_a_killed_run_continues_bit_for_bit(finished, run_file, place, moment):
    """SIGKILL in the middle of training, and while a checkpoint is being written; at many more moments: test_killed_runs."""
    directory = place / "runs" / f"killed_{moment}"
    process = start(run_file, place / "runs", f"name={directory.name}")
    if moment == "saving":
        deadline = time.monotonic() + 120
        while not list(directory.glob("checkpoints/*.partial")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.001)
    else:
        wait_for_step(directory, 7, process)
    process.kill()
    process.wait()
    commands.train(run_file, [f"name={directory.name}"], runs=place / "runs")
    assert written(directory) == written(finished.directory)
    assert samples(directory) == samples(finished.directory)
    assert sound_checkpoints(directory) == sound_checkpoints(finished.directory)
    assert newest_state(directory) == newest_state(finished.directory)


def test_a_phase_that_does_not_pass_its_gate_ends_the_run_until_it_is_asked_less(finished, run_file, place):
    directory = place / "runs" / "gated"

    def train(max_increase: float) -> None:
        overrides = ["name=gated", f"phases.1.gate={{max_increase: {max_increase}}}"]
        commands.train(run_file, overrides, runs=place / "runs")

    with pytest.raises(PhaseNotPassed, match="long_context.*NOT PASSED") as first:
        train(-5)
    ended = written(directory)
    assert (ended[-1]["step"], ended[-1]["gate_passed"], ended[-1]["gate_max_increase"]) == (20, 0, -5)
    with pytest.raises(PhaseNotPassed) as again:
        train(-5)
    assert str(again.value) == str(first.value) and written(directory) == ended, "the decision is repeated, not made anew"
    train(5)
    assert steps_of(directory) == steps_of(finished.directory)
    gates = [record["gate_passed"] for record in written(directory) if "gate_passed" in record]
    assert gates == [0, 1]
    increase = evaluations_of(finished.directory)[20]["eval_loss"] - evaluations_of(finished.directory)[16]["eval_loss"]
    assert ended[-1]["gate_increase"] == increase


def wait_for_step(directory: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < deadline
        path = directory / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.005)


@pytest.mark.slow
def test_the_run_is_the_same_on_a_mesh(finished, run_file, place):
    overrides = ["name=meshed", "mesh.data=2", "mesh.sequence=2", "mesh.model=2"]
    meshed = steps_of(commands.train(run_file, overrides, runs=place / "runs").directory)
    for step, alone in steps_of(finished.directory).items():
        assert meshed[step]["loss"] == pytest.approx(alone["loss"], rel=2e-4), f"loss of step {step}"
        assert meshed[step]["batch_hash"] == alone["batch_hash"]
    assert meshed[1]["loss"] == pytest.approx(steps_of(finished.directory)[1]["loss"], rel=1e-6)


@pytest.mark.slow
def test_a_run_moves_to_another_mesh_when_it_continues(finished, run_file, place):
    name = "name=moved"
    process = start(run_file, place / "runs", name)
    directory = place / "runs" / "moved"
    wait_for_step(directory, 12, process)
    process.kill()
    process.wait()
    commands.train(run_file, [name, "mesh.data=2", "mesh.model=2"], runs=place / "runs")
    for step, values in steps_of(directory).items():
        alone = steps_of(finished.directory)[step]
        assert values["loss"] == pytest.approx(alone["loss"], rel=2e-4) and values["batch_hash"] == alone["batch_hash"]
