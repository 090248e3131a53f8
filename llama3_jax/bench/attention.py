"""Attention timed: each implementation of ours that runs here, and the library's own, on the same arrays, in one run.

Shape letters: B rows, S positions, N query heads, K key/value heads, H head dim.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llama3_jax.bench import float64
from llama3_jax.bench.attention_shape import Shape
from llama3_jax.bench.timed import timed
from llama3_jax.kernels.attention import block_sizes, cudnn
from llama3_jax.kernels.attention.block_sizes import BlockSizes
from llama3_jax.kernels.attention.choice import choose, obstacle
from llama3_jax.kernels.attention.flash_attention import flash_attention, plan
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import dense, document_mask
from llama3_jax.kernels.device import traced_for

MOST_SCORES = 4 * 2**30
"""Bytes of scores that whoever holds them all is given a try with."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    name: str
    seconds: float
    """Of a forward and a backward pass: the median over rounds."""
    forward_s: float
    spread: float
    """(slowest - fastest) / median, of the forward and backward pass."""
    visited_pairs: float
    """Pairs that it multiplies, hidden ones included."""

    @property
    def backward_s(self) -> float:
        return self.seconds - self.forward_s


@dataclass(frozen=True, kw_only=True)
class Case:
    shape: Shape
    mean_tokens: int | None
    """Of the documents in a row; None is one document."""
    visible_pairs: float
    measured: tuple[Measured, ...]
    schedule_s: float
    """To make the schedule of our default, once per batch."""

    @property
    def causal_pairs(self) -> float:
        return self.shape.rows * self.shape.length * (self.shape.length + 1) / 2


class Contender:
    """Args:
    prepare: segment ids -> what is made once per batch.
    attend: (q, k, v, that) -> out.
    visited_pairs: the same -> pairs multiplied.
    sees_documents: or attends across them, so that its results are others where a row has several.
    """

    def __init__(
        self, name: str, prepare: Callable, attend: Callable, visited_pairs: Callable[..., float], *, sees_documents: bool = True
    ):
        self.name, self.prepare, self.visited_pairs, self.sees_documents = name, jax.jit(prepare), visited_pairs, sees_documents
        self.forward = jax.jit(attend)

        def both(q_BSNH, k_BSKH, v_BSKH, prepared, out_bar_BSNH):
            out_BSNH, pull = jax.vjp(lambda *qkv: attend(*qkv, prepared), q_BSNH, k_BSKH, v_BSKH)
            return out_BSNH, pull(out_bar_BSNH)

        self.both = jax.jit(both)


def ours(shape: Shape, implementation: Implementation, dtype: str, blocks: BlockSizes | None = None) -> Contender:
    def prepare(segment_ids_BS):
        mask = document_mask(segment_ids_BS)
        return mask, plan(
            mask, num_keys=shape.length, head_dim=shape.head_dim, group=shape.group, dtype=dtype,
            implementation=implementation, blocks=blocks,
        )  # fmt: skip

    def visited(prepared):
        _, planned = prepared
        if planned.schedule is None:
            return shape.rows * shape.length**2
        return int(planned.schedule.by_query.count) * planned.blocks.queries * planned.blocks.keys

    def attend(q_BSNH, k_BSKH, v_BSKH, prepared):
        return flash_attention(q_BSNH, k_BSKH, v_BSKH, *prepared)

    return Contender(f"llama3_jax {implementation.value}", prepare, attend, visited)


def library(shape: Shape) -> Contender:
    """`jax.nn.dot_product_attention` with the mask of the documents written out."""

    def attend(q, k, v, visible_BST):
        return jax.nn.dot_product_attention(q, k, v, mask=visible_BST[:, None])

    def prepare(segment_ids_BS):
        return dense(document_mask(segment_ids_BS), shape.length)

    return Contender("jax.nn.dot_product_attention", prepare, attend, lambda _: shape.rows * shape.length**2)


def blind_cudnn(shape: Shape) -> Contender:
    """NVIDIA's, through jax: causal over whole rows, whatever documents are in them."""

    def attend(q, k, v, _):
        return cudnn.attention(q, k, v)

    causal_pairs = shape.rows * shape.length * (shape.length + 1) / 2
    return Contender("cuDNN", lambda ids: ids, attend, lambda _: causal_pairs, sees_documents=False)


