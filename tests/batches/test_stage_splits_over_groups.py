"""A batch is taken in as many micro-batches as its groups need, or is refused with what would fit."""

import pytest

from llama3_jax.batches.stage import Stage


def make(rows_per_group=None, **given) -> Stage:
    return Stage(
        **{"name": "s", "tokens": 1, "sequence_length": 8, "tokens_per_step": 96, **given}, rows_per_group=rows_per_group
    )


@pytest.mark.parametrize(
    ("rows_per_group", "num_groups", "pieces"),
    [(None, 1, 1), (None, 4, 1), (1, 4, 3), (3, 4, 1), (100, 4, 1), (2, 3, 2), (1, 1, 12), (4, 3, 1)],
)
def test_twelve_rows(rows_per_group, num_groups, pieces):
    assert make(rows_per_group).microbatches(num_groups) == pieces


@pytest.mark.parametrize(("rows_per_group", "num_groups"), [(None, 5), (None, 24), (5, 2), (2, 4)])
def test_twelve_rows_that_do_not_split(rows_per_group, num_groups):
    with pytest.raises(ValueError, match=f"12 rows.*mesh.data={num_groups}"):
        make(rows_per_group).microbatches(num_groups)


@pytest.mark.parametrize(
    "wrong", [{"tokens": 0}, {"sequence_length": 7}, {"tokens_per_step": 100}, {"mix": {"web": 0.0}}, {"rows_per_group": 0}]
)
def test_a_stage_refuses_what_it_cannot_be(wrong):
    with pytest.raises(ValueError):
        make(**wrong)
