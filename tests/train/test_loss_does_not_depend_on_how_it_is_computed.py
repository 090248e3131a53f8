"""The same documents give the same loss and gradient, however they are packed, ordered, padded and taken in pieces."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import documents, new_model, packed, placed

from llama3_jax.kernels.attention import block_sizes
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.cross_entropy.chunked import cross_entropy
from llama3_jax.model import transformer
from llama3_jax.model.config import ModelConfig
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import NextToken
from llama3_jax.train.step import TrainState, make_step

CFG = ModelConfig(
    num_layers=2, model_dim=16, num_heads=4, num_kv_heads=2, head_dim=4, ffw_dim=24, vocab_size=64, context_length=64
)
S, LENGTHS = 32, ((9, 5, 18), (32,), (1, 30), (3,) * 10, (17, 15), (20,), (1, 1, 1, 29), (8, 8, 8, 8))
LONGER = 45
ROWS = [documents(CFG, *lengths, seed=row) for row, lengths in enumerate(LENGTHS)]
OPTIMIZER = AdamW(beta1=0.0, clip_norm=1e30)
"""Its first moment is the gradient."""


def in_pieces(rows, microbatches, length=S):
    return jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, length), packed(rows, length))


@pytest.fixture(scope="module")
def state(one_device):
    return TrainState.create(new_model(CFG), OPTIMIZER)


@pytest.fixture(scope="module")
def step(state):
    """Rows of several blocks; compiled for each shape once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_sizes, "XLA_BLOCK", 8)
        yield jax.jit(make_step(NextToken(), OPTIMIZER))


def run(step, state, batch):
    """(metrics, gradient), without the checksum of the batch, which is to differ where the batch does"""
    after, metrics = step(state, placed(batch), jnp.float32(0))
    del metrics["batch_hash"]
    return jax.tree.map(float, metrics), jax.tree.map(np.asarray, after.moments.mu)


@pytest.fixture(scope="module")
def expected(step, state):
    return run(step, state, in_pieces(ROWS, 2))


def assert_same(ours, expected):
    (metrics, gradient), (right_metrics, right_gradient) = ours, expected
    assert metrics == pytest.approx(right_metrics, rel=1e-6)
    for (path, leaf), right in zip(jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(right_gradient), strict=True):
        assert np.linalg.norm(leaf - right) <= 1e-5 * np.linalg.norm(right), jax.tree_util.keystr(path)


def test_what_is_compared(expected):
    """All supervised tokens count, and every parameter has a gradient."""
    metrics, gradient = expected
    lengths = np.concatenate(LENGTHS)
    assert metrics["supervised_tokens"] == np.sum(lengths - 1)
    assert metrics["visible_pairs"] == np.sum(lengths * (lengths + 1) // 2)
    assert all(np.linalg.norm(leaf) > 1e-4 for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("microbatches", [1, 4])
def test_microbatches(microbatches, step, state, expected):
    assert_same(run(step, state, in_pieces(ROWS, microbatches)), expected)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_microbatches_of_uneven_weight(microbatches, step, state):
    """Some tokens count for more, the second of four micro-batches counts for nothing, the third for one token."""
    weight_BS = packed(ROWS, S).loss_weight * np.random.default_rng(0).choice([0.0, 1.0, 2.5], (len(ROWS), S))
    weight_BS[2:6], weight_BS[4, 3] = 0, 1

    def weighted(pieces):
        return in_pieces(ROWS, pieces)._replace(loss_weight=weight_BS.astype(np.float32).reshape(pieces, -1, S))

    assert_same(run(step, state, weighted(microbatches)), run(step, state, weighted(2)))


@pytest.mark.parametrize("seed", range(3))
def test_order_of_rows_and_of_documents_in_a_row(seed, step, state, expected):
    rng = np.random.default_rng(seed)
    rows = [[ROWS[row][n] for n in rng.permutation(len(ROWS[row]))] for row in rng.permutation(len(ROWS))]
    assert_same(run(step, state, in_pieces(rows, 2)), expected)


@pytest.mark.parametrize("seed", range(3))
def test_which_row_a_document_is_packed_into(seed, step, state, expected):
    """First fit in a random order, into longer rows, as many as it takes; the others are padding."""
    docs, rows = [document for row in ROWS for document in row], [[] for _ in range(10)]
    for n in np.random.default_rng(seed).permutation(len(docs)):
        next(row for row in rows if sum(map(len, row)) + len(docs[n]) <= LONGER).append(docs[n])
    assert_same(run(step, state, in_pieces(rows, 2, LONGER)), expected)


def test_padding(step, state, expected):
    """Behind the documents of a row, and in rows of nothing else."""
    assert_same(run(step, state, in_pieces([ROWS[0], [], *ROWS[1:], []], 2, LONGER)), expected)


@pytest.mark.parametrize(
    "attention, block, chunk",
    [(Implementation.XLA, 5, 7), (Implementation.XLA, 128, 1), (Implementation.REFERENCE, None, 64)],
)
def test_blocks_of_attention_and_chunks_of_cross_entropy(attention, block, chunk, state, expected, monkeypatch):
    """Those that divide a row or a batch and those that do not; all others here are of blocks of 8 and a single chunk."""
    monkeypatch.setattr(block_sizes, "XLA_BLOCK", block)
    monkeypatch.setattr(transformer, "cross_entropy", partial(cross_entropy, chunk=chunk))
    step = jax.jit(make_step(NextToken(attention=attention), OPTIMIZER))
    assert_same(run(step, state, in_pieces(ROWS, 2)), expected)
