"""The encoding of bytes that may say it, may say it wrongly, or may say nothing."""

from __future__ import annotations

import codecs
import re

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

_META = re.compile(
    rb"<meta[^>]{0,300}?charset\s{0,8}=\s{0,8}[\"']?\s{0,8}([\w.:-]{2,40})|^\s*<\?xml[^>]{0,100}?encoding\s{0,8}=\s{0,8}[\"']([\w.:-]{2,40})",
    re.I,
)
_HEADER = re.compile(r"charset\s{0,8}=\s{0,8}[\"']?\s{0,8}([\w.:-]{2,40})", re.I | re.A)
_META_BYTES = 4096
_SAMPLE = 2**16
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_SUPERSETS = {
    "gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949", "big5": "big5hkscs", "iso8859-1": "cp1252",
    "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874",
}  # fmt: skip
"""What the WHATWG encoding standard reads a label as; Python's own codec of that name knows fewer characters."""
_SEVEN_BITS = {"iso2022_jp": b"\x1b"}
"""Encodings that look like ASCII, and what begins other characters in them."""
_WRONG = 0.1
"""Share of characters beyond ASCII that may be broken in text that is still UTF-8: cut or pasted in."""


def encoding_of(data: bytes, content_type: str = "") -> str:
    """A Python codec for `data`, in this order: a byte order mark; UTF-8 where the bytes are that, for what is beyond ASCII
    hardly ever is by chance; what the header, then <meta>, say; statistics. Labels mean what the WHATWG standard says
    (iso-8859-1 is windows-1252, gb2312 is gb18030)."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if wide := _wide(data[:1024]):
        return wide
    plain = is_utf8(data)
    if plain and b"\x1b" not in data:
        return "utf-8"
    said = [*_HEADER.findall(content_type[:1024])[:1], *(label.decode() for found in [_META.search(data[:_META_BYTES])] if found
            for label in found.groups() if label)]  # fmt: skip
    codes = [code for label in said if (code := _codec(label))]
    if plain:
        return next((code for code in codes if code in _SEVEN_BITS), "utf-8")
    if _is_almost_utf8(data):
        return "utf-8"
    for code in codes:
        if code not in ("utf-8", *_SEVEN_BITS) and not code.startswith("utf-16"):
            return code
    guessed = _codec(detect_encoding(data[:_SAMPLE])) or "cp1252"
    return "cp1252" if guessed in ("utf-8", *_SEVEN_BITS) else guessed


def is_utf8(data: bytes) -> bool:
    """Whether all of it is, but for a character cut at the end."""
    if data.isascii():
        return True
    try:
        codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError:
        return False
    return True


def decoded(data: bytes, content_type: str = "") -> str:
    """Text of any encoding; what is wrong in it becomes U+FFFD."""
    encoding = encoding_of(data, content_type)
    return data.decode(encoding, "replace").removeprefix("\ufeff").replace("\x00", "")


def _wide(beginning: bytes) -> str | None:
    """UTF-16 without a mark: of Latin letters, tags and spaces every other byte is zero, and the same one each time."""
    if len(beginning) < 8 or beginning.count(0) < 0.1 * len(beginning):
        return None
    even, odd = beginning[::2].count(0), beginning[1::2].count(0)
    if min(even, odd) > 0.05 * max(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_almost_utf8(data: bytes) -> bool:
    """Whether few of the characters beyond ASCII are wrong."""
    text = data[:_SAMPLE].decode("utf-8", "replace")
    return text.count("\ufffd") <= _WRONG * (len(text) - len(text.encode("ascii", "ignore")))


def _codec(label: str | None) -> str | None:
    """Of a label; None for one that no browser knows, or that is none of text (hex, idna)."""
    name = map_encoding_to_html5(label, fallback_utf8=False) if label else None
    try:
        found = codecs.lookup(name).name if name else None
    except (LookupError, ValueError):
        return None
    return _SUPERSETS.get(found, found)
