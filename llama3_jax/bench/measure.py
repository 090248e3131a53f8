"""Training steps timed against each other: round by round on the same batch, so that a machine's moods meet all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llama3_jax.batches.batch import Batch
from llama3_jax.bench.contender import Contender

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far the losses of the first step, relative, may be apart; more is another model."""

SETTLE_S = 0.5
"""Before each step: the threads of another runtime spin for a while after their work and would take time from the next."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    name: str
    seconds: float
    """Of a step: the median over rounds."""
    fastest_s: float
    compile_s: float | None
    peak_bytes: int | None
    first_loss: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    timings: tuple[Timing, ...]
    peak_flops_per_s: float
    """The machine's matmul peak: the best of the rounds."""


def compare(
    contenders: Sequence[Contender], batches: Sequence[Batch], matmul_flops_per_s: Callable[[], float], tolerance: float
) -> Comparison:
    """Every contender on every batch, each round begun by another; the first batch compiles and is not counted.

    Raises: ValueError if the contenders' first losses differ: they would not do the same work.
    """
    seconds: dict[str, list[float]] = {each.name: [] for each in contenders}
    losses, peaks = {}, []
    for number, batch in enumerate(batches):
        peaks.append(matmul_flops_per_s())
        turn = number % len(contenders)
        for each in [*contenders[turn:], *contenders[:turn]]:
            time.sleep(SETTLE_S)
            started = time.perf_counter()
            loss = each.step(batch)
            if number:
                seconds[each.name].append(time.perf_counter() - started)
            else:
                losses[each.name] = loss
        if not number:
            _require_same(losses, tolerance)
    return Comparison(
        timings=tuple(
            Timing(
                name=each.name, seconds=statistics.median(seconds[each.name]), fastest_s=min(seconds[each.name]),
                compile_s=each.compile_s, peak_bytes=each.peak_bytes, first_loss=losses[each.name],
            )
            for each in contenders
        ),
        peak_flops_per_s=max(peaks),
    )  # fmt: skip


def _require_same(losses: dict[str, float], tolerance: float) -> None:
    (first, expected), *others = losses.items()
    for name, loss in others:
        if not abs(loss - expected) <= tolerance * abs(expected):
            raise ValueError(
                f"{name} begins with a loss of {loss:.6f} and {first} with {expected:.6f}: they do not train the same "
                "model, so their speeds cannot be compared"
            )
