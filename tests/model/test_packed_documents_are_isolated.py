"""Whatever stands in one document of a row changes no bit of what the model computes for any other, forward or backward.

tests/kernels has this for the kernel alone; here nothing between the embedding and the loss may leak.
"""

import jax
import numpy as np
import pytest
from jax.sharding import reshard
from tiny_model import documents, new_model, packed, placed

from llama3_jax.kernels.attention import block_sizes
from llama3_jax.model.attention import PackedAttend
from llama3_jax.model.config import ModelConfig, RopeScaling
from llama3_jax.sharding.tensor_parallel import residual

CFG = ModelConfig(
    num_layers=2, model_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, ffw_dim=24, vocab_size=40, context_length=32,
    rope_theta=100.0, rope_scaling=RopeScaling(factor=8, original_context_length=16), tie_embeddings=True,
)  # fmt: skip
B, S, BLOCK = 2, 32, 8
LENGTHS = [1, 1, 1, 3, 5, 7, BLOCK, BLOCK, 11, 2 * BLOCK]
"""So that documents begin and end on block edges as often as off them."""

PACKINGS, SMOKE = 200, 20


@pytest.fixture(scope="module")
def model(one_device):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_sizes, "XLA_BLOCK", BLOCK)
        yield new_model(CFG)


@jax.jit
def run(model, batch, noise_BSD):
    """(logits, gradient of the loss at the hidden states that enter the first layer, gradient of every parameter)"""

    def loss(model, noise_BSD):
        x_BSD = model.embed(batch.tokens, "float32") + reshard(noise_BSD, residual(S))
        x_BSD, _ = model.layers(x_BSD, batch.positions, PackedAttend(batch, model.cfg))
        return model.loss(x_BSD, batch.targets, batch.loss_weight)[0], model.logits(x_BSD)

    (model_bar, x_bar_BSD), logits_BSV = jax.grad(loss, argnums=(0, 1), has_aux=True)(model, noise_BSD)
    return logits_BSV, x_bar_BSD, model_bar


def random_rows(rng):
    """Lengths of the documents of each row: often a few too many, whose last is cut, or too few, which leaves padding."""
    drawn = (rng.choice(LENGTHS, rng.integers(1, 12)) for _ in range(B))
    cut = (np.diff(np.minimum(np.cumsum([0, *lengths]), S + 1)) for lengths in drawn)
    return [lengths[lengths > 0] for lengths in cut]


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.smoke] * (seed < SMOKE)) for seed in range(PACKINGS)])
def test_one_document_changes_no_other(seed, model):
    """One document, or the padding of a row, gets another text and something small or huge added to its embeddings."""
    rng = np.random.default_rng(seed)
    batch = packed([documents(CFG, *lengths, seed=[seed, row]) for row, lengths in enumerate(random_rows(rng))], S)
    row = rng.integers(B)
    here_BS = (np.arange(B) == row)[:, None] & (batch.segment_ids == rng.choice(np.unique(batch.segment_ids[row])))
    tokens_BS, targets_BS = rng.integers(0, CFG.vocab_size, (2, B, S), dtype=np.int32)
    noise_BSD = (rng.choice([1, 1e15]) * rng.normal(size=(B, S, CFG.model_dim)) * here_BS[..., None]).astype(np.float32)
    changed = batch._replace(
        tokens=np.where(here_BS, tokens_BS, batch.tokens), targets=np.where(here_BS, targets_BS, batch.targets)
    )

    def before_and_after(loss_weight):
        texts = (batch, np.zeros_like(noise_BSD)), (changed, noise_BSD)
        outputs = (run(model, placed(text._replace(loss_weight=loss_weight)), noise) for text, noise in texts)
        return zip(*(jax.tree.map(np.asarray, output) for output in outputs), strict=True)

    logits_BSV, x_bar_BSD, _ = before_and_after(batch.loss_weight)
    for name, (old, new) in {"logits": logits_BSV, "gradient at the embeddings": x_bar_BSD}.items():
        np.testing.assert_array_equal(old[~here_BS], new[~here_BS], err_msg=name)
        assert np.all(np.isfinite(new)), name
    assert not np.array_equal(logits_BSV[0][here_BS], logits_BSV[1][here_BS]), "the document itself did change"
    _, x_bar_BSD, model_bar = before_and_after(np.where(here_BS, 0, batch.loss_weight))
    assert not np.any(x_bar_BSD[1][here_BS]), "the loss of other documents does not reach it"
    jax.tree.map(np.testing.assert_array_equal, *model_bar)
