"""WARC files (ISO 28500), plain, gzip or zstandard: pages, resources and the converted text of WET files."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from llama3_jax.curation.read.charset import decoded, encoding_of
from llama3_jax.curation.read.nesting import deeper_than
from llama3_jax.curation.read.raw import Limits, Raw, Skipped

_DOCUMENTS = (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)
_HTML = ("text/html", "application/xhtml+xml")
_GZIP, _ZSTD, _WARC = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"WARC/1."
_CHUNK = 2**20
_HEADERS = 2**17
"""Bytes that the headers of a record may take beside its content."""


def read_warc(file: BinaryIO, name: str, limits: Limits) -> Iterator[Raw | Skipped]:
    """Responses with status 200, resources and conversions; requests, revisits and what else describes the crawl is no
    document and no loss. After a damaged record, reading goes on at the next one that can be found.

    Args:
        file: seekable.
        name: of the file, by whose end the compression is known; ids of records without their own are NAME:OFFSET.
    """
    if name.lower().endswith(".gz"):
        yield from _members(file, name, limits)
    else:
        yield from _stream(file, name, limits, 0, _ZSTD if name.lower().endswith(".zst") else _WARC)


def _members(file: BinaryIO, name: str, limits: Limits) -> Iterator[Raw | Skipped]:
    """A gzip file of a record a member, as the standard advises: what is wrong in one stays in it."""
    most = limits.max_record_bytes + _HEADERS
    offset: int | None = 0
    while offset is not None:
        where = f"{name}:{offset}"
        file.seek(offset)
        inflater, held, size, read = zlib.decompressobj(31), [], 0, 0
        try:
            while not inflater.eof:
                packed = inflater.unconsumed_tail or file.read(_CHUNK)
                if not packed:
                    break
                read += 0 if inflater.unconsumed_tail else len(packed)
                piece = inflater.decompress(packed, _CHUNK)
                size += len(piece)
                if size <= most + _CHUNK:
                    held.append(piece)
        except zlib.error as error:
            yield Skipped(where, "bad_record", str(error)[:200])
            offset = _next_record(file, offset + 1, _GZIP)
            continue
        if read == 0:
            return
        data = b"".join(held)
        if size > most and data.count(b"\r\nWARC/1.", 0, most) > 0:  # one member around many records
            yield from _stream(file, name, limits, offset, _GZIP)
            return
        if size > most:
            yield Skipped(where, "too_big", size)
        elif not inflater.eof:
            yield Skipped(where, "cut_short", size)
        else:
            yield from _records(data, where, limits)
        offset = offset + read - len(inflater.unused_data) if inflater.eof else _next_record(file, offset + 1, _GZIP)


def _records(data: bytes, where: str, limits: Limits) -> Iterator[Raw | Skipped]:
    """The records of a member."""
    count = 0
    try:
        for record in ArchiveIterator(io.BytesIO(data), parse_http=True, auto_decode="all", fsspec_args=False):
            count += 1
            if record.record_type in _DOCUMENTS:
                yield _document(record, where, limits)
    except (OSError, EOFError, ValueError, RuntimeError) as error:
        yield Skipped(where, "bad_record", _short(error))
        return
    if not count:
        yield Skipped(where, "bad_record", "no WARC record in it")


def _stream(file: BinaryIO, name: str, limits: Limits, start: int | None, beginning: bytes) -> Iterator[Raw | Skipped]:
    """Records one after another in one stream."""
    while start is not None:
        file.seek(start)
        position, progress = start, False
        try:
            for record in ArchiveIterator(file, parse_http=True, auto_decode="all", fsspec_args=False):
                position, progress = start + record.stream_pos, True
                if record.record_type in _DOCUMENTS:
                    yield _document(record, f"{name}:{position}", limits)
            return
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            if not progress:  # else the damage is in the next record, where the next round begins
                yield Skipped(f"{name}:{position}", "bad_record", _short(error))
        start = _next_record(file, position + 1, beginning)


def _document(record: WarcRecord, where: str, limits: Limits) -> Raw | Skipped:
    headers = record.headers
    name = (record.record_id or headers.get("WARC-Record-ID") or where).strip("<>")
    url = headers.get("WARC-Target-URI") or ""
    if record.is_http:
        status = record.http_headers.status_code if record.http_headers is not None else None
        if status != 200:
            return Skipped(name, "http_status", status if status is not None else "no status")
        content_type = record.http_headers.get("Content-Type") or ""
    else:
        content_type = headers.get("Content-Type") or ""
    data = record.reader.read(limits.max_record_bytes + 1)
    if len(data) > limits.max_record_bytes:
        return Skipped(name, "too_big", limits.max_record_bytes)
    kind = content_type.partition(";")[0].strip().lower()
    rest = {"id": name, "url": url, "crawl_time": _time(record), "language": "", "license": ""}
    if kind in _HTML or (not kind and b"<html" in data[:2048].lower()):
        if depth := deeper_than(data, limits.max_nesting):
            return Skipped(name, "too_deep", depth)
        return Raw(**rest, body=data, encoding=encoding_of(data, content_type))
    if kind == "text/plain" or (not kind and b"\0" not in data[:2048]):
        return Raw(**rest, body=decoded(data, content_type), encoding="")
    return Skipped(name, "not_text", kind or "unknown type")


def _time(record: WarcRecord) -> str:
    try:
        return record.record_date.strftime("%Y-%m-%dT%H:%M:%SZ") if record.record_date else ""
    except (ValueError, OSError):
        return ""


def _next_record(file: BinaryIO, offset: int, beginning: bytes) -> int | None:
    """Where the next record may begin; None at the end."""
    file.seek(offset)
    held = b""
    while chunk := file.read(_CHUNK):
        found = (held + chunk).find(beginning)
        if found >= 0:
            return offset - len(held) + found
        offset += len(chunk)
        held = (held + chunk)[-len(beginning) + 1 :]
    return None


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
