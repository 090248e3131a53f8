"""`llama3 bench train`: the speed and memory of our training step on this machine, beside those of others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llama3_jax.commands.bench_run import BenchRun, Yardstick
from llama3_jax.commands.xla import in_effect
from llama3_jax.config.load import load

if TYPE_CHECKING:  # jax, not before the config is right
    from llama3_jax.bench.measure import Comparison

MIB = 2**20
RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    run: BenchRun
    comparison: Comparison
    visible_keys: float
    """Keys that a position sees, on average."""
    memory: dict[str, tuple[int, int] | None]
    """Remat policy -> bytes (on a device, in host memory) that a step needs beside its parameters and optimizer state;
    None where it does not compile on this machine."""
    collectives: Counter
    """(inside a loop, kind, mesh axes) -> arrays that a step moves between devices; those of a loop's body once."""

    @property
    def tokens_per_step(self) -> int:
        return self.run.num_rows * self.run.sequence_length

    @property
    def flops_per_step(self) -> float:
        return self.tokens_per_step * self.run.model.flops_per_token(self.visible_keys)


def bench_train(config: str | Path = "bench_dense", overrides: Sequence[str] = ()) -> BenchResult:
    """Measures: the same as `llama3 bench train [CONFIG] [a.b=c ...]`, without printing.

    Raises: ConfigError for the file; ValueError if the steps do not agree on the loss.
    """
    return run_bench(load(BenchRun, config, overrides).value)


def run_bench(run: BenchRun) -> BenchResult:
    """Raises: ValueError if the machine has too few devices, or the steps do not agree on the loss."""
    import jax

    from llama3_jax.bench.measure import TOLERANCE, compare
    from llama3_jax.bench.ours import Ours
    from llama3_jax.bench.rows import random_batch, visible_keys
    from llama3_jax.kernels.attention.choice import require
    from llama3_jax.kernels.device import device_of
    from llama3_jax.model.transformer import Transformer
    from llama3_jax.sharding.axes import make_mesh
    from llama3_jax.sharding.collectives import collectives
    from llama3_jax.train.adamw import AdamW
    from llama3_jax.train.machine import matmul_flops_per_s
    from llama3_jax.train.objective import NextToken

    run.xla.apply()
    mesh, optimizer = make_mesh(run.mesh), AdamW()
    require(run.attention, head_dim=run.model.head_dim, dtype=run.precision.dtype, device=device_of(mesh))
    shape = (1, run.num_rows, run.sequence_length)
    objective = NextToken(precision=run.precision, remat=run.remat, fsdp=run.fsdp, attention=run.attention)
    batches = [
        random_batch(
            number, vocab_size=run.model.vocab_size, num_rows=run.num_rows, sequence_length=run.sequence_length,
            documents_per_row=run.documents_per_row,
        )
        for number in range(run.rounds + 1)
    ]  # fmt: skip
    with jax.set_mesh(mesh):
        model = jax.jit(lambda key: Transformer(run.model, key=key))(jax.random.key(0))
        yardsticks = list(_yardsticks(run, model, optimizer, mesh))
        ours = Ours(model, objective, optimizer, RATE, shape, mesh)
    found = collectives(ours.program.as_text(), mesh.shape)
    comparison = compare([ours, *yardsticks], batches, lambda: matmul_flops_per_s(run.precision), TOLERANCE[run.precision.value])
    return BenchResult(
        run=run, comparison=comparison, visible_keys=sum(map(visible_keys, batches[1:])) / run.rounds,
        memory=_memory(objective, optimizer, run, shape, mesh),
        collectives=Counter((bool(one.loops), one.kind, one.axes) for one in found if one.shape),
    )  # fmt: skip


def _yardsticks(run: BenchRun, model, optimizer, mesh) -> Iterator:
    from llama3_jax.bench.bare import BareStep
    from llama3_jax.bench.torch import TorchStep, installed
    from llama3_jax.model.remat import Remat

    if Yardstick.BARE in run.yardsticks:
        yield BareStep(model, optimizer, RATE, run.precision.dtype, run.remat is not Remat.NONE, mesh)
    if run.mesh.size == 1 and installed():
        for yardstick in (Yardstick.TORCH, Yardstick.TORCH_COMPILE):
            if yardstick in run.yardsticks:
                yield TorchStep(model, optimizer, RATE, run.precision, compiled=yardstick is Yardstick.TORCH_COMPILE)


