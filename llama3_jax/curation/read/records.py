"""Records with fields: JSON lines (plain, gzip, zstandard) and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from llama3_jax.curation.read.charset import encoding_of
from llama3_jax.curation.read.compressed import DAMAGE, inflated
from llama3_jax.curation.read.nesting import deeper_than
from llama3_jax.curation.read.raw import Limits, Raw, Skipped
from llama3_jax.curation.read.times import iso_utc

_BODIES = ("text", "html")
_TIMES = ("crawl_time", "date", "timestamp", "created", "added")
_LANGUAGES = ("language", "lang")
_LICENSES = ("license", "licence")
_FIELDS = (*_BODIES, *_TIMES, *_LANGUAGES, *_LICENSES, "id", "url")
_ROWS = 16
"""Of Parquet at a time: a batch is whole in memory."""


def read_jsonl(file: BinaryIO, name: str, limits: Limits) -> Iterator[Raw | Skipped]:
    """A document a line, of its `text`, or of its `html`; `id`, `url`, `language` or `lang`, a time and `license` are
    taken where they are."""
    number = 0
    lines = _lines(inflated(file, name), limits.max_record_bytes)
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except DAMAGE as error:
            yield Skipped(f"{name}:{number + 1}", "cut_short", str(error)[:200])
            return
        number += 1
        if isinstance(line, int):
            yield Skipped(f"{name}:{number}", "too_big", line)
        elif line.strip():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Skipped(f"{name}:{number}", "bad_json", str(error)[:200])
                continue
            yield from_record(record, f"{name}:{number}", limits)


def read_parquet(file: BinaryIO, name: str, limits: Limits) -> Iterator[Raw | Skipped]:
    """A document a row, of the same fields."""
    row = 0
    try:
        with pq.ParquetFile(file) as table:
            columns = [column for column in table.schema_arrow.names if column in _FIELDS]
            if not set(_BODIES) & set(columns):
                for row in range(1, table.metadata.num_rows + 1):
                    yield Skipped(f"{name}:{row}", "no_text_field", ", ".join(table.schema_arrow.names)[:200])
                return
            for batch in table.iter_batches(batch_size=_ROWS, columns=columns):
                for record in batch.to_pylist():
                    row += 1
                    yield from_record(record, f"{name}:{row}", limits)
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a date beyond Python's years, text that is not UTF-8
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # a disk or store that fails, not what Arrow says of a file
        yield Skipped(f"{name}:{row + 1}", "cut_short", str(error)[:200])


def from_record(record: Any, where: str, limits: Limits) -> Raw | Skipped:
    if not isinstance(record, Mapping):
        return Skipped(where, "no_text_field", type(record).__name__)
    field = next((field for field in _BODIES if isinstance(record.get(field), str | bytes)), None)
    if field is None:
        return Skipped(where, "no_text_field", ", ".join(map(_clean, record))[:200])
    body = record[field]
    if len(body) > limits.max_record_bytes:
        return Skipped(where, "too_big", len(body))
    encoding = ""
    if field == "text":
        body = body.decode("utf-8", "replace") if isinstance(body, bytes) else _clean(body)
    else:
        encoding = "utf-8" if isinstance(body, str) else encoding_of(body)
        body = body.encode("utf-8", "replace") if isinstance(body, str) else body
        if depth := deeper_than(body, limits.max_nesting):
            return Skipped(where, "too_deep", depth)
    return Raw(
        id=_first(record, "id") or where,
        url=_first(record, "url"),
        crawl_time=next(filter(None, (iso_utc(record.get(field)) for field in _TIMES)), ""),
        language=_first(record, *_LANGUAGES),
        license=_first(record, *_LICENSES),
        body=body,
        encoding=encoding,
    )


def _first(record: Mapping[str, Any], *fields: str) -> str:
    """The first of the fields that says something."""
    value = next((record[field] for field in fields if record.get(field) not in (None, "")), "")
    return _clean(value)


def _clean(value: Any) -> str:
    """Text without lone surrogates, which JSON may write and nothing may store."""
    text = value if isinstance(value, str) else str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _lines(pieces: Iterator[bytes], limit: int) -> Iterator[bytes | int]:
    """Lines without their ends; of one longer than `limit` only its length."""
    held: list[bytes] = []
    length = 0
    for piece in pieces:
        *whole, rest = piece.split(b"\n")
        for end in whole:
            length += len(end)
            yield length if length > limit else b"".join([*held, end])
            held, length = [], 0
        length += len(rest)
        if length <= limit:
            held.append(rest)
        else:
            held = []
    if length:
        yield length if length > limit else b"".join(held)
