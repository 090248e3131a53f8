"""Whether attention is right, before it is timed: beside float64, on rows that are others each time, and beside itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

from llama3_jax.bench import float64
from llama3_jax.bench.attention import Contender, draw, ours
from llama3_jax.bench.attention_shape import Shape
from llama3_jax.kernels.attention.choice import choose
from llama3_jax.kernels.attention.implementation import Implementation
from llama3_jax.kernels.attention.mask import dense, document_mask

LENGTH = 2048
"""Most positions of a row."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    shape: Shape
    """Of the row."""
    mean_tokens: int | None
    seed: int
    by_name: tuple[tuple[str, float], ...]
    """Of the output and of the gradients, relative, from float64."""


def errors(shape: Shape, mean_tokens: Sequence[int | None], *, dtype: str, seeds: Iterator[int]) -> Iterator[Errors]:
    """Of our default at the heads of `shape`, for each packing.

    Raises: ValueError if they are larger than rounding makes them, or results are others when repeated.
    """
    row = replace(shape, rows=1, length=min(shape.length, LENGTH))
    default = ours(row, choose(Implementation.AUTO, head_dim=row.head_dim, dtype=dtype), dtype)
    for mean, seed in zip(mean_tokens, seeds, strict=False):
        yield _errors(default, row, mean, dtype, seed)


def _errors(default: Contender, row: Shape, mean_tokens: int | None, dtype: str, seed: int) -> Errors:
    arrays, segment_ids = draw(row, mean_tokens, dtype, seed)
    prepared = default.prepare(segment_ids)
    results, again = ([out, *bars] for out, bars in (default.both(*arrays[:3], prepared, arrays[3]) for _ in range(2)))
    if not all(bool(jnp.array_equal(one, other)) for one, other in zip(results, again, strict=True)):
        raise ValueError(f"{default.name} gives other bits when it is repeated; use seed={seed} to see it again")
    visible_ST = np.asarray(dense(document_mask(segment_ids), row.length))[0]
    q, k, v, out_bar = (np.asarray(x[0], np.float64) for x in arrays)
    expected = float64.output(q, k, v, visible_ST), *float64.gradients(q, k, v, visible_ST, out_bar)
    found = [float64.relative_error(one[0], right) for one, right in zip(results, expected, strict=True)]
    worst, limit = np.max(found), float64.largest_error(dtype)
    if not worst <= limit:
        raise ValueError(
            f"{default.name} is {worst:.1e} from float64, rounding makes {limit:.0e} of {dtype} at most; use seed={seed} to see "
            "it again"
        )
    names = ("out", "gradient of q", "of k", "of v")
    return Errors(shape=row, mean_tokens=mean_tokens, seed=seed, by_name=tuple(zip(names, found, strict=True)))
