"""`llama3 bench attention`: what attention costs on this machine, which tiles suit it, and what it should cost on a TPU."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama3_jax.bench.attention_shape import BACKWARD, Shape
from llama3_jax.config.load import load
from llama3_jax.model.precision import Precision

if TYPE_CHECKING:  # jax, not before the config is right
    from llama3_jax.bench.attention import Case
    from llama3_jax.bench.attention_errors import Errors
    from llama3_jax.bench.roofline import Prediction

CANDIDATES = (128, 256, 512, 1024)
"""Queries, and keys, of the tiles that are tried."""


@dataclass(frozen=True, kw_only=True)
class AttentionBench:
    """What a YAML file of `llama3 bench attention` is checked against."""

    shapes: tuple[Shape, ...]
    mean_tokens: tuple[int | None, ...]
    """Of the documents that fill a row, whose lengths are log-normal; null is one document."""
    precision: Precision
    rounds: int
    """In each, everything is measured once."""
    seed: int | None = None
    """Of the rows that are compared with float64; null is another each time."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds}; use 1 or more")
        if not self.shapes or not self.mean_tokens:
            raise ValueError("shapes and mean_tokens need an entry each, or nothing is measured")
        if any(mean is not None and mean < 1 for mean in self.mean_tokens):
            raise ValueError(f"mean_tokens={list(self.mean_tokens)}; use 1 or more tokens, or null for one document a row")


def bench_attention(config: str | Path = "bench_attention", overrides: Sequence[str] = ()) -> list[Case]:
    """Measures: the same as `llama3 bench attention [CONFIG] [a.b=c ...]`, without printing.

    Raises: ConfigError for the file; ValueError if ours is wrong, or the implementations do not agree.
    """
    run = load(AttentionBench, config, overrides).value
    list(run_attention_errors(run))
    return list(run_attention_bench(run))


def run_attention_errors(run: AttentionBench) -> Iterator[Errors]:
    """Raises: ValueError if ours is wrong."""
    from llama3_jax.bench.attention_errors import errors

    for shape in run.shapes:
        yield from errors(shape, run.mean_tokens, dtype=run.precision.dtype, seeds=seeds(run.seed))


def run_attention_bench(run: AttentionBench) -> Iterator[Case]:
    """Raises: ValueError if the implementations do not agree."""
    from llama3_jax.bench.attention import compare, contenders

    for shape in run.shapes:
        runners = list(contenders(shape, run.precision.dtype))
        for mean in run.mean_tokens:
            yield compare(shape, mean, runners, dtype=run.precision.dtype, rounds=run.rounds)


def seeds(seed: int | None) -> Iterator[int]:
    """The one that is given, or others each time."""
    while True:
        yield secrets.randbits(31) if seed is None else seed


def report_attention(run: AttentionBench) -> Iterator[str]:
    """The lines that the command prints, as they are measured."""
    import jax

    from llama3_jax.train.machine import matmul_flops_per_s

    peak = matmul_flops_per_s(run.precision)
    yield (
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {run.precision.value}, {run.rounds} rounds, matmul peak "
        f"{peak / 1e12:.3g} TFLOP/s, {time.strftime('%Y-%m-%d')}"
    )
    yield "visited: pairs multiplied, hidden ones among them, as a share of the causal pairs of whole rows; TFLOP/s are of those"
    yield "causal: TFLOP/s as if the causal pairs of whole rows, all of them and no others, had been multiplied in that time"
    yield ""
    yield "ours from float64, relative, the same bits when repeated:"
    for errors in run_attention_errors(run):
        yield f"  {_right(errors)}"
    whole: dict[Shape, Case] = {}
    for case in run_attention_bench(run):
        ours, visible = case.measured[0], case.visible_pairs / case.causal_pairs
        yield ""
        yield f"{case.shape}; {_documents(case.mean_tokens)}: {visible:.1%} of causal pairs visible"
        yield (
            f"{'':32}{'forward ms':>12}{'TFLOP/s':>9}{'backward ms':>13}{'TFLOP/s':>9}{'both ms':>10}{'TFLOP/s':>9}{'causal':>9}"
            f"{'spread':>8}{'visited':>9}{'its/ours':>10}"
        )
        for each in case.measured:
            forward, causal = (case.shape.flops(pairs) / 1e12 for pairs in (each.visited_pairs, case.causal_pairs))
            both = 1 + BACKWARD
            yield (
                f"{each.name:32}{1e3 * each.forward_s:>12.2f}{forward / each.forward_s:>9.3g}{1e3 * each.backward_s:>13.2f}"
                f"{BACKWARD * forward / each.backward_s:>9.3g}{1e3 * each.seconds:>10.2f}{both * forward / each.seconds:>9.3g}"
                f"{both * causal / each.seconds:>9.3g}{each.spread:>8.0%}"
                f"{each.visited_pairs / case.causal_pairs:>9.0%}{each.seconds / ours.seconds:>9.2f}x"
            )
        yield f"schedule, once a batch: {1e3 * case.schedule_s:.2f} ms, {case.schedule_s / ours.seconds:.2%} of one layer's time"
        if case.mean_tokens is None:
            whole[case.shape] = case
        elif case.shape in whole:
            yield _follows(case, whole[case.shape])


