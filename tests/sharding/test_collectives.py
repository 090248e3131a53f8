"""What a training step communicates, written down: every collective of a layer and of the rest, and nothing else."""

from collections import Counter

import jax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from llama3_jax.model.config import ModelConfig
from llama3_jax.model.precision import Precision
from llama3_jax.model.remat import Remat
from llama3_jax.sharding.collectives import Collective, collectives
from llama3_jax.sharding.fsdp import Fsdp
from llama3_jax.train.abstract import abstract_state, compile_step
from llama3_jax.train.adamw import AdamW
from llama3_jax.train.objective import NextToken

CFG = ModelConfig(
    num_layers=3, model_dim=32, num_heads=16, num_kv_heads=8, head_dim=8, ffw_dim=64, vocab_size=128, context_length=64
)
OPTIMIZER = AdamW()
SHAPE = (1, 8, 64)
TOKENS, MODEL, SEQUENCE = ("data", "sequence"), ("model",), ("sequence",)


def expected(mesh, remat=Remat.NONE, fsdp=Fsdp.REGATHER) -> Counter:
    """(loops around it, kind, axes) -> number of arrays."""
    recomputed = remat is not Remat.NONE
    table = {
        # the seven weights of a layer: for its forward pass, and once more for its backward pass
        (1, "all-gather", TOKENS): 7 if fsdp is Fsdp.KEEP else 14,
        # their gradients
        (1, "reduce-scatter", TOKENS): 7,
        # positions into attention and into the feed-forward; back, the cotangents of what they put out
        (1, "all-gather", MODEL): 2 + 2 + 2 * recomputed,
        # partial sums out of the two; back, into the two. Recomputed, only the first is needed
        (1, "reduce-scatter", MODEL): 2 + 2 + recomputed,
        # keys and values
        (1, "all-gather", SEQUENCE): 2 + 2 * recomputed,
        (1, "reduce-scatter", SEQUENCE): 2,
        # the one chunk of the loss: the maximum, the sum of exponentials and the target's logit
        (0, "all-reduce", MODEL): 3,
        # embedding and head, and their gradients
        (0, "all-gather", TOKENS): 2,
        (0, "reduce-scatter", TOKENS): 2,
        # hidden states out of the embedding and into the loss, and back
        (0, "all-gather", MODEL): 2,
        (0, "reduce-scatter", MODEL): 2,
        # which document each key belongs to
        (0, "all-gather", SEQUENCE): 1,
        # the gradients of the scales of all norms: of attention, of feed-forward and the final one
        (0, "all-reduce", TOKENS + MODEL): 3,
    }
    present = Counter()
    for (loops, kind, axes), count in table.items():
        if axes := tuple(axis for axis in axes if mesh.shape[axis] > 1):
            present[loops, kind, axes] += count
    return present


def compiled(mesh, **how):
    objective = NextToken(precision=Precision.BFLOAT16, **how)
    program = compile_step(objective, OPTIMIZER, abstract_state(CFG, OPTIMIZER, mesh), SHAPE, mesh)
    return collectives(program.as_text(), mesh.shape)


def check(found: list[Collective], wanted: Counter) -> None:
    """On a CPU, XLA writes a reduce-scatter of its own as an all-reduce and a slice."""
    for one in found:
        if not one.shape:
            assert one.kind == "all-reduce" and not one.loops, f"{one}: a scalar only meets for the loss and the norm"

    def sums(counts: Counter) -> Counter:
        merged = Counter()
        for (loops, kind, axes), count in counts.items():
            merged[loops, "sum" if kind in ("all-reduce", "reduce-scatter") else kind, axes] += count
        return merged

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


@pytest.mark.parametrize(
    "groups, message", [("{{0,3},{1,2}}", "not all those of some axes"), ("<new>", "cannot read the devices")]
)
def test_groups_that_are_no_axes_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        collectives(LOOP.replace("GROUPS", groups), {"data": 2, "model": 2})