def _memory(objective, optimizer, run: BenchRun, shape, mesh) -> dict[str, tuple[int, int] | None]:
    from jax.errors import JaxRuntimeError

    from llama3_jax.train.abstract import abstract_state, compile_step

    state, needed = abstract_state(run.model, optimizer, mesh), {}
    for remat in run.memory_of:
        try:
            memory = compile_step(replace(objective, remat=remat), optimizer, state, shape, mesh).memory_analysis()
            needed[remat.value] = (memory.temp_size_in_bytes, memory.host_temp_size_in_bytes)
        except JaxRuntimeError:  # more than the device holds, or no host memory to offload to
            needed[remat.value] = None
    return needed


def report(result: BenchResult) -> Iterator[str]:
    """The lines that the command prints."""
    import jax

    from llama3_jax.kernels.attention.choice import described

    run, peak, devices = result.run, result.comparison.peak_flops_per_s, result.run.mesh.size
    device = jax.devices()[0]
    together = 1 if device.platform == "cpu" else devices  # emulated devices share one machine
    yield (
        f"model: {run.model.num_parameters:,} parameters, {run.model.num_layers} layers of width {run.model.model_dim}, "
        f"{run.model.num_heads} heads over {run.model.num_kv_heads} key/value heads, {run.model.vocab_size:,} tokens"
    )
    yield (
        f"batch: {run.num_rows} x {run.sequence_length:,} positions, {run.documents_per_row} documents a row, cut anew in "
        f"every batch; {2 * result.visible_keys / (run.sequence_length + 1):.0%} of causal pairs visible"
    )
    attention = described(run.attention, head_dim=run.model.head_dim, dtype=run.precision.dtype)
    yield (
        f"machine: {devices} x {device.device_kind}, mesh {run.mesh}, jax {jax.__version__}, {run.precision.value}, remat "
        f"{run.remat.value}, fsdp {run.fsdp.value}, attention {attention}, {time.strftime('%Y-%m-%d')}"
    )
    if told := in_effect(run.xla):
        yield told
    yield f"matmul peak: {peak / 1e9:,.0f} GFLOP/s" + (" a device" if together > 1 else "") + f", best of {run.rounds + 1}"
    yield f"{result.flops_per_step / 1e9:,.0f} GFLOP a step: documents' own pairs only, nothing for recomputing"
    yield ""
    yield f"{'':26}{'tokens/s':>10}{'of peak':>9}{'time/ours':>11}{'at best':>10}{'compile':>10}{'memory':>12}{'first loss':>12}"
    ours = result.comparison.timings[0]
    for each in result.comparison.timings:
        share = result.flops_per_step / each.seconds / (peak * together)
        memory = f"{each.peak_bytes / MIB:,.0f} MiB" if each.peak_bytes else "not known"
        compiled = "-" if each.compile_s is None else f"{each.compile_s:.1f} s"
        yield (
            f"{each.name:26}{result.tokens_per_step / each.seconds:>10,.0f}{share:>9.1%}{each.seconds / ours.seconds:>10.2f}x"
            f"{result.tokens_per_step / each.fastest_s:>10,.0f}{compiled:>10}{memory:>12}{each.first_loss:>12.5f}"
        )
    yield from _left_out(run)
    if result.memory:
        yield ""
        yield "memory of a device beside parameters and optimizer state, and of its host, by remat policy:"
    for name, needed in result.memory.items():
        on_device, on_host = needed or (0, 0)
        host = f"{on_host / MIB:>10,.0f} MiB on the host" if on_host else ""
        yield f"  {name:16}" + (f"{on_device / MIB:>10,.0f} MiB{host}" if needed else "does not compile for this device")
    if result.collectives:
        yield ""
        yield "arrays a step moves between devices, those of a loop over layers or chunks of the loss counted once:"
        for (looped, kind, axes), count in sorted(result.collectives.items(), reverse=True):
            yield f"  {'in a loop' if looped else 'once':12}{kind:18}{' x '.join(axes):24}{count:>4}"


def _left_out(run: BenchRun) -> Iterator[str]:
    from llama3_jax.bench.torch import installed

    if not {Yardstick.TORCH, Yardstick.TORCH_COMPILE} & set(run.yardsticks):
        return
    if run.mesh.size > 1:
        yield "transformers + torch: left out, it runs on one device only"
    elif not installed():
        yield "transformers + torch: left out, not installed (pip install torch transformers)"
