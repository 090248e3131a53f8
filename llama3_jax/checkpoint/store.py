"""Checkpoints of a run: asynchronous, atomic, verified before they are loaded (section 3.3.1).

A save copies the arrays to the host and returns; a thread then writes them, hashes the files, writes the manifest and has
the place call it whole (`folder`, `bucket`). Nothing is compressed: floats that are trained would shrink by 7%, and take
nearly twice as long to write, on cores that a training step may want. In a job of several processes each writes the shards
that its devices hold; the first one does the rest when all have written.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from llama3_jax.checkpoint.manifest import (
    ARRAYS,
    FORMAT_VERSION,
    DamagedCheckpoint,
    Directory,
    Manifest,
    hash_files,
    inspect,
    verify,
)
from llama3_jax.checkpoint.place import place_at
from llama3_jax.checkpoint.tree import flatten
from llama3_jax.sharding import processes

SPACE_MARGIN = 1.1
"""Free bytes wanted before a save, relative to the bytes of the arrays."""


PIECE_BYTES = 2**26
"""What is stored in one piece is read in one: a layer must not take the memory of all (see `formats.native`)."""
LAYER_BYTES = 2**20
"""Of a layer on one device: from here on each is a piece of its own."""


class CheckpointStore:
    """Saves and finds the checkpoints below one directory, which may be a URL (gs://)."""

    def __init__(self, directory: str | os.PathLike, *, keep_last: int = 2, keep_every: int | None = None):
        self._place = place_at(directory)
        self.keep_last = keep_last
        self.keep_every = keep_every
        self._writer: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, tree: Any, meta: Mapping[str, Any]) -> None:
        """Begins to save `tree`; returns as soon as it may change. Waits for a save that is still under way.

        Args: meta: JSON values, in the manifest that `latest` gives back.
        Raises: OSError if the disk has no room for it, or if the save before failed.
        """
        self.wait()
        arrays = flatten(tree)
        self.require_space(arrays)
        if processes.is_first():
            self._place.begin(step)
        self._writer = self._writer or ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=False))
        try:
            in_pieces = {name: _in_pieces(leaf) for name, leaf in arrays.items()}
            self._writer.save(self._place.writing(step) / ARRAYS, args=ocp.args.PyTreeSave(arrays, save_args=in_pieces))
        except Exception as failure:  # whatever class the writer has for a disk that fails
            raise self._not_written(failure) from failure
        described = {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in arrays.items()}
        self._thread = threading.Thread(target=self._finish, args=(step, described, dict(meta)))
        self._thread.start()

    def wait(self) -> None:
        """Returns when the last save is complete. Raises: OSError if it failed; older checkpoints are untouched."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise self._not_written(failure) from failure

    @property
    def saving(self) -> bool:
        """Whether a save is under way; may be asked on any thread."""
        thread = self._thread
        return thread is not None and thread.is_alive()

    def close(self) -> None:
        """Waits, then stops the writer's threads."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    @property
    def directory(self) -> Directory:
        return self._place.directory

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return self._place.steps()

    def path(self, step: int) -> Directory:
        """Where the checkpoint of `step` lies, or would."""
        return self._place.path(step)

    def clear_leftovers(self) -> None:
        """Removes what a killed process left half written or half deleted."""
        self._place.clear_leftovers()

    def latest(
        self, *, report: Callable[[str], None] = print, foreign: Callable[[Manifest], str] = lambda manifest: ""
    ) -> tuple[Directory, Manifest] | None:
        """The newest checkpoint that is its owner's and whose every file is as it was written; others are reported and
        passed over.

        Args: foreign: says why a checkpoint is another owner's, or an empty string.
        Raises: ValueError if there are checkpoints and none of them can be used.
        """
        passed_over = []
        for step in reversed(self.steps()):
            try:
                manifest = verify(self.path(step))
            except DamagedCheckpoint as damage:
                passed_over.append(f"checkpoint {step} is damaged, not used and replaced when its step is saved: {damage}")
            else:
                if not (why := foreign(manifest)):
                    return self.path(step), manifest
                passed_over.append(f"checkpoint {step} is of another run, not used and replaced when its step is saved: {why}")
            report(passed_over[-1])
        if passed_over:
            raise ValueError(
                f"no checkpoint below {self.directory} can be used; put them back from a copy, choose another place "
                "(name=... or checkpoint.directory=...), or delete that directory to start over\n  " + "\n  ".join(passed_over)
            )
        return None

    def require_space(self, tree: Any) -> None:
        """Raises: OSError if a checkpoint of `tree` does not fit on the disk."""
        self._place.require_room(int(sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) * SPACE_MARGIN))

    def _not_written(self, failure: BaseException) -> OSError:
        return OSError(
            f"a checkpoint could not be written below {self.directory}{self._place.room()}: {failure}; the checkpoints before "
            "it are untouched; mend the cause and run the same command again"
        )

    def _finish(self, step: int, described: dict, meta: dict) -> None:
        try:
            self._writer.wait_until_finished()
            processes.once("checkpoint", lambda: self._commit(step, described, meta))
        except BaseException as failure:  # noqa: BLE001 - handed to the thread that saves or waits next
            self._failure = failure

    def _commit(self, step: int, described: dict, meta: dict) -> None:
        written = self._place.writing(step)
        manifest = Manifest(format_version=FORMAT_VERSION, step=step, arrays=described, meta=meta, files=hash_files(written))
        manifest.write(written)
        self._place.commit(step)
        self._retire(step)

    def _retire(self, newest: int) -> None:
        """Deletes what is older than the last `keep_last` good ones.

        A later step than `newest` is one that could not be used, and is not counted; neither is one with a file missing
        or of another size. The new one's hashes have just been taken from the disk.
        """
        good = [step for step in self.steps() if step <= newest and self._seems_whole(step)][-self.keep_last :]
        for step in [step for step in self.steps() if good and step < good[0]]:
            if self.keep_every is None or step % self.keep_every:
                self._place.remove(step)

    def _seems_whole(self, step: int) -> bool:
        try:
            inspect(self.path(step))
        except ValueError:
            return False
        return True


def _in_pieces(leaf: jax.Array) -> ocp.SaveArgs:
    """How what a device holds of an array is divided: by its first dim, the layers of a stacked one, or as small as wanted."""
    shape = leaf.sharding.shard_shape(leaf.shape) if isinstance(leaf, jax.Array) else leaf.shape
    size = math.prod(shape) * leaf.dtype.itemsize
    if size <= PIECE_BYTES:
        return ocp.SaveArgs()
    return ocp.SaveArgs(chunk_byte_size=PIECE_BYTES, shard_axes=(0,) if size // shape[0] >= LAYER_BYTES else ())
