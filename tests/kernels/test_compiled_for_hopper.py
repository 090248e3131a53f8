"""XLA's GPU compiler and ptxas take the attention kernels for H100, with no GPU there: nothing spills out of registers."""

import importlib
import re
import sysconfig
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import topologies
from attention_subjects import needs_hopper
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.commands.run import TrainRun
from llama3_jax.config.load import load
from llama3_jax.kernels.attention.flash_attention import flash_attention
from llama3_jax.kernels.attention.mask import IntervalMask, document_mask, prefix_mask
from llama3_jax.kernels.attention.paged import paged_attention
from llama3_jax.model.remat import Remat
from llama3_jax.train.abstract import abstract_state, compile_step
from llama3_jax.train.objective import NextToken

pytestmark = [pytest.mark.compiled, needs_hopper]

SHAPES = {
    "8b": (2, 8, 4, 128, jnp.bfloat16),
    "405b_tensor_parallel_8": (1, 1, 16, 128, jnp.bfloat16),
    "head_dim_64": (1, 8, 4, 64, jnp.bfloat16),
    "float16": (1, 2, 1, 128, jnp.float16),
}
"""rows, key/value heads, query heads of each, head dim, dtype"""
REGISTERS, WARPGROUPS = 168, 3
"""Of a thread at launch; those that multiply then take what the copying warpgroup gives up."""
GB = 1e9


@pytest.mark.parametrize("intervals", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels(shape, intervals, tmp_path, monkeypatch):
    dump(tmp_path, monkeypatch)
    compile_kernels(shape, intervals, length=8000)  # which no tile divides
    nothing_spills(tmp_path, kernels=3)
    programs = [path.read_text() for path in tmp_path.rglob("*.ptx")]
    assert len(programs) == 3
    for program in programs:
        (copying,), (multiplying,) = (set(re.findall(rf"setmaxnreg.{way}.*?(\d+);", program)) for way in ("dec", "inc"))
        taken = int(copying) + (WARPGROUPS - 1) * int(multiplying)
        assert taken <= WARPGROUPS * REGISTERS, "a warpgroup would wait for registers for ever"


@pytest.mark.parametrize("shape", ["8b", "head_dim_64"])
def test_exponentials_are_taken_while_a_product_is_under_way(shape, tmp_path, monkeypatch):
    """Once the scores are there, and before the wait for the product that was begun after them: in the machine's own code."""
    disassembler = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", "nvdisasm")
    if not disassembler.exists():
        pytest.skip("nvidia-cuda-nvdisasm is not installed")
    importlib.import_module("jax.experimental.mosaic.gpu")  # which sets where it looks
    dump(tmp_path, monkeypatch)
    monkeypatch.setenv("MOSAIC_GPU_CUDA_ROOT", str(disassembler.parents[1]))
    monkeypatch.setenv("MOSAIC_GPU_DUMP_SASS", "1")
    compile_kernels(shape, intervals=1, length=8192)  # another than above: what was compiled once is not dumped again
    programs = [path.read_text() for path in tmp_path.rglob("*.sass*")]
    assert len(programs) == 3
    least = []
    for program in programs:
        waits_and_exponentials = re.findall(r"WARPGROUP\.DEPBAR\.LE gsb0, (0x\d)|(MUFU\.EX2)", program)
        told = "".join(wait or "e" for wait, _ in waits_and_exponentials)
        least.append(len(re.search(r"0x1(e*)0x", told)[1]))
    per_thread = [tile // 128 for tile in (64 * 64, 64 * 64, 64 * 128)]
    assert all(found >= 2 * wanted for found, wanted in zip(sorted(least), per_thread, strict=True)), "of either branch"


def compile_kernels(shape, intervals, length):
    """Forward and both backward kernels."""
    B, K, G, H, dtype = SHAPES[shape]
    mesh = topologies.mesh_of(topologies.gpu()[:1])

    def loss(q_BSNH, k_BTKH, v_BTKH, segment_ids_BS):
        mask = document_mask(segment_ids_BS)
        mask = IntervalMask(*(jnp.repeat(side, intervals, axis=-1) for side in mask))
        return flash_attention(q_BSNH, k_BTKH, v_BTKH, mask).astype(jnp.float32).sum()

    here = NamedSharding(mesh, PartitionSpec())
    arrays = [jax.ShapeDtypeStruct((B, length, N, H), dtype, sharding=here) for N in (K * G, K, K)]
    arrays.append(jax.ShapeDtypeStruct((B, length), jnp.int32, sharding=here))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        jax.jit(jax.grad(loss, (0, 1, 2))).trace(*arrays).lower(lowering_platforms=("cuda",)).compile()


@pytest.mark.parametrize("page", [16, 128])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_decoding(head_dim, page, tmp_path, monkeypatch):
    """One query of each of 32 requests, of up to 8,192 positions."""
    dump(tmp_path, monkeypatch)
    mesh = topologies.mesh_of(topologies.gpu()[:1])
    here = NamedSharding(mesh, PartitionSpec())

    def array(*shape, dtype="bfloat16"):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    def attend(q_RSNH, k_LPCX, v_LPCX, table_RM, position_RS):
        return paged_attention(q_RSNH, k_LPCX, v_LPCX, jnp.int32(1), table_RM, prefix_mask(position_RS))

    pool = array(2, 40_000 // page, page, 8 * head_dim)
    arrays = (array(32, 1, 32, head_dim), pool, pool, array(32, 8192 // page, dtype="int32"), array(32, 1, dtype="int32"))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = jax.jit(attend).trace(*arrays).lower(lowering_platforms=("cuda",)).compile()
    nothing_spills(tmp_path, kernels=1)
    assert program.memory_analysis().temp_size_in_bytes < pool.size * 2 / 10, "no page is copied"


def dump(tmp_path, monkeypatch):
    monkeypatch.setenv("MOSAIC_GPU_DUMP_TO", str(tmp_path))
    monkeypatch.setenv("MOSAIC_GPU_DUMP_PTXAS", "1")


def nothing_spills(tmp_path, kernels):
    reports = [path.read_text() for path in tmp_path.rglob("*.ptxas")]
    assert len(reports) == kernels, "auto is the kernels there"
    for report in reports:
        assert set(re.findall(r"(\d+) bytes spill", report)) == {"0"}, report
        assert max(map(int, re.findall(r"Used (\d+) registers", report))) <= REGISTERS


def test_a_step_of_8b_on_eight_h100():
    """Each has a row of 8,192 tokens, and holds an eighth of the parameters and their moments."""
    assert memory_of("llama3_8b", topologies.mesh_of(topologies.gpu(), data=8), (1, 8, 8192)) < 80


def test_a_step_of_405b_on_16_384_h100():
    """On the mesh of its run file, with the paper's batch of 16.8M tokens in two micro-batches."""
    mesh = topologies.mesh_of(topologies.gpu(hosts=2048), data=1024, sequence=2, model=8)
    assert memory_of("llama3_405b", mesh, (2, 1024, 8192)) < 80


def memory_of(config, mesh, shape):
    """GB on a device while a step runs."""
    run = load(TrainRun, config).value
    objective = NextToken(precision=run.precision, remat=Remat.SAVE_ATTENTION)
    program = compile_step(objective, run.optimizer, abstract_state(run.model, run.optimizer, mesh), shape, mesh)
    assert "mosaic_gpu" in program.as_text()
    memory = program.memory_analysis()
    used = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / GB
    print(f"{config}: {used:.1f} GB")
    return used
