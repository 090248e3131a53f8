"""The encoding of bytes that may say it, may say it wrongly, or may say nothing."""

from __future__ import annotations

import codecs
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

_META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.I)
_HEADER = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.I)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_META_BYTES = 4096


def encoding_of(data: bytes, content_type: str = "") -> str:
    """A Python codec for `data`: by its byte order mark, as UTF-8 where it is that, by what header or <meta> say, or by
    statistics. Labels mean what the WHATWG standard says (iso-8859-1 is windows-1252, gb2312 is gbk)."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if is_utf8(data):
        return "utf-8"  # bytes beyond ASCII are hardly ever valid by chance
    said = _HEADER.search(content_type)
    in_page = _META.search(data[:_META_BYTES])
    for label in (said and said.group(1), in_page and in_page.group(1).decode("ascii")):
        if label and (name := _codec(label)) and name != "utf-8":
            return name
    guessed = _codec(detect_encoding(data[: 2**16])) or "windows-1252"
    return "windows-1252" if guessed == "utf-8" and _is_not_utf8(data) else guessed


def _is_not_utf8(data: bytes) -> bool:
    """Whether more than a few characters beyond ASCII are wrong."""
    text = data[: 2**16].decode("utf-8", "replace")
    return text.count("\ufffd") > 0.1 * sum(character > "\x7f" for character in text)


def is_utf8(data: bytes) -> bool:
    """Whether all of it is, but for a character cut at the end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def decoded(data: bytes, content_type: str = "") -> str:
    """Text of any encoding; what is wrong in it becomes U+FFFD."""
    encoding = encoding_of(data, content_type)
    return data.decode(encoding, "replace").removeprefix("\ufeff")


def _codec(label: str | None) -> str | None:
    if not label:
        return None
    try:
        return codecs.lookup(map_encoding_to_html5(label) or label).name
    except (LookupError, ValueError):
        return None
