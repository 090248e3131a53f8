"""Whatever happens in one document of a row changes no bit of any other, forward or backward."""

import jax.numpy as jnp
import numpy as np
import pytest
from attention_subjects import draw, every_subject
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.kernels.attention.mask import document_mask

packings = given(
    lengths=st.lists(st.integers(1, 14), min_size=2, max_size=12), which=st.integers(0, 11), seed=st.integers(0, 2**32 - 1)
)


def one_document_changes_no_other(subject, lengths, which, seed):
    length = subject.length
    lengths = [max(1, subject.scale * size - seed % 5) for size in lengths]
    segment_ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)[:length].astype(np.int32)
    segment_ids = np.pad(segment_ids, (0, length - segment_ids.size))
    here = segment_ids == segment_ids[0] + which % segment_ids.max()
    like = {"dtype": subject.dtype, "head_dim": subject.head_dim}
    before, new = (draw(seed + n, rows=1, num_queries=length, num_keys=length, **like) for n in (0, 1))
    after = [jnp.where(here[None, :, None, None], 30 * x, old) for x, old in zip(new, before, strict=True)]
    (out, bars), (changed, changed_bars) = (
        subject.run(q, k, v, document_mask(segment_ids[None]), out_bar) for q, k, v, out_bar in (before, after)
    )
    for name, old, now in zip(("out", *"qkv"), (out, *bars), (changed, *changed_bars), strict=True):
        np.testing.assert_array_equal(np.asarray(old)[:, ~here], np.asarray(now)[:, ~here], err_msg=name)
    assert not np.array_equal(out, changed), "the document itself did change"


@every_subject
@settings(max_examples=20, deadline=None, derandomize=True)
@packings
def test_one_document_changes_no_other(subject, lengths, which, seed):
    one_document_changes_no_other(subject, lengths, which, seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # interpreted for Hopper, seconds a call
@every_subject
@settings(max_examples=300, deadline=None, derandomize=True)
@packings
def test_in_three_hundred_packings(subject, lengths, which, seed):
    one_document_changes_no_other(subject, lengths, which, seed)
