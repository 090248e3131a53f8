"""Every parameter of a Llama 3 under its three names, and how its numbers lie under each: all that formats differ in.

Between formats a weight travels as Hugging Face has it: one layer at a time, a matrix as [outputs, inputs], a head's rotary
pairs as (j, j + H/2).

Shape letters: D model, N query heads, K key/value heads, H head dim, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llama3_jax.model.config import ModelConfig

ALL = slice(None)


@dataclass(frozen=True, kw_only=True)
class Weight:
    ours: str
    """Under this name all layers are stacked on a leading dim."""
    dims: str
    """Ours, of one layer."""
    inputs: int = 0
    """How many of them, from the first, are inputs of a matrix; 0 for what is not turned: norms and the embedding."""
    hugging_face: str
    meta: str
    split: int | None
    """The dim of [outputs, inputs] that Meta's shards divide; None where each has the whole."""
    rotary: bool = False
    """Its heads are turned by position: Meta's pairs are (2j, 2j + 1)."""

    @property
    def layered(self) -> bool:
        return "{layer}" in self.meta


WEIGHTS = (
    Weight(ours="embedding", dims="VD", hugging_face="model.embed_tokens.weight", meta="tok_embeddings.weight", split=0),
    *(
        Weight(
            ours=f"blocks.{ours}", dims=dims, inputs=inputs, hugging_face=f"model.layers.{{layer}}.{hugging_face}.weight",
            meta=f"layers.{{layer}}.{meta}.weight", split=split, rotary=ours in ("attention.w_q", "attention.w_k"),
        )
        for ours, dims, inputs, hugging_face, meta, split in (
            ("attention_norm", "D", 0, "input_layernorm", "attention_norm", None),
            ("attention.w_q", "DNH", 1, "self_attn.q_proj", "attention.wq", 0),
            ("attention.w_k", "DKH", 1, "self_attn.k_proj", "attention.wk", 0),
            ("attention.w_v", "DKH", 1, "self_attn.v_proj", "attention.wv", 0),
            ("attention.w_o", "NHD", 2, "self_attn.o_proj", "attention.wo", 1),
            ("ffw_norm", "D", 0, "post_attention_layernorm", "ffn_norm", None),
            ("feed_forward.w_gate", "DF", 1, "mlp.gate_proj", "feed_forward.w1", 0),
            ("feed_forward.w_up", "DF", 1, "mlp.up_proj", "feed_forward.w3", 0),
            ("feed_forward.w_down", "FD", 1, "mlp.down_proj", "feed_forward.w2", 1),
        )
    ),
    Weight(ours="final_norm", dims="D", hugging_face="model.norm.weight", meta="norm.weight", split=None),
    Weight(ours="head", dims="DV", inputs=1, hugging_face="lm_head.weight", meta="output.weight", split=0),
)  # fmt: skip
BY_NAME = {weight.ours: weight for weight in WEIGHTS}


@dataclass(frozen=True)
class Tensor:
    """A weight of one layer, or one that no layer has."""

    weight: Weight
    layer: int | None = None

    @property
    def hugging_face(self) -> str:
        return self.weight.hugging_face.format(layer=self.layer)

    @property
    def meta(self) -> str:
        return self.weight.meta.format(layer=self.layer)

    def shape(self, cfg: ModelConfig) -> tuple[int, ...]:
        """[outputs, inputs], [V, D] or [D]."""
        sizes, inputs = self.our_shape(cfg), self.weight.inputs
        return (math.prod(sizes[inputs:]), math.prod(sizes[:inputs])) if inputs else sizes

    def our_shape(self, cfg: ModelConfig) -> tuple[int, ...]:
        return tuple(getattr(cfg, _SIZES[dim]) for dim in self.weight.dims)

    def to_ours(self, theirs: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Args: shape: of the result; the whole of `our_shape`, or a part of it that keeps whole heads."""
        return (theirs.T if self.weight.inputs else theirs).reshape(shape)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        inputs = self.weight.inputs
        return ours.reshape(math.prod(ours.shape[:inputs]), -1).T if inputs else ours

    def part(self, index: tuple[slice, ...], cfg: ModelConfig) -> tuple[slice, ...]:
        """The part of [outputs, inputs] that holds a part of ours. Args: index: into `our_shape`; heads are not cut."""
        sizes, inputs = self.our_shape(cfg), self.weight.inputs
        if not inputs:
            return index
        flat = [_flat(index[dims], sizes[dims]) for dims in (slice(inputs, None), slice(0, inputs))]
        return tuple(flat)


_SIZES = {
    "D": "model_dim", "N": "num_heads", "K": "num_kv_heads", "H": "head_dim", "F": "ffw_dim", "V": "vocab_size",
}  # fmt: skip


def tensors(cfg: ModelConfig) -> Iterator[Tensor]:
    """All of a model, layer by layer; a tied head is not one."""
    before, layered, after = WEIGHTS[:1], [weight for weight in WEIGHTS if weight.layered], WEIGHTS[-2:]
    yield from map(Tensor, before)
    yield from (Tensor(weight, layer) for layer in range(cfg.num_layers) for weight in layered)
    yield from (Tensor(weight) for weight in after if weight.ours != "head" or not cfg.tie_embeddings)


def halves_to_pairs(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of whole heads, from (j, j + H/2) to Meta's (2j, 2j + 1)."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def pairs_to_halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """The other way."""
    return rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _flat(index: tuple[slice, ...], sizes: tuple[int, ...]) -> slice:
    """One slice of dims that are one; all but the first of them are whole."""
    (first, *rest), inner = index, math.prod(sizes[1:])
    assert all(part.indices(size) == (0, size, 1) for part, size in zip(rest, sizes[1:], strict=True)), "a head is cut"
    start, stop, _ = first.indices(sizes[0])
    return slice(start * inner, stop * inner)
