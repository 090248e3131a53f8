"""The step that libtpu and XLA's GPU compiler make of ours, with no device there: nothing moves that we did not ask for."""

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import topologies
from expected_collectives import CFG, OPTIMIZER, SHAPE, expected, sums

from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat
from llama3_jax.sharding.collectives import collectives
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.train.abstract import abstract_state, compile_step
from llama3_jax.train.objective import NextToken

pytestmark = [pytest.mark.compiled]


@pytest.fixture(scope="module", params=[partial(topologies.tpu, "v5p:2x2x2"), topologies.gpu], ids=["tpu", "gpu"])
def devices(request):
    return request.param()


def compiled(devices, shape, cfg=CFG, batch=SHAPE, **how):
    data, sequence, model = shape
    mesh = topologies.mesh_of(devices, data=data, sequence=sequence, model=model)
    objective = NextToken(precision=Precision.BFLOAT16, **how)
    return compile_step(objective, OPTIMIZER, abstract_state(cfg, OPTIMIZER, mesh), batch, mesh), mesh


@pytest.mark.parametrize(
    "shape, remat, fsdp",
    [
        ((2, 2, 2), Remat.NONE, Fsdp.REGATHER),
        pytest.param((4, 1, 2), Remat.FULL, Fsdp.KEEP, marks=pytest.mark.slow),
        pytest.param((8, 1, 1), Remat.SAVE_ATTENTION, Fsdp.REGATHER, marks=pytest.mark.slow),
    ],
)
def test_collectives(devices, shape, remat, fsdp, capfd):
    """Each as written down, and every sum over devices that see different tokens is float32, though compute is bfloat16.

    Two liberties: libtpu writes small scatters as all-reduces, and XLA's GPU compiler joins the gradients of all
    scales, and the parts of the gradient's norm, in one vector.
    """
    program, mesh = compiled(devices, shape, remat=remat, fsdp=fsdp)
    assert "rematerialization" not in capfd.readouterr().err
    found = [one for one in collectives(program.as_text(), mesh.shape) if one.shape]
    assert {one.dtype for one in found if "data" in one.axes and one.kind != "all-gather"} == {"f32"}
    assert {one.dtype for one in found if "data" in one.axes and one.kind == "all-gather"} == {"bf16"}, "cast, then gathered"
    wanted, count = expected(mesh, remat, fsdp), lambda some: Counter((one.loops, one.kind, one.axes) for one in some)
    if mesh.devices.flat[0].platform == "tpu":
        assert sums(count(found)) == sums(wanted)
    else:
        joined = [one for one in found if one.kind == "all-reduce" and "data" in one.axes and len(one.shape) == 1]
        assert joined
        wanted.subtract({key: count for key, count in wanted.items() if key[1] == "all-reduce" and "data" in key[2]})
        assert count(one for one in found if one not in joined) == +wanted


@pytest.mark.slow
def test_offloaded_activations_wait_in_host_memory(devices):
    """Fewer bytes on the device than with the same activations kept there."""
    deep = replace(CFG, num_layers=8, model_dim=256, head_dim=32)
    kept, away = (
        compiled(devices, (2, 2, 2), deep, (1, 8, 1024), remat=remat)[0].memory_analysis()
        for remat in (Remat.SAVE_ATTENTION, Remat.OFFLOAD)
    )
    assert kept.host_temp_size_in_bytes == 0
    assert away.host_temp_size_in_bytes > 0
    assert away.temp_size_in_bytes < kept.temp_size_in_bytes
