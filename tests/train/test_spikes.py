"""A spike is named when it comes; noise, a falling loss and what follows a spike are not."""

import json
import math
import random
import re

import pytest

from llama3_jax.train.spikes import FEWEST, WINDOW, SpikeWatch


def noisy(count, *, start=3.0, slope=0.0, noise=0.05):
    draw = random.Random(0)
    return [start + slope * step + draw.gauss(0, noise) for step in range(count)]


def notes(losses):
    watch = SpikeWatch()
    return [watch.note(loss) for loss in losses]


@pytest.mark.parametrize("slope", [0.0, -0.005, 0.0005])
def test_noise_is_no_spike(slope):
    assert not any(notes(noisy(300, slope=slope)))


def test_the_first_fall_of_a_run_is_no_spike():
    assert not any(notes([9.0 * 0.97**step + 2 for step in range(200)]))


def test_a_spike_says_how_high_and_over_what():
    said = notes([*noisy(100), 6.5, *noisy(50)])
    assert re.fullmatch(r"loss spike: 6\.500 after a median of (2\.9|3\.0)\d\d", said[100])
    assert [step for step, text in enumerate(said) if text] == [100]


def test_nothing_is_said_before_there_is_something_to_compare_with():
    assert not notes([1.0] * (FEWEST - 1) + [50.0])[-1]
    assert notes([1.0] * FEWEST + [50.0])[-1]


def test_a_loss_that_stays_high_is_the_new_normal():
    said = notes([1.0] * WINDOW + [5.0] * WINDOW)
    assert said[WINDOW] and not said[-1]


def test_constant_losses_tolerate_rounding():
    assert not any(notes([2.0] * 50 + [2.0 + 1e-6]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_does_not_blind_the_watch(bad):
    losses = noisy(100)
    for step in (40, 60, 61, 75):
        losses[step] = bad
    said = notes([*losses, 6.5])
    assert re.fullmatch(r"loss spike: 6\.500 after a median of (2\.9|3\.0)\d\d", said[-1])
    assert not any(text for loss, text in zip(losses, said, strict=False) if math.isfinite(loss))


@pytest.mark.parametrize("at", [0, 5, FEWEST, 100, 101, 130])
def test_a_watch_that_goes_on_from_another_says_the_same(at):
    losses = [*noisy(100), 6.5, *noisy(50)]
    losses[40] = math.nan
    first = SpikeWatch()
    before = [first.note(loss) for loss in losses[:at]]
    second = SpikeWatch(json.loads(json.dumps(first.recent)))
    assert before + [second.note(loss) for loss in losses[at:]] == notes(losses)
