"""Moments in the life of a run, known from outside by what lies in its directory: nothing is built into the program."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path


class Watch:
    """Sees what a process does in a run directory, from before it is started."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._log_begin = self._size("log.txt")
        self._checkpoints_before = set(self._names("checkpoints"))

    def until(self, moment: Callable[[Watch], bool], process: subprocess.Popen, *, timeout_s: float = 240) -> bool:
        """Whether the moment came before the process ended."""
        deadline = time.monotonic() + timeout_s
        while not moment(self):
            if process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"not in {timeout_s} s"
            time.sleep(0.0001)
        return True

    def said(self, text: str) -> int:
        """How often this process said it."""
        try:
            with (self.directory / "log.txt").open("rb") as log:
                log.seek(self._log_begin)
                return log.read().count(text.encode())
        except FileNotFoundError:
            return 0

    def last_record(self) -> dict:
        """The last whole line of the journal, once this process has opened it."""
        if self.said("training ") + self.said("continuing after") == 0:
            return {}
        try:
            with (self.directory / "metrics.jsonl").open("rb") as journal:
                journal.seek(max(0, self._size("metrics.jsonl") - 2000))
                return json.loads(journal.read().split(b"\n")[-2])
        except (FileNotFoundError, IndexError, ValueError):
            return {}

    def new_checkpoints(self) -> set[str]:
        """What was not among the checkpoints when the process was started, half written ones included."""
        return set(self._names("checkpoints")) - self._checkpoints_before

    def _names(self, directory: str) -> list[str]:
        try:
            return os.listdir(self.directory / directory)
        except FileNotFoundError:
            return []

    def _size(self, name: str) -> int:
        try:
            return (self.directory / name).stat().st_size
        except FileNotFoundError:
            return 0


def started(watch: Watch) -> bool:
    return True


def preparing_data(watch: Watch) -> bool:
    return (watch.directory / "data").is_dir() and not (watch.directory / "data/corpus.json").exists()


def starting_up(watch: Watch) -> bool:
    """The data is there; the machine is measured, the newest checkpoint verified."""
    return watch.said("corpus: already") + watch.said(" held_out: ") > 0


def opening_the_journal(watch: Watch) -> bool:
    return watch.said("continuing after") > 0


def compiling(watch: Watch) -> bool:
    """The first stage of this process."""
    return watch.said("training ") + watch.said("continuing after") > 0


def reading_ahead(watch: Watch) -> bool:
    """A stage is compiled, its first batches are assembled."""
    return watch.said(": compiled in") > 0


def stepping(watch: Watch) -> bool:
    return reading_ahead(watch) and "loss" in watch.last_record()


def saving(watch: Watch) -> bool:
    return any(name.endswith(".partial") for name in watch.new_checkpoints())


def committing(watch: Watch) -> bool:
    """All is written, the directory is about to get its name."""
    return any((watch.directory / "checkpoints" / name / "manifest.json").exists() for name in _partial(watch))


def committed(watch: Watch) -> bool:
    return any(name.isdigit() for name in watch.new_checkpoints())


def deleting(watch: Watch) -> bool:
    return any(name.endswith(".deleting") for name in watch.new_checkpoints())


def evaluating(watch: Watch) -> bool:
    """The step that ends a stage, or one before an evaluation, is recorded, and nothing after it."""
    return reading_ahead(watch) and "loss" in (record := watch.last_record()) and record["step"] in (8, 10, 16, 20, 28)


def sampling(watch: Watch) -> bool:
    return reading_ahead(watch) and "eval_loss" in (record := watch.last_record()) and record["step"] in (10, 20)


def plotting(watch: Watch) -> bool:
    return any((watch.directory / "plots").glob("*.partial"))


def between_stages(watch: Watch) -> bool:
    """The end of a stage is looked at; it is saved and the next one compiled."""
    return reading_ahead(watch) and "eval_loss" in (record := watch.last_record()) and record["step"] in (8, 16, 20)


def last_look(watch: Watch) -> bool:
    """Everything is trained and saved; the final scores and samples are made."""
    return (watch.directory / "checkpoints/00000028").exists()


def _partial(watch: Watch) -> list[str]:
    return [name for name in watch.new_checkpoints() if name.endswith(".partial")]
