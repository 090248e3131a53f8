"""Stages end at step boundaries, and what one has read the next does not read again."""

import numpy as np
import pytest
from numbered_documents import all_rows, make_shuffled

from llama3_jax.batches.loader import StageRows
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.timeline import timeline


def stage(name="s", **given) -> Stage:
    return Stage(**{"name": name, "tokens": 100, "sequence_length": 8, "tokens_per_step": 16, **given})


def test_a_stage_ends_at_the_first_step_at_or_after_the_tokens_up_to_it():
    spans = timeline(
        [[stage(tokens=100), stage("t", tokens=60, tokens_per_step=32)], [stage(tokens=64, tokens_per_step=64)]],
        sizes={"web": 1},
    )
    assert [(s.phase, s.first_step, s.num_steps, s.end_step) for s in spans] == [(0, 0, 7, 7), (0, 7, 2, 9), (1, 9, 1, 10)]
    # 7 * 16 = 112 >= 100;  112 + 2 * 32 = 176 >= 160;  176 + 64 = 240 >= 224
    assert [(s.first_token, s.end_token) for s in spans] == [(0, 112), (112, 176), (176, 240)]


def test_a_count_that_is_a_boundary_is_not_overrun():
    assert timeline([[stage(tokens=160)]], sizes={"web": 1})[0].num_steps == 10


def test_a_stage_that_the_one_before_overran_has_no_steps():
    first, second, third = timeline(
        [[stage(tokens=17, tokens_per_step=64), stage("t", tokens=30), stage("u", tokens=33)]], sizes={"web": 1}
    )
    assert (first.num_steps, second.num_steps, third.num_steps) == (1, 0, 1)
    assert third.positions == first.source_positions(1)


def test_a_mix_stays_until_another_and_begins_with_the_sizes():
    spans = timeline([[stage(), stage("t", mix={"code": 1.0})], [stage("u")]], sizes={"web": 300, "code": 100})
    assert [span.mix.counts(4).tolist() for span in spans] == [[3, 1], [0, 4], [0, 4]]
    with pytest.raises(ValueError, match="'books'"):
        timeline([[stage(mix={"books": 1.0})]], sizes={"web": 1})


def test_stages_read_on_where_the_one_before_stopped():
    streams = [
        make_shuffled([7, 30, 3, 12] * 40, seed=1, block=32),
        make_shuffled([9, 5] * 60, first=10_000, seed=1, block=32),
    ]
    spans = timeline(
        [
            [stage(tokens=400, mix={"web": 0.7, "code": 0.3}), stage("t", tokens=500, sequence_length=16, tokens_per_step=64)],
            [stage("u", tokens=300, sequence_length=32, tokens_per_step=64, mix={"web": 0.5, "code": 0.5})],
        ],
        sizes={"web": streams[0].num_tokens, "code": streams[1].num_tokens},
    )
    read = [row.tokens for span in spans for row in all_rows(StageRows(span, streams, seed=5))]
    tokens = np.concatenate(read)
    assert tokens.size == spans[-1].end_token == np.unique(tokens).size
    taken = spans[-1].source_positions(spans[-1].end_step)
    for stream, count in zip(streams, taken, strict=True):
        assert 0 < count < stream.num_tokens
    expected = np.concatenate([np.concatenate(s.row(0, n))[:n] for s, n in zip(streams, taken, strict=True)])
    assert set(tokens.tolist()) == set(expected.tolist())


def test_positions_in_the_middle_of_a_stage_add_up():
    (span,) = timeline([[stage(tokens=16 * 50, mix={"web": 0.7, "code": 0.3})]], sizes={"web": 1, "code": 1})
    for step in (0, 1, 17, 50):
        assert sum(span.source_positions(step)) == step * 16
