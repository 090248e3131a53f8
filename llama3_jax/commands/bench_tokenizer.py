"""`llama3 bench tokenizer`: how fast texts become token shards, beside the batch encoding of tiktoken that it is made of."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama3_jax.config.load import load


@dataclass(frozen=True, kw_only=True)
class TokenizerBench:
    """What a YAML file of `llama3 bench tokenizer` is checked against."""

    ranks: str | None = None
    """A rank file; null learns one from the texts."""
    vocab_size: int = 16_384
    """Of the one that is learnt."""
    texts: tuple[str, ...] = ()
    """Files and directories; none takes the documentation and the library of the running Python."""
    max_bytes: int
    """Of text, at most."""
    rounds: int
    """In each, everything is measured once."""

    def __post_init__(self) -> None:
        for name in ("max_bytes", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; use 1 or more")
        if self.vocab_size <= 512:
            raise ValueError(f"vocab_size={self.vocab_size}; use more than 512: 256 bytes and 256 special tokens")


@dataclass(frozen=True, kw_only=True)
class EncodingRate:
    name: str
    num_threads: int
    bytes_per_s: float
    """Of UTF-8 text: the median over rounds."""
    bytes_per_core_s: float
    """The same, per second of processor time of all threads together."""


def bench_tokenizer(config: str | Path = "bench_tokenizer", overrides: Sequence[str] = ()) -> list[EncodingRate]:
    """Measures: the same as `llama3 bench tokenizer [CONFIG] [a.b=c ...]`, without printing; for each number of threads, 1 and
    one on each core, ours and then tiktoken's.

    Raises: ConfigError for the file; FileNotFoundError or ValueError for its texts or ranks.
    """
    return _measured(load(TokenizerBench, config, overrides).value)[1]


def report_tokenizer(run: TokenizerBench) -> Iterator[str]:
    """The lines that the command prints."""
    told, rates = _measured(run)
    yield f"{told}, {run.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    yield f"{'':34}{'threads':>8}{'MB/s':>8}{'MB/s per core':>15}{'ours/its':>10}{'per core':>10}"
    for ours, its in zip(rates[::2], rates[1::2], strict=True):
        for each in (ours, its):
            yield (
                f"{each.name:34}{each.num_threads:>8}{each.bytes_per_s / 1e6:>8.1f}{each.bytes_per_core_s / 1e6:>15.1f}"
                f"{ours.bytes_per_s / each.bytes_per_s:>9.2f}x{ours.bytes_per_core_s / each.bytes_per_core_s:>9.2f}x"
            )


def _measured(run: TokenizerBench) -> tuple[str, list[EncodingRate]]:
    """What is encoded, in words, and the rates."""
    import tiktoken

    from llama3_jax.tokenizer.bpe import SPLIT_PATTERN, Tokenizer
    from llama3_jax.tokenizer.train_bpe import train_bpe
    from llama3_jax.tokenizer.write_shards import write_shards

    texts = list(_texts(run))
    num_bytes = sum(len(text.encode()) for text in texts)
    tokenizer = Tokenizer.load(run.ranks) if run.ranks else Tokenizer(train_bpe(texts, vocab_size=run.vocab_size))
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    encoding = tiktoken.Encoding("plain", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})

    def ours(num_threads: int) -> None:
        with tempfile.TemporaryDirectory() as place:
            write_shards(
                texts, Path(place), "bench", source="bench", tokenizer=tokenizer, shard_tokens=2**24, num_threads=num_threads
            )

    def its(num_threads: int) -> None:
        encoding.encode_ordinary_batch(texts, num_threads=num_threads)

    contenders: list[tuple[str, int, Callable[[int], None]]] = [
        (name, num_threads, action)
        for num_threads in dict.fromkeys((1, os.cpu_count() or 1))
        for name, action in (("llama3_jax, to shards on the disk", ours), ("tiktoken's batch, to lists", its))
    ]
    wall: list[list[float]] = [[] for _ in contenders]
    cores: list[list[float]] = [[] for _ in contenders]
    for _ in range(run.rounds):
        for number, (_, num_threads, action) in enumerate(contenders):
            started, used = time.perf_counter(), time.process_time()
            action(num_threads)
            wall[number].append(num_bytes / (time.perf_counter() - started))
            cores[number].append(num_bytes / (time.process_time() - used))
    rates = [
        EncodingRate(
            name=name, num_threads=num_threads, bytes_per_s=statistics.median(wall[number]),
            bytes_per_core_s=statistics.median(cores[number]),
        )
        for number, (name, num_threads, _) in enumerate(contenders)
    ]  # fmt: skip
    return f"{len(texts):,} texts of {num_bytes / 1e6:,.0f} MB, {tokenizer.vocab_size:,} ids", rates


def _texts(run: TokenizerBench) -> Iterator[str]:
    from llama3_jax.curation.files import read_documents
    from llama3_jax.curation.python_corpus import python_code, python_docs

    left = run.max_bytes
    for documents in [read_documents(list(run.texts))] if run.texts else [python_docs(), python_code()]:
        for document in documents:
            left -= len(document.text.encode())
            if left < 0:
                return
            yield document.text
