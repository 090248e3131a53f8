"""The schedule lists a block pair exactly when some query in it sees some key in it, and nothing else is read."""

import jax
import jax.numpy as jnp
import numpy as np
from attention_oracle import segments, visible_documents
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.kernels.attention import xla
from llama3_jax.kernels.attention.flash_attention import BLOCK, plan
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask, dense, document_mask
from llama3_jax.kernels.attention.schedule import block_schedule

B, S, T, BLOCK_Q, BLOCK_K = 2, 21, 30, 8, 7


def brute_force(visible_BST, block_q, block_k):
    """(row, query block, key block) numbers with a visible pair, in order."""
    B, S, T = visible_BST.shape
    num_q, num_k = -(-S // block_q), -(-T // block_k)
    return [
        (b * num_q + i) * num_k + j
        for b in range(B)
        for i in range(num_q)
        for j in range(num_k)
        if visible_BST[b, i * block_q : (i + 1) * block_q, j * block_k : (j + 1) * block_k].any()
    ]


@jax.jit
def schedule_and_dense(mask):
    return block_schedule(mask, num_keys=T, block_q=BLOCK_Q, block_k=BLOCK_K), dense(mask, T)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), longest=st.integers(0, T + 2))
def test_visits_are_the_blocks_with_a_visible_pair(seed, longest):
    rng = np.random.default_rng(seed)
    start = rng.integers(-2, T + 2, (B, S, 2), dtype=np.int32)
    end = (start + rng.integers(-2, longest + 1, start.shape)).astype(np.int32)
    schedule, visible = schedule_and_dense(IntervalMask(start, end))
    key = np.arange(T)
    np.testing.assert_array_equal(visible, ((start[..., None] <= key) & (key < end[..., None])).any(axis=2))
    expected = brute_force(np.asarray(visible), BLOCK_Q, BLOCK_K)
    assert schedule.count == len(expected)
    assert np.asarray(schedule.visit_M)[: len(expected)].tolist() == expected


@settings(max_examples=20, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 20), max_size=8), window=st.none() | st.integers(1, 40), padded_row=st.booleans())
def test_document_mask_is_causal_inside_documents(lengths, window, padded_row):
    rows = [segments(*lengths, S=S), segments(S=S) if padded_row else segments(*lengths[::-1], S=S)]
    segment_ids = np.stack(rows)
    visible = dense(document_mask(jnp.asarray(segment_ids), window=window), S)
    np.testing.assert_array_equal(visible, visible_documents(segment_ids, window))


def test_cost_follows_documents():
    """Eight documents of a block each cost eight visits; one document of eight blocks costs 36."""
    apart = np.repeat(np.arange(1, 9), BLOCK)[None].astype(np.int32)
    counts = [int(plan(document_mask(jnp.asarray(ids)), num_keys=8 * BLOCK).count) for ids in (apart, np.ones_like(apart))]
    assert counts == [8, 36]


def test_the_reference_needs_no_plan():
    assert plan(document_mask(jnp.ones((1, 4), jnp.int32)), num_keys=4, implementation=Implementation.REFERENCE) is None


def test_blocks_that_nobody_sees_are_never_read():
    """NaN in their keys and values, and in the queries and cotangents of blocks that see nothing, reaches nothing."""
    length, block = 64, 8
    segment_ids = np.stack([segments(19, 13, S=length), segments(S=length)])
    mask = document_mask(jnp.asarray(segment_ids))
    visible = visible_documents(segment_ids)
    shape = (2, length // block, block)
    idle = ~visible.any(axis=1).reshape(shape).any(axis=2, keepdims=True)
    idle = np.broadcast_to(idle, shape).reshape(2, length)[..., None, None]
    rng = np.random.default_rng(0)
    q, k, v, out_bar = (rng.normal(size=(2, length, heads, 4)).astype(np.float32) for heads in (4, 2, 2, 4))

    @jax.jit
    def run(q, k, v):
        schedule = block_schedule(mask, num_keys=length, block_q=block, block_k=block)
        out, pull = jax.vjp(lambda q, k, v: xla.attention(q, k, v, mask, schedule, block_q=block, block_k=block), q, k, v)
        return out, pull(jnp.asarray(out_bar))

    clean = run(q, k, v)
    assert idle.any(axis=1).all(), "both rows have such blocks"
    poisoned = run(*(np.where(idle, np.nan, x) for x in (q, k, v)))
    jax.tree.map(np.testing.assert_array_equal, clean, poisoned)
