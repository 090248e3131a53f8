"""`llama3 bench decode`: how fast attention reads the keys and values of requests that are decoded, beside what memory allows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from llama3_jax.bench.attention_shape import DecodeShape
from llama3_jax.commands.bench_attention import seeds
from llama3_jax.model.precision import Precision


@dataclass(frozen=True, kw_only=True)
class DecodeBench:
    """What a YAML file of `llama3 bench decode` is checked against."""

    shapes: tuple[DecodeShape, ...]
    precision: Precision
    rounds: int
    """In each, everything is measured once."""
    seed: int | None = None
    """Of the arrays that are compared with float64; null is others each time."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds}; use 1 or more")
        if not self.shapes:
            raise ValueError("shapes needs an entry, or nothing is measured")


def report_decode(run: DecodeBench) -> Iterator[str]:
    """The lines that the command prints, as they are measured.

    Raises: ValueError if ours is wrong, or the two ways do not agree.
    """
    import jax

    from llama3_jax.bench.decode import bytes_per_s, compare, error
    from llama3_jax.kernels.attention.choice import described
    from llama3_jax.kernels.attention.implementation import Implementation

    limit = bytes_per_s(run.rounds)
    yield (
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {run.precision.value}, {run.rounds} rounds, memory read at "
        f"{limit / 1e9:,.4g} GB/s, {time.strftime('%Y-%m-%d')}"
    )
    yield ""
    yield "ours from float64, relative:"
    for shape, seed in zip(run.shapes, seeds(run.seed), strict=False):
        yield f"  {shape} (seed {seed}): {error(shape, dtype=run.precision.dtype, seed=seed):.1e}"
    for shape in run.shapes:
        measured = compare(shape, dtype=run.precision.dtype, rounds=run.rounds)
        num_bytes = shape.num_elements * jax.numpy.dtype(run.precision.dtype).itemsize
        attention = described(Implementation.AUTO, head_dim=shape.head_dim, dtype=run.precision.dtype)
        yield ""
        yield f"{shape}: {num_bytes / 1e6:,.0f} MB of keys and values; attention {attention}"
        yield f"{'one layer, one token each':32}{'us':>10}{'spread':>8}{'GB/s':>9}{'of memory':>11}{'its/ours':>10}"
        for each in measured:
            rate = num_bytes / each.seconds
            yield (
                f"{each.name:32}{1e6 * each.seconds:>10,.0f}{each.spread:>8.0%}{rate / 1e9:>9,.4g}{rate / limit:>11.0%}"
                f"{each.seconds / measured[0].seconds:>9.2f}x"
            )
