"""Attention and its gradients against float64 NumPy, for every kind of mask and both implementations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import attention, gradients, relative_error, segments, visible_documents

from llama3_jax.kernels.attention import reference, xla
from llama3_jax.kernels.attention.flash_attention import flash_attention, plan
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask, document_mask, prefix_mask
from llama3_jax.kernels.attention.schedule import block_schedule

B, S, K, H = 2, 40, 2, 8
BLOCK_Q, BLOCK_K = 16, 8
IMPLEMENTATIONS = ("reference", "xla")
TOLERANCE = {"float32": 2e-6, "bfloat16": 5e-3}


@partial(jax.jit, static_argnums=0)
def run(implementation, q_BSNH, k_BTKH, v_BTKH, mask, out_bar_BSNH):
    """(out, gradients) with tiles of unequal sides that divide neither S nor T."""

    def call(q_BSNH, k_BTKH, v_BTKH):
        if implementation == "reference":
            return reference.attention(q_BSNH, k_BTKH, v_BTKH, mask)
        schedule = block_schedule(mask, num_keys=k_BTKH.shape[1], block_q=BLOCK_Q, block_k=BLOCK_K)
        return xla.attention(q_BSNH, k_BTKH, v_BTKH, mask, schedule, block_q=BLOCK_Q, block_k=BLOCK_K)

    out_BSNH, pull = jax.vjp(call, q_BSNH, k_BTKH, v_BTKH)
    return out_BSNH, pull(out_bar_BSNH)


@partial(jax.jit, static_argnums=0)
def run_public(implementation, q_BSNH, k_BTKH, v_BTKH, mask, out_bar_BSNH):
    """(out, gradients) of `flash_attention` with its own blocks, given the plan as training gives it."""
    schedule = plan(mask, num_keys=k_BTKH.shape[1], implementation=implementation)
    call = partial(flash_attention, mask=mask, schedule=schedule, implementation=implementation)
    out_BSNH, pull = jax.vjp(call, q_BSNH, k_BTKH, v_BTKH)
    return out_BSNH, pull(out_bar_BSNH)


def draw(seed=0, *, num_queries=S, num_keys=S, group=2, dtype="float32"):
    """q, k, v and the cotangent of the output."""
    rng = np.random.default_rng(seed)
    query, key = (B, num_queries, K * group, H), (B, num_keys, K, H)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in (query, key, key, query))


def check(run, implementation, arrays, mask, visible_BST):
    q, k, v, out_bar = arrays
    out, bars = run(implementation, q, k, v, mask, out_bar)
    tolerance = TOLERANCE[q.dtype.name]
    assert out.dtype == q.dtype
    assert relative_error(out, attention(q, k, v, visible_BST)[0]) <= tolerance
    for name, ours, oracle in zip("qkv", bars, gradients(q, k, v, visible_BST, out_bar), strict=True):
        assert ours.dtype == q.dtype
        assert relative_error(ours, oracle) <= tolerance, name
    unseeing = ~visible_BST.any(axis=2)
    assert not np.asarray(out)[unseeing].any(), "a query that sees nothing gives exact zeros"
    assert not np.asarray(bars[0])[unseeing].any(), "and has exactly no gradient"
    for bar in bars[1:]:
        assert not np.asarray(bar)[~visible_BST.any(axis=1)].any(), "a key that nobody sees has exactly no gradient"


ROWS = {
    "one_document": (segments(40, S=S), segments(40, S=S)),
    "many_documents": (segments(7, 9, 16, 8, S=S), segments(1, 2, 3, 30, 4, S=S)),
    "one_token_documents": (segments(*[1] * 40, S=S), segments(20, *[1] * 20, S=S)),
    "padding_at_the_end": (segments(10, 11, S=S), segments(39, S=S)),
    "a_row_of_padding": (segments(S=S), segments(15, 25, S=S)),
    "nothing_but_padding": (segments(S=S), segments(S=S)),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("rows", ROWS)
def test_documents_in_a_row(rows, implementation):
    segment_ids = np.stack(ROWS[rows])
    check(run, implementation, draw(), document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("window", [2, 5, 17, 100])
def test_sliding_window(window, implementation):
    segment_ids = np.stack([segments(22, 18, S=S), segments(31, S=S)])
    mask = document_mask(jnp.asarray(segment_ids), window=window)
    check(run, implementation, draw(1), mask, visible_documents(segment_ids, window))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_prompt_shared_by_two_responses(implementation):
    """Two intervals: every response sees the prompt and itself, never the other response."""
    prompt, first = 13, 12
    start, end = np.zeros((B, S, 2), np.int32), np.zeros((B, S, 2), np.int32)
    visible = np.zeros((B, S, S), bool)
    for s in range(S):
        opens = 0 if s < prompt else prompt if s < prompt + first else prompt + first
        start[:, s], end[:, s] = (0, opens), (prompt if opens else 0, s + 1)
        visible[:, s, opens : s + 1] = True
        visible[:, s, : prompt if opens else 0] = True
    check(run, implementation, draw(2), IntervalMask(jnp.asarray(start), jnp.asarray(end)), visible)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_any_two_intervals(implementation):
    """Overlapping, touching, empty, backward and overhanging intervals, causal or not: their union is what is seen."""
    rng = np.random.default_rng(3)
    start, end = rng.integers(-3, S + 3, (2, B, S, 2), dtype=np.int32)
    key = np.arange(S)
    visible = ((start[..., None] <= key) & (key < end[..., None])).any(axis=2)
    assert (~visible.any(axis=2)).any(), "some query sees nothing"
    check(run, implementation, draw(3), IntervalMask(jnp.asarray(start), jnp.asarray(end)), visible)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("num_queries", [1, 20])
def test_prefix_of_a_longer_cache(num_queries, implementation):
    """T != S: prefill and decode, where -1 is padding."""
    position = np.stack([np.arange(num_queries) + 7, np.arange(num_queries) + 3]).astype(np.int32)
    position[1, num_queries // 2 + 1 :] = -1
    visible = np.arange(S) <= position[..., None]
    check(run, implementation, draw(4, num_queries=num_queries), prefix_mask(jnp.asarray(position)), visible)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("group", [1, 4, 8])
def test_query_heads_of_a_group_share_their_keys(group, implementation):
    segment_ids = np.stack(ROWS["many_documents"])
    check(run, implementation, draw(5, group=group), document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16(implementation):
    segment_ids = np.stack(ROWS["padding_at_the_end"])
    arrays = draw(6, dtype="bfloat16")
    check(run, implementation, arrays, document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@pytest.mark.parametrize("implementation", [Implementation.XLA, Implementation.REFERENCE])
@pytest.mark.parametrize("length", [300, 5])
def test_rows_longer_and_shorter_than_a_block(length, implementation):
    """300 positions are two whole blocks of 128 and a part of one; 5 are a part of one."""
    rows = ((130, 100, 60), (290,)) if length == 300 else ((2, 3), (4,))
    segment_ids = np.stack([segments(*row, S=length) for row in rows])
    arrays = draw(7, num_queries=length, num_keys=length)
    check(run_public, implementation, arrays, document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


def test_large_scores_stay_finite():
    """Scores of a few thousand, as a diverging run has them."""
    q, k, v, out_bar = draw(8)
    segment_ids = np.stack(ROWS["many_documents"])
    out, bars = run("xla", q * 100, k * 100, v, document_mask(jnp.asarray(segment_ids)), out_bar)
    oracle, _ = attention(q * 100, k * 100, v, visible_documents(segment_ids))
    assert np.isfinite(np.concatenate([np.ravel(x) for x in (out, *bars)])).all()
    # float32 scores near 1e4 are exact to about 1e-3
    assert relative_error(out, oracle) <= 1e-3


def test_heads_that_do_not_group_are_refused():
    q, k, v, _ = draw()
    with pytest.raises(ValueError, match="3 query heads do not group over 2"):
        flash_attention(q[:, :, :3], k, v, document_mask(jnp.ones((B, S), jnp.int32)))


def test_auto_is_one_of_the_implementations():
    q, k, v, _ = draw()
    mask = document_mask(jnp.asarray(np.stack(ROWS["many_documents"])))
    auto = flash_attention(q, k, v, mask)
    named = flash_attention(q, k, v, mask, implementation=Implementation.AUTO.resolve())
    assert Implementation.AUTO.resolve() is not Implementation.AUTO
    np.testing.assert_array_equal(auto, named)