def splash(shape: Shape) -> Contender:
    """The TPU kernel of jax, causal, with segment ids: it masks other documents, and visits them."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    S = shape.length
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((S, S))] * shape.num_heads)
    kernel = splash_attention_kernel.make_splash_mha_single_device(mask)

    def attend(q, k, v, segment_ids_BS):
        def row(q_SNH, k_SKH, v_SKH, segment_ids_S):
            k_NSH, v_NSH = (jnp.repeat(x.transpose(1, 0, 2), shape.group, axis=0) for x in (k_SKH, v_SKH))
            segments = splash_attention_kernel.SegmentIds(segment_ids_S, segment_ids_S)
            out_NSH = kernel(q_SNH.transpose(1, 0, 2) * shape.head_dim**-0.5, k_NSH, v_NSH, segment_ids=segments)
            return out_NSH.transpose(1, 0, 2)

        return jax.vmap(row)(q, k, v, segment_ids_BS)

    return Contender("jax splash attention", lambda ids: ids, attend, lambda _: shape.rows * S * (S + 1) / 2)


def contenders(shape: Shape, dtype: str) -> Iterator[Contender]:
    """Those that run on this machine and do this work, our default first."""
    default = choose(Implementation.AUTO, head_dim=shape.head_dim, dtype=dtype)
    yield ours(shape, default, dtype)
    if default is not Implementation.XLA:
        yield ours(shape, Implementation.XLA, dtype)
    if 4 * shape.rows * shape.num_heads * shape.length**2 <= MOST_SCORES:
        yield ours(shape, Implementation.REFERENCE, dtype)
        yield library(shape)
    if jax.default_backend() == "tpu":
        yield splash(shape)
    if not obstacle(Implementation.CUDNN, head_dim=shape.head_dim, dtype=dtype, device=traced_for()):
        yield blind_cudnn(shape)


def compare(shape: Shape, mean_tokens: int | None, runners: Sequence[Contender], *, dtype: str, rounds: int) -> Case:
    """Every contender in every round, each round begun by another.

    Args: runners: of this shape; what they have compiled serves every packing.
    Raises: ValueError if their results differ: they would not do the same work.
    """
    arrays, segment_ids = draw(shape, mean_tokens, dtype)
    prepared = [jax.block_until_ready(each.prepare(segment_ids)) for each in runners]
    blind = [mean_tokens is not None and not each.sees_documents for each in runners]
    results = [each.both(*arrays[:3], made, arrays[3]) for each, made in zip(runners, prepared, strict=True)]
    _require_same([(each, result) for each, result, other in zip(runners, results, blind, strict=True) if not other], dtype)
    del results
    forward = timed([partial(each.forward, *arrays[:3], made) for each, made in zip(runners, prepared, strict=True)], rounds)
    both = timed([partial(each.both, *arrays[:3], made, arrays[3]) for each, made in zip(runners, prepared, strict=True)], rounds)
    (schedule,) = timed([partial(runners[0].prepare, segment_ids)], rounds)
    return Case(
        shape=shape, mean_tokens=mean_tokens, visible_pairs=visible_pairs(segment_ids),
        measured=tuple(
            Measured(
                name=f"{each.name}, blind to documents" if other else each.name,
                seconds=statistics.median(two), forward_s=statistics.median(one),
                spread=(max(two) - min(two)) / statistics.median(two), visited_pairs=each.visited_pairs(made),
            )
            for each, other, made, one, two in zip(runners, blind, prepared, forward, both, strict=True)
        ),
        schedule_s=statistics.median(schedule),
    )  # fmt: skip


def best_sizes(
    shape: Shape, mean_tokens: Sequence[int | None], candidates: Sequence[BlockSizes], *, dtype: str, rounds: int
) -> Mapping[BlockSizes, float]:
    """Seconds of a forward and a backward pass with each of these tiles, over all packings together."""
    implementation = choose(Implementation.AUTO, head_dim=shape.head_dim, dtype=dtype)
    total = dict.fromkeys(candidates, 0.0)
    for mean in mean_tokens:
        arrays, segment_ids = draw(shape, mean, dtype)
        calls = []
        for blocks in candidates:
            each = ours(shape, implementation, dtype, blocks)
            calls.append(partial(each.both, *arrays[:3], each.prepare(segment_ids), arrays[3]))
        for blocks, seconds in zip(candidates, timed(calls, rounds), strict=True):
            total[blocks] += statistics.median(seconds)
    return total


def sizes(shape: Shape, implementation: Implementation) -> BlockSizes:
    return block_sizes.block_sizes(
        implementation, chip=traced_for().kind, head_dim=shape.head_dim, group=shape.group, num_queries=shape.length,
        num_keys=shape.length,
    )  # fmt: skip


def draw(shape: Shape, mean_tokens: int | None, dtype: str, seed: int = 0) -> tuple[list[Array], Array]:
    """q, k, v, the cotangent of the output, and segment ids of documents of log-normal length."""
    rng, keys = np.random.default_rng(seed), jax.random.split(jax.random.key(seed), 4)
    heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads, shape.num_heads)
    arrays = [
        jax.random.normal(key, (shape.rows, shape.length, each, shape.head_dim)).astype(dtype)
        for key, each in zip(keys, heads, strict=True)
    ]
    return arrays, jnp.asarray(np.stack([_row(rng, shape.length, mean_tokens) for _ in range(shape.rows)]))


def _row(rng: np.random.Generator, length: int, mean_tokens: int | None) -> np.ndarray:
    if mean_tokens is None:
        return np.ones(length, np.int32)
    lengths = np.maximum(rng.lognormal(np.log(mean_tokens) - 0.5, 1.0, length), 1).astype(int)
    return np.repeat(np.arange(1, length + 1, dtype=np.int32), lengths)[:length]


def visible_pairs(segment_ids_BS: Array) -> float:
    mask = document_mask(segment_ids_BS)
    return float(jnp.sum((mask.end_BSI - mask.start_BSI).astype(jnp.float32)))


def _require_same(found: Sequence[tuple[Contender, object]], dtype: str) -> None:
    (first, expected), *others = found
    for each, result in others:
        pairs = zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)
        if not (difference := float(np.max([apart(*pair) for pair in pairs]))) <= float64.furthest_apart(dtype):
            raise ValueError(f"{each.name} and {first.name} differ by {difference:.1e}: they do not do the same work")


@jax.jit
def apart(one: Array, other: Array) -> Array:
    """The norm of the difference, relative to that of `other`; computed where they are, since they may be large."""
    one, other = one.astype(jnp.float32), other.astype(jnp.float32)
    return jnp.sqrt(jnp.sum(jnp.square(one - other)) / jnp.sum(jnp.square(other)))
