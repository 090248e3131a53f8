"""Records with fields: JSON lines (plain, gzip, zstandard) and Parquet."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from llama3_jax.curation.read.charset import encoding_of
from llama3_jax.curation.read.nesting import deeper_than
from llama3_jax.curation.read.raw import Limits, Raw, Skipped

_CHUNK = 2**18
_TIMES = ("crawl_time", "date", "timestamp", "created", "added")
_ROWS = 256


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
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
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
            for batch in table.iter_batches(batch_size=_ROWS):
                for record in batch.to_pylist():
                    row += 1
                    yield from_record(record, f"{name}:{row}", limits)
    except (pa.ArrowException, OSError) as error:
        yield Skipped(f"{name}:{row + 1}", "cut_short", str(error)[:200])


def from_record(record: Any, where: str, limits: Limits) -> Raw | Skipped:
    if not isinstance(record, Mapping):
        return Skipped(where, "no_text_field", type(record).__name__)
    body = next((record[field] for field in ("text", "html") if isinstance(record.get(field), str | bytes)), None)
    if body is None:
        return Skipped(where, "no_text_field", ", ".join(map(str, record))[:200])
    if len(body) > limits.max_record_bytes:
        return Skipped(where, "too_big", len(body))
    encoding = ""
    if isinstance(record.get("text"), bytes):
        body = body.decode("utf-8", "replace")
    elif not isinstance(record.get("text"), str):
        body = body if isinstance(body, bytes) else body.encode("utf-8", "replace")
        encoding = encoding_of(body)
        if depth := deeper_than(body, limits.max_nesting):
            return Skipped(where, "too_deep", depth)
    return Raw(
        id=str(record["id"]) if record.get("id") not in (None, "") else where,
        url=_text(record, "url"),
        crawl_time=_text(record, *_TIMES),
        language=_text(record, "language", "lang"),
        license=_text(record, "license", "licence"),
        body=body,
        encoding=encoding,
    )


def _text(record: Mapping[str, Any], *fields: str) -> str:
    """The first of the fields that says something."""
    value = next((record[field] for field in fields if record.get(field) not in (None, "")), "")
    return value if isinstance(value, str) else value.isoformat() if hasattr(value, "isoformat") else str(value)


def inflated(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The decompressed bytes of a file, in pieces of bounded size.

    Raises: EOFError, zlib.error, ZstdError if it is cut short or damaged, after what could be read.
    """
    if name.lower().endswith(".gz"):
        yield from _gunzipped(file)
    elif name.lower().endswith(".zst"):
        yield from _unzstd(file)
    else:
        while piece := file.read(_CHUNK):
            yield piece


def _gunzipped(file: BinaryIO) -> Iterator[bytes]:
    member, pending = None, b""
    while pending or (pending := file.read(_CHUNK)):
        member = member or zlib.decompressobj(31)
        piece = member.decompress(pending, _CHUNK)
        pending = member.unconsumed_tail
        if piece:
            yield piece
        if member.eof:
            pending = member.unused_data.lstrip(b"\0")
            member = None
    if member is not None:
        raise EOFError("the last gzip member has no end")


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)
    frame, pending = None, b""
    while pending or (pending := file.read(2**14)):
        frame = frame or decompressor.decompressobj()
        if piece := frame.decompress(pending):
            yield piece
        pending = frame.unused_data
        frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last zstandard frame has no end")


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
