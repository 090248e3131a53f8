"""What is timed, and on what: random documents cut anew, medians over rounds, the compiling round left out."""

import time

import numpy as np
import pytest

from llama3_jax.bench import measure
from llama3_jax.bench.measure import compare
from llama3_jax.bench.rows import random_batch, visible_keys


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(measure, "SETTLE_S", 0)


class Fake:
    compile_s, peak_bytes = 0.0, None

    def __init__(self, name, seconds, loss=5.0):
        self.name, self._seconds, self._loss, self.seen = name, list(seconds), loss, []

    def step(self, batch):
        self.seen.append(batch)
        time.sleep(self._seconds[len(self.seen) - 1])
        return self._loss + len(self.seen)


def test_rows_are_full_and_cut_anew():
    batches = [random_batch(seed, vocab_size=50, num_rows=3, sequence_length=64, documents_per_row=5) for seed in range(2)]
    for batch in batches:
        assert batch.tokens.shape == (1, 3, 64)
        assert {len(set(row)) for row in batch.segment_ids[0].tolist()} <= {4, 5}  # the last token of a row may be a document
        assert batch.segment_ids.min() == 1 and batch.tokens.max() < 50
    assert not np.array_equal(batches[0].segment_ids, batches[1].segment_ids)
    again = random_batch(0, vocab_size=50, num_rows=3, sequence_length=64, documents_per_row=5)
    np.testing.assert_array_equal(again.tokens, batches[0].tokens)


def test_visible_keys_are_counted_pair_by_pair():
    batch = random_batch(3, vocab_size=50, num_rows=2, sequence_length=40, documents_per_row=3)
    segment = batch.segment_ids[0]
    pairs = sum(np.sum(np.tril(row[:, None] == row[None, :])) for row in segment)
    assert visible_keys(batch) == pytest.approx(pairs / segment.size)
    whole = random_batch(3, vocab_size=50, num_rows=1, sequence_length=40, documents_per_row=1)
    assert visible_keys(whole) == pytest.approx(20.5)


def test_median_of_the_rounds_and_all_on_the_same_batches():
    slow, fast = Fake("slow", [0.3, 0.04, 0.2, 0.05]), Fake("fast", [0.0, 0.01, 0.01, 0.012])
    peaks = iter([1.0, 7.0, 3.0, 2.0])
    found = compare([slow, fast], ["b0", "b1", "b2", "b3"], lambda: next(peaks), tolerance=1e-4)
    assert slow.seen == fast.seen == ["b0", "b1", "b2", "b3"]
    assert [each.name for each in found.timings] == ["slow", "fast"]
    assert found.timings[0].seconds == pytest.approx(0.05, abs=0.02), "neither the compiling round nor the mean"
    assert found.timings[0].fastest_s == pytest.approx(0.04, abs=0.01)
    assert found.timings[0].first_loss == 6.0
    assert found.peak_flops_per_s == 7.0


def test_another_model_is_not_compared():
    with pytest.raises(ValueError, match="other begins with a loss of 6.500000 and mine with 6.000000"):
        compare([Fake("mine", [0, 0]), Fake("other", [0, 0], loss=5.5)], ["b0", "b1"], lambda: 1.0, tolerance=1e-4)
    with pytest.raises(ValueError, match="nan"):
        compare([Fake("mine", [0, 0]), Fake("other", [0, 0], loss=float("nan"))], ["b0", "b1"], lambda: 1.0, tolerance=1e-4)
