"""PyTorch's `.pth` archives: a zip file of a pickle that describes tensors, and a file of bytes for each.

Read without running anything (see `pickled`) and written byte by byte, so that a file of any size takes no memory.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from llama3_jax.checkpoint.formats.pickled import View, read_tensors
from llama3_jax.checkpoint.formats.stored import DTYPES, Stored

PICKLE_LIMIT = 2**24
"""Bytes of the pickle and of the archive's list of files; those of a shard of 405B take a few hundred thousand."""


def read_archive(path: Path) -> dict[str, Stored]:
    """Tensors of a file by name.

    Raises: FileNotFoundError; ValueError saying what is wrong with the file: cut off, no archive of PyTorch's, more in it
        than tensors, or tensors that it does not hold.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch it again")
    with path.open("rb") as file:
        entries = _entries(path, file)
        pickles = [name for name in entries if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{path} is no archive of PyTorch's: it has {len(pickles)} files data.pkl; fetch it again")
        root = pickles[0].removesuffix("data.pkl")
        places = {name.removeprefix(root): entry for name, entry in entries.items()}
        views = read_tensors(_content(path, file, places["data.pkl"]), f"{path}/{pickles[0]}"[-400:])
        if "byteorder" in places and _content(path, file, places["byteorder"]) != b"little":
            raise ValueError(f"{path} was written on a machine of another byte order; write it again on one of little-endian")
        return {name: _stored(path, file, name, view, places) for name, view in views.items()}


def _entries(path: Path, file: IO[bytes]) -> dict[str, zipfile.ZipInfo]:
    """The archive's files by name."""
    try:
        listed = zipfile.ZipFile(_Bounded(file)).infolist()
    except (zipfile.BadZipFile, ValueError, RuntimeError, struct.error, OverflowError, OSError, EOFError) as error:
        raise ValueError(
            f"{path} is cut off, or no archive of PyTorch's ({str(error)[:200]}); fetch it again (a file that torch.save wrote "
            "before 2020 must be saved again by a newer PyTorch)"
        ) from None
    entries = {entry.filename: entry for entry in listed}
    if len(entries) < len(listed):
        raise ValueError(f"{path} has files of the same name in it; fetch it again")
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise ValueError(f"{path}: {name[:200]} is compressed or encrypted, which PyTorch does not do; fetch it again")
    return entries


class _Bounded:
    """A file that gives no more at a time than a sound archive's list of files takes."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= PICKLE_LIMIT:
            here = self._file.tell()
            left = self._file.seek(0, 2) - here
            self._file.seek(here)
            if left > PICKLE_LIMIT:
                raise ValueError(f"its list of files would take {left if size < 0 else size:,} bytes")
        return self._file.read(size)


def _begin(path: Path, file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where the bytes of an entry begin. Raises: ValueError if they are not inside the file."""
    size = file.seek(0, 2)
    file.seek(entry.header_offset if 0 <= entry.header_offset < size else size)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise ValueError(f"{path}: {entry.filename[:200]} is not where the archive says; fetch it again")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:])
    begin = entry.header_offset + 30 + name_bytes + extra_bytes
    if begin + entry.file_size > size:
        raise ValueError(f"{path} is cut off inside {entry.filename[:200]}; fetch it again")
    return begin


def _content(path: Path, file: IO[bytes], entry: zipfile.ZipInfo) -> bytes:
    """A small file of the archive, whole."""
    begin = _begin(path, file, entry)
    if entry.file_size > PICKLE_LIMIT:
        raise ValueError(f"{path}: {entry.filename[:200]} has {entry.file_size:,} bytes, too many to be of a model")
    file.seek(begin)
    content = file.read(entry.file_size)
    if zlib.crc32(content) != entry.CRC:
        raise ValueError(f"{path}: {entry.filename[:200]} was changed after it was written (checksum differs); fetch it again")
    return content


def _stored(path: Path, file: IO[bytes], name: str, view: View, places: Mapping[str, zipfile.ZipInfo]) -> Stored:
    place, dtype = places.get(f"data/{view.storage.key}"), DTYPES[view.storage.dtype]
    if place is None:
        raise ValueError(f"{path}: the bytes of {name[:200]} are missing; fetch it again")
    strides = tuple(math.prod(view.shape[dim + 1 :]) for dim in range(len(view.shape)))
    if any(size > 1 and stride != whole for size, stride, whole in zip(view.shape, view.strides, strides, strict=True)):
        raise ValueError(f"{path}: {name[:200]} is a view with strides {view.strides}; save it after .contiguous()")
    last = view.offset + math.prod(view.shape)
    if last > view.storage.numel or view.storage.numel * dtype.itemsize != place.file_size:
        raise ValueError(f"{path}: {name[:200]} of shape {view.shape} is not held by {place.file_size:,} bytes; fetch it again")
    return Stored(path, _begin(path, file, place) + view.offset * dtype.itemsize, dtype, view.shape)


