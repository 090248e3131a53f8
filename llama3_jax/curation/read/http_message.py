"""HTTP responses as crawlers store them: status, headers, and the content behind its encodings (RFC 9110, RFC 9112)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import NamedTuple

import zstandard

from llama3_jax.curation.read.raw import Limits

_STATUS = re.compile(rb"\s*(?:HTTP|ICY|http)[^\s]{0,16}[ \t]+(\d{3})(?!\d)")
_BLANK = re.compile(rb"\r?\n[ \t]*\r?\n")
_HEAD_BYTES = 2**17
_PIECE = 2**20
_MOST_CODINGS = 4


class Response(NamedTuple):
    """Of HTTP."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: memoryview | bytes


class Undecodable(ValueError):
    """Why a content stays encoded: reason and value of a `Skipped`."""

    def __init__(self, reason: str, value: float | str):
        super().__init__(f"{reason}: {value}")
        self.reason, self.value = reason, value


def parse_response(block: bytes) -> Response:
    """Raises: Undecodable where the block begins with no HTTP status."""
    status = _STATUS.match(block)
    if status is None:
        raise Undecodable("bad_record", "no HTTP status line")
    end = _BLANK.search(block, 0, _HEAD_BYTES)
    head, body = (block, b"") if end is None else (block[: end.start()], memoryview(block)[end.end() :])
    if end is None and len(block) > _HEAD_BYTES:
        raise Undecodable("bad_record", "HTTP headers without an end")
    return Response(int(status.group(1)), parse_headers(head.partition(b"\n")[2]), body)


def parse_headers(head: bytes) -> dict[str, str]:
    """`Name: value` lines, the first of each name; a line that begins with white space goes on with the one before."""
    headers: dict[str, str] = {}
    last = None
    for line in head.decode("utf-8", "replace").split("\n"):
        if line[:1] in (" ", "\t") and last is not None:
            headers[last] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        last = name.strip().lower() if colon else None
        if last is not None:
            if last in headers:
                last = None
            else:
                headers[last] = value.strip()
    return headers


def content(response: Response, limits: Limits) -> bytes:
    """The body without its transfer and content encodings. Where headers name one that the bytes do not have, because the
    crawler had taken it off, the bytes are the content.

    Raises: Undecodable: too_big, expands_too_much, unknown_encoding, bad_encoding.
    """
    body = bytes(response.body)
    if "chunked" in response.headers.get("transfer-encoding", "").lower():
        body = _unchunked(body)
    codings = [coding.strip().lower() for coding in response.headers.get("content-encoding", "").split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity", "none", "utf-8", "chunked")]
    if len(codings) > _MOST_CODINGS:
        raise Undecodable("unknown_encoding", f"{len(codings)} encodings")
    for coding in reversed(codings):
        decode = _CODINGS.get(coding)
        if decode is None:
            if _is_markup(body):
                continue
            raise Undecodable("unknown_encoding", coding[:40])
        body = decode(body, limits)
    if len(body) > limits.max_record_bytes:
        raise Undecodable("too_big", len(body))
    return body


def _unchunked(body: bytes) -> bytes:
    """The chunks that are whole, and what there is of the last; all of it where it is not chunked."""
    chunks, at = [], 0
    while (end := body.find(b"\n", at, at + 256)) >= 0:
        size = body[at:end].partition(b";")[0].strip()
        if not size:
            at = end + 1  # the line end after a chunk
            continue
        if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", size):
            break
        length = int(size, 16)
        if length == 0:
            return b"".join(chunks)
        chunks.append(body[end + 1 : end + 1 + length])
        at = end + 1 + length
        if at >= len(body):
            break
    return b"".join(chunks) if chunks else body


def _is_markup(body: bytes) -> bool:
    return body[:256].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


def _bounded(limits: Limits, given: int, more: Callable[[], bytes]) -> bytes:
    """Calls `more` until it gives nothing."""
    pieces, length = [], 0
    while piece := more():
        pieces.append(piece)
        length += len(piece)
        if length > limits.max_record_bytes:
            raise Undecodable("too_big", length)
        if length > _PIECE and length > limits.max_expansion * given:
            raise Undecodable("expands_too_much", round(length / given))
    return b"".join(pieces)


def _zlib(body: bytes, limits: Limits, wbits: int) -> bytes:
    inflater, waiting = zlib.decompressobj(wbits), body

    def more() -> bytes:
        nonlocal waiting, inflater
        while waiting:
            piece = inflater.decompress(waiting, _PIECE)
            waiting = inflater.unconsumed_tail
            if inflater.eof:
                waiting = inflater.unused_data if wbits == 31 and inflater.unused_data.startswith(b"\x1f\x8b") else b""
                inflater = zlib.decompressobj(wbits)
            if piece:
                return piece
        return b""

    return _bounded(limits, len(body), more)


def _gunzip(body: bytes, limits: Limits) -> bytes:
    if not body.startswith(b"\x1f\x8b"):
        return body
    try:
        return _zlib(body, limits, 31)
    except zlib.error as error:
        raise Undecodable("bad_encoding", f"gzip: {error}"[:200]) from error


def _undeflate(body: bytes, limits: Limits) -> bytes:
    """With the wrapper of zlib or, as many servers send it, without."""
    if _is_markup(body):
        return body
    try:
        return _zlib(body, limits, 15)
    except zlib.error:
        try:
            return _zlib(body, limits, -15)
        except zlib.error as error:
            raise Undecodable("bad_encoding", f"deflate: {error}"[:200]) from error


def _unbrotli(body: bytes, limits: Limits) -> bytes:
    if _is_markup(body):
        return body
    try:
        import brotli
    except ModuleNotFoundError:
        raise Undecodable("unknown_encoding", "br (the package brotli is not installed)") from None
    decompressor, waiting = brotli.Decompressor(), body

    def more() -> bytes:
        nonlocal waiting
        while waiting or not decompressor.can_accept_more_data():
            given, waiting = waiting, b""
            piece = decompressor.process(given, output_buffer_limit=_PIECE)
            if piece or decompressor.is_finished():
                return piece
        return b""

    try:
        return _bounded(limits, len(body), more)
    except TypeError:
        raise Undecodable("unknown_encoding", "br (brotli before 1.2 cannot bound what it makes)") from None
    except brotli.error as error:
        raise Undecodable("bad_encoding", f"br: {error}"[:200]) from error


def _unzstd(body: bytes, limits: Limits) -> bytes:
    if not body.startswith(b"\x28\xb5\x2f\xfd"):
        return body
    frame, at = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj(), 0

    def more() -> bytes:
        nonlocal at
        while at < len(body) and not frame.eof:
            at += 2**10  # at most 128 KiB for each four bytes
            if piece := frame.decompress(body[at - 2**10 : at]):
                return piece
        return b""

    try:
        return _bounded(limits, len(body), more)
    except zstandard.ZstdError as error:
        raise Undecodable("bad_encoding", f"zstd: {error}"[:200]) from error


_CODINGS: dict[str, Callable[[bytes, Limits], bytes]] = {
    "gzip": _gunzip, "x-gzip": _gunzip, "deflate": _undeflate, "br": _unbrotli, "zstd": _unzstd,
}  # fmt: skip
