"""Documents between stages: Parquet (zstd), written in row groups of bounded size and read back one group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "url": pa.string(),  # empty where unknown, as the following ones
        "crawl_time": pa.string(),  # ISO 8601, UTC
        "source": pa.string(),  # the name in the run file
        "language": pa.string(),
        "license": pa.string(),
        "text": pa.string(),
    }
)
REJECTED = SCHEMA
for _name, _type in (("stage", pa.string()), ("reason", pa.string()), ("value", pa.float64()), ("detail", pa.string())):
    REJECTED = REJECTED.append(pa.field(_name, _type))

GROUP_BYTES = 16 * 2**20
"""A row group is closed at the first document's end at or after so many bytes of text: what a stage holds at a time."""


def read_groups(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a file of documents, one at a time."""
    with pq.ParquetFile(path, memory_map=True) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=columns, use_threads=False)


class DocumentWriter:
    """Writes tables of one schema; which tables the rows came in does not show in the file."""

    def __init__(self, path: Path, schema: pa.Schema = SCHEMA):
        self._schema, self._waiting, self._bytes = schema, [], 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["source", "language", "license"])

    def write(self, table: pa.Table) -> None:
        table = table.select(self._schema.names).cast(self._schema)
        sizes = pc.binary_length(table["text"]).to_pylist()
        start = 0
        for row, size in enumerate(sizes):
            self._bytes += size
            if self._bytes >= GROUP_BYTES:
                self._waiting.append(table.slice(start, row + 1 - start))
                self._flush()
                start = row + 1
        if start < table.num_rows:
            self._waiting.append(table.slice(start))

    def _flush(self) -> None:
        if self._waiting:
            group = pa.concat_tables(self._waiting).combine_chunks()
            self._writer.write_table(group, row_group_size=max(1, group.num_rows))
        self._waiting, self._bytes = [], 0

    def __enter__(self) -> DocumentWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

