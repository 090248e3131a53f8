"""Batches depend on seed, stage and step: not on where reading began, nor on the mesh."""

import numpy as np
import pytest
from jax.sharding import NamedSharding
from numbered_documents import all_rows, make_shuffled

from llama3_jax.batches import loader
from llama3_jax.batches.loader import StageRows, stage_batches
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.timeline import timeline
from llama3_jax.sharding.axes import spec


@pytest.fixture
def streams():
    return [make_shuffled([7, 30, 3, 12] * 60, seed=1, block=32), make_shuffled([9, 50] * 40, first=10_000, seed=1, block=32)]


def make_span(*, steps=6, num_rows=8, sequence_length=16, before=0):
    tokens_per_step = num_rows * sequence_length
    stages = [
        Stage(
            name=name, tokens=count * tokens_per_step, sequence_length=sequence_length, tokens_per_step=tokens_per_step,
            mix={"web": 0.6, "code": 0.4},
        )
        for name, count in (("before", before), ("stage", steps))
        if count
    ]  # fmt: skip
    return timeline([stages], sizes={"web": 1, "code": 1})[-1]


def rows_on(placed) -> NamedSharding:
    return NamedSharding(placed, spec(None, "batch", "position"))


def read(span, streams, placed, *, seed=3, first_step=None, microbatches=1):
    first_step = span.first_step if first_step is None else first_step
    batches = stage_batches(span, streams, rows_on(placed), microbatches=microbatches, seed=seed, first_step=first_step)
    return [type(batch)(*(np.asarray(leaf) for leaf in batch)) for batch in batches]


def assert_equal(one, two):
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        for name, x, y in zip(a._fields, a, b, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)
            assert x.dtype == y.dtype


def test_starting_at_any_step_gives_the_same_batches(streams, mesh):
    span = make_span(before=3)
    whole = read(span, streams, mesh())
    assert span.first_step == 3 and len(whole) == 6
    for first_step in (4, 7, 8):
        assert_equal(read(span, streams, mesh(), first_step=first_step), whole[first_step - 3 :])


def test_seed_and_stage_change_the_order(streams, mesh):
    one, two = read(make_span(), streams, mesh()), read(make_span(), streams, mesh(), seed=4)
    same, other = ({row.tobytes() for batch in run for row in batch.tokens[0]} for run in (one, two))
    assert same == other, "the seed of the loader only changes the order of the rows"
    assert one[0].tokens.tobytes() != two[0].tokens.tobytes()


@pytest.mark.parametrize("axes", [(2, 1, 2), (2, 2, 2), (4, 2, 1)])
def test_the_global_batch_is_the_same_on_every_mesh(streams, mesh, axes):
    span = make_span(steps=2)
    data, sequence, model = axes
    placed = mesh(data=data, sequence=sequence, model=model)
    assert_equal(read(span, streams, placed, microbatches=2), read(span, streams, mesh(), microbatches=2))
    batch = next(stage_batches(span, streams, rows_on(placed), microbatches=2, seed=3, first_step=0))
    assert batch.tokens.sharding.shard_shape(batch.tokens.shape) == (2, 4 // data, 16 // sequence)


def test_a_batch_is_rows_in_order_whatever_the_microbatches(streams, mesh):
    rows = StageRows(make_span(), streams, seed=3)
    expected = np.stack([rows[8 + k].targets for k in range(8)])
    for microbatches in (1, 2, 4, 8):
        batch = read(make_span(), streams, mesh(), microbatches=microbatches)[1]
        assert batch.targets.shape == (microbatches, 8 // microbatches, 16)
        np.testing.assert_array_equal(batch.targets.reshape(8, 16), expected)


def test_rows_are_shuffled_inside_blocks_and_none_is_lost(monkeypatch):
    monkeypatch.setattr(loader, "SHUFFLED_ROWS", 4)
    stream = make_shuffled([1000], seed=None)
    stage = Stage(name="s", tokens=22 * 8, sequence_length=8, tokens_per_step=16)
    (span,) = timeline([[stage]], sizes={"web": 1})
    rows = StageRows(span, [stream], seed=0)
    ordinals = [int(row.tokens[0]) // 8 for row in all_rows(rows)]
    assert len(rows) == 22
    blocks = [ordinals[first : first + 4] for first in range(0, 22, 4)]
    assert [sorted(block) for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15],
                                                   [16, 17, 18, 19], [20, 21]]  # fmt: skip
    assert len({tuple(np.argsort(block)) for block in blocks}) > 2, "every block in its own order"


def test_neighbouring_pieces_of_a_long_document_are_not_neighbouring_rows():
    stream = make_shuffled([8 * 400], seed=None)
    (span,) = timeline([[Stage(name="s", tokens=8 * 400, sequence_length=8, tokens_per_step=16)]], sizes={"web": 1})
    ordinals = np.array([int(row.tokens[0]) // 8 for row in all_rows(StageRows(span, [stream], seed=0))])
    assert sorted(ordinals.tolist()) == list(range(400))
    assert np.mean(np.abs(np.diff(ordinals)) == 1) < 0.05


def test_shuffled_pieces_of_a_document_keep_every_target():
    stream = make_shuffled([8 * 50], seed=None)
    (span,) = timeline([[Stage(name="s", tokens=8 * 50, sequence_length=8, tokens_per_step=16)]], sizes={"web": 1})
    for row in all_rows(StageRows(span, [stream], seed=0)):
        asked = row.tokens < 8 * 50 - 1
        assert row.loss_weight.tolist() == asked.astype(float).tolist()
        assert (row.targets == np.where(asked, row.tokens + 1, 0)).all()
