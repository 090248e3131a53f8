"""SwiGLU feed-forward (section 3.2).

Shape letters: B batch, S positions, D model, F ffw, L layers.
"""

from __future__ import annotations

import jax
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
        h_BSF = jax.nn.silu(gate_BSF) * up_BSF
        return linear("bsf,fd->bsd", h_BSF, self.w_down[...], gathered=spec("ffw", None), out=BLOCK_SUMS, fsdp=fsdp)
