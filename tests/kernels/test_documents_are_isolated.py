"""Whatever happens in one document of a row changes no bit of any other, forward or backward."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.kernels.attention import reference, xla
from llama3_jax.kernels.attention.mask import document_mask
from llama3_jax.kernels.attention.schedule import block_schedule

S, N, K, H, BLOCK = 32, 4, 2, 8, 8


@partial(jax.jit, static_argnums=0)
def run(implementation, arrays, segment_ids_BS):
    *qkv, out_bar_BSNH = arrays
    mask = document_mask(segment_ids_BS)

    def call(q_BSNH, k_BTKH, v_BTKH):
        if implementation == "reference":
            return reference.attention(q_BSNH, k_BTKH, v_BTKH, mask)
        schedule = block_schedule(mask, num_keys=S, block_q=BLOCK, block_k=BLOCK)
        return xla.attention(q_BSNH, k_BTKH, v_BTKH, mask, schedule, block_q=BLOCK, block_k=BLOCK)

    out_BSNH, pull = jax.vjp(call, *qkv)
    return out_BSNH, *pull(out_bar_BSNH)


def draw(rng):
    return [rng.normal(size=(1, S, heads, H)).astype(np.float32) for heads in (N, K, K, N)]


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 14), min_size=2, max_size=12), which=st.integers(0, 11), seed=st.integers(0, 2**32 - 1))
def test_one_document_changes_no_other(implementation, lengths, which, seed):
    rng = np.random.default_rng(seed)
    segment_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)[:S].astype(np.int32)
    segment_ids = np.pad(segment_ids, (0, S - segment_ids.size))
    here = segment_ids == segment_ids[0] + which % segment_ids.max()
    before = draw(rng)
    after = [np.where(here[None, :, None, None], 30 * new, old) for new, old in zip(draw(rng), before, strict=True)]
    arrays = run(implementation, before, segment_ids[None]), run(implementation, after, segment_ids[None])
    for name, old, new in zip(("out", "q_bar", "k_bar", "v_bar"), *arrays, strict=True):
        np.testing.assert_array_equal(np.asarray(old)[:, ~here], np.asarray(new)[:, ~here], err_msg=name)
    assert not np.array_equal(arrays[0][0], arrays[1][0]), "the document itself did change"
