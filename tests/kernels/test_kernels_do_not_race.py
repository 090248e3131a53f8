"""TPU kernels read nothing before it is there, whatever order copies arrive in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import attention, gradients, relative_error, segments, visible_documents
from attention_subjects import TPU, draw
from jax._src.pallas.mosaic.interpret import interpret_pallas_call  # where the interpreter says what it saw
from jax.experimental.pallas import tpu as pltpu

from llama3_jax.kernels.attention.mask import document_mask


@pytest.mark.parametrize("arrival", ["eager", "on_wait"])
def test_no_race_is_found(arrival):
    segment_ids = np.stack([segments(170, 1, 90, S=TPU.length), segments(S=TPU.length)])
    arrays, mask = draw(0, num_queries=TPU.length, num_keys=TPU.length, kv_heads=2), document_mask(jnp.asarray(segment_ids))
    q, k, v, out_bar = arrays
    params = pltpu.InterpretParams(detect_races=True, dma_execution_mode=arrival, uninitialized_memory="nan")
    with pltpu.force_tpu_interpret_mode(params):
        out, bars = jax.block_until_ready(TPU.run(q, k, v, mask, out_bar))
    assert interpret_pallas_call.races is not None and not interpret_pallas_call.races.races_found
    visible = visible_documents(segment_ids)
    expected = (attention(q, k, v, visible)[0], *gradients(q, k, v, visible, out_bar))
    for ours, oracle in zip((out, *bars), expected, strict=True):
        assert relative_error(ours, oracle) <= 2e-6
