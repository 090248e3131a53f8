"""TPU kernels read nothing before it is there, whatever order copies arrive in."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import attention, gradients, relative_error, segments, visible_documents
from attention_subjects import HOPPER, TPU, draw, interpreting, needs_hopper
from jax._src.pallas.mosaic.interpret import interpret_pallas_call  # where the interpreter says what it saw

from llama3_jax.kernels.attention.mask import document_mask


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


@needs_hopper
def test_no_race_is_found_on_hopper():
    from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks  # likewise
    from jax.experimental.pallas import mosaic_gpu as plgpu

    from llama3_jax.kernels.attention import hopper

    segment_ids = segments(170, 1, 90, S=HOPPER.length)[None]
    mask = document_mask(jnp.asarray(segment_ids))
    q, k, v, out_bar = draw(0, rows=1, num_queries=HOPPER.length, num_keys=HOPPER.length, dtype="bfloat16", head_dim=64)
    schedule, params = HOPPER.schedule(mask, HOPPER.length), plgpu.InterpretGPUParams(detect_races=True)
    out, pull = jax.vjp(lambda *qkv: hopper.attention(*qkv, mask, schedule, HOPPER.blocks, interpret=params), q, k, v)
    bars = jax.block_until_ready(pull(out_bar))
    assert not gpu_callbacks.get_races().races_found
    visible = visible_documents(segment_ids)
    expected = (attention(q, k, v, visible)[0], *gradients(q, k, v, visible, out_bar))
    for ours, oracle in zip((out, *bars), expected, strict=True):
        assert relative_error(ours, oracle) <= 5e-3
