"""Deduplication by a key that equal documents share: one shuffle by the key, then the newest of each group stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from llama3_jax.curation.documents import read_groups
from llama3_jax.curation.partition import Context, Outcome, Partition
from llama3_jax.curation.shuffle import num_buckets, read_bucket, row_number, write_buckets
from llama3_jax.curation.stages.duplicates import drop_losers, equal_groups, write_losers
from llama3_jax.curation.step import Facts, Task, digest

Keys = Callable[[pa.Table], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Of a table of documents: two halves of a 128-bit key, uint64, and which rows have a key at all."""


def deduplicate(
    context: Context, stage: str, partitions: Sequence[Partition], keys: Keys, columns: Sequence[str], reason: str,
    settings: object, of_sources: Sequence[str] | None,
) -> Outcome:  # fmt: skip
    """Rejects every document with the key of another one that stays.

    Args:
        keys: a function of a module, which counts for the code of the stage.
        of_sources: only documents of these are compared; None for all.
    """
    buckets = num_buckets(sum(partition.documents for partition in partitions))
    work = partial(_write_keys, keys=keys, columns=tuple(columns), num_buckets=buckets, of_sources=of_sources)
    mapped = context.over(f"{stage}/keys", partitions, work, (settings, buckets, keys.__qualname__))
    directories = tuple(piece.directory for piece in mapped)
    of_keys = digest([each.digest for each in (*mapped, *partitions)])  # ids and times decide who stays
    tasks = [
        Task(inputs=(bucket, directories, tuple(partitions)), digest=digest([of_keys, bucket]), size=1)
        for bucket in range(buckets)
    ]
    reduced = context.step(f"{stage}/groups", tasks, _write_losers)
    return drop_losers(context, stage, partitions, reduced, reason)


def _write_keys(inputs, directory: Path, *, keys: Keys, columns, num_buckets: int, of_sources) -> Facts:
    number, partition, _ = inputs
    high, low, names, first_row = [], [], [], 0
    if partition.of(of_sources):
        for table in read_groups(partition.path, columns):
            one, other, keyed = keys(table)
            high.append(one[keyed])
            low.append(other[keyed])
            names.append(row_number(number, first_row + np.flatnonzero(keyed)))
            first_row += table.num_rows
    none = np.zeros(0, dtype=np.uint64)
    high, low, names = (np.concatenate([none, *parts]) for parts in (high, low, names))
    write_buckets(directory, high % np.uint64(num_buckets), {"high": high, "low": low, "document": names}, num_buckets)
    return {"keys": len(names)}


def _write_losers(inputs, directory: Path) -> Facts:
    bucket, directories, partitions = inputs
    rows = read_bucket(directories, bucket)
    groups, members = equal_groups(rows["high"], rows["low"])
    return write_losers(directory, partitions, groups, rows["document"][members])
