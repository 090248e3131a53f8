"""Over the sequence axis queries are dealt out by what they cost: equal work, the same visits, the same numbers."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec, reshard
from tiny_model import documents, packed

from llama3_jax.batches.batch import Batch
from llama3_jax.batches.rows import pack
from llama3_jax.kernels.attention import block_sizes, reference
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import document_mask
from llama3_jax.kernels.attention.schedule import block_schedule
from llama3_jax.model.attention import PackedAttend
from llama3_jax.model.config import ModelConfig
from llama3_jax.sharding.axes import AXES
from llama3_jax.sharding.context_parallel import block_size, dealt

LONG, RANKS, TILE_Q, TILE_K = 2**17, 16, 256, 512


def row(lengths, S) -> Batch:
    lengths = lengths[: np.searchsorted(np.cumsum(lengths), S) + 1].copy()
    lengths[-1] -= max(lengths.sum() - S, 0)
    return pack([np.zeros(length, np.int32) for length in lengths], S, 0)


def random_row(seed: int) -> Batch:
    """Documents of 800 tokens on average, as web pages are, or of 20,000; every eighth row is one document."""
    rng = np.random.default_rng(seed)
    mean, sigma = ((800, 1.2), (20_000, 1.5))[seed % 2]
    lengths = np.maximum(rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, 4000), 8).astype(int)
    return row(np.array([LONG]) if seed % 8 == 7 else lengths, LONG)


def visits_of_ranks(batch: Batch) -> np.ndarray:
    """Tiles of 256 queries and 512 keys that each rank visits."""
    start, end = batch.order - batch.positions, np.where(batch.segment_ids > 0, batch.order + 1, 0)
    first, last = start.reshape(-1, TILE_Q).min(axis=1) // TILE_K, -(-end.reshape(-1, TILE_Q).max(axis=1) // TILE_K)
    return np.maximum(last - first, 0).reshape(RANKS, -1).sum(axis=1)


def zig_zag(batch: Batch) -> Batch:
    chunks = np.arange(LONG).reshape(2 * RANKS, -1)
    order = np.concatenate([np.r_[chunks[rank], chunks[-1 - rank]] for rank in range(RANKS)])
    return Batch(*(leaf[order] for leaf in batch))


def test_no_rank_works_more_than_a_tenth_above_the_mean():
    """At 128k on 16 ranks, over 64 packings, where the paper's zig-zag is for rows of one document alone."""
    ours, theirs = [], []
    for seed in range(64):
        batch = random_row(seed)
        work, zig_zagged = visits_of_ranks(dealt(batch, RANKS)), visits_of_ranks(zig_zag(batch))
        assert work.sum() == zig_zagged.sum() == visits_of_ranks(batch).sum()
        ours.append(work.max() / work.mean())
        theirs.append(zig_zagged.max() / zig_zagged.mean())
    print(f"max/mean: dealt {np.mean(ours):.3f}, at most {max(ours):.3f}; zig-zag {np.mean(theirs):.2f}")
    assert max(ours) <= 1.1 < np.mean(theirs)


