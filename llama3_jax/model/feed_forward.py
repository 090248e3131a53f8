"""SwiGLU feed-forward (section 3.2).

Shape letters: B batch, S positions, D model, F ffw, L layers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from llama3_jax.model.config import ModelConfig
from llama3_jax.model.param import fan_in, normal
from llama3_jax.sharding.axes import spec
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.sharding.linear import linear
from llama3_jax.sharding.tensor_parallel import BLOCK_SUMS


class FeedForward(nnx.Module):
    """Declared with all layers stacked, called on one layer's slice inside the scan."""

    def __init__(self, cfg: ModelConfig, *, key: Array):
        L, D, F = cfg.num_layers, cfg.model_dim, cfg.ffw_dim
        gate, up, down = jax.random.split(key, 3)
        self.w_gate = normal(gate, (L, D, F), ("layer", "embed", "ffw"), fan_in(D))
        self.w_up = normal(up, (L, D, F), ("layer", "embed", "ffw"), fan_in(D))
        self.w_down = normal(down, (L, F, D), ("layer", "ffw", "embed"), fan_in(F) * (2 * L) ** -0.5)

    def __call__(self, x_BSD: Array, fsdp: Fsdp) -> Array:
        """All positions in, partial sums over the model axis out (see tensor_parallel)."""
        wide = spec("batch", "position", "ffw")
        gate_BSF = linear("bsd,df->bsf", x_BSD, self.w_gate[...], gathered=spec(None, "ffw"), out=wide, fsdp=fsdp)
        up_BSF = linear("bsd,df->bsf", x_BSD, self.w_up[...], gathered=spec(None, "ffw"), out=wide, fsdp=fsdp)
        return linear(
            "bsf,fd->bsd", swiglu(gate_BSF, up_BSF), self.w_down[...], gathered=spec("ffw", None), out=BLOCK_SUMS, fsdp=fsdp
        )


@jax.custom_vjp
def swiglu(gate_BSF: Array, up_BSF: Array) -> Array:
    """silu(gate) * up, in their dtype; only the two wait for the backward pass, which is worked out in float32."""
    return jax.nn.silu(gate_BSF) * up_BSF


def _forward(gate_BSF: Array, up_BSF: Array):
    return swiglu(gate_BSF, up_BSF), (gate_BSF, up_BSF)


def _backward(saved: tuple[Array, Array], bar_BSF: Array):
    gate_BSF, up_BSF, bar32_BSF = (each.astype(jnp.float32) for each in (*saved, bar_BSF))
    sigmoid_BSF = jax.nn.sigmoid(gate_BSF)
    slope_BSF = sigmoid_BSF * (1.0 + gate_BSF * (1.0 - sigmoid_BSF))
    bars = bar32_BSF * up_BSF * slope_BSF, bar32_BSF * gate_BSF * sigmoid_BSF
    return tuple(bar.astype(bar_BSF.dtype) for bar in bars)


swiglu.defvjp(_forward, _backward)