def _right(errors: Errors) -> str:
    found = ", ".join(f"{name} {error:.1e}" for name, error in errors.by_name)
    return f"{errors.shape}; {_documents(errors.mean_tokens)} (seed {errors.seed}): {found}"


def _follows(case: Case, whole: Case) -> str:
    """Whether ours takes as long as what it visits says."""
    (ours, *_), (all_of_it, *_) = case.measured, whole.measured
    share = ours.visited_pairs / all_of_it.visited_pairs
    both, forward, backward = (
        of_ours / (share * of_all)
        for of_ours, of_all in (
            (ours.seconds, all_of_it.seconds), (ours.forward_s, all_of_it.forward_s), (ours.backward_s, all_of_it.backward_s)
        )
    )  # fmt: skip
    return (
        f"ours takes {both:.2f}x the time of one document a row times the {share:.1%} of its visits that are made here (forward "
        f"{forward:.2f}x, backward {backward:.2f}x)"
    )


def tune(run: AttentionBench) -> Iterator[str]:
    """Measures tiles for every shape, writes the fastest to the table, and tells what it does.

    Raises: ValueError where tiles cannot be chosen.
    """
    from llama3_jax.bench.attention import best_sizes, sizes
    from llama3_jax.kernels.attention.block_sizes import TABLE, BlockSizes, table
    from llama3_jax.kernels.attention.choice import choose
    from llama3_jax.kernels.attention.implementation import Implementation
    from llama3_jax.kernels.device import traced_for

    chip, rows = traced_for().kind, [dict(row) for row in table()]
    for shape in run.shapes:
        implementation = choose(Implementation.AUTO, head_dim=shape.head_dim, dtype=run.precision.dtype)
        if implementation is Implementation.HOPPER:
            raise ValueError(f"the kernels for Hopper have tiles of {sizes(shape, implementation)}: there is nothing to tune")
        candidates = [
            BlockSizes(queries, keys)
            for queries in CANDIDATES
            for keys in CANDIDATES
            if max(queries, keys) <= shape.length and queries * shape.group <= 4096
        ] or [sizes(shape, implementation)]
        seconds = best_sizes(shape, run.mean_tokens, candidates, dtype=run.precision.dtype, rounds=run.rounds)
        best = min(seconds, key=seconds.get)
        yield f"{shape}: tiles of {best.queries} queries and {best.keys} keys"
        for blocks, total in sorted(seconds.items(), key=lambda item: item[1]):
            yield f"  {blocks.queries:>5} x {blocks.keys:<5} {1e3 * total:>9.1f} ms  {total / seconds[best]:>5.2f}x"
        place = {
            "implementation": implementation.value, "chip": chip, "head_dim": shape.head_dim, "group": shape.group,
            "length": shape.length,
        }  # fmt: skip
        rows = [row for row in rows if any(row[name] != value for name, value in place.items())]
        rows.append({**place, "queries": best.queries, "keys": best.keys, "measured": time.strftime("%Y-%m-%d")})
    lines = ",\n".join(f"  {json.dumps(row)}" for row in sorted(rows, key=lambda row: [str(value) for value in row.values()]))
    TABLE.write_text(f'{{"rows": [\n{lines}\n]}}\n')
    table.cache_clear()
    yield f"written: {TABLE}"


def predict(run: AttentionBench, chip: str) -> Iterator[str]:
    """What a TPU that is not here should take: its compiler takes the program, a roofline bounds the time."""
    from llama3_jax.bench.roofline import CHIPS, prediction

    if chip not in CHIPS:
        raise ValueError(f"--predict {chip}; use one of {', '.join(CHIPS)}")
    limit = CHIPS[chip]
    yield (
        f"PREDICTIONS for {chip}, nothing is measured: bfloat16, compiled by its compiler; a roofline of "
        f"{limit.flops_per_s / 1e12:,.0f} TFLOP/s and {limit.bytes_per_s / 1e9:,.0f} GB/s bounds the time from below"
    )
    for shape in run.shapes:
        for mean in run.mean_tokens:
            found: Prediction = prediction(shape, mean, chip)
            yield ""
            yield f"{shape}; {_documents(mean)}; tiles of {found.blocks.queries} x {found.blocks.keys}, {found.kernels} kernels"
            yield (
                f"  forward + backward: at least {1e3 * found.seconds:.3f} ms, bound by {found.bound}; {found.visited_share:.0%} "
                f"of causal pairs visited; {found.temp_bytes / 2**20:,.0f} MiB beside {found.argument_bytes / 2**20:,.0f} MiB "
                "of inputs"
            )


def _documents(mean_tokens: int | None) -> str:
    return "one document a row" if mean_tokens is None else f"documents of {mean_tokens:,} tokens on average"
