"""`layers` in cuts, with adapters between them, is the same network."""

import jax
import numpy as np
import pytest
from tiny_model import documents, new_model, packed, placed

from llama3_jax.model.attention import PackedAttend
from llama3_jax.model.config import ModelConfig

CFG = ModelConfig(num_layers=3, model_dim=8, num_heads=2, num_kv_heads=1, head_dim=4, ffw_dim=8, vocab_size=16, context_length=8)


@pytest.mark.usefixtures("one_device")
def test_cuts_and_adapters():
    model = new_model(CFG)
    batch = placed(packed([documents(CFG, 5, 3)], 8))

    @jax.jit
    def run(model, batch):
        x_BSD = model.embed(batch.tokens, "float32")

        def layers(x_BSD, **options):
            return model.layers(x_BSD, batch.positions, PackedAttend(batch, model.cfg), **options)[0]

        whole = layers(x_BSD)
        cut = layers(layers(x_BSD, stop=1), start=1)
        doubled = layers(x_BSD, inject={0: lambda x: x + 1, 2: lambda x: 2 * x})
        by_hand = layers(2 * layers(x_BSD + 1, stop=2), start=2)
        return whole, cut, doubled, by_hand

    whole, cut, doubled, by_hand = run(model, batch)
    np.testing.assert_allclose(whole, cut, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(doubled, by_hand, rtol=1e-6, atol=1e-6)
    assert not np.allclose(whole, doubled)
