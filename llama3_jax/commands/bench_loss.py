"""`llama3 bench loss`: time and memory of the loss over the vocabulary, beside the one that holds all logits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama3_jax.config.load import load
from llama3_jax.model.precision import Precision

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class LossBench:
    """What a YAML file of `llama3 bench loss` is checked against."""

    rows: int
    length: int
    model_dim: int
    vocab_size: int
    precision: Precision
    rounds: int

    def __post_init__(self) -> None:
        for name in ("rows", "length", "model_dim", "vocab_size", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class LossTiming:
    name: str
    seconds: float
    """Of the value and all gradients: the median over rounds."""
    temp_bytes: int
    """That XLA plans for beside the arguments and results."""
    loss: float


def bench_loss(config: str | Path = "bench_loss", overrides: Sequence[str] = ()) -> list[LossTiming]:
    """Measures: the same as `llama3 bench loss [CONFIG] [a.b=c ...]`, without printing; ours first.

    Raises: ConfigError for the file.
    """
    return run_loss_bench(load(LossBench, config, overrides).value)


def run_loss_bench(run: LossBench) -> list[LossTiming]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    from llama3_jax.bench.timed import timed
    from llama3_jax.kernels.cross_entropy import chunked, reference

    def ours(x_BSD, head_DV, targets_BS, weight_BS):
        return chunked.cross_entropy(x_BSD, head_DV, targets_BS, weight_BS)[0]

    def plain(x_BSD, head_DV, targets_BS, weight_BS):
        return jnp.sum(reference.cross_entropy(x_BSD, head_DV, targets_BS) * weight_BS)

    rng, (B, S) = np.random.default_rng(0), (run.rows, run.length)
    arrays = (
        jnp.asarray(rng.standard_normal((B, S, run.model_dim), np.float32), run.precision.dtype),
        jnp.asarray(rng.standard_normal((run.model_dim, run.vocab_size), np.float32) * run.model_dim**-0.5),
        jnp.asarray(rng.integers(0, run.vocab_size, (B, S), dtype=np.int32)), jnp.ones((B, S), jnp.float32),
    )  # fmt: skip
    programs = {
        name: jax.jit(jax.value_and_grad(function, (0, 1))).lower(*arrays).compile()
        for name, function in {"llama3_jax, in chunks": ours, "all logits at once": plain}.items()
    }
    seconds = timed([lambda each=each: each(*arrays) for each in programs.values()], run.rounds)
    return [
        LossTiming(
            name=name, seconds=statistics.median(times), temp_bytes=program.memory_analysis().temp_size_in_bytes,
            loss=float(program(*arrays)[0]),
        )
        for (name, program), times in zip(programs.items(), seconds, strict=True)
    ]  # fmt: skip


def report_loss(run: LossBench) -> Iterator[str]:
    """The lines that the command prints."""
    timings = run_loss_bench(run)
    yield (
        f"{run.rows} x {run.length:,} positions of width {run.model_dim:,}, {run.vocab_size:,} entries, {run.precision.value}, "
        f"{run.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    )
    yield f"{'value and gradients':26}{'ms':>10}{'MiB beside':>12}{'loss':>14}{'its/ours':>10}{'MiB its/ours':>14}"
    for each in timings:
        yield (
            f"{each.name:26}{1e3 * each.seconds:>10.1f}{each.temp_bytes / MIB:>12,.0f}{each.loss:>14.4f}"
            f"{each.seconds / timings[0].seconds:>9.2f}x{each.temp_bytes / timings[0].temp_bytes:>13.2f}x"
        )
