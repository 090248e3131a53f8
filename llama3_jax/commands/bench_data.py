"""`llama3 bench data`: how fast token shards become batches on this machine, beside other loaders."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama3_jax.config.load import load

if TYPE_CHECKING:  # grain, not before the config is right
    from llama3_jax.batches.source import Tally
    from llama3_jax.bench.loaders import Loader

BYTES = 4
"""Of a token in a shard."""


@dataclass(frozen=True, kw_only=True)
class DataBench:
    """A comparison of loaders: what a YAML file of `llama3 bench data` is checked against."""

    shards: tuple[str, ...] = ()
    """Your own token shards, as paths or patterns; none writes random documents to a temporary directory."""
    num_documents: int = 20_000
    """Of random documents; likewise below."""
    mean_tokens: int = 700
    sequence_length: int
    rows_per_batch: int
    num_batches: int
    """Of a measurement; the first, which starts threads, is not counted."""
    rounds: int
    """In each, every loader is measured once."""

    def __post_init__(self) -> None:
        for name in ("num_documents", "mean_tokens", "sequence_length", "rows_per_batch", "num_batches", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class Rate:
    name: str
    bytes_per_s: float
    """Of token shards, 4 a token: the median over rounds."""
    bytes_per_core_s: float
    """The same, per second of processor time of all threads together."""


@dataclass(frozen=True, kw_only=True)
class DataBenchResult:
    run: DataBench
    num_documents: int
    num_tokens: int
    rates: tuple[Rate, ...]
    """Ours first, a line a packing policy."""
    tallies: dict[str, Tally]
    """Packing policy -> waste and truncation of its rows."""
    planned: dict[str, float]
    """Packing policy -> seconds to plan the rows."""


def bench_data(config: str | Path = "bench_data", overrides: Sequence[str] = ()) -> DataBenchResult:
    """Measures: the same as `llama3 bench data [CONFIG] [a.b=c ...]`, without printing.

    Raises: ConfigError for the file; FileNotFoundError or ValueError for its shards.
    """
    return run_data_bench(load(DataBench, config, overrides).value)


def run_data_bench(run: DataBench) -> DataBenchResult:
    """Raises: FileNotFoundError or ValueError for shards that are not there or damaged."""
    from llama3_jax.batches.packing import Packing
    from llama3_jax.batches.shards import open_shards
    from llama3_jax.bench.loaders import Ours, PlainGrain, TorchtitanStyle, write_random_shards

    with tempfile.TemporaryDirectory() as place:
        if run.shards:
            shards = open_shards(run.shards, tokenizer_fingerprint=None)
        else:
            shards = write_random_shards(Path(place), num_documents=run.num_documents, mean_tokens=run.mean_tokens)
        for shard in shards:
            shard.verify()  # and so every loader finds the files in memory
        ours, tallies, planned = [], {}, {}
        for packing in Packing:
            started = time.perf_counter()
            ours.append(Ours(shards, packing, run.rows_per_batch, run.sequence_length, run.num_batches))
            tallies[packing.value] = ours[-1].tally
            planned[packing.value] = time.perf_counter() - started
        others = [loader(shards, run.rows_per_batch, run.sequence_length) for loader in (PlainGrain, TorchtitanStyle)]
        return DataBenchResult(
            run=run, num_documents=sum(map(len, shards)), num_tokens=sum(shard.header.num_tokens for shard in shards),
            rates=_measure([*ours, *others], run), tallies=tallies, planned=planned,
        )  # fmt: skip


def _measure(loaders: Sequence[Loader], run: DataBench) -> tuple[Rate, ...]:
    wall: dict[str, list[float]] = {each.name: [] for each in loaders}
    cores: dict[str, list[float]] = {each.name: [] for each in loaders}
    for number in range(run.rounds):
        turn = number % len(loaders)
        for each in [*loaders[turn:], *loaders[:turn]]:
            batches, started, used, num_bytes = each.batches(), 0.0, 0.0, 0
            for count, tokens in zip(range(run.num_batches), batches, strict=False):
                if not count:
                    started, used = time.perf_counter(), time.process_time()
                else:
                    num_bytes += BYTES * tokens.size
            wall[each.name].append(num_bytes / (time.perf_counter() - started))
            cores[each.name].append(num_bytes / (time.process_time() - used))
            batches.close()  # its threads end
    return tuple(
        Rate(name=name, bytes_per_s=statistics.median(wall[name]), bytes_per_core_s=statistics.median(cores[name]))
        for name in wall
    )


def report_data(result: DataBenchResult) -> Iterator[str]:
    """The lines that the command prints."""
    run = result.run
    yield (
        f"shards: {result.num_documents:,} documents, {result.num_tokens:,} tokens, {BYTES * result.num_tokens / 1e6:,.0f} MB; "
        f"batches of {run.rows_per_batch} x {run.sequence_length:,} positions, {run.num_batches} of them, {run.rounds} rounds, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    yield ""
    yield f"{'':32}{'MB/s per core':>14}{'MB/s':>8}{'ours/its':>10}"
    for rate in result.rates:
        ratio = result.rates[0].bytes_per_core_s / rate.bytes_per_core_s
        yield f"{rate.name:32}{rate.bytes_per_core_s / 1e6:>14.1f}{rate.bytes_per_s / 1e6:>8.1f}{ratio:>9.2f}x"
    yield ""
    yield f"{'packing':20}{'padding':>10}{'dropped':>10}{'documents cut':>15}{'planned in':>12}"
    for name, tally in result.tallies.items():
        yield (
            f"{name:20}{1 - tally.tokens / tally.positions:>10.2%}{tally.dropped / (tally.tokens + tally.dropped):>10.2%}"
            f"{tally.cut / max(tally.documents, 1):>15.1%}{result.planned[name]:>10.2f} s"
        )
