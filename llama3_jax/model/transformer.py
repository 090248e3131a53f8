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
from llama3_jax.model.checkpointing import checkpointed, named_layer_input
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.embedding import lookup
from llama3_jax.model.feed_forward import FeedForward
from llama3_jax.model.norm import rms_norm, scale_of_rows
from llama3_jax.model.param import fan_in, normal, ones
from llama3_jax.model.remat import Remat
from llama3_jax.model.rope import Rotation, rotation
from llama3_jax.sharding.axes import RULES, spec
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.sharding.linear import linear
from llama3_jax.sharding.per_device import all_gather, per_device, psum, psum_scatter
from llama3_jax.sharding.tensor_parallel import into_block, out_of_block, residual, residual_dim


class Block(nnx.Module):
    """h = x + attention(norm(x)); h + feed_forward(norm(h)). Parameters of all layers, stacked on a leading dim."""

    def __init__(self, cfg: ModelConfig, *, key: Array):
        attention, feed_forward = jax.random.split(key)
        self.attention_norm = ones((cfg.num_layers, cfg.model_dim), ("layer", None))
        self.attention = Attention(cfg, key=attention)
        self.ffw_norm = ones((cfg.num_layers, cfg.model_dim), ("layer", None))
        self.feed_forward = FeedForward(cfg, key=feed_forward)
        self.norm_eps = cfg.norm_eps

    def __call__(self, x_BSD: Array, turn: Rotation, attend: Attend, layer: Array, state: Any, fsdp: Fsdp) -> tuple[Array, Any]:
        normed_BSD = into_block(rms_norm(x_BSD, self.attention_norm[...], self.norm_eps))
        mixed_BSD, state = self.attention(normed_BSD, turn, attend, layer, state, fsdp)
        h_BSD = x_BSD + out_of_block(mixed_BSD)
        normed_BSD = into_block(rms_norm(h_BSD, self.ffw_norm[...], self.norm_eps))
        return h_BSD + out_of_block(self.feed_forward(normed_BSD, fsdp)), state


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

    def in_dtype(self, dtype: str) -> Transformer:
        """With every weight in the dtype of the products that it is cast to anyway: for a model that is used many times over.

        Scales of norms stay as they are, since they multiply unrounded.
        """

        def cast(path, leaf: Array) -> Array:
            return leaf if "norm" in jax.tree_util.keystr(path) else leaf.astype(dtype)

        return jax.tree.map_with_path(cast, self)

    def embed(self, tokens_BS: Array, dtype: str) -> Array:
        """int32 token ids -> [B, S, D]: each device looks up its own vocabulary rows, the rest add zero."""
        split = residual_dim(tokens_BS.shape[1]) == "residual"

        def local(table_VD, tokens_BS):
            x_BSD = lookup(table_VD, tokens_BS, dtype)
            return psum_scatter(x_BSD, RULES.vocab, 1) if split else psum(x_BSD, RULES.vocab)

        return per_device(
            local,
            in_specs=(spec("vocab", "embed"), spec("batch", "position")),
            out_specs=residual(tokens_BS.shape[1]),
        )(self.embedding[...], tokens_BS)

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
        fsdp: Fsdp = Fsdp.REGATHER,
    ) -> tuple[Array, Any]:
        """Layers [start, stop) applied to hidden states [B, S, D], partitioned as `residual` says.

        Args:
            state: what `attend` carries from layer to layer (a KV cache), or None.
            inject: layer number -> adapter applied to the hidden states before that layer.
        """
        stop = self.cfg.num_layers if stop is None else stop
        turn = rotation(self.cfg, positions_BS)
        stacked = _with_row_scales(self.blocks, x_BSD.shape[1])

        def layer(block, x_BSD, layer, state, fsdp):
            return block(named_layer_input(x_BSD), turn, attend, layer, state, fsdp)

        apply = checkpointed(layer, remat, fsdp)

        def step(carry, inputs):
            block, layer = inputs
            return apply(block, carry[0], layer, carry[1]), None

        cuts = sorted({start, stop} | {layer for layer in inject or {} if start < layer < stop})
        for low, high in zip(cuts, cuts[1:], strict=False):
            if inject and low in inject:
                x_BSD = inject[low](x_BSD)
            whole = low == 0 and high == self.cfg.num_layers
            blocks = stacked if whole else jax.tree.map(lambda leaf, a=low, b=high: leaf[a:b], stacked)
            (x_BSD, state), _ = lax.scan(step, (x_BSD, state), (blocks, jnp.arange(low, high)))
        return x_BSD, state

    def head_matrix(self) -> tuple[Array, tuple[str, str]]:
        """The output weight and its logical dims; the embedding transposed where it is tied."""
        if self.head is None:
            return self.embedding[...], ("vocab", "embed")
        return self.head[...], ("embed", "vocab")

    def logits(self, x_BSD: Array) -> Array:
        """float32 [B, S, V] of final hidden states; for a few positions only, see `loss` for a batch."""
        normed_BSD = into_block(self._final(x_BSD))
        weight, dims = self.head_matrix()
        equation = "bsd,dv->bsv" if dims[0] == "embed" else "bsd,vd->bsv"
        gathered = spec(*(dim if dim == "vocab" else None for dim in dims))
        out = spec("batch", "position", "vocab")
        return linear(equation, normed_BSD, weight, gathered=gathered, out=out).astype(jnp.float32)

    def loss(self, x_BSD: Array, targets_BS: Array, weight_BS: Array) -> tuple[Array, Array]:
        """Cross entropy of final hidden states, without ever holding a row's logits.

        Returns: (sum of weight * nll over all devices: float32 scalar, nats; nll_BS: float32, nats, no gradient).
        """
        weight, dims = self.head_matrix()
        split = residual_dim(x_BSD.shape[1]) == "residual"

        def local(x_BSD, head, targets_BS, weight_BS):
            if split:
                x_BSD = all_gather(x_BSD, RULES.vocab, 1)
            head_DV = head if dims[0] == "embed" else head.T
            loss, nll_BS = cross_entropy(x_BSD, head_DV, targets_BS, weight_BS, RULES.vocab, RULES.embed)
            return psum(loss, (RULES.batch, RULES.position)), nll_BS

        rows = spec("batch", "position")
        return per_device(
            local,
            in_specs=(residual(x_BSD.shape[1]), spec(*dims), rows, rows),
            out_specs=(PartitionSpec(), rows),
        )(self._final(x_BSD), weight, targets_BS, weight_BS)

    def _final(self, x_BSD: Array) -> Array:
        return rms_norm(x_BSD, scale_of_rows(self.final_norm[...], x_BSD.shape[1]), self.cfg.norm_eps)


def _with_row_scales(blocks: Block, num_positions: int) -> Block:
    """Blocks whose norms have the gradients of `scale_of_rows`."""

    def place(path, leaf):
        return scale_of_rows(leaf, num_positions) if "norm" in jax.tree_util.keystr(path) else leaf

    return jax.tree_util.tree_map_with_path(place, blocks)
