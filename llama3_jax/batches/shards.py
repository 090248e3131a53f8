"""The token shards of a run, by source: given as paths or patterns, checked against its vocabulary."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from llama3_jax.tokenizer.token_shard import TokenShard

VERIFIED_BYTES = 2**28
"""Shards up to this size are hashed when they are opened; a larger one has its records' own checksums when it is read."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Token shards that were made before, e.g. on a cluster."""

    kind: Literal["shards"] = "shards"
    tokenizer_path: str
    """The tiktoken file the shards were made with."""
    train: Mapping[str, tuple[str, ...]]
    """Source name -> ArrayRecord paths or patterns (`/data/web-*.arrayrecord`)."""
    held_out: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        if not self.train:
            raise ValueError("train is empty; name at least one source and its shards")
        for name in self.train.keys() ^ self.held_out.keys():
            raise ValueError(f"source {name!r} is only in one of train and held_out; give every source in both")


def open_shards(patterns: Sequence[str], *, tokenizer_fingerprint: str | None) -> list[TokenShard]:
    """Every shard that matches, opened and checked.

    Raises: FileNotFoundError for a pattern without a match; ValueError for a damaged shard or another vocabulary.
    """
    paths: set[str] = set()
    for pattern in patterns:
        found = glob.glob(pattern)
        if not found:
            raise FileNotFoundError(f"no token shard at {pattern}; give the path of an .arrayrecord file, * is allowed")
        paths.update(found)
    shards = [TokenShard(path, tokenizer_fingerprint=tokenizer_fingerprint) for path in sorted(paths)]
    for shard in shards:
        if shard.header.bytes <= VERIFIED_BYTES:
            shard.verify()
    return shards
