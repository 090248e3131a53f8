"""Checkpoints in a directory: one has its name only while it is whole, because renaming happens at once or not at all.

    00000120/            whole: arrays (Orbax), manifest.json
    00000160.partial/    being written, or left by a killed process: never loaded, cleared at the next start
    00000080.deleting/   being removed, likewise
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

PARTIAL, DELETING = ".partial", ".deleting"


class Folder:
    def __init__(self, directory: Path):
        self.directory = directory.absolute()

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        return sorted(int(path.name) for path in self._inside() if path.name.isdigit())

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` lies, or would."""
        return self.directory / f"{step:08d}"

    def writing(self, step: int) -> Path:
        """Where the checkpoint of `step` is written."""
        return self.path(step).with_name(self.path(step).name + PARTIAL)

    def begin(self, step: int) -> None:
        """Makes `writing(step)`, empty."""
        shutil.rmtree(self.writing(step), ignore_errors=True)
        self.writing(step).mkdir(parents=True)

    def commit(self, step: int) -> None:
        """Makes what was written the checkpoint of `step`, in the place of one that is there."""
        _remove_empty_directories(self.writing(step))
        before = self._condemn(step) if self.path(step).exists() else None
        os.replace(self.writing(step), self.path(step))
        if before:
            shutil.rmtree(before)

    def remove(self, step: int) -> None:
        shutil.rmtree(self._condemn(step))

    def leftovers(self) -> list[str]:
        """Names of what is half written or half deleted: by a process at work, or by one that was killed."""
        return sorted(path.name for path in self._inside() if path.suffix in (PARTIAL, DELETING))

    def clear_leftovers(self) -> None:
        """Removes what a killed process left half written or half deleted."""
        for name in self.leftovers():
            shutil.rmtree(self.directory / name, ignore_errors=True)

    def require_room(self, num_bytes: int) -> None:
        """Raises: OSError if there is less."""
        self.directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.directory).free
        if free < num_bytes:
            raise OSError(
                f"a checkpoint needs {num_bytes:,} bytes but {self.directory} has {free:,} free; make room and run the "
                "same command again, nothing saved so far is lost"
            )

    def room(self) -> str:
        """For who reads why something could not be written."""
        return f" ({shutil.disk_usage(self.directory).free:,} bytes free there)"

    def _inside(self) -> list[Path]:
        return list(self.directory.iterdir()) if self.directory.is_dir() else []

    def _condemn(self, step: int) -> Path:
        """Takes its name away before it is deleted: what is half deleted is no checkpoint. Returns where it is now."""
        doomed = self.path(step).with_name(self.path(step).name + DELETING)
        if doomed.exists():
            shutil.rmtree(doomed)
        os.replace(self.path(step), doomed)
        return doomed


def _remove_empty_directories(directory: Path) -> None:
    """Of those that a writer left, so that one which is there later is known as a stranger."""
    for path in sorted(directory.rglob("*"), reverse=True):  # what is inside comes first
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
