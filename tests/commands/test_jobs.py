"""A job of several processes is the same run as one process: its batches, its numbers, its checkpoints, how it ends."""

from __future__ import annotations

import shutil
import signal
from io import StringIO

import pytest
from jobs import Job, write_short_run

from llama3_jax.checkpoint.store import CheckpointStore
from llama3_jax.commands.convert import convert
from llama3_jax.train.journal import read_metrics
from llama3_jax.train.preemption import EXIT_INTERRUPTED

STEPS = 20
LONG = ["phases.0.stages.0.tokens=3840", "phases.0.learning_rate.peak=1e-3", "phases.0.learning_rate.final=1e-4"]
"""60 steps: a signal comes before they are done, however fast one process is; too small ones for rounding to grow."""
COUNTED = ("step", "phase", "stage", "tokens", "batch_hash", "supervised_tokens", "visible_keys", "skipped", "learning_rate")
ROUNDING = 1e-6
"""Sums are added up in another order where they cross processes."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, shared_programs):
    """A directory for the runs of this file."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def run_file(place):
    return write_short_run(place)


def run(processes, run_file, place, *more) -> Job:
    """A job that came to its end."""
    with Job(processes, run_file, place / "runs", *more) as job:
        assert job.wait() == [0] * processes, job.said()
        return job


@pytest.fixture(scope="module")
def alone(run_file, place):
    """One process with all devices."""
    return run(1, run_file, place, "name=alone").directory


@pytest.fixture(scope="module")
def pair(run_file, place):
    return run(2, run_file, place, "name=pair")


def records_of(directory):
    records = read_metrics(directory / "metrics.jsonl")
    return [[record for record in records if kind in record] for kind in ("loss", "eval_loss")]


def saved_in(directory) -> int:
    return CheckpointStore(directory / "checkpoints").steps()[-1]


def steps_of(directory):
    """What each step computed, bit for bit."""
    timed = ("tokens_per_s", "compile_s")
    return [{name: value for name, value in record.items() if name not in timed} for record in records_of(directory)[0]]


def assert_same_run(directory, other):
    """Every step and evaluation once, with the same batches, and the same numbers to float32 rounding."""
    for ours, theirs in zip(records_of(directory), records_of(other), strict=True):
        assert [record["step"] for record in ours] == [record["step"] for record in theirs]
        for one, two in zip(ours, theirs, strict=True):
            for name in one.keys() - {"tokens_per_s", "compile_s"}:
                exact = name in COUNTED
                assert one[name] == (two[name] if exact else pytest.approx(two[name], rel=ROUNDING)), (one["step"], name)


def test_two_processes_train_what_one_does(pair, alone):
    assert [record["step"] for record in records_of(alone)[0]] == list(range(1, STEPS + 1))
    assert_same_run(pair.directory, alone)
    samples = [sorted((path.name, path.read_text()) for path in (each / "samples").iterdir()) for each in (alone, pair.directory)]
    assert samples[0] == samples[1]


def test_the_first_process_speaks_for_the_job(pair):
    assert pair.said(0).count("held-out loss") == len(records_of(pair.directory)[1]) and not pair.said(1)
    for name in ("config.yaml", "log.txt", "tokenizer.model", "data/corpus.json", "plots/summary.png"):
        assert (pair.directory / name).stat().st_size > 0, name
    assert len(list((pair.directory / "tensorboard").iterdir())) == 1


@pytest.mark.slow
def test_a_killed_job_continues_with_another_number_of_processes(alone, run_file, place):
    name = "name=killed"
    with Job(2, run_file, place / "runs", name) as job:
        job.wait_for_step(5)
    first = saved_in(job.directory)
    with Job(4, run_file, place / "runs", name) as job:
        job.wait_for_step(first + 5)
    assert f"continuing after step {first} of" in job.said(0)
    second = saved_in(job.directory)
    last = run(1, run_file, place, name)
    assert f"continuing after step {second} of" in last.said(0) and 0 < first < second
    assert_same_run(last.directory, alone)


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_process_stops_all_after_the_same_step(pair, run_file, place, told, number):
    name = f"name=told_{told}_{number.name}"
    with Job(2, run_file, place / "runs", name) as job:
        job.wait_for_step(2)
        job.processes[told].send_signal(number)
        assert job.wait(60) == [EXIT_INTERRUPTED] * 2, job.said()
    saved = saved_in(job.directory)
    assert f"stopped by {number.name} after step {saved}; saved up to step {saved}" in job.said()
    assert job.said().count("run the same command again") == 1
    assert records_of(job.directory)[0][-1]["step"] == saved
    again = run(2, run_file, place, name)
    assert steps_of(again.directory) == steps_of(pair.directory), "not a bit is lost"


