"""A training step on a model of one table and one norm, whose gradients are worked out by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from llama3_jax.batches.batch import Batch
from llama3_jax.model.config import ModelConfig
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import NextToken
from llama3_jax.train.step import TrainState, make_step

V, D, S = 11, 3, 8
OPTIMIZER = AdamW(beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, clip_norm=0.5)


class Toy(nnx.Module):
    """Predicts a number from a token: table[token] . norm."""

    def __init__(self, table, norm):
        self.table, self.norm = nnx.Param(jnp.asarray(table, jnp.float32)), nnx.Param(jnp.asarray(norm, jnp.float32))


def squares(model, batch):
    """Sum of weight * (prediction - target)^2; not a number where a source is -2."""
    error_BS = model.table[...][batch.tokens] @ model.norm[...] - batch.targets.astype(jnp.float32)
    broken = jnp.where(jnp.any(batch.source == -2), jnp.nan, 1.0)
    loss = broken * jnp.sum(batch.loss_weight * jnp.square(error_BS))
    return loss, jnp.sum(batch.loss_weight), {"rows": jnp.float32(batch.tokens.shape[0])}


def by_hand(w, batch):
    """(loss sum, weight sum, gradients of the loss sum) in float64."""
    x = w["table"][batch.tokens]
    error = x @ w["norm"] - batch.targets
    pull = 2 * batch.loss_weight.astype(np.float64) * error
    table_bar = np.zeros_like(w["table"])
    np.add.at(table_bar, batch.tokens, pull[..., None] * w["norm"])
    loss = (batch.loss_weight.astype(np.float64) * error**2).sum()
    return loss, batch.loss_weight.sum(), {"table": table_bar, "norm": np.einsum("abs,absd->d", pull, x)}


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return {"table": rng.normal(size=(V, D)), "norm": rng.normal(1, 0.1, D)}


def make_batch(seed, microbatches=2, rows=4):
    """Weights are uneven: some rows have none, some tokens count for more."""
    rng = np.random.default_rng(seed)
    shape = (microbatches, rows // microbatches, S)
    weight = rng.choice([0.0, 1.0, 2.5], shape).astype(np.float32)
    weight.reshape(rows, S)[1] = 0
    return Batch(
        tokens=rng.integers(0, V, shape, dtype=np.int32), targets=rng.integers(-3, 4, shape, dtype=np.int32),
        loss_weight=weight, segment_ids=np.ones(shape, np.int32), positions=np.zeros(shape, np.int32),
        order=np.broadcast_to(np.arange(S, dtype=np.int32), shape), source=np.zeros(shape, np.int32),
    )  # fmt: skip


def split(batch, microbatches):
    return jax.tree.map(lambda leaf: leaf.reshape(microbatches, -1, S), batch)


def broken(batch):
    """One micro-batch of several gives a loss and gradients that are not numbers."""
    source = batch.source.copy()
    source[-1, 0, 0] = -2
    return batch._replace(source=source)


@pytest.fixture(scope="module")
def start(weights, one_device):
    return TrainState.create(Toy(weights["table"], weights["norm"]), OPTIMIZER)


@pytest.fixture(scope="module")
def step(one_device):
    return jax.jit(make_step(squares, OPTIMIZER))


def adamw_by_hand(w, batches, rates, cfg):
    """AdamW with clipping by the global norm and no decay of norms (Loshchilov and Hutter 2019, algorithm 2)."""
    first, second = ({name: np.zeros_like(value) for name, value in w.items()} for _ in range(2))
    for count, (batch, rate) in enumerate(zip(batches, rates, strict=True), start=1):
        _, weight, bars = by_hand(w, batch)
        bars = {name: bar / weight for name, bar in bars.items()}
        norm = np.sqrt(sum((bar**2).sum() for bar in bars.values()))
        clip = min(1.0, cfg.clip_norm / norm)
        for name in w:
            bar = bars[name] * clip
            first[name] = cfg.beta1 * first[name] + (1 - cfg.beta1) * bar
            second[name] = cfg.beta2 * second[name] + (1 - cfg.beta2) * bar**2
            adam = (first[name] / (1 - cfg.beta1**count)) / (np.sqrt(second[name] / (1 - cfg.beta2**count)) + cfg.epsilon)
            decay = 0.0 if name == "norm" else cfg.weight_decay
            w = w | {name: w[name] - rate * (adam + decay * w[name])}
    return w, norm


def test_three_steps_are_adamw(weights, start, step):
    batches, rates = [make_batch(seed) for seed in range(3)], (0.01, 0.1, 0.05)
    state, norms = start, []
    for batch, rate in zip(batches, rates, strict=True):
        state, metrics = step(state, batch, jnp.float32(rate))
        norms.append(float(metrics["grad_norm"]))
    expected, norm = adamw_by_hand(weights, batches, rates, OPTIMIZER)
    for name, right in expected.items():
        np.testing.assert_allclose(getattr(state.model, name)[...], right, rtol=1e-5, atol=1e-5, err_msg=name)
    assert norms[-1] == pytest.approx(norm, rel=1e-5)
    assert min(norms) > OPTIMIZER.clip_norm, "clipping was at work, and the norm is told as it was before"
    assert (int(state.step), int(state.skipped)) == (3, 0)


def test_metrics(weights, start, step):
    batch = make_batch(0)
    _, metrics = step(start, batch, jnp.float32(0.1))
    loss, weight, _ = by_hand(weights, batch)
    assert float(metrics["loss"]) == pytest.approx(loss / weight, rel=1e-6)
    assert float(metrics["supervised_tokens"]) == weight
    assert float(metrics["rows"]) == 4, "what an objective adds is summed over micro-batches"
    assert int(metrics["skipped"]) == 0


@pytest.mark.parametrize("microbatches", [1, 4])
def test_microbatches_change_no_update(microbatches, start, step):
    """Their losses weigh unevenly, so an average of averages would differ."""
    batch, rate = make_batch(0), jnp.float32(0.1)
    two, two_metrics = step(start, batch, rate)
    other, other_metrics = step(start, split(batch, microbatches), rate)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), two.model, other.model)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), two.moments.mu, other.moments.mu)
    assert float(other_metrics["loss"]) == pytest.approx(float(two_metrics["loss"]), rel=1e-6)


def test_padding_changes_no_loss(start, step):
    """Weight 0 is not there: neither in the sum nor in what it is divided by."""
    batch, rate = make_batch(0), jnp.float32(0.1)
    noise = batch._replace(**{
        name: np.where(batch.loss_weight == 0, 5 - getattr(batch, name) % 3, getattr(batch, name)).astype(np.int32)
        for name in ("tokens", "targets")
    })  # fmt: skip
    a, b = step(start, batch, rate), step(start, noise, rate)
    assert a[1].pop("batch_hash") != b[1].pop("batch_hash")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), a, b)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_step_that_is_not_finite_is_skipped(microbatches, start, step):
    rate = jnp.float32(0.1)
    before, _ = step(start, split(make_batch(0), microbatches), rate)
    after, metrics = step(before, broken(split(make_batch(1), microbatches)), rate)
    jax.tree.map(np.testing.assert_array_equal, (before.model, before.moments), (after.model, after.moments))
    assert (int(after.step), int(after.skipped), int(metrics["skipped"])) == (2, 1, 1)
    assert not np.isfinite(metrics["loss"])
    resumed, _ = step(after, split(make_batch(2), microbatches), rate)
    untroubled, _ = step(before, split(make_batch(2), microbatches), rate)
    jax.tree.map(np.testing.assert_array_equal, (resumed.model, resumed.moments), (untroubled.model, untroubled.moments))
    assert (int(resumed.step), int(resumed.skipped)) == (3, 1)


def test_an_infinite_gradient_under_a_finite_loss_is_skipped(start, one_device):
    def steep(model, batch):
        """sqrt at 0: value 0, gradient infinite."""
        return jnp.sqrt(jnp.sum(model.norm[...] * 0.0)), jnp.float32(1.0), {}

    after, metrics = jax.jit(make_step(steep, OPTIMIZER))(start, make_batch(0, microbatches=1), jnp.float32(0.1))
    jax.tree.map(np.testing.assert_array_equal, start.model, after.model)
    assert np.isfinite(metrics["loss"]) and int(after.skipped) == 1


def test_a_batch_without_loss_moves_nothing_but_decay(weights, start, step):
    batch = make_batch(0)
    after, metrics = step(start, batch._replace(loss_weight=np.zeros_like(batch.loss_weight)), jnp.float32(0.1))
    assert (float(metrics["loss"]), float(metrics["grad_norm"]), int(after.skipped)) == (0, 0, 0)
    np.testing.assert_allclose(after.model.table[...], weights["table"] * (1 - 0.1 * OPTIMIZER.weight_decay), rtol=1e-6)
    np.testing.assert_allclose(after.model.norm[...], weights["norm"], rtol=1e-6)


def test_a_llama_learns_and_counts_its_pairs(one_device):
    """The real objective: the loss of a repeated batch falls, and what attention must look at is counted."""
    from tiny_model import documents, new_model, packed, placed

    cfg = ModelConfig(
        num_layers=1, model_dim=16, num_heads=2, num_kv_heads=1, head_dim=8, ffw_dim=16, vocab_size=20, context_length=16
    )
    batch = packed([documents(cfg, 9, 4), documents(cfg, 16)], 16)
    batch = placed(jax.tree.map(lambda leaf: leaf[None], batch))
    state, learn = TrainState.create(new_model(cfg), OPTIMIZER), jax.jit(make_step(NextToken(), OPTIMIZER))
    losses = []
    for _ in range(30):
        state, metrics = learn(state, batch, jnp.float32(0.02))
        losses.append(float(metrics["loss"]))
    assert float(metrics["visible_pairs"]) == sum(n * (n + 1) // 2 for n in (9, 4, 16))
    assert float(metrics["supervised_tokens"]) == 8 + 3 + 15
    assert 2 < losses[0] < 6 and losses[-1] < 0.5
