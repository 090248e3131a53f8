"""A run killed with SIGKILL at any moment, again and again, goes on as if nothing had been: twenty moments of real processes.

Each of the runs is killed at four moments, drawn a little later than what is seen of them, and then left alone to its end.
"""

from __future__ import annotations

import random
import time

import moments
import pytest
from moments import Watch
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tiny_run import STEPS, newest_state, samples, sound_checkpoints, start, write_run, written

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

RUNS = {
    "at_its_beginning": [
        (moments.started, 1.0),
        (moments.preparing_data, 0.05),
        (moments.starting_up, 0.5),
        (moments.compiling, 2),
    ],
    "as_it_steps": [
        (moments.stepping, 0.02),
        (moments.reading_ahead, 0.02),
        (moments.deleting, 0),
        (moments.opening_the_journal, 0.02),
    ],
    "as_it_saves": [(moments.saving, 0.05), (moments.committing, 0.001), (moments.committed, 0.001), (moments.deleting, 0.001)],
    "as_it_looks": [(moments.evaluating, 0.03), (moments.sampling, 0.5), (moments.plotting, 1), (moments.between_stages, 1)],
    "towards_its_end": [(moments.committed, 0.01), (moments.deleting, 0), (moments.plotting, 0.1), (moments.last_look, 0.5)],
}
"""Name -> (moment, seconds within which it is killed after the moment was seen)."""
ATTEMPTS = 4
"""A moment of less than a millisecond may be missed: the run then goes on to its end, and another is begun."""


@pytest.fixture(scope="module")
def place(tmp_path_factory, shared_programs):
    """A directory for the runs of this file."""
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def run_file(place):
    return write_run(place)


@pytest.fixture(scope="module")
def unbroken(run_file, place):
    assert start(run_file, place / "runs", "name=unbroken").wait() == 0
    return place / "runs" / "unbroken"


def test_the_moments_are_twenty():
    assert sum(len(kills) for kills in RUNS.values()) == 20


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_again_and_again_is_the_unbroken_one(name, unbroken, run_file, place):
    for attempt in range(ATTEMPTS):
        directory = place / "runs" / f"{name}_{attempt}"
        chance = random.Random(f"{name} {attempt}")
        if all([kill(moment, chance.uniform(0, within_s), run_file, directory) for moment, within_s in RUNS[name]]):
            break
    else:
        pytest.fail(f"a moment was missed in each of {ATTEMPTS} attempts")
    assert start(run_file, place / "runs", f"name={directory.name}").wait() == 0
    assert written(directory) == written(unbroken)
    assert samples(directory) == samples(unbroken)
    assert sound_checkpoints(directory) == sound_checkpoints(unbroken)
    assert newest_state(directory) == newest_state(unbroken)
    assert losses_in_tensorboard(directory) == losses_in_tensorboard(unbroken)
    assert {path.name for path in directory.rglob("*.p*")} == {path.name for path in unbroken.rglob("*.p*")}, "plots, no .partial"


def kill(moment, after_s, run_file, directory) -> bool:
    """Whether the process was killed where it was meant to be; otherwise it came to the end of the run."""
    watch = Watch(directory)
    process = start(run_file, directory.parent, f"name={directory.name}")
    if not watch.until(moment, process):
        assert process.returncode == 0
        return False
    time.sleep(after_s)
    process.kill()
    killed = process.wait() != 0
    print(
        f"{directory.name}: {moment.__name__} + {after_s:.4f} s, {killed=}, {watch.last_record().get('step', 0)} steps recorded"
    )
    return killed


def losses_in_tensorboard(directory) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(directory / "tensorboard"))
    accumulator.Reload()
    losses = [(event.step, event.tensor_proto.float_val[0]) for event in accumulator.Tensors("train/loss")]
    assert len(losses) == STEPS
    return losses
