"""`llama3 checkpoint`: what the checkpoints of a run are, and whether each is as it was written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from llama3_jax.checkpoint.folder import PARTIAL
from llama3_jax.checkpoint.manifest import DamagedCheckpoint, Directory, Manifest, read_manifest, verify
from llama3_jax.checkpoint.place import place_at
from llama3_jax.commands.run_directory import checkpoints_of

MIB = 2**20


@dataclass(frozen=True)
class Entry:
    step: int
    path: Directory
    manifest: Manifest | None
    problem: str
    """Why it cannot be loaded; empty for a sound one."""


def entries(directory: str | os.PathLike, *, hashes: bool) -> list[Entry]:
    """The complete checkpoints of a run directory, or of the place where they lie, oldest first.

    Args: hashes: whether every file is read and compared, or the manifests alone.
    Raises: FileNotFoundError if there are none.
    """
    found = []
    place = place_at(checkpoints_of(directory))
    for step in place.steps():
        path = place.path(step)
        try:
            found.append(Entry(step, path, (verify if hashes else read_manifest)(path), ""))
        except (ValueError, FileNotFoundError) as problem:
            if path.exists():  # else the run has just deleted it
                kind = "DAMAGED" if isinstance(problem, DamagedCheckpoint) else "NOT READABLE"
                found.append(Entry(step, path, None, f"{kind}: {problem}"))
    if not found:
        raise FileNotFoundError(f"{directory} has no complete checkpoint; give the run directory that `llama3 train` printed")
    return found


def listing(directory: str | os.PathLike) -> Iterator[str]:
    """The lines of `llama3 checkpoint ls`: of each its step, place in the run, size and config; what is half written too."""
    found = entries(directory, hashes=False)
    yield f"{'step':>10}{'tokens':>18}{'size':>14}{'averaged':>10}  {'config':14}phase/stage"
    for each in found:
        if each.manifest is None:
            yield f"{each.step:>10,}  {each.problem}"
            continue
        meta, size = each.manifest.meta, sum(size for size, _ in each.manifest.files.values())
        if "run" in meta:
            cursor = meta["cursor"]
            tokens, stage = f"{cursor['tokens']:,}", f"{meta['run']['phases'][cursor['phase']]['name']}/{cursor['stage']}"
        else:
            tokens, stage = "-", f"converted from {meta['made_from']['weights']}"
        yield (
            f"{each.step:>10,}{tokens:>18}{size / MIB:>10,.1f} MiB{meta['averaged']:>10}  {config_hash(each.manifest):14}{stage}"
        )
    for name in place_at(checkpoints_of(directory)).leftovers():
        yield f"{name}: {'being written' if name.endswith(PARTIAL) else 'being deleted'}, or left by a killed process"


def verdicts(directory: str | os.PathLike) -> tuple[list[str], bool]:
    """The lines of `llama3 checkpoint verify`, and whether every file of every checkpoint is as it was written."""
    found = entries(directory, hashes=True)
    lines = [
        f"step {each.step:,}: {each.problem}"
        if each.manifest is None
        else f"step {each.step:,}: sound, {len(each.manifest.files)} files and {len(each.manifest.arrays)} arrays"
        for each in found
    ]
    return lines, not any(each.problem for each in found)


def config_hash(manifest: Manifest) -> str:
    """Twelve characters that are the same for checkpoints of the same run file; of converted weights, of the same model."""
    described = manifest.meta["run" if "run" in manifest.meta else "model"]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]

