"""JSON that others wrote: an object, of bounded size and depth, no key twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LIMIT = 2**26
"""Bytes; the largest that comes with a Llama 3 is its tokenizer.json, with 17 million."""


def read_object(path: Path, *, limit: int = LIMIT) -> dict[str, Any]:
    """Raises: FileNotFoundError; ValueError naming the file and what is wrong with it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; fetch it again")
    if (size := path.stat().st_size) > limit:
        raise ValueError(f"{path} has {size:,} bytes, more than {limit:,}: it is not the JSON file of a model; fetch it again")
    return parse_object(path.read_bytes(), str(path))


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """Raises: ValueError naming `where` and what is wrong there."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply to be of a model; fetch it again") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON ({str(error)[:200]}); fetch it again") from None
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds no JSON object but {type(value).__name__}; fetch it again")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(key[:40] for key in list(value)[:5])}")
    return value
