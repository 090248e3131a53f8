"""From any format to any other, tensor by tensor: all are read and found finite before the first is written.

What is written lies in a directory of its own until it is whole. A journal in it says which tensors are on the disk, so that a
conversion which was killed goes on behind the last of them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llama3_jax.checkpoint.formats.stored import finite
from llama3_jax.checkpoint.formats.table import Tensor, tensors
from llama3_jax.checkpoint.formats.weights import Weights

JOURNAL = "conversion.jsonl"


class Files(Protocol):
    """Of one format, being written."""

    disk_bytes: int

    def begin(self) -> None: ...

    def begun(self) -> bool:
        """Whether `begin` was called in an earlier life, and its files are there."""
        ...

    def write(self, tensor: Tensor, array: np.ndarray) -> Any:
        """On the disk when this returns. Args: array: [outputs, inputs]. Returns: JSON that `finish` wants back."""
        ...

    def finish(self, notes: list[Any]) -> None:
        """Args: notes: what every `write` returned."""
        ...


Report = Callable[[str, int, int], None]
"""What is done (checking, writing), bytes of it that are behind, bytes altogether."""


def check(weights: Weights, report: Report) -> None:
    """Reads every tensor. Raises: OSError if one cannot be read; ValueError naming one with NaN or infinity in it, or
    whatever else its format finds."""
    total = num_bytes(weights)
    for behind, tensor in _with_bytes(weights):
        report("checking", behind, total)
        require_finite(weights.read(tensor), tensor, weights)
    report("checking", total, total)


def require_finite(array: np.ndarray, tensor: Tensor, weights: Weights) -> None:
    """Raises: ValueError if there is NaN or infinity in it."""
    if not finite(array):
        raise ValueError(
            f"{weights.name}: {tensor.hugging_face} ({tensor.meta}) has numbers that are NaN or infinite in {array.dtype}; the "
            "weights are of no use as they are: fetch them again, or take a checkpoint from before they diverged"
        )


def write(weights: Weights, files: Files, directory: Path, identity: dict[str, Any], report: Report) -> int:
    """Writes all tensors, but for those that an earlier, killed conversion of the same identity wrote.

    Args:
        directory: of this conversion alone, and of `files`: what another one left there is removed.
        identity: JSON that is equal only for a conversion of the same weights into the same files.
    Returns: how many tensors were there already.
    """
    journal = directory / JOURNAL
    done = _done(journal, identity)
    if done is None or not files.begun():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        files.begin()
        _append(journal, identity)
        done = {}
    total = num_bytes(weights)
    notes: list[Any] = []
    for behind, tensor in _with_bytes(weights):
        report("writing", behind, total)
        if tensor.meta in done:
            notes.append(done[tensor.meta])
        else:
            notes.append(files.write(tensor, weights.read(tensor)))
            _append(journal, {"tensor": tensor.meta, "note": notes[-1]})
    files.finish(notes)
    journal.unlink()
    report("writing", total, total)
    return len(done)


def num_bytes(weights: Weights) -> int:
    """Of all its tensors."""
    return sum(_bytes(weights, tensor) for tensor in tensors(weights.config))


def _with_bytes(weights: Weights) -> Iterator[tuple[int, Tensor]]:
    """Tensors, and the bytes of those before."""
    behind = 0
    for tensor in tensors(weights.config):
        yield behind, tensor
        behind += _bytes(weights, tensor)


def _bytes(weights: Weights, tensor: Tensor) -> int:
    return math.prod(tensor.shape(weights.config)) * weights.dtype(tensor).itemsize


def _done(journal: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Notes of the tensors that are written; None if nothing is, or not by the same conversion."""
    if not journal.is_file():
        return None
    *lines, torn = journal.read_bytes().split(b"\n")
    os.truncate(journal, journal.stat().st_size - len(torn))
    records = [json.loads(line) for line in lines]
    if not records or records[0] != identity:
        return None
    return {record["tensor"]: record["note"] for record in records[1:]}


def _append(journal: Path, record: dict[str, Any]) -> None:
    with journal.open("ab") as file:
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
