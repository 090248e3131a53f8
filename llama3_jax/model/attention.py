"""Grouped-query self-attention (section 3.2) and where its keys come from.

The block computes q, k and v and hands them to an `Attend`: in training that is flash attention over the packed row,
in generation it is attention over a KV cache. Whatever the `Attend` remembers from layer to layer is its state.

Shape letters: B batch, S query positions, D model, N query heads, K key/value heads, H head dim, L layers.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
from flax import nnx
from jax import Array
from jax.sharding import PartitionSpec

from llama3_jax.batches.batch import Batch
from llama3_jax.kernels.attention.flash_attention import flash_attention, plan
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import own_document_mask
from llama3_jax.model.config import ModelConfig
from llama3_jax.model.param import fan_in, normal
from llama3_jax.model.rope import Rotation, rotate
from llama3_jax.sharding.axes import RULES, spec
from llama3_jax.sharding.context_parallel import gather_positions, gathered_deal
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.sharding.linear import linear
from llama3_jax.sharding.per_device import axis_size, per_device
from llama3_jax.sharding.tensor_parallel import BLOCK_SUMS

PER_DEVICE = PartitionSpec((RULES.batch, RULES.position))
"""Arrays with one leading entry for each device's rows and positions."""


class Attend(Protocol):
    """(q_BSNH, k_BSKH, v_BSKH after rotation, layer number, state) -> (out_BSNH, state)."""

    def __call__(self, q_BSNH: Array, k_BSKH: Array, v_BSKH: Array, layer: Array, state: Any) -> tuple[Array, Any]: ...


class Attention(nnx.Module):
    """Declared with all layers stacked, called on one layer's slice inside the scan."""

    def __init__(self, cfg: ModelConfig, *, key: Array):
        L, D, N, K, H = cfg.num_layers, cfg.model_dim, cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
        q, k, v, o = jax.random.split(key, 4)
        self.w_q = normal(q, (L, D, N, H), ("layer", "embed", "heads", None), fan_in(D))
        self.w_k = normal(k, (L, D, K, H), ("layer", "embed", "kv_heads", None), fan_in(D))
        self.w_v = normal(v, (L, D, K, H), ("layer", "embed", "kv_heads", None), fan_in(D))
        self.w_o = normal(o, (L, N, H, D), ("layer", "heads", None, "embed"), fan_in(N * H) * (2 * L) ** -0.5)

    def __call__(self, x_BSD: Array, turn: Rotation, attend: Attend, layer: Array, state: Any, fsdp: Fsdp) -> tuple[Array, Any]:
        """All positions in, partial sums over the model axis out (see tensor_parallel), and the state of `attend`."""

        def project(weight: Array, heads: str) -> Array:
            return linear(
                "bsd,dnh->bsnh", x_BSD, weight,
                gathered=spec(None, heads, None), out=spec("batch", "position", heads, None), fsdp=fsdp,
            )  # fmt: skip

        q_BSNH = rotate(project(self.w_q[...], "heads"), turn)
        k_BSKH = rotate(project(self.w_k[...], "kv_heads"), turn)
        v_BSKH = project(self.w_v[...], "kv_heads")
        out_BSNH, state = attend(q_BSNH, k_BSKH, v_BSKH, layer, state)
        out_BSD = linear(
            "bsnh,nhd->bsd", out_BSNH, self.w_o[...],
            gathered=spec("heads", None, None), out=BLOCK_SUMS, fsdp=fsdp,
        )  # fmt: skip
        return out_BSD, state


class PackedAttend:
    """Attention inside the rows of a training batch, on every mesh.

    Each device keeps its own queries and heads; over the sequence axis keys and values are gathered. Make one per batch,
    outside the layer scan: the block schedule is worked out here.
    """

    def __init__(
        self,
        batch: Batch,
        cfg: ModelConfig,
        *,
        dtype: str = "float32",
        implementation: Implementation = Implementation.AUTO,
    ):
        """Args: dtype: of activations."""

        def local(segment_ids_BS, positions_BS, order_BS):
            mask = own_document_mask(segment_ids_BS, positions_BS, order_BS)
            planned = plan(
                mask, num_keys=order_BS.shape[1] * axis_size(RULES.position), head_dim=cfg.head_dim,
                group=cfg.num_heads // cfg.num_kv_heads, dtype=dtype, implementation=implementation,
            )  # fmt: skip
            return mask, jax.tree.map(lambda leaf: leaf[None], planned), gathered_deal(order_BS)

        rows = spec("batch", "position")
        self.mask, self.plan, self.deal = per_device(
            local, in_specs=(rows, rows, rows), out_specs=(spec("batch", "position", None), PER_DEVICE, spec("batch", None))
        )(batch.segment_ids, batch.positions, batch.order)

    def __call__(self, q_BSNH: Array, k_BSKH: Array, v_BSKH: Array, layer: Array, state: Any) -> tuple[Array, Any]:
        heads, kv_heads = (spec("batch", "position", dim, None) for dim in ("heads", "kv_heads"))

        def local(q_BSNH, k_BSKH, v_BSKH, mask, planned, deal):
            k_BSKH, v_BSKH = gather_positions(k_BSKH, deal), gather_positions(v_BSKH, deal)
            return flash_attention(q_BSNH, k_BSKH, v_BSKH, mask, jax.tree.map(lambda leaf: leaf[0], planned))

        out_BSNH = per_device(
            local, out_specs=heads,
            in_specs=(heads, kv_heads, kv_heads, spec("batch", "position", None), PER_DEVICE, spec("batch", None)),
        )(q_BSNH, k_BSKH, v_BSKH, self.mask, self.plan, self.deal)  # fmt: skip
        return out_BSNH, state
