"""Held-out scores are what a slow, separate computation says, in all, by source, and on any mesh."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float64_llama import document_nats
from jax.sharding import NamedSharding

from llama3_jax.batches.stream import TokenStream
from llama3_jax.evaluate.held_out import HeldOutText
from llama3_jax.evaluate.settings import HeldOut
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.precision import Precision
from llama3_jax.model.transformer import Transformer
from llama3_jax.tokenizer.token_shard import TokenShard, TokenShardWriter

V, EOS = 64, 63
CFG = ModelConfig(
    num_layers=2, model_dim=16, num_heads=4, num_kv_heads=2, head_dim=4, ffw_dim=32, vocab_size=V, context_length=64
)
SETTINGS = HeldOut(every_steps=1, sequence_length=16, tokens_per_source=64, rows_per_batch=4)
LENGTHS = {"prose": (40, 3, 11, 30, 50), "code": (5, 2), "notes": (9, 9, 9, 21)}
"""More than is read; less than a row; and a whole number of rows."""
TOKEN_BYTES = np.where(np.arange(V) < EOS, 1 + np.arange(V) % 5, 0)


def documents(source: str) -> list[np.ndarray]:
    random = np.random.default_rng(len(source))
    return [np.append(random.integers(0, EOS, length - 1), EOS).astype(np.uint32) for length in LENGTHS[source]]


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    found = {}
    for source in LENGTHS:
        path = tmp_path_factory.mktemp(source) / f"{source}.arrayrecord"
        with TokenShardWriter(path, source=source, tokenizer_fingerprint="f", vocab_size=V) as writer:
            for document in documents(source):
                writer.write(document)
        found[source] = TokenStream([TokenShard(path)], seed=None)
    return found


def make_model(placed) -> Transformer:
    """The same random parameters on any mesh."""
    with jax.set_mesh(placed):
        shapes = jax.eval_shape(lambda: Transformer(CFG, key=jax.random.key(0)))
    random = np.random.default_rng(0)

    def draw(leaf):
        values = random.normal(size=leaf.shape) * leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 1 + np.zeros(leaf.shape)
        return jax.device_put(values.astype(leaf.dtype), NamedSharding(placed, leaf.sharding.spec))

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module")
def held_out(streams):
    return HeldOutText(SETTINGS, streams, token_bytes=TOKEN_BYTES, precision=Precision.FLOAT32)


@pytest.fixture(scope="module")
def scored(held_out, mesh):
    """(model, its scores) on one device."""
    model = make_model(mesh())
    return model, held_out.score(model, mesh())


def by_hand(model, source: str) -> tuple[float, int, int]:
    """(nats, scored tokens, their bytes) of the first 64 positions, cut every 16 and at the end of each document."""
    nats = tokens = num_bytes = position = 0
    for document in documents(source):
        start = 0
        while start < document.size and position < SETTINGS.tokens_per_source:
            room = 16 - position % 16
            piece = document[start : start + room + 1]  # one more: the target of the last
            if piece.size > 1:
                nats += document_nats(model, piece).sum()
                tokens += piece.size - 1
                num_bytes += TOKEN_BYTES[piece[1:]].sum()
            advance = min(room, document.size - start)
            start, position = start + advance, position + advance
    return nats, tokens, num_bytes


def test_scores_are_those_of_a_float64_llama_token_by_token(scored):
    model, scores = scored
    sums = {source: by_hand(model, source) for source in LENGTHS}
    assert sums["prose"][1] == 64 - 3 and sums["code"][1] == 5 and sums["notes"][1] == 48 - 4
    for source, (nats, tokens, num_bytes) in sums.items():
        assert scores[f"eval_loss/{source}"] == pytest.approx(nats / tokens, rel=2e-6)
        assert scores[f"bits_per_byte/{source}"] == pytest.approx(nats / math.log(2) / num_bytes, rel=2e-6)
    nats, tokens, num_bytes = map(sum, zip(*sums.values(), strict=True))
    assert scores["eval_loss"] == pytest.approx(nats / tokens, rel=2e-6)
    assert scores["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=2e-6)
    assert scores.keys() == {"eval_loss", "bits_per_byte"} | {
        f"{name}/{source}" for name in ("eval_loss", "bits_per_byte") for source in LENGTHS
    }


@pytest.mark.parametrize("axes", [(2, 1, 2), (4, 2, 1)])
def test_scores_are_the_same_on_every_mesh(scored, held_out, mesh, axes):
    data, sequence, model = axes
    placed = mesh(data=data, sequence=sequence, model=model)
    assert held_out.score(make_model(placed), placed) == pytest.approx(scored[1], rel=2e-6)


def test_rows_in_a_batch_do_not_matter(scored, streams, mesh):
    settings = HeldOut(every_steps=1, sequence_length=16, tokens_per_source=64, rows_per_batch=7)
    other = HeldOutText(settings, streams, token_bytes=TOKEN_BYTES, precision=Precision.FLOAT32)
    assert other.score(scored[0], mesh()) == pytest.approx(scored[1], rel=2e-6)


def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary(held_out, mesh):
    model = make_model(mesh())
    model.head = jax.tree.map(jnp.zeros_like, model.head)
    scores = held_out.score(model, mesh())
    for source in LENGTHS:
        assert scores[f"eval_loss/{source}"] == pytest.approx(math.log(V), rel=1e-6)
    _, tokens, num_bytes = map(sum, zip(*(by_hand(model, source) for source in LENGTHS), strict=True))
    assert scores["bits_per_byte"] == pytest.approx(tokens * math.log2(V) / num_bytes, rel=1e-6)


def test_the_same_text_is_scored_every_time(scored, held_out, mesh):
    assert held_out.score(scored[0], mesh()) == held_out.score(scored[0], mesh()) == scored[1]
