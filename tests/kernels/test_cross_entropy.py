"""Chunked, vocabulary-parallel cross entropy against the one that holds all logits, and that one against float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from llama3_jax.kernels.cross_entropy import chunked, reference

B, S, D, V = 2, 7, 8, 24
SCALE = 1.7
"""Of the loss, so that a cotangent other than 1 is passed back."""


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    x_BSD = rng.normal(size=(B, S, D)).astype(np.float32)
    head_DV = rng.normal(size=(D, V)).astype(np.float32)
    targets_BS = rng.integers(0, V, (B, S)).astype(np.int32)
    targets_BS[0, :2] = 0, V - 1
    weight_BS = rng.choice([0.0, 0.25, 1.0, 3.0], (B, S)).astype(np.float32)
    assert (weight_BS == 0).any()
    return x_BSD, head_DV, targets_BS, weight_BS


def of_reference(x_BSD, head_DV, targets_BS, weight_BS):
    nll_BS = reference.cross_entropy(x_BSD, head_DV, targets_BS)
    return SCALE * jnp.sum(nll_BS * weight_BS), nll_BS


def of_chunks(chunk, axis, x_BSD, head_DV, targets_BS, weight_BS):
    loss, nll_BS = chunked.cross_entropy(x_BSD, head_DV, targets_BS, weight_BS, axis, (), chunk)
    return SCALE * loss, nll_BS


def values(function, inputs):
    (loss, nll_BS), bars = jax.jit(jax.value_and_grad(function, (0, 1), has_aux=True))(*inputs)
    return loss, nll_BS, *bars


def agree(ours, oracle, tolerance=1e-6):
    for name, mine, right in zip(("loss", "nll", "x_bar", "head_bar"), ours, oracle, strict=True):
        error = np.linalg.norm(np.asarray(mine, np.float64) - right) / np.linalg.norm(np.asarray(right, np.float64))
        assert error <= tolerance, name


@pytest.fixture(scope="module")
def expected(inputs):
    return values(of_reference, inputs)


def test_the_reference_is_right(inputs, expected):
    x, head, targets, weight = (np.asarray(each, np.float64) for each in inputs)
    logits = x @ head
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    prob = exp / exp.sum(-1, keepdims=True)
    hit = np.eye(V)[targets.astype(int)]
    nll = -np.log((prob * hit).sum(-1))
    logits_bar = SCALE * weight[..., None] * (prob - hit)
    agree(expected, (SCALE * (nll * weight).sum(), nll, logits_bar @ head.T, np.einsum("bsd,bsv->dv", x, logits_bar)))


@pytest.mark.parametrize("chunk", [1, 4, 14, 512])
def test_chunks_change_nothing(chunk, inputs, expected):
    """14 positions: chunks of one, chunks that do not divide, one that fits exactly, one that is larger."""
    agree(values(partial(of_chunks, chunk, None), inputs), expected)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_split_vocabulary_changes_nothing(parts, inputs, expected):
    devices = jax.make_mesh((parts,), ("vocab",), (jax.sharding.AxisType.Explicit,), devices=jax.devices()[:parts])
    with jax.set_mesh(devices):
        split = jax.shard_map(
            partial(of_chunks, 4, "vocab"), in_specs=(P(), P(None, "vocab"), P(), P()), out_specs=P(), check_vma=False
        )
        placed = [
            jax.device_put(each, jax.NamedSharding(devices, P(None, "vocab") if number == 1 else P()))
            for number, each in enumerate(inputs)
        ]
        agree(values(split, placed), expected)


def test_the_value_is_the_same_with_and_without_gradients(inputs):
    loss, nll_BS = jax.jit(partial(of_chunks, 4, None))(*inputs)
    with_gradients = values(partial(of_chunks, 4, None), inputs)
    assert loss == with_gradients[0]
    np.testing.assert_array_equal(nll_BS, with_gradients[1])


def test_weight_zero_is_no_gradient(inputs):
    x_BSD, head_DV, targets_BS, weight_BS = inputs
    _, _, x_bar_BSD, _ = values(partial(of_chunks, 4, None), inputs)
    assert not np.asarray(x_bar_BSD)[weight_BS == 0].any()
    loss, _, x_bar_BSD, head_bar_DV = values(partial(of_chunks, 4, None), (*inputs[:3], np.zeros_like(weight_BS)))
    assert loss == 0 and not np.asarray(x_bar_BSD).any() and not np.asarray(head_bar_DV).any()


def test_bfloat16_sums_in_float32(inputs):
    """The loss and the head's gradient are float32; the gradient of x keeps x's dtype."""
    x_BSD, *rest = inputs
    ours = values(partial(of_chunks, 4, None), (jnp.asarray(x_BSD, jnp.bfloat16), *rest))
    exact = values(of_reference, (jnp.asarray(x_BSD, jnp.bfloat16).astype(jnp.float32), *rest))
    assert [each.dtype.name for each in ours] == ["float32", "float32", "bfloat16", "float32"]
    agree(ours, exact, tolerance=1e-2)
