"""Near-duplicate documents: MinHash signatures, documents that share a band, connected components, of each the newest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from llama3_jax.curation.deduplicate.components import chained, components, spanning_forest
from llama3_jax.curation.deduplicate.minhash import MinHash, band_keys, signatures
from llama3_jax.curation.documents import read_groups
from llama3_jax.curation.partition import Context, Outcome, Partition
from llama3_jax.curation.shuffle import num_buckets, read_bucket, row_number, write_buckets
from llama3_jax.curation.stages.duplicates import drop_losers, write_losers
from llama3_jax.curation.step import Facts, Task, digest

STAGE = "near_duplicates"


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """Near-duplicates within a language, over all sources (section 3.1.1; nothing about them is printed but MinHash)."""

    minhash: MinHash = MinHash()
    sources: tuple[str, ...] | None = None
    """Only documents of these are compared; null: of all."""


def near_duplicates(context: Context, partitions: Sequence[Partition], settings: NearDuplicates) -> Outcome:
    """Rejects all documents of a component but one; a component is what shared bands connect."""
    rows = sum(partition.documents for partition in partitions) * settings.minhash.bands
    buckets = num_buckets(rows)
    work = partial(_write_bands, settings=settings, num_buckets=buckets)
    mapped = context.over(f"{STAGE}/bands", partitions, work, (settings, buckets))
    directories = tuple(piece.directory for piece in mapped)
    of_bands = digest([piece.digest for piece in mapped])
    tasks = [Task(inputs=(bucket, directories), digest=digest([of_bands, bucket]), size=1) for bucket in range(buckets)]
    edges = context.step(f"{STAGE}/edges", tasks, _write_edges)
    inputs = (tuple(piece.directory for piece in edges), tuple(partitions))
    losers = context.one(f"{STAGE}/components", inputs, [*edges, *partitions], _write_components)
    return drop_losers(context, STAGE, partitions, [losers], "near_duplicate")


def _write_bands(inputs, directory: Path, *, settings: NearDuplicates, num_buckets: int) -> Facts:
    number, partition, _ = inputs
    none = np.zeros(0, dtype=np.uint64)
    keys, names, first_row = [none], [none], 0
    if partition.of(settings.sources):
        for table in read_groups(partition.path, ["text", "language"]):
            signed = signatures(table["text"], settings.minhash)
            keys_NB = band_keys(signed, settings.minhash, table["language"].to_pylist())
            keys.append(keys_NB.reshape(-1))
            names.append(np.repeat(row_number(number, first_row + np.arange(table.num_rows)), keys_NB.shape[1]))
            first_row += table.num_rows
    key, name = np.concatenate(keys), np.concatenate(names)
    write_buckets(directory, key % np.uint64(num_buckets), {"key": key, "document": name}, num_buckets)
    return {"bands": len(key)}


def _write_edges(inputs, directory: Path) -> Facts:
    """Of the documents that share keys, what connects them and no more."""
    bucket, directories = inputs
    rows = read_bucket(directories, bucket)
    left, right = spanning_forest(*chained(rows["key"], rows["document"]))
    write_buckets(directory, np.zeros(len(left), dtype=np.int64), {"left": left, "right": right}, 1)
    return {"edges": len(left)}


def _write_components(inputs, directory: Path) -> Facts:
    directories, partitions = inputs
    edges = read_bucket(directories, 0)
    documents, labels = components(edges["left"], edges["right"])
    return write_losers(directory, partitions, labels, documents)
