"""The source of a row is a closed form of its number, as exact as whole rows allow."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama3_jax.batches.mix import PERIOD, Mix

weights = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4)


def make(weight_C) -> Mix:
    names = [f"s{c}" for c in range(len(weight_C))]
    return Mix(dict(zip(names, weight_C, strict=True)), names)


@given(weights)
def test_a_period_holds_every_source_by_its_weight(weight_C):
    share_C = np.array(weight_C) / np.sum(weight_C)
    count_C = make(weight_C).counts(PERIOD)
    assert count_C.sum() == PERIOD
    assert np.all(np.abs(count_C - share_C * PERIOD) <= 1)


def test_weights_that_fit_a_period_are_exact():
    assert make([2, 1, 1]).counts(3 * PERIOD).tolist() == [6144, 3072, 3072]


def deviation(mix: Mix) -> np.ndarray:
    """float64 [C]: how many rows a prefix of a period is off a source's share, at most."""
    count_kC = np.stack([mix.counts(k) for k in range(PERIOD + 1)])
    assert np.array_equal(count_kC.sum(axis=1), np.arange(PERIOD + 1))
    share_C = mix.counts(PERIOD) / PERIOD
    return np.abs(count_kC - np.arange(PERIOD + 1)[:, None] * share_C).max(axis=0)


@pytest.mark.parametrize("weight_C", [(50, 25, 17, 8), (6, 4), (8, 2), (1, 1, 1, 1), (30, 70)])
def test_every_prefix_is_within_a_row_of_its_share(weight_C):
    assert deviation(make(weight_C)).max() <= 1


@settings(max_examples=40, deadline=None)
@given(weights)
@example([0.97, 0.01, 0.01, 0.01])
def test_no_prefix_is_further_off_than_half_a_row_a_source(weight_C):
    """Each source is within half a row of share * t for one t; t is off by at most half a row a source."""
    mix = make(weight_C)
    assert np.all(deviation(mix) <= 0.5 + mix.counts(PERIOD) / PERIOD * len(weight_C) / 2 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(weights, st.integers(0, 10**13))
def test_locate_agrees_with_counts(weight_C, row):
    mix = make(weight_C)
    source, ordinal = mix.locate(row)
    before, after = mix.counts(row), mix.counts(row + 1)
    assert ordinal == before[source]
    assert (after - before).tolist() == [int(c == source) for c in range(len(weight_C))]


def test_a_source_without_weight_gives_no_row_and_a_small_one_gives_some():
    mix = Mix({"most": 1.0, "trace": 1e-9}, ["most", "none", "trace"])
    assert mix.counts(PERIOD).tolist() == [PERIOD - 1, 0, 1]


def test_an_unknown_source_is_named_beside_the_known():
    with pytest.raises(ValueError, match="'cod'.*prose, code"):
        Mix({"cod": 1.0}, ["prose", "code"])
