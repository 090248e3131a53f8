"""Memory: no S x S scores, and never the logits of a whole row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llama3_jax.kernels.attention.flash_attention import flash_attention
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import document_mask
from llama3_jax.kernels.cross_entropy import chunked, reference


def largest(equations):
    return max(int(np.prod(out.aval.shape)) for equation in equations for out in equation.outvars if hasattr(out.aval, "shape"))


@pytest.mark.parametrize("implementation", [Implementation.XLA, Implementation.AUTO])
def test_attention_holds_no_square_of_the_row(implementation, intermediates):
    S, N, K, H = 4096, 2, 1, 8

    def gradients(implementation):
        def loss(q_BSNH, k_BTKH, v_BTKH, segment_ids_BS):
            out_BSNH = flash_attention(q_BSNH, k_BTKH, v_BTKH, document_mask(segment_ids_BS), implementation=implementation)
            return jnp.sum(out_BSNH)

        shapes = [jax.ShapeDtypeStruct((1, S, heads, H), jnp.float32) for heads in (N, K, K)]
        return intermediates(jax.value_and_grad(loss, (0, 1, 2)), *shapes, jax.ShapeDtypeStruct((1, S), jnp.int32))

    assert largest(gradients(implementation)) < S * S // 16
    assert largest(gradients(Implementation.REFERENCE)) >= S * S, "the walk sees the scores of the reference"


def test_cross_entropy_holds_no_logits_of_a_row(intermediates):
    B, S, D, V, chunk = 2, 64, 4, 256, 16
    weight_BS = jnp.ones((B, S))
    targets_BS = jnp.zeros((B, S), jnp.int32)
    shapes = jax.ShapeDtypeStruct((B, S, D), jnp.float32), jax.ShapeDtypeStruct((D, V), jnp.float32)

    def ours(x_BSD, head_DV):
        return chunked.cross_entropy(x_BSD, head_DV, targets_BS, weight_BS, None, (), chunk)[0]

    def theirs(x_BSD, head_DV):
        return jnp.sum(reference.cross_entropy(x_BSD, head_DV, targets_BS) * weight_BS)

    assert largest(intermediates(jax.value_and_grad(ours, (0, 1)), *shapes)) == chunk * V
    assert largest(intermediates(jax.value_and_grad(theirs, (0, 1)), *shapes)) >= B * S * V, "the walk sees whole logits"
