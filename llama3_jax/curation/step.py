"""A step of curation: numbered pieces of work, each leaving one directory that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama3_jax.curation.code_version import code_version
from llama3_jax.curation.engine import Scheduler

_MARKER = "done.json"
_PARTIAL = ".partial-"

Facts = dict[str, Any]
"""What a piece tells about itself, as JSON: counts, histograms, samples."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A finished piece of a step."""

    directory: Path
    outputs: Mapping[str, str]
    """File name -> sha256."""
    facts: Facts

    @property
    def digest(self) -> str:
        """Of every output."""
        return digest(self.outputs)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One piece of work: `work(inputs, directory)` writes its files into the directory and returns its facts."""

    inputs: Any
    """Picklable; how the input is found, which does not count for what comes out."""
    digest: str
    """Of everything the outcome depends on, but for the code and the settings of the step."""
    size: int
    """Bytes or anything that grows with the work: larger ones are begun first."""


def run_step(
    directory: Path,
    tasks: Sequence[Task],
    work: Callable[[Any, Path], Facts],
    *,
    settings: Any,
    scheduler: Scheduler,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Piece]:
    """Runs `work` on every task that is not done, task i into `directory`/i; what was done before with the same settings,
    code and input is taken as it is.

    Args:
        work: a function of a module or a partial of one; its module and what that imports count as its code, and those of
            functions that the partial is given.
        settings: everything else that it depends on, with a `repr` that says it all.
        report: is told how many pieces are done, of how many.
    Raises: as `Scheduler.run`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    name = (work.func if isinstance(work, partial) else work).__qualname__
    keys = [digest([code_version(work), name, repr(settings), task.digest]) for task in tasks]
    _clean(directory, len(tasks))
    done = {number for number in range(len(tasks)) if _found(directory, number, keys[number])}
    report(len(done), len(tasks))
    order = sorted((n for n in range(len(tasks)) if n not in done), key=lambda n: (-tasks[n].size, n))
    jobs = {number: _Job(directory, work, number, tasks[number].inputs, keys[number]) for number in order}
    for number in scheduler.run(jobs, lambda n: _found(directory, n, keys[n]) is not None):
        done.add(number)
        report(len(done), len(tasks))
    pieces = [_found(directory, number, keys[number]) for number in range(len(tasks))]
    if missing := [number for number, piece in enumerate(pieces) if piece is None]:
        raise FileNotFoundError(f"pieces {missing[:5]} of {directory} are gone since they were written; run again")
    return pieces


def digest(value: Any) -> str:
    """A hash of what JSON can say; dicts in any order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class _Job:
    """The work on a piece, as a process of the engine gets it."""

    directory: Path
    work: Callable[[Any, Path], Facts]
    number: int
    inputs: Any
    key: str

    def __call__(self) -> None:
        final = _place(self.directory, self.number)
        partial_ = final.with_name(f"{final.name}{_PARTIAL}{os.getpid()}-{uuid.uuid4().hex[:8]}")
        partial_.mkdir(parents=True)
        try:
            facts = self.work(self.inputs, partial_)
            outputs = {p.name: {"sha256": file_digest(p), "bytes": p.stat().st_size} for p in sorted(partial_.iterdir())}
            (partial_ / _MARKER).write_text(json.dumps({"key": self.key, "outputs": outputs, "facts": facts}))
            _publish(self.directory, self.number, partial_, self.key)
        finally:
            shutil.rmtree(partial_, ignore_errors=True)


def _place(directory: Path, number: int) -> Path:
    return directory / f"{number:05d}"


def _publish(directory: Path, number: int, partial_: Path, key: str) -> None:
    """Puts a finished directory in its place; where another process was faster with the same, that one stays."""
    final = _place(directory, number)
    for _ in range(3):
        try:
            os.rename(partial_, final)
            return
        except OSError:
            if _found(directory, number, key):
                return
            stale = final.with_name(f"{final.name}{_PARTIAL}{os.getpid()}-{uuid.uuid4().hex[:8]}")
            os.rename(final, stale)
            shutil.rmtree(stale, ignore_errors=True)
    raise OSError(f"{final} cannot be replaced: something else writes there; is the same run going on twice?")


def _found(directory: Path, number: int, key: str) -> Piece | None:
    """The piece if it is there, of this key, and its files have the sizes they were written with."""
    place = _place(directory, number)
    try:
        marker = json.loads((place / _MARKER).read_text())
        if marker["key"] != key:
            return None
        if any((place / name).stat().st_size != output["bytes"] for name, output in marker["outputs"].items()):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    outputs = {name: output["sha256"] for name, output in marker["outputs"].items()}
    return Piece(directory=place, outputs=outputs, facts=marker["facts"])


def _clean(directory: Path, num_pieces: int) -> None:
    """Takes away what killed processes left, and pieces beyond those of now."""
    for path in directory.iterdir():
        number = path.name.split(".")[0]
        if _PARTIAL in path.name or (number.isdigit() and int(number) >= num_pieces):
            shutil.rmtree(path, ignore_errors=True)
