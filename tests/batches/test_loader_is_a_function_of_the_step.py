"""Batches depend on seed, stage and step: not on where reading began, nor on the mesh."""

import numpy as np
import pytest
from jax.sharding import NamedSharding
from numbered_documents import all_rows, make_source

from llama3_jax.batches import concatenate
from llama3_jax.batches.loader import StageRows, stage_batches
from llama3_jax.batches.packing import Packing
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.timeline import timeline
from llama3_jax.sharding.axes import spec


@pytest.fixture
def sources():
    return {
        "web": make_source([7, 30, 3, 12] * 60, seed=1, longest_row=32),
        "code": make_source([9, 50] * 40, first=10_000, seed=1, longest_row=32),
    }


def make_span(sources, *, steps=6, num_rows=8, sequence_length=16, before=0):
    tokens_per_step = num_rows * sequence_length
    stages = [
        Stage(
            name=name, tokens=count * tokens_per_step, sequence_length=sequence_length, tokens_per_step=tokens_per_step,
            mix={"web": 0.6, "code": 0.4},
        )
        for name, count in (("before", before), ("stage", steps))
        if count
    ]  # fmt: skip
    return timeline([stages], sources)[-1]


def one_source(lengths, *, tokens, **how):
    """The rows of 8 positions of a stage that reads `tokens` of one source."""
    stage = Stage(name="s", tokens=tokens, sequence_length=8, tokens_per_step=16)
    (span,) = timeline([[stage]], {"web": make_source(lengths, **how)})
    return StageRows(span)


def rows_on(placed) -> NamedSharding:
    return NamedSharding(placed, spec(None, "batch", "position"))


def read(span, placed, *, first_step=None, microbatches=1):
    first_step = span.first_step if first_step is None else first_step
    batches = stage_batches(span, rows_on(placed), microbatches=microbatches, first_step=first_step)
    return [type(batch)(*(np.asarray(leaf) for leaf in batch)) for batch in batches]


def assert_equal(one, two):
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        for name, x, y in zip(a._fields, a, b, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)
            assert x.dtype == y.dtype


def test_starting_at_any_step_gives_the_same_batches(sources, mesh):
    span = make_span(sources, before=3)
    whole = read(span, mesh())
    assert span.first_step == 3 and len(whole) == 6
    for first_step in (4, 7, 8):
        assert_equal(read(span, mesh(), first_step=first_step), whole[first_step - 3 :])


def test_the_seed_changes_the_order(mesh):
    def tokens(seed):
        rows = all_rows(one_source([8] * 40, tokens=320, seed=seed))
        return [row.tokens.tolist() for row in rows]

    assert tokens(3) == tokens(3) != tokens(4)
    assert sorted(tokens(3)) == sorted(tokens(4))


@pytest.mark.parametrize("axes", [(2, 1, 2), (2, 2, 2), (4, 2, 1)])
def test_the_global_batch_is_the_same_on_every_mesh(sources, mesh, axes):
    span = make_span(sources, steps=2)
    data, sequence, model = axes
    placed = mesh(data=data, sequence=sequence, model=model)
    assert_equal(read(span, placed, microbatches=2), read(span, mesh(), microbatches=2))
    batch = next(stage_batches(span, rows_on(placed), microbatches=2, first_step=0))
    assert batch.tokens.sharding.shard_shape(batch.tokens.shape) == (2, 4 // data, 16 // sequence)


def test_a_batch_is_rows_in_order_whatever_the_microbatches(sources, mesh):
    span = make_span(sources)
    rows = StageRows(span)
    expected = np.stack([rows[8 + k].targets for k in range(8)])
    for microbatches in (1, 2, 4, 8):
        batch = read(span, mesh(), microbatches=microbatches)[1]
        assert batch.targets.shape == (microbatches, 8 // microbatches, 16)
        np.testing.assert_array_equal(batch.targets.reshape(8, 16), expected)


def test_rows_are_shuffled_inside_blocks_and_none_is_lost(monkeypatch):
    monkeypatch.setattr(concatenate, "SHUFFLED_ROWS", 4)
    rows = one_source([1000], tokens=22 * 8, seed=None)
    ordinals = [int(row.tokens[0]) // 8 for row in all_rows(rows)]
    assert len(rows) == 22
    blocks = [ordinals[first : first + 4] for first in range(0, 22, 4)]
    assert [sorted(block) for block in blocks] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15],
                                                   [16, 17, 18, 19], [20, 21]]  # fmt: skip
    assert len({tuple(np.argsort(block)) for block in blocks}) > 2, "every block in its own order"


@pytest.mark.parametrize("packing", [Packing.CONCATENATE, Packing.BEST_FIT])
def test_neighbouring_pieces_of_a_long_document_are_not_neighbouring_rows(packing):
    rows = one_source([8 * 400], tokens=8 * 400, seed=None, packing=packing)
    ordinals = np.array([int(row.tokens[0]) // 8 for row in all_rows(rows)])
    assert sorted(ordinals.tolist()) == list(range(400))
    assert np.mean(np.abs(np.diff(ordinals)) == 1) < 0.05


@pytest.mark.parametrize("packing", [Packing.CONCATENATE, Packing.BEST_FIT])
def test_shuffled_pieces_of_a_document_keep_every_target(packing):
    for row in all_rows(one_source([8 * 50], tokens=8 * 50, seed=None, packing=packing)):
        asked = row.tokens < 8 * 50 - 1
        assert row.loss_weight.tolist() == asked.astype(float).tolist()
        assert (row.targets == np.where(asked, row.tokens + 1, 0)).all()
