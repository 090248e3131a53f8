"""WARC files (ISO 28500), plain, gzip or zstandard: pages, resources and the converted text of WET files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from llama3_jax.curation.read.charset import decoded, encoding_of
from llama3_jax.curation.read.nesting import deeper_than
from llama3_jax.curation.read.raw import Limits, Raw, Skipped

_log = logging.getLogger(__name__)

_DOCUMENTS = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_HTML = ("text/html", "application/xhtml+xml")
_BEGINNINGS = {".gz": b"\x1f\x8b\x08", "": b"WARC/1.", ".zst": b"\x28\xb5\x2f\xfd"}
_CHUNK = 2**20


def read_warc(file: BinaryIO, name: str, limits: Limits) -> Iterator[Raw | Skipped]:
    """Responses with status 200, resources and conversions; requests, revisits and what else describes the crawl is no
    document and no loss. After a damaged record, reading goes on at the next one that can be found.

    Args:
        file: seekable.
        name: of the file, by whose end the compression is known; ids of records without their own are NAME:OFFSET.
    """
    beginning = _BEGINNINGS[next(suffix for suffix in (".gz", ".zst", "") if name.lower().endswith(suffix))]
    start = 0
    while start is not None:
        file.seek(start)
        position = start
        try:
            for record in ArchiveIterator(file, record_types=_DOCUMENTS, parse_http=True, auto_decode="all", fsspec_args=False):
                position = start + record.stream_pos
                yield _document(record, f"{name}:{position}", limits)
            return
        except (OSError, EOFError, ValueError, RuntimeError) as error:
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
