"""Hugging Face's safetensors files: a JSON header that says where each tensor lies, then their bytes.

Read here because their library gives no bfloat16 to NumPy and no part of a tensor without all of its file, and written here
because it wants a whole file in memory.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llama3_jax.checkpoint.formats.stored import DTYPES, Stored
from llama3_jax.tokenizer.json_file import parse_object

HEADER_LIMIT = 2**24
"""Bytes; that of a 405B takes 150 thousand."""
NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_CODES = {name: code for code, name in NAMES.items()}


def read_header(path: Path) -> dict[str, Stored]:
    """Tensors of a file by name.

    Raises: FileNotFoundError; ValueError saying what is wrong with the file: cut off, no safetensors, parts that overlap,
        are missing or left over, a dtype that weights do not have.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch it again")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= HEADER_LIMIT:
            raise ValueError(f"{path} is no safetensors file: its header would have {length:,} bytes; fetch it again")
        text = file.read(length)
    if len(text) < length:
        raise ValueError(f"{path} is cut off inside its header, after {size:,} bytes; fetch it again")
    header = parse_object(text, str(path))
    header.pop("__metadata__", None)
    begin, found = 8 + length, {}
    for name, described in header.items():
        found[name] = _stored(path, name, described, begin)
    _require_gapless(path, found, begin, size)
    return found


def header_of(shapes: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> tuple[bytes, dict[str, int], int]:
    """The header of a file with these tensors, in this order; the offset of each in the file, and the file's size."""
    fields, offsets, position = {"__metadata__": {"format": "pt"}}, {}, 0
    for name, (dtype, shape) in shapes.items():
        end = position + math.prod(shape) * dtype.itemsize
        fields[name] = {"dtype": _CODES[dtype.name], "shape": list(shape), "data_offsets": [position, end]}
        offsets[name], position = position, end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}, len(header) + position


def _stored(path: Path, name: str, described: Any, begin: int) -> Stored:
    fields = described if isinstance(described, dict) else {}
    dtype, shape, offsets = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise ValueError(f"{path}: the header does not say dtype, shape and data_offsets of {name[:200]!r}; fetch it again")
    if dtype not in NAMES:
        raise ValueError(
            f"{path}: {name[:200]} is of dtype {dtype[:20]}; weights are read in {', '.join(NAMES)}: take the release that "
            "is not quantized"
        )
    stored = Stored(path, begin + offsets[0], DTYPES[NAMES[dtype]], tuple(shape))
    if stored.num_bytes != offsets[1] - offsets[0]:
        raise ValueError(f"{path}: {name[:200]} of shape {shape} does not fill its bytes {offsets}; fetch the file again")
    return stored


def _require_gapless(path: Path, found: Mapping[str, Stored], begin: int, size: int) -> None:
    """The tensors, one after the other, are the whole rest of the file."""
    position = begin
    for name, stored in sorted(found.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if stored.offset != position:
            raise ValueError(f"{path}: {name[:200]} begins at byte {stored.offset:,}, not at {position:,}; fetch the file again")
        position += stored.num_bytes
    if position != size:
        how = "cut off: it has" if position > size else "too long: it has"
        raise ValueError(f"{path} is {how} {size:,} bytes of {position:,}; fetch it again")


def _counts(value: Any) -> bool:
    """A list of sizes."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**62 for item in value)