@pytest.mark.slow
def test_a_signal_before_the_first_step_stops_all(run_file, place):
    with Job(2, run_file, place / "runs", "name=told_early") as job:
        job.wait_for(job.directory / "log.txt", "training 20 steps")
        job.processes[1].send_signal(signal.SIGTERM)
        assert job.wait(60) == [EXIT_INTERRUPTED] * 2, job.said()


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_that_dies_ends_the_others(pair, run_file, place, lost):
    name = f"name=lost_{lost}"
    with Job(2, run_file, place / "runs", name) as job:
        job.wait_for_step(5)
        job.processes[lost].kill()
        statuses = job.wait(60)
        assert statuses[lost] == -signal.SIGKILL and statuses[1 - lost] not in (0, EXIT_INTERRUPTED), job.said()
    again = run(2, run_file, place, name)
    assert steps_of(again.directory) == steps_of(pair.directory)


@pytest.mark.slow
def test_a_second_job_in_the_directory_is_refused(run_file, place):
    with Job(2, run_file, place / "runs", "name=taken") as job:
        job.wait_for(job.directory / "log.txt", "training 20 steps")
        log = (job.directory / "log.txt").read_text()
        with Job(2, run_file, place / "runs", "name=taken", logs="second") as second:
            assert second.wait(60) == [1, 1]
        assert second.said().count("another process is working in") == 1
        assert job.wait() == [0, 0]
    assert (job.directory / "log.txt").read_text().startswith(log)
    assert [record["step"] for record in records_of(job.directory)[0]] == list(range(1, STEPS + 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "own, status, message",
    [
        ([["seed=-1"], ["seed=-1"]], 2, "use 0 <= seed"),
        ([[], ["seed=-1"]], 2, "use 0 <= seed"),
        ([[], ["seed=3"]], 1, "process 1 was started otherwise than process 0:\n  run.seed: 0 -> 3"),
        ([["mesh.data=4"], ["mesh.data=4"]], 1, "needs 16 devices"),
    ],
)
def test_a_bad_config_ends_all(run_file, place, own, status, message):
    with Job(2, run_file, place / "runs", "name=bad", own=own) as job:
        assert job.wait(60) == [status, status], job.said()
    assert message in job.said() and job.said().count("error:") == 1


@pytest.fixture(scope="module")
def long_alone(run_file, place):
    return run(1, run_file, place, "name=long_alone", *LONG).directory


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(1, 2, 4, 8), (8, 4, 2, 1), (4, 1, 8, 2)])
def test_a_run_is_stopped_and_continued_over_any_numbers_of_processes(long_alone, run_file, place, numbers):
    more = [f"name=moved_{'_'.join(map(str, numbers))}", *LONG]
    for number, step in zip(numbers, (1, 21, 41), strict=False):
        with Job(number, run_file, place / "runs", *more) as job:
            job.wait_for_step(step)
            job.processes[-1].send_signal(signal.SIGTERM)
            assert job.wait(90) == [EXIT_INTERRUPTED] * number, job.said()
    assert_same_run(run(numbers[-1], run_file, place, *more).directory, long_alone)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["hugging_face", "meta"])
def test_a_job_begins_with_the_weights_of_others(to, run_file, place, alone):
    weights = convert(alone, place / to, to, shards=2, stream=StringIO())
    more = [f"init_from={weights}", f"data.tokenizer_path={weights}/tokenizer.model", f"name=from_{to}"]
    expected = run(1, run_file, place, *more[:2], f"name=alone_from_{to}").directory
    found = run(2, run_file, place, *more).directory
    one, two = ([each["loss"] for each in read_metrics(d / "metrics.jsonl") if "loss" in each] for d in (expected, found))
    assert one == pytest.approx(two, rel=ROUNDING) and one[0] < 0.9 * read_metrics(alone / "metrics.jsonl")[0].get("loss", 99)
    spoilt = place / f"{to}_spoilt"
    shutil.copytree(weights, spoilt)
    (spoilt / ("config.json" if to == "hugging_face" else "params.json")).write_text("{}")
    with Job(2, run_file, place / "runs", f"init_from={spoilt}", more[1], f"name=spoilt_{to}") as job:
        assert job.wait() == [1, 1]
        assert "Traceback" not in job.said() and ".json" in job.said()