ALIGNMENT = 64
"""Bytes, of where tensors begin: as PyTorch does, so that they can be mapped into memory."""
_STORAGE = {"bfloat16": "BFloat16Storage", "float16": "HalfStorage", "float32": "FloatStorage"}
_WHOLE = 0xFFFFFFFF
"""In a field of 32 bits: the value is in the extra field, of 64."""


@dataclass(frozen=True)
class Entry:
    """A file of an archive that is to be written."""

    name: str
    header_offset: int
    offset: int
    """Of its bytes."""
    size: int


class Archive:
    """Where everything lies in the archive of these tensors, in this order; nothing is written yet."""

    def __init__(self, shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]):
        self._pickle = _pickled(shapes)
        entries, position = [], 0
        big = {f"data/{key}": math.prod(shape) * dtype.itemsize for key, (dtype, shape) in enumerate(shapes.values())}
        for name, size in [("data.pkl", len(self._pickle)), ("byteorder", 6), *big.items(), ("version", 2)]:
            name = f"consolidated/{name}"
            least = position + 30 + len(name) + 20 + 4
            begin = -(-least // ALIGNMENT) * ALIGNMENT
            entries.append(Entry(name, position, begin, size))
            position = begin + size
        self._small = [entries[0], entries[1], entries[-1]]
        self._big = dict(zip(shapes, entries[2:-1], strict=True))
        self._end = position
        self.size = position + sum(46 + len(entry.name) + 28 for entry in entries) + 56 + 20 + 22

    def offset(self, name: str) -> int:
        """Where the bytes of a tensor begin."""
        return self._big[name].offset

    def around(self, checksums: Mapping[str, int]) -> Iterator[tuple[int, bytes]]:
        """All but the tensors: offset, bytes. Args: checksums: CRC-32 of the bytes of each tensor."""
        directory = []
        contents = dict(zip(self._small, (self._pickle, b"little", b"3\n"), strict=True))
        sums = {entry: zlib.crc32(content) for entry, content in contents.items()}
        sums |= {entry: checksums[name] for name, entry in self._big.items()}
        for entry in sorted(sums, key=lambda entry: entry.header_offset):
            yield entry.header_offset, _local(entry, sums[entry])
            directory.append(_central(entry, sums[entry]))
        for entry, content in contents.items():
            yield entry.offset, content
        yield self._end, b"".join(directory) + _ending(len(directory), self._end, sum(map(len, directory)))


def _local(entry: Entry, checksum: int) -> bytes:
    sizes = struct.pack("<HHQQ", 1, 16, entry.size, entry.size)
    padding = entry.offset - entry.header_offset - 30 - len(entry.name) - len(sizes) - 4
    extra = sizes + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    fields = (45, 0, 0, 0, 0x21, checksum, _WHOLE, _WHOLE, len(entry.name), len(extra))
    return struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", *fields) + entry.name.encode() + extra


def _central(entry: Entry, checksum: int) -> bytes:
    extra = struct.pack("<HHQQQ", 1, 24, entry.size, entry.size, entry.header_offset)
    fields = (45, 45, 0, 0, 0, 0x21, checksum, _WHOLE, _WHOLE, len(entry.name), len(extra), 0, 0, 0, 0, _WHOLE)
    return struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", *fields) + entry.name.encode() + extra


def _ending(number: int, begin: int, size: int) -> bytes:
    there = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, number, number, size, begin)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, begin + size, 1)
    few = min(number, 0xFFFF)
    return there + locator + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, few, few, min(size, _WHOLE), _WHOLE, 0)


def _pickled(shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> bytes:
    """A dict of contiguous tensors, each with a storage of its own, in pickle protocol 2."""
    parts = [b"\x80\x02}("]
    for key, (name, (dtype, shape)) in enumerate(shapes.items()):
        strides = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
        storage = (
            b"(" + _text("storage") + f"ctorch\n{_STORAGE[dtype.name]}\n".encode() + _text(str(key)) + _text("cpu")
            + _number(math.prod(shape)) + b"tQ"
        )  # fmt: skip
        parts += [
            _text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", storage, _number(0), _tuple(shape), _tuple(strides),
            b"\x89ccollections\nOrderedDict\n)RtR",
        ]  # fmt: skip
    return b"".join([*parts, b"u."])


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
