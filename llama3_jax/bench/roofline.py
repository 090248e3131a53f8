"""What attention should take on a TPU that is not here: compiled by its compiler, bounded by what the chip can do.

A bound, not a measurement: the matrix units busy with nothing but the visited tiles, or the memory with nothing but their
reads, whichever takes longer, one kernel after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llama3_jax.bench.attention import draw
from llama3_jax.bench.attention_shape import Shape
from llama3_jax.kernels.attention.block_sizes import BlockSizes, block_sizes
from llama3_jax.kernels.attention.flash_attention import flash_attention, plan
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import document_mask
from llama3_jax.kernels.attention.schedule import block_schedule

BF16, F32 = 2, 4


@dataclass(frozen=True, kw_only=True)
class Chip:
    """As Google Cloud's documentation of it says."""

    topology: str
    flops_per_s: float
    """bfloat16"""
    bytes_per_s: float


CHIPS = {
    "v5p": Chip(topology="v5p:2x2x1", flops_per_s=459e12, bytes_per_s=2765e9),
    "v6e": Chip(topology="v6e:2x2", flops_per_s=918e12, bytes_per_s=1640e9),
}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    blocks: BlockSizes
    visited_share: float
    """Of the causal pairs of whole rows."""
    seconds: float
    """At least, of a forward and a backward pass."""
    bound: str
    kernels: int
    temp_bytes: int
    argument_bytes: int


def prediction(shape: Shape, mean_tokens: int | None, chip: str) -> Prediction:
    """Raises: ValueError if libtpu is not installed."""
    limit, device = CHIPS[chip], _device(CHIPS[chip].topology)
    blocks = block_sizes(
        Implementation.TPU, chip=device.device_kind, head_dim=shape.head_dim, group=shape.group, num_queries=shape.length,
        num_keys=shape.length,
    )  # fmt: skip
    _, segment_ids = draw(Shape(**{**vars(shape), "num_heads": 1, "num_kv_heads": 1, "head_dim": 1}), mean_tokens, "float32")
    schedule = block_schedule(
        document_mask(segment_ids), num_keys=shape.length, block_q=blocks.queries, block_k=blocks.keys
    )
    visits = int(schedule.by_query.count)
    program = _compiled(shape, blocks, device)
    memory = program.memory_analysis()
    passes = _passes(shape, blocks, visits)
    seconds = [max(flops / limit.flops_per_s, num_bytes / limit.bytes_per_s) for flops, num_bytes in passes]
    by_flops = sum(flops for flops, _ in passes) / limit.flops_per_s
    return Prediction(
        blocks=blocks, visited_share=visits * blocks.queries * blocks.keys / (shape.rows * shape.length * (shape.length + 1) / 2),
        seconds=sum(seconds), bound="compute" if by_flops > 0.99 * sum(seconds) else "memory, in part",
        kernels=program.as_text().count('custom_call_target="tpu_custom_call"'), temp_bytes=memory.temp_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
    )  # fmt: skip


def _passes(shape: Shape, blocks: BlockSizes, visits: int) -> list[tuple[float, float]]:
    """FLOPs and bytes of the forward pass, the gradient of the queries, the gradients of keys and values.

    2, 3 and 4 matmuls a tile; what the next visit needs anew is read: keys and values along a line of queries, queries and
    cotangents along a line of keys.
    """
    matmul = 2.0 * shape.num_heads * shape.head_dim * visits * blocks.queries * blocks.keys
    keys = 2.0 * shape.num_kv_heads * visits * blocks.keys * shape.head_dim * BF16
    queries = shape.num_heads * visits * blocks.queries * (2.0 * shape.head_dim * BF16 + 2 * F32)
    of_queries = float(shape.rows * shape.length * shape.num_heads * shape.head_dim * BF16)
    of_keys = float(shape.rows * shape.length * shape.num_kv_heads * shape.head_dim * BF16)
    return [
        (2 * matmul, keys + 2 * of_queries),
        (3 * matmul, keys + 3 * of_queries),
        (4 * matmul, queries + 4 * of_keys),
    ]


def _compiled(shape: Shape, blocks: BlockSizes, device: jax.Device):
    mesh = Mesh(np.array([device]), ("chip",), axis_types=(AxisType.Explicit,))
    here = NamedSharding(mesh, PartitionSpec())

    def both(q_BSNH, k_BSKH, v_BSKH, out_bar_BSNH, segment_ids_BS):
        mask = document_mask(segment_ids_BS)
        planned = plan(
            mask, num_keys=shape.length, head_dim=shape.head_dim, group=shape.group, dtype="bfloat16",
            implementation=Implementation.TPU, blocks=blocks,
        )  # fmt: skip
        out_BSNH, pull = jax.vjp(lambda *qkv: flash_attention(*qkv, mask, planned), q_BSNH, k_BSKH, v_BSKH)
        return out_BSNH, pull(out_bar_BSNH)

    B, S, H = shape.rows, shape.length, shape.head_dim
    heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads, shape.num_heads)
    arrays = [jax.ShapeDtypeStruct((B, S, each, H), jnp.bfloat16, sharding=here) for each in heads]
    arrays.append(jax.ShapeDtypeStruct((B, S), jnp.int32, sharding=here))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return jax.jit(both).trace(*arrays).lower(lowering_platforms=("tpu",)).compile()


def _device(topology: str) -> jax.Device:
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    except Exception as error:
        raise ValueError(f"the compiler of {topology} is not here ({error}); install it: pip install libtpu") from error
