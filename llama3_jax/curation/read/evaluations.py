"""The texts of evaluation sets, whatever their fields are called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow.parquet as pq

from llama3_jax.curation.read.read import InputFile
from llama3_jax.curation.read.records import inflated


def evaluation_texts(file: InputFile) -> Iterator[str]:
    """Every string of every record, those inside lists and objects too.

    Raises: ValueError for a line that is not JSON: a set that is read in part protects in part.
    """
    with fsspec.open(file.path, "rb") as opened:
        if file.name.lower().endswith(".parquet"):
            records: Any = (row for batch in pq.ParquetFile(opened).iter_batches() for row in batch.to_pylist())
        else:
            records = _lines(b"".join(inflated(opened, file.name)), file.path)
        for record in records:
            yield from _strings(record)


def _lines(data: bytes, where: str) -> Iterator[Any]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where}:{number} is not a line of JSON ({error}); mend or remove the file") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
