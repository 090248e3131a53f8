"""Next-token cross entropy with all logits at once; the chunked one is tested against it.

Shape letters: B batch, S positions, D model, V vocabulary.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def cross_entropy(x_BSD: Array, head_DV: Array, targets_BS: Array) -> Array:
    """float32 [B, S], nats: -log softmax(x head)[target]."""
    logits_BSV = jnp.einsum("bsd,dv->bsv", x_BSD, head_DV.astype(x_BSD.dtype), preferred_element_type=jnp.float32)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits_BSV), targets_BS[..., None], axis=-1)[..., 0]
