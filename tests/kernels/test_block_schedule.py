"""The schedule lists a tile exactly when some query in it sees some key in it, and nothing else is visited or read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import segments, visible_documents
from attention_subjects import HOPPER, TPU, XLA, draw, needs_hopper
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.kernels.attention import tpu
from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.flash_attention import plan
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask, dense, document_mask
from llama3_jax.kernels.attention.schedule import EMPTY, FIRST, LAST, MASKED, block_schedule, unpack

B, S, T, BLOCK_Q, BLOCK_K = 2, 21, 30, 8, 7


def tiles(visible_BST, block_q, block_k):
    """bool [B, Q, J, queries, keys]; nobody sees what fills up the last tile."""
    B, S, T = visible_BST.shape
    padded = np.pad(visible_BST, ((0, 0), (0, -S % block_q), (0, -T % block_k)))
    return padded.reshape(B, padded.shape[1] // block_q, block_q, -1, block_k).swapaxes(2, 3)


def entries(visits):
    """(query tile, key tile, flags) of the visits with a visible pair, and of those without."""
    listed = [tuple(map(int, unpack(visit))) for visit in np.asarray(visits.visit_M)[: int(visits.steps)]]
    return listed[: int(visits.count)], listed[int(visits.count) :]


@jax.jit
def schedule_and_dense(mask):
    return block_schedule(mask, num_keys=T, block_q=BLOCK_Q, block_k=BLOCK_K), dense(mask, T)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), longest=st.integers(0, T + 2))
def test_visits_are_the_tiles_with_a_visible_pair(seed, longest):
    rng = np.random.default_rng(seed)
    start = rng.integers(-2, T + 2, (B, S, 2), dtype=np.int32)
    end = (start + rng.integers(-2, longest + 1, start.shape)).astype(np.int32)
    schedule, visible = schedule_and_dense(IntervalMask(start, end))
    key = np.arange(T)
    np.testing.assert_array_equal(visible, ((start[..., None] <= key) & (key < end[..., None])).any(axis=2))
    in_tiles = tiles(np.asarray(visible), BLOCK_Q, BLOCK_K)
    seen, whole = in_tiles.any(axis=(3, 4)), in_tiles.all(axis=(3, 4))
    _, Q, J = seen.shape
    expected = {(b * Q + q, b * J + j): bool(whole[b, q, j]) for b, q, j in np.argwhere(seen)}
    for visits, line in ((schedule.by_query, 0), (schedule.by_key, 1)):
        active, empty = entries(visits)
        assert [entry[:2] for entry in active] == sorted(expected, key=lambda place: (place[line], place[1 - line]))
        lines = [entry[line] for entry in active]
        for n, (*place, flags) in enumerate(active):
            assert bool(flags & FIRST) == (lines.index(lines[n]) == n), "of its line"
            assert bool(flags & LAST) == (n + 1 == len(lines) or lines[n + 1] != lines[n])
            assert not flags & EMPTY and (flags & MASKED or expected[tuple(place)]), "a hidden pair needs a mask"
        per_line = np.bincount(lines, minlength=seen.size // (J, Q)[line]) if lines else np.zeros(seen.size // (J, Q)[line], int)
        np.testing.assert_array_equal(visits.length_L, per_line)
        np.testing.assert_array_equal(visits.first_L, np.cumsum(per_line) - per_line)
        assert sorted(map(int, visits.turn_L)) == list(range(per_line.size))
        assert (np.diff(per_line[np.asarray(visits.turn_L)]) <= 0).all(), "long lines first"
        assert sorted(entry[line] for entry in empty) == sorted(set(range(seen.size // (J, Q)[line])) - set(lines))
        assert all(flags & (FIRST | LAST | EMPTY) == FIRST | LAST | EMPTY for *_, flags in empty)


def test_tiles_inside_a_document_need_no_mask():
    """Of 36 causal tiles the 8 on the diagonal do, where one document fills the row."""
    schedule = block_schedule(document_mask(jnp.ones((1, 64), jnp.int32)), num_keys=64, block_q=8, block_k=8)
    active, _ = entries(schedule.by_query)
    assert [place for *place, flags in active if flags & MASKED] == [[n, n] for n in range(8)] and len(active) == 36


@settings(max_examples=20, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 20), max_size=8), window=st.none() | st.integers(1, 40), padded_row=st.booleans())
def test_document_mask_is_causal_inside_documents(lengths, window, padded_row):
    rows = [segments(*lengths, S=S), segments(S=S) if padded_row else segments(*lengths[::-1], S=S)]
    segment_ids = np.stack(rows)
    visible = dense(document_mask(jnp.asarray(segment_ids), window=window), S)
    np.testing.assert_array_equal(visible, visible_documents(segment_ids, window))


def count(lengths, S, block=128):
    mask = document_mask(jnp.asarray(segments(*lengths, S=S)[None]))
    return int(block_schedule(mask, num_keys=S, block_q=block, block_k=block).by_query.count)


def test_cost_is_linear_in_equal_documents():
    assert [count([512] * number, 8192) for number in (1, 2, 4, 8, 16)] == [10 * number for number in (1, 2, 4, 8, 16)]
    assert count([8192], 8192) == 64 * 65 // 2


@pytest.mark.parametrize("seed", range(8))
def test_cost_follows_documents(seed):
    """Visits stay within 1.5 times the pairs there are, where documents are a few tiles long."""
    lengths = np.random.default_rng(seed).lognormal(np.log(1500), 0.5, 64).astype(int)
    lengths = lengths[: np.searchsorted(np.cumsum(lengths), 8192)]
    assert count(lengths, 8192) <= 1.5 * sum(length**2 / 2 for length in lengths) / 128**2


def test_the_reference_needs_no_plan():
    mask = document_mask(jnp.ones((1, 4), jnp.int32))
    how = {"num_keys": 4, "head_dim": 8, "group": 1, "dtype": "float32"}
    assert plan(mask, **how, implementation=Implementation.REFERENCE).schedule is None


def test_more_tiles_than_a_schedule_numbers_are_refused():
    mask = IntervalMask(*jnp.zeros((2, 1, 2**15, 1), jnp.int32))
    with pytest.raises(ValueError, match="make 32768 query tiles and 1 key tiles of 1 and 8, at most 16384 and 8192 fit"):
        block_schedule(mask, num_keys=8, block_q=1, block_k=8)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("heads", [1, 2])
def test_the_kernels_make_the_visits_of_the_schedule(heads):
    """Told by the kernels themselves, for each tile."""
    segment_ids = np.stack([segments(300, 100, 1, 1, 150, S=700), segments(S=700), segments(40, 660, S=700)])
    mask = document_mask(jnp.asarray(segment_ids))
    q, k, v, _ = draw(0, rows=3, num_queries=700, num_keys=700, kv_heads=heads)
    schedule = TPU.schedule(mask, 700)
    counted = tpu.count_visits(q, k, v, mask, schedule, TPU.blocks)
    seen = tiles(visible_documents(segment_ids), *TPU.blocks).any(axis=(3, 4))
    by_query, by_key = seen.sum(axis=2).reshape(-1), seen.sum(axis=1).reshape(-1)
    assert by_query.sum() == schedule.by_query.count == by_key.sum() == schedule.by_key.count and (by_query == 0).any()
    for head in range(heads):
        for found, expected, block in (
            (counted.forward_RP, by_query, TPU.blocks.queries), (counted.query_gradient_RP, by_query, TPU.blocks.queries),
            (counted.key_gradient_RU, by_key, TPU.blocks.keys),
        ):  # fmt: skip
            np.testing.assert_array_equal(np.asarray(found)[head, 0], np.repeat(expected, block))


@needs_hopper
def test_the_kernels_for_hopper_make_the_visits_of_the_schedule():
    from jax.experimental.pallas import mosaic_gpu as plgpu

    from llama3_jax.kernels.attention import hopper

    segment_ids = segments(180, 1, 30, S=500)[None]
    mask, visible = document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids)
    q, k, v, _ = draw(0, rows=1, num_queries=500, num_keys=500, dtype="bfloat16", head_dim=64)
    schedule = HOPPER.schedule(mask, 500)
    counted = hopper.count_visits(q, k, v, mask, schedule, interpret=plgpu.InterpretGPUParams())
    seen = tiles(visible, *HOPPER.blocks).any(axis=(3, 4))
    for found, expected in zip(counted, (seen.sum(axis=2), seen.sum(axis=2), seen.sum(axis=1)), strict=True):
        assert (expected == 0).any()
        np.testing.assert_array_equal(found, np.broadcast_to(expected.reshape(-1, 1), found.shape))


@pytest.mark.parametrize(
    "subject", [XLA, TPU, pytest.param(HOPPER, marks=[pytest.mark.slow, needs_hopper])], ids=lambda subject: subject.name
)
def test_tiles_that_nobody_sees_are_never_read(subject):
    """NaN in their keys and values, and in the queries and cotangents of tiles that see nothing, reaches nothing."""
    length = 4 * max(subject.blocks)
    segment_ids = np.stack([segments(length // 2 + 3, S=length), segments(S=length)])
    mask, visible = document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids)
    like = {"dtype": subject.dtype, "head_dim": subject.head_dim}
    q, k, v, out_bar = draw(0, num_queries=length, num_keys=length, **like)

    def poisoned(x, block, seen):
        idle = ~np.repeat(seen.reshape(2, -1, block).any(axis=2), block, axis=1)
        assert idle.any(axis=1).all(), "both rows have such tiles"
        return jnp.where(idle[..., None, None], jnp.nan, x)

    of_queries = (subject.blocks.queries, visible.any(axis=2))
    of_keys = (subject.blocks.keys, visible.any(axis=1))
    clean = subject.run(q, k, v, mask, out_bar)
    dirty = subject.run(poisoned(q, *of_queries), poisoned(k, *of_keys), poisoned(v, *of_keys), mask, out_bar)
    jax.tree.map(np.testing.assert_array_equal, clean, dirty)


def test_a_schedule_that_does_not_fit_a_tpu_is_refused():
    q, k, v = (jax.ShapeDtypeStruct((1, 2**17, 1, 8), jnp.float32) for _ in range(3))

    def attend(q, k, v):
        mask = document_mask(jnp.ones((1, 2**17), jnp.int32))
        blocks = BlockSizes(128, 128)
        schedule = block_schedule(mask, num_keys=2**17, block_q=128, block_k=128)
        return tpu.attention(q, k, v, mask, schedule, blocks)

    with pytest.raises(ValueError, match="does not fit the 524288 that a TPU core has for it; use larger tiles than 128 x 128"):
        jax.eval_shape(attend, q, k, v)
