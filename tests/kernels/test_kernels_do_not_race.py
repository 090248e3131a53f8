"""Kernels read nothing before it is there, whatever order copies arrive in; those for Hopper are watched in all their tests."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import attention, gradients, relative_error, segments, visible_documents
from attention_subjects import TPU, draw, interpreting, needs_hopper, no_race_was_found_on_hopper
from jax._src.pallas.mosaic.interpret import interpret_pallas_call  # where the interpreter says what it saw

from llama3_jax.kernels.attention import reference, tpu_decode
from llama3_jax.kernels.attention.mask import document_mask, prefix_mask
from llama3_jax.kernels.attention.paged import gathered


@pytest.mark.parametrize("arrival", ["eager", "on_wait"])
def test_no_race_is_found(arrival):
    segment_ids = np.stack([segments(170, 1, 90, S=TPU.length), segments(S=TPU.length)])
    arrays, mask = draw(0, num_queries=TPU.length, num_keys=TPU.length, kv_heads=2), document_mask(jnp.asarray(segment_ids))
    q, k, v, out_bar = arrays
    with interpreting(detect_races=True, dma_execution_mode=arrival):
        out, pull = jax.vjp(partial(TPU.attention, mask=mask), q, k, v)
        bars = jax.block_until_ready(pull(out_bar))
    assert interpret_pallas_call.races is not None and not interpret_pallas_call.races.races_found
    visible = visible_documents(segment_ids)
    expected = (attention(q, k, v, visible)[0], *gradients(q, k, v, visible, out_bar))
    for ours, oracle in zip((out, *bars), expected, strict=True):
        assert relative_error(ours, oracle) <= 2e-6


@pytest.mark.parametrize("arrival", ["eager", "on_wait"])
def test_no_race_is_found_in_decoding(arrival):
    arguments, oracle = decoding("float32")
    with interpreting(detect_races=True, dma_execution_mode=arrival):
        out = jax.block_until_ready(tpu_decode.attention(*arguments))
    assert interpret_pallas_call.races is not None and not interpret_pallas_call.races.races_found
    assert relative_error(out, oracle) <= 2e-6


@needs_hopper
def test_no_race_is_found_in_decoding_on_hopper():
    from jax.experimental.pallas import mosaic_gpu as plgpu

    from llama3_jax.kernels.attention import hopper_decode

    arguments, oracle = decoding("bfloat16")
    out = jax.block_until_ready(hopper_decode.attention(*arguments, interpret=plgpu.InterpretGPUParams(detect_races=True)))
    no_race_was_found_on_hopper()
    assert relative_error(out, oracle) <= 5e-3


def decoding(dtype):
    """Arguments of a kernel for two requests of up to 640 positions, and what another implementation makes of them."""
    q, k, v, _ = draw(0, rows=2, num_queries=1, num_keys=640, head_dim=64, dtype=dtype)
    k, v = (x.reshape(1, 80, 16, 64) for x in (k, v))
    table = jnp.asarray(np.random.default_rng(0).permutation(80).reshape(2, 40), jnp.int32)
    layer, mask = jnp.int32(0), prefix_mask(jnp.array([[600], [77]], jnp.int32))
    return (q, k, v, layer, table, mask), reference.attention(
        *(x.astype(jnp.float32) for x in (q, *(gathered(pool, layer, table, 64) for pool in (k, v)))), mask
    )
