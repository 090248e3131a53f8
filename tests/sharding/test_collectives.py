"""A training step communicates what is written in `expected_collectives`, and how that is read from its program."""

import re
from collections import Counter

import jax
import pytest
from expected_collectives import CFG, OPTIMIZER, SHAPE, expected, sums
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat
from llama3_jax.sharding.axes import AXES
from llama3_jax.sharding.collectives import Collective, collectives
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.train.abstract import abstract_state, compile_step
from llama3_jax.train.objective import NextToken


def compiled(mesh, **how):
    objective = NextToken(precision=Precision.BFLOAT16, **how)
    program = compile_step(objective, OPTIMIZER, abstract_state(CFG, OPTIMIZER, mesh), SHAPE, mesh)
    return collectives(program.as_text(), mesh.shape)


def check(found: list[Collective], wanted: Counter) -> None:
    """On a CPU, XLA writes a reduce-scatter of its own as an all-reduce and a slice."""
    for one in found:
        if not one.shape:
            assert one.kind == "all-reduce" and not one.loops, f"{one}: scalars are the loss, the norm, the batch's checksum"

    assert sums(Counter((one.loops, one.kind, one.axes) for one in found if one.shape)) == sums(wanted)


@pytest.mark.parametrize(
    "data, sequence, model", [(1, 1, 1), (2, 2, 2), (4, 2, 1), (2, 1, 4), (1, 4, 2), (8, 1, 1), (1, 8, 1), (1, 1, 8)]
)
def test_of_a_step(data, sequence, model, mesh, capfd):
    devices = mesh(data=data, sequence=sequence, model=model)
    check(compiled(devices), expected(devices))
    assert "rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize("remat, fsdp", [(Remat.NONE, Fsdp.KEEP), (Remat.FULL, Fsdp.REGATHER), (Remat.SAVE_ATTENTION, Fsdp.KEEP)])
def test_of_what_waits_for_the_backward_pass(remat, fsdp, mesh):
    devices = mesh(data=2, sequence=2, model=2)
    check(compiled(devices, remat=remat, fsdp=fsdp), expected(devices, remat, fsdp))


def test_an_unpipelined_step_pays_nothing_for_the_pipeline_axis(mesh):
    """Compiled on a mesh that has no such axis it is the same program."""
    devices = mesh(data=2, sequence=2, model=2)
    without = Mesh(devices.devices[0], AXES[1:], axis_types=devices.axis_types[1:])

    def program(mesh):
        text = compile_step(NextToken(), OPTIMIZER, abstract_state(CFG, OPTIMIZER, mesh), SHAPE, mesh).as_text()
        body = text[text.index("\n%") :]  # after the header and the tables of source lines
        return re.sub(r", metadata=\{[^}]*\}|'pipeline'=1,|\{'pipeline'\}", "", body)

    assert program(devices) == program(without)


def test_xla_says_when_it_moves_what_nobody_asked_it_to_move(capfd):
    """The words that `test_of_a_step` looks for are those of the XLA at hand."""
    devices = jax.make_mesh((2, 2, 2), ("a", "b", "c"), (AxisType.Auto,) * 3)
    before, after = (NamedSharding(devices, PartitionSpec(*axes)) for axes in (("b", "a"), (("a", "b", "c"), None)))
    x = jax.ShapeDtypeStruct((8, 8), "float32", sharding=before)
    jax.jit(lambda x: x * 2, out_shardings=after).lower(x).compile()
    assert "Involuntary full rematerialization" in capfd.readouterr().err


LOOP = """HloModule step
%body (p: (f32[4])) -> (f32[4]) {
  %sum = f32[4]{0} all-reduce(%x), channel_id=1, replica_groups=GROUPS, to_apply=%add
}
%main (a: f32[4]) -> f32[4] {
  %in = f32[4]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
}
ENTRY %main.1_spmd (a: f32[4]) -> f32[4] {
  %w = (f32[4]{0}) while(%t), condition=%cond, body=%body
  %c = f32[4]{0} call(%a), to_apply=%main
  %g = ((bf16[2]{0}, f32[2,3]{1,0}), (bf16[4]{0}, f32[4,3]{1,0})) all-gather-start(%a, /*index=1*/%b), replica_groups=[2,2]<=[4]
}
"""


@pytest.mark.parametrize(
    "groups, axes",
    [
        ("{{0,1},{2,3}}", ("model",)),
        ("{{0,2},{1,3}}", ("data",)),
        ("[2,2]<=[4]", ("model",)),
        ("[2,2]<=[2,2]T(1,0)", ("data",)),
        ("[1,4]<=[4]", ("data", "model")),
        ("mesh['data'=2,'model'=2] {'model'}", ("model",)),
        ("mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", ("data",)),
        ("mesh['axis_0'=4] {'axis_0'}", ("data", "model")),
        ("mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_0'}", ("model",)),
    ],
)
def test_every_way_to_write_groups_is_read(groups, axes):
    assert collectives(LOOP.replace("GROUPS", groups), {"data": 2, "model": 2}) == [
        Collective("all-reduce", axes, "f32", (4,), 1),
        Collective("all-reduce", ("data", "model"), "f32", (4,), 0),
        Collective("all-gather", ("model",), "bf16", (2,), 0),
        Collective("all-gather", ("model",), "f32", (2, 3), 0),
    ]


def test_a_permute_moves_along_an_axis_and_no_groups_are_all_devices():
    pairs = "{{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    permute = f"  %p = f32[4]{{0}} collective-permute(%x), channel_id=1, source_target_pairs={pairs}"
    everyone = "  %s = f32[] all-reduce(%x), replica_groups={}, to_apply=%add"
    found = collectives(f"ENTRY %main (a: f32[4]) -> f32[4] {{\n{permute}\n{everyone}\n}}\n", {"data": 2, "model": 4})
    assert [(one.kind, one.axes) for one in found] == [("collective-permute", ("model",)), ("all-reduce", ("data", "model"))]


@pytest.mark.parametrize(
    "groups, message", [("{{0,3},{1,2}}", "not all those of some axes"), ("<new>", "cannot read the devices")]
)
def test_groups_that_are_no_axes_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        collectives(LOOP.replace("GROUPS", groups), {"data": 2, "model": 2})
