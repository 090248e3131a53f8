"""Attention and its gradients against float64 NumPy, for every kind of mask and every implementation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import attention, gradients, relative_error, segments, visible_documents
from attention_subjects import HOPPER, REFERENCE, TPU, XLA, draw, every_subject, needs_hopper

from llama3_jax.kernels.attention import choice, tpu
from llama3_jax.kernels.attention.flash_attention import flash_attention, plan
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import IntervalMask, cross_mask, document_mask, prefix_mask, shared_prompt_mask
from llama3_jax.kernels.device import Device

TOLERANCE = {"float32": 2e-6, "bfloat16": 5e-3, "float16": 7e-4}


def check(subject, arrays, mask, visible_BST, run=None):
    q, k, v, out_bar = arrays
    out, bars = (run or subject.run)(q, k, v, mask, out_bar)
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


def rows_of(subject, *rows, off=0):
    """Segment ids of rows told in fortieths of a row; `off` moves every edge but the first."""
    lengths = [[subject.scale * length for length in row] for row in rows]
    lengths = [[row[0] + off, *row[1:-1], row[-1] - off] if len(row) > 1 else row for row in lengths]
    return np.stack([segments(*row, S=subject.length) for row in lengths])


def square(subject, seed=0, **shape):
    like = {"dtype": subject.dtype, "head_dim": subject.head_dim}
    return draw(seed, num_queries=subject.length, num_keys=subject.length, **like | shape)


ROWS = {
    "one_document": ([40], [40]),
    "many_documents": ([7, 9, 16, 8], [1, 2, 3, 30, 4]),
    "padding_at_the_end": ([10, 11], [39]),
    "a_row_of_padding": ([], [15, 25]),
    "nothing_but_padding": ([], []),
}


@every_subject
@pytest.mark.parametrize("rows", ROWS)
def test_documents_in_a_row(rows, subject):
    segment_ids = rows_of(subject, *ROWS[rows])
    check(subject, square(subject), document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@every_subject
@pytest.mark.parametrize("off", [-1, 1, 3])
def test_edges_off_the_tiles(off, subject):
    """16 fortieths are a tile of queries or a whole number of them, 32 too: edges lie on tiles, or next to them."""
    segment_ids = rows_of(subject, [16, 16, 8], [32, 8], off=off)
    check(subject, square(subject), document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@every_subject
def test_one_token_documents(subject):
    length = subject.length
    segment_ids = np.stack([np.arange(1, length + 1), segments(length // 2, *[1] * (length // 2), S=length)]).astype(np.int32)
    check(subject, square(subject), document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@every_subject
@pytest.mark.parametrize("window", [2, 17, 100])
def test_sliding_window(window, subject):
    segment_ids = rows_of(subject, [22, 18], [31])
    mask = document_mask(jnp.asarray(segment_ids), window=window)
    check(subject, square(subject, 1), mask, visible_documents(segment_ids, window))


@every_subject
def test_documents_that_are_not_causal(subject):
    segment_ids = rows_of(subject, [22, 18], [31], off=1)
    same = (segment_ids[:, :, None] == segment_ids[:, None]) & (segment_ids > 0)[:, :, None]
    check(subject, square(subject, 1), document_mask(jnp.asarray(segment_ids), causal=False), same)


@every_subject
def test_a_prompt_shared_by_responses(subject):
    """Two intervals: every response sees the prompt and itself, never the other response."""
    documents = ([(9, 6, 5), (4, 3, 8)], [(3, 1), (6, 0, 5), (0, 4, 15)])  # lengths of a prompt and its responses
    segment_ids, part_ids = np.zeros((2, 2, subject.length), np.int32)
    for b, row in enumerate(documents):
        first = 0
        for number, parts in enumerate(row, start=1):
            for part, length in enumerate(parts):
                size = subject.scale * length + (1 if length else 0)
                here = slice(first, first + size)
                segment_ids[b, here], part_ids[b, here] = number, part
                first += size
    position = np.arange(subject.length)
    visible = (segment_ids[:, :, None] == segment_ids[:, None]) & (segment_ids > 0)[:, :, None]
    visible &= (position[:, None] >= position) & ((part_ids == 0)[:, None] | (part_ids[:, :, None] == part_ids[:, None]))
    assert visible.sum() < visible_documents(segment_ids).sum(), "some response is hidden"
    mask = shared_prompt_mask(jnp.asarray(segment_ids), jnp.asarray(part_ids))
    check(subject, square(subject, 2), mask, visible)


@every_subject
def test_text_that_sees_its_image(subject):
    keys = 24 * subject.scale
    text = rows_of(subject, [5, 9, 16, 10], [12, 4, 20], off=2)
    images = np.stack([segments(0, 7 * subject.scale, 3, 5 * subject.scale, S=keys), segments(20 * subject.scale, S=keys)])
    visible = (text[:, :, None] == images[:, None]) & (text > 0)[:, :, None]
    arrays = draw(3, num_queries=subject.length, num_keys=keys, dtype=subject.dtype, head_dim=subject.head_dim)
    check(subject, arrays, cross_mask(jnp.asarray(text), jnp.asarray(images)), visible)


@every_subject
def test_any_two_intervals(subject):
    """Overlapping, touching, empty, backward and overhanging intervals, causal or not: their union is what is seen."""
    rng, length = np.random.default_rng(3), subject.length
    start, end = rng.integers(-3, length + 3, (2, 2, length, 2), dtype=np.int32)
    key = np.arange(length)
    visible = ((start[..., None] <= key) & (key < end[..., None])).any(axis=2)
    assert (~visible.any(axis=2)).any(), "some query sees nothing"
    check(subject, square(subject, 3), IntervalMask(jnp.asarray(start), jnp.asarray(end)), visible)


@every_subject
@pytest.mark.parametrize("num_queries", [1, 20])
def test_prefix_of_a_longer_cache(num_queries, subject):
    """T != S: prefill and decode, where -1 is padding."""
    position = np.stack([np.arange(num_queries) + 7, np.arange(num_queries) + 3]).astype(np.int32)
    position[1, num_queries // 2 + 1 :] = -1
    visible = np.arange(subject.length) <= position[..., None]
    like = {"dtype": subject.dtype, "head_dim": subject.head_dim}
    arrays = draw(4, num_queries=num_queries, num_keys=subject.length, **like)
    check(subject, arrays, prefix_mask(jnp.asarray(position)), visible)


@every_subject
@pytest.mark.parametrize("group", [1, 4, 8, 16])
def test_query_heads_of_a_group_share_their_keys(group, subject):
    segment_ids = rows_of(subject, *ROWS["many_documents"])
    arrays = square(subject, 5, group=group, kv_heads=2 if group < 8 else 1)
    check(subject, arrays, document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@every_subject
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precisions(dtype, head_dim, subject):
    if subject is TPU and dtype == "float16":
        pytest.skip("TPUs multiply no float16")
    segment_ids = rows_of(subject, *ROWS["padding_at_the_end"])
    arrays = square(subject, 6, head_dim=head_dim, dtype=dtype)
    check(subject, arrays, document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("implementation", [Implementation.XLA, Implementation.REFERENCE, Implementation.TPU])
@pytest.mark.parametrize("length", [300, 5])
def test_rows_longer_and_shorter_than_a_tile(length, implementation):
    """With the tiles that training has, and a plan made beforehand."""
    rows = ((130, 100, 60), (290,)) if length == 300 else ((2, 3), (4,))
    segment_ids = np.stack([segments(*row, S=length) for row in rows])
    arrays = draw(7, num_queries=length, num_keys=length)

    @jax.jit
    def run(q_BSNH, k_BTKH, v_BTKH, mask, out_bar_BSNH):
        planned = plan(mask, num_keys=length, head_dim=8, group=2, dtype="float32", implementation=implementation)
        call = partial(flash_attention, mask=mask, planned=planned)
        out_BSNH, pull = jax.vjp(call, q_BSNH, k_BTKH, v_BTKH)
        return out_BSNH, pull(out_bar_BSNH)

    check(REFERENCE, arrays, document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids), run)


@every_subject
def test_large_scores_stay_finite(subject):
    """Scores of a few thousand, as a diverging run has them."""
    q, k, v, out_bar = square(subject, 8)
    segment_ids = rows_of(subject, *ROWS["many_documents"])
    out, bars = subject.run(q * 100, k * 100, v, document_mask(jnp.asarray(segment_ids)), out_bar)
    oracle, _ = attention(q * 100, k * 100, v, visible_documents(segment_ids))
    assert np.isfinite(np.concatenate([np.ravel(x) for x in (out, *bars)])).all()
    # float32 scores near 1e4 are exact to about 1e-3
    assert relative_error(out, oracle) <= max(1e-3, TOLERANCE[subject.dtype])


@needs_hopper
@pytest.mark.slow
@pytest.mark.parametrize("length", [300, 128, 5])
def test_rows_of_any_length_on_hopper(length):
    """Its tiles are what they are: shorter rows, and rows that they do not divide, are filled up."""
    rows = ((130, 100, 60), (290,)) if length == 300 else ((2, 3), (4,))
    segment_ids = np.stack([segments(*row, S=length) for row in rows])
    arrays = draw(7, num_queries=length, num_keys=length, dtype="bfloat16", head_dim=64)
    check(HOPPER, arrays, document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


def test_heads_that_do_not_group_are_refused():
    q, k, v, _ = draw(0, num_queries=8, num_keys=8, kv_heads=2, group=2)
    with pytest.raises(ValueError, match="3 query heads do not group over 2"):
        flash_attention(q[:, :, :3], k, v, document_mask(jnp.ones((2, 8), jnp.int32)))


def test_auto_is_one_of_the_implementations():
    q, k, v, _ = square(XLA)
    mask = document_mask(jnp.asarray(rows_of(XLA, *ROWS["many_documents"])))
    auto, named = (flash_attention(q, k, v, mask, implementation=each) for each in (Implementation.AUTO, Implementation.XLA))
    np.testing.assert_array_equal(auto, named)


CPU, V5P = Device("cpu", "cpu", 1), Device("tpu", "TPU v5", 2)
H100, A100 = Device("gpu", "NVIDIA H100 80GB HBM3", 1), Device("gpu", "NVIDIA A100", 1)
LLAMA, SMALL, FULL = ({"head_dim": H, "dtype": dtype} for H, dtype in ((128, "bfloat16"), (32, "bfloat16"), (128, "float32")))


def test_auto_takes_the_fastest_that_runs(monkeypatch):
    monkeypatch.setattr(choice.jax, "__version_info__", (0, 12, 0))
    auto = partial(choice.choose, Implementation.AUTO)
    assert [auto(**LLAMA, device=device).value for device in (CPU, V5P, H100, A100)] == ["xla", "tpu", "hopper", "xla"]
    assert [auto(**shape, device=H100).value for shape in (SMALL, FULL)] == ["xla", "xla"]
    monkeypatch.setattr(choice.jax, "__version_info__", (0, 10, 2))
    said = choice.described(Implementation.AUTO, **LLAMA, device=H100)
    assert said.startswith("xla (hopper needs jax 0.11, this is "), "and says why"
    assert choice.described(Implementation.AUTO, **LLAMA, device=CPU) == "xla"


@pytest.mark.parametrize(
    "wanted, shape, device, why",
    [
        (Implementation.TPU, LLAMA, CPU, "attention=tpu runs on TPUs, the devices here are cpu; use attention=auto or xla"),
        (Implementation.HOPPER, LLAMA, A100, "attention=hopper runs on H100 and H200, the devices here are NVIDIA A100"),
        (Implementation.HOPPER, FULL, H100, "takes head dims of 64 and 128 in bfloat16 or float16, not 128 in float32"),
        (Implementation.HOPPER, SMALL, H100, "not 32 in bfloat16"),
        (Implementation.CUDNN, LLAMA, V5P, "attention=cudnn runs on NVIDIA GPUs, the devices here are tpu"),
        (Implementation.CUDNN, FULL, H100, "of up to 128 that 8 divides, in bfloat16 or float16, not 128 in float32"),
    ],
)
def test_what_cannot_run_here_is_refused_by_name(wanted, shape, device, why, monkeypatch):
    monkeypatch.setattr(choice.jax, "__version_info__", (0, 12, 0))
    with pytest.raises(ValueError, match=why):
        choice.require(wanted, **shape, device=device)
    assert choice.require(Implementation.XLA, **shape, device=device) is Implementation.XLA


@needs_hopper
def test_the_kernels_for_hopper():
    """Edges off the tiles, padding; no race. Every other mask, and more heads, in the slow tests."""
    segment_ids = rows_of(HOPPER, [16, 16, 4], off=1)
    arrays = square(HOPPER, 10, rows=1)
    check(HOPPER, arrays, document_mask(jnp.asarray(segment_ids)), visible_documents(segment_ids))


@needs_hopper
def test_the_kernels_for_hopper_refuse_what_they_are_not_written_for():
    for shape, why in (({"dtype": "float32"}, "head_dim=64, float32"), ({"head_dim": 32}, "head_dim=32, bfloat16")):
        q, k, v, _ = square(HOPPER, **shape)
        with pytest.raises(ValueError, match=f"{why}; the kernels for Hopper take 64 or 128"):
            HOPPER.attention(q, k, v, document_mask(jnp.ones((2, HOPPER.length), jnp.int32)))


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_two_cores_share_the_heads_of_one_key_head(dtype, monkeypatch):
    monkeypatch.setattr(tpu, "traced_for", lambda: Device("tpu", "TPU v5", cores=2))
    segment_ids = rows_of(TPU, *ROWS["many_documents"])
    mask = document_mask(jnp.asarray(segment_ids))
    q, k, v, out_bar = square(TPU, 9, group=4, dtype=dtype)
    schedule = TPU.schedule(mask, TPU.length)
    assert jax.eval_shape(lambda: tpu.count_visits(q, k, v, mask, schedule, TPU.blocks)).forward_RP.shape[0] == 2

    def run(q, k, v, mask, out_bar):
        out, pull = jax.vjp(partial(TPU.attention, mask=mask), q, k, v)
        return out, pull(out_bar)

    check(TPU, (q, k, v, out_bar), mask, visible_documents(segment_ids), run)
