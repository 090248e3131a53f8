"""WARC files (ISO 28500), plain, gzip or zstandard: pages, resources and the converted text of WET files.

Records are framed here and not by a library, because every record that is damaged is to be counted and the next one found.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

from llama3_jax.curation.read.charset import decoded, encoding_of
from llama3_jax.curation.read.compressed import DAMAGE, GZIP, ZSTD, Members
from llama3_jax.curation.read.http_message import Undecodable, content, parse_headers, parse_response
from llama3_jax.curation.read.nesting import deeper_than
from llama3_jax.curation.read.raw import Limits, Raw, Skipped
from llama3_jax.curation.read.times import iso_utc

_DOCUMENTS = ("response", "resource", "conversion")
_OTHERS = ("warcinfo", "request", "metadata", "revisit", "continuation")
_HTML = ("text/html", "application/xhtml+xml")
_TEXT = ("text/plain", "text/markdown", "text/x-markdown")
_UNSAID = ("", "application/octet-stream", "application/unknown", "unknown", "text", "*/*", "application/xml", "text/xml")
_PAGE = re.compile(rb"<!doctype\s+html|<html[\s>]", re.I)
_BINARY = (b"%PDF-", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"PK\x03\x04", b"\x1f\x8b\x08", b"RIFF", b"\x00\x00\x00", b"\x7fELF")
_BLANK = re.compile(rb"\r?\n\r?\n")
_BEGINNING = re.compile(rb"WARC/\d\.\d{1,2}\r?\n(?:WARC|Content)-")
_BEGINNING_BYTES = 20
"""At least as many as it matches."""
_HEADERS = 2**16
"""Bytes that the headers of a record may take, and those of HTTP."""
_CHUNK = 2**18
_FREELY = 2**20
"""Bytes that may be made of however few."""

Stop = Literal["", "record", "member", "damage", "end"]


def read_warc(
    file: BinaryIO, name: str, limits: Limits, start: int = 0, end: int | None = None
) -> Iterator[Raw | Skipped]:
    """Responses with status 200, resources and conversions; requests, revisits and what else describes the crawl is no
    document and no loss. After a damaged record, reading goes on at the next one that can be found.

    Args:
        file: seekable.
        name: of the file, by whose end the compression is known; ids of records without their own are NAME:OFFSET.
        start, end: of a gzip file, only what begins with a member there and before the next such beginning at or after
            `end`: what all parts of a file have, one after another, is what the whole has.
    """
    source = _Source(file, name, limits, start, end)
    while True:
        try:
            if not source.begin():
                return
            record = source.record()
        except _Lost as lost:
            yield Skipped(lost.where, lost.reason, lost.value)
            continue
        if record is not None:
            found = _document(*record, limits)
            if found is not None:
                yield found


class _Lost(Exception):
    """A record that is counted and passed over; the source stands where the next may begin."""

    def __init__(self, where: str, reason: str, value: float | str):
        super().__init__(reason)
        self.where, self.reason, self.value = where, reason, value


class _Source:
    """The bytes of a WARC file from record to record."""

    def __init__(self, file: BinaryIO, name: str, limits: Limits, start: int, end: int | None):
        kind = name.lower()
        self._file, self._name, self._limits, self._end = file, name, limits, end
        magic = GZIP if kind.endswith(".gz") else ZSTD if kind.endswith(".zst") else None
        self._members = None if magic is None else Members(file, magic)
        if start:
            self._members.seek(start, b"WARC/")
        self._held, self._at = b"", 0
        self._first = b""  # piece of a member that is not entered yet
        self._entered = -1  # offset of the member that what is held comes from
        self._began = 0  # in the stream, the first byte of that member
        self._passed = 0  # bytes of the stream before what is held
        self._number = 0  # of the record within its member
        self._damage: tuple[str, float | str] | None = None
        self._searching = False  # for a beginning, after a loss that is counted

    def begin(self) -> bool:
        """Goes to the next record; False at the end of the file or part. Raises: _Lost for what is there instead."""
        while True:
            self._skip(b"\r\n \t\0")
            stop = self._have(5)
            if self._held.startswith(b"WARC/", self._at):
                self._searching = False
                of_next_part = self._end is not None and self._entered >= self._end
                return not (of_next_part and self._passed + self._at == self._began)
            if self._at == len(self._held):
                if stop == "end":
                    return False
                if stop == "member":
                    self._enter()
                if stop == "damage":
                    self._recover()
                continue
            if not self._searching:
                self._searching = True
                where, sight = self._where(), self._held[self._at : self._at + 40]
                raise _Lost(where, "bad_record", f"no WARC record begins with {sight!r}")
            self._search()

    def record(self) -> tuple[dict[str, str], bytes, str] | None:
        """Headers, content and name of a record; None where it is not of a document. Raises: _Lost."""
        where, member = self._where(), self._entered
        self._number += 1
        stop: Stop = ""
        while (blank := _BLANK.search(self._held, self._at)) is None and not stop and len(self._held) - self._at <= _HEADERS:
            stop = self._fill()
        if blank is None:
            self._at = len(self._held) if stop else self._at + 5
            self._lose(where, "bad_record", "headers without an end", stop)
        if (another := _BEGINNING.search(self._held, self._at + 5, blank.start())) is not None:
            self._at = another.start()
            self._lose(where, "bad_record", "headers cut short", "record")
        headers = parse_headers(self._held[self._at : blank.start()])
        self._at = blank.end()
        where = headers.get("warc-record-id", "").strip("<> ") or where
        length, kind = headers.get("content-length", ""), headers.get("warc-type", "").lower()
        if not re.fullmatch(r"\d{1,18}", length):
            self._lose(where, "bad_length", length[:40] or "no Content-Length")
        size = int(length)
        if size > self._limits.max_record_bytes + _HEADERS:
            if stop := self._pass(size):
                self._lose(where, "bad_length", size, stop)
            if kind in _DOCUMENTS:
                raise _Lost(where, "too_big", size)
            return None
        block, stop = self._take(size)
        if stop:
            self._lose(where, "bad_length", size, "record" if self._return_to_beginning(block) else stop)
        self._have(_BEGINNING_BYTES)
        after = self._held[self._at : self._at + _BEGINNING_BYTES]
        if not (self._ends(member) or (self._damage is None and after.startswith(b"\r\n\r\n"))):
            if self._damage is not None and self._entered == member:
                self._lose(where, *self._damage, "damage")
            self._lose(where, "bad_length", size, "record" if self._return_to_beginning(block, after) else "")
        if (
            b"WARC/1." in block
            and _is_other(block, headers.get("warc-block-digest", ""))
            and self._return_to_beginning(block, after)
        ):
            self._lose(where, "bad_length", size, "record")
        if kind in _DOCUMENTS:
            return headers, block, where
        if kind not in _OTHERS:
            raise _Lost(where, "bad_record", f"WARC-Type is {kind[:40]!r}")
        return None

    def _lose(self, where: str, reason: str, value: float | str, stop: Stop = "") -> None:
        """Raises _Lost, after going past what made the loss."""
        if stop == "damage":
            reason, value = self._damage
            self._recover(counted=True)
        elif stop == "end":
            reason, value = "cut_short", "the file ends inside a record"
            self._at = len(self._held)
        self._searching = stop != "record"
        raise _Lost(where, reason, value)

    def _where(self) -> str:
        if self._members is None:
            return f"{self._name}:{self._passed + self._at}"
        return f"{self._name}:{self._entered}" + (f"+{self._number}" if self._number else "")

    def _fill(self) -> Stop:
        """Adds a piece of the stream to what is held."""
        if self._first:
            return "member"
        if self._damage is not None:
            return "damage"
        if self._members is None:
            piece = self._file.read(_CHUNK)
            if not piece:
                return "end"
        else:
            try:
                piece = self._members.piece()
                if piece is None:
                    return "end"
                if self._members.offset != self._entered:
                    self._first = piece
                    return "member"
            except DAMAGE as error:
                reason = "cut_short" if isinstance(error, EOFError) else "bad_record"
                self._damage = (reason, f"{type(error).__name__}: {error}"[:200])
                return "damage"
            made, given = self._members.made, self._members.given
            if made > _FREELY and made > self._limits.max_expansion * given:
                self._damage = ("expands_too_much", round(made / given))
                return "damage"
        self._passed += self._at
        self._held, self._at = self._held[self._at :] + piece, 0
        return ""

    def _enter(self) -> None:
        """Goes on with the member that was found to follow."""
        if self._at == len(self._held):
            self._number = 0
        self._passed += self._at
        self._began = self._passed + len(self._held) - self._at
        self._held, self._at = self._held[self._at :] + self._first, 0
        self._first, self._entered = b"", self._members.offset

    def _recover(self, *, counted: bool = False) -> None:
        """Goes past the damage, to the next member that begins with a record. Raises: _Lost unless it is counted."""
        (reason, value), self._damage = self._damage, None
        where = f"{self._name}:{self._members.offset}"
        counted = counted or (self._searching and self._entered == self._members.offset)
        self._held, self._at, self._first, self._entered, self._number = b"", 0, b"", -1, 0
        self._members.resume(b"WARC/")
        if not counted:
            raise _Lost(where, reason, value)

    def _skip(self, signs: bytes) -> None:
        while True:
            while self._at < len(self._held) and self._held[self._at] in signs:
                self._at += 1
            if self._at < len(self._held) or self._fill():
                return

    def _have(self, count: int) -> Stop:
        while len(self._held) - self._at < count:
            if stop := self._fill():
                return stop
        return ""

    def _take(self, size: int) -> tuple[bytes, Stop]:
        """The next bytes; fewer, and why, where a record begins before or there are no more."""
        if self._at + size <= len(self._held):
            block = self._held[self._at : self._at + size]
            self._at += size
            return block, ""
        pieces, left = [], size
        while True:
            piece = self._held[self._at : self._at + left]
            pieces.append(piece)
            self._at += len(piece)
            left -= len(piece)
            if not left:
                return b"".join(pieces), ""
            stop = self._fill()
            if stop == "member" and not self._first.startswith(b"WARC/"):
                self._enter()
            elif stop:
                return b"".join(pieces), stop

    def _pass(self, size: int) -> Stop:
        """Goes past so many bytes, or to a record that begins within them."""
        while True:
            begins = _BEGINNING.search(self._held, self._at, self._at + size)
            if begins is not None:
                self._at = begins.start()
                return "record"
            step = min(size, max(0, len(self._held) - self._at - _BEGINNING_BYTES))
            self._at += step
            size -= step
            if size <= len(self._held) - self._at:
                self._at += size
                return ""
            stop = self._fill()
            if stop == "member" and not self._first.startswith(b"WARC/"):
                self._enter()
            elif stop:
                self._at = len(self._held)
                return stop

    def _ends(self, member: int) -> bool:
        """Whether what follows is a record, another member or nothing, with or without line ends before."""
        self._skip(b"\r\n")
        stop = self._have(5)
        if self._held.startswith(b"WARC/", self._at):
            return True
        empty = self._at == len(self._held) or (stop == "end" and b"WARC/".startswith(self._held[self._at :]))
        if stop == "damage":  # of what follows, or of the member that this record is in?
            return empty and self._members.offset != member
        return empty and stop in ("end", "member")

    def _return_to_beginning(self, block: bytes, after: bytes = b"") -> bool:
        """After a record that does not end where it says: back to the one that begins within it, if one does.

        Args:
            after: what came after the block, of which line ends may have been passed since.
        """
        begins = _BEGINNING.search(block + after)
        if begins is None or begins.start() >= len(block):
            return False
        passed = after[: len(after) - len(after.lstrip(b"\r\n"))]
        again = block[begins.start() :] + passed
        self._passed += self._at - len(again)
        self._held, self._at = again + self._held[self._at :], 0
        return True

    def _search(self) -> None:
        """Goes to where a record begins, or to where something else does."""
        while True:
            begins = _BEGINNING.search(self._held, self._at)
            if begins is not None:
                self._at = begins.start()
                return
            self._at = max(self._at, len(self._held) - _BEGINNING_BYTES)
            stop = self._fill()
            if stop == "member" and not self._first.startswith(b"WARC/"):
                self._enter()
            elif stop:
                self._at = len(self._held)
                return


def _is_other(block: bytes, digest: str) -> bool:
    """Whether a block cannot be the one of this digest: it may be cut, and end by chance where another record does."""
    algorithm, _, value = digest.partition(":")
    if algorithm.lower() not in ("sha1", "sha256", "md5"):
        return False
    found = hashlib.new(algorithm.lower(), block, usedforsecurity=False)
    return value.lower() not in (found.hexdigest(), base64.b32encode(found.digest()).decode().lower())


def _document(headers: dict[str, str], block: bytes, where: str, limits: Limits) -> Raw | Skipped | None:
    content_type = headers.get("content-type", "")
    if headers["warc-type"].lower() == "response" and content_type.lower().startswith("text/dns"):
        return None
    try:
        if headers["warc-type"].lower() == "response" and (
            content_type.lower().startswith("application/http") or block.startswith(b"HTTP/")
        ):
            response = parse_response(block)
            if response.status != 200:
                return Skipped(where, "http_status", response.status)
            content_type = response.headers.get("content-type", "")
            data = content(response, limits)
        else:
            data = block
    except Undecodable as error:
        return Skipped(where, error.reason, error.value)
    if len(data) > limits.max_record_bytes:
        return Skipped(where, "too_big", len(data))
    said = content_type.partition(";")[0].strip().lower()
    kind = _kind(said, data)
    rest = {
        "id": where, "url": headers.get("warc-target-uri", "").strip("<> "), "crawl_time": iso_utc(headers.get("warc-date")),
        "language": _language(headers.get("warc-identified-content-language", "")), "license": "",
    }  # fmt: skip
    if kind == "html":
        if depth := deeper_than(data, limits.max_nesting):
            return Skipped(where, "too_deep", depth)
        return Raw(**rest, body=data, encoding=encoding_of(data, content_type))
    if kind == "text":
        return Raw(**rest, body=decoded(data, content_type), encoding="")
    return Skipped(where, "not_text", said[:80] or "unknown type")


def _kind(said: str, data: bytes) -> Literal["html", "text", "other"]:
    """By what headers say, and by the bytes where they say nothing or cannot be right."""
    if data.startswith(_BINARY):
        return "other"
    if said in _HTML:
        return "html"
    if said in _TEXT or said in _UNSAID:
        beginning = data[:1024]
        if _PAGE.search(beginning):
            return "html"
        if said in _TEXT or (said == "" and b"\0" not in beginning):
            return "text"
    return "other"


_TWO_LETTERS = dict(
    pair.split("=")
    for pair in (
        "afr=af amh=am ara=ar asm=as aze=az bel=be ben=bn bul=bg bos=bs cat=ca ces=cs cym=cy dan=da deu=de ell=el eng=en epo=eo "
        "est=et eus=eu fas=fa fin=fi fra=fr fry=fy gle=ga glg=gl guj=gu hau=ha heb=he hin=hi hrv=hr hun=hu hye=hy ibo=ig ind=id "
        "isl=is ita=it jpn=ja kan=kn kat=ka kaz=kk khm=km kin=rw kir=ky kor=ko kur=ku lao=lo lat=la lav=lv lit=lt ltz=lb mal=ml "
        "mar=mr mkd=mk mlg=mg mlt=mt mon=mn msa=ms mya=my nep=ne nld=nl nno=nn nor=no oci=oc ori=or pan=pa pol=pl por=pt pus=ps "
        "ron=ro rus=ru sin=si slk=sk slv=sl som=so spa=es sqi=sq srp=sr sun=su swa=sw swe=sv tam=ta tat=tt tel=te tgk=tg tgl=tl "
        "tha=th tir=ti tuk=tk tur=tr uig=ug ukr=uk urd=ur uzb=uz vie=vi xho=xh yid=yi yor=yo zho=zh zul=zu"
    ).split()
)
"""ISO 639-3, as Common Crawl writes, to ISO 639-1 where that has the language."""


def _language(said: str) -> str:
    """The first of those that a record names."""
    first = said.split(",")[0].strip().lower()
    return _TWO_LETTERS.get(first, first)
