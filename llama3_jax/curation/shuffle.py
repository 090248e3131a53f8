"""Rows from every piece to every bucket, through files: what a distributed sort needs, resumable and in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

BUCKETS = "buckets.arrow"
ROWS_PER_BUCKET = 4_000_000
"""About: a process that reduces a bucket takes up to 100 bytes for each."""


def write_buckets(directory: Path, bucket: np.ndarray, columns: dict[str, np.ndarray], num_buckets: int) -> None:
    """Writes `columns` (equally long, any NumPy dtype that Arrow has) into a file of one batch a bucket.

    Args:
        bucket: of each row, in [0, num_buckets). Rows of a bucket keep their order.
    """
    order = np.argsort(bucket, kind="stable")
    edges = np.searchsorted(bucket[order], np.arange(num_buckets + 1))
    arrays = [pa.array(values[order]) for values in columns.values()]
    schema = pa.schema([(name, array.type) for name, array in zip(columns, arrays, strict=True)])
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    with pa.OSFile(str(directory / BUCKETS), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as file:
        for number in range(num_buckets):
            start, stop = edges[number], edges[number + 1]
            batch = pa.record_batch([array.slice(start, stop - start) for array in arrays], schema=schema)
            file.write_batch(batch)


def read_bucket(directories: Iterable[Path], number: int) -> dict[str, np.ndarray]:
    """A bucket from all pieces, in their order: columns by name."""
    batches = list(_batches(directories, number))
    names = batches[0].schema.names
    return {name: np.concatenate([_numpy(batch.column(name)) for batch in batches]) for name in names}


def _batches(directories: Iterable[Path], number: int) -> Iterator[pa.RecordBatch]:
    for directory in directories:
        with pa.memory_map(str(directory / BUCKETS)) as source:
            yield pa.ipc.open_file(source).get_batch(number)


def _numpy(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)


def num_buckets(num_rows: int) -> int:
    """At least one; enough that what a bucket has fits into memory, whatever the input."""
    return max(1, -(-num_rows // ROWS_PER_BUCKET))


def row_number(piece: int, rows: np.ndarray | Sequence[int]) -> np.ndarray:
    """A document's name in a shuffle: uint64, its piece and its row there."""
    return (np.uint64(piece) << np.uint64(32)) | np.asarray(rows, dtype=np.uint64)


def piece_and_row(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (numbers >> np.uint64(32)).astype(np.int64), (numbers & np.uint64(0xFFFFFFFF)).astype(np.int64)
