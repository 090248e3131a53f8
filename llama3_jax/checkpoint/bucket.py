"""Checkpoints on an object store, where nothing is renamed: a mark inside tells of one that is not whole.

    00000120/                whole: arrays (Orbax), manifest.json
    00000160/ with .partial  being written, or left by a killed process: never loaded, cleared at the next start
    00000080/ with .deleting being removed, likewise

A mark is one object: it is there before the first byte is written or removed, and goes after the last.
"""

from __future__ import annotations

from collections import defaultdict

from etils import epath

from llama3_jax.checkpoint.folder import DELETING, PARTIAL
from llama3_jax.tokenizer.object_store import put, remove, sizes_below

SCHEME = "gs://"


class Bucket:
    """Args: url: gs://BUCKET/PATH. Raises: ValueError for another store."""

    def __init__(self, url: str):
        if not url.startswith(SCHEME):
            raise ValueError(
                f"checkpoints cannot lie at {url}: Orbax writes to {SCHEME} and to file systems; use one of them, or mount that "
                "store as a file system"
            )
        self.directory = epath.Path(url)

    def steps(self) -> list[int]:
        """Steps of the whole checkpoints, ascending."""
        return sorted(int(name) for name, inside in self._found().items() if not inside & {PARTIAL, DELETING})

    def path(self, step: int) -> epath.Path:
        """Where the checkpoint of `step` lies, or would."""
        return self.directory / f"{step:08d}"

    writing = path

    def begin(self, step: int) -> None:
        """Removes what is at `path(step)` and marks it as being written. A run saves again only what it could not use."""
        if self.path(step).name in self._found():
            self.remove(step)
        put(self.path(step) / PARTIAL)

    def commit(self, step: int) -> None:
        """Makes what was written the checkpoint of `step`."""
        remove(self.path(step), [PARTIAL])

    def remove(self, step: int) -> None:
        put(self.path(step) / DELETING)
        remove(self.path(step), sizes_below(self.path(step)).keys() - {DELETING})
        remove(self.path(step), [DELETING])

    def leftovers(self) -> list[str]:
        """Names of what is half written or half deleted, each with its mark."""
        return sorted(name + mark for name, inside in self._found().items() for mark in inside & {PARTIAL, DELETING})

    def clear_leftovers(self) -> None:
        """Removes what a killed process left half written or half deleted."""
        for name, inside in self._found().items():
            if inside & {PARTIAL, DELETING}:
                self.remove(int(name))

    def require_room(self, num_bytes: int) -> None:
        """A store has room."""

    def room(self) -> str:
        return ""

    def _found(self) -> dict[str, set[str]]:
        """First names of what lies in each directory of a checkpoint."""
        found = defaultdict(set)
        for name in sizes_below(self.directory):
            step, _, inside = name.partition("/")
            if step.isdigit() and inside:
                found[step].add(inside.partition("/")[0])
        return found
