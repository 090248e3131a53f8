"""The token shards of a run, by source: given as paths or patterns, checked against its vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from llama3_jax.tokenizer.object_store import find
from llama3_jax.tokenizer.patience import Patience
from llama3_jax.tokenizer.shard_cache import ShardCache
from llama3_jax.tokenizer.token_shard import TokenShard

_OPENING_THREADS = 16
"""A header on an object store takes tens of milliseconds, nearly all of it waiting."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Token shards that were made before, e.g. on a cluster; files of this machine, or URLs (s3://, gs://).

    Files of an object store are fetched to a local disk on first use: LLAMA3_SHARD_CACHE says where to, and
    LLAMA3_SHARD_CACHE_BYTES how many bytes they may take there (64 GiB).
    """

    kind: Literal["shards"] = "shards"
    tokenizer_path: str
    """The tiktoken file the shards were made with."""
    train: Mapping[str, tuple[str, ...]]
    """Source name -> ArrayRecord paths, URLs or patterns of them (`/data/web-*.arrayrecord`, `s3://bucket/web-*.arrayrecord`)."""
    held_out: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("train is empty; name at least one source and its shards")
        for name in self.train.keys() ^ self.held_out.keys():
            raise ValueError(f"source {name!r} is only in one of train and held_out; give every source in both")


def open_shards(
    patterns: Sequence[str], *, tokenizer_fingerprint: str | None, report: Callable[[str], None] | None = None
) -> list[TokenShard]:
    """Every shard that matches, by its header; the rest of it is read, and compared with its checksums, on first use.

    Args: report: takes lines about reads that are tried again or waited for, from any thread, as long as shards are read.
    Raises: FileNotFoundError for a pattern without a match; ValueError for a damaged shard or another vocabulary.
    """
    patience = Patience() if report is None else Patience(report)
    paths: set[str] = set()
    for pattern in patterns:
        found = patience.read(pattern, functools.partial(find, pattern))
        if not found:
            raise FileNotFoundError(f"no token shard at {pattern}; give the path of an .arrayrecord file, * is allowed")
        paths.update(found)
    cache = ShardCache.of_this_machine(patience.report)

    def open_shard(path: str) -> TokenShard:
        return TokenShard(path, tokenizer_fingerprint=tokenizer_fingerprint, patience=patience, cache=cache)

    with ThreadPoolExecutor(_OPENING_THREADS) as threads:
        return list(threads.map(open_shard, sorted(paths)))
