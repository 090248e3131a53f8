"""Generation from the cache against full forward passes without one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import documents, new_model, packed, placed

from llama3_jax.generate.generate import _generate, generate
from llama3_jax.generate.replica import one_replica
from llama3_jax.generate.settings import Sampling
from llama3_jax.model.attention import PackedAttend
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.kv_cache import PAGE, CachedAttend, empty_cache
from llama3_jax.model.precision import Precision

CFG = ModelConfig(
    num_layers=2, model_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, ffw_dim=32, vocab_size=48, context_length=64
)
LONGEST, NEW = 48, 12
GREEDY = Sampling(temperature=0.0)
NEVER = (CFG.vocab_size,)
"""A stop id that no token is."""
PROMPTS = [document.tolist() for document in documents(CFG, 17, 3, 16)]


@jax.jit
def forward(model, batch):
    x_BSD, _ = model.layers(model.embed(batch.tokens, "float32"), batch.positions, PackedAttend(batch, model.cfg))
    return model.logits(x_BSD)


@pytest.fixture(scope="module")
def model(one_device):
    return new_model(CFG)


@pytest.fixture(scope="module")
def expected(model):
    """The likeliest token after each prompt, one full forward pass a token."""
    rows = [list(prompt) for prompt in PROMPTS]
    for _ in range(NEW):
        batch = placed(packed([[np.array(row, np.int32)] for row in rows], LONGEST))
        logits = np.asarray(forward(model, batch))
        for number, row in enumerate(rows):
            row.append(int(logits[number, len(row) - 1].argmax()))
    return [row[len(prompt) :] for row, prompt in zip(rows, PROMPTS, strict=True)]


def test_greedy_is_the_argmax_of_a_full_forward(model, expected):
    """Prompts of unequal lengths, across the end of a page of the cache."""
    assert generate(model, PROMPTS, max_new_tokens=NEW, stop_ids=NEVER, sampling=GREEDY) == expected
    assert len({tuple(tokens) for tokens in expected}) == 3 and len(set(expected[0])) > 3, "the test says something"


@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_a_prompt_alone_continues_as_in_a_batch(number, model, expected):
    alone = generate(model, [PROMPTS[number]], max_new_tokens=NEW, stop_ids=NEVER, sampling=GREEDY)
    assert alone == [expected[number]]


def test_a_stop_id_ends_its_own_request_and_is_left_out(model, expected):
    stops = (expected[0][4], expected[1][0])
    until = [next((i for i, token in enumerate(tokens) if token in stops), NEW) for tokens in expected]
    assert until[1] == 0 and 0 < until[0] <= 4
    ours = generate(model, PROMPTS, max_new_tokens=NEW, stop_ids=stops, sampling=GREEDY)
    assert ours == [tokens[:end] for tokens, end in zip(expected, until, strict=True)]


@pytest.mark.parametrize("how", ["generate", "one_replica"])
def test_a_model_axis_gives_the_same_tokens(how, mesh, expected):
    """Also through `one_replica`, which takes the model off the data axis it was trained on."""
    trained_on = mesh(model=2) if how == "generate" else mesh(data=2, model=2)
    with jax.set_mesh(trained_on):
        split, replica = one_replica(new_model(CFG), trained_on)
    assert replica.size == 2
    with jax.set_mesh(replica):
        assert generate(split, PROMPTS, max_new_tokens=NEW, stop_ids=NEVER, sampling=GREEDY) == expected


def test_prefill_logits_are_those_of_the_packed_forward(model):
    """And what prefill and decode wrote into the cache serves the tokens after them."""
    batch = placed(packed([[np.array(prompt, np.int32)] for prompt in PROMPTS], 20))
    real = np.asarray(batch.segment_ids) > 0

    @jax.jit
    def cached(model, batch):
        def run(tokens_RS, positions_RS, cache):
            x_RSD = model.embed(tokens_RS, "float32")
            x_RSD, cache = model.layers(x_RSD, jnp.maximum(positions_RS, 0), CachedAttend(positions_RS), cache)
            return model.logits(x_RSD), cache

        positions_RS = jnp.where(batch.segment_ids > 0, batch.positions, -1)
        empty = empty_cache(CFG, num_requests=3, num_positions=PAGE + 5, dtype="float32")
        whole, _ = run(batch.tokens, positions_RS, empty)
        first, cache = run(batch.tokens[:, :7], positions_RS[:, :7], empty)
        second, _ = run(batch.tokens[:, 7:], positions_RS[:, 7:], cache)
        return whole, jnp.concatenate([first, second], axis=1)

    oracle = np.asarray(forward(model, batch))[real]
    for ours in cached(model, batch):
        np.testing.assert_allclose(np.asarray(ours)[real], oracle, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_p=1.0)], ids=str)
def test_the_same_seed_gives_the_same_tokens(sampling, model, expected):
    def run(seed):
        return generate(model, PROMPTS, max_new_tokens=NEW, stop_ids=NEVER, sampling=sampling, seed=seed)

    assert run(1) == run(1)
    assert run(1) != run(2) and run(1) != expected
    assert all(0 <= token < CFG.vocab_size for tokens in run(1) for token in tokens)


def test_bfloat16_generates_as_many_tokens(model):
    ours = generate(model, PROMPTS, max_new_tokens=NEW, stop_ids=NEVER, sampling=GREEDY, precision=Precision.BFLOAT16)
    assert [len(tokens) for tokens in ours] == [NEW] * 3


def test_weights_are_cast_once_and_not_for_every_token(model):
    """To the very bits that the layers would cast them to; nothing in the loop reads a float32 weight of its layers."""
    batch = placed(packed([[np.array(prompt, np.int32)] for prompt in PROMPTS], LONGEST))

    @jax.jit
    def forward(model):
        x_BSD, _ = model.layers(
            model.embed(batch.tokens, "bfloat16"), batch.positions, PackedAttend(batch, model.cfg, dtype="bfloat16")
        )
        return model.logits(x_BSD)

    cast = model.in_dtype("bfloat16")
    np.testing.assert_array_equal(forward(model), forward(cast))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(cast)} == {"bfloat16", "float32"}
    tokens, key = jnp.ones((1, PAGE), jnp.int32), jax.random.key(0)
    arguments = (model, tokens, tokens.cumsum(axis=1) - 1, key, jnp.array(NEVER), 4, GREEDY, Precision.BFLOAT16)
    program = _generate.trace(*arguments).jaxpr
    (loop,) = [equation for equation in program.eqns if equation.primitive.name == "while"]
    shapes = {leaf.shape for leaf in jax.tree.leaves(model.blocks) if leaf.ndim > 2}
    carried = [each.aval for each in loop.invars if each.aval.shape in shapes]
    assert len(carried) >= len(shapes) and {each.dtype.name for each in carried} == {"bfloat16"}


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate(model, [[1], []], max_new_tokens=1, stop_ids=NEVER)


def test_a_prompt_without_room_is_refused(model):
    with pytest.raises(ValueError, match="prompt 0 has 60 tokens and 5 more are asked for.*context is 64.*to 59 tokens"):
        generate(model, [[1] * 60], max_new_tokens=5, stop_ids=NEVER)
