"""From any format to any other, tensor by tensor: all are read and found finite before the first is written.

What is written lies in a directory of its own until it is whole. A journal in it says which tensors are on the disk, so that a
conversion which was killed goes on behind the last of them.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
    Returns: how many tensors were there already. Raises: ValueError if another process is writing there.
    """
    with ExitStack() as held:
        done = _taken_up(directory / JOURNAL, identity, held)
        if done is None or not files.begun():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            files.begin()
            _append(directory / JOURNAL, identity)
            done = _taken_up(directory / JOURNAL, identity, held)
        notes = list(_written(weights, files, directory / JOURNAL, done, report))
        files.finish(notes)
    (directory / JOURNAL).unlink()
    return len(done)


def _written(weights: Weights, files: Files, journal: Path, done: dict[str, Any], report: Report) -> Iterator[Any]:
    """Writes the tensors that are not done; the notes of all."""
    total = num_bytes(weights)
    for behind, tensor in _with_bytes(weights):
        report("writing", behind, total)
        if tensor.meta in done:
            yield done[tensor.meta]
        else:
            note = files.write(tensor, weights.read(tensor))
            _append(journal, {"tensor": tensor.meta, "note": note})
            yield note
    report("writing", total, total)


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


def _taken_up(journal: Path, identity: dict[str, Any], held: ExitStack) -> dict[str, Any] | None:
    """Notes of the tensors that are written; None if nothing is, or not by the same conversion. The journal is locked from now
    on. Raises: ValueError if another process has it."""
    if not journal.is_file():
        return None
    file = held.enter_context(journal.open("r+b"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError(f"another process is writing into {journal.parent}; wait for it, or name another directory") from None
    *lines, torn = file.read().split(b"\n")
    file.truncate(file.tell() - len(torn))
    try:
        records = [json.loads(line) for line in lines]
    except ValueError:
        return None
    if not records or records[0] != identity:
        return None
    return {record["tensor"]: record["note"] for record in records[1:]}


def _append(journal: Path, record: dict[str, Any]) -> None:
    with journal.open("ab") as file:
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