@pytest.mark.parametrize("pieces", [2, 4, 8])
@pytest.mark.parametrize("length", [64, 96, 1024, 4096])
def test_every_device_holds_whole_blocks_once(length, pieces):
    batch = row(np.array([length // 3, 5, length]), length)
    found, block = dealt(batch, pieces), block_size(length, pieces)
    assert sorted(found.order) == list(range(length)) and length % (pieces * block) == 0
    assert (found.order.reshape(-1, block) - found.order[::block, None] == np.arange(block)).all()
    np.testing.assert_array_equal(found.tokens, batch.tokens[found.order])
    assert dealt(batch, 1) is batch


CFG = ModelConfig(
    num_layers=1, model_dim=16, num_heads=4, num_kv_heads=2, head_dim=8, ffw_dim=16, vocab_size=64, context_length=1024
)
DOCUMENTS = {256: ((90, 1, 60, 105), (256,)), 1024: ((700, 1, 323), (200, 400, 424))}


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_sizes, "XLA_BLOCK", 8)
        yield


def drawn(length):
    """A batch in the order of its rows, q, k, v and the cotangent of the output."""
    batch = packed([documents(CFG, *lengths, seed=n) for n, lengths in enumerate(DOCUMENTS[length])], length)
    rng = np.random.default_rng(0)
    return batch, [rng.normal(size=(2, length, heads, 8)).astype(np.float32) for heads in (4, 2, 2, 4)]


def expected(length):
    """What `attend` should give, from whole rows, dense scores and a mask made another way."""
    batch, (q, k, v, out_bar) = drawn(length)
    mask = document_mask(batch.segment_ids)
    out, pull = jax.vjp(lambda *qkv: reference.attention(*qkv, mask), q, k, v)
    schedule = block_schedule(mask, num_keys=length, block_q=8, block_k=8)
    return [out, *pull(out_bar)], int(schedule.by_query.count)


def attend(devices, length, implementation, stages=1):
    """(out, gradients of q, k, v) in the order of the rows, and the visits of all devices.

    Args: stages: of a pipeline, each of which has rows of its own.
    """
    batch, arrays = drawn(length)
    there = dealt(jax.tree.map(np.asarray, batch), devices.shape["sequence"])
    order = there.order[..., None, None]
    arrays = [np.take_along_axis(x, order, axis=1) for x in arrays]

    def run(batch, *arrays):
        def call(q, k, v):
            attended = PackedAttend(batch, CFG, implementation=implementation)
            return attended(q, k, v, 0, None)[0], attended.plan.schedule.by_query.count

        out, pull, counts = jax.vjp(call, *arrays[:3], has_aux=True)
        return out, *pull(arrays[3]), counts

    def run_stage(*arguments):
        found = run(*jax.tree.map(lambda leaf: leaf[0], arguments))
        return jax.tree.map(lambda leaf: leaf[None], found)

    def place(tree, partition):
        return jax.tree.map(lambda leaf: reshard(leaf, partition), tree)

    with jax.set_mesh(devices):
        mapped = run
        split = [PartitionSpec("data", "sequence"), *[PartitionSpec("data", "sequence", "model", None)] * 4]
        if stages > 1:
            stage = PartitionSpec("pipeline")
            mapped = jax.shard_map(run_stage, in_specs=stage, out_specs=stage, axis_names={"pipeline"}, check_vma=False)
            there, *arrays = jax.tree.map(lambda leaf: leaf.reshape(stages, -1, *leaf.shape[1:]), (there, *arrays))
            split = [PartitionSpec("pipeline", *each) for each in split]
        *found, counts = jax.jit(mapped)(*map(place, (there, *arrays), split))
    back = np.argsort(order, axis=1)
    found = [np.asarray(x).reshape(-1, length, *x.shape[-2:]) for x in found]
    return [np.take_along_axis(x, back, axis=1) for x in found], int(np.sum(counts))


@pytest.mark.parametrize("axes", [{}, {"sequence": 2}, {"sequence": 4}, {"sequence": 8}, {"data": 2, "sequence": 2, "model": 2}])
def test_values_gradients_and_visits_are_those_of_whole_rows(axes, mesh):
    found, visits = attend(mesh(**axes), 256, Implementation.XLA)
    right, all_visits = expected(256)
    assert visits == all_visits
    for name, ours, theirs in zip(("out", *"qkv"), found, right, strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-6 * np.linalg.norm(theirs), name


def test_so_are_those_of_the_stages_of_a_pipeline():
    """All four axes: each stage has one of the two rows, other devices pieces and heads of it."""
    devices = jax.make_mesh((2, 1, 2, 2), AXES, (AxisType.Explicit,) * len(AXES))
    found, visits = attend(devices, 256, Implementation.XLA, stages=2)
    right, all_visits = expected(256)
    assert visits == all_visits
    for name, ours, theirs in zip(("out", *"qkv"), found, right, strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-6 * np.linalg.norm(theirs), name


@pytest.mark.parametrize("axes", [pytest.param({"sequence": 2}, marks=pytest.mark.slow), {"data": 2, "model": 2}])
def test_so_do_the_kernels_for_tpu(axes, mesh):
    from jax.experimental.pallas import tpu as pltpu

    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams()):
        found, _ = attend(mesh(**axes), 1024, Implementation.TPU)
    for name, ours, theirs in zip(("out", *"qkv"), found, expected(1024)[0], strict=True):
        assert np.linalg.norm(ours - theirs) <= 2e-6 * np.linalg.norm(theirs), name
