"""Stages end at step boundaries, and what one has read the next does not read again."""

import numpy as np
import pytest
from numbered_documents import all_rows, concatenated, make_source
from sized_source import sized

from llama3_jax.batches.loader import StageRows
from llama3_jax.batches.packing import Packing
from llama3_jax.batches.source import Tally
from llama3_jax.batches.stage import Stage
from llama3_jax.batches.timeline import timeline


def stage(name="s", **given) -> Stage:
    return Stage(**{"name": name, "tokens": 100, "sequence_length": 8, "tokens_per_step": 16, **given})


def test_a_stage_ends_at_the_first_step_at_or_after_the_tokens_up_to_it():
    spans = timeline(
        [[stage(tokens=100), stage("t", tokens=60, tokens_per_step=32)], [stage(tokens=64, tokens_per_step=64)]],
        sized(web=1),
    )
    assert [(s.phase, s.first_step, s.num_steps, s.end_step) for s in spans] == [(0, 0, 7, 7), (0, 7, 2, 9), (1, 9, 1, 10)]
    # 7 * 16 = 112 >= 100;  112 + 2 * 32 = 176 >= 160;  176 + 64 = 240 >= 224
    assert [(s.first_token, s.end_token) for s in spans] == [(0, 112), (112, 176), (176, 240)]


def test_a_count_that_is_a_boundary_is_not_overrun():
    assert timeline([[stage(tokens=160)]], sized(web=1))[0].num_steps == 10


def test_a_stage_that_the_one_before_overran_has_no_steps():
    first, second, third = timeline(
        [[stage(tokens=17, tokens_per_step=64), stage("t", tokens=30), stage("u", tokens=33)]], sized(web=1)
    )
    assert (first.num_steps, second.num_steps, third.num_steps) == (1, 0, 1)
    assert third.stretches["web"].start == first.stretches["web"].end == 64


def test_a_mix_stays_until_another_and_begins_with_the_sizes():
    spans = timeline([[stage(), stage("t", mix={"code": 1.0})], [stage("u")]], sized(web=300, code=100))
    assert [span.mix.counts(4).tolist() for span in spans] == [[3, 1], [0, 4], [0, 4]]
    with pytest.raises(ValueError, match="'books'"):
        timeline([[stage(mix={"books": 1.0})]], sized(web=1))


@pytest.mark.parametrize("packing", Packing)
def test_stages_read_on_where_the_one_before_stopped(packing):
    lengths = {"web": [7, 30, 3, 12] * 40, "code": [9, 5, 70] * 60}
    sources = {
        name: make_source(lengths[name], packing=packing, longest_row=32, first=first, seed=1)
        for name, first in (("web", 0), ("code", 10_000))
    }
    spans = timeline(
        [
            [stage(tokens=400, mix={"web": 0.7, "code": 0.3}), stage("t", tokens=500, sequence_length=16, tokens_per_step=64)],
            [stage("u", tokens=300, sequence_length=32, tokens_per_step=64, mix={"web": 0.5, "code": 0.5})],
        ],
        sources,
    )
    rows = [row for span in spans for row in all_rows(StageRows(span))]
    tokens = np.concatenate([row.tokens[row.segment_ids > 0] for row in rows])
    assert tokens.size == np.unique(tokens).size, "nothing is read twice"
    for number, (name, source) in enumerate(sources.items()):
        stretches = [span.stretches[name] for span in spans]
        assert [each.start for each in stretches] == [0, *(each.end for each in stretches[:-1])]
        assert 0 < stretches[-1].end < source.num_tokens
        tally = sum((each.tally for each in stretches), Tally())
        mine = np.concatenate([row.tokens[row.source == number] for row in rows])
        assert mine.size == tally.tokens
        counts = [span.mix.counts(span.num_steps * span.stage.num_rows)[number] for span in spans]
        assert tally.positions == sum(n * span.stage.sequence_length for n, span in zip(counts, spans, strict=True))
        assert stretches[-1].end == tally.tokens + tally.dropped
        if packing is Packing.BEST_FIT:
            assert set(mine.tolist()) == set(concatenated(source.stream.read(0, stretches[-1].end)).tolist())


def test_rows_in_the_middle_of_a_stage_add_up():
    (span,) = timeline([[stage(tokens=16 * 50, mix={"web": 0.7, "code": 0.3})]], sized(web=1, code=1))
    for step in (0, 1, 17, 50):
        assert sum(span.rows(step).values()) == step * 2


def test_a_source_that_is_added_changes_nothing_before_the_stage_that_names_it():
    sources = {name: make_source([7, 30, 3] * 40, first=first) for name, first in (("b", 0), ("c", 5000), ("a", 9000))}
    before = [stage(tokens=400, mix={"b": 0.5, "c": 0.5}), stage("t", tokens=300)]
    after = [before[0], stage("t", tokens=300, mix={"a": 0.4, "c": 0.6})]
    one, two = (timeline([stages], {name: sources[name] for name in names}) for stages, names in ((before, "bc"), (after, "acb")))
    assert one[0].record() == two[0].record()
    assert [row.tokens.tolist() for row in all_rows(StageRows(one[0]))] == [
        row.tokens.tolist() for row in all_rows(StageRows(two[0]))
    ]
    assert one[1].record() != two[1].record() and two[1].mix.slots.keys() == {"a", "c"}
