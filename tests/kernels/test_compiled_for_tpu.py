"""The real TPU compiler takes the attention kernels, and a whole training step with them, with no TPU there."""

import jax
import jax.numpy as jnp
import pytest
import topologies
from jax.sharding import NamedSharding, PartitionSpec

from llama3_jax.commands.run import TrainRun
from llama3_jax.config.load import load
from llama3_jax.kernels.attention.flash_attention import flash_attention
from llama3_jax.kernels.attention.mask import document_mask, prefix_mask
from llama3_jax.kernels.attention.paged import paged_attention
from llama3_jax.model.remat import Remat
from llama3_jax.train.abstract import abstract_state, compile_step
from llama3_jax.train.objective import NextToken

pytestmark = [pytest.mark.compiled]

GIB = 2**30
SHAPES = {
    "8b": (2, 8, 4, 128),
    "405b_tensor_parallel_8": (1, 1, 16, 128),
    "head_dim_64": (1, 8, 4, 64),
    "group_1": (1, 2, 1, 64),
    "group_2": (1, 2, 2, 128),
    "group_8": (1, 2, 8, 64),
}
"""rows, key/value heads of a chip, query heads of each, head dim"""
LANES = 128
"""That the last dim of an array takes up in a TPU's memory at least."""
KERNELS = {"forward": 1, "gradient": 3}


@pytest.mark.parametrize("direction", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chip", ["v5p:2x2x1", "v6e:2x2"])
def test_kernels(chip, shape, direction):
    """Rows of 8,000, which no tile divides."""
    B, K, G, H = SHAPES[shape]
    mesh = topologies.mesh_of(topologies.tpu(chip)[:1])

    def forward(q_BSNH, k_BTKH, v_BTKH, segment_ids_BS):
        return flash_attention(q_BSNH, k_BTKH, v_BTKH, document_mask(segment_ids_BS)).astype(jnp.float32).sum()

    function = forward if direction == "forward" else jax.grad(forward, (0, 1, 2))
    here = NamedSharding(mesh, PartitionSpec())
    heads = (K * G, K, K)
    arrays = [jax.ShapeDtypeStruct((B, 8000, N, H), jnp.bfloat16, sharding=here) for N in heads]
    arrays.append(jax.ShapeDtypeStruct((B, 8000), jnp.int32, sharding=here))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = jax.jit(function).trace(*arrays).lower(lowering_platforms=("tpu",)).compile()
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == KERNELS[direction], "auto is the kernels there"
    stored = B * 8000 * sum(heads) * max(H, LANES) * 2
    assert program.memory_analysis().temp_size_in_bytes < 4 * stored


@pytest.mark.parametrize("heads", [(8, 4, 128), (1, 16, 128), (8, 4, 64)], ids=str)
@pytest.mark.parametrize("chip", ["v5p:2x2x1", "v6e:2x2"])
def test_decoding(chip, heads):
    """Two queries of each of 4 requests against pages of 16."""
    K, G, H = heads
    mesh = topologies.mesh_of(topologies.tpu(chip)[:1])
    here = NamedSharding(mesh, PartitionSpec())

    def array(*shape, dtype="bfloat16"):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=here)

    def attend(q_RSNH, k_LPCX, v_LPCX, table_RM, position_RS):
        return paged_attention(q_RSNH, k_LPCX, v_LPCX, jnp.int32(1), table_RM, prefix_mask(position_RS))

    pool = array(2, 2500, 16, K * H)
    arrays = (array(4, 2, K * G, H), pool, pool, array(4, 512, dtype="int32"), array(4, 2, dtype="int32"))
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = jax.jit(attend).trace(*arrays).lower(lowering_platforms=("tpu",)).compile()
    assert program.as_text().count('custom_call_target="tpu_custom_call"') == 1, "auto is the kernel there"
    assert program.memory_analysis().temp_size_in_bytes < pool.size * 2 / 10, "no page is copied"


def test_a_step_of_8b_on_64_chips():
    """Each chip has a row of 8,192 tokens, and holds a 64th of the parameters and their moments."""
    run = load(TrainRun, "llama3_8b").value
    mesh = topologies.mesh_of(topologies.tpu("v5p:4x4x4"), data=16, model=4)
    objective = NextToken(precision=run.precision, remat=Remat.SAVE_ATTENTION)
    program = compile_step(objective, run.optimizer, abstract_state(run.model, run.optimizer, mesh), (1, 64, 8192), mesh)
    assert "tpu_custom_call" in program.as_text()
    memory = program.memory_analysis()
    assert (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / GIB < 16, "of 95"
