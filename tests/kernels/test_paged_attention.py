"""A few queries of each request against keys and values on pages, read through a table."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import attention, relative_error
from attention_subjects import interpreting, needs_hopper, no_race_was_found_on_hopper
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.kernels.attention import tpu_decode
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask, dense, prefix_mask
from llama3_jax.kernels.attention.paged import few, paged_attention

R, K, G, H, L = 3, 2, 2, 64, 2
LAYER = 1


@dataclass(frozen=True)
class Subject:
    name: str
    dtype: str
    bound: float

    def run(self, *arguments):
        out = jax.block_until_ready(self._run(*arguments))
        if self.name == "hopper":
            no_race_was_found_on_hopper()
        return out

    @partial(jax.jit, static_argnums=0)
    def _run(self, q_RSNH, k_LPCX, v_LPCX, table_RM, mask):
        arguments = (q_RSNH, k_LPCX, v_LPCX, jnp.int32(LAYER), table_RM, mask)
        if self.name == "tpu":
            with interpreting():
                return tpu_decode.attention(*arguments)
        if self.name == "hopper":
            from jax.experimental.pallas import mosaic_gpu as plgpu

            from llama3_jax.kernels.attention import hopper_decode

            return hopper_decode.attention(*arguments, interpret=plgpu.InterpretGPUParams(detect_races=True))
        return paged_attention(*arguments, implementation=Implementation.XLA)


GATHERED, TPU, HOPPER = Subject("gathered", "float32", 2e-6), Subject("tpu", "float32", 2e-6), Subject("hopper", "bfloat16", 5e-3)
every_subject = pytest.mark.parametrize(
    "subject", [GATHERED, TPU, pytest.param(HOPPER, marks=[pytest.mark.slow, needs_hopper])], ids=lambda subject: subject.name
)


def pool(seed, dtype, *, page, pages_each, spare=2):
    """Keys and values on pages, and tables that no two requests share a page of."""
    rng = np.random.default_rng(seed)
    num_pages = R * pages_each + spare
    k, v = (jnp.asarray(rng.normal(size=(L, num_pages, page, K * H)), dtype) for _ in range(2))
    return k, v, rng.permutation(num_pages)[: R * pages_each].reshape(R, pages_each).astype(np.int32)


def queries(seed, dtype, num=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(R, num, K * G, H)), dtype)


def expected(q, k, v, table, mask):
    keys, values = (np.asarray(x, np.float64)[LAYER][table].reshape(R, -1, K, H) for x in (k, v))
    return attention(q, keys, values, np.asarray(dense(mask, keys.shape[1])))[0]


@every_subject
@pytest.mark.parametrize("page", [16, pytest.param(64, marks=pytest.mark.slow), 256])
def test_prefixes_of_any_length(subject, page):
    k, v, table = pool(0, subject.dtype, page=page, pages_each=640 // page if page < 256 else 3)
    q = queries(1, subject.dtype)
    for positions in ([0, 63, 64], [15, 16, 300], [-1, 599, 255]):
        mask = prefix_mask(jnp.array(positions, jnp.int32)[:, None])
        out = subject.run(q, k, v, table, mask)
        assert relative_error(out, expected(q, k, v, table, mask)) < subject.bound
        assert not np.asarray(out, np.float32)[np.array(positions) < 0].any(), "who sees nothing gets zeros"


@every_subject
def test_several_queries_and_two_intervals(subject):
    """Of a prompt that responses share, and of a window."""
    k, v, table = pool(2, subject.dtype, page=16, pages_each=40)
    q = queries(3, subject.dtype, num=3)
    position = np.array([[300, 301, 302], [5, 6, -1], [600, 610, 620]])
    start = np.stack([np.zeros_like(position), position - 100], -1).clip(0)
    end = np.stack([np.minimum(position + 1, 40), position + 1], -1)
    mask = IntervalMask(jnp.asarray(start, jnp.int32), jnp.asarray(end, jnp.int32))
    assert relative_error(subject.run(q, k, v, table, mask), expected(q, k, v, table, mask)) < subject.bound


@pytest.mark.parametrize("subject", [TPU, pytest.param(HOPPER, marks=[pytest.mark.slow, needs_hopper])], ids=lambda s: s.name)
def test_pages_that_nobody_sees_are_not_read(subject):
    """They are of others, or not written yet: NaN in them changes nothing."""
    k, v, table = pool(4, subject.dtype, page=16, pages_each=40)
    q = queries(5, subject.dtype)
    position = np.array([[40], [511], [320]])
    mask = IntervalMask(jnp.asarray(position - 30, jnp.int32)[..., None].clip(0), jnp.asarray(position + 1, jnp.int32)[..., None])
    out = subject.run(q, k, v, table, mask)
    seen = {(LAYER, table[r, at // 16]) for r, (p,) in enumerate(position) for at in range((p - 30) // 256 * 256, p + 1)}
    others = [(layer, page) for layer in range(L) for page in range(k.shape[1]) if (layer, page) not in seen]
    index = tuple(np.array(others).T)
    poisoned = subject.run(q, k.at[index].set(jnp.nan), v.at[index].set(jnp.nan), table, mask)
    np.testing.assert_array_equal(np.asarray(poisoned, np.float32), np.asarray(out, np.float32))


@every_subject
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_table_and_any_intervals(subject, data):
    """Pages in any order, shared or not; intervals empty, overlapping or apart, in any order."""
    k, v, _ = pool(data.draw(st.integers(0, 99)), subject.dtype, page=16, pages_each=20)

    def numbers(most, *shape):
        size = int(np.prod(shape))
        return np.array(data.draw(st.lists(st.integers(0, most), min_size=size, max_size=size)), np.int32).reshape(shape)

    table = numbers(k.shape[1] - 1, R, 20)
    start, end = (jnp.asarray(numbers(320, R, 2, 2)) for _ in range(2))
    q, mask = queries(6, subject.dtype, num=2), IntervalMask(start, end)
    want = expected(q, k, v, table, mask)
    difference = np.asarray(subject.run(q, k, v, table, mask), np.float64) - want
    assert np.linalg.norm(difference) <= subject.bound * np.linalg.norm(want)


def test_what_the_kernels_do_not_take_is_gathered():
    """Pages of 24, and heads of 8: the same result by the other way."""
    rng = np.random.default_rng(7)
    k, v = (jnp.asarray(rng.normal(size=(L, 9, 24, K * 8)), jnp.float32) for _ in range(2))
    table, q = jnp.arange(9, dtype=jnp.int32).reshape(R, 3), jnp.asarray(rng.normal(size=(R, 1, K * G, 8)), jnp.float32)
    mask = prefix_mask(jnp.array([[70], [3], [40]], jnp.int32))
    out = paged_attention(q, k, v, jnp.int32(0), table, mask)
    keys, values = (np.asarray(x, np.float64)[0][np.asarray(table)].reshape(R, -1, K, 8) for x in (k, v))
    assert relative_error(out, attention(q, keys, values, np.asarray(dense(mask, 72)))[0]) < 2e-6
    assert few(1, 64) and not few(5, 16)
