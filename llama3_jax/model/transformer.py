"""The Llama 3 transformer (section 3.2): embed, layers, head.

A model is a pytree of parameters that knows its architecture; how it is run (compute dtype, what the backward pass
recomputes, where attention finds its keys) is an argument. Adapters enter between layers through `inject`.

Shape letters: B batch, S positions, D model, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.sharding import PartitionSpec

from llama3_jax.kernels.cross_entropy.chunked import cross_entropy
from llama3_jax.model.attention import Attend, Attention
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.feed_forward import FeedForward
from llama3_jax.model.norm import rms_norm
from llama3_jax.model.param import fan_in, normal, ones
from llama3_jax.model.remat import Remat
from llama3_jax.model.rope import Rotation, rotation
from llama3_jax.sharding.axes import RULES, spec
from llama3_jax.sharding.linear import gather, linear


class Block(nnx.Module):
    """h = x + attention(norm(x)); h + feed_forward(norm(h)). Parameters of all layers, stacked on a leading dim."""

    def __init__(self, cfg: ModelConfig, *, key: Array):
        attention, feed_forward = jax.random.split(key)
        self.attention_norm = ones((cfg.num_layers, cfg.model_dim), ("layer", None))
        self.attention = Attention(cfg, key=attention)
        self.ffw_norm = ones((cfg.num_layers, cfg.model_dim), ("layer", None))
        self.feed_forward = FeedForward(cfg, key=feed_forward)
        self.norm_eps = cfg.norm_eps

    def __call__(self, x_BSD: Array, turn: Rotation, attend: Attend, layer: Array, state: Any) -> tuple[Array, Any]:
        normed_BSD = rms_norm(x_BSD, self.attention_norm[...], self.norm_eps)
        mixed_BSD, state = self.attention(normed_BSD, turn, attend, layer, state)
        h_BSD = x_BSD + mixed_BSD
        return h_BSD + self.feed_forward(rms_norm(h_BSD, self.ffw_norm[...], self.norm_eps)), state


class Transformer(nnx.Module):
    """Made inside `jax.set_mesh(mesh)`; every method runs there too."""

    def __init__(self, cfg: ModelConfig, *, key: Array):
        embedding, blocks, head = jax.random.split(key, 3)
        V, D = cfg.vocab_size, cfg.model_dim
        self.cfg = cfg
        self.embedding = normal(embedding, (V, D), ("vocab", "embed"), fan_in(D))
        self.blocks = Block(cfg, key=blocks)
        self.final_norm = ones((D,), (None,))
        self.head = None if cfg.tie_embeddings else normal(head, (D, V), ("embed", "vocab"), fan_in(D))

    def embed(self, tokens_BS: Array, dtype: str) -> Array:
        """int32 token ids -> [B, S, D]: each device looks up its own vocabulary rows, the rest add zero."""

        def local(table_VD, tokens_BS):
            row_BS = tokens_BS - lax.axis_index(RULES.vocab) * table_VD.shape[0]
            mine_BS = (row_BS >= 0) & (row_BS < table_VD.shape[0])
            x_BSD = table_VD[jnp.where(mine_BS, row_BS, 0)]
            return lax.psum(jnp.where(mine_BS[..., None], x_BSD, 0.0), RULES.vocab).astype(dtype)

        table_VD = gather(self.embedding[...], spec("vocab", None), jnp.float32)
        return jax.shard_map(
            local,
            in_specs=(spec("vocab", None), spec("batch", "position")),
            out_specs=spec("batch", "position", None),
            check_vma=False,
        )(table_VD, tokens_BS)

    def layers(
        self,
        x_BSD: Array,
        positions_BS: Array,
        attend: Attend,
        state: Any = None,
        *,
        start: int = 0,
        stop: int | None = None,
        inject: Mapping[int, Callable[[Array], Array]] | None = None,
        remat: Remat = Remat.NONE,
    ) -> tuple[Array, Any]:
        """Layers [start, stop) applied to hidden states [B, S, D].

        Args:
            state: what `attend` carries from layer to layer (a KV cache), or None.
            inject: layer number -> adapter applied to the hidden states before that layer.
        """
        stop = self.cfg.num_layers if stop is None else stop
        turn = rotation(self.cfg, positions_BS)
        apply = _checkpointed(lambda block, x, layer, state: block(x, turn, attend, layer, state), remat)

        def step(carry, inputs):
            block, layer = inputs
            return apply(block, carry[0], layer, carry[1]), None

        cuts = sorted({start, stop} | {layer for layer in inject or {} if start < layer < stop})
        for low, high in zip(cuts, cuts[1:], strict=False):
            if inject and low in inject:
                x_BSD = inject[low](x_BSD)
            whole = low == 0 and high == self.cfg.num_layers
            blocks = self.blocks if whole else jax.tree.map(lambda leaf, a=low, b=high: leaf[a:b], self.blocks)
            (x_BSD, state), _ = lax.scan(step, (x_BSD, state), (blocks, jnp.arange(low, high)))
        return x_BSD, state

    def head_matrix(self) -> tuple[Array, tuple[str, str]]:
        """The output weight and its logical dims; the embedding transposed where it is tied."""
        if self.head is None:
            return self.embedding[...], ("vocab", "embed")
        return self.head[...], ("embed", "vocab")

    def logits(self, x_BSD: Array) -> Array:
        """float32 [B, S, V] of final hidden states; for a few positions only, see `loss` for a batch."""
        normed_BSD = rms_norm(x_BSD, self.final_norm[...], self.cfg.norm_eps)
        weight, dims = self.head_matrix()
        equation = "bsd,dv->bsv" if dims[0] == "embed" else "bsd,vd->bsv"
        gathered = spec(*(dim if dim == "vocab" else None for dim in dims))
        out = spec("batch", "position", "vocab")
        return linear(equation, normed_BSD, weight, gathered=gathered, out=out).astype(jnp.float32)

    def loss(self, x_BSD: Array, targets_BS: Array, weight_BS: Array) -> tuple[Array, Array]:
        """Cross entropy of final hidden states, without ever holding a row's logits.

        Returns: (sum of weight * nll over all devices: float32 scalar, nats; nll_BS: float32, nats, no gradient).
        """
        normed_BSD = rms_norm(x_BSD, self.final_norm[...], self.cfg.norm_eps)
        weight, dims = self.head_matrix()
        head_DV = gather(weight if dims[0] == "embed" else weight.T, spec(None, "vocab"), jnp.float32)

        def local(x_BSD, head_DV, targets_BS, weight_BS):
            loss, nll_BS = cross_entropy(x_BSD, head_DV, targets_BS, weight_BS, RULES.vocab)
            return lax.psum(loss, (RULES.batch, RULES.position)), nll_BS

        rows = spec("batch", "position")
        return jax.shard_map(
            local,
            in_specs=(spec("batch", "position", None), spec(None, "vocab"), rows, rows),
            out_specs=(PartitionSpec(), rows),
            check_vma=False,
        )(normed_BSD, head_DV, targets_BS, weight_BS)


def _checkpointed(layer: Callable, remat: Remat) -> Callable:
    if remat is Remat.NONE:
        return layer
    names = ("attention_out", "attention_lse") if remat is Remat.SAVE_ATTENTION else ()
    return jax.checkpoint(layer, policy=jax.checkpoint_policies.save_only_these_names(*names))
