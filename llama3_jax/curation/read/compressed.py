"""Compressed files, piece by piece: what a piece may cost is bounded, and what is damaged is passed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Protocol

import zstandard
from isal import isal_zlib

GZIP, ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
DAMAGE = (EOFError, isal_zlib.error, zstandard.ZstdError)
"""What a file that is cut short or damaged raises; OSError, of a disk or store that fails, is none of it and travels on."""
_CHUNK = 2**18
_PIECE = 2**20
_FIRST = 16
_ZSTD_FEED = 2**10
"""Bytes given at once: a block of four may stand for 128 KiB, so that these make 32 MiB at the most."""
_DICTIONARY = b"\x5d\x2a\x4d\x18"
"""Begins the frame that holds the dictionary of a .warc.zst (IIPC, WARC-zstd)."""


class Inflater(Protocol):
    """Of one gzip member or zstandard frame."""

    eof: bool
    unused_data: bytes
    """What was given beyond the end."""
    unconsumed_tail: bytes
    """What was given and waits for the next call."""

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Frame:
    """A zstandard frame with the interface that zlib has."""

    def __init__(self, dictionary: zstandard.ZstdCompressionDict | None):
        options = {} if dictionary is None else {"dict_data": dictionary}
        self._frame = zstandard.ZstdDecompressor(max_window_size=2**31, **options).decompressobj()
        self.eof, self.unused_data, self.unconsumed_tail = False, b"", b""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        made, length, at = [], 0, 0
        while at < len(data) and length < max_length and not self.eof:
            piece = self._frame.decompress(data[at : at + _ZSTD_FEED])
            at = min(at + _ZSTD_FEED, len(data))
            made.append(piece)
            length += len(piece)
            self.eof = self._frame.eof
        if self.eof:
            self.unused_data, self.unconsumed_tail = self._frame.unused_data + data[at:], b""
        else:
            self.unconsumed_tail = data[at:]
        return b"".join(made)


class Members:
    """The members of a gzip file, or the frames of a zstandard one, as pieces of what they hold.

    Attributes:
        offset: where in the file the member begins that the last piece is of.
        given: bytes of the file that the member has taken so far.
        made: bytes that it has become.
    """

    def __init__(self, file: BinaryIO, magic: bytes):
        self._file, self._magic = file, magic
        self._pending = b""
        self._read_up_to = 0  # in the file: the end of what is pending
        self._inflater: Inflater | None = None
        self._damage: Exception | None = None  # of the member that the last piece is of
        self._dictionary: zstandard.ZstdCompressionDict | None = None
        self.offset = self.given = self.made = 0

    def piece(self) -> bytes | None:
        """The next bytes; None at the end of the file. The first piece of a member has `made` equal to its length, and at least
        how the member begins, also of one that turns out to be damaged.

        Raises: one of DAMAGE; `resume` goes on after it.
        """
        if self._damage is not None:
            damage, self._damage = self._damage, None
            raise damage
        while True:
            while self._inflater is None:
                if not self._pending and not self._refill():
                    return None
                self._begin()
            first = not self.made
            try:
                piece = self._inflated()
                while self.made < _FIRST and self._inflater is not None:
                    piece += self._inflated()
            except DAMAGE as damage:
                if not first or not (piece := self._first_at(self.offset)):
                    raise
                self.made, self._damage = len(piece), damage
            if piece:
                return piece

    def _inflated(self) -> bytes:
        """The next bytes of a member, which may be none. Raises: one of DAMAGE."""
        if not self._pending and not self._refill():
            raise EOFError(f"the file ends inside what begins at byte {self.offset}")
        before = len(self._pending)
        piece = self._inflater.decompress(self._pending, _PIECE)
        if self._inflater.eof:
            self._pending, self._inflater = self._inflater.unused_data, None
        else:
            self._pending = self._inflater.unconsumed_tail
            if not piece and self._pending and len(self._pending) == before:
                raise EOFError("the decompressor makes nothing of what it is given")
        self.given += before - len(self._pending)
        self.made += len(piece)
        return piece

    def resume(self, beginning: bytes) -> None:
        """Goes to the next member that begins with `beginning`, or to the end of the file."""
        self.seek(self.offset + 1, beginning)

    def seek(self, offset: int, beginning: bytes) -> None:
        """Goes to the first member at or after an offset that begins with `beginning`, or to the end of the file."""
        while (found := self._find(offset)) is not None:
            if self._first_at(found).startswith(beginning):
                break
            offset = found + 1
        self._read_up_to = self._file.seek(0, 2) if found is None else self._file.seek(found)
        self._pending, self._inflater, self._damage = b"", None, None

    def _first_at(self, offset: int) -> bytes:
        """The first bytes of a member, whatever is wrong after them."""
        place = self._file.tell()
        self._file.seek(offset)
        head = self._file.read(_CHUNK)
        self._file.seek(place)
        inflater, made, at, step = self._new(), b"", 0, 64
        try:
            while len(made) < _FIRST and at < len(head) and not inflater.eof:
                made += inflater.decompress(inflater.unconsumed_tail + head[at : at + step], 2**12)
                at, step = at + step, 2 * step
        except DAMAGE:
            pass
        return made

    def _refill(self) -> bool:
        self._pending = self._file.read(_CHUNK)
        self._read_up_to += len(self._pending)
        return bool(self._pending)

    def _begin(self) -> None:
        """Begins a member, or passes padding or a skippable frame."""
        if self._magic == GZIP:
            self._pending = self._pending.lstrip(b"\0")
            if not self._pending:
                return
        while self._magic == ZSTD and len(self._pending) < 8 and (more := self._file.read(_CHUNK)):
            self._pending += more
            self._read_up_to += len(more)
        self.offset, self.given, self.made = self._read_up_to - len(self._pending), 0, 0
        if self._magic == ZSTD and self._pending[1:4] == b"\x2a\x4d\x18" and 0x50 <= self._pending[0] <= 0x5F:
            self._skippable()
        else:
            self._inflater = self._new()

    def _skippable(self) -> None:
        """Passes a frame of zstandard that is not data; where it is a dictionary, takes that."""
        length = 8 + int.from_bytes(self._pending[4:8], "little")
        if length > 2**27:
            raise EOFError(f"a frame to skip of {length} bytes")
        while len(self._pending) < length and (more := self._file.read(_CHUNK)):
            self._pending += more
            self._read_up_to += len(more)
        frame, self._pending = self._pending[:length], self._pending[length:]
        if frame[:4] == _DICTIONARY:
            held = frame[8:]
            if held[:4] == ZSTD:
                held = _Frame(None).decompress(held, 2**27)
            self._dictionary = zstandard.ZstdCompressionDict(held)

    def _new(self) -> Inflater:
        return isal_zlib.decompressobj(31) if self._magic == GZIP else _Frame(self._dictionary)

    def _find(self, offset: int) -> int | None:
        """Where the magic number next stands."""
        self._file.seek(offset)
        held = b""
        while chunk := self._file.read(_PIECE):
            at = (held + chunk).find(self._magic)
            if at >= 0:
                return offset - len(held) + at
            offset += len(chunk)
            held = (held + chunk)[-len(self._magic) + 1 :]
        return None


def inflated(file: BinaryIO, name: str) -> Iterator[bytes]:
    """The decompressed bytes of a file, in pieces of bounded size, by the end of its name.

    Raises: one of DAMAGE if it is cut short or damaged, after what could be read.
    """
    end = name.lower()
    if end.endswith((".gz", ".zst")):
        members = Members(file, GZIP if end.endswith(".gz") else ZSTD)
        while (piece := members.piece()) is not None:
            yield piece
    else:
        while piece := file.read(_CHUNK):
            yield piece
