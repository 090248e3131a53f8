"""The quick start, told to stop again and again wherever it is: gone within ten seconds, with every recorded step saved."""

from __future__ import annotations

import random
import signal
import time

import moments
import pytest
from moments import Watch
from tiny_run import sound_checkpoints, start

from llama3_jax.train.preemption import EXIT_INTERRUPTED

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

WITHIN_S = 10
STEPS = 272


def recorded(step: int):
    """A step is trained, and what is due after it begins."""

    def moment(watch: Watch) -> bool:
        return moments.reading_ahead(watch) and watch.last_record().get("step", 0) >= step

    moment.__name__ = f"step {step}"
    return moment


def last_look(watch: Watch) -> bool:
    """Nothing is left but the final scores and samples."""
    log = watch.directory / "log.txt"
    return log.exists() and f"complete: all {STEPS} steps are trained" in log.read_text()


STOPS = [
    (moments.started, 2.0),
    (moments.preparing_data, 10.0),
    (moments.starting_up, 3.0),
    (moments.compiling, 5.0),
    (moments.reading_ahead, 0.3),
    (moments.stepping, 2.0),
    (moments.saving, 0.1),
    (recorded(64), 0.1),  # a stage ends: the first evaluation is compiled, everything is saved, the next stage is compiled
    (recorded(64), 3.0),
    (recorded(100), 0.1),  # evaluation and samples, both compiled
    (recorded(100), 4.0),
    (moments.committing, 0.001),
    (recorded(208), 3.0),  # a phase ends: scores, plots, save
    (moments.plotting, 0.2),
    (recorded(STEPS), 0.5),
    (last_look, 3.0),
]
"""(moment, seconds within which the signal comes after the moment was seen), in an order in which they occur."""


def test_the_quick_start_stops_within_ten_seconds_wherever_it_is(tmp_path):
    chance, directory = random.Random(0), tmp_path / "runs" / "quickstart"
    for number, (moment, within_s) in enumerate(STOPS):
        watch = Watch(directory)
        process = start("quickstart", tmp_path / "runs", cwd=tmp_path)
        assert watch.until(moment, process), f"{moment.__name__} never came"
        time.sleep(chance.uniform(0, within_s) + (0.5 if moment is moments.started else 0))  # before, Python itself starts
        trained = watch.last_record().get("step", 0)
        process.send_signal((signal.SIGTERM, signal.SIGUSR1)[number % 2])
        sent = time.monotonic()
        status = process.wait(timeout=120)
        seconds = time.monotonic() - sent
        saved = sound_checkpoints(directory)[-1:] if (directory / "checkpoints").is_dir() else []
        print(f"{moment.__name__}: status {status} after {seconds:.1f} s, {trained} steps recorded, {saved} saved")
        assert status == EXIT_INTERRUPTED, moment.__name__
        assert seconds < WITHIN_S, moment.__name__
        assert trained <= max(saved, default=0), moment.__name__
    assert start("quickstart", tmp_path / "runs", cwd=tmp_path).wait() == 0
